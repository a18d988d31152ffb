//! The engine is renewed between drains: a crash between any two effects of it keeps what was acknowledged, and a copy that
//! fails takes nothing with it.

use std::collections::BTreeMap;

use super::rig::{Rig, applied, key, small_config};
use crate::store::{DrainStep, StoreConfig};

const SMALL: u64 = 150;
const LARGE: u64 = 20;
/// Keys of rows that are erased.
const WASTE: u64 = 40;
const OFFSET_BYTES: u64 = 8 << 10;
const HOUR_MS: u64 = 60 * 60 * 1_000;

/// A store, and what it should hold.
struct Scenario {
    rig: Rig,
    /// Sequence, key, and its value (one byte, so many times) or nothing.
    changes: Vec<(u64, u64, Option<Vec<u8>>)>,
    turn: u64,
    /// Drains that ended while a copy was under way.
    drains_within: u64,
}

impl Scenario {
    /// An engine that wastes much, of a store that has just been opened with nothing in its table.
    fn new(seed: u64) -> Self {
        Self::filled(seed).start()
    }

    /// The same, not opened yet.
    fn filled(seed: u64) -> Self {
        let config = StoreConfig {
            table_bytes: 4 << 20,
            segment_bytes: 1 << 20,
            renew_step_rows: 40,
            ..small_config()
        };
        let mut scenario = Self {
            rig: Rig::new(seed, config),
            changes: Vec::new(),
            turn: 0,
            drains_within: 0,
        };
        for number in 0..SMALL + LARGE + WASTE {
            let bytes = match number {
                ..SMALL => 20,
                _ if number < SMALL + LARGE => 9_000,
                _ => 40_000,
            };
            scenario.put(number, vec![1; bytes]);
        }
        scenario.rig.drain();
        for number in SMALL + LARGE..SMALL + LARGE + WASTE {
            scenario.erase(number);
        }
        scenario.rig.drain();
        assert_eq!(scenario.rig.store().stats().renewals, 0);
        scenario.rig.stop();
        scenario.rig.config.renew_offset_bytes = OFFSET_BYTES;
        scenario
    }

    /// Opens a copy.
    fn start(&self) -> Self {
        let mut started = Self {
            rig: self.rig.fork(),
            changes: self.changes.clone(),
            ..*self
        };
        started.rig.restart();
        assert!(started.wastes());
        started
    }

    fn put(&mut self, number: u64, value: Vec<u8>) {
        let key = key(number);
        let context = Some(self.rig.get(&key).object().into());
        let written = self.rig.put(&key, &value, context);
        self.changes.push((applied(written).1, number, Some(value)));
    }

    fn erase(&mut self, number: u64) {
        let erased = self.rig.store().erase(&key(number));
        let sequence = erased.expect("there is room");
        self.changes.push((sequence, number, None));
    }

    /// Changes a key or two: anywhere, so some are copied already and some are not; small and large.
    fn change(&mut self) {
        self.turn += 1;
        let number = self.turn * 37 % (SMALL + LARGE);
        match self.turn % 5 {
            0 => self.erase(number),
            1 => self.put(number, vec![self.turn as u8; 9_000]),
            _ => self.put(number, vec![self.turn as u8; 30]),
        }
    }

    fn wastes(&self) -> bool {
        let inner = &self.rig.store().inner;
        let bytes = crate::engine::Engine::disk_bytes(&inner.engine).expect("is told");
        bytes > 4 * inner.engine.live().bytes + OFFSET_BYTES
    }

    /// Writes and drains until the drain has nothing to do and everything is in the engine. False: the power went out.
    fn drive(&mut self, writes: u64) -> bool {
        for step in 0..20_000 {
            if self.rig.disk.is_cut() {
                return false;
            }
            if step % 5 == 0 && step / 5 < writes {
                self.change();
            }
            let now_ms = self.rig.now_ms;
            let drains = self.rig.store().stats().drains;
            let running = self.rig.running();
            let stepped = running.drainer.step(now_ms);
            let Ok(stepped) = stepped else {
                assert!(self.rig.disk.is_cut(), "{stepped:?}");
                return false;
            };
            if let DrainStep::AwaitLog { .. } = stepped
                && !self.rig.try_sync_log()
            {
                return false;
            }
            // So that changes are old after three steps of a copy.
            self.rig.now_ms += 800;
            let (store, is_copying) = (self.rig.store(), self.rig.home.has_copy());
            self.drains_within += (store.stats().drains - drains) * u64::from(is_copying);
            let at_rest = stepped == DrainStep::Idle && store.stats().dirty_bytes == 0;
            if at_rest && step > 5 * writes {
                return true;
            }
        }
        panic!("the drain does not come to rest");
    }

    /// Forgets what came after `sequence`.
    fn cut(&mut self, sequence: u64) {
        self.changes.retain(|(each, ..)| *each <= sequence);
    }

    fn check(&self, at: &str) {
        let mut expected = BTreeMap::new();
        for (_, number, value) in &self.changes {
            expected.insert(*number, value.clone());
        }
        for (number, value) in expected {
            let expected: Vec<_> = value.into_iter().collect();
            assert_eq!(self.rig.values(&key(number)), expected, "{number} {at}");
        }
        self.rig.check_live();
    }

