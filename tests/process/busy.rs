//! What clients feel of a change of the layout: measured, so it asserts counts alone and prints the rest. Run it in release:
//! `cargo test --release -p ringfort-tests --test process busy -- --ignored --nocapture`.

#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    io::{BufRead, BufReader},
    ops::Range,
    process::{Child, Stdio},
    sync::mpsc,
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
/// How long the peak is measured, in seconds.
const PEAK_S: u64 = 15;
/// How long clients go on at half of it, in seconds, and how often they say how it was.
const BUSY_S: u64 = 240;
const EVERY_S: u64 = 3;
/// How long they do so before nodes come and go: a disk stalls at times, and so what it was before wants as many looks.
const CALM: Duration = Duration::from_secs(45);
/// Between the two changes.
const BETWEEN: Duration = Duration::from_secs(20);

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

/// The latency that 99 % of all operations of these lines were done in, in ms.
fn p99_ms<'a>(spans: impl Iterator<Item = &'a Json>) -> f64 {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for span in spans {
        let buckets = span["latencies_us"].as_array().expect("latencies");
        all.extend(buckets.iter().map(|bucket| {
            let [us, count] = [0, 1].map(|at| bucket[at].as_u64().expect("a number"));
            (us, count)
        }));
    }
    all.sort_unstable();
    let total: u64 = all.iter().map(|(_, count)| count).sum();
    let mut seen = 0;
    let at = all.iter().find(|(_, count)| {
        seen += count;
        seen * 100 >= total * 99
    });
    at.map_or(f64::NAN, |(us, _)| *us as f64 / 1_000.0)
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
    let peak = figures(bench(&endpoints, "mixed", PEAK_S, &[]), "peak");
    let rate = peak["ops_per_s"].as_f64().expect("a rate") / 2.0;
    let rate = ["--rate", &format!("{rate:.0}")];

    let every = EVERY_S.to_string();
    let mut busy = bench(
        &endpoints,
        "mixed",
        BUSY_S,
        &[&rate[..], &["--every", &every]].concat(),
    );
    // Read as they come: whoever measures does not wait for a reader.
    let (said, spans) = mpsc::channel::<Json>();
    let lines = BufReader::new(busy.stdout.take().expect("piped")).lines();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            said.send(serde_json::from_str(&line).expect("JSON"))
                .expect("somebody listens");
        }
    });
    // The keys are loaded by now.
    let first = spans.recv().expect("a line");
    let began = Instant::now() - Duration::from_secs(EVERY_S);
    std::thread::sleep(CALM);
    let calm = 0..began.elapsed().as_secs();
    let operator = Operator::of(&cluster);
    for name in ["n4", "n5"] {
        cluster.join(name);
        operator.waits(name);
        operator.done(&["add", name]);
    }
    let coming = commit(&operator, 5, began);
    let bytes = received(&cluster);
    println!("received: {bytes:.0} bytes");
    std::thread::sleep(BETWEEN);
    operator.done(&["remove", "n5"]);
    let leaving = commit(&operator, 4, began);

    reader.join().expect("it has read all");
    let mut spans: Vec<Json> = std::iter::once(first).chain(spans).collect();
    let end = spans.pop().expect("the last line is of all");
    println!("beside the changes: {end}");
    for span in &spans {
        println!(
            "{} s: {} operations/s, p50 {} us, p99 {} us",
            span["until_s"], span["ops_per_s"], span["p50_us"], span["p99_us"]
        );
    }
    assert_eq!(end["errors"], 0);
    assert!(busy.wait().expect("our child").success());
    assert_eq!(keys(&endpoints).to_string(), KEYS, "no key is missing");
    figures(bench(&endpoints, "get", PEAK_S, &[]), "all keys are read");
    let settled = leaving.end + EVERY_S..BUSY_S;
    let during = |phase: &Range<u64>| {
        let (from, to) = (phase.start, phase.end + EVERY_S);
        let is_in = move |span: &&Json| {
            let until = span["until_s"].as_u64().expect("seconds");
            until > from && until < to
        };
        spans.iter().filter(is_in)
    };
    let before = p99_ms(during(&calm));
    for (what, phase) in [
        ("before", calm),
        ("3 to 5", coming),
        ("5 to 4", leaving),
        ("after", settled),
    ] {
        let p99 = p99_ms(during(&phase));
        let of_each = during(&phase).map(|span| p99_ms(std::iter::once(span)));
        println!(
            "{what}, from {} s to {} s: p99 {p99:.1} ms, {:.1} times that before; of {EVERY_S} s at worst {:.1} ms",
            phase.start,
            phase.end,
            p99 / before,
            of_each.fold(0.0, f64::max),
        );
    }
}
