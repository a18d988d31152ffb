//! How the client learns the layout: from any node that answers, again when an answer tells of a newer one.
//!
//! *Invariant (I9):* a client stays with the cluster that it met first. A layout of another one is refused, and an
//! older epoch never replaces a newer one.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use ringfort_proto::v1::{GetLayoutRequest, GetLayoutResponse, kv_client::KvClient};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{
    error::Error,
    inner::Inner,
    session::{MESSAGE_BYTES_MAX, Session, refusal},
};

/// The least time between two requests for the layout.
const ASK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// How often the layout is asked for while it lists unsynced partitions, whose end no epoch announces.
const UNSYNCED_INTERVAL: Duration = Duration::from_secs(15);
/// How long one node has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the nodes that are new in a layout have to answer before it is routed by.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// When the next node is asked beside one that has not answered.
const STAGGER: Duration = Duration::from_millis(150);

/// What wakes the search for a layout.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    read_epoch: AtomicU64,
    newest_epoch: AtomicU64,
    ask: Notify,
}

impl Signals {
    /// Notes the epochs that an answer told.
    pub(crate) fn saw(&self, read: u64, newest: u64) {
        if read > self.read_epoch.load(Ordering::Relaxed)
            || newest > self.newest_epoch.load(Ordering::Relaxed)
        {
            self.ask();
        }
    }

    /// Asks for the layout again.
    pub(crate) fn ask(&self) {
        self.ask.notify_one();
    }

    /// Notes the epochs that the client routes by now.
    pub(crate) fn know(&self, read: u64, newest: u64) {
        self.read_epoch.store(read, Ordering::Relaxed);
        self.newest_epoch.store(newest, Ordering::Relaxed);
    }
}

/// Asks for the layout whenever it is wanted, until the client is gone.
pub(crate) async fn run(inner: Weak<Inner>, signals: Arc<Signals>) {
    let _last = LastWords(&inner);
    let mut again = None;
    loop {
        let due = async {
            match again {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = signals.ask.notified() => {}
            () = due => {}
        }
        let Some(strong) = inner.upgrade() else {
            return;
        };
        let nodes = strong.nodes();
        let jitter = 0.75 + strong.random().fraction() / 2.0;
        drop(strong);
        let fetched = fetch(nodes).await;
        let Some(strong) = inner.upgrade() else {
            return;
        };
        let newcomers = match &fetched {
            Ok(layout) => strong.newcomers(layout),
            Err(_) => Vec::new(),
        };
        drop(strong);
        open(&newcomers).await;
        let Some(strong) = inner.upgrade() else {
            return;
        };
        let outcome = fetched.and_then(|layout| strong.install(layout, &newcomers));
        if let Err(error) = &outcome {
            tracing::debug!(%error, "no layout");
        }
        strong.report(outcome.err());
        let unsynced = strong.view().is_some_and(|view| {
            view.unsynced
                .iter()
                .any(|partitions| !partitions.is_empty())
        });
        again = unsynced.then(|| UNSYNCED_INTERVAL.mul_f64(jitter));
        drop(strong);
        sleep(ASK_INTERVAL_MIN).await;
    }
}

/// Lets the next call search anew if the search ends before its client: with the runtime that it ran in.
struct LastWords<'a>(&'a Weak<Inner>);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.forget_view();
        }
    }
}

/// Asks one node after the other, and the next beside one that takes its time; the first answer wins.
async fn fetch(nodes: Vec<Arc<Session>>) -> Result<GetLayoutResponse, Error> {
    let mut nodes = nodes.into_iter();
    let mut asked = FuturesUnordered::new();
    asked.extend(nodes.next().map(ask));
    let mut error = Error::config("there are no endpoints");
    loop {
        tokio::select! {
            biased;
            Some(answer) = asked.next() => match answer {
                Ok(layout) => return Ok(layout),
                Err(failed) => {
                    error = failed;
                    asked.extend(nodes.next().map(ask));
                }
            },
            () = sleep(STAGGER), if nodes.len() > 0 => asked.extend(nodes.next().map(ask)),
            else => return Err(error),
        }
    }
}

/// Connects to nodes before anything is sent to them, for a moment: what does not answer is found out by its calls.
async fn open(nodes: &[Arc<Session>]) {
    let asked = nodes.iter().map(|node| ask(Arc::clone(node)));
    let opened = timeout(OPEN_TIMEOUT, futures::future::join_all(asked)).await;
    if opened.is_err() {
        tracing::debug!("a node of the new layout does not answer yet");
    }
}

async fn ask(node: Arc<Session>) -> Result<GetLayoutResponse, Error> {
    let mut client = KvClient::new(node.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut request = tonic::Request::new(GetLayoutRequest {});
    request.set_timeout(ANSWER_TIMEOUT);
    let address = node.address();
    match timeout(ANSWER_TIMEOUT, client.get_layout(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refusal(&status, address)),
        Err(_) => Err(Error::unreachable(
            address,
            format!("{address} gave no layout within {ANSWER_TIMEOUT:?}"),
        )),
    }
}
