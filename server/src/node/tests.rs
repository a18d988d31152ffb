//! Whole nodes in one process: real gRPC over connections in memory, real files, an engine in memory.

mod damage;
mod join;
mod layout;
mod moves;
mod reap;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ringfort_proto::{
    Failure, Reason,
    v1::{self, admin_client::AdminClient, kv_client::KvClient},
};
use ringfort_storage::{
    disk::{Disk, RealDisk},
    engine::mem::MemHome,
    identity::IdentityFile,
    store::LOCK_FILE,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tonic::{Request, Status, transport::Channel};

use super::{Event, Fatal, Parts, ThreadDriver, run};
use crate::{
    clock::SystemClock,
    config::{Config, Flags, HOST_NAME_ENV},
    net::{Net, channel},
    testing::MemNet,
};

/// Nothing here takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(30);
const PARTITIONS: u64 = 16;

/// Where a node's data lives, over its restarts.
struct Home {
    dir: tempfile::TempDir,
    engine: MemHome,
}

impl Home {
    fn new() -> Self {
        Home {
            dir: tempfile::tempdir().expect("a temporary directory"),
            engine: MemHome::new(),
        }
    }

    /// A copy of all that a stopped node has on disk.
    fn copy(&self) -> Self {
        let copy = Home {
            engine: MemHome::new(),
            ..Home::new()
        };
        for (key, value) in self.engine.rows() {
            copy.engine.poke(&key, Some(&value));
        }
        copy_dir(self.dir.path(), copy.dir.path());
        copy
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("ours");
    for entry in fs::read_dir(from).expect("ours") {
        let entry = entry.expect("ours");
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().expect("ours").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("ours");
        }
    }
}

/// A node that runs.
struct Run {
    net: MemNet,
    name: &'static str,
    disk: Arc<dyn Disk>,
    stop: oneshot::Sender<()>,
    events: mpsc::UnboundedReceiver<Event>,
    panics: watch::Sender<Option<String>>,
    node: JoinHandle<Result<(), Fatal>>,
}

fn flags(name: &str, initial: &[&str]) -> Flags {
    let some = |text: String| Some(text);
    let members: Vec<String> = initial.iter().map(|n| format!("{n}={n}:7500")).collect();
    Flags {
        name: some(name.to_owned()),
        client_addr: some(format!("{name}:7400")),
        peer_addr: some(format!("{name}:7500")),
        http_addr: some(format!("{name}:7600")),
        initial: some(members.join(",")),
        partitions: some(PARTITIONS.to_string()),
        table_bytes: some("4MiB".to_owned()),
        connect_timeout: some("500ms".to_owned()),
        ..Flags::default()
    }
}

fn config(name: &str, initial: &[&str]) -> Config {
    let loaded = Config::load(&flags(name, initial), &BTreeMap::new(), None);
    loaded.expect("a good configuration")
}

fn start(net: &MemNet, home: &Home, name: &'static str, initial: &[&str], seed: u64) -> Run {
    start_with(net, home, name, config(name, initial), seed)
}

fn start_with(net: &MemNet, home: &Home, name: &'static str, config: Config, seed: u64) -> Run {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(home.dir.path()).expect("ours"));
    let (stop, stopped) = oneshot::channel();
    let (tell, events) = mpsc::unbounded_channel();
    let (panics, engine_panics) = watch::channel(None);
    let parts = Parts {
        clock: Arc::new(SystemClock),
        seed,
        net: Arc::new(net.clone()),
        disk: disk.clone(),
        engine: Arc::new(home.engine.clone()),
        driver: Arc::new(ThreadDriver { engine_threads: 1 }),
        engine_panics,
        events: Arc::new(move |event| drop(tell.send(event))),
    };
    let node = tokio::spawn(run(config, parts, async {
        let _ = stopped.await;
    }));
    Run {
        net: net.clone(),
        name,
        disk,
        stop,
        events,
        panics,
        node,
    }
}

impl Run {
    /// Waits until the node is ready; gives whether it was a member before.
    async fn ready(&mut self) -> bool {
        let mut was_member = None;
        loop {
            let event = tokio::time::timeout(HANG, self.events.recv()).await;
            match event.expect("no hang") {
                Some(Event::Member { returning, .. }) => was_member = Some(returning),
                Some(Event::Ready) => return was_member.expect("a member before it is ready"),
                Some(Event::Peer { .. }) => {}
                None => panic!("{} ended: {:?}", self.name, (&mut self.node).await),
            }
        }
    }

    async fn ended(self) -> Result<(), Fatal> {
        let ended = tokio::time::timeout(HANG, self.node).await;
        ended.expect("no hang").expect("no panic")
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let ended = tokio::time::timeout(HANG, self.node).await;
        let ended = ended.expect("no hang").expect("no panic");
        ended.expect("a clean end");
        // A process would be gone now, and its connections with it.
        for port in [7400, 7500, 7501, 7600] {
            self.net.cut(&format!("{}:{port}", self.name));
        }
        let unlocked = async {
            while self.disk.lock(LOCK_FILE).is_err() {
                tokio::task::yield_now().await;
            }
        };
        let unlocked = tokio::time::timeout(HANG, unlocked).await;
        unlocked.expect("the store is let go");
    }

    fn channel(&self) -> Channel {
        let net: Arc<dyn Net> = Arc::new(self.net.clone());
        channel(&net, &format!("{}:7400", self.name), HANG)
    }

    async fn put(&self, key: &str, value: &str) -> Result<v1::PutResponse, Status> {
        let put = v1::PutRequest {
            key: name_of(key),
            value: value.to_owned().into(),
            ..Default::default()
        };
        let answer = KvClient::new(self.channel()).put(within(put)).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn get(&self, key: &str) -> Result<Vec<String>, Status> {
        let get = v1::GetRequest {
            key: name_of(key),
            ..Default::default()
        };
        let answer = KvClient::new(self.channel()).get(within(get)).await?;
        let siblings = answer.into_inner().siblings.into_iter();
        Ok(siblings
            .map(|s| String::from_utf8(s.value.to_vec()).expect("text"))
            .collect())
    }

    async fn status(&self) -> v1::StatusResponse {
        let answer = AdminClient::new(self.channel())
            .status(v1::StatusRequest {})
            .await;
        answer.expect("answers").into_inner()
    }
}

fn name_of(key: &str) -> Option<v1::Key> {
    Some(v1::Key {
        namespace: String::new(),
        key: key.to_owned().into(),
    })
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(5));
    request
}

const ABC: [&str; 3] = ["a", "b", "c"];

async fn three(net: &MemNet, homes: &[Home; 3], seed: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = ABC
        .into_iter()
        .zip(homes)
        .zip(seed..)
        .map(|((name, home), seed)| start(net, home, name, &ABC, seed))
        .collect();
    for run in &mut runs {
        run.ready().await;
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_found_one_cluster_stop_and_come_back() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let runs = three(&net, &homes, 10).await;
    runs[0].put("k", "v").await.expect("a quorum");
    let status = runs[1].status().await;
    assert!(
        status.nodes.iter().all(|node| node.state == "up"),
        "{status:?}"
    );
    assert_eq!(status.under_replicated, 0);
    assert_ne!(status.cluster_id, 0);
    for run in runs {
        run.stop().await;
    }
    let mut again = start(&net, &homes[2], "c", &ABC, 20);
    assert!(again.ready().await, "alone, and all the same a member");
    let refused = again.get("k").await.expect_err("one of three is no quorum");
    let failure = Failure::from_status(&refused).expect("typed");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
    let mut other = start(&net, &homes[1], "b", &ABC, 21);
    assert!(other.ready().await);
    assert_eq!(other.get("k").await.expect("a quorum"), ["v"]);
    let status = other.status().await;
    let states: Vec<_> = status
        .nodes
        .iter()
        .map(|node| node.state.as_str())
        .collect();
    assert_eq!(states, ["down", "up", "up"]);
    again.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_knows_its_node() {
    let (net, home) = (MemNet::default(), Home::new());
    let mut run = start(&net, &home, "a", &[], 1);
    assert!(!run.ready().await);
    let ended = start(&net, &home, "a", &[], 2).ended().await;
    assert!(matches!(ended, Err(Fatal::Start(_))), "locked");
    run.stop().await;
    let ended = start(&net, &home, "b", &[], 3).ended().await;
    assert!(
        matches!(&ended, Err(Fatal::Start(why)) if why.contains("directory of node a")),
        "{ended:?}"
    );
    // Named by nobody it is that node, whatever its host is called by now.
    let unnamed = Flags {
        name: None,
        ..flags("a", &[])
    };
    let host = BTreeMap::from([(HOST_NAME_ENV.to_owned(), "renamed".to_owned())]);
    let config = Config::load(&unnamed, &host, None).expect("a good configuration");
    assert_eq!(config.name, "renamed");
    let mut run = start_with(&net, &home, "a", config, 4);
    assert!(run.ready().await);
    assert_eq!(run.status().await.nodes[0].name, "a");
    run.stop().await;
}

/// A cluster of three, an image of c's directory from a clean stop, and c as it was started again after that.
async fn with_an_image_of_c(net: &MemNet, homes: &[Home; 3]) -> (Vec<Run>, Home, Run) {
    let mut runs = three(net, homes, 10).await;
    runs.pop().expect("three").stop().await;
    let image = homes[2].copy();
    let mut c = start(net, &homes[2], "c", &ABC, 40);
    c.ready().await;
    (runs, image, c)
}

/// I3: a copy that has forgotten what it acknowledged must not be read from.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_directory_counts_toward_no_read() {
    let (net, mut homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let (mut runs, backup, c) = with_an_image_of_c(&net, &homes).await;
    for i in 0..20 {
        c.put(&format!("k{i}"), "v").await.expect("a quorum");
    }
    c.stop().await;
    homes[2] = backup;
    // Without b nobody can tell all that is missing.
    runs.pop().expect("two").stop().await;
    let mut c = start(&net, &homes[2], "c", &ABC, 41);
    assert!(c.ready().await);
    let status = c.status().await;
    assert_eq!(status.nodes[2].unsynced, PARTITIONS, "{status:?}");
    let refused = c.get("k7").await.expect_err("only a's copy counts");
    let failure = Failure::from_status(&refused).expect("typed");
    assert_eq!(failure.reason, Reason::QuorumUnavailable);
    let mut b = start(&net, &homes[1], "b", &ABC, 42);
    b.ready().await;
    assert_eq!(b.get("k7").await.expect("the others are enough"), ["v"]);
    runs.push(b);
    let repaired = async {
        while c.status().await.nodes[2].unsynced > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let repaired = tokio::time::timeout(HANG, repaired).await;
    repaired.expect("what is missing comes from the others");
    c.stop().await;
    for run in runs {
        run.stop().await;
    }
}

/// A dot that the node minted just before its directory was put back may have reached nobody but a store that heard nothing else of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_from_before_the_last_start_is_known_without_any_write() {
    let (net, mut homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let (mut runs, backup, c) = with_an_image_of_c(&net, &homes).await;
    assert_eq!(c.status().await.nodes[2].unsynced, 0);
    c.stop().await;
    homes[2] = backup;
    let mut c = start(&net, &homes[2], "c", &ABC, 41);
    assert!(c.ready().await);
    let status = c.status().await;
    assert_eq!(status.nodes[2].unsynced, PARTITIONS, "{status:?}");
    runs.push(c);
    for run in runs {
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_engine_is_marked_and_set_aside_by_the_next_start() {
    let (net, home) = (MemNet::default(), Home::new());
    let mut run = start(&net, &home, "a", &[], 1);
    run.ready().await;
    run.put("drained", "v").await.expect("a quorum of one");
    let drained = async {
        while run.status().await.nodes[0].keys == 0 {
            tokio::task::yield_now().await;
        }
    };
    let drained = tokio::time::timeout(HANG, drained).await;
    drained.expect("the drain takes it to the engine");
    home.engine.fail();
    // A key that the table does not hold is asked of the engine.
    run.get("missing").await.expect_err("the engine fails");
    let ended = run.ended().await;
    assert!(matches!(ended, Err(Fatal::Engine(_))), "{ended:?}");
    // The failed node still holds its lock, as a process does until it replaces itself.
    let disk = Arc::new(RealDisk::open(home.dir.path()).expect("ours"));
    let identity = IdentityFile::load_or_create(disk, || unreachable!("it is there"));
    assert!(identity.expect("readable").current().set_aside);
    let next = Home {
        engine: home.engine.clone(),
        dir: home.copy().dir,
    };
    let mut again = start(&MemNet::default(), &next, "a", &[], 2);
    assert!(again.ready().await);
    assert_eq!(home.engine.set_aside_count(), 1);
    assert_ne!(again.status().await.nodes[0].unsynced, 0);
    let refused = again.get("drained").await.expect_err("nobody has it");
    assert!(Failure::from_status(&refused).is_some(), "{refused:?}");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_thread_of_the_engine_ends_the_node() {
    let (net, home) = (MemNet::default(), Home::new());
    let mut run = start(&net, &home, "a", &[], 1);
    run.ready().await;
    run.panics
        .send_replace(Some("thread sled-io-1 panicked".to_owned()));
    let ended = run.ended().await;
    assert_eq!(
        ended,
        Err(Fatal::Engine("thread sled-io-1 panicked".to_owned()))
    );
}
