//! What an operator asks: where a key lives, how the nodes are, what the layout says.

use std::collections::BTreeMap;

use ringfort_proto::v1::{self, admin_client::AdminClient, kv_client::KvClient};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::{Response, Status, transport::Channel};

use super::scrub::{Scrubbing, scrubbing};
use crate::{Client, Error, ask::Attempt, session::MESSAGE_BYTES_MAX};

/// Where a key lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Location {
    /// Its position on the ring.
    pub token: u64,
    /// The partition that it falls in.
    pub partition: u32,
    /// The nodes that hold it, in preference order.
    pub owners: Vec<String>,
    /// The nodes that hold hints for owners that are down, in order.
    pub fallbacks: Vec<String>,
}

/// What one node knows of all nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The id of the cluster.
    pub cluster_id: u64,
    /// The newest layout.
    pub epoch: u64,
    /// One entry per member.
    pub nodes: Vec<NodeStatus>,
    /// Partitions with fewer reachable, synced owners than they should have.
    pub under_replicated: u64,
    /// Partitions in transfer.
    pub moving: u64,
    /// Nodes that wait to be added.
    pub waiting: Vec<String>,
    /// All nodes are up, and nothing is known to be missing anywhere.
    pub healed: bool,
    /// Milliseconds since the oldest last clean exchange of a partition between two of its owners.
    pub exchange_age_ms: u64,
    /// Partitions that are not known to be the same at all their owners, at the node that has most of them.
    pub unclean: u64,
    /// Milliseconds that exchanges and transfers which are due take at the present rate; 0: none, or unknown.
    pub left_ms: u64,
    /// Milliseconds since the oldest round of reaping began that does not come to its end; 0: none is slow.
    pub reaping_stalled_ms: u64,
    /// Members that reaping waits for, some of them.
    pub reaping_waits_for: Vec<String>,
}

/// One member, as the node that answered sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// `up`, `down` or `draining`.
    pub state: String,
    /// Its zone; empty for none.
    pub zone: String,
    /// Its share, where 1 is usual.
    pub capacity: f64,
    /// Partitions that it owns.
    pub owned: u64,
    /// Keys that it stores.
    pub keys: u64,
    /// Hints that it keeps for others.
    pub hints: u64,
    /// Milliseconds since it was last heard; 0 for the node that answered.
    pub last_seen_ms: u64,
    /// Partitions whose copy does not count toward R.
    pub unsynced: u64,
    /// How far it is with what the newest layout gives it, if anything.
    pub receiving: Option<Receiving>,
    /// Milliseconds since the oldest last clean exchange of a partition that it owns.
    pub exchange_age_ms: u64,
    /// Of its partitions, so many are not known to be the same at all their owners.
    pub unclean: u64,
    /// Partitions of which it lacks something, as far as others know.
    pub behind: u64,
    /// Milliseconds that its exchanges which are due take at the present rate; 0: none, or unknown.
    pub exchange_left_ms: u64,
    /// Keys whose record is damaged there, until it has come from other owners.
    pub quarantined: u64,
    /// How far it is with verifying what it has stored; `None` if it did not answer.
    pub scrub: Option<Scrubbing>,
    /// What it holds for owners that were down; none: it did not say.
    pub held: Option<HeldHints>,
}

/// How far a node is with a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RepairProgress {
    /// Its name.
    pub name: String,
    /// It answers.
    pub answered: bool,
    /// Partitions that it owns, of those asked for.
    pub partitions: u32,
    /// Of them, those whose last clean exchange with every other owner is young enough.
    pub clean: u32,
}

/// The Merkle roots of the partitions that a node owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Roots {
    /// The node that answered.
    pub node: String,
    /// The epoch of the layout by which it owns them.
    pub epoch: u64,
    /// By partition: the root, and the number of keys, tombstones included.
    pub roots: BTreeMap<u32, (u64, u64)>,
    /// Partitions that change too fast to be told now.
    pub changing: Vec<u32>,
}

