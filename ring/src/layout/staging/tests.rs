//! Tests of staged changes: what fits, what does not and changes nothing.

use super::*;
use crate::{
    Epoch, PlacementId,
    testing::{Kind as Family, sized},
};

fn member(number: u32) -> Member {
    Family::Equal.member(0, number)
}

fn name(number: u32) -> NodeName {
    member(number).name
}

fn base(count: u32) -> Decree {
    Decree::founding(sized(16, 3, Family::Equal.members(0, count)))
}

#[test]
fn members_come_and_go_in_one_layout() {
    let changes = [
        Change::Add(member(4)),
        Change::Remove(name(0)),
        Change::Set {
            name: name(1),
            tokens: Some(512),
            zone: Some("east".to_owned()),
        },
    ];
    let base = base(4);
    let target = apply(&base, &changes).expect("fits");
    assert_eq!(
        (target.epoch(), target.newest().epoch()),
        (Epoch(2), Epoch(2))
    );
    assert_eq!(target.oldest(), base.newest());
    let names: Vec<_> = target
        .newest()
        .members()
        .iter()
        .map(|m| m.name.clone())
        .collect();
    assert_eq!(names, [name(1), name(2), name(3), name(4)]);
    let set = target.newest().member(&name(1)).expect("kept");
    assert_eq!((set.tokens, set.zone.as_str()), (512, "east"));
    assert_eq!(apply(&base, &changes), Ok(target), "the same again");
}

#[test]
fn a_replacement_takes_the_place_of_the_old() {
    let mut new = member(7);
    (new.tokens, new.zone) = (1, "elsewhere".to_owned());
    let replace = Change::Replace {
        old: name(1),
        new: new.clone(),
    };
    let target = apply(&base(3), &[replace]).expect("fits, though N are left without it");
    let came = target.newest().member(&new.name).expect("came");
    assert_eq!(came.placement_id, member(1).placement_id);
    assert_eq!((came.tokens, came.zone.as_str()), (256, ""));
    assert_eq!(came.store_id, new.store_id);
    assert_eq!(target.newest().member(&name(1)), None);
}

#[test]
fn what_does_not_fit_is_named() {
    let base = base(3);
    let refused = |changes: &[Change]| apply(&base, changes).expect_err("does not fit");
    let amend = Change::Excuse(name(1));
    assert_eq!(refused(&[]), ChangeError::Nothing);
    assert_eq!(
        refused(&[Change::Remove(name(8))]),
        ChangeError::Unknown(name(8))
    );
    assert_eq!(
        refused(&[Change::Excuse(name(8))]),
        ChangeError::Unknown(name(8))
    );
    assert_eq!(
        refused(&[Change::Add(member(1))]),
        ChangeError::NameTaken(name(1))
    );
    let twice = [Change::Add(member(8)), Change::Add(member(8))];
    assert_eq!(refused(&twice), ChangeError::NameTaken(name(8)));
    let left = ChangeError::TooFew {
        left: 2,
        replicas: 3,
    };
    assert_eq!(refused(&[Change::Remove(name(0))]), left);
    assert_eq!(
        refused(&[Change::Add(member(8)), amend]),
        ChangeError::Mixed
    );
    let again = [Change::Remove(name(0)), Change::Add(member(0))];
    assert_eq!(refused(&again), ChangeError::NameTaken(name(0)));
    let store = member(1).store_id;
    let copied = Member {
        store_id: store,
        ..member(8)
    };
    assert_eq!(
        refused(&[Change::Add(copied)]),
        ChangeError::StoreTaken(store)
    );
    let taken = Change::NewStore {
        name: name(2),
        store_id: store,
    };
    assert_eq!(refused(&[taken]), ChangeError::StoreTaken(store));
    let twin = Member {
        placement_id: member(1).placement_id,
        ..member(8)
    };
    assert!(matches!(
        refused(&[Change::Add(twin)]),
        ChangeError::Layout(LayoutError::DuplicatePlacement(PlacementId(_)))
    ));
    let many = vec![Change::Excuse(name(1)); CHANGES_MAX + 1];
    assert_eq!(refused(&many), ChangeError::TooMany(CHANGES_MAX + 1));
}

#[test]
fn a_cluster_below_n_may_still_grow_and_no_second_change_begins_under_way() {
    let under_way = apply(&base(1), &[Change::Add(member(1))]).expect("fits");
    assert_eq!(
        apply(&under_way, &[Change::Add(member(2))]),
        Err(ChangeError::UnderWay {
            oldest: Epoch(1),
            newest: Epoch(2)
        })
    );
    // Amendments go on meanwhile, and reach both layouts.
    let moved = Change::Addresses {
        name: name(0),
        client_addr: "x:1".to_owned(),
        peer_addr: "x:2".to_owned(),
        http_addr: "x:3".to_owned(),
    };
    let amended = apply(&under_way, &[moved]).expect("fits");
    for layout in amended.live() {
        let member = layout.member(&name(0)).expect("in both");
        assert_eq!(member.peer_addr, "x:2");
    }
}

#[test]
fn a_new_store_ends_the_excuse_of_the_old() {
    let excused = apply(&base(3), &[Change::Excuse(name(0))]).expect("fits");
    assert_eq!(excused.excused().len(), 1);
    let back = Change::NewStore {
        name: name(0),
        store_id: StoreId(77),
    };
    let back = apply(&excused, &[back]).expect("fits");
    assert!(back.excused().is_empty() && back.voters().contains(&StoreId(77)));
    assert!(!back.lists(member(0).store_id));
}

#[test]
fn changes_are_read_as_written() {
    let changes = vec![
        Change::Add(member(4)),
        Change::Remove(name(0)),
        Change::Replace {
            old: name(1),
            new: member(5),
        },
        Change::Set {
            name: name(2),
            tokens: None,
            zone: Some(String::new()),
        },
        Change::Set {
            name: name(2),
            tokens: Some(3),
            zone: None,
        },
        Change::Addresses {
            name: name(2),
            client_addr: "a:1".to_owned(),
            peer_addr: "b:2".to_owned(),
            http_addr: "c:3".to_owned(),
        },
        Change::NewStore {
            name: name(2),
            store_id: StoreId(5),
        },
        Change::Excuse(name(0)),
        Change::AcceptLoss(name(0)),
    ];
    let bytes = encode_changes(&changes);
    assert_eq!(decode_changes(&bytes), Ok(changes));
    for short in 0..bytes.len() {
        assert!(decode_changes(&bytes[..short]).is_err());
    }
}
