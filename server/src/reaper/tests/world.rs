//! The world: who owns, who holds hints, what is on its way, and what must never come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringfort_ring::StoreId;
use ringfort_storage::{
    Key,
    version::{Dot, Object},
};
use tokio::time::Instant;

use super::{
    message::{Bug, Dice, Figures, Message},
    site::{Image, Site, id},
};

/// Of the two partitions of the stores the only one that is used.
pub const PARTITION: u32 = 0;
pub const OWNERS: usize = 3;
/// A member that owns nothing of the partition.
pub const FALLBACK: usize = 3;
/// One that a later decree lists.
pub const NEWCOMER: usize = 4;
pub const SITES: usize = 5;
pub const KEYS: u64 = 3;
pub const STEPS: u64 = 500;
/// Past every window.
pub const NOW_MS: u64 = 1_000_000_000;

/// A write of a value.
pub struct Minted {
    pub key: Key,
    pub dot: Dot,
    /// Who has it durably, and whether these were two once.
    pub copies: BTreeSet<usize>,
    pub is_acked: bool,
}

pub struct World {
    pub dice: Dice,
    pub bug: Bug,
    pub sites: Vec<Site>,
    pub flying: Vec<(usize, usize, Message)>,
    /// Objects that somebody has read and not sent yet.
    pub read: Vec<(usize, Key, Object, u64)>,
    pub had: BTreeMap<(usize, Key), (u64, BTreeSet<usize>)>,
    pub minted: Vec<Minted>,
    /// Values that some write has replaced.
    pub replaced: BTreeSet<Dot>,
    /// Values whose tombstones are reaped.
    pub gone: BTreeSet<Dot>,
    pub image: Option<(usize, Image, u64)>,
    pub may_restore: bool,
    pub requests: u64,
    pub now: Instant,
    pub figures: Figures,
}

impl World {
    pub fn new(seed: u64, bug: Bug) -> World {
        let mut dice = Dice::new(seed);
        let mut world = World {
            bug,
            sites: (0..SITES).map(|n| Site::new(n, dice.next())).collect(),
            may_restore: dice.one_in(2),
            dice,
            flying: Vec::new(),
            read: Vec::new(),
            had: BTreeMap::new(),
            minted: Vec::new(),
            replaced: BTreeSet::new(),
            gone: BTreeSet::new(),
            image: None,
            requests: 0,
            now: Instant::now(),
            figures: Figures::default(),
        };
        // In some it is an empty directory that comes back: the disk is lost.
        if world.may_restore && world.dice.one_in(2) {
            let site = world.dice.below(OWNERS);
            world.image = Some((site, world.sites[site].image(), 0));
        }
        world
    }

    pub fn play(&mut self) -> Result<(), String> {
        for step in 0..STEPS {
            self.now += Duration::from_millis(100);
            self.step(step);
            // What is back stays a while.
            if step % 4 == 0 {
                self.check()?;
            }
        }
        Ok(())
    }

    pub fn step(&mut self, step: u64) {
        let site = self.dice.below(SITES);
        // Times without writes, in which rounds come to their end while objects of before are still on their way.
        let is_quiet = step % 100 >= 30;
        match self.dice.below(100) {
            0..40 if is_quiet => (0..4).for_each(|_| self.deliver_one(true)),
            0..40 => self.deliver_one(false),
            40..55 => self.reap(step),
            55..65 => self.sync(site),
            65..72 if is_quiet => self.offer_hint(),
            65..72 => self.copy(),
            72..90 if is_quiet => match self.dice.below(3) {
                0 => (0..3).for_each(|_| self.exchange_some()),
                1 => (0..SITES).for_each(|site| self.sync(site)),
                _ => self.ask_pages(),
            },
            72..90 => self.write(),
            90..92 => self.sites[site].drain(step + 1),
            92..93 => {
                let seed = self.dice.next();
                self.end_asking(site);
                self.sites[site].crash(seed);
            }
            93..95 => self.learn(),
            95..98 => self.put_back(),
            // What is under way is lost.
            _ if !self.flying.is_empty() => {
                let lost = self.dice.below(self.flying.len());
                let (from, to, message) = self.flying.swap_remove(lost);
                self.lose(from, to, &message);
            }
            _ => {}
        }
    }

    pub fn key(&mut self) -> Key {
        let n = self.dice.next() % KEYS;
        Key::new(n + 1, b"n", &[n as u8]).expect("short")
    }

    pub fn members(epoch: u64) -> BTreeSet<StoreId> {
        let last = if epoch > 1 { NEWCOMER } else { FALLBACK };
        (0..=last).map(id).collect()
    }

    pub fn sync(&mut self, site: usize) {
        for write in self.sites[site].sync() {
            let minted = &mut self.minted[write];
            minted.copies.insert(site);
            minted.is_acked |= minted.copies.len() > 1;
        }
        for (to, message) in self.sites[site].answers() {
            self.flying.push((site, to, message));
        }
    }

    pub fn deliver_one(&mut self, is_quiet: bool) {
        if self.flying.is_empty() {
            return;
        }
        // What rounds are made of comes soon, and objects late: so rounds end while these are on their way.
        let soon = |(_, (_, _, message)): &(usize, &(usize, usize, Message))| {
            !matches!(message, Message::Store { .. })
        };
        let soon = self.flying.iter().enumerate().filter(soon);
        let soon: Vec<usize> = soon.map(|(number, _)| number).collect();
        let often = if is_quiet { 20 } else { 3 };
        let number = match soon.is_empty() || self.dice.one_in(often) {
            true => self.dice.below(self.flying.len()),
            false => soon[self.dice.below(soon.len())],
        };
        let (from, to, message) = match self.dice.one_in(8) {
            // It comes twice.
            true => self.flying[number].clone(),
            false => self.flying.swap_remove(number),
        };
        self.deliver(from, to, message);
    }

    pub fn deliver(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Store {
                key,
                object,
                read_under,
                hint,
                write,
            } => self.take(from, to, (key, object, read_under), (hint, write)),
            Message::Delivery { hint } => self.take_delivery(from, to, hint),
            Message::Delivered { hint, owner } => self.note_delivered(to, &hint, owner),
            Message::Ask(question) => self.answer(from, to, question),
            Message::Confirmed {
                generation,
                epoch,
                verdict,
                at,
            } => {
                self.heard(to, at);
                let site = &mut self.sites[to];
                let from = (id(from), PARTITION);
                site.core.confirmed(from, generation, epoch, &verdict);
                self.work(to);
            }
            Message::Standing {
                to: generation,
                epoch,
                standing,
                at,
            } => {
                self.heard(to, at);
                let site = &mut self.sites[to];
                let from = (id(from), PARTITION);
                site.core.advanced(from, generation, epoch, standing);
                self.work(to);
            }
            Message::Finished { to: generation } => {
                let core = &mut self.sites[to].core;
                core.finished(id(from), PARTITION, generation);
                self.work(to);
            }
            Message::Page {
                records,
                generation,
                floor,
            } => self.take_page(from, to, records, (generation, floor)),
        }
    }
}
