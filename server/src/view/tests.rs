//! Who takes, answers and coordinates what, as layouts change.

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

/// A store that lost its disk names all partitions, and receives those that it owns.
#[test]
fn what_a_store_lacks_is_counted_among_what_it_owns() {
    let (three, four) = (founded(), joining());
    let (before, joins) = (view(&three, 2), view(&four, 2));
    let owned = |view: &View, store| view.count_owned(StoreId(store), 0..8);
    let of = |store| owned(&before, store);
    assert_eq!(of(2), before.owned().len());
    assert_eq!(of(0) + of(1) + of(2), 8 * 2);
    assert_eq!(of(3), 0, "no member");
    assert!(owned(&joins, 3) > 0 && owned(&joins, 2) == of(2));
    assert_eq!(before.count_owned(StoreId(2), 8..10), 0, "no partitions");
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
    let can = |p| stranger.takes_writes(p) || stranger.answers_reads(p) || stranger.coordinates(p);
    assert!(!stranger.layout().partition_ids().any(can));
    let excused = BTreeMap::from([(StoreId(1), ringfort_ring::Excuse::Off)]);
    let decree = Decree::new(Epoch(2), vec![layout(1, 0..3)], excused).expect("valid");
    let view = view(&History::new(Arc::new(decree)), 0);
    let present = |store| view.present(StoreId(store)).is_some();
    assert!(present(0) && !present(1) && present(2) && !present(9));
    assert_eq!(view.members().count(), 3, "it is listed all the same");
}
