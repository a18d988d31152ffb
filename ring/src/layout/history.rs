//! What a node knows of layouts and of everyone's progress, and what its store may do next.
//!
//! *Invariant I3 (quorum intersection)* across a change from layout a to layout b rests on these rules, which
//! `tests/model` checks in every order:
//!
//! - whoever knows b writes to a and b, W in each, until it knows the decree that retires a;
//! - a store past `ack` b refuses writes of epochs before b. It takes writes to a partition that b gave it only past its
//!   own `ack`, which comes after the erasing of what it may have had: nothing that counted toward W is erased;
//! - `merged` b: each acquired partition was received from one old owner and compared with all others, each past its own
//!   `ack` b: what was acknowledged in a alone was stored before, so none of it is missed;
//! - `flipped` b: all members of b have `merged`. A coordinator counts R within the one layout that it has flipped to;
//! - a is retired, by decree, when all members of both have flipped: nobody reads from a any more.
//!
//! A tracker only ever permits, and only grows, so late gossip delays a step and makes none wrong.
//!
//! # How a node is to use it
//!
//! One `History` per node, replaced under one lock together with what is durable ([`crate::consensus::Promises`]).
//!
//! - **A decree comes** (decided here, told, or fetched from whoever gossips a higher epoch): make it durable, [`History::adopt`]
//!   it, then make the view of requests anew, then act by [`History::step`]. Fences carry [`History::epoch`].
//! - **Trackers come** by gossip: [`History::hear`], then `step` again. An own tracker is durable first, then heard by the
//!   own history, then gossiped.
//! - **A put** is counted W in each of [`History::written`], with the decree of its start; the coordinator's own copy obeys
//!   the next rule, too.
//! - **A replica's store** checks under the shard lock, where the object is applied: not [`History::refuses_write`] of the
//!   fence's epoch, and an owner by one of [`History::takes_writes_by`]. Else `STALE_EPOCH`, and nothing is stored. The node
//!   that is told a newer epoch fetches the decree; one definite refusal is answered by sending again, counted anew.
//! - **A strict read** is counted within [`History::read_layout`] of the coordinator, taken once at its start. A replica
//!   answers as countable if it is synced and an owner by one of [`History::answers_reads_by`]; else `NOT_SYNCED`.
//! - **[`Step::Acknowledge`]**: erase the acquired partitions through the log, mark them unsynced, let every write begun by
//!   the older view end or be checked again, and only then raise `ack`. **[`Step::Merge`]**: per acquired partition ask
//!   [`History::sources`]; stream from one, compare with all the others, mark it synced if enough of their copies counted; when
//!   all are, raise `merged`. What is missing of what a store owns already is asked of [`History::sources_of_repair`], whatever
//!   else goes on: others may wait for it.
//!   [`Sources::Lost`] is shown to the operator. **[`Step::Flip`]**: raise `flipped`. **[`Step::Retire`]**: propose the
//!   decree, after a jitter; losing to an equal one is success. A partition that no live layout gives the node is erased
//!   after the retirement, and its reads are refused from then on.
//! - **Clients** are told [`History::client_layout`] and the newest epoch. A message of a store that the newest decree
//!   does not list, or excuses, is refused, unless its epoch is higher: then the decree is fetched first.

use std::{collections::BTreeMap, sync::Arc};

use super::{Acquisition, Decree, Excuse, Kind, Layout, Trackers};
use crate::id::{Epoch, StoreId};

/// The newest decree that a node knows, and what it heard of each store's trackers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    decree: Arc<Decree>,
    /// Of listed stores only; who is missing is at the oldest live layout.
    trackers: BTreeMap<StoreId, Trackers>,
}

/// Two decrees for one epoch: consensus is broken (or a directory was copied). Nothing was changed; stop and say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two different decrees for epoch {0}: this must never happen; nothing was changed here")]
pub struct TwoDecrees(pub Epoch);

/// What a store does next in a change of layouts. Each tracker is raised durably before it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This store is excused or not listed: it takes part in nothing.
    Out,
    /// One layout is live and this store is through: nothing to do.
    Settled,
    /// Erase what the newest layout gives this store; write to all live layouts and refuse older writes; raise `ack`.
    Acknowledge(Epoch),
    /// Receive each acquired partition, see [`History::sources`]; then raise `merged`.
    Merge(Epoch),
    /// All members have merged: raise `flipped`, then read from the newest layout.
    Flip(Epoch),
    /// All have flipped: propose this decree, which retires the older layout. Any member may; one wins, all are content.
    Retire(Box<Decree>),
    /// These stores are not as far as they must be.
    Wait(Vec<StoreId>),
}

