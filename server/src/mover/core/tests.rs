//! A change of layouts, seen by the worker of one node.

use std::{collections::BTreeMap, sync::Arc};

use ringfort_ring::{
    Change, Epoch, Excuse, Layout, Member, NodeName, Placement, PlacementId, acquired, apply,
};

use super::*;

fn member(n: u64) -> Member {
    Member {
        name: NodeName::new(format!("n{n}")).expect("valid"),
        placement_id: PlacementId(n),
        store_id: StoreId(n),
        tokens: 256,
        zone: String::new(),
        client_addr: format!("n{n}:1"),
        peer_addr: format!("n{n}:2"),
        http_addr: format!("n{n}:3"),
    }
}

/// Node 4 of four is removed.
fn removal() -> Decree {
    let members = (1..=4).map(member).collect();
    let layout = Layout::new(Epoch(1), 16, 3, members).expect("valid");
    let change = Change::Remove(member(4).name);
    apply(&Decree::founding(layout), &[change]).expect("fits")
}

/// The worker of one node, with what it has said to be synced.
struct Worker {
    history: History,
    me: StoreId,
    acquired: Vec<Acquisition>,
    synced: BTreeSet<PartitionId>,
    /// What others have said not to count.
    uncounted: BTreeSet<(StoreId, PartitionId)>,
    /// What lacks nothing but records that were damaged.
    damaged: BTreeSet<PartitionId>,
}

impl Worker {
    fn new(me: u64) -> Worker {
        let decree = removal();
        let place = |layout: &Layout| Placement::compute(layout).expect("small");
        let (old, new) = (decree.oldest(), decree.newest());
        let (before, after) = (place(old), place(new));
        Worker {
            acquired: acquired((old, &before), (new, &after), &member(me).name),
            history: History::new(Arc::new(decree)),
            me: StoreId(me),
            synced: BTreeSet::new(),
            uncounted: BTreeSet::new(),
            damaged: BTreeSet::new(),
        }
    }

    fn next(&self) -> Task {
        next(&Known {
            history: &self.history,
            me: self.me,
            acquired: &self.acquired,
            owned: &[],
            is_synced: &|partition| self.synced.contains(&partition),
            is_damaged: &|partition| self.damaged.contains(&partition),
            counts: &|store, partition| !self.uncounted.contains(&(store, partition)),
        })
    }

    fn hear(&mut self, store: u64, [ack, merged, flipped]: [u64; 3]) {
        let trackers = Trackers {
            ack: Epoch(ack),
            merged: Epoch(merged),
            flipped: Epoch(flipped),
        };
        assert!(self.history.hear(StoreId(store), trackers));
    }

    fn receiving(&self) -> Receiving {
        match self.next() {
            Task::Receive(receiving) => receiving,
            other => panic!("{other:?}"),
        }
    }
}

fn trackers(ack: u64, merged: u64, flipped: u64) -> Trackers {
    Trackers {
        ack: Epoch(ack),
        merged: Epoch(merged),
        flipped: Epoch(flipped),
    }
}

#[test]
fn a_change_is_gone_through_step_by_step() {
    let mut worker = Worker::new(1);
    let given: Vec<PartitionId> = worker.acquired.iter().map(|a| a.partition).collect();
    assert!(!given.is_empty());
    // What was synced before does not count: it is erased.
    assert_eq!(
        worker.next(),
        Task::Acknowledge(given.clone(), trackers(2, 1, 1))
    );
    worker.hear(1, [2, 1, 1]);
    let receiving = worker.receiving();
    assert!(receiving.ready.is_empty(), "nobody else has acknowledged");
    let old: BTreeSet<StoreId> = worker
        .acquired
        .iter()
        .flat_map(|a| a.from.clone())
        .collect();
    assert_eq!(receiving.waits_for, old);
    for store in [2, 3, 4] {
        worker.hear(store, [2, 1, 1]);
    }
    let receiving = worker.receiving();
    let ready: Vec<PartitionId> = receiving.ready.iter().map(|r| r.partition).collect();
    assert_eq!((ready, receiving.waits_for.len()), (given.clone(), 0));
    let firsts: BTreeSet<StoreId> = receiving.ready.iter().map(|r| r.from[0]).collect();
    assert!(firsts.len() > 1, "each streams its share");
    // A crash: what is synced is not received again.
    worker.synced.extend(given[1..].iter().copied());
    assert_eq!(worker.receiving().ready.len(), 1);
    worker.synced.insert(given[0]);
    assert_eq!(worker.next(), Task::Merged(trackers(2, 2, 1)));
    worker.hear(1, [2, 2, 1]);
    assert_eq!(worker.next(), Task::Rest);
    for store in [2, 3] {
        worker.hear(store, [2, 2, 1]);
    }
    // The one that leaves need not have merged: nothing is given to it.
    assert_eq!(worker.next(), Task::Flip(trackers(2, 2, 2)));
    for store in [1, 2, 3] {
        worker.hear(store, [2, 2, 2]);
    }
    assert_eq!(worker.next(), Task::Rest, "the one that leaves still reads");
    worker.hear(4, [2, 2, 2]);
    let Task::Retire(decree) = worker.next() else {
        panic!("{:?}", worker.next());
    };
    assert_eq!((decree.epoch(), decree.live().len()), (Epoch(3), 1));
    worker.history.adopt(Arc::from(decree)).expect("follows");
    assert_eq!(worker.next(), Task::Rest);
}

