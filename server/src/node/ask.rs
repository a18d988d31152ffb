//! Asks the other members how they are: at the start, now and then, and for `status`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use ringfort_proto::{
    Failure, Reason,
    peer::{HelloRequest, HelloResponse, peer_client::PeerClient},
};
use ringfort_ring::{Decree, StoreId};
use tonic::transport::Channel;

use crate::{
    bootstrap::Roster,
    limits::PEER_MESSAGE_BYTES_MAX,
    net::{Net, channel},
};

/// Answers by store; `None` for silence.
pub type Answers = BTreeMap<StoreId, Option<HelloResponse>>;

/// Connections of their own for questions, so that they are answered when the data path is busy or broken.
pub struct Asker {
    roster: Arc<Roster>,
    net: Arc<dyn Net>,
    connect_timeout: Duration,
    members: Mutex<BTreeMap<StoreId, Reached>>,
}

/// How a member is reached.
struct Reached {
    addr: String,
    client: PeerClient<Channel>,
}

impl Asker {
    /// Asks the members of the decree's layouts other than this node. Connects with the first question.
    pub fn new(
        decree: &Decree,
        roster: Arc<Roster>,
        net: &Arc<dyn Net>,
        connect_timeout: Duration,
    ) -> Self {
        let asker = Asker {
            roster,
            net: Arc::clone(net),
            connect_timeout,
            members: Mutex::default(),
        };
        asker.follow(decree);
        asker
    }

    /// Asks the members of its layouts from now on; those that stay where they are keep their connections.
    pub fn follow(&self, decree: &Decree) {
        let me = self.roster.store_id();
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|store, reached| {
            let listed = decree.member_of(*store);
            listed.is_some_and(|member| member.peer_addr == reached.addr)
        });
        let newest_first = decree.live().iter().rev();
        let listed = newest_first.flat_map(|layout| layout.members());
        for member in listed.filter(|member| member.store_id != me) {
            members.entry(member.store_id).or_insert_with(|| {
                let channel = channel(&self.net, &member.peer_addr, self.connect_timeout);
                let client = PeerClient::new(channel);
                Reached {
                    addr: member.peer_addr.clone(),
                    client: client.max_decoding_message_size(PEER_MESSAGE_BYTES_MAX),
                }
            });
        }
    }

    /// Asks all side by side, and waits for none longer than `timeout`.
    pub async fn ask(&self, timeout: Duration) -> Answers {
        let request = self.roster.hello_request();
        let questions: Vec<_> = {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            let question = |(store, reached): (&StoreId, &Reached)| {
                let (store, client) = (*store, reached.client.clone());
                one(store, client, request.clone(), timeout).boxed()
            };
            members.iter().map(question).collect()
        };
        join_all(questions).await.into_iter().collect()
    }
}

async fn one(
    store: StoreId,
    mut client: PeerClient<Channel>,
    request: HelloRequest,
    timeout: Duration,
) -> (StoreId, Option<HelloResponse>) {
    let answer = match tokio::time::timeout(timeout, client.hello(request)).await {
        Ok(Ok(response)) => Some(response.into_inner()),
        Ok(Err(status)) => {
            match Failure::from_status(&status) {
                Some(failure) if failure.reason == Reason::WrongCluster => {
                    tracing::warn!(%store, %failure, "refused by a node of another cluster");
                }
                _ => tracing::debug!(%store, %status, "no answer"),
            }
            None
        }
        Err(_) => None,
    };
    // Another store may have taken over the address.
    let answer = answer.filter(|answer| answer.store_id == store.0);
    (store, answer)
}
