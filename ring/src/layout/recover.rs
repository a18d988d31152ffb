//! What the survivors of a lost majority go on with: a decree that nobody voted for, in a cluster of its own.
//!
//! *Invariants.* Pure: stores that hold the same decree and are told the same names get the same decree, cluster and hash,
//! without a word between them. The cluster is another one, so that whoever was not named is refused for ever (I9). And
//! nothing is taken for granted that the survivors do not hold: the decree is a change from the layout that was live, its lost
//! members excused and their loss accepted, to one of the survivors; so each partition goes from whoever is left of its owners
//! to its new ones as in any other change (I3 among what is left, see [`super::History`]).

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Decree, DecreeError, Excuse, Layout, LayoutError, Member, PlanHash};
use crate::{
    id::{ClusterId, NodeName, PartitionId, StoreId},
    placement::{Placement, PlacementError},
};

/// What names a recovery begins its hash, so that it is never a plan's.
const DOMAIN: &[u8] = b"recover";

/// What the survivors go on with, and what it costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// Names it: the old cluster, its newest decree, and who is kept.
    pub hash: PlanHash,
    /// The cluster from now on; follows from the hash.
    pub cluster: ClusterId,
    /// Its newest decree.
    pub decree: Decree,
    /// Who is lost, in the order of their names.
    pub lost: Vec<NodeName>,
    /// Partitions that so many owners are lost of that writes may be lost that were acknowledged by those alone.
    pub may_be_lost: usize,
    /// Partitions without any owner left: they are empty from now on.
    pub gone: usize,
    /// Of the latter, those that a survivor was being given by a change that had not ended; what it had received goes.
    pub half_moved: usize,
}

/// Why there is no recovery. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Nobody is named.
    #[error("name those that are left")]
    Nobody,
    /// A name that no member has.
    #[error("no member is called {0}")]
    Unknown(NodeName),
    /// A store that is refused.
    #[error("{0} was excused: its store is refused, and cannot go on")]
    Excused(NodeName),
    /// Those that are kept can decide without force.
    #[error(
        "{kept} of {voters} voters are a majority, which can decide: start them, then `layout excuse` or `layout accept-loss` for the others, and `layout remove`"
    )]
    Majority {
        /// Voters among those named.
        kept: usize,
        /// All voters.
        voters: usize,
    },
    /// What comes out breaks a rule of layouts.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// What comes out breaks a rule of decrees.
    #[error(transparent)]
    Decree(#[from] DecreeError),
    /// What comes out cannot be placed.
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

/// What those of `keep` go on with when nobody else of the cluster ever comes back, `base` being the newest decree.
///
/// While two layouts are live in `base` the older one counts: all writes went to it, too.
///
/// # Errors
/// [`RecoverError`].
pub fn recover(
    cluster: ClusterId,
    base: &Decree,
    keep: &BTreeSet<NodeName>,
) -> Result<Recovery, RecoverError> {
    let members = kept(base, keep)?;
    let stores: BTreeSet<StoreId> = members.iter().map(|member| member.store_id).collect();
    let voters = base.voters();
    let votes = voters.intersection(&stores).count();
    if votes > voters.len() / 2 {
        return Err(RecoverError::Majority {
            kept: votes,
            voters: voters.len(),
        });
    }
    let (old, epoch) = (base.oldest(), base.epoch().next());
    let new = Layout::new(epoch, old.partitions(), old.replicas(), members)?;
    let is_lost = |member: &&Member| !stores.contains(&member.store_id);
    let excused = old.members().iter().filter(is_lost);
    let excused: BTreeMap<StoreId, Excuse> = excused.map(|m| (m.store_id, Excuse::Lost)).collect();
    let everyone = base.live().iter().flat_map(Layout::members);
    let lost: BTreeSet<NodeName> = everyone.filter(is_lost).map(|m| m.name.clone()).collect();
    let hash = hash(cluster, base, keep);
    let decree = Decree::new(epoch, vec![old.clone(), new], excused)?.by_plan(hash);

    let left = Left::of(old, &stores)?;
    let newer = Left::of(base.newest(), &stores)?;
    let partitions = || old.partition_ids();
    let gone = |partition: &PartitionId| left.owners(*partition) == 0;
    Ok(Recovery {
        hash,
        cluster: cluster_of(hash),
        decree,
        lost: lost.into_iter().collect(),
        may_be_lost: partitions()
            .filter(|partition| left.lost(*partition) >= old.default_quorum() as usize)
            .count(),
        gone: partitions().filter(gone).count(),
        half_moved: partitions()
            .filter(|partition| gone(partition) && newer.owners(*partition) > 0)
            .count(),
    })
}

impl Recovery {
    /// The partitions that `me` holds and some other owner was lost of. Whoever could have told what is missing in a copy of
    /// them is gone: what is there is all there is, by the operator's word, and counts toward R again.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub fn bereaved(&self, me: StoreId) -> Result<Vec<PartitionId>, PlacementError> {
        let old = self.decree.oldest();
        let stores = old.members().iter().map(|member| member.store_id);
        let stores = stores.filter(|store| !self.decree.excused().contains_key(store));
        let left = Left::of(old, &stores.collect())?;
        let Some(mine) = old.members().iter().position(|m| m.store_id == me) else {
            return Ok(Vec::new());
        };
        let held = |p: &PartitionId| left.placement.is_owner(*p, mine) && left.lost(*p) > 0;
        Ok(old.partition_ids().filter(held).collect())
    }
}

