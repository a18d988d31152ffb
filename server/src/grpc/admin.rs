//! `ringfort.v1.Admin`: what an operator asks a node.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ringfort_proto::{
    Failure, Reason, peer,
    v1::{
        self,
        admin_server::{Admin, AdminServer},
    },
};
use ringfort_ring::{
    PartitionId, StoreId, capacity_of_tokens,
    gossip::{NodeHealth, Standing},
    token,
};
use tonic::{Request, Response, Status};

use super::{layout, repair};
use crate::{
    coordinator::DEFAULT_NAMESPACE,
    council::Council,
    gossip::Gossiper,
    net::Net,
    node::{Answers, Asker, Greeter},
    peer::Bulk,
    pool::EnginePool,
    view::{View, Views},
};

/// A namespace and key together, at most, in bytes.
const MAX_KEY_BYTES: usize = 400;

/// What the service is made of.
#[derive(Clone)]
pub struct AdminParts {
    /// The current view.
    pub views: Views,
    /// Asks the other members.
    pub asker: Arc<Asker>,
    /// Answers for this one.
    pub greeter: Arc<Greeter>,
    /// Knows who is down.
    pub gossip: Arc<Gossiper>,
    /// Decides layouts, with the others.
    pub council: Arc<Council>,
    /// How nodes are reached that are no members.
    pub net: Arc<dyn Net>,
    /// Connections to members, to ask how their exchanges are.
    pub bulk: Arc<Bulk>,
    /// Where what blocks is done.
    pub pool: Arc<dyn EnginePool>,
    /// How long each member may take to answer.
    pub timeout: Duration,
}

/// The service, to be added to the client port.
pub fn admin_service(parts: AdminParts) -> AdminServer<AdminService> {
    AdminServer::new(AdminService { parts })
}

/// Implements the generated trait.
pub struct AdminService {
    parts: AdminParts,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn r#where(
        &self,
        request: Request<v1::WhereRequest>,
    ) -> Result<Response<v1::WhereResponse>, Status> {
        let key = request.into_inner().key.unwrap_or_default();
        Ok(Response::new(place(&self.parts.views.current(), &key)?))
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let answers = self.parts.asker.ask(self.parts.timeout).await;
        let me = self.parts.greeter.about_me();
        let view = self.parts.views.current();
        let health = |store: StoreId| self.parts.gossip.health(store);
        let mut status = status(&view, &me, &answers, health);
        let waiting = layout::waiting(&self.parts);
        status.waiting = waiting.iter().map(|m| m.name.to_string()).collect();
        Ok(Response::new(status))
    }

    async fn scrub(
        &self,
        _: Request<v1::ScrubRequest>,
    ) -> Result<Response<v1::ScrubResponse>, Status> {
        let answers = self.parts.asker.scrub(self.parts.timeout).await;
        let mine = self.parts.greeter.scrub.get().map(|scrub| scrub.ask());
        let view = self.parts.views.current();
        let nodes = view.members().map(|member| v1::ScrubStart {
            name: member.name.to_string(),
            pass: match member.store_id == view.my_store() {
                true => mine,
                false => answers.get(&member.store_id).copied().flatten(),
            }
            .unwrap_or(0),
        });
        let nodes = nodes.collect();
        Ok(Response::new(v1::ScrubResponse { nodes }))
    }

    async fn show_layout(
        &self,
        _: Request<v1::ShowLayoutRequest>,
    ) -> Result<Response<v1::ShowLayoutResponse>, Status> {
        Ok(Response::new(layout::show(&self.parts)))
    }

    async fn describe_node(
        &self,
        request: Request<v1::DescribeNodeRequest>,
    ) -> Result<Response<v1::DescribeNodeResponse>, Status> {
        let addr = request.into_inner().peer_addr;
        layout::describe(&self.parts, &addr)
            .await
            .map(Response::new)
    }

    async fn plan_layout(
        &self,
        request: Request<v1::PlanLayoutRequest>,
    ) -> Result<Response<v1::PlanLayoutResponse>, Status> {
        let plan = layout::planned(&self.parts, request.get_ref())?;
        Ok(Response::new(plan))
    }

    async fn commit_layout(
        &self,
        request: Request<v1::CommitLayoutRequest>,
    ) -> Result<Response<v1::CommitLayoutResponse>, Status> {
        // A change whose operator went away is decided all the same, or not at all: never half told.
        let parts = self.parts.clone();
        let commit = tokio::spawn(async move { layout::commit(&parts, request.get_ref()).await });
        let committed = commit
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(committed?))
    }

    async fn repair(
        &self,
        request: Request<v1::RepairRequest>,
    ) -> Result<Response<v1::RepairResponse>, Status> {
        let repair = repair::repair(&self.parts, request.get_ref()).await;
        Ok(Response::new(repair?))
    }

    async fn roots(
        &self,
        _: Request<v1::RootsRequest>,
    ) -> Result<Response<v1::RootsResponse>, Status> {
        Ok(Response::new(repair::roots(&self.parts).await?))
    }
}

