//! Decrees: what a majority decided about the cluster, one per epoch.
//!
//! *Invariants.* A decree is whole: who holds the newest needs no older one. At most [`LIVE_MAX`] layouts are live in it,
//! and it follows its predecessor in one of three ways: it *places* (adds a layout; only while a single one is live), it
//! *retires* the older of two layouts, or it *amends* (same owners in the same layouts). So two changes of owners never
//! overlap, and what is live is decided, never guessed from gossip.
//!
//! A live layout's own epoch is that of the decree that placed it. Amendments raise the decree's epoch, never a layout's.

use std::collections::{BTreeMap, BTreeSet};

use super::{Layout, MEMBERS_MAX, Member, PlanHash};
use crate::{
    encoding::{DecodeError, Reader, Writer},
    id::{Epoch, NodeName, StoreId},
};

/// The most layouts that are live at once.
pub const LIVE_MAX: usize = 2;
/// The newest format of an encoded decree.
const FORMAT: u8 = 1;

/// Why a member holds up nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Excuse {
    /// The operator's word that its machine is off.
    Off,
    /// The operator's word that its data is lost for good, too.
    Lost,
}

/// How a decree follows the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It adds a layout with other owners.
    Places,
    /// It ends the older of two live layouts.
    Retires,
    /// It changes what owns nothing: addresses, store ids, excuses.
    Amends,
}

/// The newest word on the cluster: epoch, live layouts, excused stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decree {
    epoch: Epoch,
    live: Vec<Layout>,
    excused: BTreeMap<StoreId, Excuse>,
    plan: PlanHash,
}

/// Why a decree is not valid. Nothing was changed by finding out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecreeError {
    /// None or too many layouts are live.
    #[error("a decree has 1 to {LIVE_MAX} live layouts, not {0}")]
    Live(usize),
    /// Layouts are newer than their decree, or not in order.
    #[error("the epochs of the live layouts do not ascend to at most the decree's, {0}")]
    Epochs(Epoch),
    /// Live layouts differ in partitions or replicas.
    #[error(
        "the live layouts differ in partitions or replicas, which are fixed for the life of a cluster"
    )]
    Shape,
    /// One node is two things in the two layouts.
    #[error("{0} is not the same in both live layouts: store and addresses belong to the node")]
    Differs(NodeName),
    /// A store belongs to two nodes.
    #[error("the store {0} is listed under two names")]
    StoreTwice(StoreId),
    /// A store is excused that no live layout lists.
    #[error("the store {0} is excused and not listed")]
    Excused(StoreId),
    /// All members are excused.
    #[error("every member of the newest layout is excused: nobody is left to vote")]
    NoVoters,
}

/// Why a decree cannot follow the newest one. Nothing was changed by finding out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSuccessor {
    /// It is not for the next epoch.
    #[error("a decree for epoch {found} cannot follow epoch {newest}")]
    Epoch {
        /// The newest epoch here.
        newest: Epoch,
        /// The decree's.
        found: Epoch,
    },
    /// It would be the third live layout.
    #[error("a change is under way from layout {oldest} to {newest}: commit when it has ended")]
    TwoLive {
        /// The layout that is left.
        oldest: Epoch,
        /// The layout that comes.
        newest: Epoch,
    },
    /// It changes the owners of a layout that is live.
    #[error(
        "it changes who owns what in the live layout {0}, or what is fixed for the life of a cluster"
    )]
    Owners(Epoch),
}

impl Decree {
    /// A decree of these live layouts, the older first.
    ///
    /// # Errors
    /// [`DecreeError`] names the first rule that is broken.
    pub fn new(
        epoch: Epoch,
        live: Vec<Layout>,
        excused: BTreeMap<StoreId, Excuse>,
    ) -> Result<Decree, DecreeError> {
        if live.is_empty() || live.len() > LIVE_MAX {
            return Err(DecreeError::Live(live.len()));
        }
        let ascending = live
            .windows(2)
            .all(|pair| pair[0].epoch() < pair[1].epoch());
        if !ascending || live.iter().any(|layout| layout.epoch() > epoch) {
            return Err(DecreeError::Epochs(epoch));
        }
        check_agreement(&live)?;
        let decree = Decree {
            epoch,
            live,
            excused,
            plan: PlanHash(0),
        };
        if let Some(store) = decree.excused.keys().find(|store| !decree.lists(**store)) {
            return Err(DecreeError::Excused(*store));
        }
        if decree.voters().is_empty() {
            return Err(DecreeError::NoVoters);
        }
        Ok(decree)
    }

    /// The first decree of a cluster: one layout, nobody excused.
    pub fn founding(layout: Layout) -> Decree {
        Decree {
            epoch: layout.epoch(),
            live: vec![layout],
            excused: BTreeMap::new(),
            plan: PlanHash(0),
        }
    }

    /// The same decree, come by that plan.
    #[must_use]
    pub fn by_plan(self, plan: PlanHash) -> Decree {
        Decree { plan, ..self }
    }

    /// The plan that it came by, so that who committed it can tell; 0 if by none.
    pub fn plan(&self) -> PlanHash {
        self.plan
    }

    /// The decree's number.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The live layouts, the older first. Writes go to all of them.
    pub fn live(&self) -> &[Layout] {
        &self.live
    }

    /// The live layout that was placed last.
    pub fn newest(&self) -> &Layout {
        &self.live[self.live.len() - 1]
    }

    /// The live layout that was placed first.
    pub fn oldest(&self) -> &Layout {
        &self.live[0]
    }

    /// The stores that hold up nothing, are refused, and have no vote.
    pub fn excused(&self) -> &BTreeMap<StoreId, Excuse> {
        &self.excused
    }

