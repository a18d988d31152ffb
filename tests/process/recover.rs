//! A majority is lost for good: what is left goes on as another cluster, grows again, and whoever was not named stays out.

use std::{path::Path, process::Output, time::Duration};

use ringfort_client::Client;
use serde_json::Value as Json;

use crate::{
    cluster::{Cluster, ringfort},
    elastic::json,
    operator::{LOOK, LOOKS_MAX, Operator},
};

/// How long a client waits for each answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Keys that are there before.
const KEYS: usize = 60;

fn key(i: usize) -> String {
    format!("key {i}")
}

/// What a client does at these nodes.
struct At {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl At {
    fn nodes(endpoints: &[String]) -> At {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let client = {
            let _inside = runtime.enter();
            Client::builder()
                .endpoints(endpoints.iter().map(String::as_str))
                .timeout(PATIENCE)
                .build()
        };
        let client = client.expect("a client");
        At { runtime, client }
    }

    /// Writes a value to each key, to `w` copies; nodes that have just started may not have found each other yet.
    fn write(&self, keys: std::ops::Range<usize>, w: u32) {
        self.runtime.block_on(async {
            for i in keys {
                let mut looks = 0;
                while let Err(error) = self.client.put(key(i), format!("value {i}")).w(w).await {
                    let unchanged = error.is_retryable() && !error.is_ambiguous();
                    assert!(unchanged && looks < LOOKS_MAX, "{}: {error}", key(i));
                    looks += 1;
                    tokio::time::sleep(LOOK).await;
                }
            }
        });
    }

    fn read(&self, keys: std::ops::Range<usize>) {
        self.runtime.block_on(async {
            for i in keys {
                let read = self.client.get(key(i)).await;
                let read = read.unwrap_or_else(|error| panic!("{}: {error}", key(i)));
                let value = read.one().expect("no siblings").expect("a value");
                assert_eq!(value, format!("value {i}"));
            }
        });
    }
}

fn recover(dir: &Path, keep: &str, force: Option<&str>) -> Output {
    let mut command = ringfort();
    command.args(["layout", "recover", "--json", "--keep", keep, "--data-dir"]);
    command
        .arg(dir)
        .args(force.map(|hash| format!("--force={hash}")));
    command.output().expect("the binary runs")
}

/// The words of a refusal, which exits with this code.
fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let answer: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["error"]["message"]
        .as_str()
        .expect("words")
        .to_owned()
}

fn hash_of(plan: &Json) -> String {
    plan["hash"].as_str().expect("a hash").to_owned()
}

/// Waits until node `i` has said these words.
fn said(cluster: &Cluster, i: usize, words: &str) {
    let heard = (0..LOOKS_MAX).any(|_| {
        std::thread::sleep(LOOK);
        cluster.log(i).contains(words)
    });
    assert!(heard, "{words}:\n{}", cluster.log(i));
}

/// Three nodes, two destroyed: the third goes on alone with all that it held, and becomes three again.
#[test]
fn one_of_three_goes_on_alone_and_becomes_three_again() {
    let mut cluster = Cluster::start_with(3, &["--partitions", "64"]);
    At::nodes(&cluster.endpoints()).write(0..KEYS, 3);
    let dir = cluster.nodes[0].data_dir.clone();
    let words = refused(&recover(&dir, "n1", None), 1);
    assert!(words.contains("in use"), "the node runs: {words}");
    cluster.kill_all();

    let plan = json(&recover(&dir, "n1", None));
    assert_eq!(
        (&plan["done"], &plan["may_be_lost"]),
        (&false.into(), &64.into())
    );
    assert_eq!((&plan["gone"], &plan["lost"][1]), (&0.into(), &"n3".into()));
    let hash = hash_of(&plan);
    let words = refused(&recover(&dir, "n1,n2", None), 1);
    assert!(words.contains("are a majority"), "{words}");
    let words = refused(&recover(&dir, "n2", None), 1);
    assert!(words.contains("not among those to keep"), "{words}");
    let words = refused(&recover(&dir, "n1", Some("0123456789abcdef")), 1);
    assert!(words.contains("Nothing was changed"), "{words}");
    let done = json(&recover(&dir, "n1", Some(&hash)));
    assert_eq!(
        (&done["done"], &done["cluster_id"]),
        (&true.into(), &plan["cluster_id"])
    );
    let again = json(&recover(&dir, "n1", Some(&hash)));
    assert_eq!(
        (&again["done"], &again["cluster_id"]),
        (&true.into(), &plan["cluster_id"])
    );

    cluster.restart(0);
    let endpoints = cluster.endpoints();
    let operator = Operator::at(endpoints[0].clone());
    operator.settled(1);
    assert_eq!(operator.done(&["show"])["cluster_id"], plan["cluster_id"]);
    At::nodes(&endpoints[..1]).read(0..KEYS);
    At::nodes(&endpoints[..1]).write(KEYS..2 * KEYS, 1);

    // One that was thought destroyed comes back: it belongs to the old cluster, and has no part in this one.
    cluster.spawn(1);
    said(&cluster, 1, "belongs to cluster");
    operator.settled(1);
    cluster.kill(1);

    let more = ["n4", "n5"].map(|name| cluster.join(name));
    for name in ["n4", "n5"] {
        operator.waits(name);
        operator.done(&["add", name]);
    }
    let hash = hash_of(&operator.done(&["plan"]));
    operator.done(&["commit", &hash, "--wait"]);
    operator.settled(3);
    more.iter().for_each(|i| cluster.wait_ready(*i));
    // The new ones hold it all, too.
    cluster.kill(0);
    At::nodes(&cluster.endpoints()[3..]).read(0..2 * KEYS);
}

/// Two of four are left, and the command is stopped between the two: the one that is through waits for the other.
#[test]
fn two_of_four_go_on_once_both_were_told() {
    let mut cluster = Cluster::start_with(4, &["--partitions", "64"]);
    At::nodes(&cluster.endpoints()).write(0..KEYS, 3);
    cluster.kill_all();
    let dirs = [0, 1].map(|i| cluster.nodes[i].data_dir.clone());
    let [first, second] = dirs
        .each_ref()
        .map(|dir| json(&recover(dir, "n2,n1", None)));
    assert_eq!(first, second);
    let hash = hash_of(&first);
    json(&recover(&dirs[0], "n1,n2", Some(&hash)));
    for i in [0, 1] {
        cluster.restart(i);
    }
    said(&cluster, 1, "belongs to cluster");
    let endpoints = cluster.endpoints();
    for endpoint in &endpoints[..2] {
        let mut put = ringfort();
        put.args(["--endpoints", endpoint, "put", "half", "done"]);
        let status = put.output().expect("the binary runs").status;
        assert!(!status.success(), "{endpoint} is no quorum");
    }
    let operator = Operator::at(endpoints[0].clone());
    let live = operator.done(&["show"])["live"].as_array().map(Vec::len);
    assert_eq!(live, Some(2), "nothing moves before both are told");

    cluster.kill(1);
    json(&recover(&dirs[1], "n1,n2", Some(&hash)));
    cluster.restart(1);
    operator.settled(2);
    let at = At::nodes(&endpoints[..2]);
    at.read(0..KEYS);
    at.write(KEYS..2 * KEYS, 2);
}
