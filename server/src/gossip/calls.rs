//! The calls of gossip: one exchange with one address.
//!
//! Keeps I7: each call has a time limit, and connections are kept for known nodes only.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ringfort_proto::peer::{self, peer_client::PeerClient};
use tonic::transport::Channel;

use crate::{
    limits::PEER_MESSAGE_BYTES_MAX,
    net::{Net, channel},
};

/// One message and its reply take at most so long.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Finding the addresses of a name takes at most so long.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections of gossip: its own, so that heartbeats go through when the data path is busy or broken.
pub struct Calls {
    net: Arc<dyn Net>,
    connect_timeout: Duration,
    kept: Mutex<BTreeMap<String, PeerClient<Channel>>>,
}

impl Calls {
    /// None is connected yet.
    pub fn new(net: Arc<dyn Net>, connect_timeout: Duration) -> Calls {
        Calls {
            net,
            connect_timeout: connect_timeout.min(CALL_TIMEOUT),
            kept: Mutex::new(BTreeMap::new()),
        }
    }

    /// A connection to a known node, kept for the next time.
    pub fn keep(&self, addr: &str) -> PeerClient<Channel> {
        let mut kept = self.kept();
        let client = kept
            .entry(addr.to_owned())
            .or_insert_with(|| self.fresh(addr));
        client.clone()
    }

    /// Has the next call to a node open another connection. One that was lost while it was opened is found out by nobody:
    /// keepalive begins after that.
    pub fn forget(&self, addr: &str) {
        self.kept().remove(addr);
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, PeerClient<Channel>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for once.
    pub fn fresh(&self, addr: &str) -> PeerClient<Channel> {
        PeerClient::new(channel(&self.net, addr, self.connect_timeout))
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    /// Closes the connections to addresses where no node is any more.
    pub fn retain(&self, is_known: impl Fn(&str) -> bool) {
        self.kept().retain(|addr, _| is_known(addr));
    }

    /// All addresses of a seed; the seed itself, if its name has none right now: connecting will say why.
    pub async fn resolve(&self, seed: &str) -> Vec<String> {
        match tokio::time::timeout(RESOLVE_TIMEOUT, self.net.resolve(seed)).await {
            Ok(Ok(addrs)) if !addrs.is_empty() => addrs,
            Ok(Ok(_)) | Err(_) => vec![seed.to_owned()],
            Ok(Err(error)) => {
                tracing::debug!(seed, %error, "the seed has no address");
                vec![seed.to_owned()]
            }
        }
    }
}

/// One message, and its reply.
///
/// # Errors
/// Why there is none, in words.
pub async fn call(
    mut client: PeerClient<Channel>,
    message: peer::GossipMessage,
) -> Result<peer::GossipMessage, String> {
    match tokio::time::timeout(CALL_TIMEOUT, client.gossip(message)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("no answer within {CALL_TIMEOUT:?}")),
    }
}