#[test]
fn the_one_that_leaves_receives_nothing_and_is_out_in_the_end() {
    let mut worker = Worker::new(4);
    assert_eq!(
        worker.next(),
        Task::Acknowledge(Vec::new(), trackers(2, 1, 1))
    );
    worker.hear(4, [2, 1, 1]);
    assert_eq!(worker.next(), Task::Merged(trackers(2, 2, 1)));
    let newest = worker.history.decree().newest().clone();
    let retired = Decree::new(Epoch(3), vec![newest], BTreeMap::new()).expect("valid");
    worker.history.adopt(Arc::new(retired)).expect("follows");
    assert_eq!(worker.next(), Task::Out);
}

#[test]
fn what_is_lost_is_told_and_not_made_up() {
    let mut worker = Worker::new(1);
    for store in 1..=4 {
        worker.hear(store, [2, 1, 1]);
    }
    let decree = worker.history.decree();
    let amended = |excuse: Excuse, epoch: u64| {
        let excused = BTreeMap::from([(StoreId(2), excuse), (StoreId(4), excuse)]);
        Decree::new(Epoch(epoch), decree.live().to_vec(), excused).expect("valid")
    };
    let (off, lost) = (amended(Excuse::Off, 3), amended(Excuse::Lost, 4));
    let of_both = |a: &&Acquisition| a.from.contains(&StoreId(2)) && a.from.contains(&StoreId(4));
    let both: Vec<PartitionId> = worker
        .acquired
        .iter()
        .filter(of_both)
        .map(|a| a.partition)
        .collect();
    assert!(!both.is_empty(), "some had their owners there");
    worker.history.adopt(Arc::new(off)).expect("follows");
    assert_eq!(worker.receiving().lost, both);
    worker.history.adopt(Arc::new(lost)).expect("follows");
    let receiving = worker.receiving();
    assert_eq!(receiving.lost, []);
    let one = receiving.ready.iter().find(|r| r.partition == both[0]);
    assert_eq!(one.expect("from who is left").from, [StoreId(3)]);
}

#[test]
fn a_partition_is_streamed_from_one_and_compared_with_the_others() {
    let from = [StoreId(2), StoreId(3), StoreId(4)];
    let ask = |store, whole, after: &[u8]| {
        Some(Ask {
            store: StoreId(store),
            whole,
            after: after.to_vec(),
        })
    };
    let mut stage = Stage::default();
    assert_eq!(stage.next(&from), ask(2, true, b""));
    stage.advance(StoreId(2), b"k1", 7, true);
    assert_eq!(stage.next(&from), ask(2, true, b"k1"));
    // It is excused meanwhile: the next one is begun with, and nothing of what came counts as through.
    assert_eq!(stage.next(&from[1..]), ask(3, true, b""));
    stage.advance(StoreId(3), b"", 9, true);
    assert_eq!(stage.next(&from), ask(2, false, b""));
    stage.advance(StoreId(2), b"k1", 0, false);
    assert_eq!(stage.next(&from), ask(2, false, b"k1"));
    stage.advance(StoreId(2), b"", 8, true);
    assert_eq!(stage.next(&from), ask(4, false, b""));
    stage.advance(StoreId(4), b"", 0, true);
    assert_eq!((stage.next(&from), stage.sequence), (None, 9));
    assert!(stage.suffices(&from, 2));
    assert!(!stage.suffices(&from, 3), "a page of 2 was not whole");
    assert_eq!(stage.next(&from), ask(2, false, b""), "it is asked again");
    stage.advance(StoreId(2), b"", 0, true);
    assert!(stage.next(&from).is_none() && stage.suffices(&from, 3));
    assert_eq!(Stage::default().next(&[]), None, "nobody is left");
}

