//! A bell for a thread that waits for work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Rung by writers, waited for by one driver. A ring while nobody waits is kept.
#[derive(Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Bell {
    /// Rings. Cheap while the last ring was not answered yet.
    pub(crate) fn notify(&self) {
        if self.rung.load(Ordering::Relaxed) || self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        // Taken, so that the ring cannot fall between the waiter's look and its sleep.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Returns when rung, or after `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |_: &mut ()| !self.rung.load(Ordering::Acquire);
        drop(self.changed.wait_timeout_while(guard, timeout, waiting));
        self.rung.store(false, Ordering::Release);
    }
}