    fn assert_renewed(&self, at: &str) {
        assert!(!self.wastes(), "{at}");
        assert!(!self.rig.home.has_leftovers(), "{at}");
    }
}

#[test]
fn an_engine_that_wastes_space_is_renewed_while_clients_write() {
    let mut scenario = Scenario::new(1);
    let before = scenario.rig.store().stats();
    assert!(scenario.drive(40));
    let stats = scenario.rig.store().stats();
    assert_eq!(stats.renewals, 1);
    assert!(scenario.drains_within > 1, "drains fell between");
    assert!(
        stats.engine_bytes < stats.engine_live_bytes * 3,
        "{stats:?}"
    );
    assert_eq!(before.renewals, 0);
    scenario.assert_renewed("after it");
    scenario.check("after it");
    scenario.rig.stop();
    scenario.rig.restart();
    assert!(scenario.rig.report().clean);
    scenario.check("opened again");
}

#[test]
fn a_cut_between_any_two_effects_of_a_renewal() {
    let filled = Scenario::filled(7);
    let mut renewed_before_the_cut = 0;
    for effects in 1.. {
        let at = format!("cut after {effects} effects");
        let mut scenario = filled.start();
        scenario.rig.disk.cut_after(effects);
        let ended = scenario.drive(12);
        if ended {
            assert!(effects > 300, "{effects}");
            assert!(scenario.drains_within > 1, "drains fell between");
            assert!(renewed_before_the_cut > 10, "{renewed_before_the_cut}");
            return;
        }
        let stats = scenario.rig.store().stats();
        renewed_before_the_cut += stats.renewals;
        let kept = scenario.rig.home.pending() * (effects as usize % 3) / 2;
        scenario.rig.crash(effects, kept);
        scenario.rig.restart();
        assert_eq!(scenario.rig.report().newly_unsynced, Some(vec![]), "{at}");
        assert_eq!(scenario.rig.report().damaged_records, 0, "{at}");
        assert_eq!(scenario.rig.report().engine_replaced, None, "{at}");
        let recovered = scenario.rig.store().stats().last_sequence;
        assert!(recovered >= stats.durable_sequence, "{at}");
        scenario.cut(recovered);
        scenario.check(&at);
        if effects % 4 == 0 {
            assert!(scenario.drive(4), "{at}");
            scenario.check(&at);
            scenario.assert_renewed(&at);
        }
    }
}

#[test]
fn a_copy_that_fails_anywhere_takes_nothing_with_it() {
    let filled = Scenario::filled(3);
    for effects in 0.. {
        let at = format!("the copy fails after {effects} effects");
        let mut scenario = filled.start();
        scenario.rig.home.fail_copy_after(effects);
        assert!(scenario.drive(12), "{at}");
        scenario.check(&at);
        assert_eq!(scenario.rig.store().engine_failure(), None, "{at}");
        assert!(!scenario.rig.home.has_leftovers(), "{at}");
        if scenario.rig.store().stats().renewals == 1 {
            assert!(effects > 200, "{effects}");
            return;
        }
        if effects % 16 == 0 {
            // Not before its time, then whether somebody writes or not.
            scenario.rig.now_ms += HOUR_MS / 2;
            assert!(scenario.drive(2), "{at}");
            assert_eq!(scenario.rig.store().stats().renewals, 0, "{at}");
            scenario.rig.now_ms += HOUR_MS;
            assert!(scenario.drive(0), "{at}");
            assert_eq!(scenario.rig.store().stats().renewals, 1, "{at}");
            scenario.check(&at);
            scenario.assert_renewed(&at);
        }
    }
}

#[test]
fn a_close_ends_a_copy_and_the_next_start_makes_another() {
    let mut scenario = Scenario::new(4);
    for _ in 0..5 {
        scenario.rig.step_drain();
    }
    assert!(scenario.rig.home.has_copy(), "it is under way");
    scenario.change();
    scenario.rig.stop();
    assert!(!scenario.rig.home.has_leftovers());
    scenario.rig.restart();
    assert!(scenario.rig.report().clean);
    scenario.check("opened again");
    assert!(scenario.drive(0));
    scenario.assert_renewed("at last");
}

#[test]
fn a_disk_that_is_full_ends_a_copy_and_lets_none_begin() {
    let mut scenario = Scenario::new(5);
    for _ in 0..5 {
        scenario.rig.step_drain();
    }
    assert!(scenario.rig.home.has_copy(), "it is under way");
    scenario.rig.store().set_out_of_space(true);
    scenario.rig.step_drain();
    assert!(!scenario.rig.home.has_leftovers());
    scenario.rig.now_ms += 2 * HOUR_MS;
    while scenario.rig.step_drain() != DrainStep::Idle {}
    assert!(!scenario.rig.home.has_leftovers(), "none begins");
    scenario.rig.store().set_out_of_space(false);
    scenario.rig.now_ms += 2 * HOUR_MS;
    assert!(scenario.drive(1));
    assert_eq!(scenario.rig.store().stats().renewals, 1);

    let mut scenario = Scenario::new(6);
    scenario.rig.disk.set_capacity(1 << 16);
    while scenario.rig.step_drain() != DrainStep::Idle {}
    assert!(!scenario.rig.home.has_leftovers(), "too little is free");
    assert_eq!(scenario.rig.store().stats().renewals, 0);
}
