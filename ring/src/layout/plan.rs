//! What staged changes would do, shown before they are committed.
//!
//! *Invariant:* a plan is a pure function of the newest decree and the changes, and its hash names both. A commit names
//! the hash; if anybody else changed the cluster meanwhile the hash is another, and nothing is changed.

use std::{collections::BTreeMap, fmt, num::ParseIntError, str::FromStr};

use xxhash_rust::xxh3::Xxh3;

use super::{Change, ChangeError, Decree, Layout, Member, apply, encode_changes};
use crate::{
    id::{Epoch, NodeName, PartitionId, StoreId},
    placement::{Placement, PlacementError},
};

/// What names a plan: `xxh3_64` of the encoded base decree and the encoded changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlanHash(pub u64);

impl fmt::Display for PlanHash {
    /// 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for PlanHash {
    type Err = ParseIntError;

    /// Reads what `Display` writes.
    fn from_str(hex: &str) -> Result<PlanHash, ParseIntError> {
        u64::from_str_radix(hex, 16).map(PlanHash)
    }
}

/// What a plan does to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanMember {
    /// The node.
    pub name: NodeName,
    /// Its tokens and partitions before; `None` if it was no member.
    pub before: Option<Holding>,
    /// Its tokens and partitions after; `None` if it is gone.
    pub after: Option<Holding>,
    /// Partitions that it receives.
    pub acquired: u32,
    /// Partitions that it gives up.
    pub released: u32,
    /// Bytes that it receives; `None` if the sizes of the partitions are not known.
    pub bytes: Option<u64>,
}

/// What a member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Its tokens: capacity times 256.
    pub tokens: u32,
    /// Partitions that it owns.
    pub partitions: u32,
}

/// What an operator should know before committing; none of it forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// Fewer zones than N: some owners of a partition share a zone.
    #[error(
        "{zones} zones for {replicas} owners of each partition: the loss of one zone takes several copies"
    )]
    SharedZones {
        /// Zones of the target.
        zones: usize,
        /// N′ of the target.
        replicas: u32,
    },
    /// Fewer members than N.
    #[error("{members} members for {replicas} copies: each partition has only {members}")]
    FewerCopies {
        /// Members of the target.
        members: usize,
        /// N.
        replicas: u32,
    },
    /// The operator's word that a machine is off is for good.
    #[error(
        "the store {store} of {name} is refused for good from then on: the node comes back with an empty directory only"
    )]
    Excused {
        /// The member.
        name: NodeName,
        /// Its store.
        store: StoreId,
    },
    /// So many owners are excused that some acknowledged writes may be with none of the others.
    #[error(
        "of {partitions} partitions so many copies are gone that writes acknowledged by those alone may be lost"
    )]
    MayBeLost {
        /// How many.
        partitions: usize,
    },
    /// A member holds more than its share, because the partitions are too coarse or its zone is too small.
    #[error("{name} would own {partitions} partitions, {over_percent} % over its share")]
    OverShare {
        /// The member.
        name: NodeName,
        /// What it would own.
        partitions: u32,
        /// By how much that is over its share, in percent.
        over_percent: u32,
    },
}

/// What staged changes would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The epoch that it starts from.
    pub base: Epoch,
    /// What would be decided.
    pub target: Decree,
    /// Names it.
    pub hash: PlanHash,
    /// Whether owners change.
    pub places: bool,
    /// All members of either layout, by name.
    pub members: Vec<PlanMember>,
    /// Copies of partitions that move.
    pub copies: u32,
    /// Copies that any placement with the same shares would have to move.
    pub fair_copies: f64,
    /// Bytes that move, if the sizes of the partitions are known.
    pub bytes: Option<u64>,
    /// What to know.
    pub notices: Vec<Notice>,
}

/// Why there is no plan, or why it cannot be committed. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A change does not fit.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The target cannot be placed.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The plan was made for another layout or other changes.
    #[error(
        "the plan {named} is not the plan of the staged changes on epoch {base}, which is {current}: look at it again"
    )]
    Stale {
        /// The hash that the commit named.
        named: PlanHash,
        /// The hash by now.
        current: PlanHash,
        /// The newest epoch.
        base: Epoch,
    },
}

/// Notices over this much above a share are given, in percent.
const OVER_PERCENT: f64 = 3.0;

/// Plans `changes` on `base`. `bytes` is the size of each partition as one owner holds it, if known.
///
/// # Errors
/// [`PlanError::Change`], [`PlanError::Placement`].
pub fn plan(base: &Decree, changes: &[Change], bytes: Option<&[u64]>) -> Result<Plan, PlanError> {
    let hash = plan_hash(base, changes);
    let target = apply(base, changes)?.by_plan(hash);
    let mut plan = Plan {
        base: base.epoch(),
        hash,
        places: changes.iter().any(Change::places),
        members: Vec::new(),
        copies: 0,
        fair_copies: 0.0,
        bytes: bytes.map(|_| 0),
        notices: Vec::new(),
        target,
    };
    let old = (base.newest(), &Placement::compute(base.newest())?);
    let after = Placement::compute(plan.target.newest())?;
    let new = (plan.target.newest(), &after);
    plan.fair_copies = fair_copies(old, new);
    plan.members = members(old, new, bytes);
    plan.notices = notices(new);
    plan.notices.extend(excuses(base, &plan.target, new));
    plan.copies = plan.members.iter().map(|member| member.acquired).sum();
    plan.bytes = bytes.map(|_| plan.members.iter().filter_map(|member| member.bytes).sum());
    Ok(plan)
}

