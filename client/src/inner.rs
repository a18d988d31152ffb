//! What all clones of a client share.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ringfort_proto::v1::GetLayoutResponse;
use ringfort_ring::{NodeName, Token};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use crate::{
    discovery,
    error::Error,
    ids::Ids,
    options::Criticality,
    random::Random,
    route::{Ring, View},
    session::{Parts, Session},
};

/// The namespace of keys that name none; on the wire it is empty.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Settings that a call may override.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    pub(crate) timeout: Duration,
    pub(crate) namespace: String,
    pub(crate) criticality: Option<Criticality>,
}

/// How the search for a layout goes.
#[derive(Debug, Clone, Default)]
struct Progress {
    failures: u64,
    error: Option<Error>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) defaults: Defaults,
    pub(crate) ids: Ids,
    parts: Parts,
    /// One session per endpoint that the client was built with; a layout's members share them by address.
    seeds: Vec<Arc<Session>>,
    view: RwLock<Option<Arc<View>>>,
    progress: watch::Sender<Progress>,
    /// The search for layouts, while it runs.
    discovery: Mutex<Option<AbortHandle>>,
    /// Turns the owners from read to read.
    spin: AtomicU64,
    /// Turns the owners for writes; stays the same, see [`Inner::spin`].
    offset: u64,
}

impl Inner {
    pub(crate) fn new(
        defaults: Defaults,
        parts: Parts,
        endpoints: &[String],
    ) -> Result<Arc<Self>, Error> {
        let seeds: Result<Vec<_>, Error> = endpoints
            .iter()
            .map(|address| Session::new(address, parts.clone()))
            .collect();
        Ok(Arc::new(Inner {
            defaults,
            ids: Ids::new(parts.random.number()),
            seeds: seeds?,
            view: RwLock::new(None),
            progress: watch::Sender::new(Progress::default()),
            discovery: Mutex::new(None),
            spin: AtomicU64::new(parts.random.number()),
            offset: parts.random.number() >> 1,
            parts,
        }))
    }

    pub(crate) fn random(&self) -> &Random {
        &self.parts.random
    }

    /// What the client routes by, if it knows anything yet.
    pub(crate) fn view(&self) -> Option<Arc<View>> {
        self.view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Asks for the layout again, soon and in the background.
    pub(crate) fn refresh(&self) {
        self.parts.signals.ask();
    }

    /// What the client routes by; the first call searches for it.
    ///
    /// # Errors
    /// Nothing was sent: no endpoint gave a layout, or the deadline passed before one did.
    pub(crate) async fn view_within(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Arc<View>, Error> {
        if let Some(view) = self.view() {
            return Ok(view);
        }
        let mut progress = self.progress.subscribe();
        let before = progress.borrow_and_update().failures;
        self.discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| {
                let run = discovery::run(Arc::downgrade(self), Arc::clone(&self.parts.signals));
                tokio::spawn(run).abort_handle()
            });
        self.refresh();
        loop {
            if let Some(view) = self.view() {
                return Ok(view);
            }
            let now = progress.borrow_and_update().clone();
            if let Some(error) = now.error.filter(|_| now.failures > before) {
                return Err(error);
            }
            // The sender lives in `self`, so the only way out is a change or the deadline.
            if timeout_at(deadline, progress.changed()).await.is_err() {
                let endpoints: Vec<&str> = self.seeds.iter().map(|seed| seed.address()).collect();
                let late = format!(
                    "no endpoint gave a layout within the deadline: {}",
                    endpoints.join(", ")
                );
                return Err(Error::timeout("", late));
            }
        }
    }

    /// All nodes, the healthiest first.
    pub(crate) fn nodes(&self) -> Vec<Arc<Session>> {
        let mut nodes = match self.view() {
            Some(view) => view.sessions.iter().chain(&view.seeds).cloned().collect(),
            None => self.seeds.clone(),
        };
        if !nodes.is_empty() {
            let first = usize::try_from(self.next_spin() % nodes.len() as u64)
                .expect("below the number of nodes");
            nodes.rotate_left(first);
        }
        nodes.sort_by_key(|node| node.health());
        nodes
    }

    /// Replaces what the client routes by.
    ///
    /// # Errors
    /// The layout is of another cluster, or not valid; nothing changed.
    /// `opened` are sessions with nodes that are new in it.
    pub(crate) fn install(
        &self,
        wire: GetLayoutResponse,
        opened: &[Arc<Session>],
    ) -> Result<(), Error> {
        let node = wire.node;
        let old = self.view();
        let epoch = wire.read_layout.as_ref().map_or(0, |layout| layout.epoch);
        if let Some(old) = &old {
            if old.cluster != wire.cluster_id {
                let words = format!(
                    "node {node} is of cluster {:016x}; this client belongs to {:016x}",
                    wire.cluster_id, old.cluster
                );
                return Err(Error::wrong_cluster(&node, words));
            }
            // Amendments change addresses, and only the newest epoch with them.
            if (epoch, wire.newest_epoch) < (old.epoch(), old.newest) {
                return Ok(());
            }
        }
        let known = old.as_ref().map(|old| &old.ring);
        let ring = Ring::from_wire(wire.read_layout, known).map_err(|why| {
            Error::config(format!(
                "node {node} gave a layout that cannot be used: {why}"
            ))
        })?;
        let sessions = self.sessions_for(&ring, old.as_deref(), opened)?;
        let is_member =
            |seed: &&Arc<Session>| !sessions.iter().any(|session| Arc::ptr_eq(session, seed));
        let seeds = self.seeds.iter().filter(is_member).cloned().collect();
        let mut unsynced = vec![std::collections::BTreeSet::new(); sessions.len()];
        for entry in wire.unsynced {
            let index = NodeName::new(entry.node)
                .ok()
                .and_then(|name| ring.layout.index_of(&name));
            if let Some(index) = index {
                unsynced[index].extend(entry.partitions);
            }
        }
        self.parts.signals.know(epoch, wire.newest_epoch);
        let view = View {
            cluster: wire.cluster_id,
            newest: wire.newest_epoch,
            ring,
            unsynced,
            sessions,
            seeds,
        };
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(view));
        Ok(())
    }

