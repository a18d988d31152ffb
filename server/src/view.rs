//! What this node knows of the cluster while it serves a request.
//!
//! Keeps I6 (owners come from the layouts alone, never from who is alive) and gives I9 its cluster id and epoch. The rules of
//! I3 across a change of layouts are [`History`]'s; here they are looked up by partition.

mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use ringfort_ring::{
    Acquisition, ClusterId, Epoch, History, Layout, Member, PartitionId, Placement, PlacementError,
    StoreId, acquired,
};
use ringfort_storage::{
    Store,
    mutants::{Mutant, is_planted},
};

pub use shared::{Held, Views};

/// The partitions whose copies do not count toward R, by store.
pub type Unsynced = BTreeMap<StoreId, BTreeSet<PartitionId>>;

/// Why a view could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// A layout has no placement.
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

/// One live layout with its placement.
#[derive(Debug, Clone)]
pub struct Live {
    layout: Layout,
    placement: Arc<Placement>,
    me: Option<usize>,
    /// By partition: worked out when it is asked for, and kept as long as the placement.
    walks: Arc<[OnceLock<Box<[u16]>>]>,
}

impl Live {
    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The owners of a partition, as places among this layout's members, in preference order.
    pub fn owners(&self, partition: PartitionId) -> &[u16] {
        self.placement.owners(partition)
    }

    /// The members that do not own a partition, as places, in the order of the clockwise walk.
    pub fn fallbacks(&self, partition: PartitionId) -> &[u16] {
        self.walks[partition.index()].get_or_init(|| self.placement.fallbacks(partition).into())
    }

    /// This node's place among this layout's members, if it is one.
    pub fn me(&self) -> Option<usize> {
        self.me
    }

    fn store(&self, owner: u16) -> StoreId {
        self.layout.members()[usize::from(owner)].store_id
    }

    fn is_of(&self, store: StoreId, partition: PartitionId) -> bool {
        let mut owners = self.owners(partition).iter();
        owners.any(|owner| self.store(*owner) == store)
    }

    fn is_mine(&self, partition: PartitionId) -> bool {
        let owners = self.owners(partition).iter();
        self.me
            .is_some_and(|me| owners.clone().any(|&owner| usize::from(owner) == me))
    }
}

/// One state of the cluster, as this node sees it, a member or not (yet, or any more): who is none owns nothing, so it
/// takes, answers and coordinates nothing. Replaced as a whole when anything of it changes.
///
/// What is told by places among members speaks of the layout that this node reads from.
#[derive(Debug)]
pub struct View {
    cluster: ClusterId,
    store: StoreId,
    history: History,
    /// One or two, the older first.
    live: Vec<Live>,
    /// Who takes part: the members that are not excused.
    present: BTreeMap<StoreId, Member>,
    /// Which of `live` this node counts R in.
    read: usize,
    /// As many of `live` this store takes writes by, and answers reads by.
    writes: usize,
    answers: usize,
    /// As told; then by member of the layout read from, and this node's.
    unsynced: Unsynced,
    of_readers: Vec<BTreeSet<PartitionId>>,
    own_unsynced: BTreeSet<PartitionId>,
    /// Of these this store has missed a round of reaping: nothing is taken, answered or coordinated before they are erased.
    missed: BTreeSet<PartitionId>,
}

