//! Judges many images, two at a time, and bounds each: an open that hangs is a failure, not a hang of the test.

#![expect(clippy::disallowed_methods, reason = "images are judged side by side")]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use crate::judge::{Case, Outcome, judge};

const WORKERS: usize = 2;
/// No image takes a second; a machine may be busy.
const HANG: Duration = Duration::from_secs(120);
/// Failures whose images are kept.
const FAILURES_MAX: usize = 5;

type Judged = (Case, Result<Outcome, String>);

/// Runs cases on threads of its own.
pub struct Images {
    cases: Option<SyncSender<Case>>,
    judged: Receiver<Judged>,
    running: BTreeSet<String>,
    outcomes: BTreeMap<Outcome, usize>,
    failures: Vec<String>,
}

impl Images {
    /// Starts the workers; images are made in `scratch`.
    pub fn new(scratch: &Path) -> Self {
        let (cases, queue) = sync_channel(WORKERS);
        let (sender, judged) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..WORKERS {
            let (queue, sender, scratch) = (Arc::clone(&queue), sender.clone(), scratch.to_owned());
            Builder::new()
                .name("judge".to_owned())
                .spawn(move || work(&queue, &sender, &scratch))
                .expect("a thread");
        }
        Self {
            cases: Some(cases),
            judged,
            running: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Takes one case more; waits while enough are under way.
    pub fn submit(&mut self, case: Case) {
        self.running.insert(case.name.clone());
        while self.running.len() > 2 * WORKERS {
            self.receive();
        }
        let cases = self.cases.as_ref().expect("not finished");
        cases.send(case).expect("the workers run on");
    }

    /// Waits for the rest, and returns how often each outcome was, and what promises were broken.
    pub fn finish(mut self) -> (BTreeMap<Outcome, usize>, Vec<String>) {
        self.cases = None;
        while !self.running.is_empty() {
            self.receive();
        }
        let outcomes = std::mem::take(&mut self.outcomes);
        (outcomes, std::mem::take(&mut self.failures))
    }

    fn receive(&mut self) {
        match self.judged.recv_timeout(HANG) {
            Ok((case, result)) => {
                self.running.remove(&case.name);
                match result {
                    Ok(outcome) => *self.outcomes.entry(outcome).or_default() += 1,
                    Err(what) => self.failed(&case, &what),
                }
            }
            Err(RecvTimeoutError::Timeout) => panic!("hangs: one of {:?}", self.running),
            Err(RecvTimeoutError::Disconnected) => panic!("a worker is gone: {:?}", self.running),
        }
    }

    /// Keeps the image of a failure.
    fn failed(&mut self, case: &Case, what: &str) {
        let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&case.name);
        if self.failures.len() < FAILURES_MAX {
            // One of that name is from an earlier run.
            let _ = std::fs::remove_dir_all(&kept);
            case.image.write(&kept);
        }
        self.failures.push(format!(
            "{} (image in {}): {what}",
            case.name,
            kept.display()
        ));
    }
}

impl Drop for Images {
    /// Lets the workers end what they are at, so that the scratch directory is theirs no more when it is removed.
    fn drop(&mut self) {
        self.cases = None;
        while let Ok((case, _)) = self.judged.recv_timeout(HANG) {
            self.running.remove(&case.name);
        }
    }
}

fn work(queue: &Mutex<Receiver<Case>>, judged: &Sender<Judged>, scratch: &Path) {
    loop {
        let case = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(case) = case else { return };
        let root = scratch.join(&case.name);
        case.image.write(&root);
        let outcome = catch_unwind(AssertUnwindSafe(|| judge(&root, &case)));
        let result = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            Err(format!("a panic escaped: {}", text.unwrap_or("no message")))
        });
        // A failed sled that was not dropped holds on to its files; they go with the process.
        let _ = std::fs::remove_dir_all(&root);
        if judged.send((case, result)).is_err() {
            return;
        }
    }
}
