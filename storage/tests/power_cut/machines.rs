//! What drives a store: one thread that takes the steps of the log and of the drain between its own, so that a seed
//! fixes their order; or production's threads.

use std::time::Duration;

use ringfort_storage::driver::{Threads, spawn_threads};
use ringfort_storage::log::{Log, LogStep, LogWriter};
use ringfort_storage::store::{DrainStep, Drainer, Opened, Store};

/// How long the workload lets production's threads work.
const REST: Duration = Duration::from_millis(1);

pub enum Machines {
    Stepped {
        log: Log,
        writer: LogWriter,
        drainer: Box<Drainer>,
    },
    Threads(Threads),
}

impl Machines {
    /// The store with what drives it.
    pub fn new(opened: Opened, threads: bool) -> (Store, Self) {
        let store = opened.store.clone();
        if threads {
            let (threads, _) = spawn_threads(opened, 1).expect("threads start");
            return (store, Self::Threads(threads));
        }
        let Opened {
            log,
            writer,
            drainer,
            ..
        } = opened;
        let stepped = Self::Stepped {
            log,
            writer,
            drainer: Box::new(drainer),
        };
        (store, stepped)
    }

    /// One step of the log. False: there was nothing to do.
    pub fn log(&mut self) -> bool {
        match self {
            Self::Stepped { writer, .. } => match writer.step().expect("the disk works") {
                LogStep::Worked => true,
                LogStep::Idle | LogStep::Closed => false,
                LogStep::Full => panic!("the disk has space"),
            },
            Self::Threads(_) => {
                std::thread::sleep(REST);
                false
            }
        }
    }

    /// One step of the drain. False: it is closed.
    pub fn drain(&mut self, now_ms: u64) -> bool {
        match self {
            Self::Stepped { drainer, .. } => {
                drainer.step(now_ms).expect("the disk works") != DrainStep::Closed
            }
            Self::Threads(_) => true,
        }
    }

    /// Takes a step toward a log with everything durable and sealed. True: it is. Threads seal by themselves, in
    /// their own time.
    pub fn seal(&mut self) -> bool {
        if self.log() {
            return false;
        }
        match self {
            Self::Stepped { writer, .. } if writer.is_sealed() => true,
            Self::Stepped { writer, .. } => {
                writer.seal();
                false
            }
            Self::Threads(_) => true,
        }
    }

    pub fn are_threads(&self) -> bool {
        matches!(self, Self::Threads(_))
    }

    /// Stops in order; `between` is called between any two steps.
    pub fn close(mut self, store: &Store, mut now_ms: u64, mut between: impl FnMut()) {
        store.close();
        while !self.are_threads() && self.drain(now_ms) {
            now_ms += 1;
            between();
            while self.log() {
                between();
            }
        }
        match self {
            Self::Threads(threads) => threads.close().expect("the disk works"),
            Self::Stepped {
                log, mut writer, ..
            } => {
                log.close();
                while writer.step().expect("the disk works") != LogStep::Closed {
                    between();
                }
            }
        }
        between();
    }
}
