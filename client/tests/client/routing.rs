//! Which node is asked, and how the client learns of a change.

use std::collections::{BTreeMap, BTreeSet};

use ringfort_client::{
    Failure, Kind, Reason,
    fake::{FakeCluster, Fault},
};

use crate::{cluster, settle};

fn name(node: usize) -> String {
    format!("n{node}")
}

#[tokio::test(start_paused = true)]
async fn every_operation_goes_to_an_owner_and_load_is_spread() {
    let (cluster, client) = cluster(5);
    for i in 0..400 {
        client.put(format!("k{i}"), "v").await.unwrap();
    }
    let mut load: BTreeMap<String, u32> = BTreeMap::new();
    for seen in cluster.seen() {
        let owners: Vec<String> = cluster.owners(&seen.key).into_iter().map(name).collect();
        assert!(
            owners.contains(&seen.node),
            "{:?} went to {}, owners {owners:?}",
            seen.key,
            seen.node
        );
        *load.entry(seen.node).or_default() += 1;
    }
    assert_eq!(load.len(), 5);
    assert!(
        load.values().all(|&count| (40..=130).contains(&count)),
        "{load:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn reads_of_a_hot_key_turn_and_its_writes_stay() {
    let (cluster, client) = cluster(5);
    for _ in 0..30 {
        let read = client.get("hot").await.unwrap();
        let put = client.put("hot", "v");
        match read.context() {
            Some(context) => put.context(context.clone()).await.unwrap(),
            None => put.await.unwrap(),
        };
    }
    let nodes = |write| -> BTreeSet<String> {
        cluster
            .seen()
            .into_iter()
            .filter(|seen| seen.write == write)
            .map(|seen| seen.node)
            .collect()
    };
    assert_eq!(nodes(false).len(), 3, "all owners are read");
    assert_eq!(nodes(true).len(), 1, "one owner writes");
}

#[tokio::test(start_paused = true)]
async fn any_one_endpoint_is_enough() {
    let cluster = FakeCluster::new(5);
    // One that is listed and one that is not a member's: a name that only this side knows.
    for endpoints in [vec!["n3.fake:7400"], vec!["n0.fake:1", "n4.fake:7400"]] {
        let client = cluster
            .client_builder()
            .endpoints(endpoints)
            .build()
            .unwrap();
        let before = cluster.seen().len();
        for i in 0..50 {
            client.get(format!("k{i}")).await.unwrap();
        }
        let nodes: BTreeSet<String> = cluster
            .seen()
            .into_iter()
            .skip(before)
            .map(|seen| seen.node)
            .collect();
        assert_eq!(nodes.len(), 5, "the layout tells the others");
    }
    cluster.stop(0);
    cluster.stop(1);
    let client = cluster.client();
    client.put("k", "v").w(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unsynced_owner_is_passed_over() {
    let (cluster, client) = cluster(3);
    let partition = cluster.partition("k");
    cluster.set_unsynced(0, [partition]);
    for _ in 0..12 {
        client.get("k").await.unwrap();
    }
    let nodes: BTreeSet<String> = cluster.seen().into_iter().map(|seen| seen.node).collect();
    assert_eq!(nodes, BTreeSet::from([name(1), name(2)]));
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_is_passed_over() {
    let (cluster, client) = cluster(3);
    for _ in 0..6 {
        client.get("k").await.unwrap();
    }
    cluster.drain(1, true);
    for _ in 0..6 {
        client.get("k").await.unwrap();
    }
    let before = cluster.seen().len();
    for _ in 0..20 {
        client.get("k").await.unwrap();
    }
    assert!(
        cluster.seen()[before..]
            .iter()
            .all(|seen| seen.node != "n1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_is_passed_over_and_comes_back() {
    let (cluster, client) = cluster(3);
    for i in 0..60 {
        client.put(format!("k{i}"), "v").await.unwrap();
    }
    cluster.stop(1);
    for i in 0..60 {
        client.put(format!("k{i}"), "v").await.unwrap();
    }
    cluster.start(1);
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let before = cluster.seen().len();
    for i in 0..60 {
        client.put(format!("k{i}"), "v").await.unwrap();
    }
    assert!(
        cluster.seen()[before..]
            .iter()
            .any(|seen| seen.node == "n1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_epoch_in_any_answer_brings_the_new_layout() {
    let (cluster, client) = cluster(3);
    client.get("k").await.unwrap();
    assert_eq!(cluster.layouts_asked(), 1);
    let joined = name(cluster.join());
    client.get("k").await.unwrap();
    settle().await;
    assert_eq!(
        cluster.layouts_asked(),
        3,
        "by the second, the third opens a connection to the new node"
    );
    for i in 0..100 {
        client.get(format!("k{i}")).await.unwrap();
    }
    assert!(cluster.seen().iter().any(|seen| seen.node == joined));
    assert_eq!(cluster.layouts_asked(), 3, "a known epoch asks for nothing");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_left_is_asked_no_more() {
    let (cluster, client) = cluster(4);
    for i in 0..40 {
        client.get(format!("k{i}")).await.unwrap();
    }
    cluster.remove(3);
    client.get("k").await.unwrap();
    settle().await;
    let before = cluster.seen().len();
    for i in 0..100 {
        client.get(format!("k{i}")).await.unwrap();
    }
    assert!(
        cluster.seen()[before..]
            .iter()
            .all(|seen| seen.node != "n3")
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_names_a_node_is_followed_there() {
    let (cluster, client) = cluster(4);
    for reason in [Reason::StaleEpoch, Reason::NotSynced] {
        let before = cluster.seen().len();
        let asked = cluster.layouts_asked();
        cluster.inject(Fault::Refuse(
            Failure::new(reason, "ask there").with("node", "n3"),
        ));
        client.put("k", "v").await.unwrap();
        let seen = cluster.seen();
        assert_eq!(seen.len(), before + 2);
        assert_eq!(seen[before + 1].node, "n3");
        settle().await;
        assert!(
            cluster.layouts_asked() > asked,
            "and the layout is asked for"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_any_node_the_words_name_the_endpoint() {
    let (cluster, client) = cluster(2);
    cluster.stop(0);
    cluster.stop(1);
    let error = client.get("k").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.is_retryable() && !error.is_ambiguous());
    assert!(
        error.to_string().contains("the fake node is stopped"),
        "{error}"
    );
    cluster.start(0);
    cluster.start(1);
    client.get("k").await.unwrap();
}
