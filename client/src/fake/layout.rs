//! The layout of a fake cluster, and what an operator is told of it.

use ringfort_proto::v1::{self, admin_server::Admin};
use tonic::{Request, Response, Status};

use super::{Node, PARTITIONS, REPLICAS, State, address, name, service::FakeNode};
use crate::{call::token_of, route::Ring};

/// The id of every fake cluster.
pub(super) const CLUSTER_ID: u64 = 0xfa4e;

pub(super) fn wire_layout(state: &State) -> v1::Layout {
    let members = state
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.is_member);
    let member = |(number, _): (usize, &Node)| v1::Member {
        name: name(number),
        placement_id: number as u64 + 1,
        store_id: number as u64 + 1001,
        tokens: 256,
        zone: String::new(),
        client_addr: address(number),
        peer_addr: address(number),
        http_addr: address(number),
    };
    v1::Layout {
        epoch: state.epoch,
        partitions: PARTITIONS,
        replicas: REPLICAS,
        members: members.map(member).collect(),
    }
}

/// Where a key lives.
pub(super) fn locate(state: &State, key: &v1::Key) -> v1::WhereResponse {
    let ring = Ring::from_wire(Some(wire_layout(state)), None).expect("the fake's layout is valid");
    let token = token_of(key);
    let partition = ring.layout.partition_of(token);
    let names = |indices: &[u16]| {
        indices
            .iter()
            .map(|&index| ring.layout.members()[usize::from(index)].name.to_string())
            .collect()
    };
    v1::WhereResponse {
        token: token.0,
        partition: partition.0,
        owners: names(ring.placement.owners(partition)),
        fallbacks: names(&ring.placement.fallbacks(partition)),
    }
}

#[tonic::async_trait]
impl Admin for FakeNode {
    async fn r#where(
        &self,
        request: Request<v1::WhereRequest>,
    ) -> Result<Response<v1::WhereResponse>, Status> {
        let key = request.into_inner().key.unwrap_or_default();
        Ok(Response::new(locate(&self.cluster.lock(), &key)))
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let state = self.cluster.lock();
        let keys = state.store.keys() as u64;
        let nodes = state
            .nodes
            .iter()
            .enumerate()
            .map(|(number, node)| v1::NodeStatus {
                name: name(number),
                state: if node.stopped {
                    "down"
                } else if node.draining {
                    "draining"
                } else {
                    "up"
                }
                .to_owned(),
                capacity: 1.0,
                keys,
                unsynced: node.unsynced.len() as u64,
                ..v1::NodeStatus::default()
            });
        Ok(Response::new(v1::StatusResponse {
            cluster_id: CLUSTER_ID,
            epoch: state.epoch,
            nodes: nodes.collect(),
            under_replicated: 0,
            moving: 0,
            waiting: Vec::new(),
            healed: true,
            ..v1::StatusResponse::default()
        }))
    }

    async fn repair(
        &self,
        _: Request<v1::RepairRequest>,
    ) -> Result<Response<v1::RepairResponse>, Status> {
        Err(Status::unimplemented(
            "the nodes of the fake share one store",
        ))
    }

    async fn roots(
        &self,
        _: Request<v1::RootsRequest>,
    ) -> Result<Response<v1::RootsResponse>, Status> {
        Err(Status::unimplemented(
            "the nodes of the fake share one store",
        ))
    }

    async fn scrub(
        &self,
        _: Request<v1::ScrubRequest>,
    ) -> Result<Response<v1::ScrubResponse>, Status> {
        Err(Status::unimplemented(
            "the fake has nothing on a disk that could rot",
        ))
    }

    async fn show_layout(
        &self,
        _: Request<v1::ShowLayoutRequest>,
    ) -> Result<Response<v1::ShowLayoutResponse>, Status> {
        Err(Status::unimplemented(
            "the fake has a layout that never changes",
        ))
    }

    async fn describe_node(
        &self,
        _: Request<v1::DescribeNodeRequest>,
    ) -> Result<Response<v1::DescribeNodeResponse>, Status> {
        Err(Status::unimplemented(
            "the fake has a layout that never changes",
        ))
    }

    async fn plan_layout(
        &self,
        _: Request<v1::PlanLayoutRequest>,
    ) -> Result<Response<v1::PlanLayoutResponse>, Status> {
        Err(Status::unimplemented(
            "the fake has a layout that never changes",
        ))
    }

    async fn commit_layout(
        &self,
        _: Request<v1::CommitLayoutRequest>,
    ) -> Result<Response<v1::CommitLayoutResponse>, Status> {
        Err(Status::unimplemented(
            "the fake has a layout that never changes",
        ))
    }
}
