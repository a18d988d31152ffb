//! What the stores of a run have durably said of layouts, looked at from outside while they run.
//!
//! Judges that an epoch has one decree, whoever keeps it, and tells when something is said: that is when a fault hurts most.

use std::{collections::BTreeMap, sync::Arc};

use ringfort_ring::{Decree, Epoch, consensus::Promises};
use ringfort_storage::identity::Identity;

use super::cluster::SimNode;

/// See the module.
#[derive(Default)]
pub struct Words {
    /// By node: what it keeps.
    last: Vec<Option<Arc<Identity>>>,
    /// What was decided, and who said so first.
    decided: BTreeMap<Epoch, (Arc<Decree>, String)>,
}

impl Words {
    /// Looks at all nodes; gives those that have said something new since the last look, and adds to `wrong` what must not be.
    pub fn look(&mut self, nodes: &[SimNode], wrong: &mut Vec<String>) -> Vec<usize> {
        self.last.resize(nodes.len(), None);
        let mut spoke = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            let Some(store) = node.store() else { continue };
            let now = store.identity().current();
            let last = self.last[i].as_ref();
            if last.is_some_and(|last| Arc::ptr_eq(last, &now)) {
                continue;
            }
            let is_news = last.is_none_or(|last| last.votes != now.votes);
            self.last[i] = Some(now.clone());
            if is_news && !now.votes.is_empty() {
                spoke.push(i);
                wrong.extend(self.judge(&node.name, &now.votes));
            }
        }
        spoke
    }

    /// What is wrong with what a node keeps.
    fn judge(&mut self, name: &str, votes: &[u8]) -> Option<String> {
        let decree = match Promises::decode(votes) {
            Ok(promises) => promises.decree,
            Err(error) => {
                return Some(format!("{name} keeps promises that do not decode: {error}"));
            }
        };
        let (epoch, mine) = (decree.epoch(), (decree.clone(), name.to_owned()));
        let (known, by) = self.decided.entry(epoch).or_insert(mine);
        let differs = *known != decree;
        differs.then(|| format!("two decrees for epoch {epoch}: {by} keeps one, {name} another"))
    }
}
