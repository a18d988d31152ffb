//! Asks the other members how they are: at the start, now and then, and for `status`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use ringfort_proto::{
    Failure, Reason,
    peer::{HelloRequest, HelloResponse, ScrubRequest, peer_client::PeerClient},
};
use ringfort_ring::{Decree, StoreId};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::{
    bootstrap::Roster,
    gossip::Routes,
    limits::PEER_MESSAGE_BYTES_MAX,
    net::{Net, channel},
};

/// Answers by store; `None` for silence.
pub type Answers = BTreeMap<StoreId, Option<HelloResponse>>;

/// Addresses that one seed stands for, at most; more are not asked.
const SEED_ADDRESSES_MAX: usize = 16;

/// Connections of their own for questions, so that they are answered when the data path is busy or broken.
pub struct Asker {
    roster: Arc<Roster>,
    routes: Arc<Routes>,
    net: Arc<dyn Net>,
    connect_timeout: Duration,
    /// How far this node's log is durable: whoever is asked is told.
    durable: watch::Receiver<u64>,
    members: Mutex<BTreeMap<StoreId, Reached>>,
}

/// How a member is reached.
struct Reached {
    listed: String,
    addr: String,
    client: PeerClient<Channel>,
}

impl Asker {
    /// Asks the members of the decree's layouts other than this node, where `routes` says that they are, else where they are
    /// listed. Connects with the first question.
    pub fn new(
        decree: &Decree,
        roster: Arc<Roster>,
        routes: Arc<Routes>,
        net: &Arc<dyn Net>,
        connect_timeout: Duration,
        durable: watch::Receiver<u64>,
    ) -> Self {
        let asker = Asker {
            roster,
            routes,
            net: Arc::clone(net),
            connect_timeout,
            durable,
            members: Mutex::default(),
        };
        asker.follow(decree);
        asker
    }

