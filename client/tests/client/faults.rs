//! Resends, ambiguity, broken streams, deadlines, dropped futures.

use std::time::Duration;

use futures::FutureExt;
use ringfort_client::{
    Failure, Kind, Reason,
    fake::{FakeCluster, Fault, Seen},
};
use tokio::time::Instant;

use crate::{cluster, settle};

fn writes(cluster: &FakeCluster) -> Vec<Seen> {
    cluster
        .seen()
        .into_iter()
        .filter(|seen| seen.write)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_resend_keeps_its_request_id_and_is_applied_once() {
    for fault in [
        Fault::ApplyAndFail(Failure::new(Reason::OutcomeUnknown, "1 of 2 acknowledged")),
        Fault::ApplyAndFailUntyped,
        Fault::ApplyAndBreak,
        Fault::Break,
        Fault::Refuse(Failure::new(Reason::QuorumUnavailable, "1 of 2 alive")),
        Fault::Refuse(Failure::new(Reason::Draining, "going away")),
        Fault::Refuse(
            Failure::new(Reason::Overloaded, "busy").retry_after(Duration::from_millis(50)),
        ),
    ] {
        let (cluster, client) = cluster(3);
        cluster.inject(fault.clone());
        let written = client.put("k", "v").await.unwrap();
        assert_eq!(written.siblings, 1, "{fault:?}");
        let seen = writes(&cluster);
        assert_eq!(seen.len(), 2, "{fault:?}");
        assert!(seen[0].request_id.is_some());
        assert_eq!(seen[0].request_id, seen[1].request_id);
        assert_eq!((seen[0].attempt, seen[1].attempt), (0, 1));
        assert_ne!(seen[0].node, seen[1].node, "{fault:?}");
        assert!(seen[1].deadline < seen[0].deadline, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn three_attempts_and_no_more() {
    let (cluster, client) = cluster(3);
    for _ in 0..5 {
        cluster.inject(Fault::Refuse(Failure::new(
            Reason::QuorumUnavailable,
            "1 of 2 alive",
        )));
    }
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(!error.is_ambiguous());
    assert_eq!(cluster.seen().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_said_outlives_that_others_cannot_be_reached() {
    let mut said = 0;
    for round in 0..20 {
        // A client that does not know yet who is up asks the dead ones, too.
        let (cluster, client) = cluster(3);
        cluster.stop(1);
        cluster.stop(2);
        for _ in 0..3 {
            cluster.inject(Fault::Refuse(Failure::new(
                Reason::QuorumUnavailable,
                "1 of 2 alive",
            )));
        }
        let error = client.put(format!("k{round}"), "v").await.unwrap_err();
        assert!(!error.is_ambiguous());
        if !cluster.seen().is_empty() {
            said += 1;
            assert_eq!(error.reason(), Some(Reason::QuorumUnavailable), "{error}");
        }
    }
    assert!(said > 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_succeed_is_sent_once() {
    for reason in [
        Reason::BadQuorum,
        Reason::BadContext,
        Reason::DiskFull,
        Reason::TooManySiblings,
    ] {
        let (cluster, client) = cluster(3);
        cluster.inject(Fault::Refuse(Failure::new(reason, "no")));
        let error = client.put("k", "v").await.unwrap_err();
        assert_eq!(error.reason(), Some(reason));
        assert!(!error.is_ambiguous());
        assert_eq!(cluster.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn ambiguity_sticks_until_an_attempt_succeeds() {
    let (cluster, client) = cluster(3);
    cluster.inject(Fault::ApplyAndBreak);
    cluster.inject(Fault::Refuse(Failure::new(Reason::DiskFull, "no room")));
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.kind(), Kind::DiskFull);
    assert!(error.is_ambiguous(), "the first attempt was applied");
    assert!(
        error.to_string().contains("may have been applied"),
        "{error}"
    );
    assert_eq!(cluster.keys(), 1);

    cluster.inject(Fault::Refuse(Failure::new(Reason::DiskFull, "no room")));
    let error = client.put("k", "v").await.unwrap_err();
    assert!(!error.is_ambiguous(), "it sticks to its call only");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_is_ambiguous_for_writes_and_not_for_reads() {
    let (cluster, client) = cluster(1);
    for _ in 0..3 {
        cluster.inject(Fault::Break);
    }
    let error = client.put("k", "v").await.unwrap_err();
    assert!(error.is_ambiguous() && error.is_retryable(), "{error}");
    let (cluster, client) = crate::cluster(1);
    cluster.inject(Fault::Break);
    assert!(client.get("k").await.is_ok(), "a read is sent again");
    for _ in 0..3 {
        cluster.inject(Fault::Break);
    }
    let error = client.get("k").await.unwrap_err();
    assert!(!error.is_ambiguous() && error.is_retryable(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn all_in_flight_survive_a_broken_stream() {
    let (cluster, client) = cluster(3);
    client.get("warm").await.unwrap();
    for node in 0..3 {
        cluster.hold(node);
    }
    let mut puts: Vec<_> = (0..100)
        .map(|i| tokio::spawn(client.put(format!("k{i}"), "v").into_future()))
        .collect();
    settle().await;
    for node in 0..3 {
        cluster.release(node);
        cluster.break_connections(node);
    }
    for put in &mut puts {
        put.await.unwrap().unwrap();
    }
    assert_eq!(cluster.keys(), 100);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_around_all_attempts() {
    let (cluster, client) = cluster(1);
    client.get("warm").await.unwrap();
    cluster.inject(Fault::Refuse(Failure::new(
        Reason::QuorumUnavailable,
        "1 of 2 alive",
    )));
    cluster.inject(Fault::ApplyAndStaySilent);
    let started = Instant::now();
    let error = client
        .put("k", "v")
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    let took = started.elapsed();
    assert!((300..310).contains(&took.as_millis()), "{took:?}");
    assert_eq!(error.kind(), Kind::OutcomeUnknown);
    assert!(error.is_ambiguous());
    let seen = writes(&cluster);
    assert_eq!(seen.len(), 2);
    assert!(
        seen[0].deadline <= Duration::from_millis(300),
        "{:?}",
        seen[0].deadline
    );

    cluster.inject(Fault::ApplyAndStaySilent);
    let error = client
        .get("k")
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (Kind::Timeout, false));
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_the_deadline_is_not_waited_for() {
    let (cluster, client) = cluster(1);
    cluster.inject(Fault::Refuse(
        Failure::new(Reason::RateLimited, "slow down").retry_after(Duration::from_secs(5)),
    ));
    let started = Instant::now();
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(5)));
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_to_nobody_before_the_deadline() {
    // No endpoint answers at all: the connection hangs, and the deadline is kept all the same.
    let silent = tower::service_fn(|_: http::Uri| async {
        std::future::pending::<std::io::Result<tokio::io::DuplexStream>>().await
    });
    let client = ringfort_client::Client::builder()
        .endpoints(["a:1"])
        .connector(silent)
        .build()
        .unwrap();
    let started = Instant::now();
    let error = client
        .put("k", "v")
        .timeout(Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!(started.elapsed().as_millis() / 10, 20);
    assert_eq!((error.kind(), error.is_ambiguous()), (Kind::Timeout, false));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_future_never_polled_or_half_done_is_harmless() {
    let (cluster, client) = cluster(1);
    drop(client.put("never", "v").into_future());
    assert!(cluster.seen().is_empty());

    // Dropped while it is queued, before the session is open: never sent.
    let mut queued = client.put("queued", "v").into_future();
    assert!((&mut queued).now_or_never().is_none());
    drop(queued);
    // Dropped while the node holds it: the write runs on.
    client.get("warm").await.unwrap();
    cluster.hold(0);
    let mut flying = client.put("flying", "v").into_future();
    assert!((&mut flying).now_or_never().is_none());
    settle().await;
    drop(flying);
    cluster.release(0);
    settle().await;
    let keys: Vec<_> = writes(&cluster).into_iter().map(|seen| seen.key).collect();
    assert_eq!(keys, [b"flying".to_vec()]);
    assert!(client.get("flying").await.unwrap().is_found());

    // Many, dropped at every stage; the session still has all of its credit.
    for round in 0..20 {
        let mut puts: Vec<_> = (0..1000)
            .map(|i| {
                client
                    .put(format!("{round}-{i}"), vec![0; 1000])
                    .into_future()
            })
            .collect();
        for put in &mut puts {
            let _ = put.now_or_never();
        }
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
    }
    client.put("last", "v").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_floor_is_the_lowest_sequence_without_an_answer() {
    let (cluster, client) = cluster(1);
    client.put("a", "v").await.unwrap();
    cluster.inject(Fault::Delay(Duration::from_millis(500)));
    let slow = tokio::spawn(client.put("slow", "v").into_future());
    settle().await;
    client.put("b", "v").await.unwrap();
    client.put("c", "v").await.unwrap();
    slow.await.unwrap().unwrap();
    client.put("d", "v").await.unwrap();
    let floors: Vec<(u64, u64)> = writes(&cluster)
        .iter()
        .map(|seen| (seen.request_id.unwrap().1, seen.lowest_unanswered))
        .collect();
    assert_eq!(floors, [(1, 1), (2, 2), (3, 2), (4, 2), (5, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_sent_twice_stays_above_the_floor_of_its_client_id() {
    let (cluster, client) = cluster(1);
    cluster.inject(Fault::ApplyAndBreak);
    client.put("a", "v").await.unwrap();
    client.put("b", "v").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    client.put("c", "v").await.unwrap();
    let seen = writes(&cluster);
    let clients: Vec<u64> = seen.iter().map(|s| s.request_id.unwrap().0).collect();
    let (old, new) = (clients[0], clients[2]);
    assert_ne!(old, new);
    assert_eq!(clients, [old, old, new, new]);
    let floors: Vec<(u64, u64)> = seen
        .iter()
        .map(|seen| (seen.request_id.unwrap().1, seen.lowest_unanswered))
        .collect();
    assert_eq!(floors, [(1, 1), (1, 1), (1, 1), (2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_plain_delete_reads_once_and_keeps_the_context_over_resends() {
    let (cluster, client) = cluster(3);
    client.put("k", "old").await.unwrap();
    let before = cluster.seen().len();
    // The read passes late, the first attempt of the delete is refused; a value written meanwhile must stay.
    cluster.inject(Fault::Delay(Duration::from_millis(1)));
    cluster.inject(Fault::Refuse(
        Failure::new(Reason::Overloaded, "busy").retry_after(Duration::from_millis(100)),
    ));
    let deleting = tokio::spawn(client.delete("k").into_future());
    settle().await;
    cluster.add_sibling("k", "new");
    let deleted = deleting.await.unwrap().unwrap();
    assert_eq!((deleted.siblings, deleted.found), (1, Some(true)));
    let seen = &cluster.seen()[before..];
    assert_eq!(
        seen.iter().map(|seen| seen.write).collect::<Vec<_>>(),
        [false, true, true]
    );
    assert_eq!(
        client.get("k").await.unwrap().one().unwrap().unwrap(),
        "new"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_passed_over_and_its_stream_is_replaced() {
    let (cluster, client) = cluster(3);
    client.get("k").await.unwrap();
    cluster.hold(1);
    let mut timeouts = 0;
    for i in 0..90 {
        timeouts += u32::from(client.get(format!("k{i}")).await.is_err());
    }
    assert!(
        (1..=3).contains(&timeouts),
        "{timeouts} of 90 waited for the silent node"
    );
    cluster.release(1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = cluster.seen().len();
    for i in 0..30 {
        client.get(format!("k{i}")).await.unwrap();
    }
    assert!(
        cluster.seen()[before..]
            .iter()
            .any(|seen| seen.node == "n1")
    );
}

#[tokio::test(start_paused = true)]
async fn one_seed_is_one_run() {
    async fn run() -> (Vec<Seen>, Duration) {
        let started = Instant::now();
        let (cluster, client) = cluster(5);
        for round in 0..20 {
            match round % 5 {
                0 => cluster.inject(Fault::Break),
                1 => cluster.inject(Fault::Refuse(Failure::new(
                    Reason::QuorumUnavailable,
                    "1 of 2 alive",
                ))),
                2 => cluster.stop(round % 3),
                3 => cluster.start(round % 3),
                _ => cluster.inject(Fault::ApplyAndStaySilent),
            }
            let puts = (0..20).map(|i| client.put(format!("{round}-{i}"), "v").into_future());
            futures::future::join_all(puts).await;
        }
        (cluster.seen(), started.elapsed())
    }
    let first = run().await;
    assert!(first.0.len() > 400);
    assert_eq!(first, run().await);
}