#[test]
fn an_old_owner_that_lacks_something_is_not_enough() {
    let mut worker = Worker::new(1);
    for store in 1..=4 {
        worker.hear(store, [2, 1, 1]);
    }
    let acquisition = worker.acquired[0].clone();
    let partition = acquisition.partition;
    worker.uncounted.insert((acquisition.from[0], partition));
    assert_eq!(worker.receiving().lost, [], "two of three do");
    worker.uncounted.insert((acquisition.from[1], partition));
    assert_eq!(worker.receiving().lost, [partition]);
}

/// Who has lost records waits for nobody: what they were is told by the tree.
#[test]
fn lost_records_are_asked_of_whoever_may_have_them() {
    let mut worker = Worker::new(1);
    for store in 1..=4 {
        worker.hear(store, [2, 1, 1]);
    }
    let acquisition = worker.acquired[0].clone();
    let partition = acquisition.partition;
    worker.damaged.insert(partition);
    let of = |worker: &Worker| {
        let receiving = worker.receiving();
        assert!(!receiving.lost.contains(&partition));
        let mut ready = receiving.ready.into_iter();
        let mut receipt = ready.find(|r| r.partition == partition).expect("it is");
        receipt.from.sort();
        receipt
    };
    let mut all = acquisition.from.clone();
    all.sort();
    let first = of(&worker);
    assert_eq!((first.damage, &first.from), (Damage::First, &all));
    let uncounted = acquisition.from[..2].iter();
    worker
        .uncounted
        .extend(uncounted.map(|store| (*store, partition)));
    let only = of(&worker);
    assert_eq!((only.damage, &only.from), (Damage::Only, &all));
    let decree = worker.history.decree();
    let excused = all[..2].iter().map(|store| (*store, Excuse::Off));
    let excused = Decree::new(Epoch(3), decree.live().to_vec(), excused.collect());
    let excused = Arc::new(excused.expect("valid"));
    worker.history.adopt(excused).expect("follows");
    let only = of(&worker);
    assert_eq!((only.damage, &only.from[..]), (Damage::Only, &all[2..]));
}

/// Of what this store owns already.
#[test]
fn what_is_missing_is_asked_of_all_other_owners() {
    let members = (1..=3).map(member).collect();
    let layout = Layout::new(Epoch(1), 16, 3, members).expect("valid");
    let founded = Decree::founding(layout);
    let partition = PartitionId(1);
    let task = |decree: &Decree, from: &[u64], synced: &[u64]| {
        let owned = Acquisition {
            partition,
            from: from.iter().copied().map(StoreId).collect(),
        };
        next(&Known {
            history: &History::new(Arc::new(decree.clone())),
            me: StoreId(1),
            acquired: &[],
            owned: &[owned],
            is_synced: &|_| synced.contains(&1),
            counts: &|store, _| synced.contains(&store.0),
            is_damaged: &|_| false,
        })
    };
    let lost = Task::Repair(Receiving {
        lost: vec![partition],
        ..Receiving::default()
    });
    let Task::Repair(Receiving { ready, .. }) = task(&founded, &[2, 3], &[2, 3]) else {
        panic!("both others hold it");
    };
    assert_eq!((ready.len(), ready[0].counting), (1, 2));
    let mut from = ready[0].from.clone();
    from.sort();
    assert_eq!(from, [StoreId(2), StoreId(3)]);
    assert_eq!(task(&founded, &[2, 3], &[1, 2, 3]), Task::Rest);
    assert_eq!(
        task(&founded, &[2, 3], &[3]),
        lost,
        "2 may know what 3 does not"
    );
    assert_eq!(task(&founded, &[], &[]), lost, "nobody can tell");
    let excused = apply(&founded, &[Change::Excuse(member(3).name)]).expect("fits");
    assert_eq!(task(&excused, &[2, 3], &[2]), lost);
    let accepted = apply(&founded, &[Change::AcceptLoss(member(3).name)]).expect("fits");
    let Task::Repair(Receiving { ready, .. }) = task(&accepted, &[2, 3], &[2]) else {
        panic!("the operator has accepted what 3 alone may have known");
    };
    assert_eq!(
        (&ready[0].from[..], ready[0].counting),
        (&[StoreId(2)][..], 1)
    );
}
