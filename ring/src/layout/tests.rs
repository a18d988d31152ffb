//! Tests of layouts: what is valid, and what follows from one.

use super::*;
use crate::testing::{Kind, layout, member};

fn with(members: Vec<Member>) -> Result<Layout, LayoutError> {
    Layout::new(Epoch(1), 1024, 3, members)
}

#[test]
fn the_first_broken_rule_is_named() {
    let members = || Kind::Equal.members(0, 3);
    let name = || members()[0].name.clone();
    for partitions in [0, 1, 3, 1000, 131_072] {
        assert_eq!(
            Layout::new(Epoch(1), partitions, 3, members()),
            Err(LayoutError::Partitions(partitions))
        );
    }
    for replicas in [0, 8] {
        assert_eq!(
            Layout::new(Epoch(1), 1024, replicas, members()),
            Err(LayoutError::Replicas(replicas))
        );
    }
    assert_eq!(with(Vec::new()), Err(LayoutError::NoMembers));
    let broken = |change: fn(&mut Vec<Member>)| {
        let mut members = members();
        change(&mut members);
        with(members).expect_err("a rule is broken")
    };
    assert_eq!(
        broken(|m| m[1].name = m[0].name.clone()),
        LayoutError::DuplicateName(name())
    );
    assert!(matches!(
        broken(|m| m[1].placement_id = m[0].placement_id),
        LayoutError::DuplicatePlacement(_)
    ));
    assert!(matches!(
        broken(|m| m[1].store_id = m[0].store_id),
        LayoutError::DuplicateStore(_)
    ));
    assert_eq!(
        broken(|m| m[0].tokens = 0),
        LayoutError::Tokens {
            name: name(),
            tokens: 0
        }
    );
    assert!(matches!(
        broken(|m| m[0].tokens = TOKENS_MAX + 1),
        LayoutError::Tokens { .. }
    ));
    assert_eq!(
        broken(|m| m[0].zone = "z".repeat(ZONE_LEN_MAX + 1)),
        LayoutError::Zone(name())
    );
    assert_eq!(
        broken(|m| m[0].peer_addr = "a\nb:1".to_owned()),
        LayoutError::Address(name())
    );
}

#[test]
fn sizes_are_limited() {
    let many = |count, tokens| {
        with(
            (0..count)
                .map(|n| member(0, n, tokens, String::new()))
                .collect(),
        )
    };
    assert!(many(4096, 1024).is_ok());
    assert_eq!(many(4097, 1), Err(LayoutError::TooManyMembers(4097)));
    assert_eq!(
        many(65, 65_536),
        Err(LayoutError::TooManyTokens(65 * 65_536))
    );
}

#[test]
fn members_are_found_by_name() {
    let layout = layout(Kind::Equal.members(0, 12));
    for (index, member) in layout.members().iter().enumerate() {
        assert_eq!(layout.index_of(&member.name), Some(index));
    }
    assert_eq!(
        layout.member(&NodeName::new("nobody").expect("valid")),
        None
    );
}

#[test]
fn partitions_tile_the_ring() {
    for partitions in [2, 1024, PARTITIONS_MAX] {
        let layout =
            Layout::new(Epoch(1), partitions, 3, Kind::Equal.members(0, 1)).expect("valid");
        let mut next = Some(0);
        for partition in layout.partition_ids() {
            let (first, last) = layout.token_range(partition);
            assert_eq!(Some(first.0), next);
            assert_eq!(layout.partition_of(first), partition);
            assert_eq!(layout.partition_of(last), partition);
            next = last.0.checked_add(1);
        }
        assert_eq!(next, None);
    }
}

#[test]
fn quorums_follow_the_members_there_are() {
    for (members, replicas, effective, quorum) in [
        (1, 3, 1, 1),
        (2, 3, 2, 2),
        (3, 3, 3, 2),
        (9, 5, 5, 3),
        (9, 4, 4, 3),
    ] {
        let layout =
            Layout::new(Epoch(1), 8, replicas, Kind::Equal.members(0, members)).expect("valid");
        assert_eq!(
            (layout.effective_replicas(), layout.default_quorum()),
            (effective, quorum)
        );
    }
}

#[test]
fn capacities_become_tokens() {
    for (capacity, tokens) in [
        (1.0, 256),
        (0.5, 128),
        (2.25, 576),
        (0.0001, 1),
        (256.0, TOKENS_MAX),
    ] {
        assert_eq!(tokens_for_capacity(capacity), Ok(tokens));
    }
    for bad in [0.0, -1.0, 257.0, f64::INFINITY, f64::NAN] {
        assert!(tokens_for_capacity(bad).is_err(), "{bad}");
    }
    assert_eq!(capacity_of_tokens(384), 1.5);
}
