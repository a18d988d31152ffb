//! A real cluster of processes on this machine, for tests: what [`fake`](crate::fake) cannot show.
//!
//! ```no_run
//! use ringfort_client::testing::LocalCluster;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = LocalCluster::builder().nodes(3).start()?;
//! let client = cluster.client()?;
//! client.put("k", "v").await?;
//! # Ok(())
//! # }
//! ```

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde::Deserialize;

use crate::{Client, Error};

/// Names the `ringfort` binary for [`LocalCluster`]; without it the `PATH` is searched.
pub const BINARY_VARIABLE: &str = "RINGFORT_BIN";

/// How many ranges of ports are tried.
const PORT_TRIES: usize = 50;
/// How far apart a node's client, peer and HTTP ports are.
const PORT_STEP: u16 = 100;

/// Settings of a [`LocalCluster`].
#[derive(Debug, Clone)]
#[must_use = "nothing is started before `start`"]
pub struct LocalClusterBuilder {
    binary: PathBuf,
    nodes: u16,
    data_dir: Option<PathBuf>,
    client_port: Option<u16>,
    more: Vec<String>,
}

impl LocalClusterBuilder {
    /// The `ringfort` binary. Default: what the environment variable `RINGFORT_BIN` names, else the one on the `PATH`.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = path.into();
        self
    }

    /// How many nodes. Default 3.
    pub fn nodes(mut self, nodes: u16) -> Self {
        self.nodes = nodes;
        self
    }

    /// Where the data is kept after the cluster is stopped. Default: nowhere; a temporary directory is removed.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// The first node's client port. Default: a range that is free.
    pub fn client_port(mut self, port: u16) -> Self {
        self.client_port = Some(port);
        self
    }

    /// Flags of `ringfort serve` for all nodes.
    pub fn serve_flags<F: Into<String>>(mut self, flags: impl IntoIterator<Item = F>) -> Self {
        self.more = flags.into_iter().map(Into::into).collect();
        self
    }

    /// Starts the cluster and waits, blocking, until all nodes are ready.
    ///
    /// # Errors
    /// The binary cannot be started, or the cluster does not become ready; its words are on stderr.
    pub fn start(self) -> io::Result<LocalCluster> {
        let port = match self.client_port {
            Some(port) => port,
            None => free_port(self.nodes)?,
        };
        let data_dir = match self.data_dir {
            Some(path) => DataDir {
                path,
                is_temporary: false,
            },
            None => DataDir::temporary(port)?,
        };
        let mut command = Command::new(&self.binary);
        command.args(["dev", "--json", "--nodes", &self.nodes.to_string()]);
        command
            .args(["--client-port", &port.to_string()])
            .arg("--data-dir")
            .arg(&data_dir.path);
        if !self.more.is_empty() {
            command.arg("--").args(&self.more);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("{} does not start: {error}", self.binary.display()),
                )
            })?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut cluster = LocalCluster {
            child,
            nodes: Vec::new(),
            data_dir,
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            let status = cluster.child.wait()?;
            return Err(io::Error::other(format!(
                "the cluster ended before it was ready: {status}"
            )));
        }
        let started: Started = serde_json::from_str(&line)
            .map_err(|error| io::Error::other(format!("`dev --json` printed {line:?}: {error}")))?;
        cluster.nodes = started.nodes;
        Ok(cluster)
    }
}

/// What `dev --json` prints.
#[derive(Debug, Deserialize)]
struct Started {
    nodes: Vec<LocalNode>,
}

/// One node of a [`LocalCluster`].
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct LocalNode {
    /// Its name.
    pub name: String,
    /// Where clients reach it, `host:port`.
    pub client: String,
    /// Where other nodes reach it, `host:port`.
    pub peer: String,
    /// Where metrics and probes are served, `host:port`.
    pub http: String,
    /// Its process.
    pub pid: u32,
    /// Its data.
    pub data_dir: PathBuf,
}

/// A running cluster of processes. Dropping it stops them.
#[derive(Debug)]
pub struct LocalCluster {
    child: Child,
    nodes: Vec<LocalNode>,
    // Last, so that it goes when nobody writes to it any more.
    data_dir: DataDir,
}

