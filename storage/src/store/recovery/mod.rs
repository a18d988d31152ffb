//! Opening a store: what is on disk becomes a store that holds every acknowledged write (I1), or says of which
//! partitions it cannot vouch (I3). Keeps "mint only what you remember": a start that was not clean, or that found damage, mints
//! as a new actor; and the clean mark is taken back durably before the first mint.
//!
//! ```text
//! lock ─► identity, checkpoint ─► engine, read through ─► log merged into the table up to the last intent
//!   ─► roots compared ─► rest of the log ─► unsynced partitions noted ─► actor ─► clean mark removed
//! ```

mod replay;
mod survey;
mod verdict;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use self::replay::{Memory, ReplayError, Replayed};
use self::survey::Survey;
use self::verdict::Found;
use super::drain::{Drainer, RENEW_OFFSET_BYTES_DEFAULT, RENEW_STEP_ROWS_DEFAULT, Renewer};
use super::evidence::Evidence;
use super::hints::{HINT_BYTES_DEFAULT, Hints};
use super::mint::{Chance, Mint};
use super::quarantine::{Added, Quarantine};
use super::reaping::Reaper;
use super::table::{TABLE_BYTES_DEFAULT, Table};
use super::wake::Bell;
use super::{Inner, Store, partition_of};
use crate::checkpoint::{Checkpoint, CheckpointFile, PartitionSum};
use crate::disk::{Disk, LockError};
use crate::engine::renew::Renewing;
use crate::engine::{EngineError, EngineHome};
use crate::identity::{Identity, IdentityFile, Unsynced};
use crate::log::{Damage, Log, LogConfig, LogWriter, RecoverError, RecoverFrom, Recovered};
use crate::merkle::PARTITIONS_MAX;
use crate::mutants::{Mutant, is_planted};
use crate::twoslot::SlotError;
use crate::version::ActorId;

/// Name of the lock file.
pub const LOCK_FILE: &str = "lock";

/// Default length of a log segment, in bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 32 << 20;

/// Settings of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Name of the node, for a new identity.
    pub node_name: String,
    /// Q for a store that belongs to no cluster yet; one that does keeps its own.
    pub partitions: u32,
    /// Byte budget of the memory table.
    pub table_bytes: usize,
    /// Length of a log segment, in bytes.
    pub segment_bytes: u64,
    /// Byte budget of hints.
    pub hint_bytes: usize,
    /// Bytes that the engine may waste on the disk, beside a multiple of what it holds, before it is renewed.
    pub renew_offset_bytes: u64,
    /// Rows that a step of a renewal copies at most.
    pub renew_step_rows: usize,
}

impl StoreConfig {
    /// The defaults.
    pub fn new(node_name: impl Into<String>, partitions: u32) -> Self {
        Self {
            node_name: node_name.into(),
            partitions,
            table_bytes: TABLE_BYTES_DEFAULT,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            hint_bytes: HINT_BYTES_DEFAULT,
            renew_offset_bytes: RENEW_OFFSET_BYTES_DEFAULT,
            renew_step_rows: RENEW_STEP_ROWS_DEFAULT,
        }
    }
}

/// What a store is made of.
pub struct StoreParts {
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// Where the engine lives; in production the directory `sled` within the data directory.
    pub engine: Arc<dyn EngineHome>,
    /// Random numbers for ids and actors.
    pub chance: Chance,
}

/// An open store with its two step machines, which somebody has to drive.
pub struct Opened {
    /// The handle.
    pub store: Store,
    /// Its log, for the driver.
    pub log: Log,
    /// Writes the log.
    pub writer: LogWriter,
    /// Takes the table to the engine.
    pub drainer: Drainer,
    /// What was found.
    pub report: OpenReport,
}

/// What opening a store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The directory was empty. Whether such a store counts as synced is for the cluster to say.
    pub created: bool,
    /// The last stop was clean and nothing was damaged: the actor is the old one.
    pub clean: bool,
    /// Changes that the log had and the checkpoint did not.
    pub replayed: u64,
    /// Partitions that this start found to differ from what they should be, or (`None`) all.
    pub newly_unsynced: Option<Vec<u32>>,
    /// Records that failed their verification.
    pub damaged_records: usize,
    /// Keys whose hint failed its verification: their owners may lack something.
    pub damaged_hints: Vec<crate::Key>,
    /// Others may be missing, of whatever keys: the engine or the log lost some, or what they hold is not what they held.
    pub lost_hints: bool,
    /// Damage in the log.
    pub damaged_log: Vec<Damage>,
    /// Why the engine was set aside, if it was.
    pub engine_replaced: Option<String>,
    /// Highest durable log sequence heard of other stores before, by store id.
    pub heard: std::collections::BTreeMap<u64, u64>,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Identity or checkpoint: unreadable, or of a newer format.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The log: unreadable, or of a newer format.
    #[error(transparent)]
    Log(#[from] RecoverError),
    /// An empty engine failed too.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log's directory could not be prepared.
    #[error("cannot prepare the commit log: {0}")]
    Io(#[from] std::io::Error),
    /// The number of partitions is not possible, or not the one that the directory was written with.
    #[error(
        "the directory has {found} partitions, {wanted} are asked for (a power of two up to {PARTITIONS_MAX})"
    )]
    Partitions {
        /// Of the directory.
        found: u32,
        /// Of the settings.
        wanted: u32,
    },
}

