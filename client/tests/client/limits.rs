//! What is bounded stays bounded, and settings that cannot work are refused.

use std::time::Duration;

use ringfort_client::{Client, Kind, Reason, fake::FakeCluster};

use crate::{cluster, settle};

#[tokio::test(start_paused = true)]
async fn credit_bounds_what_a_node_is_sent() {
    let (cluster, client) = cluster(1);
    client.get("warm").await.unwrap();
    let warm = cluster.seen().len();
    cluster.hold(0);
    // 100 values of 100 KB are more than 4 MiB.
    let puts: Vec<_> = (0..100)
        .map(|i| tokio::spawn(client.put(format!("k{i}"), vec![0; 100_000]).into_future()))
        .collect();
    settle().await;
    cluster.release(0);
    for put in puts {
        put.await.unwrap().unwrap();
    }
    let mut batches = std::collections::BTreeMap::<u64, usize>::new();
    for seen in &cluster.seen()[warm..] {
        *batches.entry(seen.batch).or_default() += 1;
    }
    assert!(
        batches.values().all(|&operations| operations <= 3),
        "a batch is at most 256 KiB: {batches:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_credit_a_call_waits_within_its_deadline() {
    let (cluster, client) = cluster(1);
    client.get("warm").await.unwrap();
    cluster.hold(0);
    let timeout = Duration::from_millis(300);
    let puts: Vec<_> = (0..60)
        .map(|i| {
            tokio::spawn(
                client
                    .put(format!("k{i}"), vec![0; 100_000])
                    .timeout(timeout)
                    .into_future(),
            )
        })
        .collect();
    let mut crowded = 0;
    for put in puts {
        let error = put.await.unwrap().unwrap_err();
        if error.to_string().contains("no room") {
            assert!(!error.is_ambiguous());
            crowded += 1;
        }
    }
    assert_eq!(crowded, 19, "41 values and their overhead fill 4 MiB");
}

#[tokio::test(start_paused = true)]
async fn a_value_over_the_limit_breaks_nothing() {
    let (_cluster, client) = cluster(1);
    let node = client.put("k", vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert_eq!(
        (node.reason(), node.node()),
        (Some(Reason::TooLarge), Some("n0")),
        "the node's words"
    );
    let local = client.put("k", vec![0; 8 << 20]).await.unwrap_err();
    assert_eq!(
        (local.reason(), local.node()),
        (Some(Reason::TooLarge), None),
        "never sent"
    );
    client.put("k", vec![0; 1 << 20]).await.unwrap();
    assert_eq!(
        client.get("k").await.unwrap().siblings()[0].value.len(),
        1 << 20
    );
}

#[tokio::test(start_paused = true)]
async fn many_at_once_all_come_back() {
    let (cluster, client) = cluster(3);
    let puts: Vec<_> = (0..20_000)
        .map(|i| tokio::spawn(client.put(format!("k{i}"), "v").into_future()))
        .collect();
    for put in puts {
        put.await.unwrap().unwrap();
    }
    assert_eq!(cluster.keys(), 20_000);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for endpoint in [
        "",
        "host",
        "host:",
        ":7400",
        "host:7400/path",
        "https://host:7400",
        "ho st:1",
    ] {
        let error = Client::builder().endpoints([endpoint]).build().unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{endpoint}");
    }
    for endpoint in [
        "host:7400",
        "http://host:7400",
        "127.0.0.1:1",
        "[::1]:7400",
        " host:7400/ ",
    ] {
        assert!(
            Client::builder().endpoints([endpoint]).build().is_ok(),
            "{endpoint}"
        );
    }
    assert!(Client::builder().timeout(Duration::ZERO).build().is_err());
    assert!(
        Client::builder().build().is_ok(),
        "and it needs no runtime to be built"
    );
}

#[test]
fn a_client_outlives_the_runtime_of_its_first_calls() {
    let cluster = FakeCluster::new(3);
    let client = cluster.client();
    for round in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            client.put("k", "v").await.unwrap();
            assert_eq!(client.get("k").await.unwrap().siblings().len(), round + 1);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_client_leaves_no_task_behind() {
    let (cluster, client) = cluster(3);
    for i in 0..30 {
        client.put(format!("k{i}"), "v").await.unwrap();
    }
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    drop(client);
    settle().await;
    drop(cluster);
    settle().await;
    assert!(before > 3, "{before}");
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn questions_go_past_nodes_that_cannot_answer() {
    let (cluster, client) = cluster(5);
    for node in 0..4 {
        cluster.stop(node);
    }
    assert_eq!(client.status().await.unwrap().nodes.len(), 5);
    assert_eq!(client.layout().await.unwrap().node, "n4");
    cluster.stop(4);
    let error = client.status().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}
