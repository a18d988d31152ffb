//! What an operator changes: the layout, planned and committed by the plan's hash.

use ringfort_proto::v1::{self, admin_client::AdminClient};
use ringfort_ring::{Change, PlanHash, encode_changes};
use serde::Serialize;
use tonic::Status;

use crate::{Client, Error, session::MESSAGE_BYTES_MAX};

/// The newest decree that a node knows.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Layouts {
    /// The id of the cluster.
    pub cluster_id: u64,
    /// The decree's epoch.
    pub epoch: u64,
    /// The live layouts, the older first.
    pub live: Vec<v1::Layout>,
    /// Stores that the operator has excused.
    pub excused: Vec<u64>,
    /// The node that answered.
    pub node: String,
    /// Nodes that wait to be added.
    pub waiting: Vec<v1::Member>,
}

/// What staged changes would do.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayoutPlan {
    /// The epoch that the plan starts from.
    pub base: u64,
    /// By what it is committed.
    pub hash: PlanHash,
    /// Whether owners change.
    pub places: bool,
    /// All members before or after.
    pub members: Vec<PlannedMember>,
    /// Copies of partitions that move.
    pub copies: u32,
    /// Copies that any placement with the same shares would have to move.
    pub fair_copies: f64,
    /// What to know before committing.
    pub notices: Vec<String>,
}

/// What a plan does to one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlannedMember {
    /// Its name.
    pub name: String,
    /// Its tokens before; `None` if it was no member.
    pub tokens_before: Option<u32>,
    /// Its tokens after; `None` if it is gone.
    pub tokens_after: Option<u32>,
    /// Partitions before.
    pub before: u32,
    /// Partitions after.
    pub after: u32,
    /// Partitions that it receives.
    pub acquired: u32,
    /// Partitions that it gives up.
    pub released: u32,
}

impl Client {
    /// The newest decree that one node, whichever answers, knows.
    ///
    /// # Errors
    /// Nothing was changed; see [`Error::kind`].
    pub async fn layouts(&self) -> Result<Layouts, Error> {
        let answer = self
            .ask(|channel, attempt| async move {
                let mut client =
                    AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                client
                    .show_layout(attempt.with(v1::ShowLayoutRequest {}))
                    .await
            })
            .await?;
        Ok(Layouts {
            cluster_id: answer.cluster_id,
            epoch: answer.epoch,
            live: answer.live,
            excused: answer.excused,
            node: answer.node,
            waiting: answer.waiting,
        })
    }

    /// How a layout would list the node at a peer address.
    ///
    /// # Errors
    /// Nothing was changed; see [`Error::kind`].
    pub async fn describe_node(&self, peer_addr: &str) -> Result<v1::Member, Error> {
        let answer = self
            .ask(|channel, attempt| {
                let peer_addr = peer_addr.to_owned();
                let request = attempt.with(v1::DescribeNodeRequest { peer_addr });
                async move {
                    let answer = AdminClient::new(channel).describe_node(request).await?;
                    match answer.get_ref().member {
                        Some(_) => Ok(answer),
                        None => Err(Status::internal("the node does not say how to list it")),
                    }
                }
            })
            .await?;
        Ok(answer.member.unwrap_or_default())
    }

    /// What changes of the newest layout would do.
    ///
    /// # Errors
    /// Nothing was changed; see [`Error::kind`].
    pub async fn plan_layout(&self, changes: &[Change]) -> Result<LayoutPlan, Error> {
        let changes = encode_changes(changes);
        let plan = self
            .ask(|channel, attempt| {
                let changes = changes.clone().into();
                let request = attempt.with(v1::PlanLayoutRequest { changes });
                async move {
                    let mut client =
                        AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                    client.plan_layout(request).await
                }
            })
            .await?;
        let members = plan.members.into_iter().map(|member| PlannedMember {
            name: member.name,
            tokens_before: member.tokens_before,
            tokens_after: member.tokens_after,
            before: member.before,
            after: member.after,
            acquired: member.acquired,
            released: member.released,
        });
        Ok(LayoutPlan {
            base: plan.base,
            hash: PlanHash(plan.hash),
            places: plan.places,
            members: members.collect(),
            copies: plan.copies,
            fair_copies: plan.fair_copies,
            notices: plan.notices,
        })
    }

    /// Has the plan of that hash decided; gives the epoch. Committing a decided plan again is the same success.
    ///
    /// # Errors
    /// Nothing was changed, unless [`Error::is_ambiguous`].
    pub async fn commit_layout(&self, changes: &[Change], plan: PlanHash) -> Result<u64, Error> {
        let changes = encode_changes(changes);
        let answer = self
            .ask(|channel, attempt| {
                let request = v1::CommitLayoutRequest {
                    changes: changes.clone().into(),
                    hash: plan.0,
                };
                let request = attempt.with(request);
                async move { AdminClient::new(channel).commit_layout(request).await }
            })
            .await?;
        Ok(answer.epoch)
    }
}
