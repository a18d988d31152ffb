//! Who coordinates: synced owners do, others send on, once.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use ringfort_proto::{Reason, peer};
use ringfort_ring::{Change, StoreId, apply};

use crate::{
    coordinator::{Origin, locate},
    testing::*,
};

/// A node that does not own the key, and one that does.
fn outsider_and_owner<'a>(cluster: &'a Cluster, name: &str) -> (&'a Node, &'a Node) {
    let view = cluster.nodes[0].views.current();
    let partition = locate(key(name).as_ref(), view.layout()).expect("a key").1;
    let owners = view.owners(partition);
    let outsider = (0..cluster.nodes.len()).find(|&i| !owners.contains(&(i as u16)));
    (
        &cluster.nodes[outsider.expect("more nodes than owners")],
        &cluster.nodes[usize::from(owners[0])],
    )
}

#[tokio::test]
async fn a_node_that_owns_nothing_of_it_sends_on() {
    let cluster = Cluster::start(Options {
        nodes: 5,
        ..Options::default()
    })
    .await;
    for name in ["a", "b", "c", "d"] {
        let (outsider, owner) = outsider_and_owner(&cluster, name);
        let put = put_ok(outsider.run(put(name, "v")).await);
        assert_eq!(values(outsider.run(get(name)).await), ["v"]);
        assert_eq!(values(owner.run(get(name)).await), ["v"]);
        outsider
            .run(delete(name, &put.context))
            .await
            .expect("deletes");
        assert!(outsider.counters.forwards.load(Relaxed) >= 3);
        // The target's own words come back.
        let failure = outsider
            .run(put_with(name, "v", w(4)))
            .await
            .expect_err("W over N");
        assert_eq!(failure.reason, Reason::BadQuorum);
        assert_ne!(failure.node, outsider.name.as_str());
        // Forwarded once, never twice.
        let twice = outsider.start_op(get(name), Duration::from_secs(5), Origin::Peer);
        let failure = outcome(twice).await.expect_err("no owner");
        assert_eq!(failure.reason, Reason::NotSynced);
        assert!(failure.metadata.contains_key("ask"));
    }
}

#[tokio::test]
async fn an_unsynced_owner_sends_on_and_nobody_synced_is_no_quorum() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    a.mark_unsynced(&[&a.name, &b.name]);
    put_ok(a.run(put("k", "v")).await);
    assert_eq!(values(a.run(get("k")).await), ["v"]);
    assert_eq!(
        (
            a.counters.forwards.load(Relaxed),
            b.counters.client_bytes_in.load(Relaxed)
        ),
        (2, 0)
    );
    a.mark_unsynced(&[&a.name, &b.name, &c.name]);
    let failure = a.run(get("k")).await.expect_err("nobody is synced");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
}

#[tokio::test]
async fn a_forward_that_nobody_answers_is_unknown_for_writes_alone() {
    let cluster = Cluster::of_three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        panic!("three nodes")
    };
    a.mark_unsynced(&[&a.name, &c.name]);
    // b coordinates, and hears nothing of its copies.
    cluster.nodes.iter().for_each(|node| node.hold_log(true));
    let write = a.start_op(put("k", "v"), Duration::from_secs(60), Origin::Client);
    b.pool.hold();
    let read = a.start_op(get("never read"), Duration::from_secs(60), Origin::Client);
    eventually("b has taken both", async || {
        b.data.coordinator.pending() == 2
    })
    .await;
    cluster.kill(1).await;
    assert_eq!(
        outcome(write).await.expect_err("no reply").reason,
        Reason::OutcomeUnknown
    );
    assert_eq!(
        outcome(read).await.expect_err("no reply").reason,
        Reason::QuorumUnavailable
    );
}

