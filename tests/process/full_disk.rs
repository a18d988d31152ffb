//! All disks are full at once when the nodes start: nothing is set aside for that, and nothing is lost.

use std::{fs, time::Duration};

use ringfort_client::Client;

use crate::cluster::Cluster;

const DISK_BYTES: u64 = 256 << 20;
const KEYS: u32 = 500;
/// Starts on the full disk: as a supervisor would, and more of them than there are places for engines that were set aside.
const STARTS: u32 = 3;
/// Time between two looks whether a start has ended, and how many: far more than it takes.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_on_full_disks_lose_nothing() {
    let floors = ["--free-space-floor", "8MiB", "--free-space-reserve", "4MiB"];
    let mut cluster = Cluster::prepare(3, &floors);
    if let Err(why) = cluster.mount_disks(DISK_BYTES) {
        println!("skipped: full disks, since none can be mounted here ({why})");
        return;
    }
    cluster.start_all();
    let client = client_of(&cluster);
    for number in 0..KEYS {
        let put = client.put(format!("key-{number}"), vec![b'v'; 200]).w(3);
        put.await.expect("all owners are up");
    }
    // A drain comes every 2 s at the latest: what is asked for below is to be in the engine, and in no log.
    tokio::time::sleep(Duration::from_secs(6)).await;
    cluster.kill_all();
    cluster.disks.iter().for_each(|disk| disk.fill(0));
    let mut refused = 0;
    for _ in 0..STARTS {
        for i in 0..cluster.nodes.len() {
            cluster.spawn(i);
            let mut looks = 0;
            while cluster.is_running(i) && !cluster.is_ready(i) && looks < LOOKS_MAX {
                looks += 1;
                tokio::time::sleep(LOOK).await;
            }
            refused += u32::from(!cluster.is_running(i));
            cluster.kill(i);
        }
    }
    // One alone does not become ready, either: it ends, or waits for the others.
    assert!(refused > 0, "no start has met a full disk");
    cluster.disks.iter().for_each(|disk| disk.free());
    for node in &cluster.nodes {
        let names = fs::read_dir(&node.data_dir).expect("its directory");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        let aside: Vec<_> = names
            .filter(|name| name.to_string_lossy().contains("aside"))
            .collect();
        assert!(aside.is_empty(), "{}: {aside:?}", node.name);
    }
    cluster.start_all();
    let client = client_of(&cluster);
    for number in 0..KEYS {
        let read = client.get(format!("key-{number}")).r(3).await;
        assert!(read.expect("all owners are up").is_found(), "{number}");
    }
}

fn client_of(cluster: &Cluster) -> Client {
    let client = Client::builder().endpoints(cluster.endpoints()).build();
    client.expect("a client")
}
