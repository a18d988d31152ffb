//! The simulation's workload and checker against real processes, while they are killed, held still, restarted and run out of disk.

use std::{fs::File, os::unix::process::ExitStatusExt, path::PathBuf, process::ExitStatus};

use ringfort_tests::{
    outside::{
        Held, Options, run,
        schedule::{Fault, Kind},
    },
    trace::Trace,
};

use crate::cluster::Cluster;

/// Nodes of the cluster: more than there are copies of a key, so that some calls are forwarded.
const NODES: usize = 4;
/// Clients at work.
const CLIENTS: usize = 6;
/// How long faults come in one storm, in ms.
const STORM_MS: u64 = 25_000;
/// A node's disk, in bytes: some segments of the log, sled, and what is left below the floors.
const DISK_BYTES: u64 = 320 << 20;
/// The nodes' floors of free space, in MiB: a new segment of the log fits between the reserve and nothing.
const FLOORS_MIB: [u64; 2] = [64, 40];
/// A full disk leaves less than this, in bytes: from above both floors to nothing.
const LEFT_BYTES_MAX: u64 = 80 << 20;
/// Looks at an ended node before it is started again.
const AWAY_LOOKS: u32 = 10;

/// Why a process may have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Die,
    Stop,
}

/// What the storm did to a node.
#[derive(Debug, Clone, Copy)]
struct Fate {
    told: Told,
    /// It stays away until the fault ends.
    is_away: bool,
    /// Its disk was full in this life.
    was_full: bool,
    /// Its disk is full.
    is_full: bool,
    /// Looks since it ended.
    away_looks: u32,
}

struct Processes {
    cluster: Cluster,
    fates: Vec<Fate>,
}

impl Processes {
    fn start(nodes: usize) -> Processes {
        let [floor, reserve] = FLOORS_MIB.map(|mib| format!("{mib}MiB"));
        let floors = [
            "--free-space-floor",
            &floor,
            "--free-space-reserve",
            &reserve,
        ];
        let mut cluster = Cluster::prepare(nodes, &floors);
        if let Err(why) = cluster.mount_disks(DISK_BYTES) {
            println!("skipped: full disks, since none can be mounted here ({why})");
        }
        cluster.start_all();
        let fate = Fate {
            told: Told::Nothing,
            is_away: false,
            was_full: false,
            is_full: false,
            away_looks: 0,
        };
        Processes {
            cluster,
            fates: vec![fate; nodes],
        }
    }

    fn kill(&mut self, i: usize) {
        self.fates[i].told = Told::Die;
        self.fates[i].is_away = true;
        self.cluster.signal(i, libc::SIGKILL);
    }

    /// Whether this end of a process is one that a fault explains.
    fn is_explained(fate: Fate, ended: ExitStatus) -> bool {
        match fate.told {
            Told::Die => true,
            // A process that has only just begun knows nothing of SIGTERM yet, and dies of it.
            Told::Stop => ended.success() || ended.signal() == Some(libc::SIGTERM) || fate.was_full,
            // The log met a disk without any room: "restart the node, which recovers what is durable".
            Told::Nothing => fate.was_full && ended.code() == Some(1),
        }
    }
}

impl Held for Processes {
    fn endpoints(&self) -> Vec<String> {
        self.cluster.endpoints()
    }

    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![Kind::Kill, Kind::KillAll, Kind::Pause, Kind::Restart];
        if !self.cluster.disks.is_empty() {
            kinds.push(Kind::FullDisk);
        }
        kinds
    }

    fn begin(&mut self, fault: &Fault) {
        match fault.kind {
            Kind::Kill => self.kill(fault.node),
            Kind::KillAll => (0..self.fates.len()).for_each(|i| self.kill(i)),
            Kind::Pause => self.cluster.signal(fault.node, libc::SIGSTOP),
            Kind::Restart => {
                self.fates[fault.node].told = Told::Stop;
                self.cluster.signal(fault.node, libc::SIGTERM);
            }
            Kind::FullDisk => {
                let fate = &mut self.fates[fault.node];
                (fate.is_full, fate.was_full) = (true, true);
                self.cluster.disks[fault.node].fill(fault.seed % LEFT_BYTES_MAX);
            }
            Kind::Cut => unreachable!("not one of the kinds"),
        }
    }

    fn end(&mut self, fault: &Fault) {
        match fault.kind {
            Kind::Kill => self.fates[fault.node].is_away = false,
            Kind::KillAll => self.fates.iter_mut().for_each(|fate| fate.is_away = false),
            Kind::Pause => self.cluster.signal(fault.node, libc::SIGCONT),
            Kind::Restart => {}
            Kind::FullDisk => {
                self.fates[fault.node].is_full = false;
                self.cluster.disks[fault.node].free();
            }
            Kind::Cut => unreachable!("not one of the kinds"),
        }
    }

    fn tend(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for i in 0..self.fates.len() {
            if let Some(ended) = self.cluster.reap(i)
                && !Self::is_explained(self.fates[i], ended)
            {
                let name = &self.cluster.nodes[i].name;
                wrong.push(format!("{name} ended by itself: {ended}"));
            }
            let runs = self.is_running(i);
            let fate = &mut self.fates[i];
            fate.away_looks = if runs || fate.is_away {
                0
            } else {
                fate.away_looks + 1
            };
            if fate.away_looks > AWAY_LOOKS {
                fate.told = Told::Nothing;
                fate.was_full = fate.is_full;
                self.cluster.spawn(i);
            }
        }
        wrong
    }

    fn is_running(&mut self, node: usize) -> bool {
        self.cluster.is_running(node)
    }

    fn is_ready(&mut self, node: usize) -> bool {
        self.cluster.is_ready(node)
    }
}

fn storm(seed: u64) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("storm-{seed}.trace"));
    let file = File::create(&path).expect("a file for the trace");
    let trace = Trace::to_file(file).in_real_time();
    let mut processes = Processes::start(NODES);
    let options = Options {
        seed,
        clients: CLIENTS,
        storm_ms: STORM_MS,
    };
    let report = run(&mut processes, &options, &trace);
    trace.flush().expect("the trace is written");
    let (kinds, mut cluster) = (processes.kinds(), processes.cluster);
    if !report.wrong.is_empty() {
        for i in 0..NODES {
            let log = path.with_extension(format!("{}.log", cluster.nodes[i].name));
            std::fs::write(log, cluster.log(i)).expect("the node's words");
        }
    }
    report.assert_well(&options, &kinds, &path.display().to_string());
    for i in 0..NODES {
        assert!(cluster.terminate(i).success(), "{}", cluster.log(i));
        assert!(!cluster.log(i).contains("panicked"), "{}", cluster.log(i));
    }
}

#[test]
fn real_processes_keep_every_promise_in_a_storm() {
    Options::seeds().for_each(storm);
}
