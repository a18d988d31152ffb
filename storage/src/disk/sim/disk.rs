//! The disk's calls, on the simulated state.

use std::io;

use super::chance::Chance;
use super::image::Image;
use super::names::{Change, Entry};
use super::{Action, Fault, SimDisk};
use crate::disk::{
    DirectoryLock, Disk, DiskFile, LockError, Space, check_name, check_rename, parent,
};

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
        let state = self.powered()?;
        match state.names.get(name) {
            Some(Entry::File(file)) => Ok(self.handle(&state, file)),
            Some(Entry::Directory) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(not_found(name)),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        check_name(name)?;
        let mut state = self.powered()?;
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
        })?;
        Ok(self.handle(&state, file))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut state = self.powered()?;
        match state.names.get(name) {
            Some(Entry::Directory) => Ok(()),
            Some(Entry::File(_)) => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            None if state.names.get(parent(name)) != Some(Entry::Directory) => {
                Err(not_found(parent(name)))
            }
            None => state.change(Change::Make {
                name: name.to_owned(),
                entry: Entry::Directory,
            }),
        }
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        check_name(directory)?;
        let state = self.powered()?;
        if state.names.get(directory) != Some(Entry::Directory) {
            return Err(not_found(directory));
        }
        Ok(state.names.list(directory))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut state = self.powered()?;
        match state.names.get(name) {
            Some(Entry::File(_)) => state.change(Change::Remove {
                name: name.to_owned(),
            }),
            Some(Entry::Directory) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(not_found(name)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_rename(from, to)?;
        let mut state = self.powered()?;
        match (state.names.get(from), state.names.get(to)) {
            (None, _) => Err(not_found(from)),
            (Some(Entry::File(_)), Some(Entry::Directory)) => {
                Err(io::Error::from(io::ErrorKind::IsADirectory))
            }
            (Some(Entry::Directory), Some(_)) => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            (Some(entry), _) => state.change(Change::Rename {
                from: from.to_owned(),
                to: to.to_owned(),
                entry,
            }),
        }
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        check_name(directory)?;
        let mut state = self.powered()?;
        if state.names.get(directory) != Some(Entry::Directory) {
            return Err(not_found(directory));
        }
        if let Some(fault) = state.act(Action::Sync)? {
            return Err(injected(fault));
        }
        state.names.sync(directory);
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        check_name(name)?;
        Ok(self.powered()?.names.get(name).is_some())
    }

    fn lock(&self, name: &str) -> Result<DirectoryLock, LockError> {
        if !self.exists(name)? {
            self.create(name)?;
        }
        let mut state = self.powered()?;
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
        let state = self.powered()?;
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
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) file: u64,
    pub(super) life: u64,
}

impl SimFile {
    /// Runs `write` on the image after the checks that all writes share: life, faults, space for growth to `end`.
    fn write(
        &self,
        end: u64,
        write: impl FnOnce(&mut Image, Option<&mut Chance>),
    ) -> io::Result<()> {
        let mut state = self.disk.powered()?;
        let length = state.image(self.file, self.life)?.current().len() as u64;
        let fault = state.act(Action::Write)?;
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
        let mut state = self.disk.powered()?;
        state.image(self.file, self.life)?;
        if let Some(fault) = state.act(Action::Read)? {
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
        let mut state = self.disk.powered()?;
        state.image(self.file, self.life)?;
        let fault = state.act(Action::Sync)?;
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
            .powered()?
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
