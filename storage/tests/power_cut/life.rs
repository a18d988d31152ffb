//! One recorded run of a store: real files and a real sled, small limits, a seeded workload, one thread that takes the
//! steps of the log and of the drain in between. sled's own threads are all that a seed does not fix.

use std::path::Path;
use std::sync::Arc;

use ringfort_storage::Key;
use ringfort_storage::disk::RealDisk;
use ringfort_storage::engine::sled::SledHome;
use ringfort_storage::store::{OpenError, Opened, Store, StoreConfig, StoreParts};

use crate::chance::Chance;
use crate::history::History;
use crate::image::Image;
use crate::recorder::{self, Trace};
use crate::workload::Run;

/// Q. Enough that a slot of the checkpoint takes several blocks, and can be torn.
pub const PARTITIONS: u32 = 64;
/// Small enough that a life freezes a dozen times by size.
const TABLE_BYTES: usize = 512 << 10;
/// Small enough that segments are used again.
const SEGMENT_BYTES: u64 = 128 << 10;
const CACHE_BYTES: u64 = 1 << 20;
/// Small enough that the engine is renewed several times in a life, in many steps.
const RENEW_OFFSET_BYTES: u64 = 0;
const RENEW_STEP_ROWS: usize = 16;
/// Steps after which threads that are still behind are given up.
const MORE_STEPS_MAX: usize = 100_000;
/// Keys in use.
pub const KEYS: usize = 48;

/// A recorded run.
pub struct Life {
    pub trace: Trace,
    pub history: History,
    /// Positions at which the log was durable and sealed.
    pub sealed: Vec<usize>,
    /// Changes that the log took.
    pub changes: usize,
    /// Changes of hints.
    pub hints: usize,
    pub drains: u64,
    /// Times that the engine was renewed.
    pub renewals: u64,
    /// The directory at the end.
    pub end: Image,
}

/// Whether so much has happened in a life that its images show something.
pub fn is_enough(changes: usize, hints: usize, drains: u64) -> bool {
    drains > 1 && changes > 100 && hints > 10
}

/// Opens the store of a directory as every run here does.
pub fn open(root: &Path, chance: &mut Chance) -> Result<Opened, OpenError> {
    let mut ids = chance.fork();
    let parts = StoreParts {
        disk: Arc::new(RealDisk::open(root)?),
        engine: Arc::new(SledHome::new(root.join("sled"), CACHE_BYTES)),
        chance: Box::new(move || ids.next()),
    };
    let config = StoreConfig {
        table_bytes: TABLE_BYTES,
        segment_bytes: SEGMENT_BYTES,
        renew_offset_bytes: RENEW_OFFSET_BYTES,
        renew_step_rows: RENEW_STEP_ROWS,
        ..StoreConfig::new("node-1", PARTITIONS)
    };
    Store::open(parts, &config)
}

/// The keys of every life, in no order.
pub fn keys() -> Vec<Key> {
    let key = |number: usize| {
        let name = format!("key-{number}");
        // Each two share a token.
        let token = (number as u64 / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Key::new(token, b"cut", name.as_bytes()).expect("a short key")
    };
    (0..KEYS).map(key).collect()
}

/// Records `steps` steps of a workload in `root`, which holds what `history` says: on production's threads, or stepped by
/// this one; with an orderly stop at the end, as threads need, or without.
pub fn record(
    root: &Path,
    history: History,
    steps: usize,
    threads: bool,
    stop: bool,
    mut chance: Chance,
) -> Life {
    recorder::start(root);
    let opened = open(root, &mut chance).expect("opens");
    let mut run = Run::new(opened, threads, history, chance);
    run.mark();
    for _ in 0..steps {
        run.step();
    }
    // Threads work in their own time: while they are behind, most changes are refused.
    for _ in 0..MORE_STEPS_MAX {
        if !threads || run.is_enough() {
            break;
        }
        run.step();
    }
    match stop {
        true => run.close(),
        false => run.seal(),
    }
    let end = Image::read(root);
    let trace = recorder::stop();
    // The store is dropped unrecorded: a process that loses power does not close sled.
    run.into_life(trace, end)
}
