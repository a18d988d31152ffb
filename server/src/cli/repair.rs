//! `ringfort repair`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use ringfort_client::{Client, RepairProgress, Roots};
use serde_json::{Value as Json, json};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    out::Out,
    runtime,
};

/// Time between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// How far it is is said again after so many looks, where no bar can be drawn.
const LINE_LOOKS: u32 = 4;
/// Looks in a row that nobody answers, until the waiting ends.
const SILENT_LOOKS_MAX: u32 = 20;

/// `ringfort repair`: all nodes compare what they hold with the other owners now, and mend what differs.
#[derive(Debug, clap::Args)]
pub struct Repair {
    /// This partition only (`ringfort where KEY` names the one of a key)
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
    /// Wait until every partition was compared with every other owner, and was the same or is mended; then print a hash over the
    /// Merkle roots of each node
    #[arg(long)]
    wait: bool,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Tells the nodes, and waits.
///
/// # Errors
/// As the client's, by exit code. Who stops waiting stops nothing.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge: how long the command has run"
)]
pub fn run(args: &Repair, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    runtime()?.block_on(async {
        let client = args.reach.client(cli, "")?;
        let began = Instant::now();
        let nodes = client.repair(args.partition, true, Duration::ZERO).await?;
        let silent: Vec<&str> = silent(&nodes).collect();
        if !silent.is_empty() {
            let words = "does not answer: what it owns too is compared once it is back";
            out.say(&format!("{} {words}", silent.join(", ")));
        }
        if !args.wait {
            if out.json {
                out.value(&json!({"nodes": nodes}))?;
            } else {
                out.say(
                    "all nodes compare what they hold: `ringfort status` tells how far they are",
                );
            }
            return Ok(Exit::Done);
        }
        let nodes = wait(&client, args, began, out).await?;
        let roots = roots(&client, args).await?;
        report(&nodes, &roots, began.elapsed(), out)
    })
}

fn silent(nodes: &[RepairProgress]) -> impl Iterator<Item = &str> {
    let silent = nodes.iter().filter(|node| !node.answered);
    silent.map(|node| node.name.as_str())
}

/// Waits until all is younger than the command.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge: how long the command has run"
)]
async fn wait(
    client: &Client,
    args: &Repair,
    began: Instant,
    out: Out,
) -> Result<Vec<RepairProgress>, CliError> {
    let mut shown = Shown::new(out);
    let mut silent_looks = 0;
    loop {
        match client.repair(args.partition, false, began.elapsed()).await {
            Ok(nodes) => {
                silent_looks = 0;
                if nodes
                    .iter()
                    .all(|node| node.answered && node.clean >= node.partitions)
                {
                    shown.end();
                    return Ok(nodes);
                }
                shown.show(&nodes);
            }
            Err(error) => {
                silent_looks += 1;
                if silent_looks >= SILENT_LOOKS_MAX {
                    return Err(error.into());
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The roots that each node tells, by its name.
async fn roots(client: &Client, args: &Repair) -> Result<BTreeMap<String, Roots>, CliError> {
    let mut all = BTreeMap::new();
    for member in client.layout().await?.members {
        let one = args.reach.client_of([member.client_addr], "")?;
        let told = one.roots().await?;
        all.insert(told.node.clone(), told);
    }
    Ok(all)
}

/// Partitions of which two owners tell other roots.
fn differing(roots: &BTreeMap<String, Roots>) -> Vec<u32> {
    let mut known: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut differing: Vec<u32> = Vec::new();
    for (partition, root) in roots.values().flat_map(|told| &told.roots) {
        if *known.entry(*partition).or_insert(*root) != *root {
            differing.push(*partition);
        }
    }
    differing.sort_unstable();
    differing.dedup();
    differing
}

/// A hash over all roots of a node.
fn hash(told: &Roots) -> u64 {
    let each = told.roots.iter();
    let bytes = each.flat_map(|(partition, (root, keys))| {
        let partition = partition.to_le_bytes().into_iter();
        partition
            .chain(root.to_le_bytes())
            .chain(keys.to_le_bytes())
    });
    xxh3_64(&bytes.collect::<Vec<u8>>())
}

fn report(
    nodes: &[RepairProgress],
    roots: &BTreeMap<String, Roots>,
    took: Duration,
    out: Out,
) -> Result<Exit, CliError> {
    let differing = differing(roots);
    let changing: usize = roots.values().map(|told| told.changing.len()).sum();
    if out.json {
        let each = roots.iter().map(|(name, told)| {
            let keys: u64 = told.roots.values().map(|(_, keys)| keys).sum();
            let told = json!({
                "name": name,
                "partitions": told.roots.len(),
                "keys": keys,
                "roots": format!("{:016x}", hash(told)),
                "changing": told.changing.len(),
            });
            told
        });
        out.value(&json!({
            "nodes": nodes,
            "seconds": took.as_secs_f64(),
            "roots": each.collect::<Vec<Json>>(),
            "differing": differing,
        }))?;
        return Ok(Exit::Done);
    }
    let compared: u32 = nodes.iter().map(|node| node.partitions).sum();
    out.say(&format!(
        "{compared} copies of partitions were compared with their other owners in {:.1} s: all the same, or mended",
        took.as_secs_f64()
    ));
    if !differing.is_empty() || changing > 0 {
        out.say(&format!(
            "{} partitions have changed since (writes go on)",
            differing.len() + changing
        ));
    }
    Ok(Exit::Done)
}

/// What a person, or a log, has been shown.
struct Shown {
    out: Out,
    bar: Option<ProgressBar>,
    looks: u32,
}

impl Shown {
    fn new(out: Out) -> Shown {
        let bar = out.watched().then(|| {
            let bar = ProgressBar::new(0);
            let template = "{bar:30} {pos}/{len} copies of partitions compared  {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Shown { out, bar, looks: 0 }
    }

    fn show(&mut self, nodes: &[RepairProgress]) {
        let (clean, all) = sums(nodes);
        let waits: Vec<&str> = silent(nodes).collect();
        let waits = match waits.is_empty() {
            true => String::new(),
            false => format!("(waits for {}, which does not answer)", waits.join(", ")),
        };
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(clean);
            bar.set_message(waits);
        } else if self.looks.is_multiple_of(LINE_LOOKS) {
            let line = format!("{clean} of {all} copies of partitions compared {waits}");
            self.out.say(line.trim_end());
        }
        self.looks += 1;
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(bar.length().unwrap_or_default());
            bar.abandon();
        }
    }
}

fn sums(nodes: &[RepairProgress]) -> (u64, u64) {
    let clean = nodes.iter().map(|node| u64::from(node.clean));
    let all = nodes.iter().map(|node| u64::from(node.partitions));
    (clean.sum(), all.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_differ_if_two_that_own_them_tell_other_roots() {
        let told = |node: &str, roots: &[(u32, u64)]| {
            let mut told: Roots = serde_json::from_value(json!({
                "node": node, "epoch": 1, "roots": {}, "changing": []
            }))
            .expect("roots");
            told.roots = roots.iter().map(|(p, root)| (*p, (*root, 1))).collect();
            (node.to_owned(), told)
        };
        let same = told("a", &[(1, 5), (2, 6)]);
        let all = BTreeMap::from([
            same.clone(),
            told("b", &[(2, 6), (3, 7)]),
            told("c", &[(3, 8)]),
        ]);
        assert_eq!(differing(&all), [3]);
        assert_eq!(hash(&same.1), hash(&told("b", &[(1, 5), (2, 6)]).1));
        assert_ne!(hash(&same.1), hash(&told("b", &[(1, 5), (2, 7)]).1));
    }
}
