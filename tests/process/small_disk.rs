//! A small disk of a node's own (a tmpfs), so that it can be filled without harm to anybody else.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// The filler grows by this much at a time, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// A mounted disk. Dropping it takes it away with all that is on it.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Makes a disk of `bytes` at `path`.
    ///
    /// # Errors
    /// What `mount` says: mostly that only root may.
    pub fn mount(path: PathBuf, bytes: u64) -> Result<SmallDisk, String> {
        std::fs::create_dir(&path).expect("a place to mount at");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(&path)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        match mounted.status.success() {
            true => Ok(SmallDisk { path }),
            false => Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned()),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it until `left_bytes` are free; nothing changes where no more than that is free already.
    pub fn fill(&self, left_bytes: u64) {
        let mut filler = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("the filler");
        let before = filler.metadata().expect("its length").len();
        let chunk = vec![0; CHUNK_BYTES];
        loop {
            match filler.write(&chunk) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("the filler: {error}"),
            }
        }
        let full = filler.metadata().expect("its length").len();
        let length = full.saturating_sub(left_bytes).max(before);
        filler.set_len(length).expect("the filler can shrink");
    }

    /// Gives the room back.
    pub fn free(&self) {
        File::create(self.filler()).expect("the filler can be emptied");
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, so that a handle which somebody still has does not keep it.
        let gone = Command::new("umount")
            .arg("--lazy")
            .arg(&self.path)
            .status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path.display());
        }
    }
}
