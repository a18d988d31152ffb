//! What every [`Engine`] owes: one suite over all of them.

use std::sync::Arc;

use bytes::Bytes;

use super::mem::MemHome;
use super::sled::{SledEngine, SledHome};
use super::{Engine, EngineHome, Row};

/// Runs `test` with each engine's home, empty.
fn with_each(test: impl Fn(&dyn EngineHome)) {
    with_each_shared(|home| test(&*home));
}

/// The same, with homes that can be kept.
pub(super) fn with_each_shared(test: impl Fn(Arc<dyn EngineHome>)) {
    test(Arc::new(MemHome::new()));
    let directory = tempfile::tempdir().expect("a temporary directory");
    test(Arc::new(SledHome::new(
        directory.path().join("sled"),
        1 << 20,
    )));
}

pub(super) fn rows(engine: &dyn Engine, first: &[u8], end: Option<&[u8]>) -> Vec<Row> {
    engine
        .range(first, end)
        .map(|row| row.expect("reads"))
        .collect()
}

fn row(key: &'static str, value: &'static str) -> Row {
    (Bytes::from(key), Bytes::from(value))
}

#[test]
fn rows_are_read_as_written() {
    with_each(|home| {
        let engine = home.open().expect("opens");
        assert_eq!(engine.get(b"k").expect("gets"), None);
        assert_eq!(engine.insert(b"k", b"1").expect("inserts"), None);
        assert_eq!(
            engine.insert(b"k", b"").expect("inserts"),
            Some(Bytes::from("1"))
        );
        assert_eq!(engine.get(b"k").expect("gets"), Some(Bytes::new()));
        assert_eq!(engine.remove(b"k").expect("removes"), Some(Bytes::new()));
        assert_eq!(engine.remove(b"k").expect("removes"), None);
        assert_eq!(engine.get(b"k").expect("gets"), None);
    });
}

#[test]
fn ranges_are_ordered_and_half_open() {
    with_each(|home| {
        let engine = home.open().expect("opens");
        for key in ["b", "a", "d", "c", "bb"] {
            engine
                .insert(key.as_bytes(), key.as_bytes())
                .expect("inserts");
        }
        let (a, b, bb, c, d) = (
            row("a", "a"),
            row("b", "b"),
            row("bb", "bb"),
            row("c", "c"),
            row("d", "d"),
        );
        assert_eq!(
            rows(&*engine, b"", None),
            [a, b.clone(), bb.clone(), c.clone(), d.clone()]
        );
        assert_eq!(rows(&*engine, b"b", Some(b"d")), [b, bb.clone(), c.clone()]);
        assert_eq!(rows(&*engine, b"ba", None), [bb, c, d]);
        assert_eq!(rows(&*engine, b"c", Some(b"c")), []);
        assert_eq!(rows(&*engine, b"d", Some(b"a")), []);
    });
}

#[test]
fn a_range_lives_with_changes_under_it() {
    with_each(|home| {
        let engine = home.open().expect("opens");
        for number in 0..500_u32 {
            engine
                .insert(&number.to_be_bytes(), b"old")
                .expect("inserts");
        }
        let mut seen = Vec::new();
        for (index, row) in engine.range(b"", None).enumerate() {
            let (key, _) = row.expect("reads");
            seen.push(u32::from_be_bytes(key[..].try_into().expect("four bytes")));
            // Removes rows behind and replaces rows ahead: neither may hide a row that is not touched.
            let index = index as u32;
            engine.remove(&(index / 2).to_be_bytes()).expect("removes");
            engine
                .insert(&(499 - index / 3).to_be_bytes(), b"new")
                .expect("inserts");
        }
        assert!(
            (250..333).all(|number| seen.contains(&number)),
            "untouched rows are seen"
        );
        assert!(seen.is_sorted());
    });
}

#[test]
fn flushed_rows_are_there_after_a_reopen_and_a_set_aside_starts_empty() {
    with_each(|home| {
        for turn in 0..4_u8 {
            let engine = home.open().expect("opens");
            assert_eq!(rows(&*engine, b"", None), [], "set aside at turn {turn}");
            engine.insert(b"k", &[turn]).expect("inserts");
            engine.flush().expect("flushes");
            drop(engine);
            let engine = home.open().expect("opens again");
            assert_eq!(
                engine.get(b"k").expect("gets"),
                Some(Bytes::copy_from_slice(&[turn]))
            );
            drop(engine);
            home.set_aside().expect("is set aside");
        }
    });
}

#[test]
fn the_newest_two_set_aside_directories_are_kept() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = SledHome::new(directory.path().join("sled"), 1 << 20);
    for turn in 0..4_u8 {
        home.open()
            .expect("opens")
            .insert(b"turn", &[turn])
            .expect("inserts");
        home.set_aside().expect("is set aside");
    }
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .expect("lists")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("utf-8")
        })
        .collect();
    names.sort();
    assert_eq!(names, ["sled.aside-1", "sled.aside-2"]);
    let newest = SledHome::new(directory.path().join("sled.aside-1"), 1 << 20)
        .open()
        .expect("opens");
    assert_eq!(
        newest.get(b"turn").expect("gets"),
        Some(Bytes::from_static(&[3]))
    );
}

#[test]
fn a_database_that_makes_sled_fail_is_a_typed_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("sled");
    let home = SledHome::new(&path, 1 << 20);
    drop(home.open().expect("opens"));
    // The configuration that sled keeps beside its file, with one byte flipped.
    let conf = path.join("conf");
    let mut bytes = std::fs::read(&conf).expect("reads");
    bytes[0] ^= 1;
    std::fs::write(&conf, bytes).expect("writes");
    assert!(home.open().is_err());
    home.set_aside().expect("is set aside");
    drop(home.open().expect("opens afresh"));
}

/// A handle can be shared by the drain and the engine pool.
#[test]
fn engines_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<SledEngine>();
    shared::<super::mem::MemEngine>();
}
