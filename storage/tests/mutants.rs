//! Bugs that are planted in the store are met: `cargo test -p ringfort-storage --features mutants --test mutants`.
//!
//! A bug is planted in the whole process, so this is a build of its own with one test.

use std::sync::Arc;

use bytes::Bytes;
use ringfort_storage::disk::SimDisk;
use ringfort_storage::engine::mem::MemHome;
use ringfort_storage::log::LogWriter;
use ringfort_storage::merkle::{Forest, Tree};
use ringfort_storage::mutants;
use ringfort_storage::store::{
    Advance, DrainStep, Drainer, Folds, Read, StoreConfig, StoreParts, Tomb, WriteLimits, Written,
};
use ringfort_storage::version::{ActorId, Dot, Floor, NewPayload, Object, RequestId, Value, Write};
use ringfort_storage::{Key, Record, Store, codec, rows};

/// A store that is stepped by hand.
struct Rig {
    store: Store,
    writer: LogWriter,
    drainer: Drainer,
    home: MemHome,
    now_ms: u64,
}

fn rig() -> Rig {
    rig_on(&SimDisk::new(1), &MemHome::new())
}

fn rig_on(disk: &SimDisk, home: &MemHome) -> Rig {
    let home = home.clone();
    let mut chance = 0;
    let parts = StoreParts {
        disk: Arc::new(disk.clone()),
        engine: Arc::new(home.clone()),
        chance: Box::new(move || {
            chance += 1;
            chance
        }),
    };
    let opened = Store::open(parts, &StoreConfig::new("a", 16)).expect("it opens");
    Rig {
        store: opened.store,
        writer: opened.writer,
        drainer: opened.drainer,
        home,
        now_ms: 1,
    }
}

impl Rig {
    fn drain(&mut self) {
        for _ in 0..10_000 {
            match self.drainer.step(self.now_ms).expect("the engine is well") {
                DrainStep::AwaitLog { .. } => drop(self.writer.step().expect("the disk is well")),
                DrainStep::Idle if self.store.stats().dirty_bytes == 0 => return,
                DrainStep::Idle => self.now_ms += 3_000,
                DrainStep::Worked { .. } | DrainStep::Closed => {}
            }
        }
        panic!("the drain does not come to rest");
    }

    fn tree(&self) -> Tree {
        let tree = self.store.exact_tree(0, &mut Folds(100));
        tree.expect("the engine is well").expect("nobody writes")
    }
}

fn key(n: u8) -> Key {
    Key::new(u64::from(n), b"n", &[n]).expect("a short key")
}

fn object(n: u8) -> Object {
    let write = Write {
        context: None,
        payload: NewPayload::Value(Value::new(Bytes::from_static(b"value"))),
        request: RequestId {
            client: 1,
            sequence: u64::from(n) + 1,
        },
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms: 0,
    };
    let (actor, counter) = (ActorId(9), u64::from(n) + 1);
    Object::empty().write(&write, Dot { actor, counter }, 1)
}

/// Whether the tree is that of what is stored, after one of two keys was erased and drained.
fn tree_is_right_after_erasing() -> bool {
    let mut rig = rig();
    for n in 0..2 {
        rig.store
            .merge(&key(n), object(n), 0)
            .expect("there is room");
    }
    rig.drain();
    rig.store.erase(&key(0)).expect("there is room");
    rig.drain();
    let mut forest = Forest::new(16);
    forest.apply(1, 0, Record::new(&key(1), object(1)).leaf());
    rig.tree() == *forest.tree(0)
}

/// Whether a damaged record is told of, or sent.
fn damage_is_sent() -> bool {
    let rig = rig();
    let mut bytes = Vec::new();
    codec::encode_record(&Record::new(&key(0), object(0)), &mut bytes);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    rig.home.poke(&rows::head_key(&key(0)), Some(&bytes));
    let told = rig.store.leaves(0, u64::MAX, None, 10).expect("well");
    let sent = rig.store.load_to_send(&[key(0)]).expect("well");
    let sent = matches!(&sent[0], Read::Found(record) if *record.object() != object(0));
    assert_eq!(sent, !told.leaves.is_empty());
    sent
}