impl View {
    /// The view of the node that holds `store`; `unsynced` names the partitions whose copies do not count toward R.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn new(
        cluster: ClusterId,
        history: &History,
        store: StoreId,
        unsynced: &Unsynced,
    ) -> Result<Self, ViewError> {
        Self::make(cluster, history, store, unsynced, (&[], &BTreeSet::new()))
    }

    /// Placements of layouts that are `known` are taken from there: a decree that amends leaves owners as they are.
    fn make(
        cluster: ClusterId,
        history: &History,
        store: StoreId,
        unsynced: &Unsynced,
        (known, missed): (&[Live], &BTreeSet<PartitionId>),
    ) -> Result<Self, ViewError> {
        let live = history.decree().live().iter().map(|layout| {
            let same = known.iter().find(|k| k.layout.epoch() == layout.epoch());
            Ok(Live {
                walks: match same {
                    Some(same) => Arc::clone(&same.walks),
                    None => layout.partition_ids().map(|_| OnceLock::new()).collect(),
                },
                placement: match same {
                    Some(same) => Arc::clone(&same.placement),
                    None => Arc::new(Placement::compute(layout)?),
                },
                me: layout.members().iter().position(|m| m.store_id == store),
                layout: layout.clone(),
            })
        });
        let live: Vec<Live> = live.collect::<Result<_, ViewError>>()?;
        let of = |store| unsynced.get(store).cloned().unwrap_or_default();
        let read = history.read_layout(store).epoch();
        let read = live.iter().rposition(|l| l.layout.epoch() == read);
        let read = read.unwrap_or(0);
        Ok(View {
            cluster,
            store,
            writes: history.takes_writes_by(store).count(),
            answers: match is_planted(Mutant::CountUnsynced) {
                true => live.len(),
                false => history.answers_reads_by(store).count(),
            },
            of_readers: {
                let members = live[read].layout.members().iter();
                members.map(|member| of(&member.store_id)).collect()
            },
            own_unsynced: of(&store),
            missed: missed.clone(),
            present: {
                let present = history.decree().present().into_iter();
                present
                    .map(|(store, member)| (store, member.clone()))
                    .collect()
            },
            history: history.clone(),
            live,
            read,
            unsynced: unsynced.clone(),
        })
    }

    /// The same by a newer history.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn with_history(&self, history: &History) -> Result<View, ViewError> {
        Self::make(
            self.cluster,
            history,
            self.store,
            &self.unsynced,
            (&self.live, &self.missed),
        )
    }

    /// The same with other copies that do not count toward R.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn with_unsynced(&self, unsynced: &Unsynced) -> Result<View, ViewError> {
        Self::make(
            self.cluster,
            &self.history,
            self.store,
            unsynced,
            (&self.live, &self.missed),
        )
    }

    /// The same with other partitions of which this store has missed a round of reaping.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn with_missed(&self, missed: &BTreeSet<PartitionId>) -> Result<View, ViewError> {
        Self::make(
            self.cluster,
            &self.history,
            self.store,
            &self.unsynced,
            (&self.live, missed),
        )
    }

    /// The cluster's id.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// What it was made of.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The newest decree's epoch: what fences carry.
    pub fn epoch(&self) -> Epoch {
        self.history.epoch()
    }

    /// Below this epoch no message is taken: who sent it knows no layout that lives.
    pub fn oldest_epoch(&self) -> Epoch {
        self.live[0].layout.epoch()
    }

    /// The layouts that writes go to, W in each; the older first.
    pub fn live(&self) -> &[Live] {
        &self.live
    }

    /// All members of live layouts, each once, as the newest that lists it has it.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let (newest, older) = self.live.split_last().expect("one is live");
        let gone = older.iter().flat_map(|live| live.layout.members());
        let gone = gone.filter(|member| newest.layout.member(&member.name).is_none());
        newest.layout.members().iter().chain(gone)
    }

    /// The layout that this node reads from.
    pub fn layout(&self) -> &Layout {
        &self.live[self.read].layout
    }

    /// The layout that clients are told.
    pub fn client_layout(&self) -> &Layout {
        self.history.client_layout()
    }

    /// The placement of [`Self::layout`].
    pub fn placement(&self) -> &Placement {
        &self.live[self.read].placement
    }

    /// Which of [`Self::live`] this node reads from.
    pub fn read_index(&self) -> usize {
        self.read
    }

    /// This node's place among the members that it reads from, if it is one of them yet.
    pub fn me(&self) -> Option<usize> {
        self.live[self.read].me
    }

    /// This node's store.
    pub fn my_store(&self) -> StoreId {
        self.store
    }

    /// This node, as the newest layout that has it lists it; `None` while none does.
    pub fn my_member(&self) -> Option<&Member> {
        self.history.decree().member_of(self.store)
    }

    /// The member whose store that is, if it takes part: listed in a live layout, and not excused.
    pub fn present(&self, store: StoreId) -> Option<&Member> {
        self.present.get(&store)
    }

    /// The owners of a partition, as places among the members, in preference order.
    pub fn owners(&self, partition: PartitionId) -> &[u16] {
        self.live[self.read].owners(partition)
    }

    /// Whether the copy of `partition` on that member counts toward R, as far as this node knows.
    pub fn is_synced(&self, member: usize, partition: PartitionId) -> bool {
        is_counted(&self.of_readers[member], partition)
    }

    /// Whether this node may coordinate operations on `partition`: an owner by the layout that it reads from, and synced.
    pub fn coordinates(&self, partition: PartitionId) -> bool {
        let is_mine = self.live[self.read].is_mine(partition);
        is_mine && is_counted(&self.own_unsynced, partition) && !self.has_missed(partition)
    }

    /// Whether this store is to erase the partition, because it has missed a round of reaping.
    pub fn has_missed(&self, partition: PartitionId) -> bool {
        !self.missed.is_empty() && self.missed.contains(&partition)
    }

    /// Whether this store takes writes to `partition`: it is an owner by a layout that it has acknowledged, and what it takes stays.
    pub fn takes_writes(&self, partition: PartitionId) -> bool {
        if self.has_missed(partition) {
            return false;
        }
        let mut taken = self.live[..self.writes].iter();
        taken.any(|live| live.is_mine(partition))
            || is_planted(Mutant::PlaceByLiveness)
            || is_planted(Mutant::RepairFallback)
    }

    /// Whether enough owners of `partition` are known to take writes: W of them, the layout's default unless given. One that the
    /// newer of two live layouts gives the partition takes none before it has acknowledged that layout; all others do.
    pub fn is_taken(&self, partition: PartitionId, w: Option<u32>) -> bool {
        let [older, newer] = &self.live[..] else {
            return true;
        };
        let takes = |owner: &&u16| {
            let store = newer.store(**owner);
            let acknowledged = self.history.trackers_of(store).ack >= newer.layout.epoch();
            acknowledged || older.is_of(store, partition)
        };
        let taken = newer.owners(partition).iter().filter(takes).count() as u32;
        taken >= w.unwrap_or_else(|| newer.layout.default_quorum())
    }

    /// What the newer of two live layouts gives this store; nothing while one is live.
    pub fn acquired(&self) -> Vec<Acquisition> {
        match (&self.live[..], self.my_member()) {
            ([older, newer], Some(me)) => acquired(
                (&older.layout, &older.placement),
                (&newer.layout, &newer.placement),
                &me.name,
            ),
            _ => Vec::new(),
        }
    }

    /// Whether this store hands over what it holds of `partition` to those whom the layout `epoch` gives it: it is an owner by
    /// the older layout, and takes no more writes that the newer owners would not get.
    pub fn hands_over(&self, partition: PartitionId, epoch: Epoch) -> bool {
        match &self.live[..] {
            [older, newer] => {
                let acknowledged = self.writes == self.live.len();
                newer.layout.epoch() == epoch && acknowledged && older.is_mine(partition)
            }
            _ => false,
        }
    }

    /// What this store owns by the oldest live layout, each with the stores of its other owners there.
    pub fn owned(&self) -> Vec<Acquisition> {
        let live = &self.live[0];
        let mine = live.layout.partition_ids().filter(|p| live.is_mine(*p));
        let owned = mine.map(|partition| {
            let owners = live
                .owners(partition)
                .iter()
                .map(|owner| live.store(*owner));
            Acquisition {
                partition,
                from: owners.filter(|owner| *owner != self.store).collect(),
            }
        });
        owned.collect()
    }

    /// The owners of `partition` by all live layouts, each once.
    pub fn owners_everywhere(&self, partition: PartitionId) -> BTreeSet<StoreId> {
        let of = |live: &Live| {
            let owners = live.owners(partition).to_vec().into_iter();
            owners.map(|owner| live.store(owner)).collect::<Vec<_>>()
        };
        self.live.iter().flat_map(of).collect()
    }

    /// Whether this store tells another owner what it holds of `partition`: both own it by the oldest live layout, `epoch`.
    pub fn repairs(&self, partition: PartitionId, epoch: Epoch) -> bool {
        self.oldest_epoch() == epoch && self.live[0].is_mine(partition)
    }

    /// What this store owns by the layout that it reads from, each with the stores of those other owners there that take part.
    pub fn shared(&self) -> Vec<Acquisition> {
        let live = &self.live[self.read];
        let mine = live.layout.partition_ids().filter(|p| live.is_mine(*p));
        let shared = mine.map(|partition| {
            let owners = live.owners(partition).iter();
            let stores = owners.map(|owner| live.store(*owner));
            let takes_part =
                |store: &StoreId| *store != self.store && self.present(*store).is_some();
            Acquisition {
                partition,
                from: stores.filter(takes_part).collect(),
            }
        });
        shared.collect()
    }

    /// Whether this store exchanges `partition` with those who read from the layout `epoch`: it owns it there, and has it.
    pub fn exchanges(&self, partition: PartitionId, epoch: Epoch) -> bool {
        let mut known = self.live[..self.answers].iter();
        known.any(|live| live.layout.epoch() == epoch && live.is_mine(partition))
    }

    /// Whether the copy of a store counts toward R, as far as this node has heard.
    pub fn counts(&self, store: StoreId, partition: PartitionId) -> bool {
        let unsynced = self.unsynced.get(&store);
        unsynced.is_none_or(|unsynced| is_counted(unsynced, partition))
    }

    /// Whether this store owns `partition` by a live layout.
    pub fn owns(&self, partition: PartitionId) -> bool {
        self.live.iter().any(|live| live.is_mine(partition))
    }

    /// How many of `partitions`, as a store has told them, it owns by a live layout: what it owned before, or has never owned, nobody
    /// receives anew. A store that lost its disk names all.
    pub fn count_owned(&self, store: StoreId, partitions: impl Iterator<Item = u32>) -> usize {
        let known = self.layout().partitions();
        let owned = |partition: &u32| {
            let partition = PartitionId(*partition);
            self.live.iter().any(|live| live.is_of(store, partition))
        };
        partitions.filter(|p| *p < known).filter(owned).count()
    }

    /// Whether that member, of the layout that this node reads from, owns `partition` by every live layout.
    pub fn owns_throughout(&self, member: usize, partition: PartitionId) -> bool {
        let store = self.layout().members()[member].store_id;
        self.live.iter().all(|live| live.is_of(store, partition))
    }

    /// Whether this store refuses a write that was counted at `epoch`: it knows a newer one that the writer did not.
    pub fn refuses_write(&self, epoch: Epoch) -> bool {
        self.history.refuses_write(self.store, epoch) && !is_planted(Mutant::AcceptStaleEpoch)
    }

    /// Whether this store's copy of `partition` counts toward R: it is synced, and an owner by a layout whose partitions it has.
    pub fn answers_reads(&self, partition: PartitionId) -> bool {
        let mut answered = self.live[..self.answers].iter();
        let is_mine = answered.any(|live| live.is_mine(partition));
        is_mine && is_counted(&self.own_unsynced, partition) && !self.has_missed(partition)
    }

    /// The same with another word of this store of its own copies.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn with_own_unsynced(&self, own: BTreeSet<PartitionId>) -> Result<View, ViewError> {
        let mut unsynced = self.unsynced.clone();
        unsynced.insert(self.store, own);
        self.with_unsynced(&unsynced)
    }

    /// The partitions whose copy on that member does not count toward R.
    pub fn unsynced(&self, member: usize) -> &BTreeSet<PartitionId> {
        &self.of_readers[member]
    }

    /// The same by store.
    pub fn unsynced_of(&self, store: StoreId) -> Option<&BTreeSet<PartitionId>> {
        self.unsynced.get(&store)
    }
}

/// The partitions whose copy in `store` does not count toward R.
pub fn own_unsynced(store: &Store) -> BTreeSet<PartitionId> {
    store.unsynced().into_iter().map(PartitionId).collect()
}

fn is_counted(unsynced: &BTreeSet<PartitionId>, partition: PartitionId) -> bool {
    is_planted(Mutant::CountUnsynced) || unsynced.is_empty() || !unsynced.contains(&partition)
}

#[cfg(test)]
mod tests;
