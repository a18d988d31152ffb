//! What a store answers to each step, and what it changes.

use super::{PARTITION, advance, at, delete, deleted, finish, is_done, mine, old, rig, step};
use crate::disk::sim::Fault;
use crate::store::tests::rig::Rig;
use crate::store::{Advance, Advanced, ConfirmRefused, EraseError, Tomb};
use crate::version::ActorId;

#[test]
fn only_what_is_exactly_it_and_durable_is_confirmed() {
    let mut rig = rig(5);
    let mut tombs = deleted(&mut rig, 0..3);
    rig.put(&mine(0), b"again", None);
    tombs.push(Tomb {
        key: mine(40),
        ..tombs[0].clone()
    });
    let exact = |rig: &Rig, tombs: &[Tomb]| {
        let confirmed = rig.store().confirm_reaping(PARTITION, 0, tombs);
        confirmed.expect("synced")
    };
    let confirmed = exact(&rig, &tombs);
    let expected: Vec<bool> = tombs.iter().map(|tomb| tomb.key != mine(0)).collect();
    assert_eq!(confirmed.exact[..3], expected[..3]);
    assert!(!confirmed.exact[3], "nothing is not it");
    assert!(confirmed.sequence <= rig.store().stats().durable_sequence);
    // One that is not durable yet is told of once it is.
    let fresh = delete(&mut rig, &mine(0));
    let confirmed = exact(&rig, std::slice::from_ref(&fresh));
    assert_eq!(confirmed.exact, [true]);
    assert_eq!(confirmed.sequence, rig.store().stats().last_sequence);
    rig.drain();
    rig.store().inner.table.evict_all();
    let confirmed = exact(&rig, &[fresh]);
    assert_eq!((confirmed.exact, confirmed.sequence), (vec![true], 0));
}

#[test]
fn what_may_lack_something_or_is_elsewhere_confirms_nothing() {
    let mut rig = rig(6);
    let tombs = deleted(&mut rig, 0..2);
    let ask = |rig: &Rig, generation| rig.store().confirm_reaping(PARTITION, generation, &tombs);
    rig.store().set_synced(PARTITION, false).expect("durable");
    assert_eq!(ask(&rig, 0), Err(ConfirmRefused::NotSynced));
    rig.store().set_synced(PARTITION, true).expect("durable");
    let elsewhere = ConfirmRefused::Generation {
        generation: 0,
        floor: 0,
    };
    assert_eq!(ask(&rig, 1), Err(elsewhere));
    assert!(is_done(advance(&rig, 1, &tombs[..1])));
    for generation in [0, 1] {
        match ask(&rig, generation) {
            Err(ConfirmRefused::Reaping(list)) => assert_eq!(list.tombs, tombs[..1]),
            other => panic!("{other:?}"),
        }
    }
    finish(&mut rig, 1);
    let confirmed = ask(&rig, 1).expect("synced");
    assert_eq!(confirmed.exact, [false, true]);
    // A damaged record is not the tombstone, whatever it was.
    rig.drain();
    rig.store().inner.table.evict_all();
    rig.home
        .poke(&crate::rows::head_key(&tombs[1].key), Some(b"rot"));
    assert_eq!(ask(&rig, 1), Err(ConfirmRefused::NotSynced));
    rig.store().set_synced(PARTITION, true).expect("durable");
    rig.drain();
    rig.store().inner.quarantine(&tombs[1].key);
    rig.store()
        .identity()
        .update(|identity| identity.unsynced = crate::identity::Unsynced::None)
        .expect("durable");
    assert_eq!(ask(&rig, 1).expect("synced").exact, [false, false]);
}

#[test]
fn an_owner_that_has_missed_something_says_so_and_changes_nothing() {
    let mut rig = rig(7);
    let tombs = deleted(&mut rig, 0..2);
    // A whole round, of which it holds no list.
    assert_eq!(advance(&rig, 2, &tombs), Advanced::Missed);
    // Nothing, and something older, in the place of a tombstone.
    let nothing = Tomb {
        key: mine(20),
        ..tombs[0].clone()
    };
    assert_eq!(advance(&rig, 1, &[nothing]), Advanced::Missed);
    let mut newer = delete(&mut rig, &mine(0));
    newer.clock.insert(crate::version::Dot {
        actor: ActorId(5),
        counter: 5,
    });
    let both = [tombs[1].clone(), newer];
    assert_eq!(advance(&rig, 1, &both), Advanced::Missed);
    assert_eq!(at(&rig), (0, 0, false));
    rig.store()
        .merge(&mine(0), old(1), 0)
        .expect("nothing changed");
    // One of two steps.
    let other = Advance {
        partition: 4,
        to: 1,
        tombs: Vec::new(),
    };
    let steps = [step(1, &both), other];
    let advanced = rig.store().advance_reaping(&steps).expect("durable");
    assert_eq!(advanced, [Advanced::Missed, Advanced::Done { sequence: 0 }]);
    assert_eq!(rig.store().generations(), [(4, 1, 0)]);
}

