//! What must hold always, and in the end.

use std::{collections::BTreeSet, time::Duration};

use ringfort_storage::{Key, version::Payload};

use super::{
    message::Message,
    site::Site,
    world::{FALLBACK, KEYS, NEWCOMER, OWNERS, PARTITION, SITES, World},
};

impl World {
    /// I4: nothing that was reaped is at any copy that counts.
    pub fn check(&self) -> Result<(), String> {
        for site in self.sites[..OWNERS].iter().filter(|site| site.is_synced()) {
            for n in 0..KEYS {
                let key = Key::new(n + 1, b"n", &[n as u8]).expect("short");
                let record = site.read(&key);
                let mut siblings = record.object().siblings().iter();
                let back = siblings
                    .find(|s| matches!(s.payload, Payload::Value(_)) && self.gone.contains(&s.dot));
                if let Some(back) = back {
                    let at = (site.id, site.generation());
                    return Err(format!("{:?} of key {n} is back at {at:?}", back.dot));
                }
            }
        }
        Ok(())
    }

    /// All that is on its way comes, everybody knows everything, and owners exchange what they hold.
    pub fn heal(&mut self) -> Result<(), String> {
        for site in &mut self.sites {
            site.epoch = 2;
        }
        for round in 0..400 {
            self.now += Duration::from_secs(1);
            (0..SITES).for_each(|site| self.sync(site));
            for (from, to, message) in std::mem::take(&mut self.flying) {
                self.deliver(from, to, message);
                self.check()?;
            }
            for at in [FALLBACK, NEWCOMER] {
                for hint in self.sites[at].store.hints_after(None, 10, 1 << 20) {
                    for owner in 0..OWNERS {
                        let hint = hint.clone();
                        self.flying.push((at, owner, Message::Delivery { hint }));
                    }
                }
            }
            self.ask_pages();
            for _ in 0..SITES {
                self.reap(1_000 + round);
            }
            self.exchange();
            self.check()?;
            if self.is_quiet() {
                return self.judge();
            }
        }
        let state: Vec<_> = self
            .sites
            .iter()
            .map(|s| {
                (
                    s.generation(),
                    s.is_synced(),
                    s.store.reaping(PARTITION),
                    s.store.hint_stats().count,
                    format!("{:?}", s.core),
                )
            })
            .collect();
        Err(format!("it does not come to rest: {state:#?}"))
    }

    /// Owners give each other what they hold.
    pub fn exchange(&mut self) {
        for from in 0..OWNERS {
            (0..OWNERS).for_each(|to| self.give(from, to));
        }
    }

    pub fn exchange_some(&mut self) {
        let (from, to) = (self.dice.below(OWNERS), self.dice.below(OWNERS));
        self.give(from, to);
    }

    /// An owner gives another one of the same generation what it holds.
    pub fn give(&mut self, from: usize, to: usize) {
        let (giver, taker) = (&self.sites[from].store, &self.sites[to].store);
        let both = [giver, taker];
        if giver.generation(PARTITION) != taker.generation(PARTITION)
            || both.iter().any(|store| !store.is_synced(PARTITION))
        {
            return;
        }
        let read_under = giver.generation(PARTITION);
        let page = giver.scan(0, None, u64::MAX, 100, 1 << 20);
        for (key, record) in page.expect("the engine works").records {
            let merged = taker.merge(&key, record.object().clone(), read_under);
            merged.expect("of the same generation");
        }
    }

    /// Everything has come, and nothing is left to be reaped.
    pub fn is_quiet(&self) -> bool {
        let hints = self.sites.iter().all(|s| s.store.hint_stats().count == 0);
        let lists = self
            .sites
            .iter()
            .all(|s| s.store.reaping(PARTITION).is_none());
        let synced = self.sites[..OWNERS].iter().all(Site::is_synced);
        let dead = self.sites[..OWNERS].iter().any(|site| {
            (0..KEYS).any(|n| {
                let key = Key::new(n + 1, b"n", &[n as u8]).expect("short");
                let record = site.read(&key);
                !record.object().is_empty() && record.object().live_count(1) == 0
            })
        });
        hints && lists && synced && !dead
    }

    pub fn judge(&self) -> Result<(), String> {
        let mut live = BTreeSet::new();
        for n in 0..KEYS {
            let key = Key::new(n + 1, b"n", &[n as u8]).expect("short");
            let records: Vec<_> = self.sites[..OWNERS].iter().map(|s| s.read(&key)).collect();
            if records.iter().any(|r| r.leaf() != records[0].leaf()) {
                return Err(format!("key {n} differs: {records:?}"));
            }
            live.extend(records[0].object().siblings().iter().map(|s| s.dot));
        }
        for minted in &self.minted {
            if minted.is_acked
                && !live.contains(&minted.dot)
                && !self.replaced.contains(&minted.dot)
            {
                return Err(format!("{:?} was acknowledged, and is lost", minted.dot));
            }
        }
        Ok(())
    }
}
