//! The checker bites: bugs that are planted are found, by seeds that pass without them.

use std::path::Path;

use ringfort::core::get::Get;
use ringfort_storage::{
    Key, Record,
    version::{ActorId, Dot, NewPayload, Object, RequestId, Value, Write},
};
use ringfort_tests::{
    faults::{Kind, first_seed_of},
    hunt::{Search, search},
};

/// The places that a read names for repair whose only owner is this node and whose fallback has another object.
fn repaired() -> Vec<usize> {
    let key = Key::new(1, b"n", b"k").expect("a short key");
    let object = |actor| {
        let write = Write {
            context: None,
            payload: NewPayload::Value(Value::new(bytes::Bytes::from_static(b"v"))),
            request: RequestId {
                client: actor,
                sequence: 1,
            },
            lowest_unanswered: 0,
            at_ms: 1,
            expires_at_ms: 0,
        };
        let dot = Dot {
            actor: ActorId(actor),
            counter: 1,
        };
        Object::empty().write(&write, dot, 1)
    };
    let mut get = Get::new(key.clone(), 1, 1, 0, 2);
    let own = Record::new(&key, object(1).merge(object(2)));
    get.own(std::sync::Arc::new(own), true, false);
    get.digest(1, Record::new(&key, object(2)).leaf());
    get.object(1, object(2));
    get.repair()
        .map_or_else(Vec::new, |repair| repair.owners.iter().collect())
}

/// Planted in this process alone: the other tests here plant theirs in processes of their own.
#[test]
fn a_fallback_that_is_repaired_is_found() {
    assert_eq!(repaired(), [0; 0]);
    assert!(ringfort_storage::mutants::plant("RepairFallback"));
    assert_eq!(repaired(), [1]);
}

const SIM: &str = env!("CARGO_BIN_EXE_sim");

/// Finds `mutant` within so many seeds from `first` on.
fn finds(mutant: &str, first: u64, seeds: u64) {
    finds_with(&["--storm-ms", "3000"], mutant, first, seeds);
}

fn finds_with(args: &[&str], mutant: &str, first: u64, seeds: u64) {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let wanted = Search {
        mutant: mutant.to_owned(),
        seeds: first..first + seeds,
    };
    let found = search(Path::new(SIM), &args, &wanted);
    assert_eq!(found.broken, None, "no report with {mutant}");
    assert_eq!(found.unsound, [0; 0], "they fail without {mutant}, too");
    assert!(found.seed.is_some(), "{mutant} is not found");
}

#[test]
fn a_merge_that_drops_siblings_is_found() {
    finds("DropSibling", 0, 3);
}

#[test]
fn a_log_that_is_not_synced_is_found() {
    finds("SkipSync", first_seed_of(&[Kind::Crash]), 3);
}

#[test]
fn a_message_of_a_stale_epoch_that_is_taken_is_found() {
    // Of the stranger's messages as many are foreign as are stale.
    let both = [Kind::Stranger, Kind::Stranger];
    finds("AcceptStaleEpoch", first_seed_of(&both), 2);
}

/// The same with what is usual for the bug, from seed 0 on: of about three times as many seeds as it took when this was written.
fn finds_as_usual(mutant: &str, seeds: u64) {
    finds_with(&[], mutant, 0, seeds);
}

#[test]
fn two_decrees_of_one_epoch_are_found() {
    finds_as_usual("TwoDecided", 9);
}

#[test]
fn a_partition_that_is_received_too_early_is_found() {
    finds_as_usual("CopyBeforeAck", 24);
}

#[test]
fn copies_that_count_on_an_empty_disk_are_found() {
    finds_as_usual("CountUnsynced", 6);
}

#[test]
fn trees_that_claim_what_was_erased_are_found() {
    finds_as_usual("TreeMissesErase", 6);
}

#[test]
fn hints_that_a_start_forgets_are_found() {
    finds_as_usual("HintLost", 27);
}

#[test]
fn a_clock_that_goes_with_an_expired_value_is_found() {
    finds_as_usual("DropExpiredClock", 36);
}

#[test]
fn damaged_records_that_are_sent_on_are_found() {
    finds_as_usual("ShipCorrupt", 12);
}

#[test]
fn what_was_read_before_a_round_of_reaping_and_is_taken_is_found() {
    finds_as_usual("AcceptOlderGeneration", 9);
}

#[test]
fn deletes_that_are_confirmed_before_they_are_durable_are_found() {
    finds_as_usual("ConfirmBeforeSync", 6);
}

#[test]
fn owners_that_are_chosen_by_who_is_up_are_found() {
    finds_with(&["--changes", "2"], "PlaceByLiveness", 1, 8);
}
