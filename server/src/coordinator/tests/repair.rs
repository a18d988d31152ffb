//! I5: what a read finds to differ, it merges, answers and repairs.

use std::sync::atomic::Ordering::Relaxed;

use ringfort_proto::Reason;
use ringfort_storage::{
    Key,
    store::{Read, WriteLimits},
    version::{NewPayload, RequestId, Value, Write},
};

use crate::{coordinator::locate, testing::*};

fn storage_key(node: &Node, name: &str) -> Key {
    locate(key(name).as_ref(), node.views.current().layout())
        .expect("a key")
        .0
}

/// Writes into one node's store, past all others.
pub(super) fn write_behind(node: &Node, name: &str, value: &'static str, sequence: u64) {
    let key = storage_key(node, name);
    let write = Write {
        context: None,
        payload: NewPayload::Value(Value::new(bytes::Bytes::from_static(value.as_bytes()))),
        request: RequestId {
            client: 9,
            sequence,
        },
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms: 0,
    };
    let limits = WriteLimits {
        siblings_max: 64,
        object_bytes_max: 1 << 20,
    };
    node.store.load(std::slice::from_ref(&key)).expect("loads");
    node.store.write(&key, &write, 1, &limits).expect("writes");
}

/// 0: nothing is stored.
pub(super) fn leaf(node: &Node, name: &str) -> u64 {
    let key = storage_key(node, name);
    match node.store.load(&[key]).expect("loads").remove(0) {
        Read::Found(record) => record.leaf(),
        _ => panic!("loaded"),
    }
}

#[tokio::test]
async fn differing_copies_are_merged_answered_and_repaired() {
    for reader in 0..3 {
        let cluster = Cluster::of_three().await;
        write_behind(&cluster.nodes[0], "k", "a", 1);
        write_behind(&cluster.nodes[1], "k", "b", 2);
        assert_eq!(
            values(cluster.nodes[reader].run(get_r("k", 3)).await),
            ["a", "b"]
        );
        eventually("all copies are equal", async || {
            let leaves: Vec<_> = cluster.nodes.iter().map(|node| leaf(node, "k")).collect();
            leaves[0] != 0 && leaves.iter().all(|&leaf| leaf == leaves[0])
        })
        .await;
        assert!(cluster.nodes[reader].counters.read_repairs.load(Relaxed) >= 2);
    }
}

#[tokio::test]
async fn equal_copies_are_not_repaired() {
    let cluster = Cluster::of_three().await;
    put_ok(cluster.nodes[0].run(put_with("k", "v", w(3))).await);
    for node in &cluster.nodes {
        assert_eq!(values(node.run(get_r("k", 3)).await), ["v"]);
        assert_eq!(
            values(node.run(get_r("nothing", 3)).await),
            Vec::<String>::new()
        );
        assert_eq!(node.counters.read_repairs.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn a_read_at_r_sees_what_was_acknowledged_at_w_without_its_coordinator() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    // Acknowledged by a and b; c never saw it.
    write_behind(a, "k", "v", 1);
    let whole = a
        .store
        .load(&[storage_key(a, "k")])
        .expect("loads")
        .remove(0);
    let Read::Found(record) = whole else {
        panic!("just written")
    };
    b.store
        .merge(&storage_key(b, "k"), record.object().clone(), 0)
        .expect("merges");
    cluster.kill(0).await;
    assert_eq!(values(c.run(get_r("k", 2)).await), ["v"]);
}

#[tokio::test]
async fn copies_that_are_not_synced_do_not_count() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    put_ok(a.run(put_with("k", "v", w(3))).await);
    for node in [b, c] {
        node.mark_unsynced(&[&b.name, &c.name]);
    }
    // a does not know yet: it asks, and both say that they do not count.
    let failure = a.run(get_r("k", 2)).await.expect_err("one copy counts");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
    a.mark_unsynced(&[&b.name, &c.name]);
    let failure = a.run(get_r("k", 2)).await.expect_err("one copy counts");
    assert_eq!(failure.metadata.get("alive").map(String::as_str), Some("1"));
    assert_eq!(values(a.run(get_r("k", 1)).await), ["v"]);
    // Toward W they count.
    put_ok(a.run(put_with("k", "w", w(3))).await);
}
