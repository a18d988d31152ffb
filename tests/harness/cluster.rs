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
use ringfort_storage::{Store, disk::Disk, store::StoreConfig};
use tokio::sync::watch;
use turmoil::Sim;

use super::{driver::TaskDriver, medium::Medium, net::SimNet, trace::Trace};

/// Partitions of a simulated cluster.
const PARTITIONS: u32 = 16;
/// Size of a log segment: small, so that they are recycled within a run.
pub const SEGMENT_BYTES: u64 = 256 << 10;

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
    /// Which others it holds to be up.
    sees: BTreeMap<String, bool>,
    stop: Option<watch::Sender<bool>>,
}

/// One node over all its lives.
#[derive(Clone)]
pub struct SimNode {
    /// Its name, and its host's.
    pub name: String,
    /// What survives.
    pub medium: Medium,
    status: Arc<Mutex<Status>>,
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

    /// Whether it holds the node called `other` to be up; `None` before it ever did.
    pub fn sees(&self, other: &str) -> Option<bool> {
        self.status().sees.get(other).copied()
    }

    /// How often it was started.
    pub fn starts(&self) -> u64 {
        self.status().starts
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
            ..Status::default()
        };
    }

    /// One life of the node.
    async fn live(self, config: Config, seed: u64) {
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
            net: Arc::new(SimNet),
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
                node.status().store = Some(store.clone());
            }),
        }
    }

    fn events(&self) -> Arc<dyn Fn(Event) + Send + Sync> {
        let node = self.clone();
        Arc::new(move |event| {
            node.trace.line(format_args!("{}: {event:?}", node.name));
            match event {
                Event::Ready => node.status().ready = true,
                Event::Peer { name, up } => drop(node.status().sees.insert(name, up)),
                Event::Member { .. } => {}
            }
        })
    }
}

/// What a step of a disk takes, in ms. Not all disks of a run are equal: where one is slower than its peers' and loses power, they hold
/// what it has forgotten.
const STEPS_MS: [u64; 4] = [1, 1, 3, 10];

/// Makes the nodes and their hosts: `count` that found a cluster, and then `spares` that look for one.
pub fn start(
    sim: &mut Sim<'_>,
    count: usize,
    spares: usize,
    seed: u64,
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
            trace: trace.clone(),
        };
        if spares.contains(name) {
            node.status().role = Role::Spare;
        }
        let config = config(name, &names);
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

fn config(name: &str, names: &[String]) -> Config {
    let initial: Vec<String> = names.iter().map(|n| format!("{n}={n}:7500")).collect();
    let seeds: Vec<String> = names.iter().map(|n| format!("{n}:7500")).collect();
    let founds = names.iter().any(|n| n == name);
    let flags = Flags {
        name: Some(name.to_owned()),
        client_addr: Some(format!("{name}:7400")),
        peer_addr: Some(format!("{name}:7500")),
        http_addr: Some(format!("{name}:7600")),
        initial: founds.then(|| initial.join(",")),
        seeds: (!founds).then(|| seeds.join(",")),
        partitions: Some(PARTITIONS.to_string()),
        table_bytes: Some("4MiB".to_owned()),
        free_space_floor: Some("2MiB".to_owned()),
        free_space_reserve: Some("1MiB".to_owned()),
        ..Flags::default()
    };
    Config::load(&flags, &BTreeMap::new(), None).expect("a good configuration")
}

/// A store's settings in a simulation.
pub fn small(config: StoreConfig) -> StoreConfig {
    StoreConfig {
        segment_bytes: SEGMENT_BYTES,
        ..config
    }
}
