//! Nodes and clusters under test.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ringfort_proto::{Failure, peer, v1, v1::kv_client::KvClient};
use ringfort_ring::{
    ClusterId, Decree, Epoch, History, Layout, Member, NodeName, PartitionId, PlacementId, StoreId,
};
use ringfort_storage::{
    Store,
    disk::{Disk, RealDisk, SimDisk},
    engine::{EngineHome, mem::MemHome, sled::SledHome},
    log::{LogStep, LogWriter},
    store::{HINT_BYTES_DEFAULT, StoreConfig, StoreParts},
};
use tokio::{task::AbortHandle, time::Instant};
use tonic::{
    Status,
    transport::{Channel, Server},
};

use super::MemNet;
use crate::{
    clock::{Clock, SteadyClock},
    coordinator::{Collector, Origin, ReplySink},
    counters::Counters,
    data::{DataParts, DataPath},
    exchange::{self, Board, Exchanger, schedule::Timing},
    grpc::kv_service,
    limits::Limits,
    net::{Net, connect_channel},
    node::{Driven, StorageDriver, ThreadDriver},
    peer::{DataSlot, Fences, Heard, Membership, service},
    pool::{EnginePool, Job, PoolFull},
    reaper::Missed,
    view::{View, Views},
};

/// The cluster that tests are in.
pub const CLUSTER: ClusterId = ClusterId(0xC1);

/// Between two exchanges of a pair, where a test has them run.
const EXCHANGE_INTERVAL: Duration = Duration::from_millis(200);

/// What a cluster is to be like.
#[derive(Clone)]
pub struct Options {
    pub nodes: usize,
    /// How many of them are only in a second live layout.
    pub joining: usize,
    pub replicas: u32,
    pub partitions: u32,
    pub limits: Limits,
    /// Where the stores lie, driven by threads as in production; `None`: on simulated media, and nothing is ever drained.
    pub dir: Option<PathBuf>,
    pub hint_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 3,
            joining: 0,
            replicas: 3,
            partitions: 8,
            limits: Limits::default(),
            dir: None,
            hint_bytes: HINT_BYTES_DEFAULT,
        }
    }
}

