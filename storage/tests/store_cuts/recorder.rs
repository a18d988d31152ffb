//! Stands between this test and the kernel: records what files are told, then forwards it by raw system calls.
#![allow(unsafe_code)] // libc's symbols can be replaced in no other way
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_char, c_int, c_void, off_t, off64_t, size_t, ssize_t};

/// Number of a recorded file; a name that is used again is another file.
pub type FileId = u64;

/// What happened, in order.
#[derive(Debug, Clone)]
pub enum Event {
    Named {
        path: PathBuf,
        file: FileId,
    },
    Removed {
        path: PathBuf,
    },
    Write {
        file: FileId,
        offset: u64,
        bytes: Vec<u8>,
    },
    Length {
        file: FileId,
        bytes: u64,
    },
    /// A sync returned that began when `begun` events had been recorded.
    Synced {
        file: FileId,
        begun: usize,
    },
    SyncedDirectory {
        path: PathBuf,
        begun: usize,
    },
    /// The test is about to write this count under this key.
    Issued {
        key: u64,
        count: u64,
    },
    /// The store acknowledged it.
    Acknowledged {
        key: u64,
        count: u64,
    },
}

struct Recorder {
    root: PathBuf,
    events: Vec<Event>,
    /// By inode.
    files: BTreeMap<u64, FileId>,
    names: BTreeMap<PathBuf, FileId>,
    next: FileId,
}

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

/// Syncs return at once: for directories that nobody will miss.
static SKIP_SYNCS: AtomicBool = AtomicBool::new(false);

pub fn skip_syncs(skip: bool) {
    SKIP_SYNCS.store(skip, Ordering::SeqCst);
}

/// Starts to record the files under `root`; those that are there get the first numbers, in the order of their paths.
pub fn start(root: &Path) {
    let mut recorder = Recorder {
        root: root.canonicalize().expect("it is there"),
        events: Vec::new(),
        files: BTreeMap::new(),
        names: BTreeMap::new(),
        next: 0,
    };
    for path in files_under(&recorder.root.clone()) {
        let inode = fs::metadata(&path).expect("it is there").ino();
        recorder.name(inode, path);
    }
    *lock() = Some(recorder);
}

/// Ends the recording.
pub fn stop() -> Vec<Event> {
    lock().take().expect("it was started").events
}

/// Adds an event of the test's own.
pub fn note(event: Event) {
    if let Some(recorder) = lock().as_mut() {
        recorder.events.push(event);
    }
}

/// All files below a directory, sorted.
pub fn files_under(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_under(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn lock() -> MutexGuard<'static, Option<Recorder>> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    fn name(&mut self, inode: u64, path: PathBuf) -> FileId {
        let file = self.next;
        self.next += 1;
        self.files.insert(inode, file);
        let path = path
            .strip_prefix(&self.root)
            .expect("below the root")
            .to_owned();
        self.names.insert(path.clone(), file);
        self.events.push(Event::Named { path, file });
        file
    }

    /// The file of a descriptor, if it lies under the root.
    fn file(&mut self, fd: c_int) -> Option<FileId> {
        let link = format!("/proc/self/fd/{fd}");
        let inode = fs::metadata(&link)
            .ok()
            .filter(|metadata| metadata.is_file())?
            .ino();
        if let Some(file) = self.files.get(&inode) {
            return Some(*file);
        }
        let path = fs::read_link(&link)
            .ok()
            .filter(|path| path.starts_with(&self.root))?;
        Some(self.name(inode, path))
    }

    /// The directory of a descriptor, if it lies under the root.
    fn directory(&self, fd: c_int) -> Option<PathBuf> {
        let path = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
        let below = path.strip_prefix(&self.root).ok()?;
        path.is_dir().then(|| below.to_owned())
    }
}

fn record(fd: c_int, event: impl FnOnce(FileId) -> Event) {
    let mut recorder = lock();
    if let Some(recorder) = recorder.as_mut()
        && let Some(file) = recorder.file(fd)
    {
        let event = event(file);
        recorder.events.push(event);
    }
}

fn record_write(fd: c_int, bytes: *const c_void, count: size_t, offset: i64) {
    // SAFETY: the caller of pwrite vouches for `count` readable bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), count) };
    record(fd, |file| Event::Write {
        file,
        offset: offset as u64,
        bytes: bytes.to_vec(),
    });
}

fn sync(fd: c_int, call: libc::c_long) -> c_int {
    let begun = lock().as_ref().map(|recorder| recorder.events.len());
    if !SKIP_SYNCS.load(Ordering::SeqCst) {
        // SAFETY: takes a descriptor by value.
        let result = unsafe { libc::syscall(call, fd) };
        if result != 0 {
            return result as c_int;
        }
    }
    let Some(begun) = begun else { return 0 };
    record(fd, |file| Event::Synced { file, begun });
    if let Some(recorder) = lock().as_mut()
        && let Some(path) = recorder.directory(fd)
    {
        recorder.events.push(Event::SyncedDirectory { path, begun });
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pwrite64(
    fd: c_int,
    bytes: *const c_void,
    count: size_t,
    offset: off64_t,
) -> ssize_t {
    record_write(fd, bytes, count, offset);
    // SAFETY: the caller's own arguments.
    unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, count, offset) as ssize_t }
}

#[unsafe(no_mangle)]
pub extern "C" fn pwrite(fd: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    pwrite64(fd, bytes, count, offset)
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(fd: c_int, length: off64_t) -> c_int {
    record(fd, |file| Event::Length {
        file,
        bytes: length as u64,
    });
    // SAFETY: values only.
    unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) as c_int }
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    ftruncate64(fd, length)
}

#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fdatasync)
}

#[unsafe(no_mangle)]
pub extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller of unlink vouches for a NUL-terminated path.
    let name = unsafe { std::ffi::CStr::from_ptr(path) };
    let full = Path::new(name.to_str().unwrap_or_default());
    if let Some(recorder) = lock().as_mut()
        && let Ok(below) = full.strip_prefix(&recorder.root)
        && let Some(file) = recorder.names.remove(below)
    {
        recorder.files.retain(|_, each| *each != file);
        recorder.events.push(Event::Removed {
            path: below.to_owned(),
        });
    }
    // SAFETY: the caller's own argument.
    unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) as c_int }
}