impl Store {
    /// Opens the store of a data directory, or makes a new one. Blocks, and reads the engine through once.
    ///
    /// # Errors
    /// [`OpenError`]. A directory that is in use, or of a newer format, is left as it is.
    pub fn open(parts: StoreParts, config: &StoreConfig) -> Result<Opened, OpenError> {
        let StoreParts {
            disk,
            engine,
            mut chance,
        } = parts;
        let lock = disk.lock(LOCK_FILE)?;
        let make = || Identity::new(chance(), chance(), config.node_name.as_str());
        let identity = Arc::new(IdentityFile::load_or_create(Arc::clone(&disk), make)?);
        let mut checkpoints = CheckpointFile::open(Arc::clone(&disk))?;
        let partitions = partitions(&identity.current(), checkpoints.current(), config)?;
        let checkpoint = checkpoints.current().cloned().unwrap_or_default();

        let log_config = LogConfig {
            segment_bytes: config.segment_bytes,
            ..LogConfig::new(identity.current().log_salt)
        };
        let from = RecoverFrom {
            position: checkpoint.first_live,
            applied: checkpoint.applied,
        };
        let intent = replay::last_intent(&*disk, &log_config, from)?;
        let mut engine_failed = identity.current().set_aside;
        let (survey, table, hints, recovered, replayed) = loop {
            let mut survey = survey::open(&*engine, partitions, checkpoint.applied, engine_failed)?;
            let table = Table::new(config.table_bytes, partitions);
            let hints = Hints::new(config.hint_bytes);
            for (key, hint) in std::mem::take(&mut survey.hints) {
                hints.restore(key, hint);
            }
            let into = Memory {
                table: &table,
                hints: &hints,
            };
            let (held, trees) = (&*survey.engine, &survey.forest);
            match replay::replay(
                &*disk,
                &log_config,
                from,
                intent.as_ref(),
                held,
                trees,
                &into,
            ) {
                Ok((recovered, replayed)) => break (survey, table, hints, recovered, replayed),
                // It went bad since it was read through. Once set aside it is an empty one that failed.
                Err(ReplayError::Engine(error))
                    if survey.replaced.is_none() && !error.spares_the_engine() =>
                {
                    engine_failed = true;
                }
                Err(error) => return Err(error.into()),
            }
        };

        if is_planted(Mutant::HintLost) {
            hints.lose();
        }
        let damaged = verdict::damaged(&survey, &replayed, &table);
        let mut report = report(&identity, &checkpoint, &survey, &recovered, &replayed);
        report.damaged_records = damaged.len();
        let hints_expected = intent.as_ref().map_or(survey.hints_sum, |i| i.hints);
        report.lost_hints |= replayed.hints != hints_expected;
        let found = Found {
            checkpoint: &checkpoint,
            intent: intent.as_ref(),
            survey: &survey,
            log: &recovered,
            replayed: &replayed,
            damaged: &damaged,
            was_clean: checkpoints.is_clean(),
        };
        let unsynced = found.unsynced();
        let counted = identity.current().unsynced.clone();
        let evidence = Evidence::open(&disk, |partition| counted.contains(partition))?;
        found.note_losses(&evidence, &counted, unsynced.as_deref())?;
        note_unsynced(&identity, &unsynced, partitions)?;
        report.newly_unsynced = unsynced;
        // A quarantined key counts as damage, and so does anything that made a partition unsynced.
        let undamaged = report.newly_unsynced.as_ref().is_some_and(Vec::is_empty)
            && report.damaged_records == 0;
        report.clean = checkpoints.is_clean() && undamaged && replayed.changes == 0;
        let mint = match report.clean {
            true => Mint::new(ActorId(checkpoint.actor), checkpoint.last_counter, chance),
            // One actor for ever, and its counters above whatever is remembered to have been minted.
            false if is_planted(Mutant::KeepActor) => Mint::new(
                ActorId(identity.current().store_id),
                (recovered.last_sequence + 1) << 20,
                chance,
            ),
            false => Mint::new(ActorId(chance()), 0, chance),
        };
        let boot_id = mint.chance();
        begin(
            &mut checkpoints,
            boot_id,
            intent.is_none().then(|| survey.forest.roots()),
        )?;

        let quarantine = Quarantine::default();
        for key in &damaged {
            let partition = partition_of(key.token(), partitions);
            if quarantine.add(key, partition) == Added::Partition {
                evidence.lock().give_up(partition);
            }
        }
        // The trees were made without them.
        quarantine.leave_out(survey.damaged.into_iter(), |_| false);
        let reaper = Reaper::open(&disk, partitions, recovered.last_sequence)?;
        let (offset_bytes, step_rows) = (config.renew_offset_bytes, config.renew_step_rows);
        let renewer = Renewer::new(Arc::clone(&disk), offset_bytes, step_rows);
        let engine = Renewing::new(engine, survey.engine, survey.live);
        let (log, writer) = Log::start(disk, log_config, recovered)?;
        let inner = Arc::new(Inner {
            table,
            log: log.clone(),
            engine,
            engine_bytes: AtomicU64::new(0),
            identity,
            mint,
            quarantine,
            hints,
            evidence,
            reaper,
            forest: Mutex::new(survey.forest),
            partitions,
            closing: AtomicBool::new(false),
            out_of_space: AtomicBool::new(false),
            wake: Bell::default(),
            heal: Mutex::new(BTreeSet::new()),
            orphans: Mutex::default(),
            drains: AtomicU64::new(0),
            damaged: AtomicU64::new(report.damaged_records as u64),
            engine_replaced: report.engine_replaced.is_some(),
            flush_began_ms: AtomicU64::new(0),
            engine_failure: OnceLock::new(),
            heard: Mutex::new(report.heard.clone()),
            _lock: lock,
        });
        let applied = checkpoint.applied;
        let drainer = Drainer::new(Arc::clone(&inner), checkpoints, boot_id, applied, renewer);
        Ok(Opened {
            store: Store { inner },
            log,
            writer,
            drainer,
            report,
        })
    }
}