/// Monotonic time is tokio's; the wall clock stands where a test puts it.
pub struct TestClock(pub AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Runs jobs at once, unless held.
#[derive(Default)]
pub struct TestPool {
    held: AtomicBool,
    waiting: Mutex<Vec<Job>>,
}

impl TestPool {
    pub fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    pub fn release(&self) {
        self.held.store(false, Ordering::Release);
        let jobs = std::mem::take(&mut *self.waiting.lock().expect("no test panics here"));
        jobs.into_iter().for_each(|job| job());
    }
}

impl EnginePool for TestPool {
    fn submit(&self, job: Job) -> Result<(), PoolFull> {
        if self.held.load(Ordering::Acquire) {
            self.waiting.lock().expect("no test panics here").push(job);
        } else {
            tokio::spawn(async move { job() });
        }
        Ok(())
    }
}

struct NoMembership;

#[tonic::async_trait]
impl Membership for NoMembership {
    async fn hello(&self, _: peer::HelloRequest) -> Result<peer::HelloResponse, Status> {
        Err(Status::unimplemented("not under test"))
    }

    async fn accept(&self, _: peer::AcceptRequest) -> Result<peer::AcceptResponse, Status> {
        Err(Status::unimplemented("not under test"))
    }

    async fn gossip(&self, _: peer::GossipMessage) -> Result<peer::GossipMessage, Status> {
        Err(Status::unimplemented("not under test"))
    }

    async fn scrub(&self, _: peer::ScrubRequest) -> Result<peer::ScrubResponse, Status> {
        Err(Status::unimplemented("not under test"))
    }

    async fn vote(&self, _: peer::VoteRequest) -> Result<peer::VoteResponse, Status> {
        Err(Status::unimplemented("not under test"))
    }

    async fn decrees(&self, _: peer::DecreesRequest) -> Result<peer::DecreesResponse, Status> {
        Err(Status::unimplemented("not under test"))
    }
}

/// One node under test.
pub struct Node {
    pub name: NodeName,
    pub net: MemNet,
    pub data: DataPath,
    pub views: Views,
    pub store: Store,
    pub counters: Arc<Counters>,
    pub clock: Arc<TestClock>,
    pub pool: Arc<TestPool>,
    pub board: Arc<Board>,
    pub missed: Arc<Missed>,
    /// What the engine holds, if it is a simulated one.
    pub home: MemHome,
    engine_pool: Arc<dyn EnginePool>,
    driven: Option<Box<dyn Driven>>,
    log_held: Arc<AtomicBool>,
    dead: AtomicBool,
    tasks: Vec<AbortHandle>,
}

impl Node {
    async fn start(net: &MemNet, history: &History, index: usize, options: &Options) -> Self {
        let limits = options.limits.clone();
        let layout = history.decree().newest();
        let member = &layout.members()[index];
        let mut random = 1000 * (index as u64 + 1);
        let home = MemHome::new();
        let (disk, engine) = media(options, index, &home);
        let parts = StoreParts {
            disk,
            engine,
            chance: Box::new(move || {
                random += 1;
                random
            }),
        };
        let config = StoreConfig {
            segment_bytes: 4 << 20,
            hint_bytes: options.hint_bytes,
            ..StoreConfig::new(member.name.as_str(), layout.partitions())
        };
        let opened = Store::open(parts, &config).expect("a new store opens");
        let store = opened.store.clone();
        let view = View::new(CLUSTER, history, member.store_id, &BTreeMap::new());
        let view = view.expect("a member");
        let views = Views::new(view);
        let counters = Arc::new(Counters::default());
        let clock = Arc::new(TestClock(AtomicU64::new(1_000_000)));
        let pool = Arc::new(TestPool::default());
        let log_held = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        let driven = match options.dir {
            Some(_) => {
                let driver = ThreadDriver { engine_threads: 2 };
                Some(driver.start(opened).expect("threads").0)
            }
            None => {
                let driving = drive(opened.writer, Arc::clone(&log_held));
                tasks.push(tokio::spawn(driving).abort_handle());
                None
            }
        };
        let in_tests = || Arc::clone(&pool) as Arc<dyn EnginePool>;
        let engine_pool = driven
            .as_ref()
            .map_or_else(in_tests, |driven| driven.pool());
        let timing = Timing::new(EXCHANGE_INTERVAL, index as u64);
        let board = Board::new(member.store_id, timing, clock.clone());
        let missed = Arc::new(Missed::new(views.clone(), store.clone()));
        let data = DataPath::start(DataParts {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            steady: Arc::new(SteadyClock::new(clock.clone())),
            views: views.clone(),
            store: store.clone(),
            fences: Fences::new(views.clone(), member.store_id, store.durable()),
            heard: Arc::new(Heard::default()),
            routes: Arc::default(),
            net: Arc::new(net.clone()),
            pool: Arc::clone(&engine_pool),
            board: Arc::clone(&board),
            missed: Arc::clone(&missed),
            limits,
            counters: Arc::clone(&counters),
            client_id: 77 + index as u64,
            jitter_seed: index as u64,
        });
        let slot = DataSlot::default();
        slot.set(Arc::clone(&data.replica)).ok().expect("empty");
        let peers = service(Arc::new(NoMembership), slot);
        let incoming = net.bind(&member.peer_addr).await.expect("binds").incoming;
        tasks.push(
            tokio::spawn(Server::builder().serve_with_incoming(peers, incoming)).abort_handle(),
        );
        let clients = kv_service(data.kv());
        let incoming = net.bind(&member.client_addr).await.expect("binds").incoming;
        tasks.push(
            tokio::spawn(Server::builder().serve_with_incoming(clients, incoming)).abort_handle(),
        );
        Node {
            name: member.name.clone(),
            net: net.clone(),
            data,
            views,
            store,
            counters,
            clock,
            pool,
            board,
            missed,
            home,
            engine_pool,
            driven,
            log_held,
            dead: AtomicBool::new(false),
            tasks,
        }
    }

    /// How the layout lists it.
    pub fn member(&self) -> Member {
        let view = self.views.current();
        view.my_member().expect("a member").clone()
    }

    /// From now on the node knows this.
    pub fn know(&self, history: &History) {
        let view = self.views.current().with_history(history);
        self.views.replace(view.expect("a member"));
    }

    /// Compares partitions with their other owners from now on.
    pub fn exchange(&mut self) {
        let exchanger = Exchanger::new(exchange::Parts {
            clock: self.clock.clone(),
            views: self.views.clone(),
            store: self.store.clone(),
            pool: self.engine_pool.clone(),
            net: Arc::new(self.net.clone()),
            routes: Arc::default(),
            fences: self.data.fences.clone(),
            coordinator: self.data.coordinator.clone(),
            links: self.data.links.clone(),
            board: self.board.clone(),
            missed: self.missed.clone(),
            bytes_per_s: 64 << 20,
        });
        self.tasks
            .push(tokio::spawn(exchanger.run()).abort_handle());
    }

    /// Nothing becomes durable until released.
    pub fn hold_log(&self, held: bool) {
        self.log_held.store(held, Ordering::Release);
    }

    /// The node is gone, in an instant, for good.
    fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        let me = self.member();
        self.net.cut(&me.peer_addr);
        self.net.cut(&me.client_addr);
        self.data.stop();
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    /// Replaces what this node thinks of the copies: all of `nodes` are unsynced for everything.
    pub fn mark_unsynced(&self, nodes: &[&NodeName]) {
        let view = self.views.current();
        let all: BTreeSet<PartitionId> = view.layout().partition_ids().collect();
        let store = |name| view.layout().member(name).expect("a member").store_id;
        let unsynced = nodes.iter().map(|&name| (store(name), all.clone()));
        let unsynced = unsynced.collect();
        let view = view.with_unsynced(&unsynced).expect("a member");
        self.views.replace(view);
    }

    /// Starts one operation without waiting; returns where its result arrives.
    pub fn start_op(
        &self,
        kind: v1::operation::Kind,
        deadline: Duration,
        origin: Origin,
    ) -> tokio::sync::oneshot::Receiver<Vec<v1::OperationResult>> {
        let (collector, results) = Collector::new(1);
        let sink: Arc<dyn ReplySink> = collector;
        let deadline_us = deadline.as_micros() as u64;
        let operation = v1::Operation {
            id: 0,
            deadline_us,
            kind: Some(kind),
        };
        self.data.coordinator.submit(vec![operation], origin, &sink);
        results
    }

    /// Runs one operation with a deadline of 30 s.
    pub async fn run(
        &self,
        kind: v1::operation::Kind,
    ) -> Result<v1::operation_result::Kind, Failure> {
        outcome(self.start_op(kind, Duration::from_secs(30), Origin::Client)).await
    }

    /// A client of this node's `Kv`.
    pub async fn client(&self) -> KvClient<Channel> {
        let addr = self.member().client_addr;
        let net: Arc<dyn Net> = Arc::new(self.net.clone());
        let channel = connect_channel(&net, &addr, Duration::from_secs(1)).await;
        KvClient::new(channel.expect("the node listens"))
    }
}

/// Waits for the result of [`Node::start_op`].
pub async fn outcome(
    results: tokio::sync::oneshot::Receiver<Vec<v1::OperationResult>>,
) -> Result<v1::operation_result::Kind, Failure> {
    let result = results
        .await
        .expect("every operation is answered")
        .pop()
        .expect("one result");
    match result.kind.expect("of a kind") {
        v1::operation_result::Kind::Error(error) => Err(Failure::from_wire(error).expect("typed")),
        kind => Ok(kind),
    }
}

/// Writes the log while it is not held.
async fn drive(mut writer: LogWriter, held: Arc<AtomicBool>) {
    loop {
        while !held.load(Ordering::Acquire)
            && matches!(writer.step().expect("the disk works"), LogStep::Worked)
        {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Several nodes of one cluster.
pub struct Cluster {
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Starts a cluster and waits until all its links stand.
    pub async fn start(options: Options) -> Self {
        let net = MemNet::default();
        let history = history(&options);
        let mut nodes = Vec::new();
        for index in 0..options.nodes {
            nodes.push(Node::start(&net, &history, index, &options).await);
        }
        for node in &nodes {
            let mut states = node.data.links.states();
            let ready = states.wait_for(|s| s.all_attempted && s.connected.values().all(|&up| up));
            ready.await.expect("links run");
        }
        Cluster { nodes }
    }

    /// Three nodes, three copies.
    pub async fn of_three() -> Self {
        Self::start(Options::default()).await
    }

    /// Waits until node `at` sees node `other` connected or not.
    pub async fn wait_link(&self, at: usize, other: usize, up: bool) {
        let store = self.nodes[other].member().store_id;
        let mut states = self.nodes[at].data.links.states();
        states
            .wait_for(|s| s.connected.get(&store) == Some(&up))
            .await
            .expect("links run");
    }

    /// Compares partitions with their other owners from now on, at all nodes.
    pub fn exchange(&mut self) {
        self.nodes.iter_mut().for_each(Node::exchange);
    }

    /// Stops what drives stores, if threads do.
    pub async fn close(self) {
        for mut node in self.nodes {
            node.data.stop();
            node.tasks.iter().for_each(AbortHandle::abort);
            if let Some(driven) = node.driven.take() {
                driven.close().await.expect("closes cleanly");
            }
        }
    }

    /// Kills a node, and waits until the others that live have noticed.
    pub async fn kill(&self, index: usize) {
        self.nodes[index].kill();
        for at in (0..self.nodes.len()).filter(|&at| !self.nodes[at].dead.load(Ordering::Acquire)) {
            self.wait_link(at, index, false).await;
        }
    }
}

/// What a store lies on.
fn media(options: &Options, index: usize, home: &MemHome) -> (Arc<dyn Disk>, Arc<dyn EngineHome>) {
    let Some(dir) = &options.dir else {
        return (Arc::new(SimDisk::new(index as u64)), Arc::new(home.clone()));
    };
    let dir = dir.join(index.to_string());
    std::fs::create_dir_all(&dir).expect("a directory");
    let disk = RealDisk::open(&dir).expect("a directory");
    (Arc::new(disk), Arc::new(SledHome::new(&dir, 64 << 20)))
}

/// What nodes know at the start: one layout, or an older one without those that join, and a newer one.
pub fn history(options: &Options) -> History {
    let layout = |epoch, nodes: usize| {
        let members = (0..nodes).map(|index| member(index as u64)).collect();
        Layout::new(Epoch(epoch), options.partitions, options.replicas, members).expect("valid")
    };
    let older = layout(1, options.nodes - options.joining);
    let decree = match options.joining {
        0 => Decree::founding(older),
        _ => {
            let live = vec![older, layout(2, options.nodes)];
            Decree::new(Epoch(2), live, BTreeMap::new()).expect("valid")
        }
    };
    History::new(Arc::new(decree))
}

fn member(index: u64) -> Member {
    let name = format!("n{index}");
    Member {
        name: NodeName::new(name.clone()).expect("valid"),
        placement_id: PlacementId(index + 1),
        store_id: StoreId(100 + index),
        tokens: 256,
        zone: String::new(),
        client_addr: format!("{name}:7400"),
        peer_addr: format!("{name}:7500"),
        http_addr: format!("{name}:7600"),
    }
}
