//! Makes sled's `flush` durable (I1).
//!
//! sled 0.34.7 ends a flush in `sync_file_range`, which starts write-out and makes nothing durable, and then reuses segments on the
//! strength of it. This module defines that symbol for the whole program as `fdatasync` plus a counter, which the linker
//! prefers to libc's. The engine checks at every open that its flush raised the counter, so a build in
//! which the symbol is not replaced refuses to run.
#![allow(unsafe_code)] // a libc symbol can be replaced in no other way

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static SYNCS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

/// How many times this process synced a file through the replaced `sync_file_range` with success.
pub(super) fn count() -> u64 {
    SYNCS.load(Ordering::SeqCst)
}

/// Whether a sync failed in this process: from then on nobody knows what is on disk, whatever the error was.
pub(super) fn has_failed() -> bool {
    FAILED.load(Ordering::SeqCst)
}

/// Replaces libc's function of this name. Syncs the whole file whatever range is asked for.
///
/// Safety of the export: the signature is libc's, the body touches no memory of the caller's, and a bad descriptor
/// is answered with −1 and `errno` by `fdatasync` itself.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: libc::off64_t,
    _length: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    // SAFETY: fdatasync takes a descriptor by value and has no other precondition.
    let result = unsafe { libc::fdatasync(fd) };
    if result == 0 {
        SYNCS.fetch_add(1, Ordering::SeqCst);
    } else {
        FAILED.store(true, Ordering::SeqCst);
    }
    result
}
