//! W and R: I1 (durable at W), I3, and which failure is which.

use std::time::Duration;

use ringfort_proto::{Failure, Reason, v1};

use crate::{coordinator::Origin, testing::*};

fn number(failure: &Failure, name: &str) -> Option<u32> {
    failure.metadata.get(name)?.parse().ok()
}

#[tokio::test]
async fn what_one_node_wrote_every_node_reads() {
    let cluster = Cluster::of_three().await;
    let put = put_ok(cluster.nodes[0].run(put("k", "v")).await);
    assert_eq!(put.siblings, 1);
    assert!(!put.context.is_empty());
    let evidence = put.evidence.expect("is told");
    assert_eq!((evidence.owners_asked, evidence.fallbacks_used), (3, 0));
    assert!(evidence.owners_answered >= 2 && evidence.copies_durable >= 2);
    for node in &cluster.nodes {
        let get = get_ok(node.run(get_r("k", 2)).await);
        assert_eq!(get.siblings.len(), 1);
        assert_eq!(get.context, put.context);
    }
}

#[tokio::test]
async fn a_context_replaces_and_no_context_stands_beside() {
    let cluster = Cluster::of_three().await;
    let [a, b, _] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    let first = put_ok(a.run(put("k", "1")).await);
    let second = put_ok(b.run(put("k", "2")).await);
    assert_eq!(
        (second.siblings, second.context.len()),
        (2, 0),
        "no context over an unread sibling"
    );
    assert_eq!(values(a.run(get_r("k", 3)).await), ["1", "2"]);
    put_ok(b.run(put_over("k", "3", &first.context)).await);
    assert_eq!(values(a.run(get_r("k", 3)).await), ["2", "3"]);
    let read = get_ok(a.run(get("k")).await);
    a.run(delete("k", &read.context)).await.expect("deletes");
    assert_eq!(values(b.run(get_r("k", 3)).await), Vec::<String>::new());
    assert!(!get_ok(b.run(get_r("k", 3)).await).context.is_empty());
}

#[tokio::test]
async fn quorums_out_of_range_are_bad() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    for n in [0, 4] {
        let failure = node
            .run(put_with("k", "v", w(n)))
            .await
            .expect_err("W out of range");
        assert_eq!(failure.reason, Reason::BadQuorum);
        let failure = node.run(get_r("k", n)).await.expect_err("R out of range");
        assert_eq!(failure.reason, Reason::BadQuorum);
    }
    let two = Cluster::start(Options {
        nodes: 2,
        ..Options::default()
    })
    .await;
    put_ok(two.nodes[0].run(put("k", "v")).await);
    let failure = two.nodes[0]
        .run(put_with("k", "v", w(3)))
        .await
        .expect_err("W over N'");
    assert_eq!(
        (failure.reason, number(&failure, "alive")),
        (Reason::QuorumUnavailable, Some(2))
    );
    let failure = two.nodes[0]
        .run(get_r("k", 3))
        .await
        .expect_err("R over N'");
    assert_eq!(
        (failure.reason, number(&failure, "need")),
        (Reason::QuorumUnavailable, Some(3))
    );
}

#[tokio::test]
async fn one_node_is_a_cluster() {
    let one = Cluster::start(Options {
        nodes: 1,
        ..Options::default()
    })
    .await;
    let put = put_ok(one.nodes[0].run(put("k", "v")).await);
    assert_eq!(put.evidence.map(|e| e.copies_durable), Some(1));
    assert_eq!(values(one.nodes[0].run(get("k")).await), ["v"]);
}

#[tokio::test]
async fn without_a_quorum_nothing_is_attempted() {
    let cluster = Cluster::of_three().await;
    cluster.kill(2).await;
    let node = &cluster.nodes[0];
    put_ok(node.run(put("k", "two of three")).await);
    let failure = node
        .run(put_with("k", "x", w(3)))
        .await
        .expect_err("one is down");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
    assert_eq!(
        (number(&failure, "need"), number(&failure, "alive")),
        (Some(3), Some(2))
    );
    assert_eq!(failure.node, "n0");
    cluster.kill(1).await;
    let failure = node.run(put("k", "x")).await.expect_err("two are down");
    assert_eq!(
        (failure.reason, number(&failure, "alive")),
        (Reason::QuorumUnavailable, Some(1))
    );
    let failure = node.run(get("k")).await.expect_err("two are down");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
    assert_eq!(values(node.run(get_r("k", 1)).await), ["two of three"]);
    put_ok(node.run(put_with("other", "alone", w(1))).await);
}

#[tokio::test]
async fn an_answer_waits_for_w_durable_copies() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    b.hold_log(true);
    c.hold_log(true);
    let deadline = Duration::from_millis(500);
    let failure = outcome(a.start_op(put("k", "v"), deadline, Origin::Client)).await;
    let failure = failure.expect_err("one durable copy is not two");
    assert_eq!(
        (failure.reason, number(&failure, "acks")),
        (Reason::OutcomeUnknown, Some(1))
    );
    let buffered = v1::WriteOptions {
        durability: v1::Durability::Buffered as i32,
        ..w(3)
    };
    let put = put_ok(a.run(put_with("k2", "v", buffered)).await);
    assert_eq!(
        put.evidence.map(|e| (e.owners_answered, e.copies_durable)),
        Some((3, 0))
    );
    a.hold_log(true);
    let waiting = a.start_op(
        put_with("k3", "v", w(2)),
        Duration::from_secs(5),
        Origin::Client,
    );
    b.hold_log(false);
    c.hold_log(false);
    // Two others are durable: the own copy need not be one of the W.
    put_ok(outcome(waiting).await);
}

#[tokio::test]
async fn a_minted_write_that_can_reach_w_no_more_is_unknown_at_once() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    b.hold_log(true);
    c.hold_log(true);
    let waiting = a.start_op(put("k", "v"), Duration::from_secs(60), Origin::Client);
    let own_copy_is_durable = async || a.store.stats().durable_sequence > 0;
    eventually("the own copy is durable", own_copy_is_durable).await;
    // The log's own word of it may still be on its way.
    a.data
        .coordinator
        .on_durable(a.store.stats().durable_sequence);
    cluster.kill(1).await;
    cluster.kill(2).await;
    let failure = tokio::time::timeout(Duration::from_secs(20), outcome(waiting)).await;
    let failure = failure
        .expect("long before its deadline")
        .expect_err("two are gone");
    assert_eq!(
        (failure.reason, number(&failure, "acks")),
        (Reason::OutcomeUnknown, Some(1))
    );
}

#[tokio::test]
async fn expired_siblings_read_as_absent() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    let request = v1::PutRequest {
        ttl_ms: 500,
        ..put_request("k", "v")
    };
    put_ok(node.run(v1::operation::Kind::Put(request)).await);
    assert_eq!(
        get_ok(node.run(get("k")).await).siblings[0].expires_at_ms,
        1_000_500
    );
    node.clock
        .0
        .store(1_000_500, std::sync::atomic::Ordering::Release);
    assert_eq!(values(node.run(get("k")).await), Vec::<String>::new());
}
