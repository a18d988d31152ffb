//! Owners that are killed, and the hints that others hold for them: what was written meanwhile is theirs when they are back, without
//! anybody reading it.

use std::process::Output;

use ringfort_client::{Client, Location};
use serde_json::Value as Json;

use crate::{
    cluster::{Cluster, ringfort},
    operator::{LOOK, LOOKS_MAX},
};

/// Keys that are written while an owner is down.
const KEYS: usize = 300;

fn client(cluster: &Cluster) -> Client {
    let client = Client::builder().endpoints(cluster.endpoints()).build();
    client.expect("a client")
}

/// Where that many keys live.
async fn places(client: &Client, keys: usize) -> Vec<(String, Location)> {
    let mut places = Vec::new();
    for number in 0..keys {
        let key = format!("key-{number}");
        let place = client.where_is(&key).await.expect("all are up");
        places.push((key, place));
    }
    places
}

fn number_of(cluster: &Cluster, name: &str) -> usize {
    let mut nodes = cluster.nodes.iter();
    nodes.position(|node| node.name == name).expect("a node")
}

fn command(cluster: &Cluster, args: &[&str]) -> Output {
    let endpoints = cluster.endpoints().join(",");
    let output = ringfort()
        .args(["--endpoints", &endpoints])
        .args(args)
        .arg("--json")
        .output();
    output.expect("the binary runs")
}

/// What `ringfort hints` tells.
fn hints(cluster: &Cluster) -> Json {
    let output = command(cluster, &["hints"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// One field of all nodes together.
fn sum(hints: &Json, field: &str) -> u64 {
    let nodes = hints["nodes"].as_array().expect("nodes").iter();
    nodes.filter_map(|node| node[field].as_u64()).sum()
}

/// Waits until the nodes tell what is looked for.
fn until(cluster: &Cluster, what: &str, told: impl Fn(&Json) -> bool) {
    for _ in 0..LOOKS_MAX {
        if told(&hints(cluster)) {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("{what}: {}", hints(cluster));
}

/// Writes to three nodes, hints included, as soon as that many are found.
async fn put(client: &Client, key: &str, value: String) -> ringfort_client::Written {
    for _ in 0..LOOKS_MAX {
        match client.put(key, value.clone()).w(3).await {
            Ok(written) => return written,
            Err(error) => assert!(error.is_retryable(), "{key}: {error}"),
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("{key}: three nodes are never found");
}

/// Reads one copy of an owner, once the client has found which of them is up.
async fn read_alone(client: &Client, key: &str) -> ringfort_client::Read {
    for _ in 0..LOOKS_MAX {
        match client.get(key).r(1).strict(true).await {
            Ok(read) => return read,
            Err(error) => assert!(error.is_retryable(), "{key}: {error}"),
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("{key}: the owner is never found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_killed_holds_everything_when_it_is_back_without_a_read() {
    let mut cluster = Cluster::start(5);
    let client = client(&cluster);
    let places = places(&client, KEYS).await;
    let victim = 2;
    let name = cluster.nodes[victim].name.clone();
    let mine: Vec<&(String, Location)> = places
        .iter()
        .filter(|(_, place)| place.owners.contains(&name))
        .collect();
    assert!(
        mine.len() > KEYS / 3,
        "a node of five owns most of three fifths"
    );
    cluster.kill(victim);
    for (key, _) in &mine {
        let written = put(&client, key, format!("{key}, written while away")).await;
        let evidence = written.evidence;
        assert_eq!(
            (evidence.owners_asked, evidence.owners_answered),
            (3, 2),
            "{key}"
        );
        assert_eq!(
            (evidence.fallbacks_used, evidence.copies_durable),
            (1, 3),
            "{key}"
        );
    }
    let held = hints(&cluster);
    assert_eq!(sum(&held, "hints"), mine.len() as u64, "{held}");
    let waiting = |hints: &Json| {
        let nodes = hints["nodes"].as_array().expect("nodes").iter();
        let counts = nodes.filter_map(|node| node["waiting"][&name].as_u64());
        counts.sum::<u64>()
    };
    until(&cluster, "all wait for the one that is down", |told| {
        waiting(told) == mine.len() as u64
    });
    // Hints outlive their holders' deaths: one of them goes, too, and comes back.
    let holder = number_of(&cluster, &mine[0].1.fallbacks[0]);
    cluster.kill(holder);
    cluster.restart(holder);
    until(&cluster, "no hint is lost by a kill -9", |told| {
        sum(told, "hints") == mine.len() as u64
    });

    cluster.restart(victim);
    until(&cluster, "all are delivered", |told| {
        sum(told, "hints") == 0
    });
    // It alone, so that nobody else can tell it anything; its own copy is one of one.
    for other in (0..5).filter(|node| *node != victim) {
        cluster.kill(other);
    }
    let alone = Client::builder()
        .endpoints([cluster.nodes[victim].client.to_string()])
        .build()
        .expect("a client");
    for (key, _) in &mine {
        let read = read_alone(&alone, key).await;
        let value = read.one().expect("one value").expect("it is there");
        assert_eq!(value, format!("{key}, written while away"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_of_three_owners_down_writes_go_on_unless_they_are_strict() {
    let mut cluster = Cluster::start(5);
    let client = client(&cluster);
    let (key, place) = places(&client, 1).await.remove(0);
    let owners: Vec<usize> = place
        .owners
        .iter()
        .map(|n| number_of(&cluster, n))
        .collect();
    cluster.kill(owners[1]);
    cluster.kill(owners[2]);
    let written = put(&client, &key, "with two owners down".to_owned()).await;
    let evidence = written.evidence;
    assert_eq!((evidence.owners_answered, evidence.fallbacks_used), (1, 2));

    let error = client.put(&key, "strict").strict(true).await;
    let error = error.expect_err("one owner is no quorum of three");
    assert_eq!(
        error.reason(),
        Some(ringfort_client::Reason::QuorumUnavailable)
    );
    let refused = command(&cluster, &["put", &key, "strict", "--strict"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let taken = command(&cluster, &["put", &key, "by the command line"]);
    assert_eq!(taken.status.code(), Some(0), "{taken:?}");

    // Hints count in a read that lets them; owners alone do not suffice.
    let read = client.get(&key).await.expect("an owner and two hints");
    let mut values: Vec<_> = read.siblings().iter().map(|s| s.value.clone()).collect();
    values.sort();
    assert_eq!(values, ["by the command line", "with two owners down"]);
    assert!(read.evidence().fallbacks_used >= 1);
    let refused = command(&cluster, &["get", &key, "--strict"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");

    cluster.restart(owners[1]);
    cluster.restart(owners[2]);
    until(&cluster, "all are delivered", |told| {
        sum(told, "hints") == 0
    });
    let read = client
        .get(&key)
        .r(3)
        .strict(true)
        .await
        .expect("all are up");
    assert_eq!(
        (read.siblings().len(), read.evidence().fallbacks_used),
        (2, 0)
    );
}
