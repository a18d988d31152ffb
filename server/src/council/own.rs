//! What a node proposes of itself, by itself: that it is reached elsewhere, and that its store is a new one.
//!
//! Keeps I3: before a new store asks to be listed in the place of one that was lost, it is durable that its copies count toward
//! no read. All of it amends: no owner changes, and whoever decides otherwise meanwhile costs another attempt.

use std::{sync::Arc, time::Duration};

use ringfort_ring::{Change, Decree, Member, StoreId, plan_hash};
use ringfort_storage::{Store, twoslot::SlotError};

use super::{Council, Part};
use crate::{
    bootstrap::{Place, join::place},
    view::{Views, own_unsynced},
};

/// The pause before the first attempt, so that nodes that moved together do not all ask at once; to it comes as much again, by
/// the store.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Different stores wait up to so much longer, in ms.
const SPREAD_MS: u64 = 211;

/// What the node `me` has to say of itself, being `part` of the cluster.
pub fn changes(decree: &Decree, me: &Member, part: Part) -> Vec<Change> {
    let mut live = decree.live().iter().rev();
    let Some(listed) = live.find_map(|layout| layout.member(&me.name)) else {
        return Vec::new();
    };
    let mut changes = Vec::new();
    match part {
        Part::Member => {}
        Part::Waiting if place(decree, me, false) == Ok(Place::Renewed) => {
            changes.push(Change::NewStore {
                name: me.name.clone(),
                store_id: me.store_id,
            });
        }
        Part::Waiting | Part::Excused | Part::Removed => return Vec::new(),
    }
    let mine = (&me.client_addr, &me.peer_addr, &me.http_addr);
    if mine != (&listed.client_addr, &listed.peer_addr, &listed.http_addr) {
        changes.push(Change::Addresses {
            name: me.name.clone(),
            client_addr: me.client_addr.clone(),
            peer_addr: me.peer_addr.clone(),
            http_addr: me.http_addr.clone(),
        });
    }
    changes
}

/// Who proposes.
pub struct Own {
    /// This node, with its addresses as they are now.
    pub me: Member,
    /// Its store.
    pub store: Store,
    /// What requests are served by.
    pub views: Views,
}

/// Proposes for ever what this node has to say of itself.
pub async fn run(council: Arc<Council>, own: Own) {
    let mut changed = council.changes();
    let mut pause = PAUSE;
    loop {
        changed.mark_unchanged();
        let decree = council.newest();
        let mine = changes(&decree, &own.me, council.part());
        if mine.is_empty() {
            pause = PAUSE;
            // The council lives as long as this task's owner.
            if changed.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::time::sleep(pause + spread(own.me.store_id)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        if *council.newest() != *decree {
            continue;
        }
        match council.propose_own(&own, &decree, &mine).await {
            Ok(()) => tracing::info!(
                changes = mine.len(),
                "the layout lists this node as it is now"
            ),
            Err(why) => tracing::info!(why, "the layout does not list this node as it is now yet"),
        }
    }
}

fn spread(store: StoreId) -> Duration {
    Duration::from_millis(store.0 % SPREAD_MS)
}

impl Council {
    async fn propose_own(
        &self,
        own: &Own,
        decree: &Decree,
        changes: &[Change],
    ) -> Result<(), String> {
        let renews = |change: &Change| matches!(change, Change::NewStore { .. });
        if changes.iter().any(renews) {
            own.count_for_nothing().map_err(|error| error.to_string())?;
        }
        let committed = self.commit(changes, plan_hash(decree, changes)).await;
        committed.map(drop).map_err(|failure| failure.to_string())
    }
}

impl Own {
    /// Notes durably that no copy of this store counts toward a read, before any request could be served by another view.
    fn count_for_nothing(&self) -> Result<(), SlotError> {
        self.store.count_for_nothing()?;
        self.views.set_own_unsynced(|| own_unsynced(&self.store));
        Ok(())
    }
}
