//! The shell around [`super::core`]: asks, offers, persists, waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use rand::{Rng, RngExt};
use ringfort_proto::peer::{self, peer_client::PeerClient};
use ringfort_ring::{ClusterId, Epoch, Layout, Member, PlacementId, StoreId};
use tonic::transport::Channel;

use super::{
    Action, Answer, Decree, Founder, Roster, Standing,
    join::{Unjoined, join},
    next,
};
use crate::{
    layout_wire::member_from_wire,
    net::{Net, channel},
};

/// Pause between two rounds of questions.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// Every so many rounds of waiting it is said what is waited for.
const ROUNDS_PER_WORD: u64 = 25;
/// How long one question or offer may take.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// The sentence says what stands in the way and what to do.
    #[error("{0}")]
    Refused(String),
}

/// What a new cluster is to be like, if this node is the one that proposes it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Q.
    pub partitions: u32,
    /// N.
    pub replicas: u32,
}

/// Founds the cluster, or goes on founding it, or finds one: returns once this node belongs to it.
///
/// # Errors
/// [`BootstrapError`]: nothing was founded here, and waiting would not help.
pub async fn found(
    founder: &Founder,
    roster: &Roster,
    net: &Arc<dyn Net>,
    plan: Plan,
    chance: &mut (impl Rng + Send),
) -> Result<Arc<Decree>, BootstrapError> {
    let mut changes = roster.watch();
    let mut channels = BTreeMap::new();
    let mut holders = BTreeSet::new();
    let mut rounds = 0_u64;
    loop {
        changes.mark_unchanged();
        let standing = roster.standing();
        if let Standing::Member(decree) = standing {
            return Ok(decree);
        }
        let answers = ask_all(founder.asks(&standing), &mut channels, net, roster).await;
        if roster.standing() != standing {
            continue; // an offer came in meanwhile: what was asked no longer fits
        }
        let wait = match next(founder, &standing, &answers, &holders) {
            Action::Propose(members) => {
                let decree = draw(founder, members, plan, chance)?;
                tracing::info!(cluster = %decree.cluster, "proposing the first layout");
                roster
                    .adopt(decree, false)
                    .map_err(BootstrapError::Refused)?;
                None
            }
            Action::Offer(to) => {
                let taken = offer(&to, &standing, false, &mut channels, net).await;
                let any = !taken.is_empty();
                holders.extend(taken.iter().filter_map(|addr| store_at(&answers, addr)));
                (!any).then(|| "the members refuse the decree for now".to_owned())
            }
            Action::Decide(tell) => {
                if let Some(decree) = standing.decree() {
                    roster
                        .adopt(Decree::clone(decree), true)
                        .map_err(BootstrapError::Refused)?;
                }
                // Those that miss the word find it out themselves, by asking.
                offer(&tell, &standing, true, &mut channels, net).await;
                None
            }
            Action::Join(addr, decree) => {
                match join(&addr, &decree, roster, &mut channels, net).await {
                    Ok(place) => {
                        tracing::info!(cluster = %decree.cluster, ?place, "found a cluster");
                        None
                    }
                    Err(Unjoined::Yet(why)) => Some(why),
                    Err(Unjoined::Never(error)) => return Err(error),
                }
            }
            Action::Wait(why) => Some(why),
            Action::Refuse(why) => return Err(BootstrapError::Refused(why)),
        };
        if let Some(why) = wait {
            if rounds.is_multiple_of(ROUNDS_PER_WORD) {
                tracing::info!("bootstrap waits: {why}");
            }
            rounds += 1;
            // Also ends early when an offer comes in.
            let _ = tokio::time::timeout(ROUND_PAUSE, changes.changed()).await;
        }
    }
}

fn draw(
    founder: &Founder,
    mut members: Vec<Member>,
    plan: Plan,
    chance: &mut impl Rng,
) -> Result<Decree, BootstrapError> {
    for member in &mut members {
        member.placement_id = PlacementId(chance.random());
    }
    let layout = Layout::new(Epoch(1), plan.partitions, plan.replicas, members)
        .map_err(|error| BootstrapError::Refused(format!("no layout can be made: {error}")))?;
    Ok(Decree {
        cluster: ClusterId(chance.random_range(1..=u64::MAX)),
        layout,
        initial_hash: founder.initial_hash,
    })
}

