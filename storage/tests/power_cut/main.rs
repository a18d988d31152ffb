//! Power cuts. What the store does to its directory is recorded, system call by system call, and cut at random moments: every
//! image that a cut may leave must open with every acknowledged write in it (I1, I2).
//!
//! A failure names its seed and keeps its image. `POWER_CUT_SEED` sets the seed, `POWER_CUT_IMAGES` and
//! `POWER_CUT_FLIPS` the numbers of images for long runs.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod chance;
mod cuts;
mod disk;
mod engine;
mod file;
mod history;
mod image;
mod images;
mod judge;
mod life;
mod machines;
mod places;
mod recorder;
mod workload;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A directory in memory, if the system has such: opening a thousand images needs no real syncs.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = match memory.is_dir() {
        true => memory.to_owned(),
        false => PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
    };
    tempfile::Builder::new()
        .prefix("power-cut-")
        .tempdir_in(parent)
        .expect("a temporary directory")
}

/// A number from the environment, or the default.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}

/// Makes the tests of this program take turns: there is one recorder.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the panics within sled, which the engine catches, out of the output.
fn quiet_engine() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let location = panic.location().map_or("", |location| location.file());
        if !location.contains("/sled-") {
            loud(panic);
        }
    }));
}