/// Whom an acquired partition is received from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// These old owners have not acknowledged: what they hold may still grow by writes that this store never sees.
    Wait(Vec<StoreId>),
    /// Stream from one, compare with all the others.
    From {
        /// Empty: no old owner is left, and the loss is accepted.
        stores: Vec<StoreId>,
        /// Of so many of them the copies must count, as they say when they are through: else a quorum of theirs may have been
        /// met that none of them knows of any more.
        counting: usize,
    },
    /// Too few old owners are left for any quorum of theirs to be met, and the loss of these is not accepted.
    Lost(Vec<StoreId>),
}

impl History {
    /// A node that knows this decree and has heard of nobody.
    pub fn new(decree: Arc<Decree>) -> History {
        History {
            decree,
            trackers: BTreeMap::new(),
        }
    }

    /// The newest decree known.
    pub fn decree(&self) -> &Arc<Decree> {
        &self.decree
    }

    /// The newest epoch known: what fences carry.
    pub fn epoch(&self) -> Epoch {
        self.decree.epoch()
    }

    /// The trackers known, of listed stores; to be gossiped.
    pub fn known(&self) -> &BTreeMap<StoreId, Trackers> {
        &self.trackers
    }

    /// The trackers of a store, as far as known; a new store starts at the oldest live layout.
    pub fn trackers_of(&self, store: StoreId) -> Trackers {
        let start = Trackers::starting_at(self.decree.oldest().epoch());
        self.trackers
            .get(&store)
            .map_or(start, |known| known.union(start))
    }

    /// Takes over what was heard of a store, or durably raised here; gives whether that was news. What is out of order
    /// is ignored, and so is a store that no live layout lists.
    pub fn hear(&mut self, store: StoreId, trackers: Trackers) -> bool {
        if !trackers.in_order() || !self.decree.lists(store) {
            return false;
        }
        let known = self.trackers_of(store);
        let higher = known.union(trackers);
        self.trackers.insert(store, higher);
        higher != known
    }

    /// Takes over a decided decree, which is durable here by now; gives whether it was news. An older one changes nothing.
    ///
    /// # Errors
    /// [`TwoDecrees`].
    pub fn adopt(&mut self, decree: Arc<Decree>) -> Result<bool, TwoDecrees> {
        if decree.epoch() < self.epoch() {
            return Ok(false);
        }
        if decree.epoch() == self.epoch() {
            return match decree == self.decree {
                true => Ok(false),
                false => Err(TwoDecrees(decree.epoch())),
            };
        }
        self.trackers.retain(|store, _| decree.lists(*store));
        self.decree = decree;
        Ok(true)
    }

    /// The layouts that writes go to, W in each: all that are live, the older first.
    pub fn written(&self) -> &[Layout] {
        self.decree.live()
    }

    /// The layout that a coordinator counts R in: the one that its store has flipped to.
    pub fn read_layout(&self, me: StoreId) -> &Layout {
        self.newest_up_to(self.trackers_of(me).flipped)
    }

    /// The layout that clients are told: the lowest that a member still reads from.
    pub fn client_layout(&self) -> &Layout {
        let present = self.decree.present();
        let lowest = present
            .keys()
            .map(|store| self.trackers_of(*store).flipped)
            .min();
        self.newest_up_to(lowest.unwrap_or(self.decree.oldest().epoch()))
    }

    fn newest_up_to(&self, epoch: Epoch) -> &Layout {
        let mut layouts = self.decree.live().iter().rev();
        layouts
            .find(|layout| layout.epoch() <= epoch)
            .unwrap_or(self.decree.oldest())
    }

    /// Whether a store refuses a write that was sent at `epoch` (a fence's): it is older than the store's `ack`.
    pub fn refuses_write(&self, me: StoreId, epoch: Epoch) -> bool {
        epoch < self.trackers_of(me).ack
    }

    /// The layouts by which a store takes writes: live, and acknowledged. An owner in none of them refuses the object.
    pub fn takes_writes_by(&self, me: StoreId) -> impl Iterator<Item = &Layout> {
        let ack = self.trackers_of(me).ack;
        self.decree
            .live()
            .iter()
            .filter(move |layout| layout.epoch() <= ack)
    }

