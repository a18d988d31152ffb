//! Rounds of one partition, step by step.

use ringfort_storage::{Key, version::Clock};

use super::*;

const P: u32 = 3;
const ME: StoreId = StoreId(1);

struct Cluster {
    epoch: u64,
    members: BTreeSet<StoreId>,
}

impl Cluster {
    /// Three owners and a fourth member.
    fn new() -> Cluster {
        Cluster {
            epoch: 7,
            members: (1..=4).map(StoreId).collect(),
        }
    }

    fn next(&self, core: &mut Core, now: Instant) -> Vec<Action> {
        let owners = |_| (1..=3).map(StoreId).collect();
        let known = Known {
            epoch: Epoch(self.epoch),
            members: &self.members,
            owners: &owners,
            me: ME,
        };
        core.next(now, &known)
    }
}

fn tomb(n: u8) -> Tomb {
    Tomb {
        key: Key::new(u64::from(n), b"n", &[n]).expect("short"),
        leaf: u64::from(n),
        clock: Clock::EMPTY,
    }
}

/// Who is asked what: `c`onfirm, `a`dvance (with a list), `A`dvance (without), `f`inish.
fn asked(actions: &[Action]) -> Vec<(u64, char)> {
    let asked = actions.iter().map(|action| match action {
        Action::Ask {
            store, question, ..
        } => {
            let what = match question {
                Question::Confirm { .. } => 'c',
                Question::Advance { tombs, .. } if tombs.is_empty() => 'A',
                Question::Advance { .. } => 'a',
                Question::Finish { .. } => 'f',
            };
            (store.0, what)
        }
        other => panic!("{other:?}"),
    });
    asked.collect()
}

fn through(generation: u64) -> Standing {
    Standing {
        generation,
        lowest_hint: None,
    }
}

/// A round whose owners are asked to confirm two tombstones at generation 4.
fn confirming(cluster: &Cluster, core: &mut Core, now: Instant) {
    core.begin(now, P, 4, vec![tomb(1), tomb(2)]);
    let actions = cluster.next(core, now);
    assert_eq!(asked(&actions), [(1, 'c'), (2, 'c'), (3, 'c')]);
}

/// The same, committed with the first of the two.
fn advancing(cluster: &Cluster, core: &mut Core, now: Instant) {
    confirming(cluster, core, now);
    for (store, second) in [(1, true), (2, false), (3, true)] {
        assert_eq!(cluster.next(core, now), []);
        let verdict = Verdict::Exact(vec![true, second]);
        core.confirmed((StoreId(store), P), 4, Epoch(7), &verdict);
    }
    let commit = Action::Commit {
        partition: P,
        to: 5,
        tombs: Arc::new(vec![tomb(1)]),
        epoch: Epoch(7),
    };
    assert_eq!(cluster.next(core, now), [commit]);
    core.committed(now, P, 5, true);
    let actions = cluster.next(core, now);
    assert_eq!(asked(&actions), [(1, 'a'), (2, 'a'), (3, 'a'), (4, 'A')]);
}

fn ends(cluster: &Cluster, core: &mut Core, now: Instant) {
    assert_eq!(asked(&cluster.next(core, now)), [(2, 'f'), (3, 'f')]);
    core.finished(StoreId(2), P, 5);
    assert_eq!(cluster.next(core, now), []);
    core.failed(StoreId(3), P, &Question::Finish { to: 5 });
    let end = Action::End {
        partition: P,
        to: 5,
    };
    assert_eq!(cluster.next(core, now), [end]);
    core.ended(now, P, 5, true);
    assert!(core.is_empty());
}

#[tokio::test]
async fn what_all_owners_confirm_is_reaped_when_all_members_are_through() {
    let (cluster, mut core, now) = (Cluster::new(), Core::default(), Instant::now());
    advancing(&cluster, &mut core, now);
    for store in 1..=3 {
        core.advanced((StoreId(store), P), 5, Epoch(7), through(5));
        assert_eq!(cluster.next(&mut core, now), []);
    }
    // One holds a hint of before: it is asked again, a little later, and the others are not.
    let holds = Standing {
        lowest_hint: Some(4),
        ..through(5)
    };
    core.advanced((StoreId(4), P), 5, Epoch(7), holds);
    assert_eq!(cluster.next(&mut core, now), []);
    let later = now + AGAIN;
    assert_eq!(asked(&cluster.next(&mut core, later)), [(4, 'A')]);
    core.advanced((StoreId(4), P), 5, Epoch(7), through(6));
    ends(&cluster, &mut core, later);
}

