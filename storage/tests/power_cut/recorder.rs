//! Records what this process does to the files of one directory, in order, by standing in for the libc calls that change or
//! sync files. Each is forwarded by its raw system call and noted under one lock, so that the trace's order is the order
//! in which things happened. What this leaves out (links, `writev`, `fallocate`, shared mappings) nothing here uses: a trace
//! is compared byte for byte with the directory that it describes.
//!
//! sled's flush gets here too: storage defines `sync_file_range` as `fdatasync`, and that symbol is defined below.
#![allow(unsafe_code)] // a libc symbol can be replaced in no other way

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libc::{c_char, c_int, c_long, c_uint, c_void, mode_t, off64_t, size_t, ssize_t};

use crate::image::Image;

/// Names one file for as long as it exists, under whatever name.
pub type FileId = u32;

/// One change of the directory, or one sync. Paths are relative to its root, which is the empty one.
#[derive(Debug, Clone)]
pub enum Op {
    /// A new, empty file.
    Create {
        file: FileId,
        path: String,
    },
    MakeDirectory {
        path: String,
    },
    Write {
        file: FileId,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    Resize {
        file: FileId,
        length: u64,
    },
    /// Content and length of a file are durable.
    Sync {
        file: FileId,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        path: String,
    },
    RemoveDirectory {
        path: String,
    },
    /// The names in a directory are durable.
    SyncDirectory {
        path: String,
    },
}

/// Everything that happened to a directory, from what it was.
pub struct Trace {
    pub base: Image,
    /// The files of the base, by path.
    pub files: BTreeMap<String, FileId>,
    pub ops: Vec<Op>,
}

struct Recording {
    root: PathBuf,
    device: u64,
    /// By inode; only of files that have a name.
    files: BTreeMap<u64, FileId>,
    next_file: FileId,
    trace: Trace,
}

/// Whether there is a recording: all that other calls look at.
static ARMED: AtomicBool = AtomicBool::new(false);
static RECORDING: Mutex<Option<Recording>> = Mutex::new(None);

/// Starts to record what happens in `root`, an absolute path. One recording at a time.
pub fn start(root: &Path) {
    let base = Image::read(root);
    let inode = |path: &Path| status(|status| unsafe { lstat(path, status) }).expect("it exists");
    let (mut files, mut by_path) = (BTreeMap::new(), BTreeMap::new());
    for (file, path) in (0..).zip(base.files.keys()) {
        files.insert(inode(&root.join(path)).st_ino, file);
        by_path.insert(path.clone(), file);
    }
    let mut recording = lock();
    assert!(recording.is_none(), "one recording at a time");
    *recording = Some(Recording {
        root: root.to_owned(),
        device: inode(root).st_dev,
        next_file: files.len() as FileId,
        files,
        trace: Trace {
            base,
            files: by_path,
            ops: Vec::new(),
        },
    });
    ARMED.store(true, Ordering::SeqCst);
}

/// Operations recorded so far.
pub fn position() -> usize {
    lock()
        .as_ref()
        .map_or(0, |recording| recording.trace.ops.len())
}

/// Ends the recording.
pub fn stop() -> Trace {
    ARMED.store(false, Ordering::SeqCst);
    lock().take().expect("a recording runs").trace
}

fn lock() -> MutexGuard<'static, Option<Recording>> {
    RECORDING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording {
    /// The path within the root; none: it lies elsewhere.
    fn relative(&self, path: &Path) -> Option<String> {
        let path = path.strip_prefix(&self.root).ok()?;
        Some(path.to_str().expect("our names are UTF-8").to_owned())
    }

    /// The same of a name in an open directory.
    fn relative_at(&self, directory: c_int, name: *const c_char) -> Option<String> {
        if directory == libc::AT_FDCWD {
            return self.relative_c(name);
        }
        let directory = std::fs::read_link(format!("/proc/self/fd/{directory}")).ok()?;
        // SAFETY: what is given to libc as a path is a NUL-terminated string.
        let name = unsafe { CStr::from_ptr(name) };
        self.relative(&directory.join(name.to_str().ok()?))
    }

    fn relative_c(&self, path: *const c_char) -> Option<String> {
        // SAFETY: what is given to libc as a path is a NUL-terminated string.
        let path = unsafe { CStr::from_ptr(path) };
        self.relative(Path::new(path.to_str().ok()?))
    }

    /// The file behind a descriptor, if it is one of the directory's.
    fn file(&self, fd: c_int) -> Option<FileId> {
        let status = status(|status| unsafe { libc::fstat(fd, status) })?;
        let regular = status.st_mode & libc::S_IFMT == libc::S_IFREG;
        (regular && status.st_dev == self.device)
            .then(|| self.files.get(&status.st_ino).copied())
            .flatten()
    }

    fn opened(&mut self, fd: c_int, path: *const c_char, flags: c_int) {
        let Some(path) = self.relative_c(path) else {
            return;
        };
        if let Some(file) = self.file(fd) {
            if flags & libc::O_TRUNC != 0 {
                self.trace.ops.push(Op::Resize { file, length: 0 });
            }
            return;
        }
        let status = status(|status| unsafe { libc::fstat(fd, status) }).expect("it is open");
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(status.st_ino, file);
        self.trace.ops.push(Op::Create { file, path });
    }

    fn written(&mut self, fd: c_int, offset: u64, bytes: &[u8]) {
        if let Some(file) = self.file(fd) {
            let bytes = bytes.into();
            self.trace.ops.push(Op::Write {
                file,
                offset,
                bytes,
            });
        }
    }

    fn synced(&mut self, fd: c_int) {
        if let Some(file) = self.file(fd) {
            self.trace.ops.push(Op::Sync { file });
            return;
        }
        let is_directory = status(|status| unsafe { libc::fstat(fd, status) })
            .is_some_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFDIR);
        if is_directory
            && let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{fd}"))
            && let Some(path) = self.relative(&path)
        {
            self.trace.ops.push(Op::SyncDirectory { path });
        }
    }

