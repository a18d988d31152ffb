//! Owners that are down, and who holds hints for them: I1 with hints, evidence, strictness, delivery.

use std::{sync::Arc, time::Duration};

use ringfort_proto::{Reason, v1};
use ringfort_ring::{PartitionId, StoreId};
use ringfort_storage::{Key, store::Read};

use crate::{coordinator::locate, marks::Marked, testing::*};

/// Five nodes, three copies.
async fn five() -> Cluster {
    Cluster::start(Options {
        nodes: 5,
        ..Options::default()
    })
    .await
}

fn place(cluster: &Cluster, name: &str) -> (Key, PartitionId) {
    let view = cluster.nodes[0].views.current();
    locate(key(name).as_ref(), view.layout()).expect("a key")
}

/// The owners of a key, then its fallbacks, as places in the cluster.
fn walk(cluster: &Cluster, name: &str) -> (Vec<usize>, Vec<usize>) {
    let view = cluster.nodes[0].views.current();
    let (_, partition) = place(cluster, name);
    let places = |members: &[u16]| members.iter().map(|m| usize::from(*m)).collect();
    let fallbacks = view.live()[0].fallbacks(partition);
    (places(view.owners(partition)), places(fallbacks))
}

fn store_of(cluster: &Cluster, node: usize) -> StoreId {
    cluster.nodes[node].member().store_id
}

fn strict_write(w: u32) -> v1::WriteOptions {
    v1::WriteOptions {
        w: Some(w),
        strict: Some(true),
        ..v1::WriteOptions::default()
    }
}

fn strict_get(name: &str, r: u32) -> v1::operation::Kind {
    v1::operation::Kind::Get(v1::GetRequest {
        deleted: false,
        key: key(name),
        options: Some(v1::ReadOptions {
            r: Some(r),
            strict: Some(true),
            ..v1::ReadOptions::default()
        }),
    })
}

/// Who lacks something, as far as a node knows.
fn marks(node: &Node) -> Vec<(StoreId, PartitionId)> {
    let marks = node.board.marks.all().into_iter();
    let pairs = marks.flat_map(|(store, marked)| match marked {
        Marked::Some(partitions) => partitions.into_iter().map(|p| (store, p)).collect(),
        Marked::Nothing => Vec::new(),
        Marked::All => panic!("far more than a test makes"),
    });
    pairs.collect()
}

fn has_hint(cluster: &Cluster, node: usize, name: &str) -> bool {
    cluster.nodes[node]
        .store
        .hint(&place(cluster, name).0)
        .is_some()
}

#[tokio::test]
async fn an_owner_that_is_down_gets_a_hint_at_the_next_node_of_the_walk() {
    let cluster = five().await;
    let (owners, fallbacks) = walk(&cluster, "k");
    cluster.kill(owners[2]).await;
    let me = &cluster.nodes[owners[0]];
    let put = put_ok(me.run(put_with("k", "v", w(3))).await);
    let evidence = put.evidence.expect("is told");
    assert_eq!((evidence.owners_asked, evidence.owners_answered), (3, 2));
    assert_eq!((evidence.fallbacks_used, evidence.copies_durable), (1, 3));
    assert!(has_hint(&cluster, fallbacks[0], "k"));
    assert!(!has_hint(&cluster, fallbacks[1], "k"));
    // The hint is no record of that node.
    let (key, _) = place(&cluster, "k");
    let read = cluster.nodes[fallbacks[0]].store.load(&[key]);
    let [Read::Found(record)] = &read.expect("the engine is well")[..] else {
        panic!("loaded")
    };
    assert!(record.object().is_empty());

    // W is reached without it: it is left all the same, and counts for nothing if the write is strict.
    let put = put_ok(me.run(put_with("k2", "v", strict_write(2))).await);
    assert_eq!(put.evidence.map(|e| e.fallbacks_used), Some(0));
}

