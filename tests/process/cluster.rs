//! Real nodes: one process each, real disks, real sockets on the loopback, ended by their own ids.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use ringfort_tests::outside::http;

use crate::small_disk::SmallDisk;

/// Time between two looks at a node.
const LOOK: Duration = Duration::from_millis(20);
/// Looks until a test gives up on a node that is to become ready: a minute.
const READY_LOOKS_MAX: u32 = 3_000;
/// Looks until a test gives up on a node that is to end: half a minute.
const EXIT_LOOKS_MAX: u32 = 1_500;

/// The binary under test.
pub fn ringfort() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringfort-under-test"))
}

/// One node: its addresses, its data directory, and its process while it runs.
pub struct Node {
    pub name: String,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub http: SocketAddr,
    pub data_dir: PathBuf,
    /// Whether it came to a cluster that was there.
    joins: bool,
    process: Option<Child>,
}

/// A cluster in a temporary directory. Dropping it ends what still runs.
pub struct Cluster {
    pub nodes: Vec<Node>,
    initial: String,
    extra: Vec<String>,
    /// The limit of open files, if it is not that of the test.
    open_files: Option<u32>,
    /// Disks of the nodes, if they have their own.
    pub disks: Vec<SmallDisk>,
    // Last, so that it goes when nothing is mounted in it any more.
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts `count` nodes and waits until all are ready.
    pub fn start(count: usize) -> Cluster {
        Cluster::start_with(count, &[])
    }

    /// Starts `count` nodes with further arguments to `serve`, and waits until all are ready.
    pub fn start_with(count: usize, extra: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(count, extra);
        cluster.start_all();
        cluster
    }

