//! Tests of decrees: what is valid, what may follow what, and that they are read as written.

use proptest::prelude::*;

use super::*;
use crate::{
    Change, StoreId, apply,
    testing::{Kind as Family, sized},
};

fn members(count: u32) -> Vec<Member> {
    Family::Equal.members(0, count)
}

fn founding(count: u32) -> Decree {
    Decree::founding(sized(16, 3, members(count)))
}

fn joining(base: &Decree, number: u32) -> Decree {
    apply(base, &[Change::Add(Family::Equal.member(0, number))]).expect("fits")
}

#[test]
fn two_layouts_at_most_and_the_older_is_retired_by_decree() {
    let first = founding(3);
    let placing = joining(&first, 3);
    assert_eq!(placing.follows(&first), Ok(Kind::Places));
    assert_eq!(placing.live().len(), 2);
    // A third layout, made as if the first were gone.
    let retired = Decree::new(Epoch(3), vec![placing.newest().clone()], BTreeMap::new());
    let retired = retired.expect("valid");
    let third = joining(&retired, 4);
    assert_eq!(third.epoch(), Epoch(4));
    let early = Decree::new(Epoch(3), third.live().to_vec(), BTreeMap::new());
    assert_eq!(early, Err(DecreeError::Epochs(Epoch(3))));
    let target = Layout::new(Epoch(3), 16, 3, members(5)).expect("valid");
    let early = Decree::new(
        Epoch(3),
        vec![placing.newest().clone(), target],
        BTreeMap::new(),
    );
    let refusal = early.expect("by itself").follows(&placing);
    assert_eq!(
        refusal,
        Err(NotSuccessor::TwoLive {
            oldest: Epoch(1),
            newest: Epoch(2)
        })
    );
    assert_eq!(retired.follows(&placing), Ok(Kind::Retires));
    assert_eq!(third.follows(&retired), Ok(Kind::Places));
}

#[test]
fn an_amendment_leaves_owners_alone() {
    let first = founding(3);
    let with = |change: fn(&mut Member)| {
        let mut members = members(3);
        change(&mut members[1]);
        let layout = Layout::new(Epoch(1), 16, 3, members).expect("valid");
        Decree::new(Epoch(2), vec![layout], BTreeMap::new()).expect("valid")
    };
    let amended = [
        with(|member| member.peer_addr = "elsewhere:7500".to_owned()),
        with(|member| member.store_id = StoreId(77)),
        with(|_| {}),
    ];
    for decree in amended {
        assert_eq!(decree.follows(&first), Ok(Kind::Amends));
    }
    let smuggled = [
        with(|member| member.tokens += 1),
        with(|member| member.placement_id.0 += 1),
        with(|member| member.zone = "z".to_owned()),
        with(|member| member.name = NodeName::new("other").expect("valid")),
    ];
    for decree in smuggled {
        assert_eq!(decree.follows(&first), Err(NotSuccessor::Owners(Epoch(1))));
    }
}

#[test]
fn only_the_next_epoch_follows_and_the_newer_layout_stays() {
    let first = founding(3);
    let placing = joining(&first, 3);
    assert_eq!(
        placing.follows(&placing),
        Err(NotSuccessor::Epoch {
            newest: Epoch(2),
            found: Epoch(2)
        })
    );
    // Back to the older layout is no retirement.
    let back = Decree::new(Epoch(3), first.live().to_vec(), BTreeMap::new()).expect("valid");
    assert!(matches!(
        back.follows(&placing),
        Err(NotSuccessor::Owners(_))
    ));
    // Another number of replicas never follows.
    let other = Layout::new(Epoch(2), 16, 2, members(3)).expect("valid");
    let other = Decree::new(Epoch(2), vec![other], BTreeMap::new()).expect("valid");
    assert!(other.follows(&first).is_err());
}

#[test]
fn excused_stores_have_no_vote_and_somebody_must_have_one() {
    let first = founding(3);
    let name = |index: usize| first.newest().members()[index].name.clone();
    let stores: Vec<StoreId> = first
        .newest()
        .members()
        .iter()
        .map(|member| member.store_id)
        .collect();
    let excused = apply(&first, &[Change::Excuse(name(0))]).expect("fits");
    assert_eq!(excused.voters(), BTreeSet::from([stores[1], stores[2]]));
    assert!(excused.lists(stores[0]) && !excused.present().contains_key(&stores[0]));
    let all: Vec<Change> = (0..3).map(|index| Change::Excuse(name(index))).collect();
    assert_eq!(apply(&first, &all), Err(DecreeError::NoVoters.into()));
    let stranger = BTreeMap::from([(StoreId(99), Excuse::Off)]);
    assert_eq!(
        Decree::new(Epoch(2), first.live().to_vec(), stranger),
        Err(DecreeError::Excused(StoreId(99)))
    );
}

#[test]
fn a_node_is_the_same_in_both_layouts() {
    let (old, mut changed) = (members(3), members(4));
    changed[1].store_id = StoreId(77);
    let layout = |epoch, members| Layout::new(Epoch(epoch), 16, 3, members).expect("valid");
    let decree = |members| {
        Decree::new(
            Epoch(2),
            vec![layout(1, old.clone()), layout(2, members)],
            BTreeMap::new(),
        )
    };
    let name = old[1].name.clone();
    assert_eq!(decree(changed), Err(DecreeError::Differs(name)));
    let mut renamed = members(4);
    renamed[1].name = NodeName::new("renamed").expect("valid");
    let store = renamed[1].store_id;
    assert_eq!(decree(renamed), Err(DecreeError::StoreTwice(store)));
}

#[test]
fn a_newer_format_and_greedy_counts_are_refused() {
    let bytes = founding(3).encode();
    let mut newer = bytes.clone();
    newer[0] = 2;
    assert_eq!(
        Decree::decode(&newer),
        Err(DecodeError::Version {
            found: 2,
            newest: 1
        })
    );
    let mut greedy = bytes.clone();
    greedy[17..21].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        Decree::decode(&greedy),
        Err(DecodeError::TooMany { .. })
    ));
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(Decree::decode(&longer), Err(DecodeError::Trailing(1)));
}

proptest! {
    #[test]
    fn decrees_are_read_as_written(count in 1_u32..6, excuse in any::<bool>(), joins in any::<bool>()) {
        let mut decree = founding(count + 1);
        if excuse {
            let name = decree.newest().members()[0].name.clone();
            decree = apply(&decree, &[Change::AcceptLoss(name)]).expect("fits");
        }
        if joins {
            decree = joining(&decree, 9);
        }
        let bytes = decree.encode();
        prop_assert_eq!(Decree::decode(&bytes), Ok(decree));
        for short in 0..bytes.len() {
            prop_assert!(Decree::decode(&bytes[..short]).is_err());
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(
        mut bytes in Just(founding(2).encode()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(decree) = Decree::decode(&bytes) {
            prop_assert_eq!(Decree::decode(&decree.encode()), Ok(decree));
        }
    }
}
