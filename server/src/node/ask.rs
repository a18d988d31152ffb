//! Asks the other members how they are: at the start, now and then, and for `status`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt, future::join_all};
use ringfort_proto::{
    Failure, Reason,
    peer::{HelloRequest, HelloResponse, peer_client::PeerClient},
};
use ringfort_ring::{Layout, NodeName};
use tonic::transport::Channel;

use crate::{
    bootstrap::Roster,
    limits::PEER_MESSAGE_BYTES_MAX,
    net::{Net, channel},
};

/// Answers by name; `None` for silence.
pub type Answers = BTreeMap<NodeName, Option<HelloResponse>>;

/// Connections of their own for questions, so that they are answered when the data path is busy or broken.
pub struct Asker {
    roster: Arc<Roster>,
    clients: BTreeMap<NodeName, PeerClient<Channel>>,
}

impl Asker {
    /// Asks the members of `layout` other than this node. Connects with the first question.
    pub fn new(
        layout: &Layout,
        roster: Arc<Roster>,
        net: &Arc<dyn Net>,
        connect_timeout: Duration,
    ) -> Self {
        let others = layout
            .members()
            .iter()
            .filter(|m| m.name != roster.me().name);
        let clients = others
            .map(|member| {
                let channel = channel(net, &member.peer_addr, connect_timeout);
                let client =
                    PeerClient::new(channel).max_decoding_message_size(PEER_MESSAGE_BYTES_MAX);
                (member.name.clone(), client)
            })
            .collect();
        Asker { roster, clients }
    }

    /// Asks all side by side, and waits for none longer than `timeout`.
    pub async fn ask(&self, timeout: Duration) -> Answers {
        let request = self.roster.hello_request();
        let questions = self.clients.iter().map(|(name, client)| {
            one(name.clone(), client.clone(), request.clone(), timeout).boxed()
        });
        join_all(questions).await.into_iter().collect()
    }
}

async fn one(
    name: NodeName,
    mut client: PeerClient<Channel>,
    request: HelloRequest,
    timeout: Duration,
) -> (NodeName, Option<HelloResponse>) {
    let answer = match tokio::time::timeout(timeout, client.hello(request)).await {
        Ok(Ok(response)) => Some(response.into_inner()),
        Ok(Err(status)) => {
            match Failure::from_status(&status) {
                Some(failure) if failure.reason == Reason::WrongCluster => {
                    tracing::warn!(%name, %failure, "refused by a node of another cluster");
                }
                _ => tracing::debug!(%name, %status, "no answer"),
            }
            None
        }
        Err(_) => None,
    };
    // Another node may have taken over the address.
    let answer = answer.filter(|answer| answer.name == name.as_str());
    (name, answer)
}