    /// Asks the members of its layouts from now on; those that stay where they are keep their connections.
    pub fn follow(&self, decree: &Decree) {
        let me = self.roster.store_id();
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|store, _| decree.lists(*store));
        let newest_first = decree.live().iter().rev();
        let listed = newest_first.flat_map(|layout| layout.members());
        for member in listed.filter(|member| member.store_id != me) {
            let addr = &member.peer_addr;
            let reached = members.entry(member.store_id);
            let reached = reached.or_insert_with(|| self.reached(addr.clone(), addr.clone()));
            reached.listed.clone_from(addr);
        }
    }

    fn reached(&self, listed: String, addr: String) -> Reached {
        Reached {
            client: self.client(&addr),
            listed,
            addr,
        }
    }

    fn client(&self, addr: &str) -> PeerClient<Channel> {
        PeerClient::new(channel(&self.net, addr, self.connect_timeout))
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    fn request(&self) -> HelloRequest {
        HelloRequest {
            durable_sequence: *self.durable.borrow(),
            ..self.roster.hello_request()
        }
    }

    /// Asks all side by side, and waits for none longer than `timeout`.
    pub async fn ask(&self, timeout: Duration) -> Answers {
        self.ask_those(timeout, |_| true).await
    }

    /// The same, and for the reap generations of all partitions.
    pub async fn ask_generations(&self, timeout: Duration) -> Answers {
        let request = HelloRequest {
            asks_generations: true,
            ..self.request()
        };
        self.ask_by(request, timeout, |_| true).await
    }

    /// The same of some members only.
    pub async fn ask_those(
        &self,
        timeout: Duration,
        is_asked: impl Fn(StoreId) -> bool,
    ) -> Answers {
        self.ask_by(self.request(), timeout, is_asked).await
    }

    async fn ask_by(
        &self,
        request: HelloRequest,
        timeout: Duration,
        is_asked: impl Fn(StoreId) -> bool,
    ) -> Answers {
        let questions: Vec<_> = {
            let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            let question = |(store, reached): (&StoreId, &mut Reached)| {
                let now = self.routes.peer_addr(*store);
                let now = now.unwrap_or_else(|| reached.listed.clone());
                if now != reached.addr {
                    *reached = self.reached(reached.listed.clone(), now);
                }
                let (store, client) = (*store, reached.client.clone());
                let request = request.clone();
                async move {
                    let answer = one(&store.to_string(), client, request, timeout).await;
                    // Another store may have taken over the address.
                    (store, answer.filter(|answer| answer.store_id == store.0))
                }
                .boxed()
            };
            let asked = members.iter_mut().filter(|(store, _)| is_asked(**store));
            asked.map(question).collect()
        };
        join_all(questions).await.into_iter().collect()
    }

    /// Has all other members verify what they hold, side by side; gives the numbers of the passes that begin, `None` for silence.
    pub async fn scrub(&self, timeout: Duration) -> BTreeMap<StoreId, Option<u64>> {
        let cluster_id = self.roster.hello_request().cluster_id;
        let clients: Vec<_> = {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            let clients = members
                .iter()
                .map(|(s, reached)| (*s, reached.client.clone()));
            clients.collect()
        };
        let questions = clients.into_iter().map(|(store, mut client)| async move {
            let asked = client.scrub(ScrubRequest { cluster_id });
            let answer = tokio::time::timeout(timeout, asked).await;
            let answer = answer.ok().and_then(Result::ok).map(|a| a.into_inner());
            // Another store may have taken over the address.
            let pass = answer.filter(|a| a.store_id == store.0).map(|a| a.pass);
            (store, pass)
        });
        join_all(questions).await.into_iter().collect()
    }

    /// Asks who answers at the seeds, by all addresses of their names, within `timeout`. Members of `decree` that do are
    /// reached there from now on: all may have moved while this node was down.
    pub async fn find(&self, seeds: &[String], decree: &Decree, timeout: Duration) -> Answers {
        let request = HelloRequest {
            asks_generations: true,
            ..self.request()
        };
        let asked = seeds.iter().map(|seed| {
            let request = request.clone();
            async move {
                let addrs = tokio::time::timeout(timeout, self.net.resolve(seed)).await;
                let mut addrs = addrs.ok().and_then(Result::ok).unwrap_or_default();
                addrs.truncate(SEED_ADDRESSES_MAX);
                let one = |addr: &String| {
                    one_at(addr.clone(), self.client(addr), request.clone(), timeout).boxed()
                };
                join_all(addrs.iter().map(one).collect::<Vec<_>>()).await
            }
            .boxed()
        });
        let answers = join_all(asked.collect::<Vec<_>>()).await;
        let mut found = Answers::new();
        for answer in answers.into_iter().flatten().flatten() {
            let store = StoreId(answer.store_id);
            if store == self.roster.store_id() || !decree.lists(store) {
                continue;
            }
            if let Some(me) = &answer.me {
                self.routes.set_peer_addr(store, &me.peer_addr);
            }
            found.insert(store, Some(answer));
        }
        found
    }
}

async fn one_at(
    addr: String,
    client: PeerClient<Channel>,
    request: HelloRequest,
    timeout: Duration,
) -> Option<HelloResponse> {
    one(&addr, client, request, timeout).await
}

/// Asks one node; `who` is for the log.
async fn one(
    who: &str,
    mut client: PeerClient<Channel>,
    request: HelloRequest,
    timeout: Duration,
) -> Option<HelloResponse> {
    match tokio::time::timeout(timeout, client.hello(request)).await {
        Ok(Ok(response)) => Some(response.into_inner()),
        Ok(Err(status)) => {
            match Failure::from_status(&status) {
                Some(failure) if failure.reason == Reason::WrongCluster => {
                    tracing::warn!(who, %failure, "refused by a node of another cluster");
                }
                _ => tracing::debug!(who, %status, "no answer"),
            }
            None
        }
        Err(_) => None,
    }
}
