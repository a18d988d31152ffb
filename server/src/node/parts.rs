//! What a node is made of: time, chance, network, disk, engine and the driver of its store, all handed in.

use std::{io, sync::Arc};

use futures::future::BoxFuture;
use ringfort_ring::StoreId;
use ringfort_storage::{
    disk::Disk,
    engine::EngineHome,
    store::{OpenError, OpenReport, Opened, StoreConfig, StoreParts},
};
use tokio::sync::watch;

use crate::{clock::Clock, net::Net, pool::EnginePool};

/// Opens a store and drives its step machines: on threads in production, in tasks under test.
pub trait StorageDriver: Send + Sync + 'static {
    /// Recovers. The rest of the node (probes, questions of others) goes on meanwhile.
    fn open(
        &self,
        parts: StoreParts,
        config: StoreConfig,
    ) -> BoxFuture<'static, Result<Opened, OpenError>>;

    /// Starts driving.
    ///
    /// # Errors
    /// The system gives no threads.
    fn start(&self, opened: Opened) -> io::Result<(Box<dyn Driven>, OpenReport)>;
}

/// A store that is driven.
pub trait Driven: Send + Sync + 'static {
    /// Where what blocks on the engine runs.
    fn pool(&self) -> Arc<dyn EnginePool>;

    /// Becomes `Some` when the store has failed and the process has to end.
    fn failure(&self) -> watch::Receiver<Option<String>>;

    /// Closes the store: everything written down, the stop marked as clean.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), String>>;
}

/// What a node tells of itself while it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its directory is open, and it is a member.
    Member {
        /// Its name.
        name: String,
        /// The cluster's id.
        cluster: String,
        /// Whether it was a member before this start.
        returning: bool,
    },
    /// It serves clients.
    Ready,
    /// It holds another node to be up, or down.
    Peer {
        /// The other's name.
        name: String,
        /// Its store: a node that lost its directory comes back with another one, and the old one goes down later.
        store: StoreId,
        /// Whether it is up.
        up: bool,
    },
}

/// The parts of a node.
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// All chance comes from this number.
    pub seed: u64,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// Where the engine lives, within the data directory.
    pub engine: Arc<dyn EngineHome>,
    /// Drives the store.
    pub driver: Arc<dyn StorageDriver>,
    /// Becomes `Some` when a thread that belongs to the engine has panicked.
    pub engine_panics: watch::Receiver<Option<String>>,
    /// Told what happens.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
}

/// Why a node ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// It could not start; the sentence says what to do.
    #[error("{0}")]
    Start(String),
    /// It cannot go on: nobody knows what is on disk. The next start recovers what is durable.
    #[error("{0}")]
    Storage(String),
    /// The cluster goes on without the store of this directory, and it was not started.
    #[error("{0}")]
    Retired(String),
    /// The cluster goes on without this node's store; it has stopped as it should.
    #[error("{0}")]
    Out(String),
    /// The engine failed. It is marked to be set aside: the next start does that, and repairs from its peers.
    #[error("the storage engine failed and is set aside at the next start: {0}")]
    Engine(String),
}
