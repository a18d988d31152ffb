//! Renewing an engine: all its rows move into a fresh one beside it, which then takes its place. An engine may never give
//! back what it took from the disk (sled fills the gaps in its file, and cuts it at the end alone), so this is how space returns.
//!
//! *Invariant:* whatever a crash leaves, the next open finds one engine, with every row that a flush made durable:
//!
//! - the copy holds exactly the rows up to the last key copied: what changes there changes in both. A change behind that
//!   key is met when the copy gets there;
//! - the copy is flushed, completed and switched to without a change in between, so both engines hold the same rows when
//!   the next open begins to prefer the copy. From then on only the copy is changed and flushed. Until then the copy owes nothing:
//!   a flush is for the current engine alone;
//! - the copy takes the place only if it holds as many rows and bytes as the old one is known to: a damaged
//!   engine may hide rows from whoever reads it through, and they would be lost without a word.
//!
//! Only the drain changes an engine, and it alone calls what is here beside the [`Engine`]'s own methods. Readers keep
//! the engine that they began a call with; the old one is closed, and its files go, when the last has left it.
//!
//! An error of the copy ends the copy and nothing else. One of the current engine is a failure of the engine, as ever.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use super::{Engine, EngineError, EngineHome, Row, RowIter};

/// Bytes that one step copies at most, but for its last row.
const STEP_BYTES_MAX: usize = 128 << 10;

/// Copied bytes after which the copy is flushed, so that no flush, the last one least of all, keeps the drain for long.
const FLUSH_BYTES: u64 = 8 << 20;

/// Rows that an iterator first asks for, and at most asks for, at once; a few are all that many readers want.
const PAGE_ROWS_MIN: usize = 16;
const PAGE_ROWS_MAX: usize = 256;
const PAGE_BYTES_MAX: usize = 128 << 10;

/// What the rows of an engine come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    /// Their number.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl Live {
    /// Counts a row that is there.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.change(key, None, Some(value));
    }

    /// Counts a change of a row.
    pub fn change(&mut self, key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>) {
        let bytes = |value: &[u8]| (key.len() + value.len()) as u64;
        if let Some(after) = after {
            self.rows += 1;
            self.bytes += bytes(after);
        }
        if let Some(before) = before {
            // A damaged engine may give back what it never showed.
            self.rows = self.rows.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes(before));
        }
    }
}

/// What a step of copying came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyStep {
    /// There is more to do.
    Copied,
    /// The copy is the current engine now.
    Switched,
    /// The copy is gone: it failed, and why. The current engine is well.
    GivenUp(String),
}

/// An engine that can be renewed while it is in use.
pub struct Renewing {
    home: Arc<dyn EngineHome>,
    current: RwLock<Arc<dyn Engine>>,
    /// Held while a step copies, flushes, or closes an engine: for the drain's thread alone.
    renewal: Mutex<Renewal>,
    /// For whoever asks without that lock: bytes of the current engine's rows, and how often it was renewed.
    live_bytes: AtomicU64,
    renewals: AtomicU64,
}

struct Renewal {
    /// What the current engine holds.
    live: Live,
    copy: Option<Copying>,
    /// Why the copy was given up, until a step has told.
    given_up: Option<String>,
    /// The engine that was current before, while readers may have it.
    superseded: Option<Arc<dyn Engine>>,
}

struct Copying {
    engine: Arc<dyn Engine>,
    reached: Reached,
    live: Live,
    unflushed_bytes: u64,
}

/// How far a copy has come.
enum Reached {
    Nothing,
    /// All rows up to this key.
    Key(Bytes),
    /// All rows.
    End,
}

impl Copying {
    fn covers(&self, key: &[u8]) -> bool {
        match &self.reached {
            Reached::Nothing => false,
            Reached::Key(last) => key <= &last[..],
            Reached::End => true,
        }
    }

    /// Puts a row, or (None) removes it.
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), EngineError> {
        let before = put(&*self.engine, key, value)?;
        self.live.change(key, before.as_deref(), value);
        self.unflushed_bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        self.unflushed_bytes = 0;
        self.engine.flush()
    }

    /// Puts a page of rows; the last if it `ends`.
    fn take(&mut self, rows: Vec<Row>, ends: bool) -> Result<(), EngineError> {
        for (key, value) in rows {
            self.put(&key, Some(&value))?;
            self.reached = Reached::Key(key);
        }
        if ends {
            self.reached = Reached::End;
        }
        match ends || self.unflushed_bytes >= FLUSH_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }
}