    /// Chooses ports and directories, and starts nothing.
    pub fn prepare(count: usize, extra: &[&str]) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ports = free_ports(3 * count);
        let nodes: Vec<Node> = (0..count)
            .map(|i| Node {
                name: format!("n{}", i + 1),
                client: ports[3 * i],
                peer: ports[3 * i + 1],
                http: ports[3 * i + 2],
                data_dir: dir.path().join(format!("n{}", i + 1)),
                joins: false,
                process: None,
            })
            .collect();
        let initial = nodes
            .iter()
            .map(|node| format!("{}={}", node.name, node.peer))
            .collect::<Vec<_>>()
            .join(",");
        Cluster {
            nodes,
            initial,
            extra: extra.iter().map(|arg| (*arg).to_owned()).collect(),
            open_files: None,
            disks: Vec::new(),
            dir,
        }
    }

    /// Starts every node that does not run, side by side, and waits until all are ready.
    pub fn start_all(&mut self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].process.is_none() {
                self.spawn(i);
            }
        }
        for i in 0..self.nodes.len() {
            self.wait_ready(i);
        }
    }

    /// Starts a node that is on no list and is to find the cluster by a seed; does not wait for it. Gives its number.
    pub fn join(&mut self, name: &str) -> usize {
        let ports = free_ports(3);
        self.nodes.push(Node {
            name: name.to_owned(),
            client: ports[0],
            peer: ports[1],
            http: ports[2],
            data_dir: self.dir.path().join(format!("{name}-{}", ports[0].port())),
            joins: true,
            process: None,
        });
        let i = self.nodes.len() - 1;
        self.spawn(i);
        i
    }

    /// Gives each node a disk of its own of `bytes`. To be called before any is started.
    ///
    /// # Errors
    /// The machine's words, if it allows no mounts: the nodes then share the disk of the test.
    pub fn mount_disks(&mut self, bytes: u64) -> Result<(), String> {
        let disks: Result<Vec<SmallDisk>, String> = self
            .nodes
            .iter()
            .map(|node| {
                SmallDisk::mount(self.dir.path().join(format!("{}-disk", node.name)), bytes)
            })
            .collect();
        self.disks = disks?;
        for (node, disk) in self.nodes.iter_mut().zip(&self.disks) {
            node.data_dir = disk.path().join("data");
        }
        Ok(())
    }

    /// Nodes that are started from now on may have so many files open.
    pub fn limit_open_files(&mut self, most: u32) {
        self.open_files = Some(most);
    }

    /// The command that serves node `i`.
    pub fn command(&self, i: usize) -> Command {
        let node = &self.nodes[i];
        let mut command = ringfort();
        if let Some(most) = self.open_files {
            let binary = command.get_program().to_owned();
            command = Command::new("sh");
            let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
            command.arg("-c").arg(script).arg(binary);
        }
        command
            .args(["serve", "--name", &node.name])
            .arg("--data-dir")
            .arg(&node.data_dir)
            .args(["--client-addr", &node.client.to_string()])
            .args(["--peer-addr", &node.peer.to_string()])
            .args(["--http-addr", &node.http.to_string()])
            .args(match node.joins {
                true => ["--seeds".to_owned(), self.nodes[0].peer.to_string()],
                false => ["--initial".to_owned(), self.initial.clone()],
            })
            .args(&self.extra);
        command
    }

    /// Starts node `i` and does not wait for it. What it says goes to [`Self::log_path`], after what it said before.
    pub fn spawn(&mut self, i: usize) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path(i))
            .expect("the node's log file");
        let child = self
            .command(i)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.nodes[i].process = Some(child);
    }

    /// Where node `i`'s words go.
    pub fn log_path(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.nodes[i].name))
    }

    /// What node `i` said so far.
    pub fn log(&self, i: usize) -> String {
        std::fs::read_to_string(self.log_path(i)).unwrap_or_default()
    }

    /// Starts node `i` again and waits until it is ready.
    pub fn restart(&mut self, i: usize) {
        self.spawn(i);
        self.wait_ready(i);
    }

    /// kill -9, and waits until the process is gone.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut child) = self.nodes[i].process.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process is our child");
        }
    }

    /// kill -9 of all at once, then waits until all are gone.
    pub fn kill_all(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.process {
                child.kill().expect("the process is ours");
            }
        }
        for i in 0..self.nodes.len() {
            self.kill(i);
        }
    }

    /// Sends SIGTERM to node `i` and waits for its end.
    pub fn terminate(&mut self, i: usize) -> ExitStatus {
        assert!(self.is_running(i), "{i} runs:\n{}", self.log(i));
        self.signal(i, libc::SIGTERM);
        for _ in 0..EXIT_LOOKS_MAX {
            if let Some(status) = self.reap(i) {
                return status;
            }
            std::thread::sleep(LOOK);
        }
        self.kill(i);
        panic!("{} did not end after SIGTERM:\n{}", i, self.log(i));
    }

    /// Waits until node `i` ends by itself.
    pub fn ended(&mut self, i: usize) -> ExitStatus {
        for _ in 0..EXIT_LOOKS_MAX {
            if let Some(status) = self.reap(i) {
                return status;
            }
            std::thread::sleep(LOOK);
        }
        panic!("{} does not end:\n{}", self.nodes[i].name, self.log(i));
    }

    /// Sends a signal to node `i`, if it runs.
    pub fn signal(&self, i: usize, number: i32) {
        if let Some(child) = &self.nodes[i].process {
            signal(child, number);
        }
    }

    /// How node `i`'s process ended, if it has: told once.
    pub fn reap(&mut self, i: usize) -> Option<ExitStatus> {
        let child = self.nodes[i].process.as_mut()?;
        let status = child.try_wait().expect("our child")?;
        self.nodes[i].process = None;
        Some(status)
    }

    /// Whether node `i`'s process still runs.
    pub fn is_running(&mut self, i: usize) -> bool {
        match &mut self.nodes[i].process {
            Some(child) => child.try_wait().expect("our child").is_none(),
            None => false,
        }
    }

    /// The client addresses, as `--endpoints` takes them.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.client.to_string()).collect()
    }

    /// Whether node `i` serves clients.
    pub fn is_ready(&self, i: usize) -> bool {
        http::status(&self.nodes[i].http.to_string(), "/readyz") == Some(200)
    }

    /// Waits until node `i` serves clients.
    pub fn wait_ready(&mut self, i: usize) {
        for _ in 0..READY_LOOKS_MAX {
            if self.is_ready(i) {
                return;
            }
            if !self.is_running(i) {
                panic!(
                    "{} ended at its start:\n{}",
                    self.nodes[i].name,
                    self.log(i)
                );
            }
            std::thread::sleep(LOOK);
        }
        panic!("{} is not ready:\n{}", self.nodes[i].name, self.log(i));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for i in 0..self.nodes.len() {
                eprintln!("--- {} said:\n{}", self.nodes[i].name, tail(&self.log(i)));
            }
        }
        self.kill_all();
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

fn signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).expect("a pid is an i32");
    // SAFETY: kill(2) takes no pointers; the pid is that of a child not yet waited for, so it cannot name another process.
    #[allow(unsafe_code)]
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "the process is ours");
}

/// Ports that were free a moment ago. They are held together, so that all differ; and each call has a loopback address of its own,
/// where the machine has several (Linux), so that nobody takes the port of a node that is down.
pub fn free_ports(count: usize) -> Vec<SocketAddr> {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high, low, CALLS.fetch_add(1, Ordering::Relaxed));
    let own = TcpListener::bind((own, 0)).map_or(Ipv4Addr::LOCALHOST, |_| own);
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((own, 0)).expect("a free port"))
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().expect("it is bound"))
        .collect()
}

/// Copies a directory tree of plain files.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the target");
    for entry in std::fs::read_dir(from).expect("the source") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copied file");
        }
    }
}
