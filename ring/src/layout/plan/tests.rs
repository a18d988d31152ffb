//! Tests of plans: what they count, and that a commit names exactly one.

use super::*;
use crate::testing::{Kind as Family, sized};

fn base(members: Vec<Member>) -> Decree {
    Decree::founding(sized(64, 3, members))
}

fn add(number: u32) -> Change {
    Change::Add(Family::Equal.member(0, number))
}

#[test]
fn a_join_is_shown_as_what_moves() {
    let base = base(Family::Equal.members(0, 4));
    let bytes: Vec<u64> = (0..64).map(|partition| 1000 + partition).collect();
    let plan = plan(&base, &[add(4)], Some(&bytes)).expect("fits");
    assert_eq!((plan.base, plan.target.epoch()), (Epoch(1), Epoch(2)));
    assert!(plan.places && plan.notices.is_empty(), "{:?}", plan.notices);
    let newcomer = Family::Equal.member(0, 4).name;
    let came = plan
        .members
        .iter()
        .find(|member| member.name == newcomer)
        .expect("shown");
    assert_eq!((came.before, came.released), (None, 0));
    let after = came.after.expect("a member");
    assert_eq!((after.partitions, after.tokens), (came.acquired, 256));
    assert!(plan.copies >= came.acquired);
    assert!(
        (plan.fair_copies - 64.0 * 3.0 / 5.0).abs() < 1e-6,
        "{}",
        plan.fair_copies
    );
    let held: u32 = plan
        .members
        .iter()
        .filter_map(|m| Some(m.after?.partitions))
        .sum();
    assert_eq!(held, 64 * 3);
    for member in &plan.members {
        let before = member.before.map_or(0, |holding| holding.partitions);
        let after = member.after.map_or(0, |holding| holding.partitions);
        assert_eq!(after + member.released, before + member.acquired);
    }
    let total = plan.bytes.expect("sizes are known");
    assert!(total >= 1000 * u64::from(plan.copies) && total < 1064 * u64::from(plan.copies));
}

#[test]
fn a_replacement_receives_all_of_one_place_and_nothing_else_moves() {
    let base = base(Family::Equal.members(0, 5));
    let new = Family::Equal.member(0, 9);
    let old = Family::Equal.member(0, 2).name;
    let replace = Change::Replace {
        old: old.clone(),
        new: new.clone(),
    };
    let plan = plan(&base, &[replace], None).expect("fits");
    let of = |name: &NodeName| {
        plan.members
            .iter()
            .find(|m| m.name == *name)
            .expect("shown")
    };
    assert_eq!(of(&old).released, of(&new.name).acquired);
    assert_eq!((plan.copies, plan.bytes), (of(&new.name).acquired, None));
    assert!(of(&old).after.is_none());
}

#[test]
fn an_amendment_moves_nothing() {
    let base = base(Family::Equal.members(0, 3));
    let excuse = [Change::Excuse(base.newest().members()[0].name.clone())];
    let plan = plan(&base, &excuse, None).expect("fits");
    assert!(!plan.places);
    assert_eq!((plan.copies, plan.fair_copies), (0, 0.0));
}

#[test]
fn what_an_operator_should_know_is_said() {
    let zoned = base(Family::Zoned(3).members(0, 6));
    let gone = |number: u32| Change::Remove(Family::Zoned(3).member(0, number).name);
    let planned = plan(&zoned, &[gone(1), gone(4)], None).expect("fits");
    let shared = Notice::SharedZones {
        zones: 2,
        replicas: 3,
    };
    assert!(planned.notices.contains(&shared), "{:?}", planned.notices);
    let alone = base(Family::Equal.members(0, 1));
    let planned = plan(&alone, &[add(1)], None).expect("fits");
    let fewer = Notice::FewerCopies {
        members: 2,
        replicas: 3,
    };
    assert_eq!(planned.notices, [fewer]);
}

#[test]
fn the_hash_names_one_base_and_one_list() {
    let base = base(Family::Equal.members(0, 4));
    let changes = [add(4), add(5)];
    let hash = plan(&base, &changes, None).expect("fits").hash;
    assert_eq!(check_hash(&base, &changes, hash), Ok(()));
    assert_eq!(hash.to_string().parse(), Ok(hash));
    let others: [&[Change]; 3] = [&changes[..1], &[add(5), add(4)], &[]];
    for other in others {
        assert!(matches!(
            check_hash(&base, other, hash),
            Err(PlanError::Stale { named, .. }) if named == hash
        ));
    }
    let name = base.newest().members()[0].name.clone();
    let amended = apply(&base, &[Change::Excuse(name)]).expect("fits");
    assert!(check_hash(&amended, &changes, hash).is_err());
}

#[test]
fn hashes_never_change() {
    // What one version plans, another commits, in the middle of an upgrade.
    let base = base(Family::Equal.members(0, 4));
    let hash = plan_hash(&base, &[add(4)]);
    assert_eq!(hash.to_string(), "069a67d2aa7311b1");
}

#[test]
fn who_is_excused_is_told_of_and_so_is_what_may_be_lost() {
    let base = base(Family::Equal.members(0, 4));
    let names: Vec<NodeName> = base
        .newest()
        .members()
        .iter()
        .map(|m| m.name.clone())
        .collect();
    let one = plan(&base, &[Change::Excuse(names[0].clone())], None).expect("fits");
    let is_excused = |notice: &&Notice| matches!(notice, Notice::Excused { .. });
    let is_lost = |notice: &&Notice| matches!(notice, Notice::MayBeLost { .. });
    assert_eq!(one.notices.iter().filter(is_excused).count(), 1);
    assert_eq!(
        one.notices.iter().filter(is_lost).count(),
        0,
        "two copies are left"
    );
    let second = plan(&one.target, &[Change::AcceptLoss(names[1].clone())], None).expect("fits");
    assert_eq!(
        second.notices.iter().filter(is_excused).count(),
        1,
        "the first was told of"
    );
    let lost: Vec<&Notice> = second.notices.iter().filter(is_lost).collect();
    let [Notice::MayBeLost { partitions }] = lost[..] else {
        panic!("{:?}", second.notices);
    };
    assert!(
        (1..64).contains(partitions),
        "those with two owners gone: {partitions}"
    );
}