/// Whether a value comes back that one with a lifetime had replaced: from a copy that missed all since.
fn what_was_replaced_comes_back() -> bool {
    let write = |sequence, context: Option<&Object>, expires_at_ms| Write {
        context: context.map(Into::into),
        payload: NewPayload::Value(Value::new(Bytes::from_static(b"value"))),
        request: RequestId {
            client: 1,
            sequence,
        },
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms,
    };
    // Each at another node: an actor's own counters cover those before.
    let dot = |actor| Dot {
        actor: ActorId(actor),
        counter: 1,
    };
    let old = Object::empty().write(&write(1, None, 0), dot(1), 1);
    let mortal = old.write(&write(2, Some(&old), 10), dot(2), 1);
    let new = mortal.write(&write(3, None, 0), dot(3), 20);
    new.merge(old).live_count(20) > 1
}

/// Whether a hint is there after a restart, drained before or not.
fn hint_outlives_a_restart(drained: bool) -> bool {
    let (disk, home) = (SimDisk::new(2), MemHome::new());
    let mut rig = rig_on(&disk, &home);
    let floor = Floor::default();
    let taken = rig.store.take_hint(&key(0), object(0), floor, 0, 1);
    let sequence = taken.expect("there is room");
    match drained {
        true => rig.drain(),
        false => {
            while rig.store.stats().durable_sequence < sequence {
                rig.writer.step().expect("the disk is well");
            }
        }
    }
    drop(rig);
    disk.crash(1);
    home.crash(0);
    rig_on(&disk, &home).store.hint(&key(0)).is_some()
}

/// The tombstone of key 0, deleted here, and not yet durable.
fn deleted(rig: &mut Rig) -> Tomb {
    rig.store.load(&[key(0)]).expect("well");
    let write = Write {
        context: None,
        payload: NewPayload::Delete,
        request: RequestId {
            client: 2,
            sequence: 1,
        },
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms: 0,
    };
    let limits = WriteLimits::default();
    match rig.store.write(&key(0), &write, 1, &limits) {
        Ok(Written::Applied { record, .. }) => Tomb {
            key: key(0),
            leaf: record.leaf(),
            clock: record.object().clock().clone(),
        },
        other => panic!("not applied: {other:?}"),
    }
}

/// Whether a value comes back after its tombstone was reaped: from a copy, or a hint, that missed all since.
fn what_was_reaped_comes_back() -> bool {
    let mut rig = rig();
    let tombs = vec![deleted(&mut rig)];
    rig.drain();
    let step = Advance {
        partition: 0,
        to: 1,
        tombs,
    };
    rig.store.advance_reaping(&[step]).expect("durable");
    rig.store.finish_reaping(0, 1).expect("there is room");
    rig.drain();
    rig.store.end_reaping(&[(0, 1)]).expect("durable");
    let merged = rig.store.merge(&key(0), object(0), 0).is_ok();
    let hinted = rig.store.merge_hint(&key(0), object(0), 0).is_ok();
    let floor = Floor::default();
    let taken = rig.store.take_hint(&key(0), object(0), floor, 0, 1).is_ok();
    assert!(merged == hinted && merged == taken);
    let read = rig.store.load(&[key(0)]).expect("well").remove(0);
    let is_back = matches!(read, Read::Found(record) if record.object().live_count(1) > 0);
    assert_eq!(is_back, merged);
    is_back
}

/// Whether a tombstone may be told to be here while a crash would take it away.
fn what_is_confirmed_can_be_lost() -> bool {
    let mut rig = rig();
    let tomb = deleted(&mut rig);
    let confirmed = rig.store.confirm_reaping(0, 0, &[tomb]);
    let confirmed = confirmed.expect("synced");
    assert_eq!(confirmed.exact, [true]);
    confirmed.sequence <= rig.store.stats().durable_sequence
}

#[test]
fn planted_bugs_are_met_and_nothing_is_without_them() {
    assert!(tree_is_right_after_erasing() && !damage_is_sent());
    assert!(!what_was_reaped_comes_back() && !what_is_confirmed_can_be_lost());
    assert!(!what_was_replaced_comes_back());
    assert!(mutants::plant("DropExpiredClock"));
    assert!(what_was_replaced_comes_back());
    assert!(mutants::plant("TreeMissesErase"));
    assert!(!tree_is_right_after_erasing());
    assert!(mutants::plant("ShipCorrupt"));
    assert!(damage_is_sent());
    for drained in [false, true] {
        assert!(hint_outlives_a_restart(drained));
    }
    assert!(mutants::plant("AcceptOlderGeneration"));
    assert!(what_was_reaped_comes_back());
    assert!(mutants::plant("ConfirmBeforeSync"));
    assert!(what_is_confirmed_can_be_lost());
    assert!(mutants::plant("HintLost"));
    for drained in [false, true] {
        assert!(!hint_outlives_a_restart(drained));
    }
}