/// Checks that a commit names the plan of `changes` on `base`.
///
/// # Errors
/// [`PlanError::Stale`].
pub fn check_hash(base: &Decree, changes: &[Change], named: PlanHash) -> Result<(), PlanError> {
    let current = plan_hash(base, changes);
    if current == named {
        return Ok(());
    }
    Err(PlanError::Stale {
        named,
        current,
        base: base.epoch(),
    })
}

/// The hash of a plan.
pub fn plan_hash(base: &Decree, changes: &[Change]) -> PlanHash {
    let mut hasher = Xxh3::new();
    // Each part knows its own length, so the two cannot be told apart differently.
    hasher.update(&base.encode());
    hasher.update(&encode_changes(changes));
    PlanHash(hasher.digest())
}

type Placed<'a> = (&'a Layout, &'a Placement);

fn members(old: Placed<'_>, new: Placed<'_>, bytes: Option<&[u64]>) -> Vec<PlanMember> {
    let mut names: BTreeMap<&NodeName, ()> = BTreeMap::new();
    let both = old.0.members().iter().chain(new.0.members());
    names.extend(both.map(|member| (&member.name, ())));
    names
        .into_keys()
        .map(|name| one(name, old, new, bytes))
        .collect()
}

fn one(name: &NodeName, old: Placed<'_>, new: Placed<'_>, bytes: Option<&[u64]>) -> PlanMember {
    let owns = |placed: Placed<'_>, partition: PartitionId| {
        let index = placed.0.index_of(name);
        index.is_some_and(|index| placed.1.is_owner(partition, index))
    };
    let (mut acquired, mut released, mut size) = (0, 0, 0_u64);
    for partition in new.0.partition_ids() {
        match (owns(old, partition), owns(new, partition)) {
            (false, true) => {
                acquired += 1;
                let held = bytes.and_then(|bytes| bytes.get(partition.index()));
                size = size.saturating_add(held.copied().unwrap_or(0));
            }
            (true, false) => released += 1,
            _ => {}
        }
    }
    PlanMember {
        name: name.clone(),
        before: holding(name, old),
        after: holding(name, new),
        acquired,
        released,
        bytes: bytes.map(|_| size),
    }
}

/// What each member's share grows by, in all. By name: a new machine in an old place has all to receive.
fn fair_copies(old: Placed<'_>, new: Placed<'_>) -> f64 {
    let target = |placed: Placed<'_>, name| {
        let index = placed.0.index_of(name);
        index.map_or(0.0, |index| placed.1.target(index))
    };
    let members = new.0.members().iter();
    members
        .map(|member| (target(new, &member.name) - target(old, &member.name)).max(0.0))
        .sum()
}

fn holding(name: &NodeName, (layout, placement): Placed<'_>) -> Option<Holding> {
    let index = layout.index_of(name)?;
    Some(Holding {
        tokens: layout.members()[index].tokens,
        partitions: u32::try_from(placement.owned_count(index)).expect("at most 2^16 partitions"),
    })
}

fn notices((layout, placement): Placed<'_>) -> Vec<Notice> {
    let mut notices = Vec::new();
    let (members, replicas) = (layout.members(), layout.effective_replicas());
    if members.len() < layout.replicas() as usize {
        notices.push(Notice::FewerCopies {
            members: members.len(),
            replicas: layout.replicas(),
        });
    }
    let zones = zone_count(members);
    if zones < replicas as usize {
        notices.push(Notice::SharedZones { zones, replicas });
    }
    for (index, member) in members.iter().enumerate() {
        let (owned, target) = (placement.owned_count(index), placement.target(index));
        let over = (owned as f64 / target - 1.0) * 100.0;
        // A whole partition more than the share is as fine as partitions can be dealt.
        if over > OVER_PERCENT && owned as f64 - target >= 1.0 {
            notices.push(Notice::OverShare {
                name: member.name.clone(),
                partitions: u32::try_from(owned).expect("at most 2^16 partitions"),
                over_percent: over as u32,
            });
        }
    }
    notices
}

/// What those give up who are excused by now, and were not before.
fn excuses(base: &Decree, target: &Decree, (layout, placement): Placed<'_>) -> Vec<Notice> {
    let news = |store: &StoreId| target.excused().get(store) != base.excused().get(store);
    let news: Vec<StoreId> = target.excused().keys().copied().filter(news).collect();
    if news.is_empty() {
        return Vec::new();
    }
    let first = news
        .iter()
        .filter(|store| !base.excused().contains_key(store));
    let first = first.filter_map(|store| {
        let name = target.member_of(*store)?.name.clone();
        let store = *store;
        Some(Notice::Excused { name, store })
    });
    let mut notices: Vec<Notice> = first.collect();
    let is_gone = |owner: &u16| {
        let member = &layout.members()[usize::from(*owner)];
        target.excused().contains_key(&member.store_id)
    };
    // A write is acknowledged at a default quorum: with as many owners gone, it may have been at those alone.
    let quorum = layout.default_quorum() as usize;
    let may_be_lost = |partition: &PartitionId| {
        let owners = placement.owners(*partition).iter();
        owners.filter(|owner| is_gone(owner)).count() >= quorum
    };
    let partitions = layout.partition_ids().filter(may_be_lost).count();
    if partitions > 0 {
        notices.push(Notice::MayBeLost { partitions });
    }
    notices
}

/// Zones, where a member without one counts as a zone of its own.
fn zone_count(members: &[Member]) -> usize {
    let named: BTreeMap<&str, ()> = members
        .iter()
        .map(|member| (member.zone.as_str(), ()))
        .collect();
    let alone = members
        .iter()
        .filter(|member| member.zone.is_empty())
        .count();
    named.keys().filter(|zone| !zone.is_empty()).count() + alone
}

#[cfg(test)]
mod tests;
