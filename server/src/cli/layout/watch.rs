//! Waits for a change of the layout to end, and shows how far it is: bars where a person watches, lines elsewhere.
//!
//! *Leaves out on purpose:* any part in the change. Who stops watching stops nothing.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ringfort_client::{Client, ClusterStatus, Layouts, Receiving};
use tokio::time::sleep;

use crate::cli::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    out::Out,
    progress,
};

/// Time between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(500);
/// What has changed is said again after so many looks, where no bars can be drawn.
const LINE_LOOKS: u32 = 4;
/// Looks in a row that nobody answers, until the watching ends; each takes as long as the command waits for an answer.
const SILENT_LOOKS_MAX: u32 = 20;
/// Looks until a node that was removed is said to run on.
const ENDING_LOOKS_MAX: u32 = 60;
/// How long that node has to answer.
const ENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// What watches a change.
pub struct Watch<'a> {
    /// How to reach the nodes …
    pub reach: &'a Reach,
    /// … and which the command line names.
    pub cli: &'a Cli,
    /// Where progress is shown.
    pub out: Out,
}

impl Watch<'_> {
    /// Waits until the layout that was placed as `epoch` is the only live one. Gives the epoch in which it was.
    ///
    /// # Errors
    /// Nobody answers any more, or the cluster is another one; the change goes on.
    pub async fn ended(&self, before: &Layouts, epoch: u64) -> Result<u64, CliError> {
        let client = self.client(before)?;
        let mut shown = Shown::new(self.out);
        let mut silent = 0;
        loop {
            match look(&client, epoch).await {
                Ok(Look::Ended(newest)) => {
                    shown.finish();
                    self.out
                        .say("all have what they are given; the older layout has ended");
                    return Ok(newest);
                }
                Ok(Look::Goes(status)) => {
                    silent = 0;
                    shown.show(epoch, &status);
                }
                Err(error) => {
                    silent += 1;
                    let passes = error.retryable || error.exit == Exit::Deadline;
                    if !passes || silent >= SILENT_LOOKS_MAX {
                        return Err(CliError {
                            message: format!(
                                "{error} (the change goes on; `layout show` tells how far it is)"
                            ),
                            ..error
                        });
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until the member that was removed does not answer any more; gives whether that came.
    pub async fn gone(&self, before: &Layouts, name: &str) -> Result<bool, CliError> {
        let mut members = before.live.iter().flat_map(|layout| &layout.members);
        let Some(member) = members.find(|member| member.name == name) else {
            return Ok(true);
        };
        let reach = Reach {
            timeout: ENDING_TIMEOUT,
        };
        let client = reach.client_of([member.client_addr.clone()], "")?;
        for _ in 0..ENDING_LOOKS_MAX {
            if client.layouts().await.is_err() {
                self.out.say(&format!(
                    "{name} does not answer any more: its part has ended"
                ));
                return Ok(true);
            }
            sleep(LOOK).await;
        }
        self.out.say(&format!(
            "{name} has handed everything over, and still answers at {}",
            member.client_addr
        ));
        Ok(false)
    }

    /// A client of all members, too: the node that the command line names may be the one that goes.
    fn client(&self, before: &Layouts) -> Result<Client, CliError> {
        let members = before.live.iter().flat_map(|layout| &layout.members);
        let members = members.map(|member| member.client_addr.clone());
        let named = self.cli.endpoints.iter().map(|e| e.trim().to_owned());
        let mut all: Vec<String> = named.chain(members).collect();
        all.sort();
        all.dedup();
        self.reach.client_of(all, "")
    }
}

/// What one look finds.
enum Look {
    /// The layout is the only live one, or gone already; the newest epoch.
    Ended(u64),
    /// How far it is.
    Goes(ClusterStatus),
}

async fn look(client: &Client, epoch: u64) -> Result<Look, CliError> {
    let layouts = client.layouts().await?;
    // A node that has not heard of the change yet shows what was before.
    if layouts
        .live
        .first()
        .is_some_and(|oldest| oldest.epoch >= epoch)
    {
        return Ok(Look::Ended(layouts.epoch));
    }
    Ok(Look::Goes(client.status().await?))
}

/// The nodes that the layout of `epoch` gives something, each with how far it is.
pub fn receivers(status: &ClusterStatus, epoch: u64) -> Vec<(&str, Receiving)> {
    let nodes = status.nodes.iter();
    nodes
        .filter_map(|node| Some((node.name.as_str(), node.receiving?)))
        .filter(|(_, receiving)| receiving.epoch == epoch && receiving.partitions > 0)
        .collect()
}

/// What is said beside the progress: who holds the change up.
fn hindrances(status: &ClusterStatus) -> Vec<String> {
    let down = status.nodes.iter().filter(|node| node.state == "down");
    down.map(|node| {
        let name = &node.name;
        format!(
            "{name} is down: the change waits for it, unless `ringfort layout excuse {name}` says that it is off for good"
        )
    })
    .collect()
}

/// What a person, or a log, has been shown.
struct Shown {
    out: Out,
    bars: Option<MultiProgress>,
    nodes: BTreeMap<String, ProgressBar>,
    hindrances: Vec<String>,
    lines: Lines,
}

impl Shown {
    fn new(out: Out) -> Shown {
        Shown {
            out,
            bars: out.watched().then(MultiProgress::new),
            nodes: BTreeMap::new(),
            hindrances: Vec::new(),
            lines: Lines::default(),
        }
    }

    fn show(&mut self, epoch: u64, status: &ClusterStatus) {
        let hindrances = hindrances(status);
        if hindrances != self.hindrances {
            hindrances.iter().for_each(|words| self.say(words));
            self.hindrances = hindrances;
        }
        let receivers = receivers(status, epoch);
        let Some(bars) = &self.bars else {
            let lines = receivers.iter();
            let lines = lines.filter_map(|(name, receiving)| progress::line(name, receiving));
            for line in self.lines.due(lines.collect()) {
                self.out.say(&line);
            }
            return;
        };
        for (name, receiving) in receivers {
            let bar = self.nodes.entry(name.to_owned()).or_insert_with(|| {
                let bar = bars.add(ProgressBar::new(receiving.partitions));
                let template = "{prefix:12} {bar:30} {pos}/{len} partitions  {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.with_prefix(name.to_owned())
            });
            bar.set_length(receiving.partitions);
            bar.set_position(receiving.received);
            bar.set_message(progress::amounts(&receiving));
        }
    }

    fn say(&self, words: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| self.out.say(words)),
            None => self.out.say(words),
        }
    }

    /// Leaves the bars as they would be at the end: nobody looked at the very last moment.
    fn finish(&mut self) {
        for bar in self.nodes.values() {
            bar.set_position(bar.length().unwrap_or_default());
            bar.abandon();
        }
    }
}

/// Which lines are due, look by look: the first at once, then what is new every [`LINE_LOOKS`].
#[derive(Default)]
struct Lines {
    said: Vec<String>,
    looks: u32,
}

impl Lines {
    fn due(&mut self, lines: Vec<String>) -> Vec<String> {
        let rests = !self.said.is_empty() && self.looks + 1 < LINE_LOOKS;
        if rests || lines.is_empty() {
            self.looks += 1;
            return Vec::new();
        }
        self.looks = 0;
        let news = |line: &&String| !self.said.contains(line);
        let due = lines.iter().filter(news).cloned().collect();
        self.said = lines;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_said_at_once_and_then_only_now_and_again() {
        let mut lines = Lines::default();
        let at = |n: u32| vec![format!("n1 {n}"), "n2 0".to_owned()];
        assert!(lines.due(Vec::new()).is_empty(), "nothing to say");
        assert_eq!(lines.due(at(1)), at(1), "the first at once");
        for n in 2..=LINE_LOOKS {
            assert!(lines.due(at(n)).is_empty(), "{n}: not yet");
        }
        assert_eq!(lines.due(at(9)), ["n1 9"], "what is new");
    }
}
