//! Runs the writer on a thread of its own: production's driver, and the only place of the log with a thread.

#![expect(clippy::disallowed_methods, reason = "the edge with the log thread")]

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Log, LogFailed, LogStep, LogWriter, SEAL_AFTER};

/// How long a writer with everything sealed sleeps; an append wakes it at once.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// How long a writer without space for a segment waits before it tries again.
const FULL_WAIT: Duration = Duration::from_millis(100);

/// Starts the log thread. It ends after [`Log::close`] once everything is written and sealed, or with the failure that
/// must end the process.
pub fn spawn(log: Log, writer: LogWriter) -> io::Result<JoinHandle<Result<(), LogFailed>>> {
    thread::Builder::new()
        .name("ringfort-log".to_owned())
        .spawn(move || run(&log, writer))
}

fn run(log: &Log, mut writer: LogWriter) -> Result<(), LogFailed> {
    loop {
        match writer.step()? {
            LogStep::Worked => {}
            LogStep::Closed => return Ok(()),
            LogStep::Full => thread::sleep(FULL_WAIT),
            LogStep::Idle if writer.is_sealed() => {
                log.wait_for_work(IDLE_WAIT);
            }
            LogStep::Idle => {
                if !log.wait_for_work(SEAL_AFTER) {
                    writer.seal();
                }
            }
        }
    }
}
