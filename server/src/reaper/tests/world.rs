//! The world: who owns, who holds hints, what is on its way, and what must never come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ringfort_ring::{Epoch, StoreId};
use ringfort_storage::{
    Key,
    store::{
        Advance, Advanced, Hint, MergeRefused, REAPED_BYTES_MAX, REAPED_TOMBS_MAX, ReapWindow,
        WriteLimits, Written,
    },
    version::{Context, Dot, Floor, NewPayload, Object, Payload, RequestId, Value, Write},
};
use tokio::time::Instant;

use super::site::{Image, Owed, Site, id, site_of};
use crate::reaper::core::{Action, Known, Question, Standing, Verdict};

/// Of the two partitions of the stores the only one that is used.
pub const PARTITION: u32 = 0;
const OWNERS: usize = 3;
/// A member that owns nothing of the partition.
const FALLBACK: usize = 3;
/// One that a later decree lists.
const NEWCOMER: usize = 4;
const SITES: usize = 5;
const KEYS: u64 = 3;
const STEPS: u64 = 500;
/// Past every window.
const NOW_MS: u64 = 1_000_000_000;

/// SplitMix64 (Steele, Lea and Flood 2014).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// What was read under an older generation is taken.
    TakeOlder,
    /// A tombstone is confirmed before the log is durable.
    ConfirmBeforeSync,
    /// Nobody asks for hints of before.
    ForgetHints,
    /// Members say that they know the decree of whoever asks.
    ForgetEpochs,
    /// A store that has missed a round keeps what it has.
    KeepMissed,
    /// What is past the window is erased where it is found.
    ByTime,
}

impl Bug {
    pub const ALL: [Bug; 6] = [
        Bug::TakeOlder,
        Bug::ConfirmBeforeSync,
        Bug::ForgetHints,
        Bug::ForgetEpochs,
        Bug::KeepMissed,
        Bug::ByTime,
    ];
}

/// What is on its way.
#[derive(Clone)]
pub enum Message {
    /// An object, as it was read under a generation; for an owner, or to be held as a hint.
    Store {
        key: Key,
        object: Object,
        read_under: u64,
        hint: bool,
        /// It counts for this write.
        write: Option<usize>,
    },
    /// A hint for an owner.
    Delivery {
        hint: Hint,
    },
    /// It has it durably, or does not need it.
    Delivered {
        hint: Hint,
        owner: usize,
    },
    /// A question of a round.
    Ask(Question),
    Confirmed {
        generation: u64,
        epoch: Epoch,
        verdict: Verdict,
        at: (u64, u64),
    },
    Standing {
        to: u64,
        epoch: Epoch,
        standing: Standing,
        at: (u64, u64),
    },
    Finished {
        to: u64,
    },
    /// All that a synced owner holds, for one that has to receive it.
    Page {
        records: Vec<(Key, Object)>,
        generation: u64,
        floor: u64,
    },
}

/// What happened.
#[derive(Debug, Default)]
pub struct Figures {
    pub finished: u64,
    pub reaped: u64,
    pub refused: u64,
    pub missed: u64,
    pub hints: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.finished += other.finished;
        self.reaped += other.reaped;
        self.refused += other.refused;
        self.missed += other.missed;
        self.hints += other.hints;
    }
}

/// A write of a value.
struct Minted {
    key: Key,
    dot: Dot,
    /// Who has it durably, and whether these were two once.
    copies: BTreeSet<usize>,
    is_acked: bool,
}

pub struct World {
    dice: Dice,
    bug: Bug,
    sites: Vec<Site>,
    flying: Vec<(usize, usize, Message)>,
    /// Objects that somebody has read and not sent yet.
    read: Vec<(usize, Key, Object, u64)>,
    had: BTreeMap<(usize, Key), (u64, BTreeSet<usize>)>,
    minted: Vec<Minted>,
    /// Values that some write has replaced.
    replaced: BTreeSet<Dot>,
    /// Values whose tombstones are reaped.
    gone: BTreeSet<Dot>,
    image: Option<(usize, Image, u64)>,
    may_restore: bool,
    requests: u64,
    now: Instant,
    pub figures: Figures,
}