fn place(view: &View, key: &v1::Key) -> Result<v1::WhereResponse, Failure> {
    let namespace = if key.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        &key.namespace
    };
    if key.key.is_empty() {
        return Err(Failure::new(Reason::EmptyKey, "the key is empty"));
    }
    if namespace.len() + key.key.len() > MAX_KEY_BYTES {
        let words = format!("namespace and key together are longer than {MAX_KEY_BYTES} bytes");
        return Err(Failure::new(Reason::TooLarge, words));
    }
    let token = token(namespace.as_bytes(), &key.key);
    let partition = view.layout().partition_of(token);
    let names = |places: &[u16]| {
        places
            .iter()
            .map(|place| {
                view.layout().members()[usize::from(*place)]
                    .name
                    .to_string()
            })
            .collect()
    };
    Ok(v1::WhereResponse {
        token: token.0,
        partition: partition.0,
        owners: names(view.owners(partition)),
        fallbacks: names(&view.placement().fallbacks(partition)),
    })
}

/// The state of all members, from gossip and from what they answered. One that was not heard of yet is up if it answers.
fn status(
    view: &View,
    me: &peer::HelloResponse,
    answers: &Answers,
    health: impl Fn(StoreId) -> Option<NodeHealth>,
) -> v1::StatusResponse {
    let said = |store: StoreId| match answers.get(&store) {
        _ if store == view.my_store() => Some(me),
        answer => answer?.as_ref(),
    };
    let readers = view.layout().members();
    // Also those that come, and those that go.
    let nodes: Vec<v1::NodeStatus> = view
        .members()
        .map(|member| {
            let (said, health) = (said(member.store_id), health(member.store_id));
            let reader = readers.iter().position(|r| r.store_id == member.store_id);
            let heard = || view.unsynced_of(member.store_id).into_iter().flatten();
            let unsynced = match said {
                Some(said) => view.count_owned(member.store_id, said.unsynced.iter().copied()),
                None => view.count_owned(member.store_id, heard().map(|partition| partition.0)),
            };
            v1::NodeStatus {
                name: member.name.to_string(),
                state: state(said, health).to_owned(),
                zone: member.zone.clone(),
                capacity: capacity_of_tokens(member.tokens),
                owned: reader.map_or(0, |index| view.placement().owned_count(index) as u64),
                keys: said.map_or(0, |answer| answer.keys),
                hints: said.map_or(0, |answer| answer.hints),
                last_seen_ms: health.map_or(0, |health| health.silence_ms),
                unsynced: unsynced as u64,
                receiving: said.and_then(receiving),
                held: said.and_then(held),
                quarantined: said.map_or(0, |answer| answer.quarantined),
                scrub: said.and_then(|answer| answer.scrub.as_ref()).map(scrubbing),
                ..v1::NodeStatus::default()
            }
        })
        .collect();
    let left = |node: &v1::NodeStatus| {
        let receiving = node.receiving.as_ref();
        receiving.map_or(0, |r| r.partitions.saturating_sub(r.received))
    };
    let readers: Vec<_> = readers.iter().map(|member| said(member.store_id)).collect();
    let mut status = v1::StatusResponse {
        cluster_id: view.cluster().0,
        epoch: view.epoch().0,
        moving: nodes.iter().map(left).sum(),
        nodes,
        under_replicated: under_replicated(view, &readers),
        waiting: Vec::new(),
        ..v1::StatusResponse::default()
    };
    let told = answers.values().flatten().chain([me]);
    let mut waits_for = BTreeSet::new();
    for reaping in told.filter_map(|said| said.reaping.as_ref()) {
        status.reaping_stalled_ms = status.reaping_stalled_ms.max(reaping.stalled_ms);
        waits_for.extend(reaping.waits_for.iter().cloned());
    }
    status.reaping_waits_for = waits_for.into_iter().collect();
    repair::judge(&mut status, view, &|store| said(store).cloned());
    status
}

