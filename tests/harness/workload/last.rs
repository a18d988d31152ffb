//! What is there in the end.

use std::{sync::atomic::Ordering, time::Duration};

use ringfort_client::Client;
use tokio::time::{Instant, sleep};

use super::{Plan, connect, key_name, wait_for};
use crate::history::Read;

/// How long one key is tried to be read.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often.
const PAUSE: Duration = Duration::from_millis(250);

/// Keys that nobody has written before, to be written once all is well.
const NEW_KEYS: usize = 4;
/// How long a write may take then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes a little: all is well, so nothing may fail. Then reads every key from all its owners: this is what is there in the end. Nothing
/// is left for these reads to repair.
pub async fn final_pass(plan: Plan, seed: u64) {
    let client = connect(&plan, seed);
    wait_for(&plan.healed).await;
    final_writes(&plan, &client).await;
    for key in 0..plan.keys {
        match final_read(&plan, &client, key).await {
            Some(read) => drop(plan.history.records().finals.insert(key, read)),
            None => {
                let wrong = format!("key {key} cannot be read after healing");
                plan.history.records().wrong.push(wrong);
            }
        }
    }
    plan.done.store(true, Ordering::Relaxed);
}

/// Nothing reads these keys, so that nothing repairs them: all owners are to have heard of them by themselves.
async fn final_writes(plan: &Plan, client: &Client) {
    for number in 0..NEW_KEYS {
        let key = format!("new-{number}");
        if let Err(error) = client.put(key.clone(), "new").timeout(WRITE_TIMEOUT).await {
            let wrong = format!("{key} cannot be written after healing: {error}");
            plan.history.records().wrong.push(wrong);
        }
    }
}

/// One read of all copies, tried for long.
async fn final_read(plan: &Plan, client: &Client, key: usize) -> Option<Read> {
    let began = Instant::now();
    let r = plan.copies;
    while began.elapsed() < PATIENCE {
        let asked = plan.history.begin_read(usize::MAX, r, true);
        match client.get(key_name(key)).r(r).strict(true).await {
            Ok(read) => return Some(plan.history.end_read(asked, key, read.siblings())),
            Err(error) => {
                let trace = &plan.history.trace;
                trace.line(format_args!("final read of key {key}: {error}"));
            }
        }
        sleep(PAUSE).await;
    }
    None
}
