//! The bar: balance, movement, spread and sameness of placements, and the shape of every placement whatever its members.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{shares, zones::Zones};
use crate::{
    Layout, Member, Moves, NodeName, Placement, PlacementError, PlacementId, StoreId, moved,
    testing::{Kind, layout, member, sized},
};

/// No member owns more than this times its target …
const PEAK_MAX: f64 = 1.03;
/// … and a join or a leave moves no more than this times the fair share.
const MOVED_MAX: f64 = 1.2;
/// Rounding of targets to 2^-32, seen as a ratio.
const ROUNDING: f64 = 1e-9;
/// Cluster sizes past the ones that are all tried.
const LARGE: [u32; 6] = [40, 50, 60, 75, 90, 100];

fn compute(layout: &Layout) -> Placement {
    Placement::compute(layout).expect("small enough")
}

fn all_kinds() -> [Kind; 4] {
    [Kind::Equal, Kind::Weighted, Kind::Zoned(3), Kind::Zoned(5)]
}

/// What moves, in terms of the fair share, when the cluster of that family grows from each of `counts` members by one
/// and back: the worse of the join's and the leave's ratio.
fn ratios(
    kind: Kind,
    partitions: u32,
    family: u32,
    counts: impl IntoIterator<Item = u32>,
) -> BTreeMap<u32, f64> {
    let mut placed: BTreeMap<u32, (Layout, Placement)> = BTreeMap::new();
    let mut ratios = BTreeMap::new();
    for count in counts {
        for size in [count, count + 1] {
            placed.entry(size).or_insert_with(|| {
                let layout = sized(partitions, 3, kind.members(family, size));
                let placement = compute(&layout);
                (layout, placement)
            });
        }
        let (small, large) = (&placed[&count], &placed[&(count + 1)]);
        let join = moved((&small.0, &small.1), (&large.0, &large.1));
        let leave = moved((&large.0, &large.1), (&small.0, &small.1));
        ratios.insert(count, ratio(&join).max(ratio(&leave)));
    }
    ratios
}

fn ratio(moves: &Moves) -> f64 {
    f64::from(moves.total()) / moves.fair_share()
}

/// The lowest peak / target that whole partitions allow: the least λ with Σ floor(λ × target) ≥ copies.
///
/// By the pigeonhole principle every placement has a member at or over it.
fn lowest_peak(targets: &[f64]) -> f64 {
    let copies = targets.iter().sum::<f64>().round();
    let near = |&target: &f64| (0..3).map(move |more| (target.floor() + f64::from(more)) / target);
    let mut peaks: Vec<f64> = targets.iter().flat_map(near).collect();
    peaks.sort_by(f64::total_cmp);
    let held = |peak: f64| {
        targets
            .iter()
            .map(|target| (peak * target + ROUNDING).floor())
            .sum::<f64>()
    };
    peaks
        .into_iter()
        .find(|&peak| held(peak) >= copies)
        .expect("two more for each are enough")
}

/// The targets of the members that share a fixed number of copies: those of each of three zones, or all.
fn groups(kind: Kind, layout: &Layout, placement: &Placement) -> Vec<Vec<f64>> {
    let mut groups: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (index, member) in layout.members().iter().enumerate() {
        let group = if kind == Kind::Zoned(3) {
            member.zone.as_str()
        } else {
            ""
        };
        groups
            .entry(group)
            .or_default()
            .push(placement.target(index));
    }
    groups.into_values().collect()
}

#[test]
fn no_member_owns_more_than_three_percent_over_its_target() {
    for kind in all_kinds() {
        for count in (3..=30).chain(LARGE) {
            let layout = layout(kind.members(0, count));
            let placement = compute(&layout);
            let lowest = groups(kind, &layout, &placement)
                .into_iter()
                .map(|targets| lowest_peak(&targets));
            let bar = lowest.fold(PEAK_MAX, f64::max);
            let peak = placement.peak_over_target();
            assert!(
                peak <= bar + ROUNDING,
                "{kind:?}, {count} members: {peak} is over {bar}"
            );
        }
    }
}

#[test]
fn only_where_whole_partitions_are_too_coarse_is_the_peak_higher() {
    // 3,072 copies on 99 members are 31.03 each, so someone owns 32.
    let placement = compute(&layout(Kind::Equal.members(0, 99)));
    assert!((placement.peak_over_target() - 32.0 / (3072.0 / 99.0)).abs() < ROUNDING);
    let placement = compute(&layout(Kind::Equal.members(0, 90)));
    assert!(placement.peak_over_target() <= PEAK_MAX + ROUNDING);
}

