//! `ringfort dev`: a local cluster, one process per node.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{join_all, select_all},
};
use serde_json::json;
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{
    exit::{CliError, Exit},
    out::{Out, table},
    probe, process,
};

/// Nodes of a local cluster, at most: their ports must not meet.
const MAX_NODES: u16 = 32;
/// Distance of a node's peer port from its client port.
const PEER_PORT: u16 = 100;
/// Distance of a node's HTTP port from its client port.
const HTTP_PORT: u16 = 200;
/// All nodes must be ready within this.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks at a starting node.
const READY_PAUSE: Duration = Duration::from_millis(50);
/// A look at a starting node takes this long at most.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that has not stopped this long after it was asked to is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a dead node's log is shown, in bytes.
const LOG_TAIL_BYTES: u64 = 2_000;

/// `ringfort dev`: Ctrl-C stops all nodes; the data stays for the next run.
#[derive(Debug, clap::Args)]
pub struct Dev {
    /// How many nodes
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: u16,
    /// Where the nodes keep their data, one directory and one log file each
    #[arg(long, value_name = "DIR", default_value = "ringfort-data")]
    data_dir: PathBuf,
    /// Client port of the first node; the others follow. Peer ports are 100 higher, HTTP ports 200
    #[arg(long, value_name = "PORT", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..=i64::from(u16::MAX - HTTP_PORT - MAX_NODES)))]
    client_port: u16,
    /// Also print the command line that starts each node by hand
    #[arg(long)]
    verbose: bool,
    /// More settings for every node, as `serve` takes them
    #[arg(last = true, value_name = "SERVE FLAGS")]
    more: Vec<String>,
}

/// One node of the cluster.
struct Node {
    name: String,
    client: String,
    peer: String,
    http: String,
    data_dir: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
    /// Where its log began when it was started.
    log_from: u64,
}

/// Starts the cluster and watches it until it is told to stop.
///
/// # Errors
/// A port is taken, a node does not become ready, or all nodes died.
pub fn run(dev: &Dev, out: Out) -> Result<Exit, CliError> {
    // The children's lives hang on the thread that starts them: this one, which runs everything here.
    super::runtime()?.block_on(cluster(dev, out))
}

async fn cluster(dev: &Dev, out: Out) -> Result<Exit, CliError> {
    let mut nodes = plan(dev)?;
    for node in &nodes {
        for (addr, what) in [
            (&node.client, "client"),
            (&node.peer, "peer"),
            (&node.http, "HTTP"),
        ] {
            TcpListener::bind(addr).map_err(|error| {
                CliError::failed(format!(
                    "{addr}, the {what} address of {}, cannot be used: {error}; choose other ports with --client-port",
                    node.name
                ))
            })?;
        }
    }
    let mut stop = Stop::new()?;
    for node in &mut nodes {
        node.start(dev)?;
    }
    let started = tokio::select! {
        started = all_ready(&mut nodes) => started,
        () = stop.asked() => Err(CliError::new(Exit::Done, "STOPPED", "")),
    };
    if let Err(error) = started {
        stop_all(&mut nodes).await;
        return Err(error);
    }
    report(&nodes, dev, out)?;
    let watched = tokio::select! {
        () = all_dead(&mut nodes, out) => Err(CliError::failed("all nodes have died")),
        () = stop.asked() => Ok(Exit::Done),
    };
    stop_all(&mut nodes).await;
    watched
}

fn plan(dev: &Dev) -> Result<Vec<Node>, CliError> {
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

/// Worker threads of each of `nodes` nodes on this machine.
fn workers(nodes: u16) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / usize::from(nodes) / 2).max(1)
}

impl Node {
    fn start(&mut self, dev: &Dev) -> Result<(), CliError> {
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
    async fn ready(&mut self) -> Result<(), CliError> {
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
                    tail(&self.log, self.log_from)
                )));
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    fn command_line(&self) -> String {
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

async fn all_ready(nodes: &mut [Node]) -> Result<(), CliError> {
    let each = futures::future::try_join_all(nodes.iter_mut().map(Node::ready));
    match timeout(READY_TIMEOUT, each).await {
        Ok(ready) => ready.map(drop),
        Err(_) => Err(CliError::failed(format!(
            "not all nodes were ready within {READY_TIMEOUT:?}; see their logs"
        ))),
    }
}

fn report(nodes: &[Node], dev: &Dev, out: Out) -> Result<(), CliError> {
    let pid = |node: &Node| node.child.as_ref().and_then(Child::id).unwrap_or(0);
    if out.json {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|node| {
                json!({
                    "name": node.name, "client": node.client, "peer": node.peer, "http": node.http,
                    "pid": pid(node), "data_dir": node.data_dir,
                })
            })
            .collect();
        return out.value(&json!({ "nodes": nodes }));
    }
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            let dir = node.data_dir.display().to_string();
            let cells = [&node.name, &node.client, &node.peer, &node.http];
            let cells = cells.into_iter().cloned();
            cells.chain([pid(node).to_string(), dir]).collect()
        })
        .collect();
    out.table(&table(
        &["NAME", "CLIENT", "PEER", "HTTP", "PID", "DATA"],
        &rows,
    ))?;
    if dev.verbose {
        out.say("\nTo start a node by hand:");
        for node in nodes {
            out.say(&format!("  {}", node.command_line()));
        }
    }
    out.say("\nReady. Ctrl-C stops all nodes and keeps their data.");
    Ok(())
}

/// Reports each node that dies; ends when none is left.
async fn all_dead(nodes: &mut [Node], out: Out) {
    loop {
        let waits: Vec<_> = nodes
            .iter_mut()
            .filter(|node| node.child.is_some())
            .map(|node| {
                async move {
                    if let Some(child) = &mut node.child {
                        let status = child.wait().await;
                        node.child = None;
                        return (node, status);
                    }
                    std::future::pending().await
                }
                .boxed_local()
            })
            .collect();
        if waits.is_empty() {
            return;
        }
        let ((node, status), _, _) = select_all(waits).await;
        let how = status.map_or_else(|error| error.to_string(), process::ending);
        out.say(&format!(
            "{} {how}; the others go on. Its log: {}\nTo start it again:\n  {}",
            node.name,
            node.log.display(),
            node.command_line()
        ));
    }
}

/// Stops all that still run: gracefully, and after a while not.
async fn stop_all(nodes: &mut [Node]) {
    let waits = nodes.iter_mut().filter_map(|node| {
        let child = node.child.as_mut()?;
        process::terminate(child);
        Some(async move {
            if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        })
    });
    join_all(waits).await;
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|e| CliError::failed(format!("cannot listen to signals: {e}")))
        };
        Ok(Stop {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
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
}
