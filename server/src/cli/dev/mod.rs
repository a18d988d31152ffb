//! `ringfort dev`: a local cluster, one process per node.

mod node;

use std::{net::TcpListener, path::PathBuf, time::Duration};

use futures::{
    FutureExt,
    future::{join_all, select_all},
};
use serde_json::json;
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{
    exit::{CliError, Exit},
    out::{Out, table},
    process,
};
use node::{HTTP_PORT, Node, plan};

/// Nodes of a local cluster, at most: their ports must not meet.
const MAX_NODES: u16 = 32;
/// All nodes must be ready within this.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A node that has not stopped this long after it was asked to is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

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
                    "{addr}, the {what} address of {}, cannot be used: {error}. If a cluster, or one of its nodes, still runs \
                     there, stop it; else choose other ports with --client-port",
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
        () = stop.asked() => {
            out.say("Stopping …");
            Ok(Exit::Done)
        }
    };
    stop_all(&mut nodes).await;
    if watched.is_ok() {
        out.say("Stopped. The same command starts the cluster again, with its data.");
    }
    watched
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
    let absent = node::more_data(dev);
    if !absent.is_empty() {
        out.say(&format!(
            "\nwarning: {} is also the data of {}, and {} not started: what needs their copies cannot be served \
             (see --nodes)",
            dev.data_dir.display(),
            absent.join(", "),
            if absent.len() == 1 { "it was" } else { "they were" },
        ));
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
            "{} {how}; the others go on. Its log: {}\nTo start it again, in a terminal of its own, where Ctrl-C stops it:\n  {}",
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
