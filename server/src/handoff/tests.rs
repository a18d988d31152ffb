//! The worker against real nodes.

use ringfort_proto::v1;
use ringfort_storage::{store::Read, version::Object};

use super::*;
use crate::{coordinator::locate, testing::*};

fn place(cluster: &Cluster, name: &str) -> (Key, PartitionId) {
    let view = cluster.nodes[0].views.current();
    locate(key(name).as_ref(), view.layout()).expect("a key")
}

fn owners(cluster: &Cluster, name: &str) -> Vec<usize> {
    let view = cluster.nodes[0].views.current();
    let (_, partition) = place(cluster, name);
    let owners = view.owners(partition).iter();
    owners.map(|member| usize::from(*member)).collect()
}

/// The worker of one node; `age_max` of its hints.
fn worker(node: &Node, age_max: Duration) -> Handoff {
    let parts = node.data.coordinator.parts();
    Handoff::new(Parts {
        clock: Arc::clone(&parts.clock),
        steady: Arc::clone(&parts.steady),
        views: node.views.clone(),
        store: node.store.clone(),
        net: Arc::new(node.net.clone()),
        routes: Arc::clone(&parts.routes),
        links: Arc::clone(&node.data.links),
        fences: node.data.fences.clone(),
        coordinator: Arc::clone(&node.data.coordinator),
        marks: Arc::clone(&node.board.marks),
        age_max,
        bytes_per_s: 1 << 30,
        jitter: 0,
    })
}

const LONG: Duration = Duration::from_secs(10_000);

async fn stored(node: &Node, key: &Key) -> Object {
    let read = node.store.load(std::slice::from_ref(key));
    match read.expect("the engine is well").remove(0) {
        Read::Found(record) => record.object().clone(),
        other => panic!("{other:?}"),
    }
}

/// A write that only its coordinator and a fallback heard of: gives the fallback.
async fn hinted(cluster: &Cluster, name: &str) -> usize {
    let owners = owners(cluster, name);
    let me = &cluster.nodes[owners[0]];
    let routes = &me.data.coordinator.parts().routes;
    for &owner in &owners[1..] {
        let store = cluster.nodes[owner].member().store_id;
        routes.set_down(store, true);
    }
    let options = v1::WriteOptions {
        w: Some(3),
        ..v1::WriteOptions::default()
    };
    put_ok(me.run(put_with(name, "v", options)).await);
    let (key, _) = place(cluster, name);
    let others = (0..cluster.nodes.len()).filter(|node| !owners.contains(node));
    let mut holders = Vec::new();
    for node in others {
        eventually("both hold it", async || {
            cluster.nodes[node].store.hint(&key).is_some()
        })
        .await;
        holders.push(node);
    }
    holders[0]
}