impl From<ReplayError> for OpenError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Log(error) => OpenError::Log(error),
            ReplayError::Engine(error) => OpenError::Engine(error),
        }
    }
}

/// Q: the cluster's if there is one, else that of the settings, which must fit what the directory holds.
fn partitions(
    identity: &Identity,
    checkpoint: Option<&Checkpoint>,
    config: &StoreConfig,
) -> Result<u32, OpenError> {
    let wanted = if identity.partitions == 0 {
        config.partitions
    } else {
        identity.partitions
    };
    let found = checkpoint.map_or(wanted, |checkpoint| checkpoint.partitions.len() as u32);
    let holds =
        checkpoint.is_some_and(|checkpoint| checkpoint.partitions.iter().any(|sum| sum.count > 0));
    let possible = wanted.is_power_of_two() && wanted <= PARTITIONS_MAX;
    if !possible || (holds && found != wanted) {
        return Err(OpenError::Partitions { found, wanted });
    }
    Ok(wanted)
}

fn report(
    identity: &IdentityFile,
    checkpoint: &Checkpoint,
    survey: &Survey,
    log: &Recovered,
    replayed: &Replayed,
) -> OpenReport {
    OpenReport {
        created: identity.created(),
        clean: false,
        replayed: replayed.changes,
        newly_unsynced: Some(Vec::new()),
        damaged_records: 0,
        damaged_hints: survey.damaged_hints.clone(),
        lost_hints: survey.replaced.is_some() && checkpoint.applied > 0
            || log.damage.iter().any(|damage| damage.missing.is_some()),
        damaged_log: log.damage.clone(),
        engine_replaced: survey.replaced.clone(),
        heard: checkpoint.heard.clone(),
    }
}

/// Makes the verdict durable, before anything is served; it also answers a failure noted by the last run.
fn note_unsynced(
    identity: &IdentityFile,
    unsynced: &Option<Vec<u32>>,
    partitions: u32,
) -> Result<(), SlotError> {
    identity.update(|identity| {
        identity.set_aside = false;
        match unsynced {
            None => identity.unsynced = Unsynced::All,
            Some(unsynced) => {
                for &partition in unsynced {
                    identity.unsynced.set(partition, partitions, true);
                }
            }
        }
    })
}

/// Takes the clean mark back, durably. With `roots`, what the engine holds now and no intent will judge, the checkpoint
/// expects just that from now on: what is missing was noted as unsynced.
fn begin(
    checkpoints: &mut CheckpointFile,
    boot_id: u64,
    roots: Option<Vec<(u64, u32)>>,
) -> Result<(), SlotError> {
    let former = checkpoints.current().cloned();
    let partitions = match roots {
        Some(roots) => roots
            .into_iter()
            .map(|(root, count)| PartitionSum { root, count })
            .collect(),
        None => former
            .as_ref()
            .map(|former| former.partitions.clone())
            .unwrap_or_default(),
    };
    match former {
        Some(former) if former.partitions == partitions => checkpoints.unmark_clean(),
        former => checkpoints.write(Checkpoint {
            boot_id,
            clean: false,
            partitions,
            ..former.unwrap_or_default()
        }),
    }
}