#[tokio::test]
async fn two_of_three_owners_down_a_write_succeeds_unless_it_is_strict() {
    let cluster = five().await;
    let (owners, fallbacks) = walk(&cluster, "k");
    let me = &cluster.nodes[owners[0]];
    put_ok(me.run(put_with("old", "v", w(3))).await);
    cluster.kill(owners[1]).await;
    cluster.kill(owners[2]).await;
    let failure = me.run(put_with("k", "x", strict_write(2))).await;
    let failure = failure.expect_err("one owner is up");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
    assert_eq!(failure.metadata.get("alive").map(String::as_str), Some("1"));
    assert!(
        !has_hint(&cluster, fallbacks[0], "k"),
        "nothing was attempted"
    );

    let put = put_ok(me.run(put("k", "v")).await);
    let evidence = put.evidence.expect("is told");
    assert!(evidence.fallbacks_used >= 1 && evidence.owners_answered <= 1);
    assert!(evidence.fallbacks_used + evidence.owners_answered >= 2);
    eventually("both hold a hint", async || {
        has_hint(&cluster, fallbacks[0], "k") && has_hint(&cluster, fallbacks[1], "k")
    })
    .await;

    // Hints count in a read that is not strict.
    let read = get_ok(me.run(get_r("k", 2)).await);
    assert_eq!(read.siblings.len(), 1);
    let evidence = read.evidence.expect("is told");
    assert!(evidence.fallbacks_used >= 1 && evidence.owners_answered <= 1);
    let failure = me.run(strict_get("k", 2)).await.expect_err("one owner");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
    assert_eq!(values(me.run(strict_get("k", 1)).await), ["v"]);
    // As many as there are.
    put_ok(me.run(put_with("k", "w", w(3))).await);
}

#[tokio::test]
async fn that_a_fallback_holds_no_hint_says_nothing() {
    let cluster = five().await;
    let (owners, _) = walk(&cluster, "k");
    let me = &cluster.nodes[owners[0]];
    cluster.kill(owners[1]).await;
    cluster.kill(owners[2]).await;
    let failure = me.run(get_r("k", 2)).await.expect_err("one copy counts");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
    assert_eq!(failure.metadata.get("alive").map(String::as_str), Some("1"));
}

#[tokio::test]
async fn an_owner_that_is_lost_on_the_way_gets_its_fallback_then() {
    let cluster = five().await;
    let (owners, fallbacks) = walk(&cluster, "k");
    let [me, lost] = [owners[0], owners[1]].map(|node| &cluster.nodes[node]);
    lost.hold_log(true);
    let (deadline, origin) = (Duration::from_secs(30), crate::coordinator::Origin::Client);
    let waiting = me.start_op(put_with("k", "v", w(3)), deadline, origin);
    let (key, _) = place(&cluster, "k");
    eventually("it is on its way", async || {
        matches!(lost.store.read(&key), Read::Found(_)) || lost.store.stats().dirty_bytes > 0
    })
    .await;
    cluster.kill(owners[1]).await;
    let put = put_ok(outcome(waiting).await);
    let evidence = put.evidence.expect("is told");
    assert_eq!((evidence.owners_answered, evidence.fallbacks_used), (2, 1));
    assert!(has_hint(&cluster, fallbacks[0], "k"));
    assert_eq!(marks(me), [], "the hint is for it");
}

