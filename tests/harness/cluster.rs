//! The nodes of a run: their durable media, and the simulated hosts that run the real node code on them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringfort::{
    config::{Config, Flags},
    node::{Event, Fatal, Parts, run},
};
use ringfort_ring::StoreId;
use ringfort_storage::{Store, disk::Disk, store::StoreConfig};
use tokio::sync::watch;
use turmoil::Sim;

use super::{
    driver::TaskDriver,
    medium::Medium,
    net::SimNet,
    reaping::Reaping,
    tap::{Tap, TapNet},
    trace::Trace,
};

/// Partitions of a simulated cluster.
const PARTITIONS: u32 = 16;
/// Size of a log segment: small, so that they are recycled within a run.
pub const SEGMENT_BYTES: u64 = 256 << 10;
/// An engine is renewed after so many bytes that it wastes, in steps of so few rows: so that renewals, and crashes in them, are
/// within a run.
const RENEW_OFFSET_BYTES: u64 = 4 << 10;
const RENEW_STEP_ROWS: usize = 4;

/// The ports of a node that has never moved.
const CLIENT_PORT: u16 = 7400;
const PEER_PORT: u16 = 7500;
const HTTP_PORT: u16 = 7600;

/// Whether a node belongs to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// A live layout lists it.
    #[default]
    Member,
    /// It runs, and waits to be added.
    Spare,
    /// No live layout lists it any more.
    Gone,
}

/// What is known of a node from outside.
#[derive(Default)]
struct Status {
    role: Role,
    /// It has ended because the cluster goes on without it.
    out: bool,
    /// The newest epoch that the role comes from.
    epoch: u64,
    ready: bool,
    starts: u64,
    ended: Option<Result<(), Fatal>>,
    store: Option<Store>,
    /// Of the last store that it had.
    store_id: Option<StoreId>,
    /// Which other stores it holds to be up.
    sees: BTreeMap<StoreId, bool>,
    stop: Option<watch::Sender<bool>>,
    fate: Fate,
    /// How often it has moved to other ports.
    moves: u16,
}

/// What an operator has done to a node's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// Nothing.
    #[default]
    Usual,
    /// It is off, for good as far as anybody knows.
    Off,
    /// It comes back, with an empty disk.
    Renewed,
}

/// One node over all its lives.
#[derive(Clone)]
pub struct SimNode {
    /// Its name, and its host's.
    pub name: String,
    /// What survives.
    pub medium: Medium,
    status: Arc<Mutex<Status>>,
    tap: Option<Tap>,
    trace: Trace,
}

impl SimNode {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it belongs to the cluster, as far as operators have seen.
    pub fn role(&self) -> Role {
        let status = self.status();
        match status.out {
            true => Role::Gone,
            false => status.role,
        }
    }

    /// An operator has seen the layouts of `epoch`.
    pub fn listed(&self, epoch: u64, is_listed: bool) {
        let mut status = self.status();
        if epoch < status.epoch {
            return;
        }
        status.epoch = epoch;
        status.role = match (is_listed, status.role) {
            (true, _) => Role::Member,
            (false, Role::Member) => Role::Gone,
            (false, role) => role,
        };
    }

    /// Whether it serves clients, if it is to.
    pub fn is_as_it_should(&self) -> bool {
        self.role() != Role::Member || self.is_ready()
    }

    /// Whether it serves clients.
    pub fn is_ready(&self) -> bool {
        self.status().ready
    }

    /// How it ended, if it did by itself.
    pub fn ended(&self) -> Option<Result<(), Fatal>> {
        self.status().ended.clone()
    }

    /// Its store, while it runs.
    pub fn store(&self) -> Option<Store> {
        self.status().store.clone()
    }

    /// Whether it holds the other node, with the store that it had last, to be up; `None` before it ever did.
    pub fn sees(&self, other: &SimNode) -> Option<bool> {
        let store = other.status().store_id?;
        self.status().sees.get(&store).copied()
    }

    /// How often it was started.
    pub fn starts(&self) -> u64 {
        self.status().starts
    }

    /// What an operator has done to its machine.
    pub fn fate(&self) -> Fate {
        self.status().fate
    }

    /// An operator does this to its machine.
    pub fn set_fate(&self, fate: Fate) {
        self.status().fate = fate;
    }

    /// From its next start on it is reached at other ports.
    pub fn move_on(&self) {
        self.status().moves += 1;
    }

    /// Where other nodes reach it, from its next start on at the latest.
    pub fn peer_addr(&self) -> String {
        format!("{}:{}", self.name, PEER_PORT + self.status().moves)
    }

    /// Asks it to stop, as SIGTERM does.
    pub fn stop(&self) {
        if let Some(stop) = &self.status().stop {
            stop.send_replace(true);
        }
    }

    /// Forgets what the last life left in memory.
    pub fn forget(&self) {
        let mut status = self.status();
        *status = Status {
            role: status.role,
            out: status.out,
            epoch: status.epoch,
            starts: status.starts,
            fate: status.fate,
            moves: status.moves,
            store_id: status.store_id,
            ..Status::default()
        };
    }