/// What a node holds for owners that were down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeldHints {
    /// Memory that they take.
    pub bytes: u64,
    /// Age of the oldest in milliseconds; 0: there is none.
    pub oldest_ms: u64,
    /// Refused since the node started, for the bytes that all may have.
    pub refused: u64,
    /// Dropped since it started, for their age.
    pub dropped: u64,
    /// Delivered to all of their owners since it started.
    pub delivered: u64,
    /// How many wait for which owner, by name: those that are down.
    pub waiting: BTreeMap<String, u64>,
}

/// How far a node is with the partitions that a layout gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receiving {
    /// The epoch of that layout.
    pub epoch: u64,
    /// Partitions that it is given.
    pub partitions: u64,
    /// Of them, those that it has received whole.
    pub received: u64,
    /// Those of which too few copies are left that count.
    pub lost: u64,
    /// Bytes received, since its process began with it.
    pub bytes: u64,
    /// Bytes a second, since then.
    pub bytes_per_s: u64,
    /// Milliseconds that the rest takes at this rate; 0: done, or unknown.
    pub left_ms: u64,
}

/// The layout that clients route by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LayoutInfo {
    /// The id of the cluster.
    pub cluster_id: u64,
    /// The epoch of this layout.
    pub epoch: u64,
    /// The newest epoch; greater while a change is under way.
    pub newest_epoch: u64,
    /// Q: how many partitions the ring has.
    pub partitions: u32,
    /// N: how many owners a partition has.
    pub replicas: u32,
    /// The members in the order of their names.
    pub members: Vec<MemberInfo>,
    /// The node that answered.
    pub node: String,
}

/// One member of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemberInfo {
    /// Its name.
    pub name: String,
    /// What fixes its places on the ring.
    pub placement_id: u64,
    /// Its data directory.
    pub store_id: u64,
    /// Its virtual nodes: `round(256 × capacity)`.
    pub tokens: u32,
    /// Its zone; empty for none.
    pub zone: String,
    /// Where clients reach it.
    pub client_addr: String,
    /// Where other nodes reach it.
    pub peer_addr: String,
    /// Where metrics and probes are served.
    pub http_addr: String,
    /// Partitions that it owns and does not hold whole.
    pub unsynced: usize,
}

