//! `ringfort status`.

use serde_json::json;

use super::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    out::{Out, table},
    progress, runtime,
};

/// `ringfort status`: what one node, whichever answers, knows of all.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Prints the state of the cluster.
///
/// # Errors
/// As the client's, by exit code.
pub fn run(args: &Status, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    runtime()?.block_on(async {
        let status = args.reach.client(cli, "")?.status().await?;
        let cluster = format!("{:016x}", status.cluster_id);
        if out.json {
            out.value(&json!({
                "cluster_id": cluster,
                "epoch": status.epoch,
                "nodes": status.nodes,
                "under_replicated": status.under_replicated,
                "moving": status.moving,
                "waiting": status.waiting,
            }))?;
            return Ok(Exit::Done);
        }
        let rows: Vec<Vec<String>> = status
            .nodes
            .iter()
            .map(|node| {
                vec![
                    node.name.clone(),
                    node.state.clone(),
                    node.zone.clone(),
                    node.capacity.to_string(),
                    node.owned.to_string(),
                    node.keys.to_string(),
                    node.hints.to_string(),
                    node.unsynced.to_string(),
                    node.last_seen_ms.to_string(),
                ]
            })
            .collect();
        let head = [
            "NAME",
            "STATE",
            "ZONE",
            "CAPACITY",
            "OWNED",
            "KEYS",
            "HINTS",
            "UNSYNCED",
            "SEEN MS AGO",
        ];
        out.table(&format!(
            "cluster {cluster}, epoch {}, {} partitions under-replicated, {} moving\n\n{}",
            status.epoch,
            status.under_replicated,
            status.moving,
            table(&head, &rows)
        ))?;
        for node in &status.nodes {
            if let Some(words) = node.receiving.and_then(|r| progress::line(&node.name, &r)) {
                out.say(&words);
            }
        }
        for name in &status.waiting {
            out.say(&format!(
                "{name} waits to be added: `ringfort layout add {name}`"
            ));
        }
        Ok(Exit::Done)
    })
}
