//! A disk in memory that loses what was not synced.
//!
//! Invariant (I1, as seen from the adversary): after [`SimDisk::crash`] only what was synced is sure to be there. Each
//! 512-byte block written since its file's last sync is kept or lost by chance on its own, so are unsynced lengths
//! and names. A sync that fails leaves each of its blocks on disk or not, and the file looks fine until the crash.
//!
//! All chance comes from seeds that the caller gives, so one seed replays one run.

mod chance;
mod disk;
mod image;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use self::chance::Chance;
use self::disk::SimFile;
use self::image::Image;
use self::names::{Change, Names};
use super::DiskFile;

/// The unit in which unsynced writes are kept or lost.
pub const BLOCK_BYTES: usize = 512;

/// A fault to inject; each strikes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write fails and changes nothing.
    WriteFails,
    /// A write fails after some of its blocks, chosen by chance, were written.
    WriteTorn,
    /// A sync fails; each unsynced block of the file reached the disk or did not, and is never tried again.
    SyncFails,
    /// A read fails.
    ReadFails,
}

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Read,
    Write,
    Sync,
}

impl Fault {
    fn strikes(self) -> Action {
        match self {
            Fault::WriteFails | Fault::WriteTorn => Action::Write,
            Fault::SyncFails => Action::Sync,
            Fault::ReadFails => Action::Read,
        }
    }
}

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    names: Names,
    files: BTreeMap<u64, Image>,
    next_file: u64,
    /// Raised by each crash: handles of an earlier life fail.
    life: u64,
    locks: BTreeSet<String>,
    /// Faults to come, each with the number of actions of its kind to let pass first.
    faults: Vec<(u64, Fault)>,
    capacity_bytes: u64,
    actions: u64,
    /// Actions that change the disk until the power is out; `None`: it stays.
    power_left: Option<u64>,
    chance: Chance,
}

impl SimDisk {
    /// An empty disk of unlimited size; `seed` decides what its faults do.
    pub fn new(seed: u64) -> Self {
        let state = State {
            names: Names::default(),
            files: BTreeMap::new(),
            next_file: 1,
            life: 0,
            locks: BTreeSet::new(),
            faults: Vec::new(),
            capacity_bytes: u64::MAX,
            actions: 0,
            power_left: None,
            chance: Chance::new(seed),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Cuts the power: unsynced blocks, lengths and names are each kept or lost by chance, locks are released,
    /// open handles fail from now on, faults not yet struck are forgotten. The power is back at once.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state();
        state.power_left = None;
        let mut chance = Chance::new(seed);
        state.names.crash(&mut chance);
        let reachable = state.names.files();
        state.files.retain(|file, _| reachable.contains(file));
        for image in state.files.values_mut() {
            image.crash(&mut chance);
        }
        state.end_life();
    }

    /// Kills the process but not the machine: nothing is lost, not even what is unsynced (which stays unsynced);
    /// locks are released and open handles fail.
    pub fn kill(&self) {
        self.state().end_life();
    }

    /// Lets the power go out after `actions` more actions that change the disk: every call fails from then on, until a
    /// [`crash`](SimDisk::crash) says what is left. So a power cut falls between any two effects of code that never waits.
    pub fn cut_after(&self, actions: u64) {
        self.state().power_left = Some(actions);
    }

    /// Lets no power cut come that has not come yet.
    pub fn keep_power(&self) {
        let mut state = self.state();
        if state.power_left != Some(0) {
            state.power_left = None;
        }
    }

    /// Whether the power is out.
    pub fn is_cut(&self) -> bool {
        self.state().power_left == Some(0)
    }

    /// Counts an effect on the same machine that is not on this disk, an engine's.
    pub(crate) fn act_beside(&self) -> io::Result<()> {
        self.state().spend()
    }

    /// Lets `fault` strike after `let_pass` more actions of its kind (reads, writes or syncs) went well.
    pub fn inject(&self, let_pass: u64, fault: Fault) {
        self.state().faults.push((let_pass, fault));
    }

    /// Forgets the faults that have not struck yet.
    pub fn forget_faults(&self) {
        self.state().faults.clear();
    }

    /// Sets the capacity; writes that would grow files past it fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity_bytes = bytes;
    }