fn receiving(said: &peer::HelloResponse) -> Option<v1::Receiving> {
    let transfer = said.transfer.as_ref().filter(|t| t.epoch != 0)?;
    Some(v1::Receiving {
        epoch: transfer.epoch,
        partitions: transfer.partitions,
        received: transfer.received,
        lost: transfer.lost,
        bytes: transfer.bytes,
        bytes_per_s: transfer.bytes_per_s,
        left_ms: transfer.left_ms,
    })
}

fn held(said: &peer::HelloResponse) -> Option<v1::HeldHints> {
    let held = said.held.clone()?;
    let waiting = held.waiting.into_iter().map(|of| v1::HintsFor {
        name: of.name,
        count: of.count,
    });
    Some(v1::HeldHints {
        bytes: held.bytes,
        oldest_ms: held.oldest_ms,
        refused: held.refused,
        dropped: held.dropped,
        delivered: held.delivered,
        waiting: waiting.collect(),
    })
}

fn scrubbing(said: &peer::Scrubbing) -> v1::Scrubbing {
    v1::Scrubbing {
        passes: said.passes,
        running: said.running,
        per_mille: said.per_mille,
        records: said.records,
        bytes: said.bytes,
        damaged: said.damaged,
        last_ms: said.last_ms,
    }
}

fn state(said: Option<&peer::HelloResponse>, health: Option<NodeHealth>) -> &'static str {
    match (health.map(|health| health.standing), said) {
        (Some(Standing::Down), _) | (Some(Standing::Unheard) | None, None) => "down",
        (_, Some(answer)) if answer.draining => "draining",
        _ => "up",
    }
}

