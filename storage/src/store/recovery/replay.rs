//! Reading the log back into the table. Keeps I1: whatever the log published as durable is in the table, or in the engine,
//! afterwards. Merging is idempotent, so it does no harm that the engine holds part of it already.

use std::sync::Arc;

use crate::codec::{self, CodecError, HintRow, LogEntry};
use crate::disk::Disk;
use crate::engine::{Engine, EngineError};
use crate::key::Key;
use crate::log::{self, LogConfig, RecoverError, RecoverFrom, Recovered};
use crate::merkle::Forest;
use crate::record::{NO_LEAF, Record};
use crate::store::entry::Slot;
use crate::store::hints::Hints;
use crate::store::merging::{self, fold};
use crate::store::rowio::{self, Stored};
use crate::store::table::{SHARDS, Table};
use crate::version::{Floor, Object};

/// What a drain was about to do when the process ended.
pub(super) struct Intent {
    /// S.
    pub(super) sequence: u64,
    /// Sum and count of all hints.
    pub(super) hints: (u64, u32),
    pub(super) roots: Vec<(u64, u32)>,
}

/// Finds the newest intent past the checkpoint.
pub(super) fn last_intent(
    disk: &dyn Disk,
    config: &LogConfig,
    from: RecoverFrom,
) -> Result<Option<Intent>, RecoverError> {
    let mut last = None;
    // An intent's first byte, so that the others need not be decoded.
    let mut intent = Vec::new();
    codec::encode_intent(0, (0, 0), &[], &mut intent);
    let kind = intent[0];
    log::recover(disk, config, from, &mut |_, bytes| {
        if bytes.first() == Some(&kind)
            && let LogEntry::Intent {
                sequence,
                hints,
                partitions,
            } = LogEntry::decode(bytes, false)?
            && sequence > from.applied
        {
            last = Some(Intent {
                sequence,
                hints,
                roots: partitions,
            });
        }
        Ok(())
    })?;
    Ok(last)
}

/// What a replay came to.
pub(super) struct Replayed {
    /// Changes merged into the table.
    pub(super) changes: u64,
    /// The trees at the intent's S, engine and table together.
    pub(super) at_intent: Option<Forest>,
    /// Sum and count of all hints there; without an intent, before the log.
    pub(super) hints: (u64, u32),
    /// Keys found damaged while folding.
    pub(super) damaged: Vec<Key>,
}

/// What the log is merged into.
pub(super) struct Memory<'a> {
    pub(super) table: &'a Table,
    pub(super) hints: &'a Hints,
}

/// Merges the log into the table: up to the intent's S, then works out what engine and table together hold, then the
/// rest. What it says of hints goes to these.
pub(super) fn replay(
    disk: &dyn Disk,
    config: &LogConfig,
    from: RecoverFrom,
    intent: Option<&Intent>,
    engine: &dyn Engine,
    forest: &Forest,
    into: &Memory<'_>,
) -> Result<(Recovered, Replayed), ReplayError> {
    let mut replayed = Replayed {
        changes: 0,
        at_intent: None,
        hints: into.hints.sum(),
        damaged: Vec::new(),
    };
    let mut engine_failed = None;
    let fold_past = |replayed: &mut Replayed, sequence: u64| -> Result<(), EngineError> {
        if replayed.at_intent.is_none() && intent.is_some_and(|intent| sequence > intent.sequence) {
            replayed.hints = into.hints.sum();
            replayed.at_intent = Some(fold_all(into.table, engine, forest, &mut replayed.damaged)?);
        }
        Ok(())
    };
    let log = log::recover(disk, config, from, &mut |sequence, bytes| {
        fold_past(&mut replayed, sequence)
            .inspect_err(|error| engine_failed = Some(error.clone()))?;
        replayed.changes += u64::from(apply(into, sequence, bytes)?);
        Ok(())
    });
    if let Some(error) = engine_failed {
        return Err(error.into());
    }
    fold_past(&mut replayed, u64::MAX)?;
    Ok((log?, replayed))
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error(transparent)]
    Log(#[from] RecoverError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Merges one log record into table or hints. False: it was no change.
fn apply(into: &Memory<'_>, sequence: u64, bytes: &[u8]) -> Result<bool, CodecError> {
    let table = into.table;
    let (key, slot) = match LogEntry::decode(bytes, false)? {
        LogEntry::Intent { .. } | LogEntry::Start => return Ok(false),
        LogEntry::Hint {
            key,
            record,
            generation,
            taken_ms,
        } => {
            let row = HintRow {
                record,
                generation,
                taken_ms,
            };
            into.hints.replay(key, row, sequence);
            return Ok(true);
        }
        LogEntry::HintGone { key } => {
            into.hints.replay_gone(&key);
            return Ok(true);
        }
        LogEntry::Whole { key, record } => (key, Slot::Whole(Arc::new(record))),
        LogEntry::Erase { key } => {
            let nothing = Record::new(&key, Object::empty());
            (key, Slot::Whole(Arc::new(nothing)))
        }
        LogEntry::Object { key, record } => {
            let shard = table.lock_key(&key);
            let slot = match shard.get(&key) {
                None => Slot::Operand(Arc::new(record)),
                Some(entry) => {
                    let held = entry.slot.record().object().clone();
                    entry.slot.with(Arc::new(Record::new(
                        &key,
                        merging::merge(held, record.into_object(), Floor::default()),
                    )))
                }
            };
            drop(shard);
            (key, slot)
        }
    };
    let mut shard = table.lock_key(&key);
    table.write(&mut shard, &key, slot, sequence);
    Ok(true)
}

/// Folds every entry with what the engine holds, and returns the trees of both together.
fn fold_all(
    table: &Table,
    engine: &dyn Engine,
    forest: &Forest,
    damaged: &mut Vec<Key>,
) -> Result<Forest, EngineError> {
    let mut together = forest.clone();
    for shard in 0..SHARDS {
        let mut shard = table.lock(shard);
        let keys: Vec<Key> = shard.iter().map(|(key, _)| key.clone()).collect();
        for key in keys {
            let slot = shard
                .get(&key)
                .expect("nobody else is at this table")
                .slot
                .clone();
            let under = match rowio::read(engine, &key)? {
                Stored::Nothing => None,
                Stored::Record(record) => Some(Arc::new(record)),
                // Not needed any more.
                Stored::Damaged if slot.whole().is_some() => None,
                Stored::Damaged => {
                    damaged.push(key);
                    continue;
                }
            };
            let base_leaf = under.as_ref().map_or(NO_LEAF, |record| record.leaf());
            let whole = match slot {
                Slot::Whole(record) => record,
                Slot::Operand(operand) => fold(&key, under.as_ref(), &operand),
            };
            together.apply(key.token(), base_leaf, whole.leaf());
            table.change(&mut shard, &key, |entry| {
                entry.base_leaf = Some(base_leaf);
                entry.slot = Slot::Whole(whole);
            });
        }
    }
    Ok(together)
}
