//! What a renewal owes, on both engines.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{CopyStep, Live, Renewing};
use crate::engine::contract::{rows, with_each_shared};
use crate::engine::mem::MemHome;
use crate::engine::sled::SledHome;
use crate::engine::{Engine, EngineHome};

const ROWS: u32 = 600;
const STEP_ROWS: usize = 50;

fn renewing(home: &Arc<dyn EngineHome>) -> Renewing {
    let engine = home.open().expect("opens");
    let mut live = Live::default();
    for (key, value) in rows(&*engine, b"", None) {
        live.add(&key, &value);
    }
    Renewing::new(Arc::clone(home), engine, live)
}

/// An engine of many rows, flushed.
fn filled(home: &Arc<dyn EngineHome>) -> Renewing {
    let engine = renewing(home);
    for number in 0..ROWS {
        let value = number.to_be_bytes().repeat(5);
        engine.insert(&key(number), &value).expect("inserts");
    }
    engine.flush().expect("flushes");
    engine
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Copies to the end; gives the number of steps.
fn renew(engine: &Renewing) -> usize {
    engine.begin_copy().expect("begins");
    let copied = |_: &usize| step(engine) == CopyStep::Copied;
    let steps = (1..).take_while(copied).count();
    assert!(!engine.is_copying());
    steps
}

fn step(engine: &Renewing) -> CopyStep {
    engine
        .copy_step(STEP_ROWS)
        .expect("the current engine is well")
}

/// The rows, which the tally must match.
fn all(engine: &Renewing) -> BTreeMap<Bytes, Bytes> {
    let (mut all, mut live) = (BTreeMap::new(), Live::default());
    for (key, value) in rows(engine, b"", None) {
        live.add(&key, &value);
        all.insert(key, value);
    }
    assert_eq!(engine.live(), live);
    all
}

#[test]
fn a_renewed_engine_holds_the_same_rows_and_is_the_one_that_opens() {
    with_each_shared(|home| {
        let engine = filled(&home);
        let before = all(&engine);
        let old = engine.current();
        assert!(renew(&engine) > 3, "in steps");
        assert_eq!(engine.renewals(), 1);
        assert!(!Arc::ptr_eq(&old, &engine.current()));
        assert_eq!(all(&engine), before);

        // Only the fresh one is changed now.
        engine.insert(b"new", b"row").expect("inserts");
        engine.remove(&key(1)).expect("removes");
        engine.flush().expect("flushes");
        assert_eq!(old.get(b"new").expect("a reader has it"), None);
        assert!(!engine.remove_superseded(), "a reader has it");
        drop(old);
        assert!(engine.remove_superseded());
        let now = all(&engine);
        drop(engine);
        let engine = renewing(&home);
        assert_eq!(all(&engine), now);
        assert_eq!(now.len(), before.len());

        // And once more, on top of it.
        renew(&engine);
        assert!(engine.remove_superseded());
        drop(engine);
        assert_eq!(all(&renewing(&home)), now);
    });
}

#[test]
fn changes_while_it_is_copied_are_in_both() {
    with_each_shared(|home| {
        let engine = filled(&home);
        let mut expected = all(&engine);
        engine.begin_copy().expect("begins");
        let mut copied = CopyStep::Copied;
        // Three keys at a time, from both ends and from the middle: behind the copy and before it.
        for turn in 0..ROWS / 4 {
            let (first, middle, last) = (turn, ROWS / 2 + turn % 7, ROWS - 1 - turn);
            for (number, value) in [(first, None), (middle, Some(b"changed")), (last, None)] {
                let key = Bytes::copy_from_slice(&key(number));
                let before = match value {
                    Some(value) => {
                        expected.insert(key.clone(), Bytes::copy_from_slice(value));
                        engine.insert(&key, value).map(drop)
                    }
                    None => {
                        let before = expected.remove(&key);
                        let removed = engine.remove(&key).expect("removes");
                        assert_eq!(removed, before);
                        Ok(())
                    }
                };
                before.expect("the engine is well");
            }
            if turn % 16 == 0 && copied == CopyStep::Copied {
                copied = step(&engine);
            }
            if turn % 40 == 0 {
                engine.flush().expect("flushes");
                assert_eq!(all(&engine), expected);
            }
        }
        while copied == CopyStep::Copied {
            copied = step(&engine);
        }
        assert_eq!(copied, CopyStep::Switched);
        assert_eq!(all(&engine), expected);
        drop(engine);
        assert_eq!(all(&renewing(&home)), expected);
    });
}

#[test]
fn a_range_goes_on_over_the_switch() {
    with_each_shared(|home| {
        let engine = filled(&home);
        let end = key(ROWS - 10);
        let before = rows(&engine, &key(10), Some(&end));
        assert_eq!(before.len() as u32, ROWS - 20);
        engine.begin_copy().expect("begins");
        let (mut seen, mut switched) = (Vec::new(), false);
        for row in engine.range(&key(10), Some(&end)) {
            seen.push(row.expect("reads"));
            switched |= seen.len() > 100 && engine.is_copying() && {
                while step(&engine) == CopyStep::Copied {}
                engine.remove_superseded()
            };
        }
        assert!(switched);
        assert_eq!(seen, before);
        assert_eq!(rows(&engine, b"b", Some(b"a")), []);
    });
}

#[test]
fn an_unfinished_copy_is_nothing_to_the_next_open() {
    with_each_shared(|home| {
        let engine = filled(&home);
        let before = all(&engine);
        engine.begin_copy().expect("begins");
        step(&engine);
        step(&engine);
        drop(engine);
        let engine = renewing(&home);
        assert_eq!(all(&engine), before);
        // Its place is free again, and after an end, too.
        engine.begin_copy().expect("begins anew");
        step(&engine);
        engine.end_copy();
        assert!(!engine.is_copying());
        engine.insert(&key(0), b"alone").expect("inserts");
        renew(&engine);
        assert_eq!(all(&engine).len(), before.len());
        assert_eq!(
            engine.get(&key(0)).expect("gets"),
            Some(Bytes::from("alone"))
        );
    });
}

#[test]
fn what_is_set_aside_leaves_nothing_behind() {
    with_each_shared(|home| {
        let engine = filled(&home);
        renew(&engine);
        // Not removed yet: a crash comes first.
        drop(engine);
        home.set_aside().expect("is set aside");
        let engine = renewing(&home);
        assert_eq!(all(&engine), BTreeMap::new());
        engine.insert(b"k", b"v").expect("inserts");
        renew(&engine);
        assert_eq!(all(&engine).len(), 1);
    });
}

#[test]
fn an_engine_that_hides_rows_is_not_copied() {
    let medium = MemHome::new();
    let home: Arc<dyn EngineHome> = Arc::new(medium.clone());
    let engine = filled(&home);
    medium.poke(&key(7), None);
    engine.begin_copy().expect("begins");
    let end = std::iter::repeat_with(|| step(&engine)).find(|step| *step != CopyStep::Copied);
    assert!(matches!(end, Some(CopyStep::GivenUp(_))), "{end:?}");
    assert!(!medium.has_leftovers());
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("lists");
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("utf-8")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn sleds_directories_come_and_go() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = || -> Arc<dyn EngineHome> {
        Arc::new(SledHome::new(directory.path().join("sled"), 1 << 20))
    };
    let engine = filled(&home());
    engine.begin_copy().expect("begins");
    step(&engine);
    assert_eq!(names(directory.path()), ["sled", "sled.copy-1"]);
    drop(engine);
    // A power cut may leave any part of a copy, and names that are like ours are none of ours.
    for other in ["sled.copy-7", "sled.copy-07", "sled.copy-", "sledge"] {
        std::fs::create_dir(directory.path().join(other)).expect("makes a directory");
    }
    // A mark is a file, in a directory.
    std::fs::create_dir(directory.path().join("sled.copy-7/complete")).expect("makes a directory");
    std::fs::write(directory.path().join("sled.copy-9"), b"a file").expect("writes");
    let engine = renewing(&home());
    std::fs::remove_file(directory.path().join("sled.copy-9")).expect("it is left alone");
    let others = ["sled.copy-", "sled.copy-07", "sledge"];
    assert_eq!(names(directory.path())[0], "sled");
    assert_eq!(names(directory.path())[1..], others);
    for other in others {
        std::fs::remove_dir(directory.path().join(other)).expect("removes");
    }

    renew(&engine);
    assert_eq!(names(directory.path()), ["sled", "sled.copy-1"]);
    drop(engine);
    // Nobody has removed the first, and it is not taken for the current one.
    let engine = renewing(&home());
    assert_eq!(names(directory.path()), ["sled.copy-1"]);
    assert_eq!(all(&engine).len() as u32, ROWS);
    renew(&engine);
    assert!(engine.remove_superseded());
    assert_eq!(names(directory.path()), ["sled.copy-2"]);
    drop(engine);
    home().set_aside().expect("is set aside");
    assert_eq!(names(directory.path()), ["sled.aside-1"]);
    assert_eq!(all(&renewing(&home())), BTreeMap::new());
    assert_eq!(names(directory.path()), ["sled", "sled.aside-1"]);
}

#[test]
fn a_copy_that_cannot_be_completed_is_never_current() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home: Arc<dyn EngineHome> = Arc::new(SledHome::new(directory.path().join("sled"), 1 << 20));
    let engine = filled(&home);
    engine.begin_copy().expect("begins");
    // In the way of the mark, and taken for it by whoever looks.
    std::fs::write(directory.path().join("sled.copy-1/complete"), b"").expect("writes");
    let end = std::iter::repeat_with(|| step(&engine)).find(|step| *step != CopyStep::Copied);
    assert!(matches!(end, Some(CopyStep::GivenUp(_))), "{end:?}");
    assert_eq!(names(directory.path()), ["sled"]);
    engine.insert(b"k", b"v").expect("inserts");
    let now = all(&engine);
    renew(&engine);
    assert_eq!(all(&engine), now);
}