/// The cluster that a recovery of this hash makes.
pub fn cluster_of(hash: PlanHash) -> ClusterId {
    // 0 is no cluster.
    ClusterId(xxh3_64(&hash.0.to_be_bytes()).max(1))
}

/// The members that are named, as the newest layout lists them that does.
fn kept(base: &Decree, keep: &BTreeSet<NodeName>) -> Result<Vec<Member>, RecoverError> {
    if keep.is_empty() {
        return Err(RecoverError::Nobody);
    }
    let member = |name: &NodeName| {
        let mut live = base.live().iter().rev();
        let member = live.find_map(|layout| layout.member(name));
        let member = member.ok_or_else(|| RecoverError::Unknown(name.clone()))?;
        match base.excused().contains_key(&member.store_id) {
            true => Err(RecoverError::Excused(name.clone())),
            false => Ok(member.clone()),
        }
    };
    keep.iter().map(member).collect()
}

fn hash(cluster: ClusterId, base: &Decree, keep: &BTreeSet<NodeName>) -> PlanHash {
    let mut hasher = Xxh3::new();
    hasher.update(DOMAIN);
    hasher.update(&cluster.0.to_be_bytes());
    // Knows its own length, as names know their end.
    hasher.update(&base.encode());
    for name in keep {
        hasher.update(name.as_str().as_bytes());
        hasher.update(b"\n");
    }
    PlanHash(hasher.digest())
}

/// What is left of the owners of each partition of a layout.
struct Left {
    placement: Placement,
    /// By the number of the member.
    is_left: Vec<bool>,
}

impl Left {
    fn of(layout: &Layout, stores: &BTreeSet<StoreId>) -> Result<Left, PlacementError> {
        let members = layout.members().iter();
        Ok(Left {
            placement: Placement::compute(layout)?,
            is_left: members.map(|m| stores.contains(&m.store_id)).collect(),
        })
    }

    /// Owners that are left.
    fn owners(&self, partition: PartitionId) -> usize {
        let owners = self.placement.owners(partition).iter();
        owners
            .filter(|owner| self.is_left[usize::from(**owner)])
            .count()
    }

    /// Owners that are lost.
    fn lost(&self, partition: PartitionId) -> usize {
        self.placement.owners(partition).len() - self.owners(partition)
    }
}

#[cfg(test)]
mod tests;
