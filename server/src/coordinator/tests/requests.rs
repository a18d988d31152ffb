//! Request ids: applied at most once, through whichever coordinators.

use std::time::Duration;

use ringfort_proto::{Reason, v1, v1::operation::Kind};

use crate::{coordinator::Origin, testing::*};

fn absent(k: &str, value: &str, options: v1::WriteOptions) -> Kind {
    Kind::Put(v1::PutRequest {
        if_absent: true,
        options: Some(options),
        ..put_request(k, value)
    })
}

#[tokio::test]
async fn a_repeated_request_is_applied_once_and_answered_again() {
    let cluster = Cluster::of_three().await;
    let again = || {
        put_with(
            "k",
            "v",
            v1::WriteOptions {
                w: Some(3),
                ..request(1, 1)
            },
        )
    };
    let first = put_ok(cluster.nodes[0].run(again()).await);
    for node in &cluster.nodes {
        let repeated = put_ok(node.run(again()).await);
        assert_eq!(repeated.context, first.context);
        assert_eq!(repeated.evidence.map(|e| e.copies_durable), Some(3));
    }
    assert_eq!(values(cluster.nodes[1].run(get_r("k", 3)).await), ["v"]);
    // Overwritten in between: still not applied again.
    put_ok(
        cluster.nodes[2]
            .run(put_over("k", "newer", &first.context))
            .await,
    );
    let late = put_ok(cluster.nodes[2].run(again()).await);
    assert!(late.context.is_empty());
    assert_eq!(values(cluster.nodes[0].run(get_r("k", 3)).await), ["newer"]);
}

#[tokio::test]
async fn a_retry_after_an_unknown_outcome_ends_with_one_value() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    b.hold_log(true);
    c.hold_log(true);
    let first = a.start_op(
        put_with("k", "v", request(1, 1)),
        Duration::from_millis(50),
        Origin::Client,
    );
    assert_eq!(
        outcome(first).await.expect_err("too late").reason,
        Reason::OutcomeUnknown
    );
    b.hold_log(false);
    c.hold_log(false);
    put_ok(b.run(put_with("k", "v", request(1, 1))).await);
    assert_eq!(values(c.run(get_r("k", 3)).await), ["v"]);
}

#[tokio::test]
async fn a_second_attempt_joins_the_running_first() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    b.hold_log(true);
    c.hold_log(true);
    let long = Duration::from_secs(30);
    let short = Duration::from_millis(50);
    let first = a.start_op(put_with("k", "v", request(1, 1)), long, Origin::Client);
    let second = a.start_op(put_with("k", "v", request(1, 1)), long, Origin::Client);
    let hasty = a.start_op(put_with("k", "v", request(1, 1)), short, Origin::Client);
    let other = a.start_op(put_with("other", "v", request(1, 1)), long, Origin::Client);
    assert_eq!(
        outcome(other).await.expect_err("another key").reason,
        Reason::BadRequest
    );
    assert_eq!(
        outcome(hasty).await.expect_err("its own deadline").reason,
        Reason::OutcomeUnknown
    );
    assert_eq!(a.data.coordinator.pending(), 1);
    b.hold_log(false);
    let (first, second) = (put_ok(outcome(first).await), put_ok(outcome(second).await));
    assert_eq!(first.context, second.context);
    assert_eq!(a.data.coordinator.pending(), 0);
}

#[tokio::test]
async fn if_absent_writes_once_and_tells_what_is_there() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    let first = put_ok(a.run(absent("k", "1", request(1, 1))).await);
    assert_eq!(first.siblings, 1);
    let failure = b
        .run(absent("k", "2", request(2, 1)))
        .await
        .expect_err("is there");
    assert_eq!(failure.reason, Reason::ConditionFailed);
    let current = failure.current.expect("is told");
    assert_eq!(&current.siblings[0].value[..], b"1");
    assert_eq!(current.context, first.context);
    // A retry of the one that was applied is no failure, wherever it goes.
    for node in &cluster.nodes {
        assert_eq!(
            put_ok(node.run(absent("k", "1", request(1, 1))).await).siblings,
            1
        );
    }
    c.run(delete("k", &first.context)).await.expect("deletes");
    put_ok(c.run(absent("k", "3", request(3, 1))).await);
    assert_eq!(values(a.run(get_r("k", 3)).await), ["3"]);
    assert!(
        cluster
            .nodes
            .iter()
            .all(|node| node.data.coordinator.pending() == 0)
    );
}

#[tokio::test]
async fn deletes_need_a_context_of_their_own_key() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    let context = put_ok(node.run(put("k", "v")).await).context;
    let missing = node
        .run(delete("k", &bytes::Bytes::new()))
        .await
        .expect_err("no context");
    assert_eq!(missing.reason, Reason::BadContext);
    let misplaced = node
        .run(delete("other", &context))
        .await
        .expect_err("another key's");
    assert_eq!(misplaced.reason, Reason::BadContext);
    let mut mangled = context.to_vec();
    mangled[2] ^= 1;
    let mangled = node
        .run(put_over("k", "v", &mangled.into()))
        .await
        .expect_err("mangled");
    assert_eq!(mangled.reason, Reason::BadContext);
    assert_eq!(values(node.run(get("k")).await), ["v"]);
}