impl Client {
    /// Where a key of the client's namespace lives.
    ///
    /// # Errors
    /// Nothing was changed; see [`Error::kind`].
    pub async fn where_is(&self, key: impl AsRef<[u8]>) -> Result<Location, Error> {
        let namespace = self.inner().defaults.namespace.clone();
        let key = v1::Key {
            namespace,
            key: bytes::Bytes::copy_from_slice(key.as_ref()),
        };
        let answer = self
            .ask(|channel, attempt| {
                let request = attempt.with(v1::WhereRequest {
                    key: Some(key.clone()),
                });
                async move { AdminClient::new(channel).r#where(request).await }
            })
            .await?;
        Ok(Location {
            token: answer.token,
            partition: answer.partition,
            owners: answer.owners,
            fallbacks: answer.fallbacks,
        })
    }

    /// What one node, whichever answers, knows of all nodes.
    ///
    /// # Errors
    /// Nothing was changed; see [`Error::kind`].
    pub async fn status(&self) -> Result<ClusterStatus, Error> {
        let answer = self
            .ask(|channel, attempt| async move {
                AdminClient::new(channel)
                    .status(attempt.with(v1::StatusRequest {}))
                    .await
            })
            .await?;
        Ok(ClusterStatus {
            cluster_id: answer.cluster_id,
            epoch: answer.epoch,
            nodes: answer.nodes.into_iter().map(node_status).collect(),
            under_replicated: answer.under_replicated,
            moving: answer.moving,
            waiting: answer.waiting,
            healed: answer.healed,
            exchange_age_ms: answer.exchange_age_ms,
            unclean: answer.unclean,
            left_ms: answer.left_ms,
            reaping_stalled_ms: answer.reaping_stalled_ms,
            reaping_waits_for: answer.reaping_waits_for,
        })
    }

    /// Has all nodes compare a partition (`None`: all) with its other owners now, if `due`; and tells of how many the last clean
    /// exchange with every other owner is younger than `within`.
    ///
    /// # Errors
    /// There is no such partition, or no node answers; see [`Error::kind`].
    pub async fn repair(
        &self,
        partition: Option<u32>,
        due: bool,
        within: std::time::Duration,
    ) -> Result<Vec<RepairProgress>, Error> {
        let request = v1::RepairRequest {
            partition,
            due,
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        };
        let answer = self
            .ask(|channel, attempt| async move {
                AdminClient::new(channel)
                    .repair(attempt.with(request))
                    .await
            })
            .await?;
        let nodes = answer.nodes.into_iter().map(|node| RepairProgress {
            name: node.name,
            answered: node.answered,
            partitions: node.partitions,
            clean: node.clean,
        });
        Ok(nodes.collect())
    }

    /// The Merkle roots of what the node that answers owns. Two owners that tell the same root of a partition hold the same of it.
    ///
    /// # Errors
    /// Nothing was changed; see [`Error::kind`].
    pub async fn roots(&self) -> Result<Roots, Error> {
        let answer = self
            .ask(|channel, attempt| async move {
                let mut client =
                    AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                client.roots(attempt.with(v1::RootsRequest {})).await
            })
            .await?;
        let told = answer.roots.into_iter().zip(answer.keys);
        Ok(Roots {
            node: answer.node,
            epoch: answer.epoch,
            roots: answer.partitions.into_iter().zip(told).collect(),
            changing: answer.changing,
        })
    }

    /// The layout that clients route by, asked for now.
    ///
    /// # Errors
    /// Nothing was changed; see [`Error::kind`].
    pub async fn layout(&self) -> Result<LayoutInfo, Error> {
        let answer = self
            .ask(|channel, attempt| async move {
                let mut client =
                    KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                client
                    .get_layout(attempt.with(v1::GetLayoutRequest {}))
                    .await
            })
            .await?;
        Ok(layout_info(answer))
    }

    /// Asks with the deadline of the client's calls.
    pub(super) async fn ask<T, F>(
        &self,
        question: impl Fn(Channel, Attempt) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let inner = self.inner();
        inner
            .ask(Instant::now() + inner.defaults.timeout, question)
            .await
    }
}

fn node_status(wire: v1::NodeStatus) -> NodeStatus {
    NodeStatus {
        name: wire.name,
        state: wire.state,
        zone: wire.zone,
        capacity: wire.capacity,
        owned: wire.owned,
        keys: wire.keys,
        hints: wire.hints,
        last_seen_ms: wire.last_seen_ms,
        unsynced: wire.unsynced,
        exchange_age_ms: wire.exchange_age_ms,
        unclean: wire.unclean,
        behind: wire.behind,
        exchange_left_ms: wire.exchange_left_ms,
        receiving: wire.receiving.map(|receiving| Receiving {
            epoch: receiving.epoch,
            partitions: receiving.partitions,
            received: receiving.received,
            lost: receiving.lost,
            bytes: receiving.bytes,
            bytes_per_s: receiving.bytes_per_s,
            left_ms: receiving.left_ms,
        }),
        quarantined: wire.quarantined,
        scrub: wire.scrub.map(scrubbing),
        held: wire.held.map(|held| HeldHints {
            bytes: held.bytes,
            oldest_ms: held.oldest_ms,
            refused: held.refused,
            dropped: held.dropped,
            delivered: held.delivered,
            waiting: {
                let waiting = held.waiting.into_iter();
                waiting.map(|of| (of.name, of.count)).collect()
            },
        }),
    }
}

fn layout_info(wire: v1::GetLayoutResponse) -> LayoutInfo {
    let unsynced = wire.unsynced;
    let count = |name: &str| {
        unsynced
            .iter()
            .filter(|entry| entry.node == name)
            .map(|entry| entry.partitions.len())
            .sum()
    };
    let layout = wire.read_layout.unwrap_or_default();
    let members = layout.members.into_iter().map(|member| MemberInfo {
        unsynced: count(&member.name),
        name: member.name,
        placement_id: member.placement_id,
        store_id: member.store_id,
        tokens: member.tokens,
        zone: member.zone,
        client_addr: member.client_addr,
        peer_addr: member.peer_addr,
        http_addr: member.http_addr,
    });
    LayoutInfo {
        cluster_id: wire.cluster_id,
        epoch: layout.epoch,
        newest_epoch: wire.newest_epoch,
        partitions: layout.partitions,
        replicas: layout.replicas,
        members: members.collect(),
        node: wire.node,
    }
}
