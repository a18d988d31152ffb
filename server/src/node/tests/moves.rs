//! Partitions move while clients write: nothing is missing afterwards, and no request fails.

use std::sync::atomic::{AtomicBool, Ordering};

use ringfort_ring::{Change, NodeName, encode_changes};

use super::*;
use crate::config::ByteSize;

const ABCD: [&str; 4] = ["a", "b", "c", "d"];

fn name(name: &str) -> NodeName {
    NodeName::new(name).expect("valid")
}

fn remove(node: &str) -> Vec<u8> {
    encode_changes(&[Change::Remove(name(node))])
}

/// Other capacities.
fn set(tokens: &[(&str, u32)]) -> Vec<u8> {
    let changes = tokens.iter().map(|(node, tokens)| Change::Set {
        name: name(node),
        tokens: Some(*tokens),
        zone: None,
    });
    encode_changes(&changes.collect::<Vec<_>>())
}

async fn all(net: &MemNet, homes: &[Home], names: &[&'static str]) -> Vec<Run> {
    let starts = names.iter().zip(homes).zip(10..);
    let starts = starts.map(|((name, home), seed)| start(net, home, name, names, seed));
    let mut runs: Vec<Run> = starts.collect();
    for run in &mut runs {
        run.ready().await;
    }
    runs
}

fn homes(count: usize) -> Vec<Home> {
    (0..count).map(|_| Home::new()).collect()
}

impl Run {
    /// Has a change decided, at this node.
    async fn change(&self, changes: &[u8]) -> u64 {
        let plan = self.plan(changes).await.expect("fits");
        assert!(plan.places);
        self.commit(changes, plan.hash).await.expect("a majority")
    }

    /// Waits until this epoch is known, and one layout is live.
    async fn settles(&self, epoch: u64) {
        let settled = async {
            loop {
                let layout = self.layout().await;
                if layout.epoch >= epoch && layout.live.len() == 1 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let settled = tokio::time::timeout(HANG, settled).await;
        settled.expect("the change comes to its end");
    }
}

/// Writes keys of its own, one after the other, until told to stop; gives how many.
async fn write(run: &Run, by: &str, stop: &AtomicBool) -> usize {
    let mut written = 0;
    while !stop.load(Ordering::Acquire) {
        let key = format!("{by}-{written}");
        let put = run.put(&key, &key).await;
        put.unwrap_or_else(|status| panic!("{key}: {status:?}"));
        let read = run.get(&key).await;
        let read = read.unwrap_or_else(|status| panic!("{key}: {status:?}"));
        assert_eq!(read, [key]);
        written += 1;
    }
    written
}

async fn check(at: &Run, by: &str, written: usize) {
    for n in 0..written {
        let key = format!("{by}-{n}");
        let read = at.get(&key).await;
        let read = read.unwrap_or_else(|status| panic!("{key}: {status:?}"));
        assert_eq!(read, [key]);
    }
}

/// Keys that are there before anything changes.
const FILLED: usize = 200;

/// Fills the cluster, has it changed at its first node while all are written to, and checks that nothing is missing. Gives how
/// many keys were written.
async fn changed_under_writes(runs: &[Run], round: &str, changes: &[u8]) -> usize {
    let old = format!("{round}-old");
    for n in 0..FILLED {
        let key = format!("{old}-{n}");
        runs[0].put(&key, &key).await.expect("a quorum");
    }
    let stop = AtomicBool::new(false);
    let change = async {
        let epoch = runs[0].change(changes).await;
        for run in runs {
            run.settles(epoch + 1).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.store(true, Ordering::Release);
    };
    let bys: Vec<String> = runs
        .iter()
        .map(|run| format!("{round}-{}", run.name))
        .collect();
    let writers = runs.iter().zip(&bys).map(|(run, by)| write(run, by, &stop));
    let ((), written) = tokio::join!(change, futures::future::join_all(writers));
    for at in runs {
        check(at, &old, FILLED).await;
        for (by, written) in bys.iter().zip(&written) {
            check(at, by, *written).await;
        }
    }
    FILLED + written.iter().sum::<usize>()
}

/// Waits until the nodes together hold three copies of each key, and no more.
async fn holds_three_of_each(run: &Run, keys: usize) {
    let mut held = Vec::new();
    let forgotten = async {
        while held.iter().sum::<u64>() != 3 * keys as u64 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            held = run
                .status()
                .await
                .nodes
                .iter()
                .map(|node| node.keys)
                .collect();
        }
    };
    let waited = tokio::time::timeout(HANG, forgotten).await;
    waited.unwrap_or_else(|_| panic!("{keys} keys, and {held:?} are held"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_removed_while_clients_write() {
    let (net, homes) = (MemNet::default(), homes(4));
    let mut runs = all(&net, &homes, &ABCD).await;
    let d = runs.pop().expect("four");
    changed_under_writes(&runs, "one", &remove("d")).await;
    let ended = d.ended().await;
    assert!(
        matches!(&ended, Err(Fatal::Out(why)) if why.contains("was removed")),
        "{ended:?}"
    );
    for port in [7400, 7500, 7600] {
        net.cut(&format!("d:{port}"));
    }
    let status = runs[1].status().await;
    assert_eq!((status.nodes.len(), status.under_replicated), (3, 0));
    assert!(status.nodes.iter().all(|node| node.unsynced == 0));
    for run in runs {
        run.stop().await;
    }
    let ended = start(&net, &homes[3], "d", &ABCD, 50).ended().await;
    assert!(
        matches!(&ended, Err(Fatal::Retired(why)) if why.contains("was removed")),
        "{ended:?}"
    );
}

/// Partitions go to and fro, some to two new owners at once; who gave one away forgets it.
#[tokio::test(flavor = "multi_thread")]
async fn capacities_change_while_clients_write() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let (net, homes) = (MemNet::default(), homes(5));
    let runs = all(&net, &homes, &NAMES).await;
    let to = set(&[("a", 1024), ("b", 1024)]);
    let mut keys = changed_under_writes(&runs, "to", &to).await;
    holds_three_of_each(&runs[2], keys).await;
    let back = set(&[("a", 256), ("b", 64), ("c", 1024), ("d", 1024)]);
    keys += changed_under_writes(&runs, "back", &back).await;
    holds_three_of_each(&runs[0], keys).await;
    for run in runs {
        run.stop().await;
    }
}

/// A node stops while it receives: what it has whole it does not receive again, and the rest comes after its start.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_after_a_restart() {
    let (net, homes) = (MemNet::default(), homes(4));
    let slow = |node: &str| {
        let mut config = config(node, &ABCD);
        config.transfer_rate = ByteSize(1 << 10);
        config
    };
    let mut runs = Vec::new();
    for ((node, home), seed) in ABCD.into_iter().zip(&homes).zip(10..) {
        runs.push(start_with(&net, home, node, slow(node), seed));
    }
    for run in &mut runs {
        run.ready().await;
    }
    for n in 0..FILLED {
        let key = format!("old-{n}");
        runs[0].put(&key, &key).await.expect("a quorum");
    }
    let epoch = runs[1].change(&remove("d")).await;
    let of_a = async |runs: &[Run]| runs[1].status().await.nodes[0].receiving;
    let midway = async {
        loop {
            match of_a(&runs).await {
                Some(a) if a.received > 0 => return a,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let midway = tokio::time::timeout(HANG, midway).await;
    let before = midway.expect("it receives");
    assert!(before.received < before.partitions, "{before:?}");
    assert!(before.bytes > 0 && before.bytes_per_s > 0, "{before:?}");
    assert!(runs[1].status().await.moving > 0);
    runs.remove(0).stop().await;
    let d = runs.pop().expect("four");
    let mut a = start(&net, &homes[0], "a", &ABCD, 50);
    assert!(a.ready().await);
    runs.insert(0, a);
    for run in &runs {
        run.settles(epoch + 1).await;
    }
    assert!(matches!(d.ended().await, Err(Fatal::Out(_))));
    let after = of_a(&runs).await.expect("it received the rest");
    assert_eq!(after.partitions, after.received);
    assert!(
        after.bytes < before.bytes * after.partitions / before.received,
        "the rest alone: {before:?}, {after:?}"
    );
    for run in &runs {
        check(run, "old", FILLED).await;
    }
    for run in runs {
        run.stop().await;
    }
}
