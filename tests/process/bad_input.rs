//! Bad input on every way in: a clear, typed refusal, and the cluster goes on serving.

use std::{
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
    process::Output,
    time::Duration,
};

use ringfort_client::Client;

use crate::cluster::{Cluster, ringfort};

/// Runs the binary against the cluster.
fn run(cluster: &Cluster, args: &[&str]) -> Output {
    ringfort()
        .args(["--endpoints", &cluster.endpoints().join(",")])
        .args(args)
        .output()
        .expect("the binary runs")
}

/// The exit code, and the reason in the JSON that stands on stdout.
fn refusal(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let mut args = args.to_vec();
    args.push("--json");
    let output = run(cluster, &args);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"));
    let reason = answer["error"]["reason"].as_str().unwrap_or_default();
    (
        output.status.code().expect("an exit code"),
        reason.to_owned(),
    )
}

fn assert_serves(cluster: &Cluster) {
    let put = run(
        cluster,
        &[
            "put",
            "alive",
            "yes",
            "--context",
            &context(cluster, "alive"),
        ],
    );
    assert!(put.status.success(), "{put:?}");
    let get = run(cluster, &["get", "alive"]);
    assert_eq!((get.status.code(), get.stdout), (Some(0), b"yes".to_vec()));
}

/// The context of a key in base64, or nothing.
fn context(cluster: &Cluster, key: &str) -> String {
    let output = run(cluster, &["get", key, "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["context"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_command_line_answers_each_refusal_with_its_code() {
    let cluster = Cluster::start(3);

    let missing = run(&cluster, &["get", "no-such-key"]);
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(3), 0));

    let long_key = "k".repeat(401);
    for (args, code, reason) in [
        (vec!["put", "", "v"], 2, "BAD_USAGE"),
        (vec!["get", ""], 2, "BAD_USAGE"),
        (vec!["put", &long_key, "v"], 2, "TOO_LARGE"),
        (vec!["put", "k", "v", "-w", "0"], 2, "BAD_QUORUM"),
        (vec!["put", "k", "v", "-w", "4"], 2, "BAD_QUORUM"),
        (vec!["get", "k", "-r", "0"], 2, "BAD_QUORUM"),
        (vec!["get", "k", "-r", "4"], 2, "BAD_QUORUM"),
        (
            vec!["put", "k", "v", "--context", "bm90IGEgY29udGV4dA=="],
            2,
            "BAD_CONTEXT",
        ),
        (
            vec!["delete", "k", "--context", "bm90IGEgY29udGV4dA=="],
            2,
            "BAD_CONTEXT",
        ),
    ] {
        assert_eq!(
            refusal(&cluster, &args),
            (code, reason.to_owned()),
            "{args:?}"
        );
    }

    // A context of another key is refused, too.
    assert!(run(&cluster, &["put", "one", "1"]).status.success());
    let foreign = context(&cluster, "one");
    assert_eq!(
        refusal(&cluster, &["put", "two", "2", "--context", &foreign]),
        (2, "BAD_CONTEXT".to_owned())
    );

    // Several siblings where one was asked for: nothing on stdout.
    assert!(run(&cluster, &["put", "one", "uno"]).status.success());
    let several = run(&cluster, &["get", "one"]);
    assert_eq!((several.status.code(), several.stdout.len()), (Some(7), 0));

    let import = run(&cluster, &["import", "/no/such/file", "--format", "lines"]);
    assert_eq!(import.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&import.stderr).contains("/no/such/file"));
    assert_serves(&cluster);
}

#[test]
fn a_value_over_the_limit_is_refused_and_one_at_the_limit_is_kept() {
    let cluster = Cluster::start(3);
    let dir = tempfile::tempdir().expect("a directory");
    let put = |length: usize| {
        let path = dir.path().join("value");
        std::fs::write(&path, vec![7_u8; length]).expect("the value");
        ringfort()
            .args([
                "--endpoints",
                &cluster.endpoints().join(","),
                "put",
                "big",
                "-",
                "--json",
            ])
            .stdin(std::fs::File::open(&path).expect("the value"))
            .output()
            .expect("the binary runs")
    };
    let over = put((1 << 20) + 1);
    assert_eq!(over.status.code(), Some(2), "{over:?}");
    assert!(
        String::from_utf8_lossy(&over.stdout).contains("TOO_LARGE"),
        "{over:?}"
    );
    let at = put(1 << 20);
    assert_eq!(at.status.code(), Some(0), "{at:?}");
    let get = run(&cluster, &["get", "big"]);
    assert_eq!(get.stdout, vec![7_u8; 1 << 20]);
}