#[tokio::test]
async fn one_that_is_lost_after_the_answer_gets_it_too_and_one_that_is_silent_is_marked() {
    let cluster = five().await;
    let (owners, fallbacks) = walk(&cluster, "k");
    let [me, lost, silent] = [0, 1, 2].map(|place| &cluster.nodes[owners[place]]);
    lost.hold_log(true);
    put_ok(me.run(put_with("k", "v", w(2))).await);
    cluster.kill(owners[1]).await;
    eventually("a hint is held", async || {
        has_hint(&cluster, fallbacks[0], "k")
    })
    .await;
    silent.hold_log(true);
    let (_, partition) = place(&cluster, "k");
    put_ok(me.run(put_with("k", "w", w(2))).await);
    let mark = (store_of(&cluster, owners[2]), partition);
    eventually("the silent one is marked", async || marks(me) == [mark]).await;
    eventually("nothing lingers", async || {
        me.data.coordinator.pending() == 0
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_held_to_be_down_while_connected_gets_both() {
    let cluster = five().await;
    let (owners, fallbacks) = walk(&cluster, "k");
    let me = &cluster.nodes[owners[0]];
    let down = store_of(&cluster, owners[1]);
    me.data.coordinator.parts().routes.set_down(down, true);
    let put = put_ok(me.run(put_with("k", "v", w(3))).await);
    assert!(put.evidence.is_some_and(|e| e.copies_durable >= 3));
    let (key, _) = place(&cluster, "k");
    eventually("both have it", async || {
        let read = cluster.nodes[owners[1]]
            .store
            .load(std::slice::from_ref(&key));
        let read = read.expect("the engine is well").remove(0);
        let stored = matches!(read, Read::Found(record) if !record.object().is_empty());
        stored && has_hint(&cluster, fallbacks[0], "k")
    })
    .await;
}

#[tokio::test]
async fn a_fallback_without_room_fails_no_write_that_owners_suffice_for() {
    let limits = crate::limits::Limits::default();
    let cluster = Cluster::start(Options {
        nodes: 4,
        limits,
        hint_bytes: 1,
        ..Options::default()
    })
    .await;
    let (owners, fallbacks) = walk(&cluster, "k");
    cluster.kill(owners[2]).await;
    let me = &cluster.nodes[owners[0]];
    let put = put_ok(me.run(put("k", "v")).await);
    assert_eq!(put.evidence.map(|e| e.fallbacks_used), Some(0));
    let (_, partition) = place(&cluster, "k");
    let mark = (store_of(&cluster, owners[2]), partition);
    eventually("the owner is marked", async || marks(me) == [mark]).await;
    assert_eq!(cluster.nodes[fallbacks[0]].store.hint_stats().refused, 1);
    let failure = me.run(put_with("k", "x", w(3))).await;
    let failure = failure.expect_err("two copies are no three");
    assert_eq!(failure.reason, Reason::OutcomeUnknown);
}

#[tokio::test]
async fn repairs_go_to_owners_alone() {
    let cluster = five().await;
    let (owners, fallbacks) = walk(&cluster, "k");
    let me = &cluster.nodes[owners[0]];
    cluster.kill(owners[2]).await;
    put_ok(me.run(put_with("k", "old", w(3))).await);
    let (key, _) = place(&cluster, "k");
    let fallback = &cluster.nodes[fallbacks[0]];
    let before = fallback.store.hint(&key).expect("taken");
    // A newer value that the fallback never hears of.
    let read = get_ok(me.run(strict_get("k", 2)).await);
    let other = &cluster.nodes[owners[1]];
    let object = newer(&before.record, &read.context, &key);
    for node in [me, other] {
        node.store.merge(&key, object.clone(), 0).expect("merges");
        node.store.load(std::slice::from_ref(&key)).expect("loads");
    }
    let read = get_ok(me.run(get_r("k", 3)).await);
    assert_eq!(read.evidence.map(|e| e.fallbacks_used), Some(1));
    assert_eq!(read.siblings.len(), 1);
    assert_eq!(&read.siblings[0].value[..], b"new");
    eventually("the read has ended", async || {
        me.data.coordinator.pending() == 0
    })
    .await;
    let repairs = me
        .counters
        .read_repairs
        .load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(repairs, 0);
    assert_eq!(fallback.store.hint(&key), Some(before));
}

/// What a write over all that `record` holds makes of it.
fn newer(
    record: &Arc<ringfort_storage::Record>,
    context: &bytes::Bytes,
    key: &Key,
) -> ringfort_storage::version::Object {
    use ringfort_storage::version::{ActorId, Dot, NewPayload, RequestId, Value, Write, context};
    let write = Write {
        context: Some(context::decode(context, CLUSTER.0, key).expect("just read")),
        payload: NewPayload::Value(Value::new(bytes::Bytes::from_static(b"new"))),
        request: RequestId {
            client: 5,
            sequence: 1,
        },
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms: 0,
    };
    let dot = Dot {
        actor: ActorId(999),
        counter: 1,
    };
    record.object().write(&write, dot, 1)
}
