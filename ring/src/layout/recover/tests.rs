//! Tests of recoveries: who goes on, who is fenced, what it costs.

use super::*;
use crate::{
    Change, Epoch, History, Sources, Step, acquired, apply,
    testing::{Kind, sized},
};

const CLUSTER: ClusterId = ClusterId(7);
const PARTITIONS: u32 = 64;

fn decree(members: u32) -> Decree {
    Decree::founding(sized(PARTITIONS, 3, Kind::Equal.members(0, members)))
}

fn name(number: u32) -> NodeName {
    Kind::Equal.member(0, number).name
}

fn store(number: u32) -> StoreId {
    Kind::Equal.member(0, number).store_id
}

fn names(numbers: &[u32]) -> BTreeSet<NodeName> {
    numbers.iter().map(|number| name(*number)).collect()
}

fn recovered(base: &Decree, keep: &[u32]) -> Recovery {
    recover(CLUSTER, base, &names(keep)).expect("a recovery")
}

#[test]
fn who_survives_goes_on_alone_and_whoever_is_not_named_is_excused_for_good() {
    let base = decree(3);
    let recovery = recovered(&base, &[1]);
    assert_eq!(recovery.lost, [name(0), name(2)]);
    assert_eq!(
        (recovery.may_be_lost, recovery.gone, recovery.half_moved),
        (PARTITIONS as usize, 0, 0)
    );
    let decree = &recovery.decree;
    assert_eq!(decree.epoch(), Epoch(2));
    assert_eq!(decree.voters(), BTreeSet::from([store(1)]));
    assert_eq!(decree.excused().keys().len(), 2);
    assert_ne!(recovery.cluster, CLUSTER);
    assert_eq!(recovery.cluster, cluster_of(recovery.hash));
    assert_eq!(decree.plan(), recovery.hash);
    // It holds all, so that nothing is left to be received.
    let history = History::new(std::sync::Arc::new(decree.clone()));
    assert_eq!(history.step(store(1)), Step::Acknowledge(Epoch(2)));
    assert_eq!(history.step(store(0)), Step::Out);
    assert_eq!(
        recovery.bereaved(store(1)).expect("placed").len(),
        PARTITIONS as usize
    );
}

#[test]
fn the_same_word_gives_the_same_cluster_and_another_word_another() {
    let base = decree(5);
    let recovery = recovered(&base, &[0, 3]);
    assert_eq!(recovered(&base, &[3, 0]), recovery);
    let amended = apply(&base, &[Change::Excuse(name(4))]).expect("fits");
    for other in [
        recovered(&base, &[0, 4]),
        recovered(&amended, &[0, 3]),
        recover(ClusterId(8), &base, &names(&[0, 3])).expect("a recovery"),
    ] {
        assert_ne!(
            (other.hash, other.cluster),
            (recovery.hash, recovery.cluster)
        );
    }
}

#[test]
fn what_somebody_holds_is_received_from_there_and_what_nobody_holds_is_counted() {
    let base = decree(6);
    let recovery = recovered(&base, &[0, 1]);
    let place = |layout| Placement::compute(layout).expect("small enough");
    let (old, new) = (recovery.decree.oldest(), recovery.decree.newest());
    let (before, after) = (place(old), place(new));
    let mut history = History::new(std::sync::Arc::new(recovery.decree.clone()));
    for number in [0, 1] {
        let epoch = recovery.decree.epoch();
        let ack = crate::Trackers {
            ack: epoch,
            ..history.trackers_of(store(number))
        };
        history.hear(store(number), ack);
    }
    let mut empty = BTreeSet::new();
    for number in [0, 1] {
        for acquisition in acquired((old, &before), (new, &after), &name(number)) {
            match history.sources(&acquisition) {
                Sources::From { stores, .. } if stores.is_empty() => {
                    empty.insert(acquisition.partition);
                }
                Sources::From { stores, counting } => {
                    assert_eq!((stores, counting), (vec![store(1 - number)], 1));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(recovery.gone > 0);
    assert_eq!(empty.len(), recovery.gone);
    assert!(recovery.may_be_lost > recovery.gone);
}

#[test]
fn a_change_that_was_under_way_is_forgotten_in_favour_of_what_it_came_from() {
    let base = decree(4);
    let changes = [4, 5].map(|number| Change::Add(Kind::Equal.member(0, number)));
    let base = apply(&base, &changes).expect("fits");
    let recovery = recovered(&base, &[0, 4]);
    assert_eq!(recovery.decree.live().len(), 2);
    assert_eq!(recovery.decree.oldest().epoch(), Epoch(1));
    assert_eq!(recovery.decree.newest().epoch(), Epoch(3));
    assert_eq!(recovery.lost.len(), 4);
    assert!(recovery.half_moved > 0 && recovery.half_moved <= recovery.gone);
    assert_eq!(recovery.bereaved(store(4)).expect("placed"), []);
}

#[test]
fn a_majority_an_excused_store_and_a_stranger_are_refused() {
    let base = decree(4);
    let refused =
        |base: &Decree, keep: &[u32]| recover(CLUSTER, base, &names(keep)).expect_err("refused");
    assert_eq!(
        refused(&base, &[0, 1, 2]),
        RecoverError::Majority { kept: 3, voters: 4 }
    );
    assert_eq!(refused(&base, &[]), RecoverError::Nobody);
    assert_eq!(refused(&base, &[0, 9]), RecoverError::Unknown(name(9)));
    let amended = apply(&base, &[Change::Excuse(name(1))]).expect("fits");
    assert_eq!(refused(&amended, &[1]), RecoverError::Excused(name(1)));
    assert_eq!(
        refused(&amended, &[0, 2]),
        RecoverError::Majority { kept: 2, voters: 3 },
        "whom the operator excused has no vote"
    );
}