#[test]
fn garbage_on_every_port_harms_nothing() {
    let mut cluster = Cluster::start(3);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut garbage = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .collect()
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for node in &cluster.nodes {
        for port in [node.client, node.peer, node.http] {
            for attempt in 0..20 {
                let mut bytes = match attempt % 3 {
                    0 => Vec::new(),
                    1 => preface.clone(),
                    // A valid preface and settings frame, then rubbish where frames should be.
                    _ => [preface.clone(), vec![0, 0, 0, 4, 0, 0, 0, 0, 0]].concat(),
                };
                bytes.extend(garbage(1 + attempt * 211));
                let mut stream = TcpStream::connect(port).expect("it listens");
                // The node may hang up before all is written.
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    }
    assert_serves(&cluster);
    for i in 0..3 {
        assert!(cluster.is_running(i), "{}", cluster.log(i));
        assert!(!cluster.log(i).contains("panicked"), "{}", cluster.log(i));
    }
}

#[test]
fn a_node_refuses_what_it_cannot_start_on() {
    let mut cluster = Cluster::start(3);

    let second = cluster.command(0).output().expect("it runs");
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        words.contains("another process") || words.contains("in use"),
        "{words}"
    );

    // The port of a node that does not run, taken by somebody else.
    assert!(cluster.terminate(2).success());
    let taken = TcpListener::bind(cluster.nodes[2].client).expect("its port is free now");
    let refused = cluster.command(2).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains(&cluster.nodes[2].client.to_string()),
        "{refused:?}"
    );
    drop(taken);
    cluster.restart(2);

    let config = cluster.nodes[0].data_dir.with_extension("toml");
    std::fs::write(&config, "name = \"n1\"\n\ndata_dri = \"x\"\n").expect("the file");
    let unknown = ringfort()
        .args(["serve", "--check-config", "--config"])
        .arg(&config)
        .output()
        .expect("it runs");
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    let words = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        words.contains("data_dri") && words.contains("data_dir"),
        "{words}"
    );
    assert!(words.contains(":3"), "it names the line: {words}");
    assert_serves(&cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_strangers_take_no_files_from_storage() {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.limit_open_files(450);
    cluster.start_all();
    let client = Client::builder()
        .endpoints([cluster.nodes[0].client.to_string()])
        .build()
        .expect("a client");
    client.put("k", "before").await.expect("one node serves");
    let ports = [cluster.nodes[0].client, cluster.nodes[0].peer];
    let strangers: Vec<_> = (0..600)
        .filter_map(|i| TcpStream::connect(ports[i % 2]).ok())
        .collect();
    // Long enough for drains, which open files for the checkpoint and the log.
    for i in 0..60 {
        let put = client.put(format!("k{i}"), vec![7; 100_000]).await;
        put.unwrap_or_else(|error| panic!("{error}\n{}", cluster.log(0)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(cluster.is_running(0), "{}", cluster.log(0));
    drop(strangers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blind_writes_end_in_a_typed_error_at_the_cap() {
    const WRITES: usize = 10_000;
    let cluster = Cluster::start(3);
    let client = Client::builder()
        .endpoints([cluster.nodes[0].client.to_string()])
        .timeout(Duration::from_secs(20))
        .build()
        .expect("a client");
    let writes = (0..WRITES).map(|i| {
        let client = client.clone();
        async move { client.put("pile", format!("value {i}")).await }
    });
    let results = futures::future::join_all(writes).await;
    let stored = results.iter().filter(|result| result.is_ok()).count();
    let refused = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .filter(|error| error.to_string().contains("TOO_MANY_SIBLINGS"))
        .count();
    let read = client.get("pile").await.expect("it can be read");
    assert_eq!(
        stored + refused,
        WRITES,
        "every write ends in one of the two"
    );
    assert!(
        refused > 0 && stored >= 64,
        "{stored} stored, {refused} refused"
    );
    assert!(read.siblings().len() >= 64 && read.siblings().len() <= 64 * 3);
    // The pile can be cleared by one write with its context.
    let context = read.context().expect("a context").clone();
    client
        .put("pile", "one")
        .context(context)
        .await
        .expect("it merges");
    let read = client.get("pile").await.expect("it can be read");
    assert_eq!(read.siblings().len(), 1);
}

/// Between two looks at a port that was free, and how often it is looked at.
const PORT_LOOK: Duration = Duration::from_millis(50);
const PORT_LOOKS_MAX: u32 = 100;

#[test]
fn a_new_node_whose_client_port_is_taken_founds_nothing() {
    let cluster = Cluster::prepare(1, &[]);
    // A child that another test is about to start may hold a copy of the port for a moment.
    let taken = (0..PORT_LOOKS_MAX).find_map(|_| {
        std::thread::sleep(PORT_LOOK);
        TcpListener::bind(cluster.nodes[0].client).ok()
    });
    let taken = taken.expect("a free port");
    let refused = cluster.command(0).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    drop(taken);
    // With another port it can still found its cluster: the refused start has made no layout durable.
    let mut elsewhere = Cluster::prepare(1, &[]);
    elsewhere.nodes[0].data_dir = cluster.nodes[0].data_dir.clone();
    elsewhere.start_all();
    assert_eq!(run(&elsewhere, &["put", "k", "v"]).status.code(), Some(0));
}
