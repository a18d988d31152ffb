//! `ringfort scrub`.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use ringfort_client::{Client, NodeStatus, ScrubStart, Scrubbing};
use serde_json::json;
use tokio::time::sleep;

use super::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    out::Out,
    runtime,
};

/// Time between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(500);
/// Where no bars can be drawn, a line is said every so many looks.
const LINE_LOOKS: u32 = 10;
/// Looks in a row that nobody answers, until the watching ends.
const SILENT_LOOKS_MAX: u32 = 20;

/// `ringfort scrub`: all nodes verify everything that they have stored, at their `--scrub-rate`.
#[derive(Debug, clap::Args)]
pub struct Scrub {
    /// Show how far they are, until all are through
    #[arg(long)]
    wait: bool,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Begins a pass at all nodes; with `--wait` shows how far they are.
///
/// # Errors
/// Exit 1: a node did not answer, or ended meanwhile. Else as the client's.
pub fn run(args: &Scrub, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    runtime()?.block_on(async {
        let client = args.reach.client(cli, "")?;
        let before = by_name(client.status().await?.nodes);
        let started = client.scrub().await?;
        let silent: Vec<&str> = started
            .iter()
            .filter(|node| node.pass.is_none())
            .map(|node| node.name.as_str())
            .collect();
        for name in &silent {
            out.say(&format!("{name} does not answer"));
        }
        if args.wait {
            let ended = watch(&client, &started, out).await?;
            tell(&started, &before, &ended, out)?;
        } else if out.json {
            out.value(&json!({ "nodes": started }))?;
        } else {
            out.say("begun; `ringfort status` and `ringfort scrub --wait` tell how far it is");
        }
        Ok(match silent.is_empty() {
            true => Exit::Done,
            false => Exit::Failed,
        })
    })
}

type ByName = BTreeMap<String, Scrubbing>;

fn by_name(nodes: Vec<NodeStatus>) -> ByName {
    let told = nodes.into_iter();
    told.filter_map(|node| Some((node.name, node.scrub?)))
        .collect()
}

/// Waits until all passes that were started are through, and gives the figures then.
async fn watch(client: &Client, started: &[ScrubStart], out: Out) -> Result<ByName, CliError> {
    let mut shown = Shown::new(out);
    let mut silent = 0;
    loop {
        match client.status().await {
            Ok(status) => {
                silent = 0;
                let now = by_name(status.nodes);
                let left = left(started, &now)?;
                shown.show(started, &now);
                if left == 0 {
                    return Ok(now);
                }
            }
            Err(error) => {
                silent += 1;
                if silent >= SILENT_LOOKS_MAX {
                    return Err(error.into());
                }
            }
        }
        sleep(LOOK).await;
    }
}

/// How many nodes are not through.
fn left(started: &[ScrubStart], now: &ByName) -> Result<usize, CliError> {
    let mut left = 0;
    for node in started {
        let (Some(pass), figures) = (node.pass, now.get(&node.name)) else {
            continue;
        };
        match figures {
            Some(figures) if figures.passes >= pass => {}
            // A start reads everything through, too, and begins to count anew.
            Some(figures) if !figures.running => {
                let words = format!("{} was started again meanwhile", node.name);
                return Err(CliError::failed(words));
            }
            _ => left += 1,
        }
    }
    Ok(left)
}

/// Prints what the passes came to.
fn tell(started: &[ScrubStart], before: &ByName, ended: &ByName, out: Out) -> Result<(), CliError> {
    let sums = started.iter().filter_map(|node| {
        node.pass?;
        let was = before.get(&node.name).copied().unwrap_or_default();
        let is = ended.get(&node.name).copied().unwrap_or_default();
        Some((
            &node.name,
            is.records.saturating_sub(was.records),
            is.bytes.saturating_sub(was.bytes),
            is.damaged.saturating_sub(was.damaged),
        ))
    });
    if out.json {
        let nodes: Vec<_> = sums
            .map(|(name, records, bytes, damaged)| {
                json!({"name": name, "records": records, "bytes": bytes, "damaged": damaged})
            })
            .collect();
        return out.value(&json!({ "nodes": nodes }));
    }
    for (name, records, bytes, damaged) in sums {
        out.say(&format!(
            "{name}: {records} records verified ({}), {damaged} damaged",
            HumanBytes(bytes)
        ));
    }
    Ok(())
}

/// What a person, or a log, has been shown.
struct Shown {
    out: Out,
    bars: Option<MultiProgress>,
    nodes: BTreeMap<String, ProgressBar>,
    looks: u32,
}

impl Shown {
    fn new(out: Out) -> Shown {
        Shown {
            out,
            bars: out.watched().then(MultiProgress::new),
            nodes: BTreeMap::new(),
            looks: 0,
        }
    }

    fn show(&mut self, started: &[ScrubStart], now: &ByName) {
        let is_line_due = self.looks.is_multiple_of(LINE_LOOKS);
        self.looks += 1;
        for node in started.iter().filter(|node| node.pass.is_some()) {
            let figures = now.get(&node.name).copied().unwrap_or_default();
            let is_through = node.pass.is_some_and(|pass| figures.passes >= pass);
            let per_mille = if is_through { 1_000 } else { figures.per_mille };
            let Some(bars) = &self.bars else {
                if is_line_due && !is_through {
                    let percent = per_mille / 10;
                    self.out
                        .say(&format!("{} verifies: {percent} %", node.name));
                }
                continue;
            };
            let bar = self.nodes.entry(node.name.clone()).or_insert_with(|| {
                let bar = bars.add(ProgressBar::new(1_000));
                let template = "{prefix:12} {bar:30} {percent} %  {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.with_prefix(node.name.clone())
            });
            bar.set_position(u64::from(per_mille));
            bar.set_message(format!("{} damaged", figures.damaged));
            if is_through {
                bar.abandon();
            }
        }
    }
}