    /// The layouts by which a store's copy may count toward R (if synced): live, and merged. By no other is a read
    /// answered, so that a slow read of a retired layout finds an error and never an erased copy.
    pub fn answers_reads_by(&self, me: StoreId) -> impl Iterator<Item = &Layout> {
        let merged = self.trackers_of(me).merged;
        self.decree
            .live()
            .iter()
            .filter(move |layout| layout.epoch() <= merged)
    }

    /// What the store does next.
    pub fn step(&self, me: StoreId) -> Step {
        if !self.decree.present().contains_key(&me) {
            return Step::Out;
        }
        let newest = self.decree.newest().epoch();
        let mine = self.trackers_of(me);
        if mine.ack < newest {
            return Step::Acknowledge(newest);
        }
        if mine.merged < newest {
            return Step::Merge(newest);
        }
        if mine.flipped < newest {
            return match self.behind(|store| self.trackers_of(store).merged < newest, true) {
                none if none.is_empty() => Step::Flip(newest),
                behind => Step::Wait(behind),
            };
        }
        if self.decree.live().len() == 1 {
            return Step::Settled;
        }
        let unflipped = |store| {
            let trackers = self.trackers_of(store);
            trackers.ack < newest || trackers.flipped < newest
        };
        match self.behind(unflipped, false) {
            none if none.is_empty() => Step::Retire(Box::new(self.retirement())),
            behind => Step::Wait(behind),
        }
    }

    /// The members that are behind: of the newest layout alone, or of all live ones. Excused ones hold up nothing.
    fn behind(&self, is_behind: impl Fn(StoreId) -> bool, newest_only: bool) -> Vec<StoreId> {
        let present = self.decree.present();
        let counted = present.iter().filter(|(_, member)| {
            !newest_only || self.decree.newest().member(&member.name).is_some()
        });
        counted
            .map(|(store, _)| *store)
            .filter(|store| is_behind(*store))
            .collect()
    }

    /// The decree that ends the older layout.
    fn retirement(&self) -> Decree {
        let newest = self.decree.newest().clone();
        let mut excused = self.decree.excused().clone();
        excused.retain(|store, _| newest.members().iter().any(|m| m.store_id == *store));
        let decree = Decree::new(self.epoch().next(), vec![newest], excused);
        decree.expect("one of the layouts of a valid decree, with the same voters")
    }

    /// Whom a partition that the newest layout gives this store is received from.
    ///
    /// Fewer old owners than meet every default quorum of the old layout are too few, unless the operator has accepted
    /// the loss of those that are excused.
    pub fn sources(&self, acquisition: &Acquisition) -> Sources {
        let newest = self.decree.newest().epoch();
        let present = acquisition
            .from
            .iter()
            .filter(|store| !self.is_excused(store));
        let waiting = present.filter(|store| self.trackers_of(**store).ack < newest);
        match waiting.copied().collect::<Vec<StoreId>>() {
            none if none.is_empty() => self.vouching(&acquisition.from, acquisition.from.len()),
            waiting => Sources::Wait(waiting),
        }
    }

    /// Whom this store receives from what its own copy of a partition lacks that it owns by the oldest live layout; the
    /// `others` are the stores of its other owners there. The same rule, and its own copy is one that does not count.
    pub fn sources_of_repair(&self, others: &[StoreId]) -> Sources {
        self.vouching(others, others.len() + 1)
    }

    fn is_excused(&self, store: &StoreId) -> bool {
        self.decree.excused().contains_key(store)
    }

    /// Who of `stores` can tell what a partition with so many `owners` in the oldest live layout has to hold.
    fn vouching(&self, stores: &[StoreId], owners: usize) -> Sources {
        let is_lost = |store: &StoreId| self.decree.excused().get(store) == Some(&Excuse::Lost);
        let (gone, present): (Vec<StoreId>, Vec<StoreId>) =
            stores.iter().partition(|store| self.is_excused(store));
        let quorum = self.decree.oldest().default_quorum() as usize;
        let enough = owners + 1 - quorum.min(owners);
        let (accepted, unaccepted): (Vec<StoreId>, Vec<StoreId>) =
            gone.iter().partition(|store| is_lost(store));
        if present.len() < enough && (accepted.is_empty() || !unaccepted.is_empty()) {
            return Sources::Lost(unaccepted);
        }
        Sources::From {
            counting: enough.min(present.len()),
            stores: present,
        }
    }

    /// Judges a decree that somebody asks this store to accept.
    ///
    /// # Errors
    /// [`super::NotSuccessor`].
    pub fn judge(&self, decree: &Decree) -> Result<Kind, super::NotSuccessor> {
        decree.follows(&self.decree)
    }
}

#[cfg(test)]
mod tests;
