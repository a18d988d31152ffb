//! The clockwise walk: how far each member's nearest virtual node is from each partition's start.
//!
//! *Invariant I6 (liveness moves no data):* the walk depends on placement ids and token counts alone, not on names,
//! order or liveness.

use crate::{
    hash::{Token, vnode_hash},
    id::PlacementId,
};

/// The tokens of a member with `count` virtual nodes, ascending; `count` is 1 to 65,536.
///
/// The ring is cut into `count` equal arcs and each holds one token. How far into its arc token `i` lies is
/// `(rank + h) / count` of the arc, where `h` is `xxh3(placement_id, i)` as a fraction of 1, and `rank` its place
/// among the member's hashes. So both the arcs and the distances from their starts are taken evenly, each value once
/// (a Latin hypercube; McKay, Beckman and Conover 1979), and only which goes with which is left to the hash.
///
/// Tokens that were hashes themselves would give loads that differ by 1.6 times as much before any limit is applied.
/// Then more members reach their limits, and what spills over moves again with every change of members.
pub fn vnode_tokens(placement_id: PlacementId, count: u32) -> Vec<Token> {
    let mut by_hash: Vec<(u64, u32)> = (0..count)
        .map(|i| (vnode_hash(placement_id, i), i))
        .collect();
    by_hash.sort_unstable();
    let mut tokens = vec![Token(0); count as usize];
    for (rank, (hash, i)) in (0_u128..).zip(by_hash) {
        let into_arc = ((rank << 64) | u128::from(hash)) / u128::from(count);
        let token = ((u128::from(i) << 64) | into_arc) / u128::from(count);
        tokens[i as usize] =
            Token(u64::try_from(token).expect("i < count, so the quotient is below 2^64"));
    }
    tokens
}

/// The clockwise distance from `start` to the nearest of `tokens` (ascending, not empty); 0 if one lies on it.
pub(super) fn distance(tokens: &[Token], start: Token) -> u64 {
    let next = tokens.partition_point(|&token| token < start);
    between(start, tokens, next)
}

/// The distances from `starts` (ascending) to the nearest of `tokens`: one sweep over both.
pub(super) fn distances(
    tokens: &[Token],
    starts: impl Iterator<Item = Token>,
) -> impl Iterator<Item = u64> {
    let mut next = 0;
    starts.map(move |start| {
        while tokens.get(next).is_some_and(|&token| token < start) {
            next += 1;
        }
        between(start, tokens, next)
    })
}

/// How far it is to the token at `next`; past the last token the walk wraps to the first.
fn between(start: Token, tokens: &[Token], next: usize) -> u64 {
    tokens
        .get(next)
        .unwrap_or(&tokens[0])
        .0
        .wrapping_sub(start.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_golden() {
        let golden = [
            4_249_325_910_139_112_552,
            7_452_721_791_216_808_667,
            10_548_676_786_100_196_600,
            13_954_605_717_911_646_799,
        ];
        assert_eq!(vnode_tokens(PlacementId(1), 4), golden.map(Token));
    }

    #[test]
    fn each_arc_and_each_distance_into_an_arc_is_taken_once() {
        for count in [1, 2, 3, 256, 1000, 65_536] {
            let tokens = vnode_tokens(PlacementId(7), count);
            let count = u128::from(count);
            let mut depths: Vec<u128> = Vec::new();
            for (i, token) in (0..).zip(&tokens) {
                let scaled = u128::from(token.0) * count;
                // Division rounds down, by less than the 2^64 / count² that separates two depths.
                let arc = (scaled + count - 1) >> 64;
                assert_eq!(arc, i);
                depths.push(((scaled + count - 1 - (arc << 64)) * count) >> 64);
            }
            depths.sort_unstable();
            assert!(depths.windows(2).all(|pair| pair[0] <= pair[1]));
            if count <= 1000 {
                assert_eq!(depths, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_walk_wraps() {
        let tokens = [Token(10), Token(20)];
        assert_eq!(distance(&tokens, Token(10)), 0);
        assert_eq!(distance(&tokens, Token(11)), 9);
        assert_eq!(distance(&tokens, Token(21)), u64::MAX - 10);
        let starts = [0, 10, 11, 21].map(Token);
        let swept: Vec<u64> = distances(&tokens, starts.into_iter()).collect();
        assert_eq!(swept, starts.map(|start| distance(&tokens, start)));
    }
}
