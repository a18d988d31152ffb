//! The operating system's time and chance, replaced: what the standard library and tokio draw by themselves (keys of hash maps, the order in
//! which `select!` looks at its branches) comes from the seed, and what libraries read of clocks (the date of an HTTP answer) is simulated.
//!
//! Only the `sim` binary links this: in a process that does real work it would be a fault.

use ringfort_tests::net::{EPOCH_MS, elapsed};
use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Seeds all that follows. To be called before anything draws.
pub fn seed(seed: u64) {
    STATE.store(seed ^ 0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
}

/// The next number of a splitmix64 sequence (Steele et al. 2014).
fn next() -> u64 {
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Stands before libc's function of this name.
///
/// # Safety
/// As for libc's: `buffer` has room for `length` bytes.
#[allow(
    unsafe_code,
    reason = "a C function is replaced, which has no safe form"
)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for at in 0..length {
        let byte = (next() >> 56) as u8;
        // SAFETY: the caller promises room for `length` bytes, and `at` is below it.
        unsafe { buffer.add(at).write(byte) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// Stands before libc's function of this name. All clocks show the same time.
///
/// # Safety
/// As for libc's: `time` points to a `timespec` that may be written.
#[allow(
    unsafe_code,
    reason = "a C function is replaced, which has no safe form"
)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(_clock: libc::clockid_t, time: *mut libc::timespec) -> i32 {
    let now = std::time::Duration::from_millis(EPOCH_MS) + elapsed();
    let now = libc::timespec {
        tv_sec: now.as_secs() as libc::time_t,
        tv_nsec: i64::from(now.subsec_nanos()),
    };
    // SAFETY: the caller promises that it may be written.
    unsafe { time.write(now) };
    0
}