#[test]
fn sled_gives_its_space_back() {
    const MANY: u32 = 40_000;
    const LEFT: u32 = 400;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home: Arc<dyn EngineHome> = Arc::new(SledHome::new(directory.path().join("sled"), 8 << 20));
    let engine = renewing(&home);
    // Keys in no order, as tokens are.
    let key = |number: u32| {
        u64::from(number)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes()
    };
    for number in 0..MANY {
        engine.insert(&key(number), &[7; 200]).expect("inserts");
    }
    engine.flush().expect("flushes");
    for number in LEFT..MANY {
        engine.remove(&key(number)).expect("removes");
    }
    engine.flush().expect("flushes");
    let (before, rows_before) = (engine.disk_bytes().expect("is told"), all(&engine));
    let live = engine.live();
    assert_eq!(live.rows, u64::from(LEFT));
    renew(&engine);
    assert!(engine.remove_superseded());
    engine.flush().expect("flushes");
    let after = engine.disk_bytes().expect("is told");
    println!(
        "{} live bytes: {before} bytes before, {after} after",
        live.bytes
    );
    assert!(before > 30 * live.bytes, "{before}");
    // A few segments of half a MiB are the least that sled takes.
    assert!(after < 4 * live.bytes + (2 << 20), "{after} of {before}");
    assert_eq!(all(&engine), rows_before);
    drop(engine);
    let engine = renewing(&home);
    assert_eq!(all(&engine), rows_before);
    assert_eq!(names(directory.path()), ["sled.copy-1"]);
    assert!(engine.disk_bytes().expect("is told") < before / 8);
}