    /// Forgets the inode that a name stands for, before the name goes: another file may get it.
    fn forget(&mut self, path: &str) {
        let path = self.root.join(path);
        if let Some(status) = status(|status| unsafe { lstat(&path, status) }) {
            self.files.remove(&status.st_ino);
        }
    }
}

/// Fills a `stat`; none if the call fails.
fn status(call: impl FnOnce(*mut libc::stat) -> c_int) -> Option<libc::stat> {
    // SAFETY: all zeros is a value of this plain struct, and the calls given here fill it.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    (call(&mut status) == 0).then_some(status)
}

/// # Safety
/// `status` is valid for writes.
unsafe fn lstat(path: &Path, status: *mut libc::stat) -> c_int {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL");
    // SAFETY: a NUL-terminated path that lives through the call; the rest is the caller's promise.
    unsafe { libc::lstat(path.as_ptr(), status) }
}

/// Makes a call; if there is a recording, under its lock, and has `note` note it if it succeeded (≥ 0).
fn recorded(call: impl FnOnce() -> c_long, note: impl FnOnce(&mut Recording, c_long)) -> c_long {
    if !ARMED.load(Ordering::SeqCst) {
        return call();
    }
    let mut recording = lock();
    let result = call();
    if result >= 0
        && let Some(recording) = recording.as_mut()
    {
        note(recording, result);
    }
    result
}

/// # Safety
/// As of `open`.
unsafe fn record_open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY (here and below): the caller's arguments are handed on unchanged to the system call of that name.
    let call = || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    if flags & (libc::O_CREAT | libc::O_TRUNC) == 0 {
        return call() as c_int;
    }
    recorded(call, |recording, fd| {
        recording.opened(fd as c_int, path, flags)
    }) as c_int
}

/// # Safety
/// As of `pwrite`.
unsafe fn record_pwrite(fd: c_int, from: *const c_void, count: size_t, offset: off64_t) -> ssize_t {
    let call = || unsafe { libc::syscall(libc::SYS_pwrite64, fd, from, count, offset) };
    recorded(call, |recording, done| {
        let bytes = unsafe { std::slice::from_raw_parts(from.cast(), done as usize) };
        recording.written(fd, offset as u64, bytes);
    }) as ssize_t
}

/// # Safety
/// As of `ftruncate`.
unsafe fn record_ftruncate(fd: c_int, length: off64_t) -> c_int {
    let call = || unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) };
    recorded(call, |recording, _| {
        if let Some(file) = recording.file(fd) {
            let length = length as u64;
            recording.trace.ops.push(Op::Resize { file, length });
        }
    }) as c_int
}

// The signatures of `open` and `open64` are variadic in C; on the systems that this test is built for, one more
// argument arrives the same way.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    unsafe { record_open(path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    unsafe { record_open(path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, n: size_t, at: off64_t) -> ssize_t {
    unsafe { record_pwrite(fd, from, n, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, from: *const c_void, n: size_t, at: off64_t) -> ssize_t {
    unsafe { record_pwrite(fd, from, n, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, from: *const c_void, count: size_t) -> ssize_t {
    let call = || unsafe { libc::syscall(libc::SYS_write, fd, from, count) };
    recorded(call, |recording, done| {
        if recording.file(fd).is_some() {
            // Where the file offset is now, appending or not, the write has ended.
            let end = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
            let bytes = unsafe { std::slice::from_raw_parts(from.cast(), done as usize) };
            recording.written(fd, (end - done as off64_t) as u64, bytes);
        }
    }) as ssize_t
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: c_int, length: off64_t) -> c_int {
    unsafe { record_ftruncate(fd, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate(fd: c_int, length: off64_t) -> c_int {
    unsafe { record_ftruncate(fd, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    let call = || unsafe { libc::syscall(libc::SYS_fsync, fd) };
    recorded(call, |recording, _| recording.synced(fd)) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    let call = || unsafe { libc::syscall(libc::SYS_fdatasync, fd) };
    recorded(call, |recording, _| recording.synced(fd)) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    let call = || unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) };
    recorded(call, |recording, _| {
        if let Some(path) = recording.relative_c(path) {
            recording.trace.ops.push(Op::MakeDirectory { path });
        }
    }) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let at = libc::AT_FDCWD;
    let replaced = |recording: &mut Recording| {
        let [from, to] = [from, to].map(|path| recording.relative_c(path));
        recording.forget(to.as_ref()?);
        Some((from?, to?))
    };
    let mut names = None;
    if ARMED.load(Ordering::SeqCst) {
        names = lock().as_mut().and_then(replaced);
    }
    let call = || unsafe { libc::syscall(libc::SYS_renameat2, at, from, at, to, 0) };
    recorded(call, |recording, _| {
        if let Some((from, to)) = names {
            recording.trace.ops.push(Op::Rename { from, to });
        }
    }) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    let mut name = None;
    if ARMED.load(Ordering::SeqCst)
        && let Some(recording) = lock().as_mut()
    {
        name = recording.relative_at(directory, path);
        // No directory is noted.
        if flags & libc::AT_REMOVEDIR == 0 {
            name.iter().for_each(|path| recording.forget(path));
        }
    }
    let call = || unsafe { libc::syscall(libc::SYS_unlinkat, directory, path, flags) };
    recorded(call, |recording, _| {
        if let Some(path) = name {
            recording.trace.ops.push(match flags & libc::AT_REMOVEDIR {
                0 => Op::Remove { path },
                _ => Op::RemoveDirectory { path },
            });
        }
    }) as c_int
}
