//! How many partitions each member should own, and how many it may own at most.
//!
//! *Invariant:* the limits can always be met: some assignment gives every partition its N′ owners, within its zones'
//! shares, without exceeding any limit.

use super::zones::Zones;

/// Fractional bits of a target.
pub(super) const TARGET_BITS: u32 = 32;
/// The most that a member owns, in percent of its target.
pub(super) const PEAK_PERCENT_MAX: u128 = 103;
/// Fractional bits of the water level (copies per token). Tokens of a member are at most 2^16, so that a target is
/// exact to 2^-48 before it is rounded to `TARGET_BITS`.
const LEVEL_BITS: u32 = 64;

/// How many partitions each member owns ideally, in units of 2^-[`TARGET_BITS`] of a copy.
///
/// That is Q × N′ × (its share of all tokens), except where this is impossible: no member can own a partition twice
/// (at most Q), and no zone more or less of each partition than its share. What one member or zone cannot take is
/// spread over the others in proportion to their tokens.
pub(super) fn targets(partitions: u32, replicas: u32, tokens: &[u32], zones: &Zones) -> Vec<u64> {
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); zones.count()];
    for (member, &zone) in zones.of_member.iter().enumerate() {
        members[zone].push(member);
    }
    let q = u128::from(partitions) << LEVEL_BITS;
    let water = |level: u128, member: usize| (level * u128::from(tokens[member])).min(q);
    let in_zone =
        |level: u128, zone: usize| members[zone].iter().map(|&m| water(level, m)).sum::<u128>();
    let bounds = |zone: usize| {
        (
            q * u128::from(zones.base[zone]),
            q * u128::from(zones.most(zone)),
        )
    };
    let all = |level: u128| {
        (0..zones.count())
            .map(|zone| in_zone(level, zone).clamp(bounds(zone).0, bounds(zone).1))
            .sum::<u128>()
    };
    let shared = highest(q, |level| all(level) <= q * u128::from(replicas));
    let mut targets = vec![0; tokens.len()];
    for (zone, members) in members.iter().enumerate() {
        let (least, most) = bounds(zone);
        let total = in_zone(shared, zone).clamp(least, most);
        let level = if in_zone(shared, zone) == total {
            shared
        } else {
            highest(q, |level| in_zone(level, zone) <= total)
        };
        for &member in members {
            let half = 1 << (LEVEL_BITS - TARGET_BITS - 1);
            let rounded = (water(level, member) + half) >> (LEVEL_BITS - TARGET_BITS);
            targets[member] = u64::try_from(rounded)
                .expect("at most 2^16 partitions with 32 bits behind the point");
        }
    }
    targets
}

/// The highest level in `0..=most` that fits; `fits` is monotonous and level 0 fits.
fn highest(most: u128, fits: impl Fn(u128) -> bool) -> u128 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = high - (high - low) / 2;
        if fits(middle) {
            low = middle
        } else {
            high = middle - 1
        }
    }
    low
}

/// How many partitions each member may own at most: `floor(1.03 × target)`, so that no load is over 1.03 × its target.
///
/// As much slack as that bound leaves, because the fuller members are the more moves from one to another when a third
/// joins. Where whole numbers that small cannot hold all copies (3,072 copies on 99 equal members are 31.03 each: by
/// the pigeonhole principle someone owns 32, which is 1.031), the limits that exceed their targets least are raised
/// together, by one each, until they can.
pub(super) fn limits(partitions: u32, replicas: u32, targets: &[u64], zones: &Zones) -> Vec<u32> {
    let limit = |target: u64| (u128::from(target) * PEAK_PERCENT_MAX / 100) >> TARGET_BITS;
    let mut limits: Vec<u32> = targets
        .iter()
        .map(|&target| {
            u32::try_from(limit(target))
                .expect("a target is at most Q")
                .min(partitions)
        })
        .collect();
    let q = u64::from(partitions);
    let mut held: Vec<u64> = vec![0; zones.count()];
    for (member, &limit) in limits.iter().enumerate() {
        held[zones.of_member[member]] += u64::from(limit);
    }
    for zone in 0..zones.count() {
        while held[zone] < q * u64::from(zones.base[zone]) {
            raise(
                &mut limits,
                &mut held,
                targets,
                partitions,
                zones,
                |other| other == zone,
            );
        }
    }
    let most = |zone: usize| q * u64::from(zones.most(zone));
    let room = |held: &[u64]| {
        (0..zones.count())
            .map(|zone| held[zone].min(most(zone)))
            .sum::<u64>()
    };
    while room(&held) < q * u64::from(replicas) {
        let open: Vec<bool> = (0..zones.count())
            .map(|zone| held[zone] < most(zone))
            .collect();
        raise(&mut limits, &mut held, targets, partitions, zones, |zone| {
            open[zone]
        });
    }
    limits
}

