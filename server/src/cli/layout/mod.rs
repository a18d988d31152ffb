//! `ringfort layout`: staged changes of the cluster, shown as a plan, committed by the plan's hash.

mod keys;
mod recover;
mod show;
mod staged;
mod watch;

use std::{path::PathBuf, time::Duration};

use ringfort_client::{Client, Layouts};
use ringfort_proto::v1;
use ringfort_ring::{Change, Member, NodeName, PlanHash, tokens_for_capacity};
use serde_json::json;

use self::{
    staged::{Staged, discard},
    watch::Watch,
};
use super::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    out::Out,
    runtime,
};
use crate::layout_wire::member_from_wire;

/// A name that no node has heard of is asked for again after this …
const HEARSAY_LOOK: Duration = Duration::from_millis(300);
/// … so many times: longer than news take to be with all nodes.
const HEARSAY_LOOKS: u32 = 10;

/// `ringfort layout`: who is in the cluster, and how that changes.
#[derive(Debug, clap::Args)]
pub struct Layout {
    /// What to do.
    #[command(subcommand)]
    command: Command,
    /// Where staged changes are kept until they are committed
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "RINGFORT_STAGED",
        default_value = "ringfort-staged.json"
    )]
    staged: PathBuf,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// What can be done with the layout.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the layout, and what is staged
    Show,
    /// Stage a new member
    Add {
        /// The name of a node that waits to be added, or the peer address at which one answers
        #[arg(value_name = "NAME|HOST:PORT")]
        node: String,
    },
    /// Stage that a member goes; what it owns moves to others
    Remove {
        /// The member
        name: String,
        /// Commit it at once, and wait until the member has handed everything over and has stopped
        #[arg(long)]
        wait: bool,
    },
    /// Stage that a new machine takes the place of a member
    Replace {
        /// Who goes
        name: String,
        /// Who comes: the name of a node that waits to be added, or the peer address at which one answers
        #[arg(value_name = "NAME|HOST:PORT")]
        node: String,
    },
    /// Stage your word that a member's machine is off for good, so that it holds up no change; its store is refused then
    Excuse {
        /// The member
        name: String,
    },
    /// Stage your word that a member's data is lost for good; `layout plan` says what may be gone
    AcceptLoss {
        /// The member
        name: String,
    },
    /// Stage another capacity or zone, or other addresses
    Set(Set),
    /// Print what the staged changes would do, and the hash to commit them by
    Plan,
    /// Have the plan of this hash decided by a majority of the members
    Commit {
        /// The hash that `layout plan` printed
        hash: PlanHash,
        /// Show how far the change is, until all have received what it gives them and the older layout has ended
        #[arg(long)]
        wait: bool,
    },
    /// Discard what is staged
    Revert,
    /// After the loss of a majority for good: let the members that are left go on with what they hold, as another cluster
    Recover(recover::Recover),
}

/// What `layout set` changes.
#[derive(Debug, clap::Args)]
struct Set {
    /// The member
    name: String,
    /// Its share, where 1 is usual
    #[arg(long)]
    capacity: Option<f64>,
    /// What fails together with it
    #[arg(long)]
    zone: Option<String>,
    /// Where clients reach it from now on
    #[arg(long, value_name = "HOST:PORT")]
    client_addr: Option<String>,
    /// Where other nodes reach it from now on
    #[arg(long, value_name = "HOST:PORT")]
    peer_addr: Option<String>,
    /// Where metrics and probes are served from now on
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: Option<String>,
}

