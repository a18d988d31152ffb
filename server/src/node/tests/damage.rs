//! Records that rot come back by themselves, whoever meets them first, and are never served meanwhile.

use ringfort_storage::codec::decode_record;

use super::*;

const KEYS: usize = 300;

fn key(number: usize) -> String {
    format!("k{number}")
}

fn value(number: usize) -> String {
    format!("value-{number}-{}", "x".repeat(100))
}

/// Whether that is the row of a key's record.
fn is_of(row: &[u8], key: &str) -> bool {
    let framed = [b"\0\x07default".as_slice(), key.as_bytes(), &[0]].concat();
    row.get(8..) == Some(&framed[..])
}

/// Whether what is under a key fails its verification.
fn is_rotten(home: &Home, key: &str) -> bool {
    let mut rows = home.engine.rows().into_iter();
    rows.any(|(row, value)| {
        let parsed = || ringfort_storage::rows::parse_key(&row).expect("a row").0;
        is_of(&row, key) && decode_record(&parsed(), &value, true).is_err()
    })
}

/// Flips a bit in the row of a key.
fn rot(home: &Home, key: &str) {
    let mut rows = home.engine.rows().into_iter();
    let row = rows.find(|(row, _)| is_of(row, key));
    let (row, value) = row.expect("it was drained");
    let mut value = value.to_vec();
    let at = value.len() / 2;
    value[at] ^= 1;
    home.engine.poke(&row, Some(&value));
}

/// Keys of one partition.
async fn sharing(run: &Run, count: usize) -> Vec<usize> {
    let mut of = BTreeMap::<u32, Vec<usize>>::new();
    for number in 0..KEYS {
        let request = v1::WhereRequest {
            key: name_of(&key(number)),
        };
        let place = AdminClient::new(run.channel()).r#where(request).await;
        let partition = place.expect("answers").into_inner().partition;
        let keys = of.entry(partition).or_default();
        keys.push(number);
        if keys.len() == count {
            return keys.clone();
        }
    }
    panic!("{KEYS} keys in {PARTITIONS} partitions");
}

/// Three nodes that hold everything in their engines, and nothing in memory.
async fn filled(net: &MemNet, homes: &[Home; 3]) -> Vec<Run> {
    let runs = three(net, homes, 10).await;
    for number in 0..KEYS {
        let put = runs[number % 3].put(&key(number), &value(number)).await;
        put.expect("a quorum");
    }
    for run in runs {
        run.stop().await;
    }
    let runs = three(net, homes, 20).await;
    linked(&runs).await;
    runs
}

/// Waits until each reaches the others: who was ready first may not have been answered by those that came after.
async fn linked(runs: &[Run]) {
    let all = |key: &str| v1::GetRequest {
        key: name_of(key),
        options: Some(v1::ReadOptions {
            r: Some(3),
            ..v1::ReadOptions::default()
        }),
        ..v1::GetRequest::default()
    };
    let linked = async {
        for run in runs {
            let mut client = KvClient::new(run.channel());
            while client.get(within(all("linked?"))).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let linked = tokio::time::timeout(HANG, linked).await;
    linked.expect("all reach each other");
}

/// Waits until all copies count.
async fn healed(runs: &[Run]) {
    let mut left = Vec::new();
    let healed = async {
        while left.iter().any(|left| *left != (0, 0)) || left.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            left.clear();
            for run in runs {
                let nodes = run.status().await.nodes.into_iter();
                left.extend(nodes.map(|node| (node.unsynced, node.quarantined)));
            }
        }
    };
    let healed = tokio::time::timeout(HANG, healed).await;
    healed.unwrap_or_else(|_| panic!("partitions and keys do not come back: {left:?}"));
}

/// Reads all from each node: a copy that was not there, or is not what was written, fails.
async fn serve_all(runs: &[Run]) {
    for (at, run) in runs.iter().enumerate() {
        for number in 0..KEYS {
            let read = run.get(&key(number)).await;
            let read = read.unwrap_or_else(|status| panic!("{number} at {at}: {status:?}"));
            assert_eq!(read, [value(number)], "{number} at {at}");
        }
    }
}

/// Every engine holds every key as it was written, or it is not held to be drained.
async fn hold_all(net: &MemNet, homes: &[Home; 3], runs: Vec<Run>) {
    for run in runs {
        run.stop().await;
    }
    for home in homes {
        assert_eq!((0..KEYS).find(|n| is_rotten(home, &key(*n))), None);
    }
    let runs = three(net, homes, 90).await;
    linked(&runs).await;
    for run in &runs {
        let status = run.status().await;
        for node in status.nodes {
            assert_eq!((node.unsynced, node.quarantined), (0, 0), "{}", node.name);
            assert_eq!(node.keys, KEYS as u64, "{}", node.name);
        }
    }
    serve_all(&runs).await;
    for run in runs {
        run.stop().await;
    }
}

/// Stops all, damages records and starts all again.
async fn rotted(net: &MemNet, homes: &[Home; 3], damage: impl Fn(usize) -> Vec<usize>) -> Vec<Run> {
    for run in filled(net, homes).await {
        run.stop().await;
    }
    for (at, home) in homes.iter().enumerate() {
        for number in damage(at) {
            rot(home, &key(number));
        }
    }
    three(net, homes, 30).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_in_a_hundred_comes_back() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let damage = |at| match at {
        1 => (0..KEYS).step_by(100).collect(),
        _ => Vec::new(),
    };
    let runs = rotted(&net, &homes, damage).await;
    healed(&runs).await;
    hold_all(&net, &homes, runs).await;
}

/// None of the three has a whole copy of any partition, and each record is whole somewhere.
#[tokio::test(flavor = "multi_thread")]
async fn owners_that_all_lost_records_do_not_wait_for_each_other() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let damage = |at| (0..KEYS).filter(|n| n % 4 == at).collect();
    let runs = rotted(&net, &homes, damage).await;
    healed(&runs).await;
    hold_all(&net, &homes, runs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whole_copy_restores_the_same_records_of_two_others() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let damage = |at| match at {
        0 | 2 => (0..KEYS).step_by(3).collect(),
        _ => Vec::new(),
    };
    let runs = rotted(&net, &homes, damage).await;
    healed(&runs).await;
    hold_all(&net, &homes, runs).await;
}

/// Nobody has it any more: that is not made up, and all else is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_rotted_everywhere_is_told_to_be_lost() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let runs = rotted(&net, &homes, |at| match at {
        0 => vec![7, 8],
        _ => vec![7],
    })
    .await;
    let told = async {
        while runs[0]
            .status()
            .await
            .nodes
            .iter()
            .any(|node| node.unsynced != 1)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(HANG, told).await;
    told.expect("the others are whole again, and this one is not");
    let refused = runs[1].get(&key(7)).await.expect_err("no copy counts");
    assert!(Failure::from_status(&refused).is_some(), "{refused:?}");
    for run in runs {
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_overwritten_meanwhile_comes_from_all_others() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = filled(&net, &homes).await;
    runs.pop().expect("three").stop().await;
    rot(&homes[2], &key(5));
    let shared = sharing(&runs[0], 3).await;
    rot(&homes[2], &key(shared[0]));
    for number in [5, shared[0], shared[1]] {
        runs[0].put(&key(number), "beside").await.expect("a quorum");
    }
    let mut c = start(&net, &homes[2], "c", &ABC, 40);
    c.ready().await;
    runs.push(c);
    healed(&runs).await;
    for run in &runs {
        let mut read = run.get(&key(5)).await.expect("a quorum");
        read.sort();
        assert_eq!(read, ["beside".to_owned(), value(5)]);
    }
    for run in runs {
        run.stop().await;
    }
}

/// Each time something else meets it first.
#[tokio::test(flavor = "multi_thread")]
async fn damage_under_a_running_node_is_met_and_repaired() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let runs = filled(&net, &homes).await;
    // A read, at its coordinator or at another owner.
    rot(&homes[0], &key(1));
    for run in &runs {
        assert_eq!(run.get(&key(1)).await.expect("a quorum"), [value(1)]);
    }
    seen(&homes[0], &key(1), &runs).await;
    // A scan.
    rot(&homes[1], &key(2));
    for run in &runs {
        assert_eq!(scanned(run).await, KEYS);
    }
    seen(&homes[1], &key(2), &runs).await;
    // A drain, of a copy that came from another node.
    rot(&homes[2], &key(3));
    runs[0].put(&key(3), "beside").await.expect("a quorum");
    seen(&homes[2], &key(3), &runs).await;
    let mut read = runs[2].get(&key(3)).await.expect("a quorum");
    read.sort();
    assert_eq!(read, ["beside".to_owned(), value(3)]);
    for run in runs {
        run.stop().await;
    }
}

