//! The disk of production: std files, positioned reads and writes, `fdatasync`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{DirectoryLock, Disk, DiskFile, LockError, Space, check_name, check_rename};

/// Bytes written at once when a file is filled with zeros.
const ZERO_CHUNK_BYTES: usize = 1 << 20;

/// A directory of the operating system's file system.
#[derive(Debug, Clone)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Uses `root`, making it (and its parents) if missing. A directory made here is durable when this returns.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = std::path::absolute(root.into())?;
        let missing: Vec<&Path> = root.ancestors().take_while(|path| !path.exists()).collect();
        if !missing.is_empty() {
            fs::create_dir_all(&root)?;
        }
        for made in missing {
            // A name is durable once the directory that holds it is synced.
            if let Some(holder) = made.parent() {
                File::open(holder)?.sync_all()?;
            }
        }
        Ok(Self { root })
    }

    /// Where the directory lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(if name.is_empty() {
            self.root.clone()
        } else {
            self.root.join(name)
        })
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name)?)?;
        Ok(Box::new(RealFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(name)?)?;
        Ok(Box::new(RealFile(file)))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(directory)?)? {
            // Names that are not UTF-8 are not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_rename(from, to)?;
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        File::open(self.path(directory)?)?.sync_all()
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.path(name)?.try_exists()
    }

    fn lock(&self, name: &str) -> Result<DirectoryLock, LockError> {
        let path = self.path(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(DirectoryLock::new(file)),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(name.to_owned())),
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }

    fn space(&self) -> io::Result<Space> {
        statvfs(&self.root)
    }
}

/// Asks the file system for its space.
#[expect(
    unsafe_code,
    reason = "std has no call for the free space of a file system"
)]
fn statvfs(path: &Path) -> io::Result<Space> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `statvfs` is plain old data for which all zeros is a value; the call reads a NUL-terminated path that
    // lives through it and fills the struct.
    let stats = unsafe {
        let mut stats: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut stats) != 0 {
            return Err(io::Error::last_os_error());
        }
        stats
    };
    // The widths of these fields differ between platforms.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    let (unit, free, total) = (
        stats.f_frsize as u64,
        stats.f_bavail as u64,
        stats.f_blocks as u64,
    );
    Ok(Space {
        free_bytes: free.saturating_mul(unit),
        total_bytes: total.saturating_mul(unit),
    })
}

/// An open std file.
#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match FileExt::read_at(&self.0, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn allocate_zeroed(&self, bytes: u64) -> io::Result<()> {
        // Written, not `fallocate`d: an unwritten extent is converted by the first write into it, which is metadata.
        let zeros = vec![0; ZERO_CHUNK_BYTES];
        let mut at = self.len()?;
        while at < bytes {
            let count = (bytes - at).min(ZERO_CHUNK_BYTES as u64);
            self.write_at(at, &zeros[..count as usize])?;
            at += count;
        }
        Ok(())
    }
}