/// Partitions with fewer owners that answer and are synced than they should have.
fn under_replicated(view: &View, said: &[Option<&peer::HelloResponse>]) -> u64 {
    let unsynced: Vec<BTreeSet<u32>> = said
        .iter()
        .map(|answer| answer.map_or_else(BTreeSet::new, |a| a.unsynced.iter().copied().collect()))
        .collect();
    let fine = |partition: PartitionId| {
        view.owners(partition)
            .iter()
            .map(|o| usize::from(*o))
            .all(|owner| said[owner].is_some() && !unsynced[owner].contains(&partition.0))
    };
    view.layout().partition_ids().filter(|p| !fine(*p)).count() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ringfort_ring::{
        ClusterId, Decree, Epoch, History, Layout, Member, NodeName, PlacementId,
        gossip::LinkHealth,
    };

    use super::*;

    fn view(names: &[&str]) -> View {
        let members = names.iter().zip(1..).map(|(name, id)| Member {
            name: NodeName::new(*name).expect("a valid name"),
            placement_id: PlacementId(id),
            store_id: StoreId(id),
            tokens: 128,
            zone: String::new(),
            client_addr: format!("{name}:1"),
            peer_addr: format!("{name}:2"),
            http_addr: format!("{name}:3"),
        });
        let layout = Layout::new(Epoch(1), 16, 3, members.collect()).expect("valid");
        let me = layout.members()[0].store_id;
        let history = History::new(Arc::new(Decree::founding(layout)));
        View::new(ClusterId(7), &history, me, &BTreeMap::new()).expect("a member")
    }

    #[test]
    fn a_key_has_owners_and_the_rest_are_fallbacks() {
        let view = view(&["a", "b", "c", "d"]);
        let key = v1::Key {
            namespace: String::new(),
            key: "k".into(),
        };
        let found = place(&view, &key).expect("a good key");
        let spelled = v1::Key {
            namespace: DEFAULT_NAMESPACE.to_owned(),
            key: "k".into(),
        };
        assert_eq!(place(&view, &spelled).expect("a good key"), found);
        assert_eq!((found.owners.len(), found.fallbacks.len()), (3, 1));
        let empty = place(&view, &v1::Key::default());
        assert_eq!(empty.expect_err("empty").reason, Reason::EmptyKey);
        let long = v1::Key {
            namespace: String::new(),
            key: vec![0; 400].into(),
        };
        assert_eq!(
            place(&view, &long).expect_err("long").reason,
            Reason::TooLarge
        );
    }

    fn health(standing: Standing, silence_ms: u64) -> NodeHealth {
        NodeHealth {
            standing,
            suspected: standing == Standing::Down,
            phi_milli: 0,
            silence_ms,
            flaps: 0,
            link: LinkHealth::default(),
        }
    }

    #[test]
    fn states_come_from_gossip_and_figures_from_answers() {
        let view = view(&["a", "b", "c"]);
        let me = peer::HelloResponse {
            keys: 5,
            ..Default::default()
        };
        let fine = peer::HelloResponse {
            draining: true,
            ..Default::default()
        };
        let by_store = |store: StoreId| {
            Some(match store.0 {
                1 => health(Standing::Up, 0),
                2 => health(Standing::Up, 7),
                _ => health(Standing::Down, 9),
            })
        };
        let mut answers = Answers::from([(StoreId(2), Some(fine.clone())), (StoreId(3), None)]);
        let found = status(&view, &me, &answers, by_store);
        let states: Vec<_> = found
            .nodes
            .iter()
            .map(|n| (n.state.as_str(), n.last_seen_ms))
            .collect();
        assert_eq!(states, [("up", 0), ("draining", 7), ("down", 9)]);
        assert_eq!(found.nodes[0].keys, 5);
        assert_eq!(found.nodes[0].capacity, 0.5);
        assert_eq!(found.under_replicated, 16);
        answers.insert(
            StoreId(3),
            Some(peer::HelloResponse {
                unsynced: vec![3],
                ..fine
            }),
        );
        assert_eq!(status(&view, &me, &answers, by_store).under_replicated, 1);

        // Of four nodes none owns all.
        let view = self::view(&["a", "b", "c", "d"]);
        let lost = peer::HelloResponse {
            unsynced: (0..16).collect(),
            ..peer::HelloResponse::default()
        };
        let found = status(&view, &lost, &answers, by_store);
        assert!(found.nodes[0].owned < 16);
        assert_eq!(found.nodes[0].unsynced, found.nodes[0].owned);
    }

    #[test]
    fn who_was_not_heard_of_is_up_if_it_answers() {
        let answer = peer::HelloResponse::default();
        let unheard = || Some(health(Standing::Unheard, 3));
        assert_eq!(state(Some(&answer), unheard()), "up");
        assert_eq!(
            (state(None, unheard()), state(None, None)),
            ("down", "down")
        );
        let up = Some(health(Standing::Up, 3));
        assert_eq!(state(None, up), "up", "its silence is not suspicious yet");
        let down = Some(health(Standing::Down, 9_000));
        assert_eq!(state(Some(&answer), down), "down");
    }
}
