use super::*;

const SEC: Duration = Duration::from_secs(1);
const ME: StoreId = StoreId(5);
const LOW: StoreId = StoreId(1);
const HIGH: StoreId = StoreId(9);
/// This store begins it with the higher one, and not with the lower one.
const EVEN: PartitionId = PartitionId(4);
const ODD: PartitionId = PartitionId(7);

fn schedule(now: Instant) -> Schedule {
    let timing = Timing {
        interval: 10 * SEC,
        jitter: SEC,
    };
    let mut schedule = Schedule::new(ME, timing, now);
    let shared = [EVEN, ODD].map(|partition| Acquisition {
        partition,
        from: vec![LOW, HIGH],
    });
    schedule.follow(now, &shared);
    schedule
}

fn next(schedule: &Schedule, now: Instant) -> Option<(StoreId, Vec<PartitionId>)> {
    next_with(schedule, now, &BTreeMap::new())
}

fn next_with(
    schedule: &Schedule,
    now: Instant,
    marked: &BTreeMap<StoreId, Marked>,
) -> Option<(StoreId, Vec<PartitionId>)> {
    let round = schedule.next(now, marked, &|_, _| true)?;
    Some((round.store, round.partitions))
}

fn equal(partitions: &[PartitionId]) -> Verdict {
    Verdict {
        equal: partitions.to_vec(),
        ..Verdict::default()
    }
}

/// All is compared and the same at `now`.
fn settle(schedule: &mut Schedule, now: Instant) {
    for store in [LOW, HIGH] {
        schedule.connected(now, store, true);
        schedule.compared(now, store, &equal(&[EVEN, ODD]));
        schedule.ended(now, store, true);
    }
}

#[tokio::test]
async fn each_owner_begins_its_half_with_a_store_that_came_up() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    assert_eq!(next(&schedule, now), None, "nobody is connected");
    schedule.connected(now, HIGH, true);
    assert_eq!(next(&schedule, now), Some((HIGH, vec![EVEN])));
    schedule.connected(now, LOW, true);
    schedule.ended(now, HIGH, true);
    assert_eq!(next(&schedule, now), Some((LOW, vec![ODD])));
    // The other half is the others' to begin, unless nothing is heard of them.
    schedule.compared(now, HIGH, &equal(&[EVEN]));
    schedule.compared(now, LOW, &equal(&[ODD]));
    assert_eq!(next(&schedule, now + 9 * SEC), None);
    let (_, late) = next(&schedule, now + 27 * SEC).expect("silent for long");
    assert_eq!(late, [EVEN, ODD]);
    // What the other asked counts here, too.
    schedule.asked(now + 20 * SEC, HIGH, &[ODD], &[]);
    schedule.asked(now + 20 * SEC, LOW, &[EVEN], &[]);
    assert_eq!(next(&schedule, now + 27 * SEC), Some((LOW, vec![ODD])));
    schedule.connected(now, HIGH, false);
    schedule.connected(now, LOW, false);
    assert_eq!(next(&schedule, now + 27 * SEC), None);
}

#[tokio::test]
async fn rounds_come_by_the_interval_and_its_jitter() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    settle(&mut schedule, now);
    assert_eq!(next(&schedule, now + 10 * SEC), None);
    assert!(next(&schedule, now + 11 * SEC).is_some());
    // A store that fails is tried less often, and one that comes up at once.
    for failures in 1..4 {
        schedule.ended(now + 11 * SEC, HIGH, false);
        schedule.ended(now + 11 * SEC, LOW, false);
        let pause = SEC * (1 << failures);
        assert_eq!(next(&schedule, now + 11 * SEC + pause - SEC / 2), None);
        assert!(next(&schedule, now + 11 * SEC + pause).is_some());
    }
    schedule.connected(now + 12 * SEC, HIGH, false);
    schedule.connected(now + 12 * SEC, HIGH, true);
    assert_eq!(next(&schedule, now + 12 * SEC), Some((HIGH, vec![EVEN])));
}

#[tokio::test]
async fn what_is_written_to_waits_until_it_is_overdue() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    settle(&mut schedule, now);
    for second in 0..59 {
        let at = now + second * SEC;
        schedule.wrote(at, EVEN, u64::from(second));
        let round = next(&schedule, at);
        assert!(
            round.is_none_or(|(_, all)| all == [ODD]),
            "after {second} s"
        );
    }
    schedule.wrote(now + 60 * SEC, EVEN, 99);
    let (_, round) = next(&schedule, now + 60 * SEC).expect("overdue");
    assert!(round.contains(&EVEN));
    // And it is not once nothing was written for a while.
    settle(&mut schedule, now + 60 * SEC);
    schedule.wrote(now + 69 * SEC, EVEN, 99);
    schedule.compared(now + 70 * SEC, LOW, &equal(&[EVEN, ODD]));
    assert_eq!(next(&schedule, now + 71 * SEC), Some((HIGH, vec![EVEN])));
}

