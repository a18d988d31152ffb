//! One node: `run(config, parts, shutdown)`.
//!
//! The order of a start is a contract: lock, identity, HTTP; found or find the cluster; recover; serve the peer port; ask
//! every member; then clients, once a layout lists it. No dot is minted before that (I2). The node never exits by itself: it returns why.

mod ask;
mod generations;
mod greeter;
mod parts;
mod refresh;
mod serve;
mod start;
mod stop;
mod threads;

pub use ask::{Answers, Asker};
pub use greeter::Greeter;
pub use parts::{Driven, Event, Fatal, Parts, StorageDriver};
pub use threads::ThreadDriver;

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, OnceLock},
};

use futures::FutureExt;
use rand::RngExt;
use ringfort_storage::{
    Key, Store,
    store::{StoreConfig, StoreParts},
};
use tokio::sync::{oneshot, watch};

use self::serve::{Base, Running, Tasks};
use crate::{
    bootstrap::{Decree, Plan, Roster, found},
    clock::SteadyClock,
    config::Config,
    counters::Counters,
    gossip::Routes,
    health::{Health, Phase},
    http,
    metrics::Metrics,
    mover::End,
    net::Net,
    peer::{DataSlot, Heard},
};

/// What chance is drawn for; each purpose has a source of its own.
mod purpose {
    pub const IDENTITY: u64 = 1;
    pub const FOUNDING: u64 = 2;
    pub const STORE: u64 = 3;
    pub const LINKS: u64 = 4;
    pub const CLIENT_ID: u64 = 5;
    pub const GOSSIP: u64 = 6;
    pub const EXCHANGE: u64 = 7;
    pub const SCRUB: u64 = 20;
    pub const REAPER: u64 = 21;
}

