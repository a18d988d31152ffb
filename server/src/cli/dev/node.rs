//! One node of a local cluster: its addresses, its process, its log.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::{Child, Command};

use super::{
    super::{exit::CliError, probe, process},
    Dev, MAX_NODES,
};

/// Distance of a node's peer port from its client port.
const PEER_PORT: u16 = 100;
/// Distance of a node's HTTP port from its client port.
pub(super) const HTTP_PORT: u16 = 200;
/// Pause between two looks at a starting node.
const READY_PAUSE: Duration = Duration::from_millis(50);
/// A look at a starting node takes this long at most.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of a dead node's log is shown, in bytes.
const LOG_TAIL_BYTES: u64 = 2_000;

/// One node of the cluster.
pub(super) struct Node {
    pub name: String,
    pub client: String,
    pub peer: String,
    pub http: String,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    args: Vec<String>,
    pub child: Option<Child>,
    /// Where its log began when it was started.
    log_from: u64,
}

/// The nodes of a cluster, none started yet.
pub(super) fn plan(dev: &Dev) -> Result<Vec<Node>, CliError> {
    let at = |offset: u16, i: u16| format!("127.0.0.1:{}", dev.client_port + offset + i);
    let name = |i: u16| format!("n{i}");
    let initial: Vec<String> = (0..dev.nodes)
        .map(|i| format!("{}={}", name(i), at(PEER_PORT, i)))
        .collect();
    std::fs::create_dir_all(&dev.data_dir)
        .and_then(|()| std::fs::canonicalize(&dev.data_dir))
        .map_err(|error| {
            let dir = dev.data_dir.display();
            CliError::failed(format!("the data directory {dir} cannot be made: {error}"))
        })
        .map(|dir| {
            (0..dev.nodes)
                .map(|i| {
                    let data_dir = dir.join(name(i));
                    let mut args = vec!["serve".to_owned()];
                    for (flag, value) in [
                        ("--name", name(i)),
                        ("--data-dir", data_dir.display().to_string()),
                        ("--client-addr", at(0, i)),
                        ("--peer-addr", at(PEER_PORT, i)),
                        ("--http-addr", at(HTTP_PORT, i)),
                        ("--initial", initial.join(",")),
                        ("--workers", workers(dev.nodes).to_string()),
                    ] {
                        args.extend([flag.to_owned(), value]);
                    }
                    // More nodes than the data has join it, unless whoever starts them has said otherwise.
                    if !dev.more.iter().any(|more| more.starts_with("--auto-join")) {
                        args.push("--auto-join".to_owned());
                    }
                    args.extend(dev.more.iter().cloned());
                    Node {
                        name: name(i),
                        client: at(0, i),
                        peer: at(PEER_PORT, i),
                        http: at(HTTP_PORT, i),
                        log: dir.join(format!("{}.log", name(i))),
                        data_dir,
                        args,
                        child: None,
                        log_from: 0,
                    }
                })
                .collect()
        })
}

/// Nodes of an earlier run whose data lies beside that of these, and that are not among them.
pub(super) fn more_data(dev: &Dev) -> Vec<String> {
    (dev.nodes..MAX_NODES)
        .map(|i| format!("n{i}"))
        .filter(|name| dev.data_dir.join(name).is_dir())
        .collect()
}

/// Worker threads of each of `nodes` nodes on this machine.
fn workers(nodes: u16) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / usize::from(nodes) / 2).max(1)
}

impl Node {
    /// Starts its process; standard output and error go to its log.
    pub fn start(&mut self, dev: &Dev) -> Result<(), CliError> {
        let fail = |what: &str, error: std::io::Error| {
            CliError::failed(format!("{} cannot start: {what}: {error}", self.name))
        };
        let exe = std::env::current_exe().map_err(|e| fail("the program's own path", e))?;
        let log = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let stdout = log(&self.log).map_err(|e| fail("its log", e))?;
        self.log_from = stdout.metadata().map_or(0, |metadata| metadata.len());
        let stderr = stdout.try_clone().map_err(|e| fail("its log", e))?;
        let mut command = Command::new(exe);
        command.args(&self.args).stdout(stdout).stderr(stderr);
        // The settings of each node are given above; those meant for one node must not reach all.
        for name in crate::config::NAMES {
            if dev_owns(name) {
                command.env_remove(format!("RINGFORT_{}", name.to_uppercase()));
            }
        }
        command.env_remove("RINGFORT_CONFIG").env("NO_COLOR", "1");
        let child = process::start(command).map_err(|e| fail("the process", e))?;
        tracing::debug!(nodes = dev.nodes, name = self.name, "started");
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the node is ready, or dead.
    pub async fn ready(&mut self) -> Result<(), CliError> {
        loop {
            if let Ok((200, _)) = probe::ask(&self.http, "/readyz", PROBE_TIMEOUT).await {
                return Ok(());
            }
            let child = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok().flatten());
            if let Some(status) = child {
                self.child = None;
                return Err(CliError::failed(format!(
                    "{} {} before it was ready; the end of {}:\n{}",
                    self.name,
                    process::ending(status),
                    self.log.display(),
                    tail(&self.log, self.log_from).trim_end()
                )));
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    /// What starts it by hand.
    pub fn command_line(&self) -> String {
        let exe = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("ringfort"));
        let words = std::iter::once(exe.display().to_string()).chain(self.args.iter().cloned());
        words
            .map(|word| quoted(&word))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Settings that `dev` gives each node itself, or that make no sense for several nodes at once.
fn dev_owns(name: &str) -> bool {
    matches!(
        name,
        "name"
            | "data_dir"
            | "client_addr"
            | "peer_addr"
            | "http_addr"
            | "client_advertise"
            | "peer_advertise"
            | "http_advertise"
            | "initial"
            | "seeds"
            | "zone"
            | "workers"
    )
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The end of a log file, and nothing from before `from`.
fn tail(path: &Path, from: u64) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(
            length.saturating_sub(LOG_TAIL_BYTES).max(from),
        ))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(it cannot be read: {error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("--name"), "--name");
        assert_eq!(
            quoted("n0=127.0.0.1:7500,n1=x:1"),
            "n0=127.0.0.1:7500,n1=x:1"
        );
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn ports_follow_the_contract() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dev = Dev {
            nodes: 2,
            data_dir: dir.path().to_path_buf(),
            client_port: 7400,
            verbose: false,
            more: Vec::new(),
        };
        let nodes = plan(&dev).expect("the directory exists");
        assert_eq!(nodes[1].name, "n1");
        assert_eq!(nodes[1].client, "127.0.0.1:7401");
        assert_eq!(nodes[1].peer, "127.0.0.1:7501");
        assert_eq!(nodes[1].http, "127.0.0.1:7601");
        assert!(
            nodes[0]
                .args
                .contains(&"n0=127.0.0.1:7500,n1=127.0.0.1:7501".to_owned())
        );
    }

    #[test]
    fn data_of_nodes_that_are_not_started_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["n0", "n1", "n2"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let dev = |nodes| Dev {
            nodes,
            data_dir: dir.path().to_path_buf(),
            client_port: 7400,
            verbose: false,
            more: Vec::new(),
        };
        assert_eq!(more_data(&dev(1)), ["n1", "n2"]);
        assert!(more_data(&dev(3)).is_empty());
    }
}