impl Renewing {
    /// The engine that `home` gave, and what it holds.
    pub fn new(home: Arc<dyn EngineHome>, engine: Arc<dyn Engine>, live: Live) -> Self {
        Self {
            home,
            current: RwLock::new(engine),
            renewal: Mutex::new(Renewal {
                live,
                copy: None,
                given_up: None,
                superseded: None,
            }),
            live_bytes: AtomicU64::new(live.bytes),
            renewals: AtomicU64::new(0),
        }
    }

    /// What the engine holds; waits for a step that copies.
    pub fn live(&self) -> Live {
        self.renewal().live
    }

    /// Bytes of the rows that the engine holds; waits for nobody.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// How often the engine was renewed.
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// Whether a copy goes on, or its end has yet to be told by a step.
    pub fn is_copying(&self) -> bool {
        let renewal = self.renewal();
        renewal.copy.is_some() || renewal.given_up.is_some()
    }

    /// Begins a copy. To be called with none under way, and nothing [to be removed](Self::remove_superseded).
    ///
    /// # Errors
    /// Of the copy; the current engine is well.
    pub fn begin_copy(&self) -> Result<(), EngineError> {
        let mut renewal = self.renewal();
        debug_assert!(renewal.copy.is_none() && renewal.superseded.is_none());
        let engine = self
            .home
            .begin_copy()
            .inspect_err(|_| self.discard_copy(None))?;
        renewal.copy = Some(Copying {
            engine,
            reached: Reached::Nothing,
            live: Live::default(),
            unflushed_bytes: 0,
        });
        Ok(())
    }

    /// Copies up to `rows_max` rows; after the last, puts the copy in the place of the current engine.
    ///
    /// # Errors
    /// Of the current engine.
    pub fn copy_step(&self, rows_max: usize) -> Result<CopyStep, EngineError> {
        let mut renewal = self.renewal();
        let Some(mut copy) = renewal.copy.take() else {
            self.discard_copy(None);
            let why = renewal.given_up.take();
            return Ok(CopyStep::GivenUp(why.unwrap_or_default()));
        };
        let first = match &copy.reached {
            Reached::Nothing => Bytes::new(),
            Reached::Key(last) => after(last),
            Reached::End => return self.finish(&mut renewal, copy),
        };
        let page = Page::read(&*self.current(), &first, None, rows_max, STEP_BYTES_MAX)?;
        if let Err(error) = copy.take(page.rows, page.ends) {
            self.discard_copy(Some(copy));
            return Ok(CopyStep::GivenUp(error.to_string()));
        }
        renewal.copy = Some(copy);
        Ok(CopyStep::Copied)
    }

    /// Ends a copy, if there is one.
    pub fn end_copy(&self) {
        let mut renewal = self.renewal();
        let copy = renewal.copy.take();
        let given_up = renewal.given_up.take();
        if copy.is_some() || given_up.is_some() {
            self.discard_copy(copy);
        }
    }

    /// Closes what the last copy has superseded and removes its files, once no reader has it any more. True: there is
    /// nothing left to be removed.
    pub fn remove_superseded(&self) -> bool {
        let mut renewal = self.renewal();
        // Nobody gets it any more: one that is held here alone stays so.
        let Some(superseded) = renewal
            .superseded
            .take_if(|old| Arc::strong_count(old) == 1)
        else {
            return renewal.superseded.is_none();
        };
        drop(superseded);
        self.discard_copy(None);
        true
    }

