//! What the stores of a run have durably said of layouts, looked at from outside while they run.
//!
//! Judges that an epoch has one decree, whoever keeps it, and that what a majority has voted for stays the only choice; and tells when
//! something is said: that is when a fault hurts most.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringfort::bootstrap::Decree as Founding;
use ringfort_ring::{
    Decree, Epoch, StoreId,
    consensus::{Ballot, Promises},
};
use ringfort_storage::identity::Identity;

use super::cluster::SimNode;

/// See the module.
#[derive(Default)]
pub struct Words {
    /// By node: what it keeps.
    last: Vec<Option<Arc<Identity>>>,
    /// By node: the last promises that it was seen to keep, with the store that made them. A node that is down has made them, too.
    kept: Vec<Option<(StoreId, Promises)>>,
    /// What was decided, and who said so first.
    decided: BTreeMap<Epoch, (Arc<Decree>, String)>,
    /// What was voted for under a ballot, and by which stores.
    votes: BTreeMap<(Epoch, Ballot), (Decree, BTreeSet<StoreId>)>,
    /// What a majority has voted for under some ballot.
    chosen: BTreeMap<Epoch, Decree>,
}

/// The promises that a store keeps: none before it has a layout, and those of a founder before the first change.
///
/// # Errors
/// They do not decode, in words.
pub fn promises(identity: &Identity) -> Result<Option<Promises>, String> {
    match (identity.votes.is_empty(), identity.layouts.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => {
            let founding = Founding::decode(&identity.layouts).map_err(|e| e.to_string())?;
            let founding = Arc::new(Decree::founding(founding.layout));
            Ok(Some(Promises::start(founding)))
        }
        (false, _) => {
            let promises = Promises::decode(&identity.votes).map_err(|e| e.to_string())?;
            Ok(Some(promises))
        }
    }
}

impl Words {
    /// Looks at all nodes; gives those that have said something new since the last look, and adds to `wrong` what must not be.
    pub fn look(&mut self, nodes: &[SimNode], wrong: &mut Vec<String>) -> Vec<usize> {
        self.last.resize(nodes.len(), None);
        self.kept.resize(nodes.len(), None);
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
            }
            match promises(&now) {
                Ok(Some(promises)) => {
                    let store = StoreId(now.store_id);
                    if is_news {
                        wrong.extend(self.judge(&node.name, store, &promises));
                    }
                    self.kept[i] = Some((store, promises));
                }
                Ok(None) => {}
                Err(error) => wrong.push(format!(
                    "{} keeps promises that do not decode: {error}",
                    node.name
                )),
            }
        }
        spoke
    }

    /// What each node has said last, if anything.
    pub fn kept(&self) -> impl Iterator<Item = Option<&Promises>> {
        let kept = self.kept.iter();
        kept.map(|kept| kept.as_ref().map(|(_, promises)| promises))
    }

    /// The newest decree that anybody keeps.
    pub fn newest(&self) -> Option<&Arc<Decree>> {
        self.decided.last_key_value().map(|(_, (decree, _))| decree)
    }

    /// What is wrong with what a node keeps.
    fn judge(&mut self, name: &str, store: StoreId, promises: &Promises) -> Vec<String> {
        let mut wrong = Vec::new();
        let (epoch, mine) = (
            promises.decree.epoch(),
            (promises.decree.clone(), name.to_owned()),
        );
        let (known, by) = self.decided.entry(epoch).or_insert(mine);
        if *known != promises.decree {
            wrong.push(format!(
                "two decrees for epoch {epoch}: {by} keeps one, {name} another"
            ));
        }
        wrong.extend(self.judge_vote(name, store, promises));
        wrong
    }

    /// The same of its vote: one ballot has one value, and once a majority has voted for one, nobody votes for another under a
    /// higher ballot, and no other is decided.
    fn judge_vote(&mut self, name: &str, store: StoreId, promises: &Promises) -> Option<String> {
        let instance = promises.votes.instance;
        let (ballot, value) = promises.votes.accepted.clone()?;
        let new = (value.clone(), BTreeSet::new());
        let (known, stores) = self.votes.entry((instance, ballot)).or_insert(new);
        if *known != value {
            return Some(format!(
                "two values under one ballot of epoch {instance}, {ballot:?}: {name} has voted for another"
            ));
        }
        stores.insert(store);
        let before = self.decided.range(..instance).next_back();
        let (_, (decree, _)) = before.filter(|(epoch, _)| epoch.next() == instance)?;
        let voters = decree.voters();
        let votes = stores.intersection(&voters).count();
        if votes <= voters.len() / 2 {
            return None;
        }
        let chosen = self.chosen.entry(instance).or_insert_with(|| value.clone());
        let decided = self.decided.get(&instance);
        let differs = *chosen != value || decided.is_some_and(|(decree, _)| **decree != value);
        differs.then(|| {
            format!("a majority has voted for two values of epoch {instance}, {name} the last")
        })
    }
}
