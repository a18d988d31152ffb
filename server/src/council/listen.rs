//! What this store tells the others of layouts, and hears from them: the newest epoch, and everyone's trackers.
//!
//! Keeps I9: only what is durable is told, and a decree is taken over only from whoever has it, whole. Gossip carries numbers
//! alone; late or lost ones delay a step of a change and make none wrong (see `ring/src/layout/history.rs`).

use std::{pin::Pin, sync::Arc, time::Duration};

use ringfort_ring::{
    Epoch, StoreId, Trackers,
    gossip::{Topic, Value},
};
use tokio::{sync::watch, time::Sleep};

use super::Council;
use crate::{
    gossip::{Gossiper, Routes},
    peer::Ahead,
};

/// The least pause between two rounds: gossip changes all the time.
const PAUSE: Duration = Duration::from_millis(100);
/// When one that announced a newer epoch did not give its decree, it is asked again after this, twice as long after the next time …
const AGAIN: Duration = Duration::from_secs(1);
/// … and at most so long.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// What a council listens to.
pub struct Ears {
    /// Its voice, too.
    pub gossip: Arc<Gossiper>,
    /// Epochs on messages of the data path: faster than gossip.
    pub ahead: watch::Receiver<Option<Ahead>>,
    /// Where nodes are now.
    pub routes: Arc<Routes>,
}

/// What gossip says of one round.
struct Said {
    trackers: Vec<(StoreId, Trackers)>,
    /// The highest epoch, and who has it.
    newest: Option<Ahead>,
}

/// A newer epoch was announced, and its decree is not to be had.
struct Failed {
    ahead: Ahead,
    pause: Duration,
    /// Until it is asked for again.
    sleep: Pin<Box<Sleep>>,
}

impl Failed {
    fn again(ahead: Ahead, last: Option<Failed>) -> Failed {
        let last = last.filter(|last| last.ahead == ahead);
        let pause = last.map_or(AGAIN, |last| (last.pause * 2).min(AGAIN_MAX));
        let sleep = Box::pin(tokio::time::sleep(pause));
        Failed {
            ahead,
            pause,
            sleep,
        }
    }

    /// Whether it is too early to ask the same again.
    fn holds(&self, ahead: Ahead) -> bool {
        self.ahead == ahead && !self.sleep.is_elapsed()
    }
}

/// Tells and hears, for ever.
pub async fn run(council: Arc<Council>, mut ears: Ears) {
    let mut told = ears.gossip.told();
    let mut changed = council.changed.subscribe();
    let mut failed: Option<Failed> = None;
    loop {
        let history = council.history();
        let mine = history.trackers_of(council.me);
        say(&ears.gossip, Topic::EPOCH, Value::number(history.epoch().0));
        say(&ears.gossip, Topic::TRACKERS, Value::trackers(mine));
        let said = listen(&ears.gossip);
        council.hear(said.trackers);
        let fence = *ears.ahead.borrow_and_update();
        let best = said.newest.into_iter().chain(fence);
        let best = best.max_by_key(|ahead| ahead.epoch);
        let behind = best.filter(|ahead| ahead.epoch > council.newest().epoch());
        failed = match behind {
            None => None,
            Some(ahead) if failed.as_ref().is_some_and(|failed| failed.holds(ahead)) => failed,
            Some(ahead) => {
                fetch(&council, &ears.routes, ahead.store).await;
                let is_here = council.newest().epoch() >= ahead.epoch;
                (!is_here).then(|| Failed::again(ahead, failed.take()))
            }
        };
        tokio::time::sleep(PAUSE).await;
        let again = async {
            match &mut failed {
                Some(failed) => failed.sleep.as_mut().await,
                None => std::future::pending().await,
            }
        };
        // Senders live as long as this task's owner; one that is gone has nothing more to tell.
        tokio::select! {
            Ok(()) = told.changed() => {}
            Ok(()) = changed.changed() => {}
            Ok(()) = ears.ahead.changed() => {}
            () = again => {}
            else => return,
        }
    }
}

/// Two topics always fit; only a full list of them could refuse it.
fn say(gossip: &Gossiper, topic: Topic, value: Value) {
    if let Err(error) = gossip.say(topic, value) {
        tracing::error!(%error, "an entry of gossip is left out: a bug");
    }
}

fn listen(gossip: &Gossiper) -> Said {
    gossip.read(|core| {
        let stores = core.stores();
        let trackers = stores.filter_map(|store| Some((store, core.trackers(store)?)));
        let epochs = core.stores().filter_map(|store| {
            let [epoch] = core.numbers(store, Topic::EPOCH)? else {
                return None;
            };
            let epoch = Epoch(*epoch);
            Some(Ahead { epoch, store })
        });
        Said {
            trackers: trackers.collect(),
            newest: epochs.max_by_key(|ahead| ahead.epoch),
        }
    })
}

/// Asks a store for its newest decree.
async fn fetch(council: &Council, routes: &Routes, store: StoreId) {
    let listed = || Some(council.newest().member_of(store)?.peer_addr.clone());
    let Some(addr) = routes.peer_addr(store).or_else(listed) else {
        return;
    };
    if let Err(error) = council.exchange(&addr).await {
        tracing::warn!(%error, "a newer layout is not to be had yet");
    }
}
