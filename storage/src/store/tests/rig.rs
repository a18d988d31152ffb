//! A store on a simulated disk and engine, stepped by hand.

use std::sync::Arc;

use bytes::Bytes;

use crate::disk::SimDisk;
use crate::engine::mem::MemHome;
use crate::engine::renew::Live;
use crate::key::Key;
use crate::log::{LogStep, LogWriter};
use crate::record::Record;
use crate::store::{
    Chance, DrainStep, Drainer, OpenError, OpenReport, Read, Store, StoreConfig, StoreParts,
    WriteLimits, Written,
};
use crate::version::{Context, NewPayload, Object, RequestId, Value, Write};

/// Numbers that look random, from a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea and Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub(super) fn chance(mut self) -> Chance {
        Box::new(move || self.next())
    }
}

/// A store and what it stands on.
pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) home: MemHome,
    pub(super) config: StoreConfig,
    /// None between a crash and the next start.
    running: Option<Running>,
    pub(super) now_ms: u64,
    boots: u64,
    seed: u64,
    requests: u64,
}

pub(super) struct Running {
    pub(super) store: Store,
    pub(super) writer: LogWriter,
    pub(super) drainer: Drainer,
    pub(super) report: OpenReport,
}

pub(super) fn small_config() -> StoreConfig {
    StoreConfig {
        table_bytes: 64 << 10,
        segment_bytes: 64 << 10,
        hint_bytes: 48 << 10,
        ..StoreConfig::new("a", 16)
    }
}

/// With an engine that is renewed every now and then, in many steps.
pub(super) fn renewing_config() -> StoreConfig {
    StoreConfig {
        renew_offset_bytes: 1 << 10,
        renew_step_rows: 4,
        ..small_config()
    }
}

impl Rig {
    pub(super) fn new(seed: u64, config: StoreConfig) -> Self {
        let mut rig = Self {
            disk: SimDisk::new(seed),
            home: MemHome::new(),
            config,
            running: None,
            now_ms: 1,
            boots: 0,
            seed,
            requests: 0,
        };
        rig.start().expect("an empty directory opens");
        rig
    }

    /// A copy of one that does not run, whose disk and engine lose their power together.
    pub(super) fn fork(&self) -> Self {
        assert!(self.running.is_none(), "it runs");
        let disk = self.disk.fork();
        Self {
            home: self.home.fork_beside(&disk),
            disk,
            config: self.config.clone(),
            running: None,
            ..*self
        }
    }

    pub(super) fn start(&mut self) -> Result<(), OpenError> {
        assert!(self.running.is_none(), "it runs");
        self.boots += 1;
        let parts = StoreParts {
            disk: Arc::new(self.disk.clone()),
            engine: Arc::new(self.home.clone()),
            chance: Dice::new(self.seed ^ self.boots << 32).chance(),
        };
        let opened = Store::open(parts, &self.config)?;
        self.running = Some(Running {
            store: opened.store,
            writer: opened.writer,
            drainer: opened.drainer,
            report: opened.report,
        });
        Ok(())
    }

