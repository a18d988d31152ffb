//! Deletes taken back, from the command line.

use std::{
    io::Write,
    process::{Output, Stdio},
    time::Duration,
};

use crate::cluster::{Cluster, ringfort};

/// Every byte there is, in no encoding of text.
fn value() -> Vec<u8> {
    (0..=255).cycle().take(5_000).collect()
}

struct Shell<'a>(&'a Cluster);

impl Shell<'_> {
    /// Runs a command with this standard input.
    fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = ringfort()
            .args(["--endpoints", &self.0.endpoints().join(",")])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input).expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("the command ends")
    }

    fn code(&self, args: &[&str]) -> i32 {
        self.run(args, b"").status.code().expect("an exit code")
    }

    fn put(&self, key: &str) {
        let put = self.run(&["put", key, "-"], &value());
        assert!(put.status.success(), "{put:?}");
    }

    /// The context of what is there.
    fn context(&self, key: &str) -> String {
        let read = self.run(&["get", key, "--json"], b"");
        let read: serde_json::Value = serde_json::from_slice(&read.stdout).expect("JSON");
        read["context"].as_str().expect("a context").to_owned()
    }
}

#[test]
fn a_deleted_value_comes_back_byte_by_byte() {
    let cluster = Cluster::start_with(3, &["--partitions", "64"]);
    let shell = Shell(&cluster);
    assert_eq!(shell.code(&["undelete", "k"]), 3, "never written");
    shell.put("k");
    assert_eq!(shell.code(&["undelete", "k"]), 1, "a value is there");
    assert_eq!(shell.code(&["delete", "k"]), 0);
    assert_eq!(shell.code(&["get", "k"]), 3);
    let undeleted = shell.run(&["undelete", "k", "--json"], b"");
    assert_eq!(undeleted.status.code(), Some(0), "{undeleted:?}");
    let told: serde_json::Value = serde_json::from_slice(&undeleted.stdout).expect("JSON");
    assert_eq!(
        (&told["undeleted"], &told["siblings"]),
        (&true.into(), &1.into())
    );
    assert_eq!(shell.run(&["get", "k"], b"").stdout, value());

    // Two deletes with one context: each replaced the same value.
    let context = shell.context("k");
    for _ in 0..2 {
        assert_eq!(shell.code(&["delete", "k", "--context", &context]), 0);
    }
    assert_eq!(shell.code(&["undelete", "k"]), 0);
    assert_eq!(shell.run(&["get", "k"], b"").stdout, value());

    assert_eq!(shell.code(&["delete", "k", "--purge"]), 0);
    assert_eq!(shell.code(&["undelete", "k"]), 3, "purged");

    for text in ["a", "b"] {
        assert_eq!(shell.code(&["put", "several", text]), 0);
    }
    assert_eq!(shell.code(&["delete", "several"]), 0);
    let several = shell.run(&["undelete", "several"], b"");
    assert_eq!((several.status.code(), several.stdout.len()), (Some(7), 0));
    assert_eq!(
        shell.code(&["get", "several", "--deleted"]),
        2,
        "for JSON only"
    );
    let read = shell.run(&["get", "several", "--deleted", "--json"], b"");
    let read: serde_json::Value = serde_json::from_slice(&read.stdout).expect("JSON");
    assert_eq!(read["deleted"].as_array().map(Vec::len), Some(2), "{read}");
}

#[test]
fn after_its_window_nothing_comes_back() {
    let cluster = Cluster::start_with(3, &["--partitions", "64", "--soft-delete", "1s"]);
    let shell = Shell(&cluster);
    shell.put("k");
    assert_eq!(shell.code(&["delete", "k"]), 0);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(shell.code(&["undelete", "k"]), 3);
    assert_eq!(shell.code(&["get", "k"]), 3);
}
