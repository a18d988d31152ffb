//! A disk in memory that loses what was not synced.
//!
//! Invariant (I1, as seen from the adversary): after [`SimDisk::crash`] only what was synced is sure to be there. Each
//! 512-byte block written since its file's last sync is kept or lost by chance on its own, so are unsynced lengths
//! and names. A sync that fails leaves each of its blocks on disk or not, and the file looks fine until the crash.
//!
//! All chance comes from seeds that the caller gives, so one seed replays one run.

mod chance;
mod image;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use self::chance::Chance;
use self::image::Image;
use self::names::{Change, Entry, Names};
use super::{DirectoryLock, Disk, DiskFile, LockError, Space, check_name, check_rename, parent};

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
            chance: Chance::new(seed),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Cuts the power: unsynced blocks, lengths and names are each kept or lost by chance, locks are released,
    /// open handles fail from now on, faults not yet struck are forgotten.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state();
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

    /// Lets `fault` strike after `let_pass` more actions of its kind (reads, writes or syncs) went well.
    pub fn inject(&self, let_pass: u64, fault: Fault) {
        self.state().faults.push((let_pass, fault));
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

    /// Number of actions so far that change the disk (writes, syncs, names).
    pub fn actions(&self) -> u64 {
        self.state().actions
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no holder of the simulated disk panics")
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

    /// Counts an action down to the faults that wait for its kind; the one that strikes is returned and forgotten.
    fn fault(&mut self, action: Action) -> Option<Fault> {
        if action != Action::Read {
            self.actions += 1;
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
        struck
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

    fn change(&mut self, change: Change) {
        self.actions += 1;
        self.names.change(change);
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

fn not_found(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("no such file or directory: {name:?}"),
    )
}

fn injected(fault: Fault) -> io::Error {
    io::Error::other(format!("injected fault: {fault:?}"))
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        check_name(name)?;
        let state = self.state();
        match state.names.get(name) {
            Some(Entry::File(file)) => Ok(self.handle(&state, file)),
            Some(Entry::Directory) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(not_found(name)),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        check_name(name)?;
        let mut state = self.state();
        if state.names.get(name).is_some() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        if state.names.get(parent(name)) != Some(Entry::Directory) {
            return Err(not_found(parent(name)));
        }
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Image::default());
        state.change(Change::Make {
            name: name.to_owned(),
            entry: Entry::File(file),
        });
        Ok(self.handle(&state, file))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut state = self.state();
        match state.names.get(name) {
            Some(Entry::Directory) => Ok(()),
            Some(Entry::File(_)) => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            None if state.names.get(parent(name)) != Some(Entry::Directory) => {
                Err(not_found(parent(name)))
            }
            None => {
                state.change(Change::Make {
                    name: name.to_owned(),
                    entry: Entry::Directory,
                });
                Ok(())
            }
        }
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        check_name(directory)?;
        let state = self.state();
        if state.names.get(directory) != Some(Entry::Directory) {
            return Err(not_found(directory));
        }
        Ok(state.names.list(directory))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut state = self.state();
        match state.names.get(name) {
            Some(Entry::File(_)) => {
                state.change(Change::Remove {
                    name: name.to_owned(),
                });
                Ok(())
            }
            Some(Entry::Directory) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(not_found(name)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_rename(from, to)?;
        let mut state = self.state();
        match (state.names.get(from), state.names.get(to)) {
            (None, _) => Err(not_found(from)),
            (Some(Entry::File(_)), Some(Entry::Directory)) => {
                Err(io::Error::from(io::ErrorKind::IsADirectory))
            }
            (Some(Entry::Directory), Some(_)) => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            (Some(entry), _) => {
                state.change(Change::Rename {
                    from: from.to_owned(),
                    to: to.to_owned(),
                    entry,
                });
                Ok(())
            }
        }
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        check_name(directory)?;
        let mut state = self.state();
        if state.names.get(directory) != Some(Entry::Directory) {
            return Err(not_found(directory));
        }
        if let Some(fault) = state.fault(Action::Sync) {
            return Err(injected(fault));
        }
        state.names.sync(directory);
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        check_name(name)?;
        Ok(self.state().names.get(name).is_some())
    }

    fn lock(&self, name: &str) -> Result<DirectoryLock, LockError> {
        if !self.exists(name)? {
            self.create(name)?;
        }
        let mut state = self.state();
        if !state.locks.insert(name.to_owned()) {
            return Err(LockError::Held(name.to_owned()));
        }
        let life = state.life;
        Ok(DirectoryLock::new(SimLock {
            disk: self.clone(),
            name: name.to_owned(),
            life,
        }))
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state();
        let free_bytes = state.capacity_bytes.saturating_sub(state.used_bytes());
        Ok(Space {
            free_bytes,
            total_bytes: state.capacity_bytes,
        })
    }
}

/// Releases a simulated lock when dropped, unless a crash did so before.
struct SimLock {
    disk: SimDisk,
    name: String,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locks.remove(&self.name);
        }
    }
}

/// An open simulated file.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
    life: u64,
}

impl SimFile {
    /// Runs `write` on the image after the checks that all writes share: life, faults, space for growth to `end`.
    fn write(
        &self,
        end: u64,
        write: impl FnOnce(&mut Image, Option<&mut Chance>),
    ) -> io::Result<()> {
        let mut state = self.disk.state();
        let length = state.image(self.file, self.life)?.current().len() as u64;
        let fault = state.fault(Action::Write);
        if fault == Some(Fault::WriteFails) {
            return Err(injected(Fault::WriteFails));
        }
        state.check_space(end.saturating_sub(length))?;
        let mut chance = state.chance.fork();
        let image = state.image(self.file, self.life)?;
        match fault {
            Some(fault) => {
                write(image, Some(&mut chance));
                Err(injected(fault))
            }
            None => {
                write(image, None);
                Ok(())
            }
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.image(self.file, self.life)?;
        if let Some(fault) = state.fault(Action::Read) {
            return Err(injected(fault));
        }
        let content = state.image(self.file, self.life)?.current();
        let start = usize::try_from(offset).map_or(content.len(), |start| start.min(content.len()));
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        self.write(end, |image, torn| image.write(offset as usize, bytes, torn))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.image(self.file, self.life)?;
        let fault = state.fault(Action::Sync);
        let mut chance = state.chance.fork();
        let image = state.image(self.file, self.life)?;
        match fault {
            Some(fault) => {
                image.sync_failing(&mut chance);
                Err(injected(fault))
            }
            None => {
                image.sync();
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self
            .disk
            .state()
            .image(self.file, self.life)?
            .current()
            .len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.write(bytes, |image, _| image.set_len(bytes as usize))
    }

    fn allocate_zeroed(&self, bytes: u64) -> io::Result<()> {
        self.write(bytes, |image, _| {
            let length = image.current().len();
            image.set_len(length.max(bytes as usize));
        })
    }
}
