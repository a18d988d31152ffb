//! Nodes come and go by the command line, under clients that write.

use std::sync::{Arc, atomic::AtomicBool, atomic::Ordering};

use ringfort_client::Client;
use ringfort_tests::outside::http;

use crate::{
    cluster::{Cluster, ringfort},
    operator::{LOOK, LOOKS_MAX, Operator},
    writers::{Ledger, check, write_until},
};

/// I2, I3: three nodes, then five, then four, under writers.
#[test]
fn nodes_are_added_and_removed_under_writers() {
    let mut cluster = Cluster::start_with(3, &["--partitions", "128"]);
    let operator = Operator::of(&cluster);
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = {
        let _inside = runtime.enter();
        let client = Client::builder().endpoints(cluster.endpoints());
        client.build().expect("a client")
    };
    let writers = {
        let (client, stop) = (client.clone(), stop.clone());
        runtime.spawn(async move { write_until(&client, 8, Ledger::new(), stop).await })
    };
    let more = ["n4", "n5"].map(|name| cluster.join(name));
    for (i, name) in more.into_iter().zip(["n4", "n5"]) {
        operator.waits(name);
        operator.done(&["add", name]);
        assert!(!cluster.is_ready(i), "it is in no layout yet");
    }
    let hash = operator.done(&["plan"])["hash"]
        .as_str()
        .expect("a hash")
        .to_owned();
    operator.done(&["commit", &hash]);
    for i in more {
        cluster.wait_ready(i);
    }
    operator.settled(5);
    operator.change(&["remove", "n1"]);
    operator.settled(4);
    let status = cluster.ended(0);
    assert_eq!(status.code(), Some(0), "{}", cluster.log(0));
    stop.store(true, Ordering::Release);
    let (ledger, tally) = runtime.block_on(writers).expect("no panic");
    assert!(tally.acked > 0, "{tally:?}");
    runtime.block_on(check(&client, &ledger));
}

#[test]
fn what_cannot_be_is_refused_with_words_and_changes_nothing() {
    let mut cluster = Cluster::start(3);
    let other = Cluster::start(1);
    let operator = Operator::of(&cluster);
    let peer = |i: usize| cluster.nodes[i].peer.to_string();
    let (code, words) = operator.refused(&["add", "nobody"]);
    assert!(
        code == 1 && words.contains("no node called nobody waits"),
        "{code} {words}"
    );
    let (code, words) = operator.refused(&["add", "127.0.0.1:1"]);
    assert!(
        code == 4 && words.contains("does not say who it is"),
        "{code} {words}"
    );
    let (_, words) = operator.refused(&["add", &other.nodes[0].peer.to_string()]);
    assert!(words.contains("belongs to cluster"), "{words}");
    let (code, words) = operator.refused(&["remove", "nobody"]);
    assert!(
        code == 2 && words.contains("no member is called nobody"),
        "{code} {words}"
    );
    operator.done(&["add", &peer(1)]);
    let (_, words) = operator.refused(&["plan"]);
    assert!(words.contains("n2 is a member already"), "{words}");
    operator.done(&["revert"]);
    operator.done(&["remove", "n2"]);
    let (_, words) = operator.refused(&["plan"]);
    assert!(words.contains("2 members would be left"), "{words}");
    operator.done(&["revert"]);
    operator.done(&["excuse", "n2"]);
    let (_, words) = operator.refused(&["commit", "0123456789abcdef"]);
    assert!(words.contains("look at it again"), "{words}");
    operator.done(&["revert"]);
    // A node under a taken name ends, and says why.
    let twin = cluster.join("n2");
    let status = cluster.ended(twin);
    assert_eq!(status.code(), Some(1));
    assert!(
        cluster.log(twin).contains("the name n2 is taken"),
        "{}",
        cluster.log(twin)
    );
    assert_eq!(operator.done(&["show"])["epoch"], 1);
}

/// The change waits for a member that is dead until somebody says that it is; whoever says so may wait for the change.
#[test]
fn a_dead_node_is_replaced_once_it_is_excused() {
    let mut cluster = Cluster::start(4);
    let operator = Operator::of(&cluster);
    cluster.kill(3);
    cluster.join("n5");
    operator.waits("n5");
    operator.change(&["replace", "n4", "n5"]);
    assert_eq!(
        operator.done(&["show"])["live"].as_array().map(Vec::len),
        Some(2)
    );
    operator.done(&["excuse", "n4"]);
    let hash = operator.done(&["plan"])["hash"].clone();
    let ended = operator.done(&["commit", hash.as_str().expect("a hash"), "--wait"]);
    assert!(ended["ended"].as_u64() > ended["epoch"].as_u64(), "{ended}");
    let live = operator.done(&["show"])["live"].clone();
    let members = live[0]["members"].as_array().expect("members");
    let names: Vec<_> = members.iter().map(|member| &member["name"]).collect();
    assert_eq!(live.as_array().map(Vec::len), Some(1));
    assert_eq!(names, ["n1", "n2", "n3", "n5"]);
}

/// A member comes back with an empty directory, and is repaired from the others. It owns a part of the partitions, and lacks no other.
#[test]
fn a_lost_directory_is_replaced_by_an_empty_one() {
    let mut cluster = Cluster::start(4);
    let operator = Operator::of(&cluster);
    let put = |key: &str| {
        let endpoints = cluster.endpoints().join(",");
        let put = ringfort()
            .args(["--endpoints", &endpoints, "put", key, "v"])
            .output();
        assert!(put.expect("the binary runs").status.success());
    };
    (0..20).for_each(|i| put(&format!("k{i}")));
    cluster.kill(1);
    std::fs::remove_dir_all(&cluster.nodes[1].data_dir).expect("ours");
    cluster.restart(1);
    operator.until(|shown| shown["epoch"] == 2);
    let http = cluster.nodes[1].http.to_string();
    let unsynced = || {
        let (_, page) = http::get(&http, "/metrics").expect("answers");
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with("ringfort_unsynced_partitions"));
        let number = line.and_then(|line| line.split_whitespace().last());
        number.expect("a metric").parse::<f64>().expect("a number")
    };
    for _ in 0..LOOKS_MAX {
        if unsynced() == 0.0 {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("not repaired:\n{}", cluster.log(1));
}