    pub(super) fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("it was started")
    }

    pub(super) fn store(&self) -> &Store {
        &self.running.as_ref().expect("it was started").store
    }

    pub(super) fn report(&self) -> &OpenReport {
        &self.running.as_ref().expect("it was started").report
    }

    /// Cuts the power. Of the engine's unflushed changes the first `kept` survive.
    pub(super) fn crash(&mut self, seed: u64, kept: usize) {
        self.running = None;
        self.disk.crash(seed);
        self.home.crash(kept);
    }

    pub(super) fn restart(&mut self) {
        self.start().expect("what a crash leaves opens");
    }

    /// Steps the log until nothing is left to do.
    pub(super) fn sync_log(&mut self) {
        let running = self.running();
        for _ in 0..10_000 {
            match running.writer.step().expect("the disk is well") {
                LogStep::Worked => {}
                LogStep::Idle | LogStep::Closed => return,
                LogStep::Full => panic!("the disk is not full"),
            }
        }
        panic!("the log does not come to rest");
    }

    /// Steps the log until nothing is left to do; false: the power went out first.
    pub(super) fn try_sync_log(&mut self) -> bool {
        loop {
            match self.running().writer.step() {
                Ok(LogStep::Worked) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    /// One step of the drain; a wait for the log is answered by a step of the log.
    pub(super) fn step_drain(&mut self) -> DrainStep {
        let now_ms = self.now_ms;
        let running = self.running();
        let step = running.drainer.step(now_ms).expect("the engine is well");
        if let DrainStep::AwaitLog { .. } = step {
            running.writer.step().expect("the disk is well");
        }
        step
    }

    /// Drains everything that is in the table now.
    pub(super) fn drain(&mut self) {
        self.now_ms += 10_000;
        let drains = self.store().stats().drains;
        self.step_until(|rig, step| {
            step == DrainStep::Idle && rig.store().stats().dirty_bytes == 0
        });
        assert!(self.store().stats().drains <= drains + 2);
    }

    fn step_until(&mut self, done: impl Fn(&Rig, DrainStep) -> bool) {
        for _ in 0..100_000 {
            let step = self.step_drain();
            if done(self, step) {
                return;
            }
            self.now_ms += u64::from(step == DrainStep::Idle) * 3_000;
        }
        panic!("the drain does not come to rest");
    }

    /// Stops cleanly.
    pub(super) fn stop(&mut self) {
        self.store().close();
        self.step_until(|_, step| step == DrainStep::Closed);
        self.store().inner.log.close();
        self.sync_log();
        self.running = None;
        self.disk.kill();
        let lost = 0;
        self.home.crash(lost);
    }

    /// Checks that what lives in the engine is known exactly.
    pub(super) fn check_live(&self) {
        let mut live = Live::default();
        for (row, value) in self.home.rows() {
            live.add(&row, &value);
        }
        let engine = &self.store().inner.engine;
        assert_eq!((engine.live(), engine.live_bytes()), (live, live.bytes));
    }

    pub(super) fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId {
            client: 7,
            sequence: self.requests,
        }
    }

    /// Writes, loading the base if need be.
    pub(super) fn put(&mut self, key: &Key, value: &[u8], context: Option<Context>) -> Written {
        let write = put(self.request(), value, context);
        self.write(key, &write)
    }

    pub(super) fn write(&mut self, key: &Key, write: &Write) -> Written {
        let now_ms = self.now_ms;
        let limits = WriteLimits::default();
        match self
            .store()
            .write(key, write, now_ms, &limits)
            .expect("there is room")
        {
            Written::Miss => {
                self.store()
                    .load(std::slice::from_ref(key))
                    .expect("the engine is well");
                self.store()
                    .write(key, write, now_ms, &limits)
                    .expect("there is room")
            }
            written => written,
        }
    }

    /// What a read finds, through to the engine.
    pub(super) fn get(&self, key: &Key) -> Arc<Record> {
        match self.store().read(key) {
            Read::Found(record) => record,
            Read::Miss => match self
                .store()
                .load(std::slice::from_ref(key))
                .expect("the engine is well")
                .remove(0)
            {
                Read::Found(record) => record,
                other => panic!("{key:?} cannot be loaded: {other:?}"),
            },
            Read::Quarantined => panic!("{key:?} is in quarantine"),
        }
    }

    /// Values of a key, in the order of their dots.
    pub(super) fn values(&self, key: &Key) -> Vec<Bytes> {
        let record = self.get(key);
        record
            .object()
            .live(0)
            .map(|s| {
                s.live_value(0)
                    .and_then(|v| v.bytes().cloned())
                    .expect("has bytes")
            })
            .collect()
    }
}

pub(super) fn put(request: RequestId, value: &[u8], context: Option<Context>) -> Write {
    Write {
        context,
        payload: NewPayload::Value(Value::new(Bytes::copy_from_slice(value))),
        request,
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms: 0,
    }
}

/// A key in the partition (of 16) `number % 16`.
pub(super) fn key(number: u64) -> Key {
    let token = (number % 16) << 60 | number.wrapping_mul(0x0123_4567_89ab_cdef) >> 4;
    Key::new(token, b"n", format!("key-{number}").as_bytes()).expect("a short key")
}

pub(super) fn applied(written: Written) -> (Arc<Record>, u64) {
    match written {
        Written::Applied {
            record, sequence, ..
        } => (record, sequence),
        other => panic!("not applied: {other:?}"),
    }
}

/// The object that another store would send after one write of its own on `base`.
pub(in crate::store) fn foreign(
    base: &Object,
    actor: u64,
    counter: u64,
    request: RequestId,
    value: &[u8],
) -> Object {
    let context = Some(base.into());
    let dot = crate::version::Dot {
        actor: crate::version::ActorId(actor),
        counter,
    };
    base.write(&put(request, value, context), dot, 1)
}