#[test]
fn a_join_or_a_leave_moves_at_most_a_fifth_more_than_the_fair_share() {
    for kind in [Kind::Equal, Kind::Weighted, Kind::Zoned(3)] {
        let families = [0, 1, 2].map(|family| ratios(kind, 1024, family, 3..=30));
        for count in 3..=30 {
            // From 24 members on the ratio depends on the ids, 1.1 to 1.25: there the bar is for the mean.
            let ratios = [0, 1, 2].map(|family: usize| families[family][&count]);
            let mean = ratios.iter().sum::<f64>() / 3.0;
            let bar = if count < 24 {
                ratios.into_iter().fold(0.0, f64::max)
            } else {
                mean
            };
            assert!(
                bar <= MOVED_MAX,
                "{kind:?}, {count} members and one more: {ratios:?}"
            );
        }
    }
}

#[test]
fn more_partitions_hold_the_same_bar_for_more_members() {
    for (kind, count) in [
        (Kind::Equal, 60),
        (Kind::Zoned(3), 60),
        (Kind::Weighted, 50),
    ] {
        let ratio = ratios(kind, 4096, 0, [count])[&count];
        assert!(
            ratio <= MOVED_MAX,
            "{kind:?}, {count} members and one more: {ratio}"
        );
    }
}

#[test]
fn what_moves_past_the_bar_stays_bounded() {
    // With more zones than replicas a new member must not share partitions with its zone, which the walk cannot know;
    // with far more members than the partitions are meant for, most members are at their limits. See the module.
    for (kind, counts, bound) in [
        (Kind::Zoned(5), [6, 30], 1.6),
        (Kind::Equal, [60, 100], 2.5),
    ] {
        for (count, ratio) in ratios(kind, 1024, 0, counts) {
            assert!(
                ratio <= bound,
                "{kind:?}, {count} members and one more: {ratio}"
            );
        }
    }
}

#[test]
fn no_two_owners_share_a_zone_when_there_are_enough() {
    for zones in [3, 4, 7] {
        for count in (zones..=12).chain([30, 100]) {
            let layout = layout(Kind::Zoned(zones).members(0, count));
            let placement = compute(&layout);
            for partition in layout.partition_ids() {
                let owners = placement.owners(partition).iter();
                let zones: BTreeSet<&str> = owners
                    .map(|&o| layout.members()[usize::from(o)].zone.as_str())
                    .collect();
                assert_eq!(zones.len(), 3, "{count} members, partition {partition}");
            }
        }
    }
}

#[test]
fn first_places_are_spread_like_ownership() {
    for kind in all_kinds() {
        for count in [3, 4, 7, 30, 60] {
            let layout = layout(kind.members(0, count));
            let placement = compute(&layout);
            let firsts: usize = (0..layout.members().len())
                .map(|m| placement.first_count(m))
                .sum();
            assert_eq!(firsts, 1024);
            for index in 0..layout.members().len() {
                let most = placement.owned_count(index).div_ceil(3);
                assert!(
                    placement.first_count(index) <= most,
                    "{kind:?}, {count} members, member {index}"
                );
            }
        }
    }
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    let members = Kind::Weighted.members(1, 11);
    let expected = compute(&layout(members.clone()));
    let mut shuffled = members;
    for turn in 0..11 {
        shuffled.rotate_left(turn);
        shuffled.swap(0, 5);
        assert_eq!(compute(&layout(shuffled.clone())), expected);
    }
}

#[test]
fn a_replaced_node_moves_nothing() {
    for kind in all_kinds() {
        let old = layout(kind.members(0, 9));
        let mut members = kind.members(0, 9);
        // Last of the names becomes first, so that every index changes.
        members[8].name = NodeName::new("a-new-machine").expect("a valid name");
        members[8].store_id = StoreId(1);
        let new = layout(members);
        let moves = moved((&old, &compute(&old)), (&new, &compute(&new)));
        assert_eq!((moves.total(), moves.fair_share()), (0, 0.0), "{kind:?}");
    }
}

#[test]
fn a_dead_members_hints_spread_over_all_others() {
    let layout = layout(Kind::Equal.members(0, 10));
    let placement = compute(&layout);
    for dead in 0..10 {
        let owned: Vec<_> = placement.owned_by(dead).collect();
        assert_eq!(owned.len(), placement.owned_count(dead));
        let mut hints = [0_usize; 10];
        for partition in &owned {
            hints[usize::from(placement.fallbacks(*partition)[0])] += 1;
        }
        let fair = owned.len() / 9;
        for (other, &count) in hints.iter().enumerate().filter(|&(other, _)| other != dead) {
            assert!(
                (fair / 3..=fair * 2).contains(&count),
                "{other} takes {count} of {} hints of {dead}",
                owned.len()
            );
        }
    }
}

