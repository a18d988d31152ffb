//! I7: everything is bounded, with a typed error past it; and time runs out with one.

use std::{sync::Arc, time::Duration};

use ringfort_proto::{Reason, v1};

use crate::{
    coordinator::{Collector, Origin, ReplySink},
    limits::Limits,
    testing::*,
};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn blind_writes_of_one_key_end_in_too_many_siblings() {
    let cluster = Cluster::of_three().await;
    let (collector, results) = Collector::new(10_000);
    let sink: Arc<dyn ReplySink> = collector;
    let operation = |id| v1::Operation {
        id,
        deadline_us: 30_000_000,
        kind: Some(put("k", "v")),
    };
    cluster.nodes[0].data.coordinator.submit(
        (0..10_000).map(operation).collect(),
        Origin::Client,
        &sink,
    );
    let mut reasons = std::collections::BTreeMap::<_, usize>::new();
    for result in results.await.expect("all are answered") {
        let reason = match result.kind {
            Some(v1::operation_result::Kind::Error(error)) => error.reason,
            _ => String::new(),
        };
        *reasons.entry(reason).or_default() += 1;
    }
    let expected = [
        (String::new(), 64),
        ("TOO_MANY_SIBLINGS".to_owned(), 10_000 - 64),
    ];
    assert_eq!(reasons, expected.into());
    assert_eq!(values(cluster.nodes[1].run(get_r("k", 3)).await).len(), 64);
}

#[tokio::test]
async fn pending_operations_are_limited() {
    let limits = Limits {
        pending_operations: 2,
        ..Limits::default()
    };
    let cluster = Cluster::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    cluster.nodes.iter().for_each(|node| node.hold_log(true));
    let node = &cluster.nodes[0];
    let first = node.start_op(put("a", "v"), LONG, Origin::Client);
    let second = node.start_op(put("b", "v"), LONG, Origin::Client);
    let failure = node.run(put("c", "v")).await.expect_err("over the limit");
    assert_eq!(failure.reason, Reason::Overloaded);
    assert!(failure.retry_after.is_some());
    cluster.nodes.iter().for_each(|node| node.hold_log(false));
    put_ok(outcome(first).await);
    put_ok(outcome(second).await);
    put_ok(node.run(put("c", "v")).await);
}

#[tokio::test]
async fn running_requests_of_a_client_are_limited() {
    let limits = Limits {
        running_per_client: 1,
        ..Limits::default()
    };
    let cluster = Cluster::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    cluster.nodes.iter().for_each(|node| node.hold_log(true));
    let node = &cluster.nodes[0];
    let first = node.start_op(put_with("a", "v", request(1, 1)), LONG, Origin::Client);
    let failure = node
        .run(put_with("b", "v", request(1, 2)))
        .await
        .expect_err("over the limit");
    assert_eq!(failure.reason, Reason::Overloaded);
    let other = node.start_op(put_with("b", "v", request(2, 1)), LONG, Origin::Client);
    cluster.nodes.iter().for_each(|node| node.hold_log(false));
    put_ok(outcome(first).await);
    put_ok(outcome(other).await);
}

#[tokio::test]
async fn a_full_queue_to_a_peer_fails_for_that_peer_alone() {
    let limits = Limits {
        peer_queue_bytes: 2_000,
        ..Limits::default()
    };
    let cluster = Cluster::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let node = &cluster.nodes[0];
    let value = "x".repeat(5_000);
    let failure = node.run(put("k", &value)).await.expect_err("fits no queue");
    assert_eq!(failure.reason, Reason::OutcomeUnknown);
    assert_eq!(
        node.counters
            .not_sent
            .load(std::sync::atomic::Ordering::Relaxed),
        2
    );
    assert_eq!(values(node.run(get_r("k", 1)).await), [value]);
    put_ok(node.run(put("small", "v")).await);
}

#[tokio::test]
async fn large_values_travel_by_the_second_connection() {
    let cluster = Cluster::of_three().await;
    let value = "x".repeat(1 << 20);
    put_ok(cluster.nodes[0].run(put_with("k", &value, w(3))).await);
    assert_eq!(values(cluster.nodes[1].run(get_r("k", 3)).await), [value]);
}

#[tokio::test]
async fn a_read_that_runs_out_of_time_says_that_nothing_changed() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    node.pool.hold();
    let waiting = node.start_op(get("k"), Duration::from_millis(30), Origin::Client);
    assert_eq!(
        outcome(waiting).await.expect_err("too late").reason,
        Reason::DeadlineExceeded
    );
    let waiting = node.start_op(put("k", "v"), Duration::from_millis(30), Origin::Client);
    assert_eq!(
        outcome(waiting).await.expect_err("no base").reason,
        Reason::DeadlineExceeded
    );
    node.pool.release();
    assert_eq!(values(node.run(get_r("k", 3)).await), Vec::<String>::new());
    let none = node.start_op(get("k"), Duration::ZERO, Origin::Client);
    assert_eq!(
        outcome(none).await.expect_err("no deadline").reason,
        Reason::NoDeadline
    );
}

#[tokio::test]
async fn a_draining_node_ends_what_runs_and_takes_nothing_new() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    cluster.nodes[1].hold_log(true);
    cluster.nodes[2].hold_log(true);
    let running = node.start_op(put("k", "v"), LONG, Origin::Client);
    node.data.coordinator.drain();
    let failure = node.run(get("k")).await.expect_err("draining");
    assert_eq!(failure.reason, Reason::Draining);
    cluster.nodes[1].hold_log(false);
    put_ok(outcome(running).await);
}

#[tokio::test]
async fn a_full_disk_refuses_puts_and_nothing_else() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    let context = put_ok(node.run(put("k", "v")).await).context;
    node.data.coordinator.set_disk_full(true);
    assert_eq!(
        node.run(put("k", "w")).await.expect_err("full").reason,
        Reason::DiskFull
    );
    assert_eq!(values(node.run(get("k")).await), ["v"]);
    node.run(delete("k", &context))
        .await
        .expect("deletes make room");
}
