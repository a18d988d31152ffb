//! What this node knows of the cluster while it serves a request.
//!
//! Keeps I6 (owners come from the layout alone, never from who is alive) and gives I9 its cluster id and epoch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringfort_ring::{
    ClusterId, Epoch, Layout, Member, NodeName, PartitionId, Placement, PlacementError,
};
use ringfort_storage::mutants::{Mutant, is_planted};
use tokio::sync::watch;

/// Why a view could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// This node is no member of the layout.
    #[error("{0} is no member of the layout")]
    NotAMember(NodeName),
    /// The layout has no placement.
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

/// One state of the cluster, as this node sees it. Replaced as a whole when anything of it changes.
#[derive(Debug)]
pub struct View {
    cluster: ClusterId,
    layout: Layout,
    placement: Placement,
    me: usize,
    /// By member: the partitions whose copy there does not count toward R.
    unsynced: Vec<BTreeSet<PartitionId>>,
}

impl View {
    /// The view of the member called `me`; `unsynced` names the partitions whose copies do not count toward R.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn new(
        cluster: ClusterId,
        layout: Layout,
        me: &NodeName,
        unsynced: &BTreeMap<NodeName, BTreeSet<PartitionId>>,
    ) -> Result<Self, ViewError> {
        let placement = Placement::compute(&layout)?;
        let me = layout
            .index_of(me)
            .ok_or_else(|| ViewError::NotAMember(me.clone()))?;
        let unsynced = layout
            .members()
            .iter()
            .map(|member| unsynced.get(&member.name).cloned().unwrap_or_default())
            .collect();
        Ok(View {
            cluster,
            layout,
            placement,
            me,
            unsynced,
        })
    }

    /// The same by another state of the layout; what is unsynced stays, by name.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn with_layout(&self, layout: &Layout) -> Result<View, ViewError> {
        let members = self.layout.members().iter().zip(&self.unsynced);
        let unsynced = members
            .map(|(member, unsynced)| (member.name.clone(), unsynced.clone()))
            .collect();
        View::new(
            self.cluster,
            layout.clone(),
            &self.my_member().name,
            &unsynced,
        )
    }

    /// The cluster's id.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The layout that reads are routed by.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The placement of that layout.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The layout's epoch.
    pub fn epoch(&self) -> Epoch {
        self.layout.epoch()
    }

    /// This node's place among the members.
    pub fn me(&self) -> usize {
        self.me
    }

    /// This node, as the layout lists it.
    pub fn my_member(&self) -> &Member {
        &self.layout.members()[self.me]
    }

    /// The member called `name`.
    pub fn member(&self, name: &NodeName) -> Option<&Member> {
        self.layout.member(name)
    }

    /// The owners of a partition, as places among the members, in preference order.
    pub fn owners(&self, partition: PartitionId) -> &[u16] {
        self.placement.owners(partition)
    }

    /// Whether the copy of `partition` on that member counts toward R, as far as this node knows.
    pub fn is_synced(&self, member: usize, partition: PartitionId) -> bool {
        let unsynced = &self.unsynced[member];
        is_planted(Mutant::CountUnsynced) || unsynced.is_empty() || !unsynced.contains(&partition)
    }

    /// Whether this node is an owner of `partition`.
    pub fn is_mine(&self, partition: PartitionId) -> bool {
        self.owners(partition)
            .iter()
            .any(|&owner| usize::from(owner) == self.me)
    }

    /// Whether this node's copy of `partition` counts toward R: it is an owner, and synced.
    pub fn is_mine_and_synced(&self, partition: PartitionId) -> bool {
        self.is_mine(partition) && self.is_synced(self.me, partition)
    }

    /// The partitions whose copy on that member does not count toward R.
    pub fn unsynced(&self, member: usize) -> &BTreeSet<PartitionId> {
        &self.unsynced[member]
    }
}

/// The current [`View`], shared by all parts of a node.
#[derive(Debug, Clone)]
pub struct Views(Arc<watch::Sender<Arc<View>>>);

impl Views {
    /// Starts with `view`.
    pub fn new(view: View) -> Self {
        Views(Arc::new(watch::Sender::new(Arc::new(view))))
    }

    /// The view now.
    pub fn current(&self) -> Arc<View> {
        Arc::clone(&self.0.borrow())
    }

    /// Makes `view` the current one.
    pub fn replace(&self, view: View) {
        self.0.send_replace(Arc::new(view));
    }

    /// Replaces the current view by what `change` makes of it, if anything; nobody else does meanwhile.
    pub fn update(&self, change: impl FnOnce(&View) -> Option<View>) {
        self.0.send_if_modified(|view| match change(view) {
            Some(new) => {
                *view = Arc::new(new);
                true
            }
            None => false,
        });
    }

    /// Told of every replacement.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use ringfort_ring::{PlacementId, StoreId};

    use super::*;

    fn name(n: u64) -> NodeName {
        NodeName::new(format!("n{n}")).expect("valid")
    }

    fn layout() -> Layout {
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
        Layout::new(Epoch(1), 8, 2, (0..3).map(member).collect()).expect("valid")
    }

    #[test]
    fn unsynced_partitions_are_kept_by_member() {
        let unsynced = BTreeMap::from([(name(1), BTreeSet::from([PartitionId(3)]))]);
        let view = View::new(ClusterId(1), layout(), &name(2), &unsynced).expect("a member");
        assert_eq!((view.me(), view.my_member().name.as_str()), (2, "n2"));
        assert!(!view.is_synced(1, PartitionId(3)));
        assert!(view.is_synced(1, PartitionId(4)) && view.is_synced(0, PartitionId(3)));
        assert_eq!(view.owners(PartitionId(0)).len(), 2);
        let mine: Vec<_> = view
            .layout()
            .partition_ids()
            .filter(|&p| view.is_mine(p))
            .collect();
        assert!(
            !mine.is_empty() && mine.len() < 8,
            "two of three nodes own each"
        );
        assert!(mine.iter().all(|&p| view.is_mine_and_synced(p)));
    }

    #[test]
    fn a_stranger_has_no_view() {
        let view = View::new(ClusterId(1), layout(), &name(9), &BTreeMap::new());
        assert!(matches!(view, Err(ViewError::NotAMember(stranger)) if stranger == name(9)));
    }
}