#[test]
fn steps_are_taken_once_and_told_again() {
    let mut rig = rig(8);
    let tombs = deleted(&mut rig, 0..2);
    let grown = delete(&mut rig, &mine(0));
    let last = rig.store().stats().last_sequence;
    let done = Advanced::Done { sequence: last };
    assert_eq!(advance(&rig, 1, &tombs), done, "not durable yet");
    let actions = rig.disk.actions();
    assert_eq!(advance(&rig, 1, &tombs), done, "so it is not for the next");
    assert_eq!(rig.disk.actions(), actions);
    assert!(is_done(advance(&rig, 1, &[grown])));
    let list = rig.store().reaping(PARTITION).expect("listed");
    assert_eq!(list.tombs, tombs, "the first one stays");
    rig.sync_log();
    assert_eq!(
        rig.store().finish_reaping(PARTITION, 2),
        Ok(Default::default())
    );
    let ended = rig.store().end_reaping(&[(PARTITION, 1), (4, 1)]);
    ended.expect("durable");
    assert_eq!(at(&rig), (1, 0, true), "nothing was erased yet");
    let finished = rig.store().finish_reaping(PARTITION, 1).expect("room");
    assert_eq!(finished.erased, 1);
    assert_eq!(finished.sequence, rig.store().stats().last_sequence);
    let ended = rig.store().end_reaping(&[(PARTITION, 1)]);
    ended.expect("durable");
    assert_eq!(at(&rig), (1, 1, true), "it is not durable yet");
    let again = rig.store().finish_reaping(PARTITION, 1).expect("room");
    assert_eq!(again.erased, 0);
    assert_eq!(finish(&mut rig, 1), 0);
    assert_eq!(at(&rig), (1, 1, false));
    assert_eq!(finish(&mut rig, 1), 0);
}

#[test]
fn a_round_that_is_known_to_be_finished_stays_so() {
    let finished = || {
        let mut rig = rig(15);
        let tombs = deleted(&mut rig, 0..2);
        assert!(is_done(advance(&rig, 1, &tombs)));
        rig.store().finish_reaping(PARTITION, 1).expect("room");
        assert_eq!(at(&rig), (1, 1, true));
        rig
    };
    // Erased, and another step, before the end.
    for erases in [false, true] {
        let mut rig = finished();
        match erases {
            true => drop(rig.store().erase_page(PARTITION, None, 9).expect("room")),
            false => assert!(is_done(advance(&rig, 2, &[]))),
        }
        let generation = if erases { 1 } else { 2 };
        assert_eq!(at(&rig), (generation, 1, false));
        rig.crash(1, 0);
        rig.restart();
        assert_eq!(at(&rig), (generation, 1, false));
    }
    // A crash before anything was told of it.
    let mut rig = finished();
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(at(&rig), (1, 0, true));
}

#[test]
fn a_failed_sync_ends_the_process() {
    let mut rig = rig(13);
    let tombs = deleted(&mut rig, 0..1);
    assert!(is_done(advance(&rig, 1, &[])));
    rig.disk.inject(0, Fault::WriteFails);
    let steps = [step(2, &tombs)];
    rig.store().advance_reaping(&steps).expect_err("it fails");
    let failure = rig.store().identity().failure();
    assert_eq!(*failure.borrow(), None, "what is on disk is as it was");
    // Told again it is written.
    assert!(is_done(advance(&rig, 2, &tombs)));
    rig.disk.inject(0, Fault::SyncFails);
    let dropped = rig.store().erase_page(PARTITION, None, 1);
    assert!(matches!(dropped, Err(EraseError::Slot(_))));
    assert!(failure.borrow().is_some());
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(at(&rig).0, 2);
}
