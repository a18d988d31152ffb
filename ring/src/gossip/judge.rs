//! Who is suspected, and who is down.
//!
//! *Invariant:* an opinion counts only against the latest heartbeat that is known here: one later heartbeat refutes all opinions
//! before it, everywhere. Opinions of observers that this node suspects itself do not count, so that a node that is cut off does
//! not believe others that it no longer hears.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Change, Gossip, SILENCE_MAX_MS,
    draw::mix,
    entry::{Suspicion, Topic, Value},
    node::Standing,
};
use crate::id::StoreId;

/// Observers that must suspect a node before it is down, if there are so many.
pub const OBSERVERS_MIN: usize = 2;
/// Silences are judged with each tick, and up to so many times between two, when somebody asks.
const SUSPECT_PER_TICK: u64 = 4;
/// Opinions that one node gossips, at most. With more to tell, each node tells others: together they tell all.
pub const SUSPECTS_MAX: usize = 32;

impl Gossip {
    /// As [`Self::suspect`], unless that was done a moment ago.
    pub(super) fn suspect_again(&mut self, now_ms: u64) -> bool {
        let pause_ms = self.settings.tick_ms / SUSPECT_PER_TICK;
        now_ms >= self.suspected_ms.saturating_add(pause_ms) && self.suspect(now_ms)
    }

    /// Suspects who is silent for too long, and tells others. Returns whether there is something new to tell.
    pub(super) fn suspect(&mut self, now_ms: u64) -> bool {
        self.suspected_ms = now_ms;
        let expected = self.settings.expected();
        for node in &mut self.nodes {
            let silence = node.silence_ms(now_ms);
            // No threshold is that low; spares the arithmetic for all that are well.
            if node.beat.store == self.me || node.suspected || silence <= expected.gap_ms {
                continue;
            }
            node.suspected = silence >= SILENCE_MAX_MS
                || node.arrivals.phi_milli(silence, expected) >= self.settings.phi_milli_max;
        }
        let suspects = Value::Suspects(self.opinions(now_ms));
        let is_new = match self.value(self.me, Topic::SUSPECTS) {
            Some(known) => *known != suspects,
            None => suspects.bytes() > 0,
        };
        if is_new {
            self.write(Topic::SUSPECTS, suspects);
        }
        is_new
    }

    /// What this node tells of its suspicions: some of them, if they are many.
    fn opinions(&self, now_ms: u64) -> Arc<[Suspicion]> {
        let mut opinions: Vec<Suspicion> = self
            .nodes
            .iter()
            .filter(|node| node.suspected && node.beat.generation > 0 && node.is_told(now_ms))
            .map(|node| Suspicion {
                store: node.beat.store,
                since: node.beat.age(),
            })
            .collect();
        if opinions.len() > SUSPECTS_MAX {
            opinions.sort_by_key(|opinion| mix(opinion.store.0 ^ mix(self.me.0)));
            opinions.truncate(SUSPECTS_MAX);
            opinions.sort();
        }
        opinions.into()
    }

    /// Counts the opinions. Who is down stays so until its next heartbeat.
    pub(super) fn judge(&mut self, changes: &mut Vec<Change>) {
        let mut votes: BTreeMap<StoreId, usize> = BTreeMap::new();
        let mut observers = 0;
        for node in &self.nodes {
            if node.beat.store == self.me {
                continue;
            }
            if node.suspected {
                *votes.entry(node.beat.store).or_default() += 1;
            } else if node.standing == Standing::Up {
                observers += 1;
                for opinion in node.suspects() {
                    if self.is_current(opinion) {
                        *votes.entry(opinion.store).or_default() += 1;
                    }
                }
            }
        }
        for (store, votes) in votes {
            let Ok(index) = self.find(store) else {
                continue;
            };
            let node = &mut self.nodes[index];
            let is_observer = node.standing == Standing::Up && !node.suspected;
            // This node is an observer, too; the one that is judged is not.
            let all = 1 + observers - usize::from(is_observer);
            if node.standing != Standing::Down && votes >= all.min(OBSERVERS_MIN) {
                node.standing = Standing::Down;
                changes.push(Change::Down(store));
            }
        }
    }

    /// Whether nothing later was heard of whom the opinion is about.
    pub(super) fn is_current(&self, opinion: &Suspicion) -> bool {
        opinion.store != self.me
            && self
                .find(opinion.store)
                .is_ok_and(|index| opinion.since >= self.nodes[index].beat.age())
    }
}