#[tokio::test]
async fn copies_that_are_not_synced_wait_for_their_repair_until_overdue() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    settle(&mut schedule, now);
    let none = BTreeMap::new();
    let synced = |store, partition| (store, partition) != (HIGH, EVEN);
    let due = |schedule: &Schedule, at| schedule.next(at, &none, &synced);
    assert_eq!(
        due(&schedule, now + 12 * SEC).map(|round| round.store),
        Some(LOW)
    );
    schedule.compared(now + 12 * SEC, LOW, &equal(&[EVEN, ODD]));
    assert_eq!(due(&schedule, now + 14 * SEC), None);
    schedule.compared(now + 50 * SEC, LOW, &equal(&[EVEN, ODD]));
    schedule.compared(now + 50 * SEC, HIGH, &equal(&[ODD]));
    let round = due(&schedule, now + 60 * SEC).expect("overdue");
    assert_eq!(round.partitions, [EVEN]);
    // Nor is it mended where it turns out at the other's answer.
    let verdict = Verdict {
        differ: vec![EVEN, ODD],
        unsynced: vec![EVEN],
        ..Verdict::default()
    };
    assert_eq!(schedule.to_mend(now + 20 * SEC, HIGH, &verdict), [ODD]);
    assert_eq!(
        schedule.to_mend(now + 60 * SEC, HIGH, &verdict),
        [EVEN, ODD]
    );
}

#[tokio::test]
async fn marks_come_first_then_wishes() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    settle(&mut schedule, now);
    let marked = BTreeMap::from([(HIGH, Marked::Some([ODD].into()))]);
    let soon = now + 2 * SEC;
    assert_eq!(
        next_with(&schedule, soon, &marked),
        Some((HIGH, vec![ODD])),
        "whoever begins"
    );
    schedule.want(soon, None);
    assert_eq!(
        next_with(&schedule, soon, &marked),
        Some((HIGH, vec![EVEN, ODD]))
    );
    assert_eq!(
        next(&schedule, soon),
        Some((LOW, vec![ODD])).or(next(&schedule, soon))
    );
    // An older exchange does not fulfil a wish, a newer one does.
    schedule.compared(now, LOW, &equal(&[ODD]));
    schedule.compared(now, HIGH, &equal(&[EVEN]));
    assert!(next(&schedule, soon).is_some());
    schedule.compared(soon, LOW, &equal(&[ODD]));
    schedule.compared(soon, HIGH, &equal(&[EVEN]));
    assert_eq!(next(&schedule, soon), None);
    let one = [ODD].into();
    schedule.want(soon, Some(&one));
    assert_eq!(next(&schedule, soon), Some((LOW, vec![ODD])));
}

#[tokio::test]
async fn ages_are_those_of_the_oldest_pair() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    let none = BTreeMap::new();
    let at = now + 7 * SEC;
    let figures = schedule.figures(at, &none);
    let never = Ages {
        oldest: 7 * SEC,
        unclean: 2,
        partitions: 2,
    };
    assert_eq!(figures, never);
    schedule.compared(at, HIGH, &equal(&[EVEN, ODD]));
    assert_eq!(
        schedule.figures(at, &none),
        never,
        "the other owner is not compared"
    );
    schedule.compared(at - SEC, LOW, &equal(&[EVEN]));
    schedule.asked(at, LOW, &[], &[ODD]);
    let half = schedule.figures(at, &none);
    assert_eq!((half.oldest, half.unclean), (7 * SEC, 1));
    schedule.told_mended(LOW, &[ODD]);
    let whole = schedule.figures(at, &none);
    assert_eq!((whole.oldest, whole.unclean), (SEC, 0));
    assert_eq!(schedule.within(at, None, SEC), (1, 2));
    assert_eq!(schedule.within(at, Some(&[EVEN].into()), 2 * SEC), (1, 1));
    let marked = BTreeMap::from([(LOW, Marked::Some([EVEN, PartitionId(99)].into()))]);
    assert_eq!(schedule.figures(at, &marked).unclean, 1);
    assert_eq!(schedule.behind(&marked), BTreeMap::from([(LOW, 1)]));
    assert_eq!(schedule.figures(at + 91 * SEC, &none).unclean, 2, "too old");
    // Of those that are no owners any more nothing is counted.
    schedule.follow(at, &[]);
    assert_eq!(schedule.figures(at, &none), Ages::default());
}

#[tokio::test]
async fn what_is_mended_is_told_once() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    settle(&mut schedule, now);
    let differs = Verdict {
        differ: vec![EVEN],
        ..Verdict::default()
    };
    schedule.compared(now + SEC, HIGH, &differs);
    assert_eq!(schedule.differing(), 1);
    schedule.mended(now + SEC, HIGH, EVEN);
    assert_eq!(schedule.differing(), 0);
    assert_eq!(schedule.take_mended(HIGH), [EVEN]);
    assert_eq!(schedule.take_mended(HIGH), []);
}
