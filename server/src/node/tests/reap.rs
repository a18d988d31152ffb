//! What was deleted is forgotten by all nodes, and by none before all take part; what a directory that was put back remembers does
//! not come back.

use super::*;

const KEYS: usize = 60;
/// Of these so many stay.
const STAY: usize = 10;

fn key(number: usize) -> String {
    format!("k{number}")
}

fn reaping(name: &str) -> Config {
    let flags = Flags {
        soft_delete: Some("0s".to_owned()),
        reap_grace: Some("50ms".to_owned()),
        reap_early: Some("true".to_owned()),
        exchange_interval: Some("500ms".to_owned()),
        ..flags(name, &ABC)
    };
    Config::load(&flags, &BTreeMap::new(), None).expect("a good configuration")
}

async fn one(net: &MemNet, home: &Home, name: &'static str, seed: u64) -> Run {
    let mut run = start_with(net, home, name, reaping(name), seed);
    run.ready().await;
    run
}

async fn all(net: &MemNet, homes: &[Home; 3]) -> Vec<Run> {
    let starts = ABC.into_iter().zip(homes).zip(10..);
    let starts =
        starts.map(|((name, home), seed)| start_with(net, home, name, reaping(name), seed));
    let mut runs: Vec<Run> = starts.collect();
    for run in &mut runs {
        run.ready().await;
    }
    runs
}

impl Run {
    async fn read(&self, key: &str, r: u32) -> v1::GetResponse {
        let get = v1::GetRequest {
            key: name_of(key),
            options: Some(v1::ReadOptions {
                r: Some(r),
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = KvClient::new(self.channel()).get(within(get)).await;
        answer.expect("a quorum").into_inner()
    }

    async fn delete(&self, key: &str) {
        let delete = v1::DeleteRequest {
            key: name_of(key),
            context: self.read(key, 2).await.context,
            ..Default::default()
        };
        let answer = KvClient::new(self.channel()).delete(within(delete)).await;
        answer.expect("a quorum");
    }

    async fn fill(&self) {
        for number in 0..KEYS {
            self.put(&key(number), "v").await.expect("a quorum");
        }
    }

    async fn delete_most(&self) {
        for number in STAY..KEYS {
            self.delete(&key(number)).await;
        }
    }

    /// Keys in the engine of each node, tombstones included.
    async fn held(&self) -> Vec<u64> {
        let status = self.status().await;
        status.nodes.iter().map(|node| node.keys).collect()
    }

    /// Waits until each node's engine holds so many keys.
    async fn holds(&self, keys: u64) {
        let mut held = Vec::new();
        let waited = async {
            while held != [keys; 3] {
                tokio::time::sleep(Duration::from_millis(50)).await;
                held = self.held().await;
            }
        };
        let waited = tokio::time::timeout(HANG, waited).await;
        waited.unwrap_or_else(|_| panic!("{keys} keys at each, and {held:?} are held"));
    }
}

/// All that was not deleted is there, at all copies, and nothing else.
async fn check(run: &Run) {
    for number in 0..KEYS {
        let read = run.read(&key(number), 3).await;
        let stays = number < STAY;
        assert_eq!(read.siblings.len(), usize::from(stays), "k{number}");
        assert_eq!(read.context.is_empty(), !stays, "k{number}: {read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_forgotten_by_all() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let runs = all(&net, &homes).await;
    runs[0].fill().await;
    runs[1].delete_most().await;
    runs[2].holds(STAY as u64).await;
    for run in &runs {
        check(run).await;
    }
    // Written anew, it is like any other, and so is deleting it again.
    runs[1].put(&key(STAY), "again").await.expect("a quorum");
    assert_eq!(runs[2].get(&key(STAY)).await.expect("a quorum"), ["again"]);
    runs[0].delete(&key(STAY)).await;
    runs[1].holds(STAY as u64).await;
    let mut runs = runs.into_iter();
    let a = runs.next().expect("three");
    // Generations outlive a start.
    a.stop().await;
    let a = one(&net, &homes[0], "a", 50).await;
    a.put(&key(STAY), "again").await.expect("a quorum");
    a.delete(&key(STAY)).await;
    a.holds(STAY as u64).await;
    check(&a).await;
    a.stop().await;
    for run in runs {
        run.stop().await;
    }
}

/// I4.
#[tokio::test(flavor = "multi_thread")]
async fn reaping_waits_for_a_node_that_is_away_and_it_brings_nothing_back() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = all(&net, &homes).await;
    runs[0].fill().await;
    runs[0].holds(KEYS as u64).await;
    runs.pop().expect("three").stop().await;
    runs[1].delete_most().await;
    // Past the grace, and longer than it takes to begin a round.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let held = runs[0].held().await;
    assert_eq!(held[..2], [KEYS as u64; 2], "c holds the values");
    let c = one(&net, &homes[2], "c", 50).await;
    c.holds(STAY as u64).await;
    check(&c).await;
    c.stop().await;
    for run in runs {
        run.stop().await;
    }
}

/// I4: a round cannot wait for a directory that was put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_put_back_brings_nothing_back() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = all(&net, &homes).await;
    runs[0].fill().await;
    runs[0].holds(KEYS as u64).await;
    runs.pop().expect("three").stop().await;
    let image = homes[2].copy();
    let c = one(&net, &homes[2], "c", 50).await;
    runs[0].delete_most().await;
    c.holds(STAY as u64).await;
    c.stop().await;
    let c = one(&net, &image, "c", 60).await;
    c.holds(STAY as u64).await;
    let whole = async {
        while c.status().await.nodes.iter().any(|node| node.unsynced > 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let whole = tokio::time::timeout(HANG, whole).await;
    whole.expect("it receives what it has missed");
    check(&c).await;
    // Rounds go on with it.
    c.put("once more", "v").await.expect("a quorum");
    c.delete("once more").await;
    runs[0].holds(STAY as u64).await;
    c.stop().await;
    for run in runs {
        run.stop().await;
    }
}
