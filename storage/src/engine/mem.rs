//! An engine in memory whose durable image only `flush` moves on, so that a simulated crash loses what a real one
//! would. Stands in for sled wherever runs are simulated: dropping a sled handle flushes it, which would make every crash look clean.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Engine, EngineError, EngineHome, Row, RowIter, SET_ASIDE_MAX};
use crate::disk::SimDisk;

type Rows = BTreeMap<Bytes, Bytes>;

/// One change that no flush has made durable yet: a row put, or (None) removed.
type Change = (Bytes, Option<Bytes>);

/// One engine on the medium.
#[derive(Default)]
struct Image {
    /// What a crash leaves.
    durable: Rows,
    /// What the running engine sees.
    live: Rows,
    /// Changes since the last flush, in order.
    pending: Vec<Change>,
    /// Bytes of all rows that were ever put: like sled's file, it does not shrink.
    disk_bytes: u64,
}

#[derive(Default)]
struct Medium {
    /// The engines by number. One that is not current any more stays readable until it is discarded.
    images: BTreeMap<u64, Image>,
    current: u64,
    /// The engine begun as a copy, until it is completed or discarded.
    copy: Option<u64>,
    /// The number of the next engine: a handle on one that is gone never meets another.
    next: u64,
    set_aside: Vec<Rows>,
    /// Fails every call from now on.
    failing: bool,
    /// The same, for a reason that says nothing of what is here.
    starving: bool,
    /// Effects on copies that go well before one fails; none: all go well.
    copy_effects_left: Option<u64>,
}

impl Medium {
    fn current(&mut self) -> &mut Image {
        self.images.entry(self.current).or_default()
    }

    fn add(&mut self) -> u64 {
        self.next += 1;
        self.images.insert(self.next, Image::default());
        self.next
    }

    fn keep_current_alone(&mut self) {
        let current = self.current;
        self.images.retain(|number, _| *number == current);
        self.copy = None;
    }
}

/// A simulated disk with one engine on it. Clones share the medium; it outlives the engines opened on it.
#[derive(Clone, Default)]
pub struct MemHome {
    medium: Arc<Mutex<Medium>>,
    /// The disk of the same machine: with its power out, nothing works here either.
    disk: Option<SimDisk>,
}

impl MemHome {
    /// A medium with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// A medium with nothing on it, in the machine of this disk: they lose their power together, and the effects here
    /// count as [actions](SimDisk::cut_after) there.
    pub fn beside(disk: &SimDisk) -> Self {
        MemHome {
            disk: Some(disk.clone()),
            ..MemHome::default()
        }
    }

    /// Cuts the power: of the changes since the last flush the first `kept` survive (sled recovers a prefix of its
    /// log), the others are lost. Engines still open on this medium must not be used afterwards.
    pub fn crash(&self, kept: usize) {
        let mut medium = self.lock();
        medium.failing = false;
        // What is neither flushed nor completed is nothing that a start may rely on.
        medium.keep_current_alone();
        let image = medium.current();
        let pending = std::mem::take(&mut image.pending);
        for (key, value) in pending.into_iter().take(kept) {
            apply(&mut image.durable, key, value);
        }
        image.live = image.durable.clone();
    }

    /// Number of changes of the current engine that no flush has made durable yet.
    pub fn pending(&self) -> usize {
        self.lock().current().pending.len()
    }

    /// Lets `effects` more effects on copies go well, and the next one fail, once.
    pub fn fail_copy_after(&self, effects: u64) {
        self.lock().copy_effects_left = Some(effects);
    }

    /// Whether there is a copy that is not completed.
    pub fn has_copy(&self) -> bool {
        self.lock().copy.is_some()
    }

    /// Whether there is another engine than the current one.
    pub fn has_leftovers(&self) -> bool {
        self.lock().images.len() > 1
    }

    /// Number of engines that were set aside and kept.
    pub fn set_aside_count(&self) -> usize {
        self.lock().set_aside.len()
    }

    /// Makes every later call fail, until the next crash or [`set_aside`](EngineHome::set_aside).
    pub fn fail(&self) {
        self.lock().failing = true;
    }

    /// Makes every later call fail as on a disk that is full, until it is [mended](Self::mend).
    pub fn starve(&self) {
        self.lock().starving = true;
    }

    /// Ends a failure, if nobody has met it.
    pub fn mend(&self) {
        let mut medium = self.lock();
        (medium.failing, medium.starving) = (false, false);
    }