/// Raises by one the limits of those members of open zones that exceed their targets least by it.
fn raise(
    limits: &mut [u32],
    held: &mut [u64],
    targets: &[u64],
    partitions: u32,
    zones: &Zones,
    open: impl Fn(usize) -> bool,
) {
    // (limit + 1) / target, compared without dividing.
    let excess = |limits: &[u32], a: usize, b: usize| {
        let (left, right) = (u128::from(limits[a]) + 1, u128::from(limits[b]) + 1);
        (left * u128::from(targets[b])).cmp(&(right * u128::from(targets[a])))
    };
    let candidates: Vec<usize> = (0..limits.len())
        .filter(|&m| open(zones.of_member[m]) && limits[m] < partitions)
        .collect();
    let least = candidates
        .iter()
        .copied()
        .min_by(|&a, &b| excess(limits, a, b))
        .expect("an open zone has members that can own more, or it would be full");
    let raised: Vec<usize> = candidates
        .into_iter()
        .filter(|&m| excess(limits, m, least).is_eq())
        .collect();
    for member in raised {
        limits[member] += 1;
        held[zones.of_member[member]] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(partitions: u32, replicas: u32, tokens: &[u32], names: &[&str]) -> (Vec<f64>, Vec<u32>) {
        let zones = Zones::new(names, replicas);
        let targets = targets(partitions, replicas, tokens, &zones);
        let limits = limits(partitions, replicas, &targets, &zones);
        (
            targets
                .into_iter()
                .map(|target| target as f64 / 2_f64.powi(32))
                .collect(),
            limits,
        )
    }

    #[test]
    fn shares_follow_tokens() {
        let (targets, limits) = of(1024, 3, &[256; 6], &[""; 6]);
        assert_eq!((targets, limits), (vec![512.0; 6], vec![527; 6]));
        let (targets, _) = of(1024, 1, &[256, 256, 512], &[""; 3]);
        assert_eq!(targets, [256.0, 256.0, 512.0]);
    }

    #[test]
    fn nobody_owns_a_partition_twice() {
        // 4/8 of 3,072 copies would be 1,536; two members stop at 1,024 and the others share the rest.
        let (targets, limits) = of(1024, 3, &[256, 512, 1024, 256], &[""; 4]);
        assert_eq!(targets, [512.0, 1024.0, 1024.0, 512.0]);
        assert_eq!(limits, [527, 1024, 1024, 527]);
    }

    #[test]
    fn zones_take_their_share_whatever_their_size() {
        let (targets, limits) = of(1024, 3, &[256; 6], &["a", "b", "b", "c", "c", "c"]);
        let third = 1024.0 / 3.0;
        for (target, expected) in targets
            .iter()
            .zip([1024.0, 512.0, 512.0, third, third, third])
        {
            assert!((target - expected).abs() < 1e-6, "{targets:?}");
        }
        assert_eq!(limits, [1024, 527, 527, 351, 351, 351]);
    }

    #[test]
    fn limits_rise_where_whole_partitions_are_too_coarse() {
        let (_, limits) = of(1024, 3, &[256; 99], &[""; 99]);
        assert_eq!(limits, [32; 99]);
        let (_, limits) = of(2, 1, &[256; 5], &[""; 5]);
        assert_eq!(limits, [1; 5]);
    }
}
