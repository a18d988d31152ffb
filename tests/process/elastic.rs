//! Four nodes become three and four again while rows are imported, by the commands that an operator types; one is killed while it
//! receives. No row fails and none is missing.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::Path,
    process::{Child, Output, Stdio},
    time::Duration,
};

use serde_json::Value as Json;

use crate::cluster::{Cluster, ringfort};

/// Rows that are there before, and rows of each import beside a change.
pub const ROWS: usize = 4_000;
/// Slow enough that a node can be killed while it receives its quarter of the rows, which takes a few seconds.
const RATE: &str = "64KiB";
/// Looks until a test gives up on what is to happen: two minutes.
const LOOKS_MAX: u32 = 2_400;
const LOOK: Duration = Duration::from_millis(50);

fn rows(table: &str) -> BTreeMap<String, String> {
    let row = |n| (format!("{table}-{n}"), format!("row {n} of {table}"));
    (0..ROWS).map(row).collect()
}

/// Starts the import of a table, at all nodes.
pub fn import(cluster: &Cluster, dir: &Path, table: &str) -> Child {
    let file = dir.join(format!("{table}.txt"));
    let text = rows(table)
        .into_iter()
        .fold(String::new(), |mut text, (key, value)| {
            writeln!(text, "{key}\t{value}").expect("a string");
            text
        });
    std::fs::write(&file, text).expect("the file");
    ringfort()
        .args(["--endpoints", &cluster.endpoints().join(","), "import"])
        .arg(&file)
        .args(["--format", "tsv", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the import starts")
}

pub fn check_import(import: Child) {
    let done = import.wait_with_output().expect("the import ends");
    let summary = json(&done);
    assert_eq!(
        (&summary["acked"], &summary["failed"]),
        (&ROWS.into(), &0.into())
    );
}

/// The JSON that a command that went well has printed.
pub fn json(output: &Output) -> Json {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{words}");
    serde_json::from_str(&text).expect("JSON")
}

/// An operator, at one node.
struct Operator<'a> {
    endpoint: String,
    dir: &'a Path,
}

impl Operator<'_> {
    fn run(&self, command: &[&str]) -> Output {
        let mut ringfort = ringfort();
        ringfort.args(["--endpoints", &self.endpoint, "--json"]);
        ringfort
            .args(command)
            .env("RINGFORT_STAGED", self.dir.join("staged.json"));
        ringfort.output().expect("it runs")
    }

    /// Stages a change and commits it.
    fn change(&self, change: &[&str]) -> u64 {
        json(&self.run(&[&["layout"], change].concat()));
        let plan = json(&self.run(&["layout", "plan"]));
        let hash = plan["hash"].as_str().expect("a hash");
        let committed = json(&self.run(&["layout", "commit", hash]));
        committed["epoch"].as_u64().expect("an epoch")
    }

    /// Waits until `status` is as it should.
    fn wait_status(&self, what: &str, is_so: impl Fn(&Json) -> bool) {
        for _ in 0..LOOKS_MAX {
            let status = self.run(&["status"]);
            if status.status.success() && is_so(&json(&status)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        panic!("{what}: {}", json(&self.run(&["status"])));
    }

    /// Waits until one layout is live, after this epoch.
    fn wait_settled(&self, epoch: u64) {
        for _ in 0..LOOKS_MAX {
            let layout = json(&self.run(&["layout", "show"]));
            let live = layout["live"].as_array().map(Vec::len);
            if layout["epoch"].as_u64() > Some(epoch) && live == Some(1) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let status = json(&self.run(&["status"]));
        panic!("the change does not end: {status}");
    }

    /// Every key with its value, as this node exports them.
    fn export(&self) -> BTreeMap<String, String> {
        let export = self.run(&["export"]);
        assert!(
            export.status.success(),
            "{}",
            String::from_utf8_lossy(&export.stderr)
        );
        let text = |value: &Json| value.as_str().expect("text").to_owned();
        let mut found = BTreeMap::new();
        for line in String::from_utf8_lossy(&export.stdout).lines() {
            let entry: Json = serde_json::from_str(line).expect("a JSON line");
            let siblings = entry["siblings"].as_array().expect("siblings");
            assert_eq!(siblings.len(), 1, "{entry}");
            found.insert(text(&entry["key_text"]), text(&siblings[0]["text"]));
        }
        found
    }
}

#[test]
fn four_become_three_and_four_again_while_rows_come() {
    let mut cluster = Cluster::start_with(4, &["--transfer-rate", RATE]);
    let dir = tempfile::tempdir().expect("a directory");
    let operator = Operator {
        endpoint: cluster.nodes[1].client.to_string(),
        dir: dir.path(),
    };
    check_import(import(&cluster, dir.path(), "before"));

    let running = import(&cluster, dir.path(), "leaving");
    let epoch = operator.change(&["remove", "n4"]);
    operator.wait_status("n1 receives", |status| {
        let receiving = &status["nodes"][0]["receiving"];
        receiving["received"].as_u64() > Some(0) && status["moving"].as_u64() > Some(0)
    });
    cluster.kill(0);
    std::thread::sleep(Duration::from_millis(300));
    cluster.restart(0);
    operator.wait_settled(epoch);
    check_import(running);
    let ended = (0..LOOKS_MAX).find_map(|_| {
        std::thread::sleep(LOOK);
        cluster.reap(3)
    });
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert!(cluster.log(3).contains("was removed from the cluster"));
    let mut all = rows("before");
    all.extend(rows("leaving"));
    assert!(operator.export() == all, "three nodes hold other rows");

    // With its old directory it is refused; with an empty one it is another store, and may come.
    cluster.spawn(3);
    let refused = (0..LOOKS_MAX).find_map(|_| {
        std::thread::sleep(LOOK);
        cluster.reap(3)
    });
    assert!(
        refused.is_some_and(|status| !status.success()),
        "{refused:?}"
    );
    std::fs::remove_dir_all(&cluster.nodes[3].data_dir).expect("its directory");
    cluster.spawn(3);
    operator.wait_status("n4 waits", |status| status["waiting"][0] == "n4");
    let running = import(&cluster, dir.path(), "coming");
    let epoch = operator.change(&["add", "n4"]);
    operator.wait_settled(epoch);
    check_import(running);
    all.extend(rows("coming"));
    assert!(operator.export() == all, "four nodes hold other rows");
    operator.wait_status("all is synced", |status| {
        let nodes = status["nodes"].as_array().expect("nodes");
        nodes.len() == 4 && nodes.iter().all(|node| node["unsynced"] == 0)
    });
}