    /// One life of the node.
    async fn live(self, config: Arc<dyn Fn(u16) -> Config + Send + Sync>, seed: u64) {
        let config = config(self.status().moves);
        let (stop, mut stopped) = watch::channel(false);
        let starts = {
            let mut status = self.status();
            status.starts += 1;
            status.stop = Some(stop);
            status.starts
        };
        let (_panics, engine_panics) = watch::channel(None);
        let parts = Parts {
            clock: Arc::new(self.medium.clock.clone()),
            seed: StdRng::seed_from_u64(seed ^ (starts << 32)).random(),
            net: match &self.tap {
                Some(tap) => Arc::new(TapNet::new(&self.name, tap)),
                None => Arc::new(SimNet),
            },
            disk: Arc::new(self.medium.disk.clone()) as Arc<dyn Disk>,
            engine: Arc::new(self.medium.engine.clone()),
            driver: Arc::new(self.driver()),
            engine_panics,
            events: self.events(),
        };
        let ended = run(config, parts, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        })
        .await;
        self.trace
            .line(format_args!("{} ended: {ended:?}", self.name));
        let mut status = self.status();
        status.ready = false;
        status.store = None;
        status.out = matches!(ended, Err(Fatal::Out(_) | Fatal::Retired(_)));
        status.ended = Some(ended);
    }

    fn driver(&self) -> TaskDriver {
        let node = self.clone();
        TaskDriver {
            medium: self.medium.clone(),
            on_start: Arc::new(move |store, report| {
                let report = format_args!("{} recovered: {report:?}", node.name).to_string();
                node.trace.line(format_args!("{report}"));
                let mut status = node.status();
                status.store_id = Some(StoreId(store.identity().current().store_id));
                status.store = Some(store.clone());
            }),
        }
    }

    fn events(&self) -> Arc<dyn Fn(Event) + Send + Sync> {
        let node = self.clone();
        Arc::new(move |event| {
            node.trace.line(format_args!("{}: {event:?}", node.name));
            match event {
                Event::Ready => node.status().ready = true,
                Event::Peer { store, up, .. } => drop(node.status().sees.insert(store, up)),
                Event::Member { .. } => {}
            }
        })
    }
}

/// What a step of a disk takes, in ms. Not all disks of a run are equal: where one is slower than its peers' and loses power, they hold
/// what it has forgotten.
const STEPS_MS: [u64; 4] = [1, 1, 3, 10];

/// Makes the nodes and their hosts: `count` that found a cluster, and then `spares` that look for one. Their connections go through the
/// tap, if there is one.
pub fn start(
    sim: &mut Sim<'_>,
    (count, spares): (usize, usize),
    seed: u64,
    (tap, reaping): (Option<&Tap>, Option<Reaping>),
    trace: &Trace,
) -> Vec<SimNode> {
    let names: Vec<String> = (0..count).map(|i| format!("n{i}")).collect();
    let spares: Vec<String> = (0..spares).map(|i| format!("s{i}")).collect();
    let mut chance = StdRng::seed_from_u64(seed);
    let mut nodes = Vec::new();
    for (name, number) in names.iter().chain(&spares).zip(1..) {
        let node = SimNode {
            name: name.clone(),
            medium: Medium::new(
                seed.wrapping_add(number),
                STEPS_MS[chance.random_range(0..STEPS_MS.len())],
            ),
            status: Arc::default(),
            tap: tap.cloned(),
            trace: trace.clone(),
        };
        if spares.contains(name) {
            node.status().role = Role::Spare;
        }
        let (own, all) = (name.clone(), names.clone());
        let config: Arc<dyn Fn(u16) -> Config + Send + Sync> =
            Arc::new(move |moves| config(&own, &all, moves, reaping));
        let life = node.clone();
        let node_seed = seed.rotate_left(17) ^ number;
        sim.host(name.as_str(), move || {
            let (life, config) = (life.clone(), config.clone());
            async move {
                life.live(config, node_seed).await;
                Ok(())
            }
        });
        nodes.push(node);
    }
    nodes
}

/// The configuration of a node that has moved so often. Lists name where everybody was at first.
fn config(name: &str, names: &[String], moves: u16, reaping: Option<Reaping>) -> Config {
    let initial: Vec<String> = names.iter().map(|n| format!("{n}={n}:7500")).collect();
    let seeds: Vec<String> = names.iter().map(|n| format!("{n}:7500")).collect();
    let founds = names.iter().any(|n| n == name);
    let flags = Flags {
        name: Some(name.to_owned()),
        client_addr: Some(format!("{name}:{}", CLIENT_PORT + moves)),
        peer_addr: Some(format!("{name}:{}", PEER_PORT + moves)),
        http_addr: Some(format!("{name}:{}", HTTP_PORT + moves)),
        initial: founds.then(|| initial.join(",")),
        seeds: (!founds).then(|| seeds.join(",")),
        partitions: Some(PARTITIONS.to_string()),
        table_bytes: Some("4MiB".to_owned()),
        free_space_floor: Some("2MiB".to_owned()),
        free_space_reserve: Some("1MiB".to_owned()),
        reap_grace: reaping.map(|reaping| format!("{}ms", reaping.grace_ms)),
        soft_delete: reaping.map(|reaping| format!("{}ms", reaping.soft_delete_ms)),
        reap_early: reaping.map(|_| "true".to_owned()),
        ..Flags::default()
    };
    Config::load(&flags, &BTreeMap::new(), None).expect("a good configuration")
}

/// A store's settings in a simulation.
pub fn small(config: StoreConfig) -> StoreConfig {
    StoreConfig {
        segment_bytes: SEGMENT_BYTES,
        renew_offset_bytes: RENEW_OFFSET_BYTES,
        renew_step_rows: RENEW_STEP_ROWS,
        ..config
    }
}
