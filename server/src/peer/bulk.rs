//! Connections to other stores beside the data path, for what moves in bulk: transfers, exchanges. Clients' operations never wait
//! behind them.
//!
//! Keeps I7 (one connection a store, a limit on every wait) and I9 (each question carries a fence, and an answer counts only if
//! it comes from the store that was asked).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ringfort_proto::{
    Failure,
    peer::{self, peer_client::PeerClient},
};
use ringfort_ring::StoreId;
use tonic::{Response, Status, transport::Channel};

use super::{fence::Fences, links::limited};
use crate::{
    gossip::Routes,
    net::{Net, channel},
    view::View,
};

/// How long a connection to a store may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A store gave no answer that could be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{store} is not reached: {why}")]
pub struct Unreached {
    /// Which.
    pub store: StoreId,
    /// What came of it.
    pub why: String,
    /// What it says itself, if it refused.
    pub refusal: Option<Box<Failure>>,
}

/// An answer that carries its sender's fence.
pub trait Answer {
    /// The fence.
    fn fence(&self) -> Option<peer::Fence>;
}

impl Answer for peer::CompareResponse {
    fn fence(&self) -> Option<peer::Fence> {
        self.fence
    }
}

impl Answer for peer::TransferResponse {
    fn fence(&self) -> Option<peer::Fence> {
        self.fence
    }
}

impl Answer for peer::ReapResponse {
    fn fence(&self) -> Option<peer::Fence> {
        self.fence
    }
}

impl Answer for peer::DeliverResponse {
    fn fence(&self) -> Option<peer::Fence> {
        self.fence
    }
}

/// One worker's connections to the stores that it asks.
pub struct Bulk {
    net: Arc<dyn Net>,
    routes: Arc<Routes>,
    fences: Fences,
    clients: Mutex<BTreeMap<StoreId, (String, PeerClient<Channel>)>>,
}

impl Bulk {
    /// Opens none before the first question.
    pub fn new(net: &Arc<dyn Net>, routes: &Arc<Routes>, fences: &Fences) -> Bulk {
        Bulk {
            net: Arc::clone(net),
            routes: Arc::clone(routes),
            fences: fences.clone(),
            clients: Mutex::default(),
        }
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<StoreId, (String, PeerClient<Channel>)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self, view: &View, store: StoreId) -> Option<PeerClient<Channel>> {
        let listed = || Some(view.history().decree().member_of(store)?.peer_addr.clone());
        let addr = self.routes.peer_addr(store).or_else(listed)?;
        let mut clients = self.clients();
        match clients.get(&store) {
            Some((known, client)) if *known == addr => Some(client.clone()),
            _ => {
                // Stores that take part no more are not asked again.
                clients.retain(|store, _| view.history().decree().lists(*store));
                let client = limited(channel(&self.net, &addr, CONNECT_TIMEOUT));
                clients.insert(store, (addr, client.clone()));
                Some(client)
            }
        }
    }

    /// Asks a store by `question`, which is handed a connection and a fence; waits no longer than `timeout`, and opens another
    /// connection next time if that was too short.
    ///
    /// # Errors
    /// [`Unreached`].
    pub async fn ask<T: Answer, F>(
        &self,
        view: &View,
        store: StoreId,
        timeout: Duration,
        question: impl FnOnce(PeerClient<Channel>, peer::Fence) -> F,
    ) -> Result<T, Unreached>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let unreached = |why: String, refusal| Unreached {
            store,
            why,
            refusal,
        };
        let client = self
            .client(view, store)
            .ok_or_else(|| unreached("nobody knows where it is".to_owned(), None))?;
        let asked = tokio::time::timeout(timeout, question(client, self.fences.fence())).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                return Err(match Failure::from_status(&status) {
                    Some(failure) => unreached(failure.to_string(), Some(Box::new(failure))),
                    None => unreached(status.to_string(), None),
                });
            }
            Err(_) => {
                // A connection that was lost while it was opened is found out by nobody: keepalive begins after that.
                self.clients().remove(&store);
                return Err(unreached("no answer in time".to_owned(), None));
            }
        };
        let fence = answer.fence().unwrap_or_default();
        if fence.store_id != store.0 {
            return Err(unreached("another store answers there".to_owned(), None));
        }
        Ok(answer)
    }
}
