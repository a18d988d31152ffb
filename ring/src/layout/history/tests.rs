//! Tests of the rules by which a change of layouts goes on. `tests/model` shows that together they keep I3.

use super::*;
use crate::{
    Change, Member, NodeName, PartitionId, Placement, acquired, apply,
    testing::{Kind as Family, sized},
};

fn founding() -> Decree {
    Decree::founding(sized(16, 3, Family::Equal.members(0, 3)))
}

fn newcomer() -> Member {
    Family::Equal.member(0, 3)
}

fn joining() -> History {
    let placing = apply(&founding(), &[Change::Add(newcomer())]).expect("fits");
    History::new(Arc::new(placing))
}

fn stores(history: &History) -> Vec<StoreId> {
    history.decree().present().keys().copied().collect()
}

fn at(ack: u64, merged: u64, flipped: u64) -> Trackers {
    Trackers {
        ack: Epoch(ack),
        merged: Epoch(merged),
        flipped: Epoch(flipped),
    }
}

#[test]
fn one_layout_is_settled() {
    let history = History::new(Arc::new(founding()));
    for store in stores(&history) {
        assert_eq!(history.step(store), Step::Settled);
        assert_eq!(history.read_layout(store).epoch(), Epoch(1));
    }
    assert_eq!(history.step(newcomer().store_id), Step::Out);
    assert_eq!(history.written().len(), 1);
}

