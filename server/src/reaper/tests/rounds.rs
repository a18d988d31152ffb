//! What workers and those whom they ask do.

use ringfort_storage::{
    Key,
    store::{Advance, Advanced, REAPED_BYTES_MAX, REAPED_TOMBS_MAX, ReapWindow},
    version::Clock,
};

use super::{
    message::{Bug, Message},
    site::{Owed, id, site_of},
    world::{NOW_MS, OWNERS, PARTITION, SITES, World},
};
use crate::reaper::core::{Action, Known, Question, Standing, Verdict};

impl World {
    /// A site's worker looks for something to do.
    pub fn reap(&mut self, step: u64) {
        let at = self.dice.below(SITES);
        let found = {
            let site = &mut self.sites[at];
            if let Some(reaping) = site.store.reaping(PARTITION) {
                let to = (PARTITION, reaping.generation);
                site.core.drive(self.now, self.now, to, &reaping.tombs);
            } else {
                site.core.is_over(PARTITION);
            }
            let may_begin = site.store.reaping(PARTITION).is_none() && site.is_synced();
            // Anybody may: the first owner, and one that believes to be.
            let window = ReapWindow::default();
            match at < OWNERS && may_begin {
                true => Some(
                    site.store
                        .reapable(
                            PARTITION,
                            NOW_MS + step,
                            window,
                            REAPED_TOMBS_MAX,
                            REAPED_BYTES_MAX,
                        )
                        .expect("the engine works")
                        .tombs,
                ),
                false => None,
            }
        };
        if let Some(tombs) = found {
            if self.bug == Bug::ByTime {
                for tomb in tombs {
                    let erased = self.sites[at].store.erase(&tomb.key);
                    erased.expect("there is room");
                    self.bury(&tomb.key, &tomb.clock);
                }
                return;
            }
            let site = &mut self.sites[at];
            let generation = site.generation();
            site.core.begin(self.now, PARTITION, generation, tombs);
        }
        self.work(at);
    }

    pub fn bury(&mut self, key: &Key, clock: &Clock) {
        for minted in self.minted.iter().filter(|minted| minted.key == *key) {
            if clock.covers(minted.dot) {
                self.gone.insert(minted.dot);
            }
        }
    }

    pub fn work(&mut self, at: usize) {
        let members = World::members(self.sites[at].epoch);
        let owners = |_| (0..OWNERS).map(id).collect();
        let known = Known {
            epoch: self.sites[at].epoch(),
            members: &members,
            owners: &owners,
            me: id(at),
        };
        loop {
            let actions = self.sites[at].core.next(self.now, &known);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.act(at, action);
            }
        }
    }

    pub fn act(&mut self, at: usize, action: Action) {
        match action {
            Action::Ask {
                store, question, ..
            } => {
                self.flying
                    .push((at, site_of(store), Message::Ask(question)));
            }
            Action::Commit {
                to, tombs, epoch, ..
            } => {
                let site = &mut self.sites[at];
                let is_newest = epoch == site.epoch();
                let step = Advance {
                    partition: PARTITION,
                    to,
                    tombs: tombs.to_vec(),
                };
                let done = is_newest
                    && matches!(
                        site.store.advance_reaping(&[step]).as_deref(),
                        Ok([Advanced::Done { .. }])
                    );
                self.sync(at);
                self.sites[at].core.committed(self.now, PARTITION, to, done);
            }
            Action::End { to, .. } => {
                self.finish(at, to);
                self.sites[at].core.ended(self.now, PARTITION, to, true);
            }
        }
    }

    pub fn finish(&mut self, at: usize, to: u64) {
        let list = self.sites[at].store.reaping(PARTITION);
        let list = list.filter(|list| list.generation == to);
        let finish = self.sites[at].store.finish_reaping(PARTITION, to);
        self.figures.reaped += finish.expect("there is room").erased as u64;
        self.sync(at);
        let ended = self.sites[at].store.end_reaping(&[(PARTITION, to)]);
        ended.expect("the disk works");
        if let Some(list) = list {
            self.figures.finished += 1;
            for tomb in &list.tombs {
                self.bury(&tomb.key, &tomb.clock);
            }
        }
    }

    pub fn answer(&mut self, from: usize, to: usize, question: Question) {
        let epoch = |world: &World| world.sites[to].epoch();
        match question {
            Question::Confirm { generation, tombs } => {
                let store = self.sites[to].store.clone();
                let (verdict, sequence) = match store.confirm_reaping(PARTITION, generation, &tombs)
                {
                    Ok(confirmed) => (Verdict::Exact(confirmed.exact), confirmed.sequence),
                    Err(_) => (Verdict::Refused, 0),
                };
                let message = Message::Confirmed {
                    generation,
                    epoch: epoch(self),
                    verdict,
                    at: (store.generation(PARTITION), store.floor(PARTITION)),
                };
                self.owe(to, from, sequence, message);
            }
            Question::Advance {
                to: generation,
                tombs,
            } => {
                let store = self.sites[to].store.clone();
                let step = Advance {
                    partition: PARTITION,
                    to: generation,
                    tombs: tombs.to_vec(),
                };
                let advanced = store.advance_reaping(&[step]).expect("the disk works");
                let sequence = match advanced[0] {
                    Advanced::Done { sequence } => sequence,
                    Advanced::Missed => {
                        self.begin_anew(to, generation, generation - 1);
                        0
                    }
                };
                let lowest_hint = match self.bug {
                    Bug::ForgetHints => None,
                    _ => store.lowest_hint_generation(PARTITION),
                };
                let message = Message::Standing {
                    to: generation,
                    epoch: epoch(self),
                    standing: Standing {
                        generation: store.generation(PARTITION),
                        lowest_hint,
                    },
                    at: (store.generation(PARTITION), store.floor(PARTITION)),
                };
                self.owe(to, from, sequence, message);
            }
            Question::Finish { to: generation } => {
                self.finish(to, generation);
                let message = Message::Finished { to: generation };
                self.flying.push((to, from, message));
            }
        }
    }

    pub fn owe(&mut self, site: usize, to: usize, sequence: u64, message: Message) {
        self.sites[site].owed.push(Owed {
            sequence,
            to,
            message,
        });
        for (to, message) in self.sites[site].answers() {
            self.flying.push((site, to, message));
        }
    }
}
