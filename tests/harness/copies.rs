//! Judges that a copy that counts goes on counting while no disk loses anything: who is away, or loses its power, lacks nothing that it has
//! ever told to be there, and has missed no round of reaping. A copy given up without need is one copy less of what was acknowledged.

use std::{collections::BTreeSet, sync::Arc};

use ringfort_storage::identity::Identity;

/// See the module. For runs in which no disk is damaged or fails, and whose layout stays as it is.
#[derive(Default)]
pub struct Copies {
    /// By node: what it keeps.
    last: Vec<Option<Arc<Identity>>>,
    /// What was told, by node and partition.
    told: BTreeSet<(usize, u32)>,
}

impl Copies {
    /// Looks at what a node keeps; tells of each partition once that it does not count there.
    pub fn look(&mut self, node: usize, name: &str, now: Arc<Identity>) -> Vec<String> {
        if self.last.len() <= node {
            self.last.resize(node + 1, None);
        }
        let last = self.last[node].replace(Arc::clone(&now));
        if last.is_some_and(|last| Arc::ptr_eq(&last, &now)) {
            return Vec::new();
        }
        let given_up = (0..now.partitions).filter(|p| now.unsynced.contains(*p));
        let given_up = given_up.filter(|partition| self.told.insert((node, *partition)));
        let words = |partition| {
            format!(
                "{name} gives up its copy of partition {partition}, though no disk has lost anything"
            )
        };
        given_up.map(words).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_given_up_is_told_of_once() {
        let mut kept = Identity::new(1, 2, "n0");
        kept.partitions = 8;
        let mut copies = Copies::default();
        assert_eq!(copies.look(0, "n0", Arc::new(kept.clone())), [""; 0]);
        kept.unsynced.set(3, 8, true);
        let words = "n0 gives up its copy of partition 3, though no disk has lost anything";
        assert_eq!(copies.look(0, "n0", Arc::new(kept.clone())), [words]);
        assert_eq!(copies.look(0, "n0", Arc::new(kept.clone())), [""; 0]);
        assert_eq!(copies.look(1, "n1", Arc::new(kept)).len(), 1);
    }
}
