//! Exchanges between real data paths: what one owner lacks it gets, and nobody asked.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use ringfort_ring::{PartitionId, token_of_framed};
use ringfort_storage::{
    Key, Record, Store, codec, rows,
    store::{Folds, Read, Root},
    version::{ActorId, Dot, NewPayload, Object, RequestId, Value, Write},
};

use super::board::Outcome;
use crate::testing::{Cluster, Options, eventually};

fn key(n: u64) -> Key {
    let framed = [&[0, 1, b'n'][..], format!("key-{n}").as_bytes()].concat();
    let token = token_of_framed(&framed);
    Key::from_framed(token.0, Bytes::from(framed)).expect("a good key")
}

/// An object as some other store would send it, after one write on `base`.
fn object(base: &Object, actor: u64, counter: u64, value: &[u8]) -> Object {
    let write = Write {
        context: Some(base.into()),
        payload: NewPayload::Value(Value::new(Bytes::copy_from_slice(value))),
        request: RequestId {
            client: actor,
            sequence: counter,
        },
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms: 0,
    };
    let actor = ActorId(actor);
    base.write(&write, Dot { actor, counter }, 1)
}

fn first(actor: u64, n: u64) -> Object {
    object(
        &Object::empty(),
        actor,
        n + 1,
        format!("value {n}").as_bytes(),
    )
}

fn merge(store: &Store, n: u64, object: Object) {
    store.merge(&key(n), object, 0).expect("there is room");
}

fn roots(store: &Store) -> Vec<Root> {
    let root = |partition| {
        let root = store.root(partition, &mut Folds(usize::MAX));
        root.expect("the engine is well").expect("nobody writes")
    };
    (0..store.partitions()).map(root).collect()
}

async fn until_equal(cluster: &Cluster) {
    eventually("all roots are the same", || async {
        let all: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| roots(&node.store))
            .collect();
        all.iter().all(|roots| *roots == all[0])
    })
    .await;
}

async fn until_clean(cluster: &Cluster) {
    eventually("all are known to be the same", || async {
        let mut nodes = cluster.nodes.iter();
        nodes.all(|node| node.board.standing().ages.unclean == 0)
    })
    .await;
}

