//! Keeps one lane of one link connected: dials, hands on what comes, notices the end, pauses, dials again.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use ringfort_proto::peer;
use ringfort_ring::StoreId;

use super::{
    fence::Fenced,
    links::{LARGE, Link, LinkEvents, Links, limited},
};
use crate::{counters::add, limits::PEER_BACKOFF_MAX, net::connect_channel};

/// The first pause after a connection failed.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);

/// Keeps one lane of one link connected, for as long as the store takes part.
pub(super) async fn run_lane(
    links: Arc<Links>,
    link: Arc<Link>,
    lane: usize,
    events: Arc<dyn LinkEvents>,
) {
    let mut backoff = Backoff::new(links.parts.seed ^ (u64::from(link.id.0) << 1 | lane as u64));
    while links.parts.views.current().present(link.store).is_some() {
        match connect(&links, &link, lane).await {
            Ok(stream) => {
                if serve_lane(&links, &link, lane, stream, &events).await {
                    backoff.reset();
                }
            }
            Err(why) => {
                tracing::debug!(peer = %link.name, lane, why, "no connection to a peer");
                link.lanes[lane].close();
                link.attempted[lane].store(true, Ordering::Release);
                links.publish();
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
    tracing::info!(peer = %link.name, store = %link.store, lane, "the store takes part no more");
    link.lanes[lane].close();
    links.publish();
}

type Replies = tonic::Streaming<peer::Replies>;

/// Connects and opens the stream of a lane; nothing is queued on it yet.
async fn connect(links: &Links, link: &Link, lane: usize) -> Result<Replies, String> {
    let parts = &links.parts;
    let view = parts.views.current();
    let Some(member) = view.present(link.store) else {
        return Err("no member of the layout".to_owned());
    };
    // It may have moved since the layout listed it.
    let addr = parts.routes.peer_addr(member.store_id);
    let addr = addr.unwrap_or_else(|| member.peer_addr.clone());
    let limit = parts.limits.peer_connect_timeout;
    let attempt = async {
        let channel = connect_channel(&parts.net, &addr, limit)
            .await
            .map_err(|e| format!("{addr}: {e}"))?;
        if lane == LARGE {
            let mut shared = link.channel.lock().unwrap_or_else(PoisonError::into_inner);
            *shared = Some(channel.clone());
        }
        let batches = link.lanes[lane].connect(parts.fences.clone());
        let replies = limited(channel).exchange(batches).await;
        replies
            .map(tonic::Response::into_inner)
            .map_err(|status| format!("{addr}: {status}"))
    };
    // The stream must open too, not the connection alone: a hung process still accepts connections.
    tokio::time::timeout(2 * limit, attempt)
        .await
        .unwrap_or_else(|_| Err("timed out".to_owned()))
}

/// Hands on the replies of one stream until it ends, and then tells that the peer is down. Returns whether it
/// was of use (a reply came, or it stood a while): a peer that only hangs up is not to be called again at once.
async fn serve_lane(
    links: &Links,
    link: &Link,
    lane: usize,
    mut replies: Replies,
    events: &Arc<dyn LinkEvents>,
) -> bool {
    link.lanes[lane].open();
    link.up[lane].store(true, Ordering::Release);
    link.attempted[lane].store(true, Ordering::Release);
    if link.is_up() {
        tracing::info!(peer = %link.name, "connected");
    }
    links.publish();
    let mut proven = false;
    let mut views = links.parts.views.subscribe();
    let mut gone = std::pin::pin!(views.wait_for(|view| view.present(link.store).is_none()));
    let mut stands = std::pin::pin!(tokio::time::sleep(PEER_BACKOFF_MAX));
    let why = loop {
        let message = tokio::select! {
            biased;
            message = replies.message() => message,
            _ = &mut gone => break "its store takes part no more".to_owned(),
            () = &mut stands, if !proven => {
                proven = true;
                continue;
            }
        };
        match message {
            Ok(Some(message)) => {
                proven = true;
                if let Err(why) = accept(links, link, message, events) {
                    break why;
                }
            }
            Ok(None) => break "the peer ended the stream".to_owned(),
            Err(status) => break why_ended(&status),
        }
    };
    tracing::info!(peer = %link.name, lane, why, "disconnected");
    link.up[lane].store(false, Ordering::Release);
    link.lanes[lane].close();
    if lane == LARGE {
        *link.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    links.publish();
    events.on_peer_down(link.id);
    proven
}

/// The end of a stream in words; a status shown whole repeats itself in Rust's own notation.
fn why_ended(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        words => words.to_owned(),
    }
}

fn accept(
    links: &Links,
    link: &Link,
    message: peer::Replies,
    events: &Arc<dyn LinkEvents>,
) -> Result<(), String> {
    let parts = &links.parts;
    let fence = message.fence.unwrap_or_default();
    if parts.fences.judge(&fence) == Fenced::Foreign {
        add(&parts.counters.wrong_cluster, 1);
        return Err(parts.fences.wrong_cluster(&fence).to_string());
    }
    if fence.store_id != link.store.0 {
        return Err(format!(
            "the store {} answers there",
            StoreId(fence.store_id)
        ));
    }
    parts.heard.note(link.store, fence.durable_sequence);
    events.on_replies(link.id, message);
    Ok(())
}

/// Capped exponential pauses with jitter that is the same on one node every time.
struct Backoff {
    state: u64,
    pause: Duration,
}

impl Backoff {
    fn new(seed: u64) -> Self {
        Backoff {
            state: seed,
            pause: BACKOFF_FIRST,
        }
    }

    fn reset(&mut self) {
        self.pause = BACKOFF_FIRST;
    }

    /// Half the pause, and up to another half by chance.
    fn next(&mut self) -> Duration {
        self.state = xxhash_rust::xxh3::xxh3_64(&self.state.to_le_bytes());
        let half = self.pause / 2;
        self.pause = (self.pause * 2).min(PEER_BACKOFF_MAX);
        half + half.mul_f64((self.state >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_cap_and_is_the_same_for_one_seed() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..20).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
        assert!(pauses(1).iter().all(|&pause| pause <= PEER_BACKOFF_MAX));
        assert!(pauses(1)[0] < BACKOFF_FIRST * 2);
        assert!(pauses(1)[19] >= PEER_BACKOFF_MAX / 2);
    }
}