    fn finish(&self, renewal: &mut Renewal, mut copy: Copying) -> Result<CopyStep, EngineError> {
        if copy.live != renewal.live {
            let why = format!(
                "it holds {:?}, and the engine {:?}",
                copy.live, renewal.live
            );
            self.discard_copy(Some(copy));
            return Ok(CopyStep::GivenUp(why));
        }
        if let Err(error) = copy.flush() {
            self.discard_copy(Some(copy));
            return Ok(CopyStep::GivenUp(error.to_string()));
        }
        if let Err(error) = self.home.complete_copy() {
            drop(copy);
            // Unless this works, the next open may take the copy, which would then miss what is written from now on.
            self.home.discard()?;
            return Ok(CopyStep::GivenUp(error.to_string()));
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        renewal.superseded = Some(std::mem::replace(&mut *current, copy.engine));
        self.renewals.fetch_add(1, Ordering::Relaxed);
        Ok(CopyStep::Switched)
    }

    /// Removes what is not current. What cannot be removed now takes space until the next open, and nothing more.
    fn discard_copy(&self, copy: Option<Copying>) {
        drop(copy);
        if let Err(error) = self.home.discard() {
            tracing::warn!(%error, "files of an engine that is not used any more could not be removed");
        }
    }

    fn change(&self, key: &[u8], value: Option<&[u8]>) -> Result<Option<Bytes>, EngineError> {
        let before = put(&*self.current(), key, value)?;
        let mut renewal = self.renewal();
        renewal.live.change(key, before.as_deref(), value);
        self.live_bytes.store(renewal.live.bytes, Ordering::Relaxed);
        if let Some(copy) = renewal.copy.as_mut().filter(|copy| copy.covers(key))
            && let Err(error) = copy.put(key, value)
        {
            renewal.copy = None;
            renewal.given_up = Some(error.to_string());
        }
        Ok(before)
    }

    fn current(&self) -> Arc<dyn Engine> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    fn renewal(&self) -> MutexGuard<'_, Renewal> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Renewing {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.current().get(key)
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.change(key, Some(value))
    }

    fn remove(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.change(key, None)
    }

    fn range(&self, first: &[u8], end: Option<&[u8]>) -> RowIter<'_> {
        Box::new(RenewingIter {
            engine: self,
            page: Vec::new().into_iter(),
            next: Some(Bytes::copy_from_slice(first)),
            end: end.map(Bytes::copy_from_slice),
            rows: PAGE_ROWS_MIN,
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.current().flush()
    }

    fn disk_bytes(&self) -> std::io::Result<u64> {
        self.current().disk_bytes()
    }
}

/// Goes on from page to page, each of the engine that is current by then: they hold the same rows at the switch.
struct RenewingIter<'a> {
    engine: &'a Renewing,
    page: std::vec::IntoIter<Row>,
    /// The first key of the next page; none: there is no more.
    next: Option<Bytes>,
    end: Option<Bytes>,
    /// Rows to ask for.
    rows: usize,
}

impl Iterator for RenewingIter<'_> {
    type Item = Result<Row, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.page.next() {
            return Some(Ok(row));
        }
        let (first, current) = (self.next.take()?, self.engine.current());
        let page = Page::read(
            &*current,
            &first,
            self.end.as_deref(),
            self.rows,
            PAGE_BYTES_MAX,
        );
        match page {
            Ok(page) => {
                self.next = page.next();
                self.rows = PAGE_ROWS_MAX.min(self.rows * 2);
                self.page = page.rows.into_iter();
                self.page.next().map(Ok)
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// Consecutive rows.
struct Page {
    rows: Vec<Row>,
    /// There are no more after them.
    ends: bool,
}

impl Page {
    /// Reads rows until there are `rows_max`, or more than `bytes_max` bytes.
    fn read(
        engine: &dyn Engine,
        first: &[u8],
        end: Option<&[u8]>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Self, EngineError> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for row in engine.range(first, end) {
            let (key, value) = row?;
            bytes += key.len() + value.len();
            rows.push((key, value));
            if rows.len() == rows_max || bytes > bytes_max {
                return Ok(Self { rows, ends: false });
            }
        }
        Ok(Self { rows, ends: true })
    }

    /// Where the next page begins.
    fn next(&self) -> Option<Bytes> {
        let last = self.rows.last().filter(|_| !self.ends);
        last.map(|(key, _)| after(key))
    }
}

/// The next key that there can be.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// Puts a row, or (None) removes it, and returns what was there.
fn put(
    engine: &dyn Engine,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<Option<Bytes>, EngineError> {
    match value {
        Some(value) => engine.insert(key, value),
        None => engine.remove(key),
    }
}
