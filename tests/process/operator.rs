//! An operator of the layout, by the command line.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::Value as Json;

use crate::cluster::{Cluster, ringfort};

/// Time between two looks.
pub const LOOK: Duration = Duration::from_millis(50);
/// Looks until a test gives up on what is to come: a minute.
pub const LOOKS_MAX: u32 = 1_200;

/// An operator with a file of staged changes.
pub struct Operator {
    dir: tempfile::TempDir,
    endpoints: String,
}

impl Operator {
    /// One who asks all nodes that there are now.
    pub fn of(cluster: &Cluster) -> Operator {
        Operator::at(cluster.endpoints().join(","))
    }

    /// One who asks these nodes.
    pub fn at(endpoints: String) -> Operator {
        Operator {
            dir: tempfile::tempdir().expect("a directory"),
            endpoints,
        }
    }

    /// Where changes are staged.
    pub fn staged(&self) -> PathBuf {
        self.dir.path().join("staged.json")
    }

    /// `ringfort layout` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = ringfort();
        command
            .args(["--endpoints", &self.endpoints, "layout"])
            .args(args)
            .arg("--staged")
            .arg(self.staged())
            .arg("--json");
        command
    }

    /// Its exit code and what it printed.
    pub fn run(&self, args: &[&str]) -> (i32, Json) {
        let output = self.command(args).output().expect("the binary runs");
        let answer = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"));
        (output.status.code().expect("an exit code"), answer)
    }

    /// What a command printed that went well.
    pub fn done(&self, args: &[&str]) -> Json {
        let (code, answer) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {answer}");
        answer
    }

    /// Stages one change, and has it decided.
    pub fn change(&self, args: &[&str]) {
        self.done(args);
        let hash = self.done(&["plan"])["hash"]
            .as_str()
            .expect("a hash")
            .to_owned();
        self.done(&["commit", &hash]);
    }

    /// The exit code of what is refused, and its words.
    pub fn refused(&self, args: &[&str]) -> (i32, String) {
        let (code, answer) = self.run(args);
        assert_ne!(code, 0, "{args:?}: {answer}");
        let words = answer["error"]["message"].as_str().unwrap_or_default();
        (code, words.to_owned())
    }

    /// Waits until the layout is shown as it should be.
    pub fn until(&self, is_so: impl Fn(&Json) -> bool) {
        for _ in 0..LOOKS_MAX {
            if is_so(&self.done(&["show"])) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        panic!("{}", self.done(&["show"]));
    }

    /// Waits until one layout is live, with so many members.
    pub fn settled(&self, members: usize) {
        self.until(|shown| {
            let live = shown["live"].as_array().expect("layouts");
            live.len() == 1 && live[0]["members"].as_array().expect("members").len() == members
        });
    }

    /// Waits until a node of that name waits to be added.
    pub fn waits(&self, name: &str) {
        self.until(|shown| {
            let waiting = shown["waiting"].as_array().expect("nodes");
            waiting.iter().any(|node| node["name"] == name)
        });
    }
}
