//! The clockwise walk: how far each member's nearest virtual node is from each partition's start.
//!
//! *Invariant I6:* the walk depends on placement ids and token counts alone, not on names, order or liveness.

use crate::{hash::vnode_token, id::PlacementId};

/// The tokens of one member, ascending.
pub(super) fn sorted_tokens(placement_id: PlacementId, tokens: u32) -> Vec<u64> {
    let mut sorted: Vec<u64> = (0..tokens)
        .map(|i| vnode_token(placement_id, i).0)
        .collect();
    sorted.sort_unstable();
    sorted
}

/// The clockwise distance from `start` to the nearest of `tokens` (ascending, not empty); 0 if one lies on it.
pub(super) fn distance(tokens: &[u64], start: u64) -> u64 {
    let next = tokens.partition_point(|&token| token < start);
    // Past the last token the walk wraps to the first.
    let nearest = tokens.get(next).unwrap_or(&tokens[0]);
    nearest.wrapping_sub(start)
}

/// The distances from all partition starts, in the order of the ring: one sweep over the tokens.
pub(super) fn distances(
    tokens: &[u64],
    starts: impl Iterator<Item = u64>,
) -> impl Iterator<Item = u64> {
    let mut next = 0;
    starts.map(move |start| {
        while tokens.get(next).is_some_and(|&token| token < start) {
            next += 1;
        }
        tokens.get(next).unwrap_or(&tokens[0]).wrapping_sub(start)
    })
}