async fn five() -> Cluster {
    Cluster::start(Options {
        nodes: 5,
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn a_hint_reaches_all_owners_durably_and_goes() {
    let cluster = five().await;
    let holder = hinted(&cluster, "k").await;
    let (key, _) = place(&cluster, "k");
    let holder = &cluster.nodes[holder];
    let object = holder
        .store
        .hint(&key)
        .expect("held")
        .record
        .object()
        .clone();
    for owner in owners(&cluster, "k") {
        cluster.nodes[owner]
            .store
            .erase(&key)
            .expect("there is room");
    }
    let worker = worker(holder, LONG);
    let figures = worker.figures();
    let task = tokio::spawn(worker.run());
    eventually("it goes", async || holder.store.hint(&key).is_none()).await;
    for owner in owners(&cluster, "k") {
        assert_eq!(stored(&cluster.nodes[owner], &key).await, object);
    }
    assert_eq!(figures.held().delivered, 1);
    task.abort();
}

#[tokio::test]
async fn it_waits_for_an_owner_that_has_not_synced_it_and_for_one_that_is_down() {
    let cluster = five().await;
    let holder = &cluster.nodes[hinted(&cluster, "k").await];
    let (key, _) = place(&cluster, "k");
    let places = owners(&cluster, "k");
    let [slow, dead] = [&cluster.nodes[places[1]], &cluster.nodes[places[2]]];
    slow.store.erase(&key).expect("there is room");
    slow.hold_log(true);
    cluster.kill(places[2]).await;
    let worker = worker(holder, LONG);
    let figures = worker.figures();
    let task = tokio::spawn(worker.run());
    eventually("the slow one has it in memory", async || {
        !stored(slow, &key).await.is_empty()
    })
    .await;
    assert!(holder.store.hint(&key).is_some());
    slow.hold_log(false);
    let waits_for = peer::HintsFor {
        name: dead.name.to_string(),
        count: 1,
    };
    eventually("it is told for whom it waits", async || {
        figures.held().waiting == [waits_for.clone()]
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(holder.store.hint(&key).is_some(), "one owner lacks it");
    assert_eq!(figures.held().delivered, 0);
    task.abort();
}

#[tokio::test]
async fn what_is_too_old_is_dropped_and_its_owners_are_marked() {
    let cluster = five().await;
    let at = hinted(&cluster, "k").await;
    let holder = &cluster.nodes[at];
    let (key, partition) = place(&cluster, "k");
    cluster.kill(owners(&cluster, "k")[2]).await;
    let task = tokio::spawn(worker(holder, Duration::ZERO).run());
    eventually("it is dropped", async || {
        holder.store.hint_stats().dropped == 1
    })
    .await;
    assert!(holder.store.hint(&key).is_none());
    eventually("all owners are marked", async || {
        holder.board.marks.all().len() == 3
    })
    .await;
    for owner in owners(&cluster, "k") {
        let store = cluster.nodes[owner].member().store_id;
        assert!(holder.board.marks.take(store).has(partition));
    }
    task.abort();
}

#[tokio::test]
async fn an_owner_takes_nothing_that_is_not_its_own_or_damaged() {
    let cluster = five().await;
    let holder = hinted(&cluster, "k").await;
    let (key, _) = place(&cluster, "k");
    let hint = cluster.nodes[holder].store.hint(&key).expect("held");
    let places = owners(&cluster, "k");
    let whole = peer::Delivery {
        key: key.framed().clone(),
        leaf: hint.record.leaf(),
        object: encode_object(hint.record.object()),
        reap_generation: 0,
    };
    let deliver = async |to: usize, delivery: peer::Delivery, epoch| {
        let from = &cluster.nodes[holder];
        let parts = from.data.coordinator.parts();
        let net: Arc<dyn Net> = Arc::new(from.net.clone());
        let bulk = Bulk::new(&net, &parts.routes, &from.data.fences);
        let to = cluster.nodes[to].member().store_id;
        let view = from.views.current();
        let question = |mut client: peer::peer_client::PeerClient<_>, fence| {
            let request = peer::DeliverRequest {
                fence: Some(fence),
                epoch,
                deliveries: vec![delivery],
            };
            async move { client.deliver(request).await }
        };
        let answer: peer::DeliverResponse = bulk
            .ask(&view, to, DELIVERY_TIMEOUT, question)
            .await
            .expect("answers");
        answer.outcomes().collect::<Vec<_>>()
    };
    use DeliveryOutcome::*;
    assert_eq!(deliver(places[1], whole.clone(), 1).await, [Durable]);
    let other = (0..5).find(|node| !places.contains(node) && *node != holder);
    let other = other.expect("two are fallbacks");
    assert_eq!(deliver(other, whole.clone(), 1).await, [NotTaken]);
    assert_eq!(
        deliver(places[1], whole.clone(), 0).await,
        [NotTaken],
        "of an older layout"
    );
    let damaged = [
        peer::Delivery {
            leaf: whole.leaf ^ 1,
            ..whole.clone()
        },
        peer::Delivery {
            object: whole.object.slice(1..),
            ..whole.clone()
        },
        peer::Delivery {
            leaf: 0,
            object: bytes::Bytes::new(),
            ..whole.clone()
        },
        peer::Delivery {
            key: bytes::Bytes::from_static(b"\0"),
            ..whole
        },
    ];
    for delivery in damaged {
        assert_eq!(
            deliver(places[1], delivery.clone(), 1).await,
            [Bad],
            "{delivery:?}"
        );
    }
}
