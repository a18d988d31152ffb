//! `ringfort hints`.

use std::time::Duration;

use ringfort_client::{HeldHints, NodeStatus};
use serde_json::json;

use super::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    out::{Out, table},
    runtime,
};

/// `ringfort hints`: what each node holds for owners that are down, as the node tells that answers.
#[derive(Debug, clap::Args)]
pub struct Hints {
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Prints a row for each node: how many keys, how many bytes, how old, for whom.
///
/// # Errors
/// As the client's, by exit code.
pub fn run(args: &Hints, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    runtime()?.block_on(async {
        let status = args.reach.client(cli, "")?.status().await?;
        if out.json {
            let nodes: Vec<_> = status.nodes.iter().map(as_json).collect();
            out.value(&json!({ "nodes": nodes }))?;
            return Ok(Exit::Done);
        }
        let rows: Vec<Vec<String>> = status.nodes.iter().map(row).collect();
        let head = [
            "NAME",
            "HINTS",
            "BYTES",
            "OLDEST",
            "DELIVERED",
            "REFUSED",
            "DROPPED",
            "WAITING FOR",
        ];
        out.table(&table(&head, &rows))?;
        Ok(Exit::Done)
    })
}

fn as_json(node: &NodeStatus) -> serde_json::Value {
    match &node.held {
        Some(held) => json!({
            "name": node.name,
            "hints": node.hints,
            "bytes": held.bytes,
            "oldest_ms": held.oldest_ms,
            "delivered": held.delivered,
            "refused": held.refused,
            "dropped": held.dropped,
            "waiting": held.waiting,
        }),
        None => json!({ "name": node.name, "hints": null }),
    }
}

fn row(node: &NodeStatus) -> Vec<String> {
    let unknown = || vec!["?".to_owned(); 7];
    let told = |held: &HeldHints| {
        let waiting = held.waiting.iter();
        let waiting: Vec<_> = waiting.map(|(name, n)| format!("{name} ({n})")).collect();
        vec![
            node.hints.to_string(),
            held.bytes.to_string(),
            age(held.oldest_ms),
            held.delivered.to_string(),
            held.refused.to_string(),
            held.dropped.to_string(),
            waiting.join(" "),
        ]
    };
    let mut row = vec![node.name.clone()];
    row.extend(node.held.as_ref().map_or_else(unknown, told));
    row
}

/// To the second; nothing for none.
fn age(ms: u64) -> String {
    match Duration::from_millis(ms).as_secs() {
        _ if ms == 0 => String::new(),
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_are_told_in_two_units_at_most() {
        for (ms, words) in [
            (0, ""),
            (1, "0s"),
            (59_999, "59s"),
            (61_000, "1m01s"),
            (3_600_000, "1h00m"),
            (7_380_000, "2h03m"),
        ] {
            assert_eq!(age(ms), words);
        }
    }
}
