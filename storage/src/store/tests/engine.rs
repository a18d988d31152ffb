//! What comes of an engine that fails, and of one that the machine does not let work.

use std::sync::Arc;

use super::rig::{Dice, Rig, key, small_config};
use crate::store::{Store, StoreParts};

fn rig() -> Rig {
    Rig::new(1, small_config())
}

#[test]
fn an_engine_that_fails_is_set_aside_at_the_next_start() {
    let mut rig = rig();
    rig.put(&key(1), b"drained", None);
    rig.drain();
    rig.put(&key(2), b"logged", None);
    rig.sync_log();
    rig.home.fail();
    assert!(rig.store().load(&[key(3)]).is_err());
    assert!(rig.store().engine_failure().is_some());
    let actor = rig.store().actor();
    rig.crash(3, 0);
    rig.restart();
    assert!(rig.report().engine_replaced.is_some());
    assert_eq!(rig.report().newly_unsynced, None);
    assert_eq!(rig.store().unsynced().len(), 16);
    assert_ne!(rig.store().actor(), actor);
    assert_eq!(rig.home.set_aside_count(), 1);
    assert_eq!(rig.values(&key(2)), ["logged"], "the log is kept");
    rig.drain();
    rig.crash(4, 0);
    rig.restart();
    assert_eq!(rig.report().engine_replaced, None, "the new one is well");
    assert_eq!(
        rig.store().unsynced().len(),
        16,
        "until somebody repaired them"
    );
}

/// A full disk, a directory of another user: nothing is wrong with what the engine holds, and all nodes may meet it at once.
#[test]
fn an_engine_that_the_machine_does_not_let_work_is_kept() {
    let mut rig = rig();
    rig.put(&key(1), b"drained", None);
    rig.drain();
    rig.put(&key(2), b"logged", None);
    rig.sync_log();
    rig.store().inner.table.evict_all();
    rig.home.starve();
    assert!(rig.store().load(&[key(1)]).is_err());
    let failure = rig
        .store()
        .engine_failure()
        .expect("the process has to end");
    assert!(failure.spares_the_engine(), "{failure}");
    rig.crash(3, 0);
    for boot in 0..5 {
        rig.home.starve();
        let parts = StoreParts {
            disk: Arc::new(rig.disk.clone()),
            engine: Arc::new(rig.home.clone()),
            chance: Dice::new(boot).chance(),
        };
        let refused = Store::open(parts, &rig.config).err();
        let refused = refused.expect("the disk is full").to_string();
        assert!(refused.contains("the disk is full"), "{refused}");
    }
    rig.home.mend();
    rig.restart();
    assert_eq!(rig.report().engine_replaced, None);
    assert_eq!(rig.home.set_aside_count(), 0);
    assert!(rig.store().unsynced().is_empty());
    rig.store().load(&[key(1)]).expect("it works again");
    assert_eq!(rig.values(&key(1)), ["drained"]);
    assert_eq!(rig.values(&key(2)), ["logged"]);
}