    /// Forgets what was learned: the search for layouts has ended, and nobody would hear of a newer one.
    pub(crate) fn forget_view(&self) {
        *self
            .discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The members' sessions, those kept whose address is the same.
    fn sessions_for(
        &self,
        ring: &Ring,
        old: Option<&View>,
        opened: &[Arc<Session>],
    ) -> Result<Vec<Arc<Session>>, Error> {
        let known = old.map(|view| view.sessions.as_slice()).unwrap_or_default();
        let session = |address: &str| {
            let kept = known
                .iter()
                .chain(&self.seeds)
                .chain(opened)
                .find(|session| session.address() == address);
            kept.map_or_else(
                || Session::new(address, self.parts.clone()),
                |kept| Ok(Arc::clone(kept)),
            )
        };
        ring.layout
            .members()
            .iter()
            .map(|member| session(&member.client_addr))
            .collect()
    }

    /// Sessions with the nodes of a layout that this client has none with, to be opened before it is routed by. None for the
    /// first layout: somebody waits for that.
    pub(crate) fn newcomers(&self, wire: &GetLayoutResponse) -> Vec<Arc<Session>> {
        let (Some(old), Some(layout)) = (self.view(), &wire.read_layout) else {
            return Vec::new();
        };
        let is_known = |address: &str| {
            let mut known = old.sessions.iter().chain(&self.seeds);
            known.any(|session| session.address() == address)
        };
        let new = layout.members.iter().map(|member| &member.client_addr);
        // What is no address is found by `install`.
        new.filter(|address| !is_known(address))
            .filter_map(|address| Session::new(address, self.parts.clone()).ok())
            .collect()
    }

    /// Tells those who wait for a first layout how the last request for it went.
    pub(crate) fn report(&self, error: Option<Error>) {
        self.progress.send_modify(|progress| {
            progress.failures += u64::from(error.is_some());
            progress.error = error;
        });
    }

    /// Where to start among a key's owners. Reads go around, so that a hot key is read at all of its owners. Writes of
    /// one client to one key stay at one owner: each further coordinator would add an actor to the key's clock for
    /// ever. Over the partitions, and over clients, both spread evenly.
    pub(crate) fn spin(&self, token: Token, write: bool) -> u64 {
        if write {
            self.offset + (token.0 >> 48)
        } else {
            self.next_spin()
        }
    }

    fn next_spin(&self) -> u64 {
        self.spin.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(discovery) = self
            .discovery
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
        {
            discovery.abort();
        }
    }
}
