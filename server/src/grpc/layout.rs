//! The layout as an operator asks for it: shown, planned, committed.
//!
//! Staged changes are kept by whoever stages them (the command line: in a file) and come whole with each request, so that a
//! node keeps nothing that is not decided, every node gives the same plan, and no operator overwrites what another staged.

use std::{sync::Arc, time::Duration};

use ringfort_proto::{
    Failure, Reason,
    peer::{self, peer_client::PeerClient},
    v1::{self, PlanMember},
};
use ringfort_ring::{Change, Member, Plan, PlanHash, decode_changes, plan};
use tonic::Status;

use super::admin::AdminParts;
use crate::{
    layout_wire::{layout_to_wire, member_to_wire},
    net::channel,
};

/// How long a node that is to be described may take.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The newest decree that this node knows.
pub fn show(parts: &AdminParts) -> v1::ShowLayoutResponse {
    let decree = parts.council.newest();
    v1::ShowLayoutResponse {
        cluster_id: parts.council.cluster().0,
        epoch: decree.epoch().0,
        live: decree.live().iter().map(layout_to_wire).collect(),
        excused: decree.excused().keys().map(|store| store.0).collect(),
        node: parts.greeter.roster.me().name.to_string(),
        waiting: waiting(parts).iter().map(|m| member_to_wire(m)).collect(),
    }
}

/// The nodes that wait to be added, in the order of their names.
pub fn waiting(parts: &AdminParts) -> Vec<Arc<Member>> {
    let decree = parts.council.newest();
    parts.gossip.waiting(|store| decree.lists(store))
}

/// Asks the node at `addr` how a layout would list it.
pub async fn describe(parts: &AdminParts, addr: &str) -> Result<v1::DescribeNodeResponse, Status> {
    let request = parts.greeter.roster.hello_request();
    let mut client = PeerClient::new(channel(&parts.net, addr, DESCRIBE_TIMEOUT));
    let asked = tokio::time::timeout(DESCRIBE_TIMEOUT, client.hello(request)).await;
    let unreachable = |words: &str| {
        let words = format!("the node at {addr} does not say who it is: {words}");
        Failure::new(Reason::QuorumUnavailable, words)
    };
    let answer = asked
        .map_err(|_| unreachable("no answer in time"))?
        .map_err(|status| match Failure::from_status(&status) {
            Some(failure) if failure.reason == Reason::WrongCluster => failure,
            _ => unreachable(status.message()),
        })?
        .into_inner();
    let theirs = answer.decree.as_ref().map_or(0, |d| d.cluster_id);
    if answer.state() != peer::NodeState::Member || theirs != parts.council.cluster().0 {
        let words = format!(
            "the node {} at {addr} does not wait to join this cluster: start it with --seeds that name a member",
            answer.name
        );
        return Err(Failure::new(Reason::BadRequest, words).into());
    }
    Ok(v1::DescribeNodeResponse { member: answer.me })
}

/// What changes would do.
pub fn planned(
    parts: &AdminParts,
    request: &v1::PlanLayoutRequest,
) -> Result<v1::PlanLayoutResponse, Failure> {
    let changes = changes(&request.changes)?;
    let plan = plan(&parts.council.newest(), &changes, None)
        .map_err(|error| Failure::new(Reason::BadRequest, error.to_string()))?;
    Ok(plan_to_wire(&plan))
}

/// Has a plan decided.
pub async fn commit(
    parts: &AdminParts,
    request: &v1::CommitLayoutRequest,
) -> Result<v1::CommitLayoutResponse, Failure> {
    let changes = changes(&request.changes)?;
    let epoch = parts
        .council
        .commit(&changes, PlanHash(request.hash))
        .await?;
    Ok(v1::CommitLayoutResponse { epoch: epoch.0 })
}

fn changes(bytes: &[u8]) -> Result<Vec<Change>, Failure> {
    decode_changes(bytes).map_err(|error| {
        Failure::new(
            Reason::BadRequest,
            format!("the staged changes do not decode: {error}"),
        )
    })
}

fn plan_to_wire(plan: &Plan) -> v1::PlanLayoutResponse {
    let members = plan.members.iter().map(|member| PlanMember {
        name: member.name.to_string(),
        tokens_before: member.before.map(|holding| holding.tokens),
        tokens_after: member.after.map(|holding| holding.tokens),
        before: member.before.map_or(0, |holding| holding.partitions),
        after: member.after.map_or(0, |holding| holding.partitions),
        acquired: member.acquired,
        released: member.released,
    });
    v1::PlanLayoutResponse {
        base: plan.base.0,
        hash: plan.hash.0,
        places: plan.places,
        members: members.collect(),
        copies: plan.copies,
        fair_copies: plan.fair_copies,
        notices: plan.notices.iter().map(ToString::to_string).collect(),
    }
}
