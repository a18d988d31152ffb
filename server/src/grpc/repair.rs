//! Whether the cluster is healed, as an operator asks: roots, ages, and the wish that everything is compared now.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use ringfort_proto::{
    Failure, Reason,
    peer::{
        self, CompareDemand, CompareRequest, compare_request::Question, compare_response::Answer,
    },
    v1,
};
use ringfort_ring::StoreId;
use ringfort_storage::{Store, store::Folds};
use tokio::sync::oneshot;

use super::admin::AdminParts;
use crate::{
    peer::compare::{FOLDS_A_TURN, ROOTS_A_TURN, demand_of},
    view::View,
};

/// How long a member may take to say how far it is.
const DEMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Times that partitions whose copies are still to be folded are looked at again.
const ROOT_TRIES: usize = 20;

/// Has all members compare partitions, or asks how far they are.
///
/// # Errors
/// `BAD_REQUEST`: there is no such partition.
pub async fn repair(
    parts: &AdminParts,
    request: &v1::RepairRequest,
) -> Result<v1::RepairResponse, Failure> {
    let view = parts.views.current();
    let beyond = |partition: &u32| *partition >= view.layout().partitions();
    if let Some(partition) = request.partition.filter(beyond) {
        let words = format!("there is no partition {partition}");
        return Err(Failure::new(Reason::BadRequest, words));
    }
    let demand = CompareDemand {
        partitions: request.partition.into_iter().collect(),
        due: request.due,
        within_ms: request.within_ms,
    };
    let asked = view.members().map(|member| {
        let (store, demand) = (member.store_id, demand.clone());
        let view = &view;
        async move {
            let told = match store == view.my_store() {
                true => parts
                    .greeter
                    .board
                    .get()
                    .map(|board| demand_of(board, &demand)),
                false => ask(parts, view, store, demand).await,
            };
            v1::RepairNode {
                name: member.name.to_string(),
                answered: told.is_some(),
                partitions: told.map_or(0, |told| told.partitions),
                clean: told.map_or(0, |told| told.clean),
            }
        }
    });
    let mut nodes = join_all(asked.collect::<Vec<_>>()).await;
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(v1::RepairResponse { nodes })
}

async fn ask(
    parts: &AdminParts,
    view: &View,
    store: StoreId,
    demand: CompareDemand,
) -> Option<peer::ComparedDemand> {
    let layout = view.layout().epoch().0;
    let question = |mut client: peer::peer_client::PeerClient<_>, fence| async move {
        let request = CompareRequest {
            fence: Some(fence),
            layout,
            question: Some(Question::Demand(demand)),
        };
        client.compare(request).await
    };
    let asked = parts.bulk.ask(view, store, DEMAND_TIMEOUT, question).await;
    let answer: peer::CompareResponse = asked
        .inspect_err(|unreached| tracing::debug!(%unreached, "says nothing of its exchanges"))
        .ok()?;
    match answer.answer? {
        Answer::Demand(told) => Some(told),
        _ => None,
    }
}

/// The roots of what this node owns.
///
/// # Errors
/// `QUORUM_UNAVAILABLE`: it does not serve yet. `OVERLOADED`: the engine pool has no room.
pub async fn roots(parts: &AdminParts) -> Result<v1::RootsResponse, Failure> {
    let words = "this node does not serve yet";
    let store = parts.greeter.store.get();
    let store = store.ok_or_else(|| Failure::new(Reason::QuorumUnavailable, words))?;
    let view = parts.views.current();
    let mut owned: Vec<u32> = view
        .shared()
        .iter()
        .map(|owned| owned.partition.0)
        .collect();
    let mut roots = BTreeMap::new();
    for _ in 0..ROOT_TRIES {
        for some in owned.chunks(ROOTS_A_TURN) {
            roots.extend(some_roots(parts, store, some.to_vec()).await?);
        }
        owned.retain(|partition| !roots.contains_key(partition));
        if owned.is_empty() {
            break;
        }
    }
    Ok(v1::RootsResponse {
        node: parts.greeter.roster.me().name.to_string(),
        epoch: view.layout().epoch().0,
        partitions: roots.keys().copied().collect(),
        roots: roots.values().map(|(root, _)| *root).collect(),
        keys: roots.values().map(|(_, keys)| *keys).collect(),
        changing: owned,
    })
}

async fn some_roots(
    parts: &AdminParts,
    store: &Store,
    partitions: Vec<u32>,
) -> Result<Vec<(u32, (u64, u64))>, Failure> {
    let busy = || Failure::new(Reason::Overloaded, "the engine pool is full");
    let (done, told) = oneshot::channel();
    let store = store.clone();
    let job = move || {
        let mut folds = Folds(FOLDS_A_TURN);
        let root = |partition: &u32| {
            let root = store.root(*partition, &mut folds);
            let root = root.map(|root| root.map(|r| (*partition, (r.hash, u64::from(r.keys)))));
            root.transpose()
        };
        let roots: Result<Vec<_>, _> = partitions.iter().filter_map(root).collect();
        // A caller that went away needs no answer.
        let _ = done.send(roots);
    };
    parts.pool.submit(Box::new(job)).map_err(|_| busy())?;
    let told = told.await.map_err(|_| busy())?;
    told.map_err(|error| Failure::new(Reason::Overloaded, format!("the engine failed: {error}")))
}

/// Fills in whether the cluster is healed, from what all members say.
pub fn judge(
    status: &mut v1::StatusResponse,
    view: &View,
    said: &dyn Fn(StoreId) -> Option<peer::HelloResponse>,
) {
    let members: Vec<_> = view.members().collect();
    let answers: Vec<_> = members.iter().map(|member| said(member.store_id)).collect();
    let mut behind: BTreeMap<u64, u32> = BTreeMap::new();
    for told in answers.iter().flatten().flat_map(|answer| &answer.behind) {
        let most = behind.entry(told.store_id).or_default();
        *most = told.partitions.max(*most);
    }
    let mut left_ms = 0;
    for ((node, member), answer) in status.nodes.iter_mut().zip(&members).zip(&answers) {
        node.behind = behind.get(&member.store_id.0).copied().unwrap_or(0).into();
        if let Some(answer) = answer {
            node.exchange_age_ms = answer.exchange_age_ms;
            node.unclean = answer.exchange_unclean;
            node.exchange_left_ms = answer.exchange_left_ms;
        }
        let receiving = node.receiving.as_ref().map_or(0, |r| r.left_ms);
        left_ms = receiving.max(node.exchange_left_ms).max(left_ms);
    }
    let nodes = &status.nodes;
    let is_fine = |node: &v1::NodeStatus| {
        node.state == "up" && node.unsynced + node.unclean + node.behind + node.hints == 0
    };
    let all = answers.iter().all(Option::is_some) && nodes.iter().all(is_fine);
    status.healed = all && status.moving == 0 && status.under_replicated == 0;
    status.exchange_age_ms = nodes
        .iter()
        .map(|node| node.exchange_age_ms)
        .max()
        .unwrap_or(0);
    status.unclean = nodes.iter().map(|node| node.unclean).max().unwrap_or(0);
    status.left_ms = left_ms;
}