impl LocalCluster {
    /// Settings for a new cluster.
    pub fn builder() -> LocalClusterBuilder {
        LocalClusterBuilder {
            binary: env::var_os(BINARY_VARIABLE)
                .map_or_else(|| PathBuf::from("ringfort"), PathBuf::from),
            nodes: 3,
            data_dir: None,
            client_port: None,
            more: Vec::new(),
        }
    }

    /// The nodes in the order of their ports.
    pub fn nodes(&self) -> &[LocalNode] {
        &self.nodes
    }

    /// Where the nodes keep their data, one directory each.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir.path
    }

    /// The nodes' client addresses.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// A client of this cluster.
    ///
    /// # Errors
    /// See [`ClientBuilder::build`](crate::ClientBuilder::build).
    pub fn client(&self) -> Result<Client, Error> {
        Client::builder().endpoints(self.endpoints()).build()
    }

    /// Kills a node's process, as `kill -9` does. The others go on.
    ///
    /// # Errors
    /// The `kill` program cannot be run.
    pub fn kill_node(&self, index: usize) -> io::Result<()> {
        signal("-KILL", self.nodes[index].pid)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        // Asked nicely, `dev` stops all nodes and then itself; it kills those that take too long. If it cannot be
        // asked, its own end takes the nodes with it.
        if signal("-TERM", self.child.id()).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Sends a signal with the `kill` program, since there is no safe way in the standard library.
fn signal(signal: &str, pid: u32) -> io::Result<()> {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("kill {signal} {pid}: {status}")))
    }
}

/// The first of a range of client ports that is free, with the peer and HTTP ports above it.
fn free_port(nodes: u16) -> io::Result<u16> {
    for _ in 0..PORT_TRIES {
        // The system picks the first; whether the others are free is tried. A port may still be taken before the
        // nodes bind it; then `dev` says so.
        let first = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut ports = (0..3).flat_map(|step| (0..nodes).map(move |node| (step, node)));
        let is_free = |(step, node): (u16, u16)| {
            let port = first.checked_add(step * PORT_STEP + node);
            port.is_some_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        };
        if nodes <= PORT_STEP && ports.all(is_free) {
            return Ok(first);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("no free ports for {nodes} nodes"),
    ))
}

/// Where the nodes keep their data.
#[derive(Debug)]
struct DataDir {
    path: PathBuf,
    is_temporary: bool,
}

impl DataDir {
    /// A directory of this process and port alone, removed when dropped.
    fn temporary(port: u16) -> io::Result<Self> {
        let path = env::temp_dir().join(format!("ringfort-{}-{port}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(DataDir {
            path,
            is_temporary: true,
        })
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.is_temporary {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for the binary: a script that prints what `dev --json` prints, and stays.
    fn script(name: &str, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = env::temp_dir().join(format!("ringfort-test-{}-{name}", std::process::id()));
        fs::write(&path, format!("#!/bin/sh\n{body}\n"))
            .expect("the temporary directory is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        path
    }

    #[test]
    fn the_line_is_read_and_the_process_is_stopped() {
        let line = r#"{"nodes":[{"name":"n0","client":"127.0.0.1:1","peer":"127.0.0.1:2","http":"127.0.0.1:3","pid":4,"data_dir":"/d/n0"}]}"#;
        let binary = script("ready", &format!("echo '{line}'; exec sleep 60"));
        let cluster = LocalCluster::builder()
            .binary(&binary)
            .nodes(1)
            .start()
            .expect("the script is ready");
        assert_eq!(cluster.endpoints(), ["127.0.0.1:1"]);
        assert_eq!(
            (cluster.nodes()[0].name.as_str(), cluster.nodes()[0].pid),
            ("n0", 4)
        );
        assert!(cluster.client().is_ok());
        let (pid, data_dir) = (cluster.child.id(), cluster.data_dir().to_owned());
        assert!(data_dir.exists());
        drop(cluster);
        assert!(signal("-0", pid).is_err(), "the process is gone");
        assert!(!data_dir.exists(), "and so is its data");
        fs::remove_file(binary).expect("it was written above");
    }

    #[test]
    fn a_cluster_that_does_not_start_is_an_error() {
        let binary = script("ends", "exit 1");
        let error = LocalCluster::builder().binary(&binary).start().unwrap_err();
        assert!(error.to_string().contains("before it was ready"), "{error}");
        fs::remove_file(binary).expect("it was written above");
        let error = LocalCluster::builder()
            .binary("/nonexistent/ringfort")
            .start()
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