#[tokio::test]
async fn messages_are_fenced() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    let other = node.data.links.peer(&cluster.nodes[1].member());
    let mut client = node.data.links.client(other).expect("connected");
    let ask = |cluster_id, epoch, store_id| peer::ScanRequest {
        fence: Some(peer::Fence {
            cluster_id,
            epoch,
            store_id,
            durable_sequence: 0,
        }),
        last_token: u64::MAX,
        max_keys: 10,
        max_bytes: 1000,
        ..peer::ScanRequest::default()
    };
    client
        .scan(ask(CLUSTER.0, 1, 101))
        .await
        .expect("same cluster, same epoch");
    for (request, reason) in [
        (ask(5, 1, 101), Reason::WrongCluster),
        (ask(CLUSTER.0, 0, 101), Reason::StaleEpoch),
        // A store that no layout lists.
        (ask(CLUSTER.0, 1, 99), Reason::StaleEpoch),
    ] {
        let status = client.scan(request).await.expect_err("fenced");
        assert_eq!(
            ringfort_proto::Failure::from_status(&status).map(|f| f.reason),
            Some(reason)
        );
    }
    let batch = |cluster_id, epoch| peer::Batch {
        fence: Some(peer::Fence {
            cluster_id,
            epoch,
            store_id: 101,
            durable_sequence: 0,
        }),
        digests: vec![peer::Digest {
            id: 7,
            key: bytes::Bytes::from_static(b"\0\0k"),
            hint: false,
            reap_generation: 0,
        }],
        ..peer::Batch::default()
    };
    let mut stale = exchange(&mut client, batch(CLUSTER.0, 0)).await;
    let replies = stale.message().await.expect("answers").expect("a message");
    assert_eq!(
        (replies.refused[0].reason.as_str(), replies.refused[0].epoch),
        ("STALE_EPOCH", 1)
    );
    let mut foreign = exchange(&mut client, batch(5, 1)).await;
    let status = foreign.message().await.expect_err("refused");
    assert_eq!(
        ringfort_proto::Failure::from_status(&status).map(|f| f.reason),
        Some(Reason::WrongCluster)
    );
    assert_eq!(cluster.nodes[1].counters.wrong_cluster.load(Relaxed), 1);
}

async fn exchange(
    client: &mut peer::peer_client::PeerClient<tonic::transport::Channel>,
    batch: peer::Batch,
) -> tonic::Streaming<peer::Replies> {
    client
        .exchange(futures::stream::iter([batch]))
        .await
        .expect("opens")
        .into_inner()
}

#[tokio::test]
async fn a_node_keeps_and_vouches_for_nothing_that_is_not_its_own() {
    let cluster = Cluster::start(Options {
        nodes: 5,
        ..Options::default()
    })
    .await;
    let (outsider, owner) = outsider_and_owner(&cluster, "k");
    let to = owner.data.links.peer(&outsider.member());
    let mut client = owner.data.links.client(to).expect("connected");
    let framed = bytes::Bytes::from_static(b"\0\x07defaultk");
    let fence = peer::Fence {
        cluster_id: CLUSTER.0,
        epoch: 1,
        store_id: 101,
        durable_sequence: 0,
    };
    let batch = peer::Batch {
        fence: Some(fence),
        stores: vec![peer::Store {
            id: 1,
            key: framed.clone(),
            epoch: 1,
            ..peer::Store::default()
        }],
        digests: vec![peer::Digest {
            id: 2,
            key: framed.clone(),
            hint: false,
            reap_generation: 0,
        }],
        fetches: vec![peer::Fetch {
            id: 3,
            key: framed,
            hint: false,
            reap_generation: 0,
        }],
        ..peer::Batch::default()
    };
    let replies = exchange(&mut client, batch).await.message().await;
    let refused = replies.expect("answers").expect("a message").refused;
    let refused: Vec<_> = refused.iter().map(|r| (r.id, r.reason.as_str())).collect();
    assert_eq!(
        refused,
        [(1, "NOT_SYNCED"), (2, "NOT_SYNCED"), (3, "NOT_SYNCED")]
    );
}

/// I9: a member with a new disk is another peer, and its old store is listened to no more.
#[tokio::test]
async fn a_link_leads_to_a_store() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    let (old, new) = (cluster.nodes[2].member(), StoreId(900));
    let change = Change::NewStore {
        name: old.name.clone(),
        store_id: new,
    };
    let mut history = node.views.current().history().clone();
    let decree = apply(history.decree(), &[change]).expect("fits");
    assert!(history.adopt(Arc::new(decree)).expect("the next"));
    node.know(&history);
    let mut states = node.data.links.states();
    let both = states.wait_for(|s| s.connected.contains_key(&new));
    assert!(
        !both
            .await
            .expect("links run")
            .connected
            .contains_key(&old.store_id)
    );
    // At its address the old store answers still, and hears nothing of the new layout: its copies do not count.
    let put = put_ok(node.run(put_with("k", "v", w(2))).await);
    assert_eq!(put.evidence.expect("is told").copies_durable, 2);
    let refused = node.start_op(
        put_with("k", "v", w(3)),
        Duration::from_millis(300),
        Origin::Client,
    );
    let refused = outcome(refused).await.expect_err("two stores are left");
    assert!(
        matches!(
            refused.reason,
            Reason::OutcomeUnknown | Reason::QuorumUnavailable
        ),
        "{refused}"
    );
}