    /// All rows that a running engine sees.
    pub fn rows(&self) -> Vec<Row> {
        self.lock()
            .current()
            .live
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    /// Changes one row behind the engine's back, durably: damage.
    pub fn poke(&self, key: &[u8], value: Option<&[u8]>) {
        let mut medium = self.lock();
        let (key, value) = (
            Bytes::copy_from_slice(key),
            value.map(Bytes::copy_from_slice),
        );
        let image = medium.current();
        apply(&mut image.durable, key.clone(), value.clone());
        apply(&mut image.live, key, value);
    }

    /// The medium, unless it was told to fail or has no power.
    fn working(&self, operation: &'static str) -> Result<MutexGuard<'_, Medium>, EngineError> {
        let medium = self.lock();
        if medium.starving {
            let detail = "the disk is full".to_owned();
            return Err(EngineError::Unavailable { operation, detail });
        }
        let cut = self.disk.as_ref().is_some_and(SimDisk::is_cut);
        let detail = match (medium.failing, cut) {
            (true, _) => "told to fail",
            (_, true) => "the power is out",
            _ => return Ok(medium),
        };
        Err(EngineError::Failed {
            operation,
            detail: detail.to_owned(),
        })
    }

    /// The same, for a call that changes what a crash leaves, or may leave.
    fn acting(&self, operation: &'static str) -> Result<MutexGuard<'_, Medium>, EngineError> {
        let medium = self.working(operation)?;
        self.act(operation)?;
        Ok(medium)
    }

    /// Counts an effect, which needs power.
    fn act(&self, operation: &'static str) -> Result<(), EngineError> {
        let disk = self.disk.as_ref();
        disk.map_or(Ok(()), SimDisk::act_beside)
            .map_err(|error| EngineError::Failed {
                operation,
                detail: error.to_string(),
            })
    }

    /// The same, for an effect on a copy, which may have been told to fail.
    fn acting_on_copy(
        &self,
        operation: &'static str,
    ) -> Result<MutexGuard<'_, Medium>, EngineError> {
        let mut medium = self.acting(operation)?;
        match &mut medium.copy_effects_left {
            None => return Ok(medium),
            Some(0) => medium.copy_effects_left = None,
            Some(left) => {
                *left -= 1;
                return Ok(medium);
            }
        }
        Err(EngineError::Failed {
            operation,
            detail: "no space for a copy".to_owned(),
        })
    }

    /// A deep copy of what a crash would leave.
    pub fn fork(&self) -> MemHome {
        let mut medium = self.lock();
        let current = medium.current();
        let image = Image {
            live: current.durable.clone(),
            durable: current.durable.clone(),
            disk_bytes: current.disk_bytes,
            ..Image::default()
        };
        let medium = Medium {
            images: BTreeMap::from([(0, image)]),
            ..Medium::default()
        };
        MemHome {
            medium: Arc::new(Mutex::new(medium)),
            disk: None,
        }
    }

    /// The same, [beside](Self::beside) a disk.
    pub fn fork_beside(&self, disk: &SimDisk) -> MemHome {
        MemHome {
            disk: Some(disk.clone()),
            ..self.fork()
        }
    }

    /// Puts an older image, taken by [`Self::fork`], in the place of all that is there. Engines still open on this
    /// medium must not be used afterwards.
    pub fn restore(&self, image: &MemHome) {
        let image = image.fork();
        *self.lock() = std::mem::take(&mut *image.lock());
    }

    fn engine(&self, number: u64) -> MemEngine {
        MemEngine {
            home: self.clone(),
            number,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EngineHome for MemHome {
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let mut medium = self.working("open")?;
        medium.keep_current_alone();
        medium.current();
        Ok(Arc::new(self.engine(medium.current)))
    }

    fn set_aside(&self) -> Result<(), EngineError> {
        // What has failed can still be moved away, but not without power.
        self.act("set aside")?;
        let mut medium = self.lock();
        let rows = std::mem::take(&mut medium.current().durable);
        medium.current = medium.add();
        medium.keep_current_alone();
        medium.failing = false;
        medium.set_aside.insert(0, rows);
        medium.set_aside.truncate(SET_ASIDE_MAX);
        Ok(())
    }

    fn begin_copy(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let mut medium = self.acting_on_copy("begin a copy")?;
        let number = medium.add();
        medium.copy = Some(number);
        Ok(Arc::new(self.engine(number)))
    }

    fn complete_copy(&self) -> Result<(), EngineError> {
        let mut medium = self.acting_on_copy("complete a copy")?;
        medium.current = medium.copy.take().expect("a copy was begun");
        Ok(())
    }

    fn discard(&self) -> Result<(), EngineError> {
        self.act("discard")?;
        self.lock().keep_current_alone();
        Ok(())
    }
}

/// An engine on a [`MemHome`].
pub struct MemEngine {
    home: MemHome,
    number: u64,
}

impl Engine for MemEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let mut medium = self.home.working("get")?;
        let image = self.image(&mut medium, "get")?;
        Ok(image.live.get(key).cloned())
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.change("insert", key, Some(Bytes::copy_from_slice(value)))
    }

    fn remove(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.change("remove", key, None)
    }

    fn range(&self, first: &[u8], end: Option<&[u8]>) -> RowIter<'_> {
        Box::new(MemIter {
            engine: self,
            next: Bound::Included(Bytes::copy_from_slice(first)),
            end: end.map(Bytes::copy_from_slice),
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut medium = self.acting("flush")?;
        let image = self.image(&mut medium, "flush")?;
        for (key, value) in std::mem::take(&mut image.pending) {
            apply(&mut image.durable, key, value);
        }
        Ok(())
    }

    fn disk_bytes(&self) -> std::io::Result<u64> {
        let images = &self.home.lock().images;
        Ok(images.get(&self.number).map_or(0, |image| image.disk_bytes))
    }
}

impl MemEngine {
    fn change(
        &self,
        operation: &'static str,
        key: &[u8],
        value: Option<Bytes>,
    ) -> Result<Option<Bytes>, EngineError> {
        let mut medium = self.acting(operation)?;
        let image = self.image(&mut medium, operation)?;
        let key = Bytes::copy_from_slice(key);
        if let Some(value) = &value {
            image.disk_bytes += (key.len() + value.len()) as u64;
        }
        image.pending.push((key.clone(), value.clone()));
        Ok(apply(&mut image.live, key, value))
    }

    fn acting(&self, operation: &'static str) -> Result<MutexGuard<'_, Medium>, EngineError> {
        let is_copy = self.home.lock().copy == Some(self.number);
        match is_copy {
            true => self.home.acting_on_copy(operation),
            false => self.home.acting(operation),
        }
    }

    fn image<'a>(
        &self,
        medium: &'a mut Medium,
        operation: &'static str,
    ) -> Result<&'a mut Image, EngineError> {
        match medium.images.get_mut(&self.number) {
            Some(image) => Ok(image),
            None => Err(EngineError::Failed {
                operation,
                detail: "its files are gone".to_owned(),
            }),
        }
    }
}

/// Looks each row up anew, so that changes during the iteration do no harm.
struct MemIter<'a> {
    engine: &'a MemEngine,
    next: Bound<Bytes>,
    end: Option<Bytes>,
}

impl Iterator for MemIter<'_> {
    type Item = Result<Row, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut medium = match self.engine.home.working("range") {
            Ok(medium) => medium,
            Err(error) => return Some(Err(error)),
        };
        let image = match self.engine.image(&mut medium, "range") {
            Ok(image) => image,
            Err(error) => return Some(Err(error)),
        };
        let (key, value) = image
            .live
            .range((self.next.clone(), Bound::Unbounded))
            .next()?;
        if self.end.as_ref().is_some_and(|end| key >= end) {
            return None;
        }
        self.next = Bound::Excluded(key.clone());
        Some(Ok((key.clone(), value.clone())))
    }
}