    /// XORs one byte of a file, on disk as in memory. False if there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> bool {
        let mut state = self.state();
        match state.names.file(name) {
            Some(file) => state
                .files
                .get_mut(&file)
                .is_some_and(|image| image.flip(offset, mask)),
            None => false,
        }
    }

    /// The content of a file as a running process sees it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let file = state.names.file(name)?;
        state.files.get(&file).map(|image| image.current().to_vec())
    }

    /// Puts a whole, durable file in place (its directory included), for tests that prepare an image.
    pub fn put_durable(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let file = state.next_file;
        state.next_file += 1;
        state.names.put_durable(name, file);
        state.files.insert(file, Image::durable(bytes));
    }

    /// A deep copy, with everything unsynced still unsynced; handles stay with the original.
    pub fn fork(&self) -> SimDisk {
        let mut state = self.state().clone();
        state.end_life();
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Puts an older image, taken by [`Self::fork`], in the place of all that is there. Open handles fail from now on.
    pub fn restore(&self, image: &SimDisk) {
        let image = image.state().clone();
        let mut state = self.state();
        let (life, capacity_bytes) = (state.life, state.capacity_bytes);
        *state = State {
            life,
            capacity_bytes,
            ..image
        };
        state.end_life();
    }

    /// Number of actions so far that change the disk (writes, syncs, names).
    pub fn actions(&self) -> u64 {
        self.state().actions
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no holder of the simulated disk panics")
    }

    /// The state, as a process finds it: only with the power on.
    fn powered(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        state.check_power()?;
        Ok(state)
    }

    fn handle(&self, state: &State, file: u64) -> Box<dyn DiskFile> {
        Box::new(SimFile {
            disk: self.clone(),
            file,
            life: state.life,
        })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("SimDisk")
            .field("names", &state.names)
            .field("actions", &state.actions)
            .finish()
    }
}

impl State {
    fn end_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.faults.clear();
    }

    fn check_power(&self) -> io::Result<()> {
        match self.power_left {
            Some(0) => Err(io::Error::other("the power is out")),
            _ => Ok(()),
        }
    }

    /// Counts an effect.
    fn spend(&mut self) -> io::Result<()> {
        self.check_power()?;
        self.actions += 1;
        if let Some(left) = &mut self.power_left {
            *left -= 1;
        }
        Ok(())
    }

    /// Counts an action down to the faults that wait for its kind; the one that strikes is returned and forgotten.
    fn act(&mut self, action: Action) -> io::Result<Option<Fault>> {
        if action != Action::Read {
            self.spend()?;
        }
        let mut struck = None;
        self.faults.retain_mut(|(let_pass, fault)| {
            if fault.strikes() != action || struck.is_some() {
                return true;
            }
            if *let_pass == 0 {
                struck = Some(*fault);
                return false;
            }
            *let_pass -= 1;
            true
        });
        Ok(struck)
    }

    fn used_bytes(&self) -> u64 {
        self.files
            .values()
            .map(|image| image.current().len() as u64)
            .sum()
    }

    fn check_space(&self, growth: u64) -> io::Result<()> {
        if growth > 0 && self.used_bytes().saturating_add(growth) > self.capacity_bytes {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the simulated disk is full",
            ));
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.spend()?;
        self.names.change(change);
        Ok(())
    }

    fn image(&mut self, file: u64, life: u64) -> io::Result<&mut Image> {
        if life != self.life {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        // A removed file stays usable through its handles, as on Unix.
        Ok(self
            .files
            .get_mut(&file)
            .expect("only a crash forgets files, and it ends their handles"))
    }
}
