//! What a node keeps over its restarts: its disk, its engine's medium, its clock. It lives outside of the simulated host, so
//! a crash of the host ends everything but this.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ringfort_storage::{disk::SimDisk, engine::mem::MemHome};

use super::net::SimClock;

/// Simulated time that one step of the log, of the drain or of a load takes, in ms. One tick of the simulation at least, so
/// that a crash can fall between any two.
pub const STEP_MS: u64 = 1;

/// What a node's disk held once.
pub struct Image {
    disk: SimDisk,
    engine: MemHome,
}

/// The durable side of one node. Clones share it.
#[derive(Clone)]
pub struct Medium {
    /// The data directory.
    pub disk: SimDisk,
    /// Where the engine's rows are.
    pub engine: MemHome,
    /// The node's clock.
    pub clock: SimClock,
    step_ms: Arc<AtomicU64>,
    usual_step_ms: u64,
}

impl Medium {
    /// Empty; `seed` decides what the disk's faults do, and each step usually takes `step_ms`.
    pub fn new(seed: u64, step_ms: u64) -> Self {
        let usual_step_ms = step_ms.max(STEP_MS);
        let disk = SimDisk::new(seed);
        Medium {
            engine: MemHome::beside(&disk),
            disk,
            clock: SimClock::default(),
            step_ms: Arc::new(AtomicU64::new(usual_step_ms)),
            usual_step_ms,
        }
    }

    /// How long one step takes on this disk when it is well, in ms.
    pub fn usual_step_ms(&self) -> u64 {
        self.usual_step_ms
    }

    /// How long one step takes now, in ms.
    pub fn step_ms(&self) -> u64 {
        self.step_ms.load(Ordering::Relaxed)
    }

    /// Makes each step take this long, in ms, if that is longer than usual.
    pub fn set_step_ms(&self, ms: u64) {
        let ms = ms.max(self.usual_step_ms);
        self.step_ms.store(ms, Ordering::Relaxed);
    }

    /// Cuts the power. What was not synced is kept or lost as `seed` decides.
    pub fn crash(&self, seed: u64) {
        self.disk.crash(seed);
        let pending = self.engine.pending() as u64;
        self.engine.crash((seed % (pending + 1)) as usize);
    }

    /// An image of what is on stable storage, while no node runs on it.
    pub fn image(&self) -> Image {
        Image {
            disk: self.disk.fork(),
            engine: self.engine.fork(),
        }
    }

    /// Ends the process, and puts an older image in the place of all that is there.
    pub fn restore(&self, image: &Image) {
        self.disk.restore(&image.disk);
        self.engine.restore(&image.engine);
    }

    /// Loses all that is on it: another disk, an empty one, is in its place.
    pub fn lose(&self, seed: u64) {
        self.restore(&Medium::new(seed, self.usual_step_ms).image());
    }

    /// Ends the process, not the machine: what was written stays; unless the machine has lost its power meanwhile.
    pub fn kill(&self, seed: u64) {
        if self.disk.is_cut() {
            return self.crash(seed);
        }
        self.disk.kill();
        // The engine keeps what was not flushed in its own memory, which goes with the process.
        self.engine.crash(0);
    }
}