#[tokio::test]
async fn one_owner_that_does_not_confirm_ends_a_round() {
    let (cluster, now) = (Cluster::new(), Instant::now());
    let all = Verdict::Exact(vec![true, true]);
    for (epoch, verdict) in [
        (7, Verdict::Refused),
        (7, Verdict::Exact(vec![true])),
        (6, all.clone()),
        (8, all.clone()),
    ] {
        let mut core = Core::default();
        confirming(&cluster, &mut core, now);
        core.confirmed((StoreId(2), P), 4, Epoch(epoch), &verdict);
        assert!(core.is_empty(), "{verdict:?} by {epoch}");
    }
    let mut core = Core::default();
    confirming(&cluster, &mut core, now);
    let question = Question::Confirm {
        generation: 4,
        tombs: Arc::default(),
    };
    core.failed(StoreId(3), P, &question);
    assert!(core.is_empty());
    // All have confirmed, but a newer decree is known by now.
    let mut core = Core::default();
    confirming(&cluster, &mut core, now);
    (1..=3).for_each(|s| core.confirmed((StoreId(s), P), 4, Epoch(7), &all));
    let newer = Cluster {
        epoch: 8,
        ..Cluster::new()
    };
    assert_eq!(newer.next(&mut core, now), []);
    assert!(core.is_empty());
    // It was not to be committed.
    let mut core = Core::default();
    confirming(&cluster, &mut core, now);
    (1..=3).for_each(|s| core.confirmed((StoreId(s), P), 4, Epoch(7), &all));
    assert_eq!(cluster.next(&mut core, now).len(), 1);
    core.committed(now, P, 5, false);
    assert!(core.is_empty());
}

/// A member that knows a newer decree may have sent something older to one whom only that decree lists.
#[tokio::test]
async fn all_members_answer_by_the_newest_decree_that_any_of_them_knows() {
    let (mut cluster, mut core, now) = (Cluster::new(), Core::default(), Instant::now());
    advancing(&cluster, &mut core, now);
    for store in 1..=4 {
        let epoch = if store == 3 { 8 } else { 7 };
        core.advanced((StoreId(store), P), 5, Epoch(epoch), through(5));
    }
    assert_eq!(cluster.next(&mut core, now), [], "8 is not known here");
    cluster.epoch = 8;
    cluster.members.insert(StoreId(5));
    let later = now + AGAIN;
    let again = asked(&cluster.next(&mut core, later));
    assert_eq!(again, [(1, 'a'), (2, 'a'), (4, 'A'), (5, 'A')]);
    for store in [1, 2, 4, 5] {
        core.advanced((StoreId(store), P), 5, Epoch(8), through(5));
    }
    ends(&cluster, &mut core, later);
}

#[tokio::test]
async fn whoever_has_a_list_carries_the_round_on_when_it_is_its_turn() {
    let (mut cluster, mut core, now) = (Cluster::new(), Core::default(), Instant::now());
    let due = now + TURN;
    core.drive(now, due, (P, 5), &[tomb(1)]);
    // Told again and again, it stays what it is.
    core.drive(now, due + TURN, (P, 5), &[tomb(1)]);
    assert_eq!(cluster.next(&mut core, now), []);
    let all = asked(&cluster.next(&mut core, due));
    assert_eq!(all, [(1, 'a'), (2, 'a'), (3, 'a'), (4, 'A')]);
    for store in 1..=3 {
        core.advanced((StoreId(store), P), 5, Epoch(7), through(5));
    }
    let question = Question::Advance {
        to: 5,
        tombs: Arc::default(),
    };
    core.failed(StoreId(4), P, &question);
    let patience = Duration::from_secs(60);
    let stalled = |cluster: &Cluster, core: &Core, now| {
        let owners = |_| (1..=3).map(StoreId).collect();
        let known = Known {
            epoch: Epoch(cluster.epoch),
            members: &cluster.members,
            owners: &owners,
            me: ME,
        };
        core.stalled(now, &known, patience)
    };
    assert_eq!(stalled(&cluster, &core, due), []);
    let late = now + patience;
    let expected = Stalled {
        since: now,
        waits_for: vec![StoreId(4)],
    };
    assert_eq!(stalled(&cluster, &core, late), [expected]);
    // One that is excused is not waited for; all others say it by that decree.
    cluster.members.remove(&StoreId(4));
    cluster.epoch = 8;
    let again = asked(&cluster.next(&mut core, late));
    assert_eq!(again, [(1, 'a'), (2, 'a'), (3, 'a')]);
    for store in 1..=3 {
        core.advanced((StoreId(store), P), 5, Epoch(8), through(5));
    }
    ends(&cluster, &mut core, late);
    // Somebody else ended one that this node drives.
    core.drive(now, now, (P, 6), &[tomb(1)]);
    core.is_over(P);
    assert!(core.is_empty());
}
