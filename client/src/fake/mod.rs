//! A cluster in memory, for tests: real siblings, faults on demand, the real client on top.
//!
//! The client that [`FakeCluster::client`] gives is the one that production code uses; only its connections lead into
//! memory instead of TCP. So routing, retries, deadlines and batching are the real ones, and under tokio's paused
//! time a test that waits takes no time at all. What is fake is the cluster: all nodes share one map, nothing is
//! replicated or stored, and every write is applied by a single actor.
//!
//! ```
//! use ringfort_client::{Failure, Kind, Reason, fake::{FakeCluster, Fault}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ringfort_client::Error> {
//! let cluster = FakeCluster::new(3);
//! let client = cluster.client();
//!
//! // Two writes that do not know of each other leave two siblings.
//! client.put("user:1", "a").await?;
//! client.put("user:1", "b").await?;
//! assert_eq!(client.get("user:1").await?.siblings().len(), 2);
//!
//! // The next operation is refused by the node that gets it.
//! cluster.inject(Fault::Refuse(Failure::new(Reason::DiskFull, "no room")));
//! let error = client.put("user:2", "a").await.unwrap_err();
//! assert_eq!(error.kind(), Kind::DiskFull);
//! assert!(!error.is_ambiguous());
//! # Ok(())
//! # }
//! ```

mod layout;
mod net;
mod service;
mod store;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use ringfort_proto::{Failure, v1};
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use self::store::{Store, Surroundings};
use crate::{Client, ClientBuilder};

/// Partitions of a fake cluster.
const PARTITIONS: u32 = 64;
/// Owners of a partition.
const REPLICAS: u32 = 3;
/// The most operations that are remembered for [`FakeCluster::seen`]; older ones are forgotten.
const SEEN_MAX: usize = 1 << 16;
/// The fake's clock starts here, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What happens to one operation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fault {
    /// It is answered with this failure and not applied.
    Refuse(Failure),
    /// It is applied, and answered with this failure.
    ApplyAndFail(Failure),
    /// It is applied, and answered with an error that carries no reason, as from something that is not Ringfort.
    ApplyAndFailUntyped,
    /// It is not applied, and the connection breaks.
    Break,
    /// It is applied, and the connection breaks before the answer.
    ApplyAndBreak,
    /// It is applied, and never answered.
    ApplyAndStaySilent,
    /// It is applied and answered after this time.
    Delay(Duration),
}

/// One operation as a node received it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Seen {
    /// The node.
    pub node: String,
    /// The operation's key.
    pub key: Vec<u8>,
    /// Whether it was a write.
    pub write: bool,
    /// A write's request id: client and sequence.
    pub request_id: Option<(u64, u64)>,
    /// The client's lowest sequence without an answer, as the write told it.
    pub lowest_unanswered: u64,
    /// 0 for the first attempt.
    pub attempt: u32,
    /// The time that was left.
    pub deadline: Duration,
    /// The number of the batch that it came in, over all nodes.
    pub batch: u64,
}

/// A cluster in memory. Clones are the same cluster. See the [module](self).
#[derive(Debug, Clone)]
pub struct FakeCluster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Nodes that hold back what they receive.
    held: watch::Sender<BTreeSet<usize>>,
    started: Instant,
}

#[derive(Debug)]
struct State {
    store: Store,
    nodes: Vec<Node>,
    epoch: u64,
    faults: VecDeque<Fault>,
    seen: VecDeque<Seen>,
    batches: u64,
    layouts_asked: u64,
}

#[derive(Debug, Default)]
struct Node {
    stopped: bool,
    hidden: bool,
    draining: bool,
    unsynced: Vec<u32>,
    connections: Vec<AbortHandle>,
    /// Whether the layout lists it.
    is_member: bool,
}

