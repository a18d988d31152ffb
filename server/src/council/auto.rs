//! Adds nodes that wait, without an operator (`--auto-join`).
//!
//! *Invariant:* it proposes what an operator could commit, by the same way: one change of owners at a time, decided by a majority.
//! Those that wait together come as one change. Who proposes is nobody's office: the members take turns by their rank, so that
//! mostly the first does, and any other when that is gone or was not told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ringfort_ring::{Change, Decree, Member, StoreId, plan_hash};

use super::{Council, Part};
use crate::gossip::Gossiper;

/// How often it is looked who waits.
const LOOK: Duration = Duration::from_millis(500);
/// So many looks in a row the same nodes must wait, so that those that are started together come together.
const SETTLED_LOOKS: u32 = 4;
/// Each member ahead of this one has so many looks more to propose.
const TURN_LOOKS: u32 = 3;
/// The last rank whose turn is waited for.
const RANK_MAX: usize = 10;
/// After a proposal that failed, so many looks are left out; twice as many after the next.
const REST_LOOKS: u32 = 4;
/// Looks that are left out, at most: half a minute.
const REST_LOOKS_MAX: u32 = 60;

/// The change that adds those of `waiting` who can be added to `decree`: none while another is under way, and none of whose
/// name is taken or called by several.
pub fn joins(decree: &Decree, waiting: &[Arc<Member>]) -> Vec<Change> {
    if decree.live().len() > 1 {
        return Vec::new();
    }
    let mut called: BTreeMap<_, u32> = BTreeMap::new();
    for member in waiting {
        *called.entry(&member.name).or_default() += 1;
    }
    let fits = |member: &&Arc<Member>| {
        called[&member.name] == 1
            && decree.newest().member(&member.name).is_none()
            && !decree.lists(member.store_id)
    };
    let adds = waiting.iter().filter(fits);
    adds.map(|member| Change::Add(Member::clone(member)))
        .collect()
}

/// How many members that are up come before `me`.
fn rank(decree: &Decree, me: StoreId, is_up: impl Fn(StoreId) -> bool) -> usize {
    let present = decree.present().into_keys();
    present
        .take_while(|store| *store < me)
        .filter(|store| is_up(*store))
        .count()
}

/// Proposes, for ever, that those that wait are added.
pub async fn run(council: Arc<Council>, gossip: Arc<Gossiper>) {
    let mut known = BTreeSet::new();
    let (mut looks, mut rest, mut left_out) = (0_u32, REST_LOOKS, 0_u32);
    loop {
        tokio::time::sleep(LOOK).await;
        let decree = council.newest();
        let changes = match council.part() {
            Part::Member => joins(&decree, &gossip.waiting(|store| decree.lists(store))),
            _ => Vec::new(),
        };
        let stores: BTreeSet<StoreId> = changes.iter().filter_map(added).collect();
        looks = if stores == known {
            looks.saturating_add(1)
        } else {
            0
        };
        known = stores;
        left_out = left_out.saturating_sub(1);
        let rank = gossip.read(|core| rank(&decree, council.me(), |store| core.is_up(store)));
        let turn = SETTLED_LOOKS + TURN_LOOKS * rank.min(RANK_MAX) as u32;
        if changes.is_empty() || looks < turn || left_out > 0 {
            continue;
        }
        match council.commit(&changes, plan_hash(&decree, &changes)).await {
            Ok(epoch) => {
                tracing::info!(%epoch, nodes = changes.len(), "nodes that waited are added");
                rest = REST_LOOKS;
            }
            Err(failure) => {
                tracing::info!(%failure, "nodes that wait are not added yet");
                left_out = rest;
                rest = (rest * 2).min(REST_LOOKS_MAX);
            }
        }
    }
}

fn added(change: &Change) -> Option<StoreId> {
    match change {
        Change::Add(member) => Some(member.store_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ringfort_ring::{Epoch, Layout, NodeName, PlacementId, apply};

    use super::*;

    fn member(name: &str, store: u64) -> Member {
        Member {
            name: NodeName::new(name).expect("valid"),
            placement_id: PlacementId(store),
            store_id: StoreId(store),
            tokens: 256,
            zone: String::new(),
            client_addr: format!("{name}:7400"),
            peer_addr: format!("{name}:7500"),
            http_addr: format!("{name}:7600"),
        }
    }

    fn decree() -> Decree {
        let members = ["a", "b", "c"].iter().zip(1..);
        let members = members.map(|(name, store)| member(name, store));
        let layout = Layout::new(Epoch(1), 8, 3, members.collect());
        Decree::founding(layout.expect("valid"))
    }

    fn names(changes: &[Change]) -> Vec<&str> {
        let mut names = Vec::new();
        for change in changes {
            match change {
                Change::Add(member) => names.push(member.name.as_str()),
                other => panic!("{other:?}"),
            }
        }
        names
    }

    #[test]
    fn those_that_wait_together_come_as_one_change_and_none_while_another_is_under_way() {
        let decree = decree();
        let waiting = [("d", 4), ("e", 5), ("b", 6), ("f", 7), ("f", 8)];
        let waiting = waiting.map(|(name, store)| Arc::new(member(name, store)));
        let changes = joins(&decree, &waiting);
        assert_eq!(
            names(&changes),
            ["d", "e"],
            "b is taken, and two are called f"
        );
        let placed = apply(&decree, &changes).expect("fits");
        assert_eq!(joins(&placed, &waiting), []);
    }

    #[test]
    fn members_that_are_up_take_turns() {
        let all = |_| true;
        assert_eq!(rank(&decree(), StoreId(1), all), 0);
        assert_eq!(rank(&decree(), StoreId(3), all), 2);
        assert_eq!(rank(&decree(), StoreId(3), |store| store != StoreId(1)), 1);
    }
}
