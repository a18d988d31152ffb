//! sled 0.34.7 (exact pin) as the engine in production. Keeps I1 and "nothing unverified is served":
//!
//! - every call is guarded: sled panics on damage (half the opens after one flipped byte) and a panic becomes a typed
//!   error; an engine that failed once is never dropped, because dropping sled flushes it;
//! - a flush is durable only because `engine::sync` replaces `sync_file_range`; checked at each open;
//! - `apply_batch`, transactions and `Tree::checksum` are never called: from their first use on, every read takes a
//!   process-wide lock. `flush_async` can deadlock, and the periodic flush ignores failed syncs: both unused.

mod generations;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use self::generations::{Generations, sync_directory, sync_parent};
use super::{
    Engine, EngineError, EngineHome, Row, RowIter, SET_ASIDE_MAX, guard, is_of_the_machine, sync,
};

/// Default size of sled's page cache in bytes. Resident memory runs to a few times this figure.
pub const CACHE_BYTES_DEFAULT: u64 = 64 << 20;

/// The row, in a tree of its own, that each open writes to see a flush reach the disk.
const PROBE: &[u8] = b"probe";

/// Tries to open files that are still locked, and the rest between two: sled's threads hold them for a moment after its
/// handle is closed.
const LOCKED_TRIES_MAX: usize = 100;
const LOCKED_REST: Duration = Duration::from_millis(20);

/// What sled says when the files are locked; it has no error of its own for that.
const LOCKED: &str = "could not acquire lock";

/// How sled names a snapshot that it has not finished.
const UNFINISHED_SNAPSHOT: &str = ".generating";

/// A directory that holds one sled database, and its generations beside it.
#[derive(Debug, Clone)]
pub struct SledHome {
    directory: PathBuf,
    generations: Generations,
    /// The generation in use.
    current: Arc<AtomicU64>,
    cache_bytes: u64,
}

impl SledHome {
    /// sled in `directory` (made when missing, with its parents) with `cache_bytes` of page cache.
    pub fn new(directory: impl Into<PathBuf>, cache_bytes: u64) -> Self {
        let directory = directory.into();
        Self {
            generations: Generations::new(directory.clone()),
            directory,
            current: Arc::default(),
            cache_bytes,
        }
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.directory.as_os_str().to_owned();
        name.push(format!(".aside-{number}"));
        PathBuf::from(name)
    }

    fn move_aside(&self) -> std::io::Result<()> {
        let newest = self.generations.newest()?;
        // The next open would take an older one for the current one.
        self.generations.keep(newest)?;
        let current = self.generations.path(newest);
        if !current.exists() {
            return Ok(());
        }
        // Number 1 is the newest; the others move up by one, the last goes.
        let oldest = self.aside(SET_ASIDE_MAX as u32);
        if oldest.exists() {
            std::fs::remove_dir_all(oldest)?;
        }
        for number in (1..SET_ASIDE_MAX as u32).rev() {
            if self.aside(number).exists() {
                std::fs::rename(self.aside(number), self.aside(number + 1))?;
            }
        }
        std::fs::rename(current, self.aside(1))?;
        sync_parent(&self.directory)
    }

    /// Opens or makes the database of a generation, durably.
    fn open_generation(&self, number: u64) -> Result<Arc<dyn Engine>, EngineError> {
        let directory = self.generations.path(number);
        remove_unfinished(&directory).map_err(|e| io_failed("open", &e))?;
        let mut tries_left = LOCKED_TRIES_MAX;
        let engine = loop {
            match SledEngine::open(&directory, self.cache_bytes) {
                Err(EngineError::InUse(_)) if tries_left > 0 => tries_left -= 1,
                opened => break opened?,
            }
            std::thread::sleep(LOCKED_REST);
        };
        sync_files(&directory)
            .and_then(|()| sync_directory(&directory))
            .and_then(|()| sync_parent(&directory))
            .map_err(|e| io_failed("open", &e))?;
        Ok(Arc::new(engine))
    }
}

impl EngineHome for SledHome {
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let newest = self.generations.newest();
        let newest = newest.map_err(|e| io_failed("open", &e))?;
        let engine = self.open_generation(newest)?;
        self.current.store(newest, Ordering::Release);
        // Its mark is synced by now. Before that, a power cut could have taken it back, and the former one is needed.
        if let Err(error) = self.generations.keep(newest) {
            tracing::warn!(%error, "files of an engine that is not used any more could not be removed");
        }
        Ok(engine)
    }

    fn set_aside(&self) -> Result<(), EngineError> {
        self.move_aside().map_err(|e| io_failed("set aside", &e))
    }

    fn begin_copy(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let current = self.current.load(Ordering::Acquire);
        // Of an earlier copy, if it could not be removed when it ended.
        self.generations
            .keep(current)
            .map_err(|e| io_failed("begin a copy", &e))?;
        self.open_generation(current + 1)
    }

    fn complete_copy(&self) -> Result<(), EngineError> {
        let copy = self.current.load(Ordering::Acquire) + 1;
        self.generations
            .complete(copy)
            .map_err(|e| io_failed("complete a copy", &e))?;
        self.current.store(copy, Ordering::Release);
        Ok(())
    }

    fn discard(&self) -> Result<(), EngineError> {
        self.generations
            .keep(self.current.load(Ordering::Acquire))
            .map_err(|e| io_failed("discard", &e))
    }
}