/// Of a scrub that an operator asks for, at any node.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_what_nobody_reads() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let runs = filled(&net, &homes).await;
    rot(&homes[0], &key(1));
    rot(&homes[2], &key(1));
    rot(&homes[2], &key(2));
    let asked = AdminClient::new(runs[1].channel())
        .scrub(v1::ScrubRequest {})
        .await;
    let passes = asked.expect("answers").into_inner().nodes;
    assert_eq!(passes.len(), 3);
    let mut told = Vec::new();
    let through = async {
        while told != [(1, 1), (1, 0), (1, 2)] {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let nodes = runs[1].status().await.nodes.into_iter();
            let scrubs = nodes.map(|node| node.scrub.expect("it answers"));
            told = scrubs.map(|scrub| (scrub.passes, scrub.damaged)).collect();
        }
    };
    let through = tokio::time::timeout(HANG, through).await;
    through.unwrap_or_else(|_| panic!("passes and damaged records: {told:?}"));
    for (home, number) in [(0, 1), (2, 1), (2, 2)] {
        seen(&homes[home], &key(number), &runs).await;
    }
    hold_all(&net, &homes, runs).await;
}

/// Waits until a row verifies again, and all copies count.
async fn seen(home: &Home, key: &str, runs: &[Run]) {
    let seen = async {
        while is_rotten(home, key) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(HANG, seen).await;
    seen.unwrap_or_else(|_| panic!("{key} is written anew"));
    healed(runs).await;
}

async fn scanned(run: &Run) -> usize {
    let (mut keys, mut cursor) = (0, bytes::Bytes::new());
    loop {
        let request = v1::ScanRequest {
            cursor,
            ..v1::ScanRequest::default()
        };
        let page = KvClient::new(run.channel()).scan(within(request)).await;
        let page = page.expect("a quorum").into_inner();
        keys += page.entries.len();
        cursor = page.cursor;
        if cursor.is_empty() {
            return keys;
        }
    }
}

/// A node that lost its directory is repaired from one with damage, too: that ships nothing damaged, and does not count for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_not_handed_over() {
    let (net, mut homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = filled(&net, &homes).await;
    runs.pop().expect("three").stop().await;
    homes[2] = Home::new();
    let rotten: Vec<usize> = (0..KEYS).step_by(30).collect();
    rotten.iter().for_each(|n| rot(&homes[0], &key(*n)));
    let mut c = start(&net, &homes[2], "c", &ABC, 40);
    c.ready().await;
    runs.push(c);
    healed(&runs).await;
    hold_all(&net, &homes, runs).await;
}