impl FakeCluster {
    /// A cluster of so many nodes, named `n0`, `n1`, …
    ///
    /// # Panics
    /// If there are no nodes, or more than a hundred.
    pub fn new(nodes: usize) -> Self {
        assert!(
            (1..=100).contains(&nodes),
            "a fake cluster has 1 to 100 nodes"
        );
        let node = || Node {
            is_member: true,
            ..Node::default()
        };
        let state = State {
            store: Store::default(),
            nodes: (0..nodes).map(|_| node()).collect(),
            epoch: 1,
            faults: VecDeque::new(),
            seen: VecDeque::new(),
            batches: 0,
            layouts_asked: 0,
        };
        let held = watch::Sender::new(BTreeSet::new());
        FakeCluster {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                held,
                started: Instant::now(),
            }),
        }
    }

    /// A client of this cluster.
    pub fn client(&self) -> Client {
        self.client_builder()
            .build()
            .expect("the fake's endpoints are well formed")
    }

    /// Settings for a client of this cluster: its endpoints are all members, its connections lead into memory.
    pub fn client_builder(&self) -> ClientBuilder {
        let endpoints: Vec<String> = (0..self.lock().nodes.len()).map(address).collect();
        Client::builder()
            .endpoints(endpoints)
            .connector(net::connector(self.clone()))
    }

    /// Lets this happen to the next operation that has no fault before it.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    /// How many injected faults have not happened yet.
    pub fn faults_left(&self) -> usize {
        self.lock().faults.len()
    }

    /// Stops a node: its connections break, new ones are refused, and it counts as down for quorums.
    pub fn stop(&self, node: usize) {
        let connections = {
            let mut state = self.lock();
            state.nodes[node].stopped = true;
            std::mem::take(&mut state.nodes[node].connections)
        };
        connections.iter().for_each(AbortHandle::abort);
    }

    /// Lets connections to a node hang, as to one whose address leads nowhere; those that stand break.
    pub fn hide(&self, node: usize) {
        self.lock().nodes[node].hidden = true;
        self.break_connections(node);
    }

    /// Starts a node again.
    pub fn start(&self, node: usize) {
        self.lock().nodes[node].stopped = false;
    }

    /// Breaks a node's connections; new ones are accepted.
    pub fn break_connections(&self, node: usize) {
        let connections = std::mem::take(&mut self.lock().nodes[node].connections);
        connections.iter().for_each(AbortHandle::abort);
    }

    /// Lets a node receive operations and leave them until [`release`](FakeCluster::release), in the order of arrival.
    pub fn hold(&self, node: usize) {
        self.shared.held.send_modify(|held| {
            held.insert(node);
        });
    }

    /// Lets a held node go on.
    pub fn release(&self, node: usize) {
        self.shared.held.send_modify(|held| {
            held.remove(&node);
        });
    }

    /// Whether a node asks for new operations to go elsewhere.
    pub fn drain(&self, node: usize, draining: bool) {
        self.lock().nodes[node].draining = draining;
    }

    /// Names the partitions that a node owns and does not hold whole.
    pub fn set_unsynced(&self, node: usize, partitions: impl IntoIterator<Item = u32>) {
        self.lock().nodes[node].unsynced = partitions.into_iter().collect();
    }

    /// Adds a node to the cluster and its layout, which gets a new epoch. Gives the node's number.
    pub fn join(&self) -> usize {
        let mut state = self.lock();
        state.nodes.push(Node {
            is_member: true,
            ..Node::default()
        });
        state.epoch += 1;
        state.nodes.len() - 1
    }

    /// Takes a node out of the layout, which gets a new epoch. The node still answers, and forwards.
    pub fn remove(&self, node: usize) {
        let mut state = self.lock();
        state.nodes[node].is_member = false;
        state.epoch += 1;
    }

    /// The operations received so far, the oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.iter().cloned().collect()
    }

    /// How often a node was asked for the layout.
    pub fn layouts_asked(&self) -> u64 {
        self.lock().layouts_asked
    }

    /// Lets somebody else write a value beside what is there, without any node that sees it.
    pub fn add_sibling(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) {
        let key = v1::Key {
            namespace: String::new(),
            key: Bytes::copy_from_slice(key.as_ref()),
        };
        let put = v1::PutRequest {
            key: Some(key),
            value: value.into(),
            ..v1::PutRequest::default()
        };
        let around = Surroundings {
            now_ms: self.now_ms(),
            replicas: 1,
            alive: 1,
        };
        let added = self
            .lock()
            .store
            .serve(v1::operation::Kind::Put(put), around);
        added.expect("the key and the value are within their limits");
    }

    /// How many keys have values.
    pub fn keys(&self) -> usize {
        self.lock().store.keys()
    }

    /// The owners of a key of the namespace `default`, as node numbers in preference order.
    pub fn owners(&self, key: impl AsRef<[u8]>) -> Vec<usize> {
        let key = v1::Key {
            namespace: String::new(),
            key: Bytes::copy_from_slice(key.as_ref()),
        };
        layout::locate(&self.lock(), &key)
            .owners
            .iter()
            .map(|name| number(name))
            .collect()
    }

    /// The partition of a key of the namespace `default`.
    pub fn partition(&self, key: impl AsRef<[u8]>) -> u32 {
        let key = v1::Key {
            namespace: String::new(),
            key: Bytes::copy_from_slice(key.as_ref()),
        };
        layout::locate(&self.lock(), &key).partition
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        EPOCH_MS
            + u64::try_from(self.shared.started.elapsed().as_millis()).expect("a test is short")
    }

    /// Waits while the node is held.
    async fn wait_while_held(&self, node: usize) {
        let mut held = self.shared.held.subscribe();
        // The sender lives as long as the cluster that `self` keeps.
        let _ = held.wait_for(|held| !held.contains(&node)).await;
    }
}

impl State {
    fn surroundings(&self, now_ms: u64) -> Surroundings {
        let count = |members: usize| u32::try_from(members).expect("a fake cluster is small");
        let members = || self.nodes.iter().filter(|node| node.is_member);
        Surroundings {
            now_ms,
            replicas: REPLICAS.min(count(members().count())),
            alive: count(members().filter(|node| !node.stopped).count()),
        }
    }
}

fn name(node: usize) -> String {
    format!("n{node}")
}

fn number(name: &str) -> usize {
    name[1..].parse().expect("names are made by `name`")
}

fn address(node: usize) -> String {
    format!("{}.fake:7400", name(node))
}