impl World {
    pub fn new(seed: u64, bug: Bug) -> World {
        let mut dice = Dice::new(seed);
        let mut world = World {
            bug,
            sites: (0..SITES).map(|n| Site::new(n, dice.next())).collect(),
            may_restore: dice.one_in(3),
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

    fn step(&mut self, step: u64) {
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

    /// A site is about to go: who waits for what it owes waits no longer.
    fn end_asking(&mut self, site: usize) {
        for owed in std::mem::take(&mut self.sites[site].owed) {
            self.lose(site, owed.to, &owed.message);
        }
    }

    fn lose(&mut self, from: usize, to: usize, message: &Message) {
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

    fn key(&mut self) -> Key {
        let n = self.dice.next() % KEYS;
        Key::new(n + 1, b"n", &[n as u8]).expect("short")
    }

    fn members(epoch: u64) -> BTreeSet<StoreId> {
        let last = if epoch > 1 { NEWCOMER } else { FALLBACK };
        (0..=last).map(id).collect()
    }

    /// A client writes through an owner that is synced.
    fn write(&mut self) {
        let (at, key) = (self.dice.below(OWNERS), self.key());
        if !self.sites[at].is_synced() {
            return;
        }
        let base = self.sites[at].read(&key);
        let object = base.object();
        let live = object.siblings().iter();
        let live: Vec<Dot> = live
            .filter(|s| matches!(s.payload, Payload::Value(_)))
            .map(|s| s.dot)
            .collect();
        let delete = !live.is_empty() && !self.dice.one_in(4);
        let context =
            (delete || self.dice.one_in(2) && !object.is_empty()).then(|| Context::from(object));
        let payload = match delete {
            true => NewPayload::Purge,
            false => NewPayload::Value(Value::new(bytes::Bytes::from_static(b"v"))),
        };
        self.requests += 1;
        let write = Write {
            request: RequestId {
                client: 1,
                sequence: self.requests,
            },
            lowest_unanswered: self.requests,
            at_ms: 1,
            expires_at_ms: 0,
            payload,
            context: context.clone(),
        };
        let limits = WriteLimits::default();
        let written = self.sites[at].store.write(&key, &write, 1, &limits);
        let Ok(Written::Applied {
            record,
            dot,
            sequence,
            generation,
            ..
        }) = written
        else {
            panic!("{written:?}");
        };
        if context.is_some() {
            self.replaced.extend(live);
        }
        let number = (!delete).then(|| {
            self.minted.push(Minted {
                key: key.clone(),
                dot,
                copies: BTreeSet::new(),
                is_acked: false,
            });
            self.minted.len() - 1
        });
        if let Some(number) = number {
            self.sites[at].waiting.push((sequence, number));
        }
        let message = |hint| Message::Store {
            key: key.clone(),
            object: record.object().clone(),
            read_under: generation,
            hint,
            write: number,
        };
        for owner in (0..OWNERS).filter(|owner| *owner != at) {
            if self.dice.one_in(8) {
                let fallback = self.fallback_for(at);
                self.flying.push((at, fallback, message(true)));
            } else {
                self.flying.push((at, owner, message(false)));
            }
        }
    }

    /// A fallback that this site knows.
    fn fallback_for(&mut self, site: usize) -> usize {
        match self.sites[site].epoch {
            1 => FALLBACK,
            _ => FALLBACK + self.dice.below(2),
        }
    }

    /// Somebody reads an object, and sends it some time later: a repair, an exchange, a second sending.
    fn copy(&mut self) {
        if self.dice.one_in(2) || self.read.is_empty() {
            let (at, key) = (self.dice.below(OWNERS), self.key());
            let read_under = self.sites[at].generation();
            let record = self.sites[at].read(&key);
            let is_absent = self.sites[at].store.is_absent(&key, record.leaf());
            if !record.object().is_empty() && !is_absent && self.sites[at].is_synced() {
                let object = record.object().clone();
                self.read.push((at, key, object, read_under));
            }
            return;
        }
        let number = self.dice.below(self.read.len());
        let (at, key, object, read_under) = self.read.swap_remove(number);
        let hint = self.dice.one_in(4);
        let to = match hint {
            true => self.fallback_for(at),
            false => self.dice.below(OWNERS),
        };
        let message = Message::Store {
            key,
            object,
            read_under,
            hint,
            write: None,
        };
        // It goes to a member that the sender did not know when it read only if it reads again.
        if to != NEWCOMER {
            self.flying.push((at, to, message));
        }
    }

    fn sync(&mut self, site: usize) {
        for write in self.sites[site].sync() {
            let minted = &mut self.minted[write];
            minted.copies.insert(site);
            minted.is_acked |= minted.copies.len() > 1;
        }
        for (to, message) in self.sites[site].answers() {
            self.flying.push((site, to, message));
        }
    }

    fn offer_hint(&mut self) {
        let at = FALLBACK + self.dice.below(2);
        let hints = self.sites[at].store.hints_after(None, 10, 1 << 20);
        if hints.is_empty() {
            return;
        }
        let hint = hints[self.dice.below(hints.len())].clone();
        let owner = self.dice.below(OWNERS);
        self.flying.push((at, owner, Message::Delivery { hint }));
    }

    fn learn(&mut self) {
        let site = self.dice.below(SITES);
        // Decided once some steps are through.
        if self.requests > 10 {
            self.sites[site].epoch = 2;
        }
    }

    /// A directory is put back: rounds that it took part in since are missed.
    fn put_back(&mut self) {
        if !self.may_restore {
            return;
        }
        match self.image.take() {
            None => {
                let site = self.dice.below(OWNERS);
                let generation = self.sites[site].generation();
                self.image = Some((site, self.sites[site].image(), generation));
            }
            Some((site, image, generation)) => {
                let whole = (0..OWNERS).all(|owner| self.sites[owner].is_synced());
                let is_old = generation < self.sites[site].store.floor(PARTITION);
                if !whole || !is_old && !self.dice.one_in(10) {
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

    /// A site hears what others are at.
    fn heard(&mut self, site: usize, (generation, floor): (u64, u64)) {
        if self.sites[site].generation() < floor && self.bug != Bug::KeepMissed {
            self.begin_anew(site, generation, floor);
        }
    }

    fn begin_anew(&mut self, site: usize, generation: u64, floor: u64) {
        self.figures.missed += 1;
        for write in &mut self.minted {
            write.copies.remove(&site);
        }
        self.sites[site].begin_anew(generation, floor);
    }

    /// An owner that lacks something is sent what the others hold.
    fn ask_pages(&mut self) {
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

    /// A site's worker looks for something to do.
    fn reap(&mut self, step: u64) {
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

    fn bury(&mut self, key: &Key, clock: &ringfort_storage::version::Clock) {
        for minted in self.minted.iter().filter(|minted| minted.key == *key) {
            if clock.covers(minted.dot) {
                self.gone.insert(minted.dot);
            }
        }
    }

    fn work(&mut self, at: usize) {
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

    fn act(&mut self, at: usize, action: Action) {
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

    fn finish(&mut self, at: usize, to: u64) {
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

    fn deliver_one(&mut self, is_quiet: bool) {
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

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
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

    fn take(
        &mut self,
        from: usize,
        to: usize,
        (key, object, read_under): (Key, Object, u64),
        (hint, write): (bool, Option<usize>),
    ) {
        let under = match self.bug {
            Bug::TakeOlder => u64::MAX,
            _ => read_under,
        };
        let site = &mut self.sites[to];
        let refused = if hint {
            self.figures.hints += 1;
            let taken = site.store.take_hint(
                &key,
                object,
                Floor::default(),
                under.min(read_under.max(site.generation())),
                5,
            );
            taken.map_err(drop)
        } else {
            site.store
                .merge(&key, object, under)
                .map_err(|refused| match refused {
                    MergeRefused::StaleGeneration { .. } => (),
                    MergeRefused::Full(full) => panic!("{full}"),
                })
        };
        match (refused, write) {
            (Ok(sequence), Some(write)) => site.waiting.push((sequence, write)),
            (Ok(_), None) => {}
            (Err(()), _) => {
                self.figures.refused += 1;
                let store = &self.sites[to].store;
                let at = (store.generation(PARTITION), store.floor(PARTITION));
                self.heard(from, at);
            }
        }
    }

    fn take_delivery(&mut self, from: usize, to: usize, hint: Hint) {
        let store = &self.sites[to].store;
        let is_older = hint.generation < store.generation(PARTITION)
            && store.reaping(PARTITION).is_none()
            && self.bug != Bug::TakeOlder;
        let under = match self.bug {
            Bug::TakeOlder => u64::MAX,
            _ => hint.generation,
        };
        let sequence = match is_older {
            true => 0,
            false => match store.merge_hint(&hint.key, hint.record.object().clone(), under) {
                Ok(sequence) => sequence,
                Err(MergeRefused::StaleGeneration { .. }) => 0,
                Err(MergeRefused::Full(full)) => panic!("{full}"),
            },
        };
        self.sites[to].owed.push(Owed {
            sequence,
            to: from,
            message: Message::Delivered { hint, owner: to },
        });
    }

    fn note_delivered(&mut self, at: usize, hint: &Hint, owner: usize) {
        let place = (at, hint.key.clone());
        let leaf = hint.record.leaf();
        let had = self.had.entry(place).or_insert((leaf, BTreeSet::new()));
        if had.0 != leaf {
            *had = (leaf, BTreeSet::new());
        }
        had.1.insert(owner);
        if had.1.len() == OWNERS {
            let forgotten = self.sites[at].store.forget_hint(hint);
            forgotten.expect("there is room");
            self.had.remove(&(at, hint.key.clone()));
        }
    }

    fn answer(&mut self, from: usize, to: usize, question: Question) {
        let epoch = |world: &World| match world.bug {
            Bug::ForgetEpochs => world.sites[from].epoch(),
            _ => world.sites[to].epoch(),
        };
        match question {
            Question::Confirm { generation, tombs } => {
                let store = self.sites[to].store.clone();
                let (verdict, sequence) = match store.confirm_reaping(PARTITION, generation, &tombs)
                {
                    Ok(confirmed) => (Verdict::Exact(confirmed.exact), confirmed.sequence),
                    Err(_) => (Verdict::Refused, 0),
                };
                let sequence = match self.bug {
                    Bug::ConfirmBeforeSync => 0,
                    _ => sequence,
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
                    Advanced::Missed if self.bug == Bug::KeepMissed => {
                        let adopted = store.adopt_generation(PARTITION, generation, 0);
                        adopted.expect("the disk works");
                        0
                    }
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

    fn owe(&mut self, site: usize, to: usize, sequence: u64, message: Message) {
        self.sites[site].owed.push(Owed {
            sequence,
            to,
            message,
        });
        for (to, message) in self.sites[site].answers() {
            self.flying.push((site, to, message));
        }
    }

    fn take_page(
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
            if self.bug != Bug::KeepMissed {
                self.begin_anew(to, generation, floor);
            }
            return;
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

    /// I4: nothing that was reaped is at any copy that counts.
    fn check(&self) -> Result<(), String> {
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
    fn exchange(&mut self) {
        for from in 0..OWNERS {
            (0..OWNERS).for_each(|to| self.give(from, to));
        }
    }

    fn exchange_some(&mut self) {
        let (from, to) = (self.dice.below(OWNERS), self.dice.below(OWNERS));
        self.give(from, to);
    }

    /// An owner gives another one of the same generation what it holds.
    fn give(&mut self, from: usize, to: usize) {
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
    fn is_quiet(&self) -> bool {
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

    fn judge(&self) -> Result<(), String> {
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
