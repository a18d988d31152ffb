//! About how many keys a plan moves.
//!
//! Nodes tell how many keys they have, and how many bytes of them only once these move. So this is an estimate, in keys: each
//! partition counts as the mean of all copies of partitions. Tokens are hashes, so that partitions differ little where keys are many.

use ringfort_client::{ClusterStatus, PlannedMember};

/// What nodes have now.
pub struct Keys<'a> {
    status: &'a ClusterStatus,
    /// The mean of a copy of a partition.
    mean: f64,
}

/// What one member has, and is about to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moves {
    /// By its own word; `None` if it does not answer.
    pub before: Option<u64>,
    /// Estimated.
    pub after: u64,
    /// Estimated.
    pub acquired: u64,
}

/// Keys in the mean copy of a partition, by the keys and the partitions of each node; `None` if nobody owns anything.
fn mean(nodes: impl Iterator<Item = (u64, u64)>) -> Option<f64> {
    let add = |(all, copies), (keys, owned)| (all + keys, copies + owned);
    match nodes.fold((0_u64, 0_u64), add) {
        (_, 0) => None,
        (keys, copies) => Some(keys as f64 / copies as f64),
    }
}

impl<'a> Keys<'a> {
    /// By what those nodes say that are not down; `None` if that is nothing.
    pub fn of(status: &'a ClusterStatus) -> Option<Keys<'a>> {
        let nodes = status.nodes.iter().filter(|node| node.state != "down");
        let mean = mean(nodes.map(|node| (node.keys, node.owned)))?;
        Some(Keys { status, mean })
    }

    /// Of one member of a plan.
    pub fn moves(&self, member: &PlannedMember) -> Moves {
        let mut nodes = self.status.nodes.iter();
        let node = nodes.find(|node| node.name == member.name);
        let before = match node {
            None => Some(0),
            Some(node) => (node.state != "down").then_some(node.keys),
        };
        moves(
            self.mean,
            before,
            (member.before, member.acquired, member.released),
        )
    }
}

/// With so many keys in the mean partition: a member that owns, acquires and releases so many.
fn moves(mean: f64, before: Option<u64>, (owned, acquired, released): (u32, u32, u32)) -> Moves {
    let keys = |partitions: u32| (mean * f64::from(partitions)).round() as u64;
    // What it has is spread as evenly as all else.
    let has = before.unwrap_or_else(|| keys(owned));
    let stays = has as f64 * f64::from(owned.saturating_sub(released)) / f64::from(owned.max(1));
    Moves {
        before,
        after: stays.round() as u64 + keys(acquired),
        acquired: keys(acquired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_count_as_their_mean_and_what_a_node_has_as_it_says() {
        let each = mean([(300, 60), (340, 68), (360, 72)].into_iter()).expect("copies");
        assert_eq!(each, 5.0);
        assert_eq!(mean([(0, 0)].into_iter()), None);
        let new = moves(each, Some(0), (0, 50, 0));
        assert_eq!((new.after, new.acquired), (250, 250));
        let old = moves(each, Some(300), (60, 0, 15));
        assert_eq!((old.before, old.after, old.acquired), (Some(300), 225, 0));
        let silent = moves(each, None, (68, 2, 68));
        assert_eq!((silent.before, silent.after), (None, 10));
    }
}
