//! What clients feel of a change of the layout: measured, so it asserts counts alone and prints the rest. Run it in release:
//! `cargo test --release -p ringfort-tests --test process busy -- --ignored --nocapture`.

#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    io::{BufRead, BufReader},
    ops::Range,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use ringfort_tests::outside::http;
use serde_json::Value as Json;

use crate::{
    cluster::{Cluster, Node, ringfort},
    operator::Operator,
};

/// As many keys as the benchmark has.
const KEYS: &str = "200000";
const CLIENTS: &str = "64";
/// How long peak and rest are measured, in seconds.
const CALM_S: u64 = 15;
/// How long clients go on while nodes come and go, in seconds, and how often they say how it was.
const BUSY_S: u64 = 150;
const EVERY_S: u64 = 3;

/// The benchmark, at the nodes of `endpoints`.
fn bench(endpoints: &str, mode: &str, seconds: u64, more: &[&str]) -> Child {
    let mut command = ringfort();
    command
        .args(["--endpoints", endpoints, "--json", "bench", mode])
        .args(["--keys", KEYS, "--clients", CLIENTS])
        .args(["--seconds", &seconds.to_string()])
        .args(more)
        .stdout(Stdio::piped());
    command.spawn().expect("the binary runs")
}

/// What it says in the end, and nothing has failed.
fn figures(bench: Child, what: &str) -> Json {
    let output = bench.wait_with_output().expect("our child");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().expect("a line");
    let figures: Json = serde_json::from_str(last).expect("JSON");
    println!("{what}: {figures}");
    assert_eq!(figures["errors"], 0, "{what}");
    figures
}

fn p99_ms(figures: &Json) -> f64 {
    figures["p99_us"].as_f64().expect("a latency") / 1_000.0
}

/// Bytes of objects that nodes have received with partitions, by their metrics.
fn received(cluster: &Cluster) -> f64 {
    let of = |node: &Node| {
        let (_, page) = http::get(&node.http.to_string(), "/metrics").unwrap_or_default();
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with("ringfort_transfer_received_bytes"));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.unwrap_or(0.0)
    };
    cluster.nodes.iter().map(of).sum()
}

/// How many keys there are, counted one by one: a read that finds nothing would only be written anew by the benchmark.
fn keys(endpoints: &str) -> usize {
    let mut export = ringfort()
        .args(["--endpoints", endpoints, "--json", "export"])
        .args(["--namespace", "bench"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(export.stdout.take().expect("piped")).lines();
    let count = lines.map_while(Result::ok).count();
    assert!(export.wait().expect("our child").success());
    count
}

/// Commits what is staged, waits until it is done, and tells how long that took, from and to in seconds after `began`.
fn commit(operator: &Operator, members: usize, began: Instant) -> Range<u64> {
    let plan = operator.done(&["plan"]);
    println!(
        "{} copies of partitions move, {} is the fair share",
        plan["copies"], plan["fair_copies"]
    );
    let from = began.elapsed().as_secs();
    operator.done(&["commit", plan["hash"].as_str().expect("a hash")]);
    operator.settled(members);
    from..began.elapsed().as_secs() + 1
}

#[test]
#[ignore = "minutes, and figures that mean something in a release build on a quiet machine alone"]
fn three_nodes_become_five_and_four_under_clients() {
    let mut cluster = Cluster::start(3);
    let endpoints = cluster.endpoints().join(",");
    let peak = figures(bench(&endpoints, "mixed", CALM_S, &[]), "peak");
    let rate = peak["ops_per_s"].as_f64().expect("a rate") / 2.0;
    let rate = ["--rate", &format!("{rate:.0}")];
    let calm = bench(&endpoints, "mixed", CALM_S, &rate);
    let before = p99_ms(&figures(calm, "before"));

    let every = EVERY_S.to_string();
    let mut busy = bench(
        &endpoints,
        "mixed",
        BUSY_S,
        &[&rate[..], &["--every", &every]].concat(),
    );
    let mut lines = BufReader::new(busy.stdout.take().expect("piped")).lines();
    let mut next = move || -> Option<Json> {
        let line = lines.next()?.ok()?;
        serde_json::from_str(&line).ok()
    };
    // The keys are loaded by now.
    let first = next().expect("a line");
    let began = Instant::now() - Duration::from_secs(EVERY_S);
    let operator = Operator::of(&cluster);
    for name in ["n4", "n5"] {
        cluster.join(name);
        operator.waits(name);
        operator.done(&["add", name]);
    }
    let coming = commit(&operator, 5, began);
    let bytes = received(&cluster);
    println!("received: {bytes:.0} bytes");
    operator.done(&["remove", "n5"]);
    let leaving = commit(&operator, 4, began);

    let mut spans = vec![first];
    spans.extend(std::iter::from_fn(&mut next));
    let end = spans.pop().expect("the last line is of all");
    println!("beside the changes: {end}");
    for span in &spans {
        println!("{span}");
    }
    assert_eq!(end["errors"], 0);
    assert!(busy.wait().expect("our child").success());
    assert_eq!(keys(&endpoints).to_string(), KEYS, "no key is missing");
    figures(bench(&endpoints, "get", CALM_S, &[]), "all keys are read");
    for (what, change) in [("3 to 5", coming), ("5 to 4", leaving)] {
        let is_in = |span: &&Json| {
            let until = span["until_s"].as_u64().expect("seconds");
            until > change.start && until < change.end + EVERY_S
        };
        let worst = spans.iter().filter(is_in).map(p99_ms).fold(0.0, f64::max);
        println!(
            "{what}, from {} s to {} s: p99 of {EVERY_S} s {worst:.1} ms at worst, {before:.1} ms before: {:.1} times",
            change.start,
            change.end,
            worst / before
        );
    }
}
