//! What this node knows of the cluster while it serves a request.
//!
//! Keeps I6 (owners come from the layouts alone, never from who is alive) and gives I9 its cluster id and epoch. The rules of
//! I3 across a change of layouts are [`History`]'s; here they are looked up by partition.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use ringfort_ring::{
    Acquisition, ClusterId, Epoch, History, LIVE_MAX, Layout, Member, PartitionId, Placement,
    PlacementError, StoreId, acquired,
};
use ringfort_storage::{
    Store,
    mutants::{Mutant, is_planted},
};
use tokio::sync::watch;

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

    /// This node's place among this layout's members, if it is one.
    pub fn me(&self) -> Option<usize> {
        self.me
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
        Self::make(cluster, history, store, unsynced, &[])
    }

    /// Placements of layouts that are `known` are taken from there: a decree that amends leaves owners as they are.
    fn make(
        cluster: ClusterId,
        history: &History,
        store: StoreId,
        unsynced: &Unsynced,
        known: &[Live],
    ) -> Result<Self, ViewError> {
        let live = history.decree().live().iter().map(|layout| {
            let same = known.iter().find(|k| k.layout.epoch() == layout.epoch());
            Ok(Live {
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
            answers: history.answers_reads_by(store).count(),
            of_readers: {
                let members = live[read].layout.members().iter();
                members.map(|member| of(&member.store_id)).collect()
            },
            own_unsynced: of(&store),
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
            &self.live,
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
            &self.live,
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
        self.live[self.read].is_mine(partition) && is_counted(&self.own_unsynced, partition)
    }

    /// Whether this store takes writes to `partition`: it is an owner by a layout that it has acknowledged.
    pub fn takes_writes(&self, partition: PartitionId) -> bool {
        let mut taken = self.live[..self.writes].iter();
        taken.any(|live| live.is_mine(partition))
    }

    /// Whether enough owners of `partition` are known to take writes, by each live layout: `needs` of them, the older layout
    /// first. One that is given the partition takes none before it has acknowledged the layout.
    pub fn is_taken(&self, partition: PartitionId, needs: [u32; LIVE_MAX]) -> bool {
        let [older, newer] = &self.live[..] else {
            return true;
        };
        let store = |live: &Live, owner: u16| live.layout.members()[usize::from(owner)].store_id;
        let before: Vec<StoreId> = older
            .owners(partition)
            .iter()
            .map(|o| store(older, *o))
            .collect();
        let takes = |owner: &&u16| {
            let store = store(newer, **owner);
            let acknowledged = self.history.trackers_of(store).ack >= newer.layout.epoch();
            acknowledged || before.contains(&store)
        };
        newer.owners(partition).iter().filter(takes).count() as u32 >= needs[1]
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

    /// What this store owns by the only live layout, each with the stores of its other owners; nothing while two are live.
    pub fn owned(&self) -> Vec<Acquisition> {
        let [live] = &self.live[..] else {
            return Vec::new();
        };
        let store = |owner: &u16| live.layout.members()[usize::from(*owner)].store_id;
        let mine = live.layout.partition_ids().filter(|p| live.is_mine(*p));
        let owned = mine.map(|partition| {
            let owners = live.owners(partition).iter().map(store);
            Acquisition {
                partition,
                from: owners.filter(|owner| *owner != self.store).collect(),
            }
        });
        owned.collect()
    }

    /// Whether this store tells another owner what it holds of `partition`, by the only live layout: all that it should.
    pub fn repairs(&self, partition: PartitionId, epoch: Epoch) -> bool {
        let is_live = self.live.len() == 1 && self.layout().epoch() == epoch;
        is_live && self.answers_reads(partition)
    }

    /// Whether this store owns `partition` by a live layout.
    pub fn owns(&self, partition: PartitionId) -> bool {
        self.live.iter().any(|live| live.is_mine(partition))
    }

    /// Whether that member, of the layout that this node reads from, owns `partition` by every live layout.
    pub fn owns_throughout(&self, member: usize, partition: PartitionId) -> bool {
        let store = self.layout().members()[member].store_id;
        self.live.iter().all(|live| {
            let mut owners = live.owners(partition).iter();
            owners.any(|owner| live.layout.members()[usize::from(*owner)].store_id == store)
        })
    }

    /// Whether this store refuses a write that was counted at `epoch`: it knows a newer one that the writer did not.
    pub fn refuses_write(&self, epoch: Epoch) -> bool {
        self.history.refuses_write(self.store, epoch) && !is_planted(Mutant::AcceptStaleEpoch)
    }

    /// Whether this store's copy of `partition` counts toward R: it is synced, and an owner by a layout whose partitions it has.
    pub fn answers_reads(&self, partition: PartitionId) -> bool {
        let mut answered = self.live[..self.answers].iter();
        answered.any(|live| live.is_mine(partition)) && is_counted(&self.own_unsynced, partition)
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

/// The current [`View`], shared by all parts of a node.
#[derive(Debug, Clone)]
pub struct Views(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    view: watch::Sender<Arc<View>>,
    /// Held for reading while work is done by a view.
    work: RwLock<()>,
}

/// The view by which a piece of work is done: [`Views::update`] waits for its end. Not to be kept over anything that waits.
pub struct Held<'a> {
    view: Arc<View>,
    _work: RwLockReadGuard<'a, ()>,
}

impl std::ops::Deref for Held<'_> {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Views {
    /// Starts with `view`.
    pub fn new(view: View) -> Self {
        Views(Arc::new(Shared {
            view: watch::Sender::new(Arc::new(view)),
            work: RwLock::new(()),
        }))
    }

    /// The view now.
    pub fn current(&self) -> Arc<View> {
        Arc::clone(&self.0.view.borrow())
    }

    /// The view now, to store or to answer by: whoever replaces it waits until this is dropped. Never taken twice at a time.
    pub fn enter(&self) -> Held<'_> {
        let work = self.0.work.read().unwrap_or_else(PoisonError::into_inner);
        Held {
            view: self.current(),
            _work: work,
        }
    }

    /// Makes `view` the current one.
    pub fn replace(&self, view: View) {
        self.update(|_| Some(view));
    }

    /// Replaces the current view by what `change` makes of it, if anything; nobody else does meanwhile. When this returns,
    /// all work that was [entered](Self::enter) by an older view has ended: what it stored is stored, and what a promise rules
    /// out happens no more. That is what makes the promise (I3) one that can be told.
    pub fn update(&self, change: impl FnOnce(&View) -> Option<View>) {
        let changed = self.0.view.send_if_modified(|view| match change(view) {
            Some(new) => {
                *view = Arc::new(new);
                true
            }
            None => false,
        });
        if changed {
            drop(self.0.work.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Replaces what is known of this node's own copies by what `read` gives, which is read while nobody else replaces it.
    pub fn set_own_unsynced(&self, read: impl FnOnce() -> BTreeSet<PartitionId>) {
        self.update(|view| {
            let view = view.with_own_unsynced(read());
            view.inspect_err(
                |error| tracing::error!(%error, "a view that was fine is none any more: a bug"),
            )
            .ok()
        });
    }

    /// Told of every replacement.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.0.view.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use ringfort_ring::{Decree, NodeName, PlacementId, Trackers};

    use super::*;

    fn name(n: u64) -> NodeName {
        NodeName::new(format!("n{n}")).expect("valid")
    }

    fn layout(epoch: u64, members: std::ops::Range<u64>) -> Layout {
        let member = |n| Member {
            name: name(n),
            placement_id: PlacementId(n),
            store_id: StoreId(n),
            tokens: 256,
            zone: String::new(),
            client_addr: String::new(),
            peer_addr: String::new(),
            http_addr: String::new(),
        };
        Layout::new(Epoch(epoch), 8, 2, members.map(member).collect()).expect("valid")
    }

    fn founded() -> History {
        History::new(Arc::new(Decree::founding(layout(1, 0..3))))
    }

    /// Node 3 joins.
    fn joining() -> History {
        let live = vec![layout(1, 0..3), layout(2, 0..4)];
        let decree = Decree::new(Epoch(2), live, BTreeMap::new()).expect("valid");
        History::new(Arc::new(decree))
    }

    fn through(history: &mut History, store: u64, [ack, merged, flipped]: [u64; 3]) {
        let trackers = Trackers {
            ack: Epoch(ack),
            merged: Epoch(merged),
            flipped: Epoch(flipped),
        };
        assert!(history.hear(StoreId(store), trackers));
    }

    fn view(history: &History, store: u64) -> View {
        View::new(ClusterId(1), history, StoreId(store), &BTreeMap::new()).expect("listed")
    }

    #[test]
    fn unsynced_partitions_are_kept_by_member() {
        let unsynced = BTreeMap::from([(StoreId(1), BTreeSet::from([PartitionId(3)]))]);
        let view = View::new(ClusterId(1), &founded(), StoreId(2), &unsynced).expect("placed");
        assert_eq!(
            (view.me(), view.my_member()),
            (Some(2), view.layout().member(&name(2)))
        );
        assert!(!view.is_synced(1, PartitionId(3)));
        assert!(view.is_synced(1, PartitionId(4)) && view.is_synced(0, PartitionId(3)));
        assert_eq!(view.owners(PartitionId(0)).len(), 2);
        let partitions = view.layout().partition_ids();
        let mine: Vec<_> = partitions.filter(|&p| view.coordinates(p)).collect();
        assert!(
            !mine.is_empty() && mine.len() < 8,
            "two of three nodes own each"
        );
        assert!(mine.iter().all(|&p| view.answers_reads(p)));
        assert!(mine.iter().all(|&p| view.takes_writes(p)));
        assert!(view.refuses_write(Epoch(0)) && !view.refuses_write(Epoch(1)));
        let all = view.layout().partition_ids().collect();
        let none = view
            .with_unsynced(&BTreeMap::from([(StoreId(2), all)]))
            .expect("a member");
        assert!(
            !mine
                .iter()
                .any(|&p| none.coordinates(p) || none.answers_reads(p))
        );
        assert!(mine.iter().all(|&p| none.takes_writes(p)));
    }

    #[test]
    fn a_node_that_joins_takes_writes_past_its_ack_and_answers_once_merged() {
        let mut history = joining();
        let new = view(&history, 3);
        assert_eq!(
            (new.epoch(), new.me(), new.live().len()),
            (Epoch(2), None, 2)
        );
        assert_eq!(new.my_member().map(|m| &m.name), Some(&name(3)));
        assert_eq!(new.members().count(), 4);
        let partitions = new.live()[1].layout().partition_ids();
        let given: Vec<_> = partitions.filter(|&p| new.live()[1].is_mine(p)).collect();
        assert!(!given.is_empty());
        let none = |can: &dyn Fn(PartitionId) -> bool| !given.iter().any(|&p| can(p));
        let all = |can: &dyn Fn(PartitionId) -> bool| given.iter().all(|&p| can(p));
        assert!(none(&|p| new.takes_writes(p)) && !new.refuses_write(Epoch(1)));
        through(&mut history, 3, [2, 1, 1]);
        let acked = new.with_history(&history).expect("listed");
        assert!(all(&|p| acked.takes_writes(p)) && acked.refuses_write(Epoch(1)));
        assert!(none(&|p| acked.answers_reads(p)));
        through(&mut history, 3, [2, 2, 1]);
        let merged = new.with_history(&history).expect("listed");
        assert!(all(&|p| merged.answers_reads(p)) && none(&|p| merged.coordinates(p)));
        through(&mut history, 3, [2, 2, 2]);
        let flipped = new.with_history(&history).expect("listed");
        assert!(all(&|p| flipped.coordinates(p)));
        assert_eq!(flipped.layout().epoch(), Epoch(2));
        assert_eq!(flipped.client_layout().epoch(), Epoch(1));
        for store in 0..3 {
            through(&mut history, store, [2, 2, 2]);
        }
        let last = new.with_history(&history).expect("listed");
        assert_eq!(last.client_layout().epoch(), Epoch(2));
    }

    #[test]
    fn an_older_view_of_the_data_stays_with_its_owners_until_they_flip() {
        let mut history = joining();
        let old = view(&history, 0);
        assert_eq!(old.layout().epoch(), Epoch(1));
        through(&mut history, 0, [2, 2, 2]);
        let new = old.with_history(&history).expect("listed");
        assert_eq!(new.layout().epoch(), Epoch(2));
        let partitions = || old.layout().partition_ids();
        let lost: Vec<_> = partitions()
            .filter(|&p| old.coordinates(p) && !new.coordinates(p))
            .collect();
        assert!(!lost.is_empty(), "a joining node takes some over");
        assert!(
            lost.iter()
                .all(|&p| new.takes_writes(p) && new.answers_reads(p))
        );
    }

    #[test]
    fn who_is_no_member_owns_nothing_and_an_excused_store_takes_no_part() {
        let stranger = view(&founded(), 9);
        assert_eq!((stranger.me(), stranger.my_member()), (None, None));
        let can =
            |p| stranger.takes_writes(p) || stranger.answers_reads(p) || stranger.coordinates(p);
        assert!(!stranger.layout().partition_ids().any(can));
        let excused = BTreeMap::from([(StoreId(1), ringfort_ring::Excuse::Off)]);
        let decree = Decree::new(Epoch(2), vec![layout(1, 0..3)], excused).expect("valid");
        let view = view(&History::new(Arc::new(decree)), 0);
        let present = |store| view.present(StoreId(store)).is_some();
        assert!(present(0) && !present(1) && present(2) && !present(9));
        assert_eq!(view.members().count(), 3, "it is listed all the same");
    }
}