/// Runs one subcommand.
///
/// # Errors
/// As the client's, by exit code; nothing is decided but by `commit`.
pub fn run(args: &Layout, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    if let Command::Recover(recover) = &args.command {
        return recover::run(recover, out);
    }
    if matches!(args.command, Command::Revert) {
        let discarded = discard(&args.staged)?;
        return said(
            out,
            json!({ "discarded": discarded }),
            "nothing is staged any more",
        );
    }
    runtime()?.block_on(async {
        let client = args.reach.client(cli, "")?;
        let layouts = client.layouts().await?;
        let mut staged = Staged::load(&args.staged, layouts.cluster_id)?;
        match &args.command {
            Command::Show => {
                let moving = match layouts.live.len() {
                    0 | 1 => None,
                    _ => Some(client.status().await?),
                };
                show::layouts(&layouts, moving.as_ref(), &staged.changes, out)?;
            }
            Command::Plan => {
                let plan = client.plan_layout(&staged.changes).await?;
                // A plan without an estimate is a plan.
                let status = client.status().await.ok();
                show::plan(&plan, status.as_ref(), &staged.changes, out)?;
            }
            Command::Commit { hash, wait } => {
                let epoch = client.commit_layout(&staged.changes, *hash).await?;
                discard(&args.staged)?;
                let placed = staged.changes.first().is_some_and(Change::places);
                // What moves nothing by itself may be what a change under way was waiting for.
                let under_way = layouts.live.get(1).map(|newer| newer.epoch);
                let waits_for = if placed { Some(epoch) } else { under_way };
                let Some(waits_for) = waits_for.filter(|_| *wait) else {
                    let words = format!("decided as epoch {epoch}");
                    return said(out, json!({ "epoch": epoch }), &words);
                };
                let watch = Watch {
                    reach: &args.reach,
                    cli,
                    out,
                };
                out.say(&watching(epoch));
                let ended = watch.ended(&layouts, waits_for).await?;
                let value = json!({ "epoch": epoch, "ended": ended });
                return said(out, value, &format!("done, in epoch {ended}"));
            }
            Command::Remove { name, wait: true } => {
                let watch = Watch {
                    reach: &args.reach,
                    cli,
                    out,
                };
                return leave(&client, &layouts, &staged, name, &watch).await;
            }
            Command::Revert | Command::Recover(_) => {}
            stage => {
                let changes = changes(stage, &client, &layouts).await?;
                let words: Vec<String> = changes.iter().map(staged::words).collect();
                staged.changes.extend(changes);
                staged.save(&args.staged)?;
                let all = staged.changes.len();
                let does = match all {
                    1 => "it does".to_owned(),
                    _ => format!("all {all} do"),
                };
                let text = format!(
                    "staged: {}; `layout plan` shows what {does}",
                    words.join(", ")
                );
                return said(out, json!({ "staged": words, "changes": all }), &text);
            }
        }
        Ok(Exit::Done)
    })
}

fn watching(epoch: u64) -> String {
    format!("decided as epoch {epoch}; Ctrl-C ends the watching, and not the change")
}

/// Has it decided that a member goes, and waits until it has gone.
async fn leave(
    client: &Client,
    layouts: &Layouts,
    staged: &Staged,
    name: &str,
    watch: &Watch<'_>,
) -> Result<Exit, CliError> {
    if !staged.changes.is_empty() {
        return Err(CliError::failed(
            "other changes are staged: `layout commit` or `layout revert` them first",
        ));
    }
    let changes = [Change::Remove(member(layouts, name)?)];
    let plan = client.plan_layout(&changes).await?;
    for notice in &plan.notices {
        watch.out.say(&format!("note: {notice}"));
    }
    let epoch = client.commit_layout(&changes, plan.hash).await?;
    watch.out.say(&format!(
        "{name} hands over what it owns: {} copies of partitions move",
        plan.copies
    ));
    watch.out.say(&watching(epoch));
    let ended = watch.ended(layouts, epoch).await?;
    let gone = watch.gone(layouts, name).await?;
    let value = json!({ "epoch": epoch, "ended": ended, "gone": gone });
    said(watch.out, value, &format!("done, in epoch {ended}"))
}

fn said(out: Out, value: serde_json::Value, words: &str) -> Result<Exit, CliError> {
    if out.json {
        out.value(&value)?;
    } else {
        out.say(words);
    }
    Ok(Exit::Done)
}