pub(super) type Channels = BTreeMap<String, PeerClient<Channel>>;

pub(super) fn client(
    channels: &mut Channels,
    net: &Arc<dyn Net>,
    addr: &str,
) -> PeerClient<Channel> {
    channels
        .entry(addr.to_owned())
        .or_insert_with(|| PeerClient::new(channel(net, addr, ASK_TIMEOUT)))
        .clone()
}

/// Asks all addresses side by side.
async fn ask_all(
    addrs: BTreeSet<String>,
    channels: &mut Channels,
    net: &Arc<dyn Net>,
    roster: &Roster,
) -> BTreeMap<String, Option<Answer>> {
    let questions = addrs.into_iter().map(|addr| {
        let (client, request) = (client(channels, net, &addr), roster.hello_request());
        async move {
            let answer = ask(&addr, client, request).await;
            (addr, answer)
        }
        .boxed()
    });
    join_all(questions).await.into_iter().collect()
}

/// Asks who answers at one address.
pub(super) async fn hello(
    addr: &str,
    roster: &Roster,
    channels: &mut Channels,
    net: &Arc<dyn Net>,
) -> Option<Answer> {
    ask(addr, client(channels, net, addr), roster.hello_request()).await
}

async fn ask(
    addr: &str,
    mut client: PeerClient<Channel>,
    request: peer::HelloRequest,
) -> Option<Answer> {
    match tokio::time::timeout(ASK_TIMEOUT, client.hello(request)).await {
        Ok(Ok(response)) => answer_from_wire(response.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(%addr, %status, "no answer");
            None
        }
        Err(_) => None,
    }
}

/// Offers the decree of `standing` side by side; gives the addresses that took it.
async fn offer(
    to: &[String],
    standing: &Standing,
    decided: bool,
    channels: &mut Channels,
    net: &Arc<dyn Net>,
) -> Vec<String> {
    let request = peer::AcceptRequest {
        decree: standing.decree().map(|decree| decree.to_wire()),
        decided,
    };
    let offers = to.iter().map(|addr| {
        let mut client = client(channels, net, addr);
        let request = request.clone();
        async move {
            let asked = tokio::time::timeout(ASK_TIMEOUT, client.accept(request)).await;
            match asked.map(|reply| reply.map(tonic::Response::into_inner)) {
                Ok(Ok(reply)) if reply.accepted => Some(addr.clone()),
                Ok(Ok(reply)) => {
                    tracing::warn!(%addr, "the decree was refused: {}", reply.why_not);
                    None
                }
                Ok(Err(_)) | Err(_) => None,
            }
        }
        .boxed()
    });
    join_all(offers).await.into_iter().flatten().collect()
}

fn store_at(answers: &BTreeMap<String, Option<Answer>>, addr: &str) -> Option<StoreId> {
    answers.get(addr)?.as_ref().map(|answer| answer.store)
}

/// Reads an answer off the wire; one that makes no sense counts as silence.
pub fn answer_from_wire(response: peer::HelloResponse) -> Option<Answer> {
    let decree = match response.decree.map(Decree::from_wire) {
        Some(Ok(decree)) => Some(Arc::new(decree)),
        Some(Err(error)) => {
            tracing::warn!(
                name = response.name,
                "an answer that makes no sense: {error}"
            );
            return None;
        }
        None => None,
    };
    let state = peer::NodeState::try_from(response.state).unwrap_or_default();
    let standing = match (state, decree) {
        (peer::NodeState::Member, Some(decree)) => Standing::Member(decree),
        (peer::NodeState::Accepted, Some(decree)) => Standing::Accepted(decree),
        (peer::NodeState::Empty, None) => Standing::Empty,
        _ => return None,
    };
    Some(Answer {
        name: response.name,
        store: StoreId(response.store_id),
        standing,
        initial_hash: response.initial_hash,
        me: response.me.and_then(|member| member_from_wire(member).ok()),
    })
}
