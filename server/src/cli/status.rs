//! `ringfort status`.

use std::time::Duration;

use indicatif::HumanDuration;
use ringfort_client::ClusterStatus;
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
                "healed": status.healed,
                "exchange_age_ms": status.exchange_age_ms,
                "unclean": status.unclean,
                "left_ms": status.left_ms,
                "reaping_stalled_ms": status.reaping_stalled_ms,
                "reaping_waits_for": status.reaping_waits_for,
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
            "{}\ncluster {cluster}, epoch {}, {} partitions under-replicated, {} moving\n\n{}",
            healing(&status),
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
        if let Some(words) = reaping(&status) {
            out.say(&words);
        }
        for name in &status.waiting {
            out.say(&format!(
                "{name} waits to be added: `ringfort layout add {name}`"
            ));
        }
        Ok(Exit::Done)
    })
}

/// Whom reaping waits for, if it has waited long.
fn reaping(status: &ClusterStatus) -> Option<String> {
    let since = match status.reaping_stalled_ms {
        0 => return None,
        ms => HumanDuration(Duration::from_millis(ms)),
    };
    let whom = match &status.reaping_waits_for[..] {
        [] => "other members".to_owned(),
        names => names.join(", "),
    };
    Some(format!(
        "deleted keys have not been forgotten for {since}: reaping waits for {whom} (`ringfort layout excuse` for one that is gone)"
    ))
}

/// Whether the cluster is healed, in one line; if not, what remains and for how long.
fn healing(status: &ClusterStatus) -> String {
    let age = HumanDuration(Duration::from_millis(status.exchange_age_ms));
    if status.healed {
        return format!("healed: all copies are the same (the oldest comparison is {age} old)");
    }
    let mut remains: Vec<String> = Vec::new();
    for node in status.nodes.iter().filter(|node| node.state != "up") {
        remains.push(format!("{} is {}", node.name, node.state));
    }
    for node in &status.nodes {
        let name = &node.name;
        if node.behind > 0 {
            remains.push(format!("{name} lacks writes of {} partitions", node.behind));
        }
        if node.unsynced > 0 {
            remains.push(format!("{name} receives {} partitions anew", node.unsynced));
        }
        if node.quarantined > 0 {
            remains.push(format!("{name} has {} damaged keys", node.quarantined));
        }
        if node.hints > 0 {
            remains.push(format!("{name} keeps {} hints for others", node.hints));
        }
    }
    if status.moving > 0 {
        remains.push(format!("{} partitions move", status.moving));
    }
    if status.unclean > 0 {
        let unclean = status.unclean;
        remains.push(format!(
            "{unclean} partitions are not known to be the same everywhere"
        ));
    }
    if remains.is_empty() {
        // What is behind has no count of its own: a node that has not answered.
        remains.push("not all nodes answer".to_owned());
    }
    let left = match status.left_ms {
        0 => String::new(),
        ms => {
            let left = Duration::from_secs(ms.div_ceil(1_000));
            format!("; about {} left", HumanDuration(left))
        }
    };
    format!("healing: {}{left}", remains.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: serde_json::Value) -> ClusterStatus {
        let node = json!({
            "name": "", "state": "up", "zone": "", "capacity": 1.0, "owned": 8, "keys": 0, "hints": 0, "last_seen_ms": 0,
            "unsynced": 0, "receiving": null, "exchange_age_ms": 0, "unclean": 0, "behind": 0, "exchange_left_ms": 0,
            "quarantined": 0, "scrub": null, "held": null,
        });
        let mut whole = json!({
            "cluster_id": 1, "epoch": 1, "nodes": [], "under_replicated": 0, "moving": 0, "waiting": [], "healed": false,
            "exchange_age_ms": 0, "unclean": 0, "left_ms": 0,
            "reaping_stalled_ms": 0, "reaping_waits_for": [],
        });
        let fill = |base: &serde_json::Value, with: &serde_json::Value| {
            let mut all = base.as_object().expect("an object").clone();
            all.extend(with.as_object().expect("an object").clone());
            serde_json::Value::Object(all)
        };
        whole = fill(&whole, &json);
        let nodes = whole["nodes"].as_array().expect("a list").iter();
        whole["nodes"] = nodes.map(|with| fill(&node, with)).collect();
        serde_json::from_value(whole).expect("a status")
    }

    #[test]
    fn a_person_sees_in_one_line_what_remains() {
        let healed = status(json!({"healed": true, "exchange_age_ms": 12_000}));
        assert_eq!(
            healing(&healed),
            "healed: all copies are the same (the oldest comparison is 12 seconds old)"
        );
        let ill = status(json!({
            "nodes": [
                {"name": "a", "hints": 4},
                {"name": "b", "state": "down", "behind": 7},
                {"name": "c", "unsynced": 3},
            ],
            "moving": 2, "unclean": 9, "left_ms": 61_000,
        }));
        assert_eq!(
            healing(&ill),
            "healing: b is down, a keeps 4 hints for others, b lacks writes of 7 partitions, c receives 3 partitions anew, \
             2 partitions move, 9 partitions are not known to be the same everywhere; about 61 seconds left"
        );
    }

    #[test]
    fn a_person_sees_whom_reaping_waits_for() {
        assert_eq!(reaping(&status(json!({}))), None);
        let slow = status(json!({"reaping_stalled_ms": 300_000, "reaping_waits_for": ["b", "c"]}));
        assert_eq!(
            reaping(&slow).as_deref(),
            Some(
                "deleted keys have not been forgotten for 5 minutes: reaping waits for b, c (`ringfort layout excuse` for one that is gone)"
            )
        );
    }
}