/// The changes that a subcommand stages.
async fn changes(
    command: &Command,
    client: &Client,
    layouts: &Layouts,
) -> Result<Vec<Change>, CliError> {
    Ok(match command {
        Command::Add { node } => vec![Change::Add(joiner(client, layouts, node).await?)],
        Command::Remove { name, .. } => vec![Change::Remove(member(layouts, name)?)],
        Command::Replace { name, node } => vec![Change::Replace {
            old: member(layouts, name)?,
            new: joiner(client, layouts, node).await?,
        }],
        Command::Excuse { name } => vec![Change::Excuse(member(layouts, name)?)],
        Command::AcceptLoss { name } => vec![Change::AcceptLoss(member(layouts, name)?)],
        Command::Set(set) => {
            let newest = layouts.live.last().cloned().unwrap_or_default();
            set_changes(set, &newest)?
        }
        Command::Show
        | Command::Plan
        | Command::Commit { .. }
        | Command::Revert
        | Command::Recover(_) => Vec::new(),
    })
}

fn node_name(name: &str) -> Result<NodeName, CliError> {
    NodeName::new(name).map_err(|error| CliError::usage(error.to_string()))
}

/// The node that is to join, as it describes itself: by its name among those that wait, or by its address.
async fn joiner(client: &Client, layouts: &Layouts, node: &str) -> Result<Member, CliError> {
    let member = if node.contains(':') {
        client.describe_node(node).await?
    } else {
        named(client, layouts, node).await?
    };
    member_from_wire(member).map_err(|error| CliError::usage(error.to_string()))
}

/// The name of a member of a live layout.
fn member(layouts: &Layouts, name: &str) -> Result<NodeName, CliError> {
    let mut members = layouts.live.iter().flat_map(|layout| &layout.members);
    if members.any(|member| member.name == name) {
        return node_name(name);
    }
    Err(CliError::usage(format!("no member is called {name}")))
}

/// The node of that name that waits, asked for again for a while: the node that answers may not have heard of it yet.
async fn named(client: &Client, layouts: &Layouts, name: &str) -> Result<v1::Member, CliError> {
    let mut found = waiting(layouts, name);
    for _ in 0..HEARSAY_LOOKS {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(HEARSAY_LOOK).await;
        found = waiting(&client.layouts().await?, name);
    }
    found
}

/// The one node of that name that waits to be added.
fn waiting(layouts: &Layouts, name: &str) -> Result<v1::Member, CliError> {
    let mut named = layouts.waiting.iter().filter(|node| node.name == name);
    match (named.next(), named.next()) {
        (Some(node), None) => Ok(node.clone()),
        (Some(one), Some(other)) => Err(CliError::failed(format!(
            "several nodes that call themselves {name} wait to be added: name one by its peer address, such as {} or {}",
            one.peer_addr, other.peer_addr
        ))),
        (None, _) => {
            let waiting: Vec<&str> = layouts.waiting.iter().map(|w| w.name.as_str()).collect();
            let who = match waiting.is_empty() {
                true => "no node does".to_owned(),
                false => format!("those that do are {}", waiting.join(", ")),
            };
            Err(CliError::failed(format!(
                "no node called {name} waits to be added ({who}): start it with --seeds that name a member of this cluster"
            )))
        }
    }
}

fn set_changes(set: &Set, newest: &v1::Layout) -> Result<Vec<Change>, CliError> {
    let name = node_name(&set.name)?;
    let listed = newest.members.iter().find(|member| member.name == set.name);
    let listed = listed.ok_or_else(|| CliError::usage(format!("no member is called {name}")))?;
    let mut changes = Vec::new();
    if set.capacity.is_some() || set.zone.is_some() {
        let tokens = set.capacity.map(tokens_for_capacity).transpose();
        changes.push(Change::Set {
            name: name.clone(),
            tokens: tokens.map_err(|error| CliError::usage(error.to_string()))?,
            zone: set.zone.clone(),
        });
    }
    if set.client_addr.is_some() || set.peer_addr.is_some() || set.http_addr.is_some() {
        let or = |new: &Option<String>, old: &str| new.clone().unwrap_or_else(|| old.to_owned());
        changes.push(Change::Addresses {
            name,
            client_addr: or(&set.client_addr, &listed.client_addr),
            peer_addr: or(&set.peer_addr, &listed.peer_addr),
            http_addr: or(&set.http_addr, &listed.http_addr),
        });
    }
    if changes.is_empty() {
        return Err(CliError::usage(
            "`layout set` changes nothing: name what is to be different",
        ));
    }
    Ok(changes)
}
