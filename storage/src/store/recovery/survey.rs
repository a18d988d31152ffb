//! Opening the engine and reading it through once: verifies every record, rebuilds the trees, removes the chunk rows that
//! a crash left behind. Keeps "sled is not trusted blindly".

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::rows::{self, RowKind, Shelf, Split};
use crate::codec::{self, HintRow};
use crate::engine::renew::Live;
use crate::engine::{Engine, EngineError, EngineHome};
use crate::key::Key;
use crate::merkle::Forest;
use crate::record::NO_LEAF;
use crate::store::rowio::{self, Applied};

/// Chunk rows without a head that one start removes at most. A crash leaves those of one record.
const ORPHANS_MAX: usize = 65_536;

/// An engine that was read through.
pub(super) struct Survey {
    pub(super) engine: Arc<dyn Engine>,
    /// What its rows come to.
    pub(super) live: Live,
    /// The trees of what verified.
    pub(super) forest: Forest,
    /// Keys whose record did not verify.
    pub(super) damaged: Vec<Key>,
    /// The hints that verified.
    pub(super) hints: Vec<(Key, HintRow)>,
    /// Keys whose hint did not.
    pub(super) damaged_hints: Vec<Key>,
    /// What sum and count of all hints should be.
    pub(super) hints_sum: (u64, u32),
    /// Why the engine that was there could not be used; none: it could, or there was none.
    pub(super) replaced: Option<String>,
}

/// Opens the engine, which must hold everything up to the checkpoint's `applied`. One that does not, or that fails, is set aside for an
/// empty one.
pub(super) fn open(
    home: &dyn EngineHome,
    partitions: u32,
    applied: u64,
    noted_failure: bool,
) -> Result<Survey, EngineError> {
    let why = if noted_failure {
        "it failed in the last run".to_owned()
    } else {
        let opened = home.open().map_err(Unfit::Engine);
        match opened.and_then(|engine| survey(engine, partitions, applied)) {
            Ok(survey) => return Ok(survey),
            Err(Unfit::Engine(error)) if error.spares_the_engine() => return Err(error),
            Err(why) => why.to_string(),
        }
    };
    tracing::error!(
        why,
        "the storage engine is set aside for an empty one; what the log does not hold is fetched from peers"
    );
    home.set_aside()?;
    let engine = home.open()?;
    let empty = Applied {
        sequence: applied,
        ..Applied::default()
    };
    rowio::set_applied(&*engine, empty)?;
    engine.flush()?;
    let mut live = Live::default();
    for row in engine.range(&[], None) {
        let (row, value) = row?;
        live.add(&row, &value);
    }
    Ok(Survey {
        engine,
        live,
        forest: Forest::new(partitions),
        damaged: Vec::new(),
        hints: Vec::new(),
        damaged_hints: Vec::new(),
        hints_sum: empty.hints,
        replaced: Some(why),
    })
}

/// Why an engine cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("it holds the log up to {held}, and the checkpoint says {applied}")]
    Behind { held: u64, applied: u64 },
}

fn survey(engine: Arc<dyn Engine>, partitions: u32, applied: u64) -> Result<Survey, Unfit> {
    let held = rowio::applied(&*engine)?.unwrap_or_default();
    if held.sequence < applied {
        let held = held.sequence;
        return Err(Unfit::Behind { held, applied });
    }
    let read = read_through(engine, partitions)?;
    Ok(Survey {
        engine: read.engine,
        live: read.live,
        forest: read.forest,
        damaged: read.damaged,
        hints: read.hints,
        damaged_hints: read.damaged_hints,
        hints_sum: held.hints,
        replaced: None,
    })
}

/// What is gathered on the way through the rows.
struct Reading {
    engine: Arc<dyn Engine>,
    live: Live,
    forest: Forest,
    damaged: Vec<Key>,
    hints: Vec<(Key, HintRow)>,
    damaged_hints: Vec<Key>,
    /// Rows that nothing names.
    orphans: Vec<Bytes>,
    /// The key whose rows are passing by, and where its chunks are.
    current: Option<(Shelf, Key, Option<Split>)>,
}

fn read_through(engine: Arc<dyn Engine>, partitions: u32) -> Result<Reading, EngineError> {
    let mut reading = Reading {
        engine: Arc::clone(&engine),
        live: Live::default(),
        forest: Forest::new(partitions),
        damaged: Vec::new(),
        hints: Vec::new(),
        damaged_hints: Vec::new(),
        orphans: Vec::new(),
        current: None,
    };
    for row in engine.range(&[], None) {
        let (row, value) = row?;
        reading.live.add(&row, &value);
        match rows::parse_any(&row) {
            Some((Shelf::Records, key, RowKind::Head)) => reading.record(key, value)?,
            Some((Shelf::Hints, key, RowKind::Head)) => reading.hint(key, row, value)?,
            Some((shelf, key, RowKind::Chunk { name, chunk })) => {
                reading.chunk((shelf, key), row, name, chunk)?;
            }
            // The `applied` row; or a row that damage made, which no read ever asks for.
            None => {}
        }
    }
    // Straight into the engine, unlogged: no read can tell whether they are there.
    for row in std::mem::take(&mut reading.orphans) {
        let before = engine.remove(&row)?;
        reading.live.change(&row, before.as_deref(), None);
    }
    Ok(reading)
}

impl Reading {
    fn record(&mut self, key: Key, head: Bytes) -> Result<(), EngineError> {
        match rowio::decode(&*self.engine, &key, head.clone())? {
            Some(record) => self.forest.apply(key.token(), NO_LEAF, record.leaf()),
            None => self.damaged.push(key.clone()),
        }
        self.current = Some((Shelf::Records, key, rowio::split_of(head)));
        Ok(())
    }

    /// A damaged hint is of no use to anybody: its rows go.
    fn hint(&mut self, key: Key, row: Bytes, head: Bytes) -> Result<(), EngineError> {
        let encoded = rowio::join(&*self.engine, Shelf::Hints, &key, head.clone())?;
        let hint = encoded.and_then(|encoded| codec::decode_hint_row(&key, &encoded).ok());
        let mut split = rowio::split_of(head);
        match hint {
            Some(hint) => self.hints.push((key.clone(), hint)),
            None => {
                self.damaged_hints.push(key.clone());
                self.orphan(row);
                split = None;
            }
        }
        self.current = Some((Shelf::Hints, key, split));
        Ok(())
    }

    fn chunk(
        &mut self,
        (shelf, key): (Shelf, Key),
        row: Bytes,
        name: u64,
        chunk: u32,
    ) -> Result<(), EngineError> {
        let split = match &self.current {
            Some((of, head, split)) if *of == shelf && *head == key => *split,
            _ => {
                let head = self.engine.get(&shelf.head_key(&key))?;
                head.and_then(rowio::split_of)
            }
        };
        if !split.is_some_and(|split| split.name == name && chunk < split.chunks) {
            self.orphan(row);
        }
        Ok(())
    }

    fn orphan(&mut self, row: Bytes) {
        if self.orphans.len() < ORPHANS_MAX {
            self.orphans.push(row);
        }
    }
}