/// An open sled database. Dropped, it closes sled, unless a call failed: then sled is leaked, because its
/// drop would flush a state that nobody can vouch for.
pub struct SledEngine {
    /// None only while it is dropped.
    db: Option<::sled::Db>,
    directory: PathBuf,
    failed: AtomicBool,
}

impl SledEngine {
    fn open(directory: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        let db = guard("open", || {
            ::sled::Config::new()
                .path(directory)
                .cache_capacity(cache_bytes)
                .flush_every_ms(None)
                .open()
                .map_err(|e| match failed("open", &e) {
                    EngineError::Failed { detail, .. } if detail.contains(LOCKED) => {
                        EngineError::InUse(detail)
                    }
                    error => error,
                })
        })?;
        let engine = Self {
            db: Some(db),
            directory: directory.to_owned(),
            failed: AtomicBool::new(false),
        };
        engine.prove_flush()?;
        Ok(engine)
    }

    /// Writes a row and sees that flushing it reached `fdatasync`.
    fn prove_flush(&self) -> Result<(), EngineError> {
        let before = sync::count();
        self.run("probe", || {
            let probes = self
                .db()
                .open_tree(PROBE)
                .map_err(|e| failed("probe", &e))?;
            let last = probes.get(PROBE).map_err(|e| failed("probe", &e))?;
            // A row that does not change might not be written at all.
            let turn = last
                .and_then(|row| row.first().copied())
                .unwrap_or(0)
                .wrapping_add(1);
            probes
                .insert(PROBE, &[turn])
                .map_err(|e| failed("probe", &e))?;
            Ok(())
        })?;
        self.flush()?;
        if sync::count() == before {
            self.failed.store(true, Ordering::Release);
            return Err(EngineError::FlushNotDurable);
        }
        Ok(())
    }

    fn db(&self) -> &::sled::Db {
        self.db.as_ref().expect("taken by drop alone")
    }

    fn run<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let result = guard(operation, call);
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.run("get", || {
            self.db()
                .get(key)
                .map(copied)
                .map_err(|e| failed("get", &e))
        })
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.run("insert", || {
            self.db()
                .insert(key, value)
                .map(copied)
                .map_err(|e| failed("insert", &e))
        })
    }

    fn remove(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.run("remove", || {
            self.db()
                .remove(key)
                .map(copied)
                .map_err(|e| failed("remove", &e))
        })
    }

    fn range(&self, first: &[u8], end: Option<&[u8]>) -> RowIter<'_> {
        let rows = match end {
            Some(end) if end <= first => return Box::new(std::iter::empty()),
            Some(end) => self.db().range(first.to_vec()..end.to_vec()),
            None => self.db().range(first.to_vec()..),
        };
        Box::new(SledIter {
            engine: self,
            rows: Some(rows),
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.run("flush", || {
            self.db().flush().map(drop).map_err(|e| failed("flush", &e))
        })
    }

    fn disk_bytes(&self) -> std::io::Result<u64> {
        // Its file of pages and its snapshots; blobs it has none.
        let mut bytes = 0;
        for entry in std::fs::read_dir(&self.directory)? {
            let status = entry?.metadata()?;
            if status.is_file() {
                bytes += status.len();
            }
        }
        Ok(bytes)
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        let db = self.db.take();
        if self.failed.load(Ordering::Acquire) {
            std::mem::forget(db);
            return;
        }
        // A failure here loses nothing: what counts was flushed by the drain.
        let _ = guard("close", || {
            drop(db);
            Ok(())
        });
    }
}

struct SledIter<'a> {
    engine: &'a SledEngine,
    /// None after a failure.
    rows: Option<::sled::Iter>,
}

impl Iterator for SledIter<'_> {
    type Item = Result<Row, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.rows.as_mut()?;
        let next = self.engine.run("range", || {
            rows.next().transpose().map_err(|e| failed("range", &e))
        });
        match next {
            Ok(row) => row.map(|(key, value)| {
                Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            }),
            Err(error) => {
                // Never touched again, not even to be dropped.
                std::mem::forget(self.rows.take());
                Some(Err(error))
            }
        }
    }
}

fn copied(row: Option<::sled::IVec>) -> Option<Bytes> {
    row.map(|bytes| Bytes::copy_from_slice(&bytes))
}

fn failed(operation: &'static str, error: &::sled::Error) -> EngineError {
    match error {
        ::sled::Error::Io(error) => io_failed(operation, error),
        _ => EngineError::Failed {
            operation,
            detail: error.to_string(),
        },
    }
}

fn io_failed(operation: &'static str, error: &std::io::Error) -> EngineError {
    let detail = error.to_string();
    match is_of_the_machine(error) && !sync::has_failed() {
        true => EngineError::Unavailable { operation, detail },
        false => EngineError::Failed { operation, detail },
    }
}

/// Removes snapshots that a crash left unfinished: sled would take one for its newest, and refuse to open. The last
/// finished one is still there.
fn remove_unfinished(directory: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let unfinished = path.as_os_str().as_encoded_bytes();
        if unfinished.ends_with(UNFINISHED_SNAPSHOT.as_bytes()) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Makes the files of a new database durable: sled never syncs the configuration that it keeps beside its pages, and
/// refuses to open without it.
fn sync_files(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::File::open(entry.path())?.sync_all()?;
        }
    }
    Ok(())
}
