//! The session's one task: opens the stream, takes its answers, keeps the deadlines, opens the stream again.

use std::{sync::Arc, time::Duration};

use ringfort_proto::{
    Failure,
    v1::{SessionResponse, kv_client::KvClient},
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status, Streaming};

use super::{Health, Shared, outgoing::Outgoing, settle::STALL};
use crate::error::{Error, Kind, words};

/// The largest message that is accepted: an object of the largest size, with room.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// How long a stream may take to open, the connection included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after the first failed attempt to connect; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest pause between two attempts to connect.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Runs until the session is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let _last = LastWords(&shared);
    tokio::join!(keep_open(&shared), keep_deadlines(&shared));
}

/// Says so to all who wait if the task ends before its session: with the runtime that it ran in, or by a bug of ours.
/// The next operation starts a new task.
struct LastWords<'a>(&'a Shared);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.channel = None;
        // First, so that whoever comes from here on starts the next task.
        state.is_running = false;
        drop(state);
        self.0.fail_all("the task of the session ended", None);
        self.0.set_health(Health::Fresh);
    }
}

/// Opens the stream, attends to it, and opens it again when it ends.
async fn keep_open(shared: &Arc<Shared>) {
    let mut failures: u32 = 0;
    let mut useless: u32 = 0;
    loop {
        let refusal = match open(shared).await {
            Ok(answers) => {
                let ended = attend(shared, answers).await;
                tracing::debug!(node = %shared.address, why = %ended.why, "session broke");
                // One that breaks is opened again at once, and what comes meanwhile waits for it. One that breaks
                // again before it carried an answer would only turn in circles.
                useless = if ended.useless { useless + 1 } else { 0 };
                let refusal = (useless > 1).then(|| cannot_reach(&shared.address, &ended.why));
                shared.fail_all(&ended.why, refusal)
            }
            Err(refusal) => {
                tracing::debug!(node = %shared.address, %refusal, "no session");
                shared.fail_all("", Some(refusal))
            }
        };
        shared.parts.signals.ask();
        failures = if refusal { failures + 1 } else { 0 };
        if failures > 0 {
            let ceiling = BACKOFF_FIRST.saturating_mul(1 << (failures - 1).min(16));
            let jitter = 0.5 + shared.parts.random.fraction() / 2.0;
            sleep(ceiling.min(BACKOFF_MAX).mul_f64(jitter)).await;
        }
        // A new connection for the next attempt: the old one may be one that never fails and never answers.
        shared.lock().channel = None;
    }
}

/// Looks after the entries at the earliest deadline, and again when an earlier one comes in.
async fn keep_deadlines(shared: &Shared) {
    loop {
        let armed = shared.lock().armed;
        let alarm = async {
            match armed {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shared.rearm.notified() => {}
            () = alarm => shared.sweep(Instant::now()),
        }
    }
}

/// Opens the stream on the current channel.
async fn open(shared: &Arc<Shared>) -> Result<Streaming<SessionResponse>, Error> {
    let (channel, stream) = {
        let mut state = shared.lock();
        (shared.channel(&mut state), state.stream)
    };
    let mut client = KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let opening = client.session(Outgoing::new(Arc::clone(shared), stream));
    let answers = match timeout(OPEN_TIMEOUT, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(no_session(&status, &shared.address)),
        Err(_) => {
            let silent = format!(
                "{} opened no session within {OPEN_TIMEOUT:?}",
                shared.address
            );
            return Err(Error::unreachable(&shared.address, silent));
        }
    };
    let mut state = shared.lock();
    state.open = true;
    state.refusal = None;
    state.heard = Some(Instant::now());
    let waker = state.waker.take();
    drop(state);
    shared.set_health(Health::Up);
    if let Some(waker) = waker {
        waker.wake();
    }
    Ok(answers)
}

/// Why a stream was refused. Nothing was sent on it, so whatever the node says, another may be asked: unless it would
/// say the same of who asks.
fn no_session(status: &Status, address: &str) -> Error {
    let error = refusal(status, address);
    let turned_away = matches!(error.kind(), Kind::Unauthenticated | Kind::PermissionDenied);
    if turned_away || error.failure().is_none() {
        error
    } else {
        cannot_reach(address, &error.to_string())
    }
}

/// Why a question that changes nothing was refused: typed, or else the node cannot be reached.
pub(crate) fn refusal(status: &Status, address: &str) -> Error {
    let typed = Failure::from_status(status).is_some();
    if typed
        || matches!(
            status.code(),
            Code::Unauthenticated | Code::PermissionDenied
        )
    {
        Error::from_status(status, address, false)
    } else {
        cannot_reach(address, &words(status))
    }
}

fn cannot_reach(address: &str, why: &str) -> Error {
    Error::unreachable(address, format!("cannot reach {address}: {why}"))
}

/// How a stream ended.
struct Ended {
    why: String,
    /// It never carried an answer.
    useless: bool,
}

/// Takes answers until the stream ends.
async fn attend(shared: &Shared, mut answers: Streaming<SessionResponse>) -> Ended {
    let mut useless = true;
    let why = loop {
        tokio::select! {
            biased;
            message = answers.message() => match message {
                Ok(Some(response)) => {
                    useless = false;
                    shared.take_answers(response);
                }
                Ok(None) => break "the node ended it".to_owned(),
                Err(status) => break words(&status),
            },
            () = shared.stalled.notified() => break format!("no answer for {STALL:?} past a deadline"),
        }
    };
    Ended { why, useless }
}
