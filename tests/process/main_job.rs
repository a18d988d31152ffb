//! The main job: a file imported through one node while another is killed, then read back through the third.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use crate::cluster::{Cluster, ringfort};

/// Rows of the file that stands in where no real one is named.
const ROWS: usize = 34_000;

/// The file to import: `RINGFORT_IMPORT_FILE` (semicolons, key in field 0), or one made like it.
fn table(dir: &tempfile::TempDir) -> PathBuf {
    if let Some(path) = std::env::var_os("RINGFORT_IMPORT_FILE") {
        return path.into();
    }
    let mut text = String::new();
    for row in 0..ROWS {
        writeln!(
            text,
            "{row:04X};A ROW WITH THE NUMBER {row};Lo;0;L;;;;;N;;;;;"
        )
        .expect("a string");
    }
    let path = dir.path().join("table.txt");
    std::fs::write(&path, text).expect("the file");
    path
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn import_survives_the_death_of_a_node_and_reads_back_equal() {
    let mut cluster = Cluster::start(3);
    let dir = tempfile::tempdir().expect("a directory");
    let file = table(&dir);
    let rows: BTreeMap<String, String> = std::fs::read_to_string(&file)
        .expect("the table")
        .lines()
        .map(|line| line.split_once(';').expect("a key and a value"))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();

    let import = ringfort()
        .args([
            "--endpoints",
            &cluster.nodes[0].client.to_string(),
            "import",
        ])
        .arg(&file)
        .args([
            "--format",
            "tsv",
            "--separator",
            ";",
            "--key-field",
            "0",
            "--json",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the import starts");
    // Half-way, judged by the node's own counter, not by time.
    wait_for_keys(&cluster, rows.len() as u64 / 2);
    cluster.kill(1);
    std::thread::sleep(Duration::from_millis(300));
    cluster.restart(1);
    let done = import.wait_with_output().expect("the import ends");
    assert!(
        done.status.success(),
        "{}\n{}",
        stdout(&done),
        String::from_utf8_lossy(&done.stderr)
    );
    let summary: serde_json::Value = serde_json::from_str(&stdout(&done)).expect("a summary");
    assert_eq!(summary["rows"], rows.len());
    assert_eq!(summary["acked"], rows.len());
    assert_eq!(summary["failed"], 0);

    let export = ringfort()
        .args([
            "--endpoints",
            &cluster.nodes[2].client.to_string(),
            "export",
            "--json",
        ])
        .output()
        .expect("the export runs");
    assert!(
        export.status.success(),
        "{}",
        String::from_utf8_lossy(&export.stderr)
    );
    let mut found = BTreeMap::new();
    for line in stdout(&export).lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        let siblings = entry["siblings"].as_array().expect("siblings");
        assert_eq!(siblings.len(), 1, "{entry}");
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        found.insert(text(&entry["key_text"]), text(&siblings[0]["text"]));
    }
    assert!(found == rows, "what came back differs from what went in");
    eprintln!("{summary}");
}

/// Waits until node 1 says that it holds so many keys.
fn wait_for_keys(cluster: &Cluster, keys: u64) {
    for _ in 0..3000 {
        let status = ringfort()
            .args([
                "--endpoints",
                &cluster.nodes[0].client.to_string(),
                "status",
                "--json",
            ])
            .output()
            .expect("status runs");
        let status: serde_json::Value = serde_json::from_str(&stdout(&status)).expect("JSON");
        if status["nodes"][0]["keys"].as_u64().expect("a count") >= keys {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the import does not get half-way");
}