fn apply(rows: &mut Rows, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
    match value {
        Some(value) => rows.insert(key, value),
        None => rows.remove(&key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    #[test]
    fn the_power_goes_out_for_disk_and_engine_at_once() {
        let disk = SimDisk::new(1);
        let home = MemHome::beside(&disk);
        let engine = home.open().expect("opens");
        engine.insert(b"a", b"1").expect("inserts");
        disk.cut_after(2);
        disk.create_dir("log").expect("the first action");
        assert!(!disk.is_cut());
        engine.flush().expect("the second");
        assert!(disk.is_cut());
        assert!(engine.get(b"a").is_err() && engine.insert(b"b", b"2").is_err());
        assert!(home.set_aside().is_err() && disk.list("").is_err());
        disk.crash(1);
        home.crash(0);
        assert_eq!(home.rows(), [(Bytes::from("a"), Bytes::from("1"))]);
        engine.insert(b"b", b"2").expect("the power is back");
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_a_prefix_of_the_rest() {
        let home = MemHome::new();
        let engine = home.open().expect("opens");
        engine.insert(b"a", b"1").expect("inserts");
        engine.flush().expect("flushes");
        for (key, value) in [(b"b", b"2"), (b"c", b"3"), (b"a", b"4")] {
            engine.insert(key, value).expect("inserts");
        }
        home.crash(1);
        let left: Vec<Row> = home.rows();
        assert_eq!(
            left,
            [
                (Bytes::from("a"), Bytes::from("1")),
                (Bytes::from("b"), Bytes::from("2"))
            ]
        );
    }
}