    /// Whether a live layout lists the store.
    pub fn lists(&self, store: StoreId) -> bool {
        self.member_of(store).is_some()
    }

    /// The member that a live layout lists with this store.
    pub fn member_of(&self, store: StoreId) -> Option<&Member> {
        let mut members = self.live.iter().rev().flat_map(Layout::members);
        members.find(|member| member.store_id == store)
    }

    /// All members of the live layouts that are not excused, by store.
    pub fn present(&self) -> BTreeMap<StoreId, &Member> {
        let members = self.live.iter().flat_map(Layout::members);
        members
            .filter(|member| !self.excused.contains_key(&member.store_id))
            .map(|member| (member.store_id, member))
            .collect()
    }

    /// Who votes for the next epoch: the stores of the newest layout that are not excused.
    pub fn voters(&self) -> BTreeSet<StoreId> {
        let stores = self.newest().members().iter().map(|member| member.store_id);
        stores
            .filter(|store| !self.excused.contains_key(store))
            .collect()
    }

    /// How this decree follows `base`.
    ///
    /// # Errors
    /// [`NotSuccessor`]: it does not, and accepting it would break a rule.
    pub fn follows(&self, base: &Decree) -> Result<Kind, NotSuccessor> {
        if self.epoch != base.epoch.next() {
            return Err(NotSuccessor::Epoch {
                newest: base.epoch,
                found: self.epoch,
            });
        }
        let (kind, kept) = if self.newest().epoch() > base.newest().epoch() {
            if base.live.len() == LIVE_MAX {
                return Err(NotSuccessor::TwoLive {
                    oldest: base.oldest().epoch(),
                    newest: base.newest().epoch(),
                });
            }
            (Kind::Places, &base.live[..])
        } else if self.live.len() < base.live.len() {
            (Kind::Retires, &base.live[1..])
        } else {
            (Kind::Amends, &base.live[..])
        };
        let placed = usize::from(kind == Kind::Places);
        if self.live.len() != kept.len() + placed || !same_shape(self.newest(), base.newest()) {
            return Err(NotSuccessor::Owners(base.newest().epoch()));
        }
        if placed == 1 && self.newest().epoch() != self.epoch {
            return Err(NotSuccessor::Owners(self.newest().epoch()));
        }
        match kept
            .iter()
            .zip(&self.live)
            .find(|(old, new)| !same_owners(old, new))
        {
            Some((old, _)) => Err(NotSuccessor::Owners(old.epoch())),
            None => Ok(kind),
        }
    }

    /// The decree as it is kept, sent and hashed.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(FORMAT);
        writer.u64(self.epoch.0);
        writer.u64(self.plan.0);
        writer.count(self.live.len());
        self.live.iter().for_each(|layout| writer.layout(layout));
        writer.count(self.excused.len());
        for (store, excuse) in &self.excused {
            writer.u64(store.0);
            writer.u8(match excuse {
                Excuse::Off => 0,
                Excuse::Lost => 1,
            });
        }
        writer.finish()
    }

    /// A decree that [`encode`](Decree::encode) wrote, checked again.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes are no valid decree of this version.
    pub fn decode(bytes: &[u8]) -> Result<Decree, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(FORMAT)?;
        let (epoch, plan) = (reader.epoch()?, PlanHash(reader.u64()?));
        let layouts = reader.count("live layouts", LIVE_MAX)?;
        let live = (0..layouts)
            .map(|_| reader.layout())
            .collect::<Result<_, _>>()?;
        let mut excused = BTreeMap::new();
        for _ in 0..reader.count("excused stores", LIVE_MAX * MEMBERS_MAX)? {
            let store = reader.store()?;
            let excuse = match reader.u8()? {
                0 => Excuse::Off,
                1 => Excuse::Lost,
                mark => return Err(DecodeError::Mark(mark, "an excuse")),
            };
            excused.insert(store, excuse);
        }
        reader.end()?;
        Ok(Decree::new(epoch, live, excused)?.by_plan(plan))
    }
}

fn same_shape(a: &Layout, b: &Layout) -> bool {
    (a.partitions(), a.replicas()) == (b.partitions(), b.replicas())
}

/// Whether `new` is `old`, amended at most: the same members with the same weight, place and zone.
fn same_owners(old: &Layout, new: &Layout) -> bool {
    let placed = |member: &Member| {
        let name = member.name.clone();
        (
            name,
            member.placement_id,
            member.tokens,
            member.zone.clone(),
        )
    };
    old.epoch() == new.epoch()
        && same_shape(old, new)
        && old
            .members()
            .iter()
            .map(placed)
            .eq(new.members().iter().map(placed))
}

/// A node that is in both layouts is one node, with one store and one set of addresses.
fn check_agreement(live: &[Layout]) -> Result<(), DecreeError> {
    let [old, new] = live else {
        return Ok(());
    };
    if !same_shape(old, new) {
        return Err(DecreeError::Shape);
    }
    let names: BTreeMap<StoreId, &NodeName> = old
        .members()
        .iter()
        .map(|member| (member.store_id, &member.name))
        .collect();
    for member in new.members() {
        if names
            .get(&member.store_id)
            .is_some_and(|name| **name != member.name)
        {
            return Err(DecreeError::StoreTwice(member.store_id));
        }
        let differs = old.member(&member.name).is_some_and(|old| {
            (old.store_id, old.placement_id) != (member.store_id, member.placement_id)
                || old.client_addr != member.client_addr
                || old.peer_addr != member.peer_addr
                || old.http_addr != member.http_addr
        });
        if differs {
            return Err(DecreeError::Differs(member.name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