#[tokio::test]
async fn what_any_owner_holds_all_come_to_hold() {
    let mut cluster = Cluster::of_three().await;
    let stores: Vec<Store> = cluster
        .nodes
        .iter()
        .map(|node| node.store.clone())
        .collect();
    for n in 0..300 {
        let older = first(7, n);
        stores
            .iter()
            .for_each(|store| merge(store, n, older.clone()));
        match n % 10 {
            // One has it alone, one lacks it, all have other siblings.
            0 => merge(&stores[0], 1_000 + n, first(7, 1_000 + n)),
            1 => merge(&stores[1], n, object(&older, 7, 2_000 + n, b"newer")),
            2 => (0..3).for_each(|i| {
                let own = object(&Object::empty(), 20 + i, n + 1, b"concurrent");
                merge(&stores[i as usize], n, own);
            }),
            _ => {}
        }
    }
    cluster.exchange();
    until_equal(&cluster).await;
    until_clean(&cluster).await;
    for store in &stores {
        store.load(&[key(1_000), key(1), key(2)]).expect("well");
        let found = |n| match store.read(&key(n)) {
            Read::Found(record) => record.object().siblings().len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((found(1_000), found(1), found(2)), (1, 1, 4));
    }
    // Nothing more is moved once all is the same, and everything is looked at again and again.
    let moved = |node: &crate::testing::Node| {
        let totals = &node.board.totals;
        totals.fetched.load(Relaxed) + totals.pushed.load(Relaxed)
    };
    let before: u64 = cluster.nodes.iter().map(moved).sum();
    assert!(before >= 90, "{before}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.nodes.iter().map(moved).sum::<u64>(), before);
    until_clean(&cluster).await;
}

#[tokio::test]
async fn one_that_was_away_gets_what_it_missed() {
    let mut cluster = Cluster::of_three().await;
    cluster.exchange();
    until_clean(&cluster).await;
    for n in 0..200 {
        merge(&cluster.nodes[0].store, n, first(7, n));
        merge(&cluster.nodes[1].store, n, first(7, n));
    }
    cluster.nodes[0]
        .board
        .marks
        .mark_all(cluster.nodes[2].member().store_id);
    until_equal(&cluster).await;
    until_clean(&cluster).await;
    assert_eq!(
        cluster.nodes[2].store.read(&key(7)).found(),
        Some(first(7, 7))
    );
}

trait Found {
    fn found(self) -> Option<Object>;
}

impl Found for Read {
    fn found(self) -> Option<Object> {
        match self {
            Read::Found(record) => Some(record.object().clone()),
            _ => None,
        }
    }
}

/// Damages what the engine of a node holds of a key.
fn damage(home: &ringfort_storage::engine::mem::MemHome, n: u64, object: Object) {
    let mut bytes = Vec::new();
    codec::encode_record(&Record::new(&key(n), object), &mut bytes);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    home.poke(&rows::head_key(&key(n)), Some(&bytes));
}

#[tokio::test]
async fn what_is_damaged_is_never_sent_and_is_fetched_anew() {
    let mut cluster = Cluster::of_three().await;
    // Of one the others have a copy, of the other nobody has.
    for n in 0..2 {
        damage(&cluster.nodes[0].home, n, first(7, n));
    }
    for node in &cluster.nodes[1..] {
        merge(&node.store, 0, first(7, 0));
    }
    // So that their buckets are looked at.
    merge(&cluster.nodes[2].store, 2, first(7, 2));
    cluster.exchange();
    for _ in 0..3 {
        cluster
            .nodes
            .iter()
            .for_each(|node| node.board.want(&Default::default()));
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    for node in &cluster.nodes[1..] {
        assert_eq!(node.store.read(&key(0)).found(), Some(first(7, 0)));
        let reads = node.store.load(&[key(1)]).expect("well");
        assert_eq!(reads[0].clone().found(), Some(Object::empty()), "sent on");
    }
    let there = cluster.nodes[1]
        .store
        .root(0, &mut Folds(99))
        .expect("well");
    assert!(there.is_some());
    let outcomes = |outcome| {
        cluster
            .nodes
            .iter()
            .map(|n| n.board.totals.outcomes(outcome))
            .sum::<u64>()
    };
    assert!(outcomes(Outcome::Mended) > 0);
}

/// What an exchange costs. `cargo test --release -p ringfort exchange::tests::a_million -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, and a machine for itself"]
#[expect(clippy::disallowed_methods, reason = "measures what it takes")]
async fn a_million_keys_that_differ_in_a_hundred() {
    const KEYS: u64 = 1_000_000;
    const DIFFERENT: u64 = 100;
    let dir = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::start(Options {
        nodes: 2,
        replicas: 2,
        partitions: 1_024,
        dir: Some(dir.path().to_owned()),
        ..Options::default()
    })
    .await;
    for n in 0..KEYS {
        for node in &cluster.nodes {
            let value = object(&Object::empty(), 7, n + 1, &[7; 100]);
            while node.store.merge(&key(n), value.clone(), 0).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    for node in &cluster.nodes {
        while node.store.stats().dirty_bytes > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for n in 0..DIFFERENT {
        let at = (n % 2) as usize;
        let more = object(&first(7, n), 8, n + 1, b"more");
        merge(&cluster.nodes[at].store, n * 9_973, more);
    }
    let bytes = |cluster: &Cluster| -> u64 {
        cluster
            .nodes
            .iter()
            .map(|node| node.board.totals.bytes.load(Relaxed))
            .sum()
    };
    let began = std::time::Instant::now();
    cluster.exchange();
    until_equal(&cluster).await;
    let (seconds, moved) = (began.elapsed().as_secs_f64(), bytes(&cluster));
    println!("{KEYS} keys that differ in {DIFFERENT}: {moved} bytes, {seconds:.2} s");
    until_clean(&cluster).await;
    let (before, rounds) = (bytes(&cluster), |cluster: &Cluster| {
        cluster
            .nodes
            .iter()
            .map(|n| n.board.totals.outcomes(Outcome::Equal))
            .sum::<u64>()
    });
    let compared = rounds(&cluster);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let compared = rounds(&cluster) - compared;
    let a_round = (bytes(&cluster) - before) as f64 / compared as f64;
    println!("{compared} partitions compared that were equal: {a_round:.1} bytes each");
    assert!(compared > 0 && cluster.nodes[0].views.current().owns(PartitionId(0)));
    cluster.close().await;
}