#[test]
fn each_store_goes_step_by_step_and_waits_for_all() {
    let mut history = joining();
    let all = stores(&history);
    for store in &all {
        assert_eq!(history.step(*store), Step::Acknowledge(Epoch(2)));
        assert!(history.hear(*store, at(2, 1, 1)));
        assert_eq!(history.step(*store), Step::Merge(Epoch(2)));
    }
    for (done, store) in all.iter().enumerate() {
        assert!(history.hear(*store, at(2, 2, 1)));
        let waits = Step::Wait(all[done + 1..].to_vec());
        let last = done + 1 == all.len();
        assert_eq!(
            history.step(*store),
            if last { Step::Flip(Epoch(2)) } else { waits }
        );
    }
    for (done, store) in all.iter().enumerate() {
        assert_eq!(history.client_layout().epoch(), Epoch(1));
        assert_eq!(history.read_layout(*store).epoch(), Epoch(1));
        assert!(history.hear(*store, at(2, 2, 2)));
        assert_eq!(history.read_layout(*store).epoch(), Epoch(2));
        assert_eq!(
            history.written().len(),
            2,
            "until all have flipped, and it is decreed"
        );
        match history.step(*store) {
            Step::Wait(behind) => assert_eq!(behind, all[done + 1..]),
            Step::Retire(decree) => {
                assert_eq!(done + 1, all.len());
                assert_eq!(history.judge(&decree), Ok(Kind::Retires));
                history.adopt(Arc::new(*decree)).expect("the only one");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(history.written().len(), 1);
    assert_eq!(history.client_layout().epoch(), Epoch(2));
    assert!(
        all.iter()
            .all(|store| history.step(*store) == Step::Settled)
    );
}

#[test]
fn writes_are_taken_by_acknowledged_layouts_and_refused_from_older_epochs() {
    let mut history = joining();
    let store = newcomer().store_id;
    let taken = |history: &History| history.takes_writes_by(store).count();
    assert_eq!(
        (taken(&history), history.refuses_write(store, Epoch(1))),
        (1, false)
    );
    history.hear(store, at(2, 1, 1));
    assert_eq!(
        (taken(&history), history.refuses_write(store, Epoch(1))),
        (2, true)
    );
    assert!(!history.refuses_write(store, Epoch(2)));
    let answered = |history: &History| history.answers_reads_by(store).count();
    assert_eq!(answered(&history), 1, "not before all is merged");
    history.hear(store, at(2, 2, 1));
    assert_eq!(answered(&history), 2);
}

#[test]
fn what_is_heard_late_twice_disordered_or_of_strangers_changes_nothing() {
    let mut history = joining();
    let store = stores(&history)[0];
    assert!(history.hear(store, at(2, 2, 1)));
    assert!(!history.hear(store, at(2, 1, 1)));
    assert!(!history.hear(store, at(2, 2, 1)));
    assert!(!history.hear(store, at(2, 3, 4)));
    assert!(!history.hear(StoreId(99), at(2, 2, 2)));
    assert_eq!(history.trackers_of(store), at(2, 2, 1));
}

#[test]
fn an_older_decree_is_ignored_and_a_second_one_for_an_epoch_is_an_alarm() {
    let mut history = joining();
    let known = history.decree().clone();
    assert_eq!(history.adopt(Arc::new(founding())), Ok(false));
    assert_eq!(history.adopt(known.clone()), Ok(false));
    let other = apply(&founding(), &[Change::Add(Family::Equal.member(0, 4))]).expect("fits");
    assert_eq!(history.adopt(Arc::new(other)), Err(TwoDecrees(Epoch(2))));
    assert_eq!(history.decree(), &known);
}

#[test]
fn amendments_keep_the_trackers_and_a_new_store_starts_over() {
    let mut history = joining();
    let all = stores(&history);
    all.iter()
        .for_each(|store| assert!(history.hear(*store, at(2, 2, 1))));
    let lost = history.decree().newest().members()[0].clone();
    let changes = [Change::NewStore {
        name: lost.name.clone(),
        store_id: StoreId(77),
    }];
    let amended = apply(history.decree(), &changes).expect("fits while two layouts are live");
    assert_eq!(history.judge(&amended), Ok(Kind::Amends));
    history.adopt(Arc::new(amended)).expect("the only one");
    assert_eq!(history.step(lost.store_id), Step::Out);
    assert_eq!(history.trackers_of(StoreId(77)), at(1, 1, 1));
    assert_eq!(history.step(StoreId(77)), Step::Acknowledge(Epoch(2)));
    let kept = all
        .iter()
        .find(|store| **store != lost.store_id)
        .expect("others");
    assert_eq!(history.trackers_of(*kept), at(2, 2, 1));
    assert_eq!(history.step(*kept), Step::Wait(vec![StoreId(77)]));
}

#[test]
fn an_excused_member_holds_up_nothing() {
    let mut history = joining();
    let off = history.decree().newest().members()[1].clone();
    let present: Vec<StoreId> = stores(&history)
        .into_iter()
        .filter(|store| *store != off.store_id)
        .collect();
    present
        .iter()
        .for_each(|store| assert!(history.hear(*store, at(2, 2, 1))));
    assert_eq!(history.step(present[0]), Step::Wait(vec![off.store_id]));
    let amended = apply(history.decree(), &[Change::Excuse(off.name.clone())]).expect("fits");
    history.adopt(Arc::new(amended)).expect("the only one");
    assert_eq!(history.step(off.store_id), Step::Out);
    for store in &present {
        assert_eq!(history.step(*store), Step::Flip(Epoch(2)));
    }
    present
        .iter()
        .for_each(|store| assert!(history.hear(*store, at(2, 2, 2))));
    let Step::Retire(decree) = history.step(present[0]) else {
        panic!("all that are left have flipped");
    };
    assert!(
        decree.excused().contains_key(&off.store_id),
        "it is a member still"
    );
}

#[test]
fn a_partition_comes_from_old_owners_past_their_ack() {
    let mut history = joining();
    let place = |layout| Placement::compute(layout).expect("small enough");
    let (old, new) = (
        history.decree().oldest().clone(),
        history.decree().newest().clone(),
    );
    let mine = acquired((&old, &place(&old)), (&new, &place(&new)), &newcomer().name);
    assert!(!mine.is_empty());
    for acquisition in &mine {
        assert_eq!(
            history.sources(acquisition),
            Sources::Wait(acquisition.from.clone())
        );
    }
    let from = mine[0].from.clone();
    history.hear(from[1], at(2, 1, 1));
    assert_eq!(
        history.sources(&mine[0]),
        Sources::Wait(vec![from[0], from[2]])
    );
    for store in &from {
        history.hear(*store, at(2, 2, 1));
    }
    let (stores, counting) = (from, 2);
    assert_eq!(
        history.sources(&mine[0]),
        Sources::From { stores, counting }
    );
}

#[test]
fn what_too_few_old_owners_are_left_to_vouch_for_needs_the_operators_word() {
    let mut history = joining();
    let acquisition = Acquisition {
        partition: PartitionId(0),
        from: history
            .decree()
            .oldest()
            .members()
            .iter()
            .map(|m| m.store_id)
            .collect(),
    };
    let names: Vec<NodeName> = history
        .decree()
        .oldest()
        .members()
        .iter()
        .map(|m| m.name.clone())
        .collect();
    let decide = |history: &mut History, change: Change| {
        let amended = apply(history.decree(), &[change]).expect("fits");
        history.adopt(Arc::new(amended)).expect("the only one");
    };
    for store in &acquisition.from {
        history.hear(*store, at(2, 1, 1));
    }
    decide(&mut history, Change::Excuse(names[0].clone()));
    // Two of three still meet every write that two acknowledged.
    assert_eq!(
        history.sources(&acquisition),
        Sources::From {
            stores: acquisition.from[1..].to_vec(),
            counting: 2
        }
    );
    decide(&mut history, Change::Excuse(names[1].clone()));
    assert_eq!(
        history.sources(&acquisition),
        Sources::Lost(acquisition.from[..2].to_vec())
    );
    decide(&mut history, Change::AcceptLoss(names[0].clone()));
    assert_eq!(
        history.sources(&acquisition),
        Sources::Lost(vec![acquisition.from[1]])
    );
    decide(&mut history, Change::AcceptLoss(names[1].clone()));
    assert_eq!(
        history.sources(&acquisition),
        Sources::From {
            stores: vec![acquisition.from[2]],
            counting: 1
        }
    );
}
