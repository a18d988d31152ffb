//! Messages that are lost, directories that are put back or lost, and how a store comes back from that.

use std::sync::Arc;

use ringfort_storage::{Key, version::Object};

use super::{
    message::{Bug, Message},
    site::id,
    world::{KEYS, OWNERS, PARTITION, SITES, World},
};
use crate::reaper::core::Question;

impl World {
    /// A site is about to go: who waits for what it owes waits no longer.
    pub fn end_asking(&mut self, site: usize) {
        for owed in std::mem::take(&mut self.sites[site].owed) {
            self.lose(site, owed.to, &owed.message);
        }
    }

    pub fn lose(&mut self, from: usize, to: usize, message: &Message) {
        // Whoever asked waits no longer.
        match message {
            Message::Ask(question) => self.sites[from].core.failed(id(to), PARTITION, question),
            Message::Confirmed { generation, .. } => {
                let question = Question::Confirm {
                    generation: *generation,
                    tombs: Arc::default(),
                };
                self.sites[to].core.failed(id(from), PARTITION, &question);
            }
            Message::Standing { to: generation, .. } => {
                let question = Question::Advance {
                    to: *generation,
                    tombs: Arc::default(),
                };
                self.sites[to].core.failed(id(from), PARTITION, &question);
            }
            Message::Finished { to: generation } => {
                let question = Question::Finish { to: *generation };
                self.sites[to].core.failed(id(from), PARTITION, &question);
            }
            _ => {}
        }
    }

    pub fn learn(&mut self) {
        let site = self.dice.below(SITES);
        // Decided once some steps are through.
        if self.requests > 10 {
            self.sites[site].epoch = 2;
        }
    }

    /// A directory is put back: rounds that it took part in since are missed.
    pub fn put_back(&mut self) {
        if !self.may_restore {
            return;
        }
        match self.image.take() {
            None => {
                let site = self.dice.below(OWNERS);
                if !self.has_value(site) {
                    return;
                }
                let generation = self.sites[site].generation();
                self.image = Some((site, self.sites[site].image(), generation));
            }
            Some((site, image, generation)) => {
                let whole = (0..OWNERS).all(|owner| self.sites[owner].is_synced());
                let is_old = generation < self.sites[site].store.floor(PARTITION);
                if !whole || !is_old && !self.dice.one_in(60) {
                    self.image = Some((site, image, generation));
                    return;
                }
                self.may_restore = false;
                self.end_asking(site);
                let seed = self.dice.next();
                self.sites[site].restore(&image, seed);
                for write in &mut self.minted {
                    write.copies.remove(&site);
                }
                let others = (0..SITES).filter(|other| *other != site);
                let at = others.map(|other| {
                    let store = &self.sites[other].store;
                    (store.generation(PARTITION), store.floor(PARTITION))
                });
                let at: Vec<(u64, u64)> = at.collect();
                let generation = at.iter().map(|(generation, _)| *generation).max();
                let floor = at.iter().map(|(_, floor)| *floor).max();
                self.heard(site, (generation.unwrap_or(0), floor.unwrap_or(0)));
            }
        }
    }

    /// Whether a site holds a value that may be deleted and reaped later.
    fn has_value(&self, site: usize) -> bool {
        (0..KEYS).any(|n| {
            let key = Key::new(n + 1, b"n", &[n as u8]).expect("short");
            self.sites[site].read(&key).object().live_count(1) > 0
        })
    }

    /// A site hears what others are at.
    pub fn heard(&mut self, site: usize, (generation, floor): (u64, u64)) {
        if self.sites[site].generation() < floor {
            self.begin_anew(site, generation, floor);
        }
    }

    pub fn begin_anew(&mut self, site: usize, generation: u64, floor: u64) {
        self.figures.missed += 1;
        if self.bug == Bug::KeepMissed {
            let store = &self.sites[site].store;
            let adopted = store.adopt_generation(PARTITION, generation, floor);
            return adopted.expect("the disk works");
        }
        for write in &mut self.minted {
            write.copies.remove(&site);
        }
        self.sites[site].begin_anew(generation, floor);
    }

    /// An owner that lacks something is sent what the others hold.
    pub fn ask_pages(&mut self) {
        for to in 0..OWNERS {
            if self.sites[to].is_synced() {
                continue;
            }
            let from = self.dice.below(OWNERS);
            let giver = &self.sites[from].store;
            if from == to || !giver.is_synced(PARTITION) || giver.reaping(PARTITION).is_some() {
                continue;
            }
            let generation = giver.generation(PARTITION);
            let page = giver
                .scan(0, None, u64::MAX, 100, 1 << 20)
                .expect("the engine works");
            let records = page.records.into_iter();
            let page = Message::Page {
                records: records.map(|(k, r)| (k, r.object().clone())).collect(),
                generation,
                floor: giver.floor(PARTITION),
            };
            self.flying.push((from, to, page));
        }
    }

    pub fn take_page(
        &mut self,
        from: usize,
        to: usize,
        records: Vec<(Key, Object)>,
        (generation, floor): (u64, u64),
    ) {
        let mine = self.sites[to].generation();
        if self.sites[to].is_synced() || generation < mine {
            return;
        }
        if generation > mine {
            return self.begin_anew(to, generation, floor);
        }
        for (key, object) in records {
            let merged = self.sites[to].store.merge(&key, object, generation);
            merged.expect("of this generation");
        }
        self.sites[to].received.insert(from);
        if self.sites[to].received.len() == OWNERS - 1 {
            self.sync(to);
            let synced = self.sites[to].store.set_synced(PARTITION, true);
            synced.expect("the disk works");
        }
    }
}