#[test]
fn a_placement_is_golden() {
    let layout = sized(8, 3, Kind::Weighted.members(0, 5));
    let owners: Vec<Vec<u16>> = layout
        .partition_ids()
        .map(|p| compute(&layout).owners(p).to_vec())
        .collect();
    assert_eq!(owners, GOLDEN);
}

#[test]
fn too_many_pairs_are_refused() {
    let layout = sized(
        65_536,
        3,
        (0..257).map(|n| member(0, n, 1, String::new())).collect(),
    );
    let refused = PlacementError::TooLarge {
        partitions: 65_536,
        members: 257,
    };
    assert_eq!(Placement::compute(&layout), Err(refused));
}

/// Members of any capacity in few zones, or in none.
fn any_members() -> impl Strategy<Value = Vec<Member>> {
    let one = (any::<u64>(), prop_oneof![1_u32..2048, Just(256)], 0_u32..5);
    prop::collection::btree_map(any::<u32>(), one, 1..14).prop_map(|members| {
        let with_ids = |(number, (id, tokens, zone)): (u32, (u64, u32, u32))| {
            let zone = if zone == 0 {
                String::new()
            } else {
                format!("zone-{zone}")
            };
            let placement_id = PlacementId((id << 32) | u64::from(number));
            Member {
                placement_id,
                store_id: StoreId(placement_id.0),
                ..member(0, number, tokens, zone)
            }
        };
        members.into_iter().map(with_ids).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_placement_is_whole(members in any_members(), replicas in 1_u32..=7, bits in 1_u32..=8) {
        let layout = sized(1 << bits, replicas, members);
        let placement = compute(&layout);
        let zone_names: Vec<&str> = layout.members().iter().map(|member| member.zone.as_str()).collect();
        let zones = Zones::new(&zone_names, layout.effective_replicas());
        for partition in layout.partition_ids() {
            let owners = placement.owners(partition);
            let mut held = vec![0; zones.count()];
            owners.iter().for_each(|&owner| held[zones.of_member[usize::from(owner)]] += 1);
            for (zone, &held) in held.iter().enumerate() {
                prop_assert!((zones.base[zone]..=zones.most(zone)).contains(&held), "{held} owners in zone {zone}");
            }
            // Owners and fallbacks are all members, each once.
            prop_assert_eq!(owners.len(), layout.effective_replicas() as usize);
            let mut all = placement.fallbacks(partition);
            all.extend(owners);
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..u16::try_from(layout.members().len()).unwrap()));
        }
    }

    #[test]
    fn every_load_is_within_its_limit(members in any_members(), replicas in 1_u32..=7, bits in 1_u32..=8) {
        let layout = sized(1 << bits, replicas, members);
        let placement = compute(&layout);
        let zone_names: Vec<&str> = layout.members().iter().map(|member| member.zone.as_str()).collect();
        let zones = Zones::new(&zone_names, layout.effective_replicas());
        let tokens: Vec<u32> = layout.members().iter().map(|member| member.tokens).collect();
        let targets = shares::targets(layout.partitions(), layout.effective_replicas(), &tokens, &zones);
        let limits = shares::limits(layout.partitions(), layout.effective_replicas(), &targets, &zones);
        for (index, &limit) in limits.iter().enumerate() {
            prop_assert!(placement.owned_count(index) <= limit as usize);
        }
        let copies = f64::from(layout.partitions() * layout.effective_replicas());
        let ideal: f64 = (0..limits.len()).map(|index| placement.target(index)).sum();
        prop_assert!((ideal - copies).abs() < 1e-6, "the targets are {ideal} of {copies} copies");
    }

    #[test]
    fn names_and_order_do_not_matter(members in any_members(), replicas in 1_u32..=7) {
        let layout = sized(64, replicas, members.clone());
        let mut renamed = members;
        let count = renamed.len();
        for (index, member) in renamed.iter_mut().enumerate() {
            member.name = NodeName::new(format!("renamed-{:02}", count - index)).unwrap();
        }
        renamed.reverse();
        let other = sized(64, replicas, renamed);
        let moves = moved((&layout, &compute(&layout)), (&other, &compute(&other)));
        prop_assert_eq!(moves.total(), 0);
    }
}

/// The owners of [`a_placement_is_golden`]: another result would move the data of every cluster at its next start.
const GOLDEN: [[u16; 3]; 8] = [
    [3, 2, 4],
    [1, 2, 4],
    [0, 3, 2],
    [2, 3, 1],
    [1, 0, 2],
    [4, 1, 2],
    [2, 4, 0],
    [2, 1, 4],
];