/// Runs one node until `shutdown` completes (then `Ok`) or it cannot go on.
///
/// # Errors
/// [`Fatal`]. After [`Fatal::Engine`] the process is to start anew; the store's handle was left undropped on purpose.
pub async fn run(
    config: Config,
    parts: Parts,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Fatal> {
    let shutdown = shutdown.shared();
    let node = Node::new(start::named(config, &parts.disk)?, parts);
    let tasks = Tasks::default();
    let started = tokio::select! {
        started = node.start(&tasks) => Some(started?),
        () = shutdown.clone() => None,
    };
    let Some((running, mover)) = started else {
        return Ok(());
    };
    let (failed, clients) = {
        let mut end = pin!(end(&node, &running, mover, shutdown));
        tokio::select! {
            failed = &mut end => (failed, None),
            admitted = node.admit(&running, &tasks) => match admitted {
                Ok(clients) => {
                    node.ready();
                    (end.await, Some(clients))
                }
                Err(fatal) => (Some(fatal), None),
            },
        }
    };
    match failed {
        None => stop::gracefully(&node, running, clients, tasks).await,
        Some(out @ Fatal::Out(_)) => {
            stop::gracefully(&node, running, clients, tasks).await?;
            Err(out)
        }
        Some(fatal) => Err(stop::at_once(&node, running, fatal)),
    }
}

/// Ends when the node is to stop, `None`, or cannot go on.
async fn end(
    node: &Node,
    running: &Running,
    mover: oneshot::Receiver<End>,
    shutdown: impl Future<Output = ()>,
) -> Option<Fatal> {
    tokio::select! {
        () = shutdown => None,
        why = running.failure() => Some(why),
        why = failed(node.parts.engine_panics.clone()) => Some(Fatal::Engine(why)),
        why = ended(mover) => Some(why),
    }
}

/// Ends when there is a failure, and gives its words.
async fn failed(mut failure: watch::Receiver<Option<String>>) -> String {
    loop {
        if let Some(why) = failure.borrow_and_update().clone() {
            return why;
        }
        if failure.changed().await.is_err() {
            // Whoever would tell is gone: there is nothing to wait for.
            std::future::pending::<()>().await;
        }
    }
}

/// Ends when the worker that carries out changes of layouts has.
async fn ended(mover: oneshot::Receiver<End>) -> Fatal {
    match mover.await {
        Ok(End::Out(words)) => Fatal::Out(words),
        Ok(End::Broken(words)) => Fatal::Storage(words),
        Err(_) => {
            Fatal::Storage("the worker that carries out changes of layouts panicked".to_owned())
        }
    }
}

/// What a node has from the first moment.
struct Node {
    config: Config,
    parts: Parts,
    health: Arc<Health>,
    counters: Arc<Counters>,
    heard: Arc<Heard>,
    routes: Arc<Routes>,
    steady: Arc<SteadyClock>,
    metrics: Arc<Metrics>,
}

/// The HTTP port's view of a node.
struct NodePages {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl http::Pages for NodePages {
    fn unready(&self) -> Option<String> {
        self.health.unready()
    }

    fn dead(&self) -> Option<String> {
        self.health.broken()
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}

impl Node {
    fn new(config: Config, parts: Parts) -> Self {
        let health = Arc::new(Health::default());
        let counters = Arc::new(Counters::default());
        let metrics = Metrics::new(&config.name, counters.clone(), health.clone());
        Node {
            routes: Arc::default(),
            steady: Arc::new(SteadyClock::new(parts.clock.clone())),
            metrics: Arc::new(metrics),
            heard: Arc::new(Heard::default()),
            config,
            parts,
            health,
            counters,
        }
    }

    fn net(&self) -> &Arc<dyn Net> {
        &self.parts.net
    }

    /// The start, in the order of the contract.
    async fn start(&self, tasks: &Tasks) -> Result<(Running, oneshot::Receiver<End>), Fatal> {
        let disk = &self.parts.disk;
        let mut chance = start::chance(self.parts.seed, purpose::IDENTITY);
        let home = start::open(&self.config, disk, &mut chance)?;
        let (roster, returning) = (home.roster.clone(), home.returning);
        let pages = NodePages {
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        };
        let listener = self
            .bind(&self.config.http_addr.to_string(), "HTTP")
            .await?;
        tasks.spawn(http::serve(listener.incoming, Arc::new(pages)));
        // Found out now, before anything durable is founded or a long recovery ends; bound for good when they serve.
        for (addr, what) in [
            (&self.config.peer_addr, "peer"),
            (&self.config.client_addr, "client"),
        ] {
            drop(self.bind(&addr.to_string(), what).await?);
        }

        let greeter = Arc::new(Greeter {
            roster: roster.clone(),
            health: self.health.clone(),
            store: OnceLock::new(),
            council: OnceLock::new(),
            heard: self.heard.clone(),
            progress: Arc::default(),
            hints: OnceLock::new(),
            reaping: OnceLock::new(),
            scrub: OnceLock::new(),
            gossip: OnceLock::new(),
            board: OnceLock::new(),
            steady: self.steady.clone(),
            counters: self.counters.clone(),
        });
        let slot = DataSlot::default();
        let (stop_peers, peers_stopped) = oneshot::channel();
        let store_and_driver;
        let decree = if returning {
            let decree = member_decree(&roster)?;
            // The store takes lock and identity itself.
            roster.close_ledger();
            drop(home);
            self.health.doing("recovering");
            store_and_driver = self.open_store(&decree).await?;
            let _ = greeter.store.set(store_and_driver.0.clone());
            self.serve_peers(&greeter, &slot, tasks, peers_stopped)
                .await?;
            decree
        } else {
            // Others must be able to ask and to offer before there is a store.
            self.serve_peers(&greeter, &slot, tasks, peers_stopped)
                .await?;
            self.health.doing("founding the cluster");
            let decree = self.found(&roster).await?;
            roster.close_ledger();
            drop(home);
            store_and_driver = self.open_store(&decree).await?;
            let _ = greeter.store.set(store_and_driver.0.clone());
            decree
        };
        (self.parts.events)(Event::Member {
            name: self.config.name.clone(),
            cluster: decree.cluster.to_string(),
            returning,
        });
        let (store, driven, damaged_hints) = store_and_driver;
        let base = Base {
            store,
            driven,
            damaged_hints,
            greeter,
            slot,
            stop_peers,
        };
        self.serve(&decree, base, tasks).await
    }

    async fn found(&self, roster: &Arc<Roster>) -> Result<Arc<Decree>, Fatal> {
        let founder = start::founder(&self.config, roster);
        let plan = Plan {
            partitions: self.config.partitions,
            replicas: self.config.replicas,
        };
        let mut chance = start::chance(self.parts.seed, purpose::FOUNDING);
        found(&founder, roster, self.net(), plan, &mut chance)
            .await
            .map_err(|error| Fatal::Start(error.to_string()))
    }

    /// Recovers, and starts what drives the store; gives the keys of hints that were damaged, too.
    async fn open_store(
        &self,
        decree: &Decree,
    ) -> Result<(Store, Box<dyn Driven>, Vec<Key>), Fatal> {
        let mut chance = start::chance(self.parts.seed, purpose::STORE);
        let store_config = StoreConfig {
            table_bytes: self.config.table_bytes.bytes(),
            hint_bytes: self.config.hint_bytes.bytes(),
            ..StoreConfig::new(&self.config.name, decree.layout.partitions())
        };
        let parts = StoreParts {
            disk: Arc::clone(&self.parts.disk),
            engine: Arc::clone(&self.parts.engine),
            chance: Box::new(move || chance.random()),
        };
        let opened = self.parts.driver.open(parts, store_config).await;
        let opened = opened.map_err(|error| {
            Fatal::Start(format!("{}: {error}", self.config.data_dir.display()))
        })?;
        let store = opened.store.clone();
        let (driven, report) =
            self.parts.driver.start(opened).map_err(|error| {
                Fatal::Start(format!("the store's threads do not start: {error}"))
            })?;
        let whole = report.damaged_records == 0
            && report.damaged_log.is_empty()
            && report.damaged_hints.is_empty()
            && !report.lost_hints
            && report.engine_replaced.is_none()
            && report.newly_unsynced.as_ref().is_some_and(Vec::is_empty);
        if whole {
            tracing::info!(replayed = report.replayed, "recovered");
        } else {
            tracing::warn!(?report, "recovered, and not all was as it should be");
        }
        for (store_id, sequence) in &report.heard {
            self.heard
                .note(ringfort_ring::StoreId(*store_id), *sequence);
        }
        Ok((store, driven, report.damaged_hints.clone()))
    }

    async fn bind(&self, addr: &str, what: &str) -> Result<crate::net::Listener, Fatal> {
        self.net().bind(addr).await.map_err(|error| {
            Fatal::Start(format!("the {what} port {addr} cannot be bound: {error}"))
        })
    }

    fn ready(&self) {
        self.health.advance(Phase::Ready);
        (self.parts.events)(Event::Ready);
    }
}

fn member_decree(roster: &Roster) -> Result<Arc<Decree>, Fatal> {
    match roster.standing() {
        crate::bootstrap::Standing::Member(decree) => Ok(decree),
        _ => Err(Fatal::Start(
            "this node is no member of a cluster".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests;
