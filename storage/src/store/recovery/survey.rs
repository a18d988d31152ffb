//! Opening the engine and reading it through once: verifies every record, rebuilds the trees, removes the chunk rows that
//! a crash left behind. Keeps "sled is not trusted blindly".

use std::sync::Arc;

use crate::codec::rows::{self, RowKind, Split};
use crate::engine::{Engine, EngineError, EngineHome};
use crate::key::Key;
use crate::merkle::Forest;
use crate::record::NO_LEAF;
use crate::store::rowio;

/// Chunk rows without a head that one start removes at most. A crash leaves those of one record.
const ORPHANS_MAX: usize = 65_536;

/// An engine that was read through.
pub(super) struct Survey {
    pub(super) engine: Arc<dyn Engine>,
    /// The trees of what verified.
    pub(super) forest: Forest,
    /// Keys whose record did not verify.
    pub(super) damaged: Vec<Key>,
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
        let opened = match home.open() {
            // That says nothing of what it holds.
            Err(in_use @ EngineError::InUse(_)) => return Err(in_use),
            opened => opened.map_err(|error| error.to_string()),
        };
        match opened.and_then(|engine| survey(engine, partitions, applied)) {
            Ok(survey) => return Ok(survey),
            Err(why) => why,
        }
    };
    tracing::error!(
        why,
        "the storage engine is set aside for an empty one; what the log does not hold is fetched from peers"
    );
    home.set_aside()?;
    let engine = home.open()?;
    rowio::set_applied(&*engine, applied)?;
    engine.flush()?;
    Ok(Survey {
        engine,
        forest: Forest::new(partitions),
        damaged: Vec::new(),
        replaced: Some(why),
    })
}

fn survey(engine: Arc<dyn Engine>, partitions: u32, applied: u64) -> Result<Survey, String> {
    let held = rowio::applied(&*engine)
        .map_err(|error| error.to_string())?
        .unwrap_or(0);
    if held < applied {
        return Err(format!(
            "it holds the log up to {held}, and the checkpoint says {applied}"
        ));
    }
    let (forest, damaged) =
        read_through(&*engine, partitions).map_err(|error| error.to_string())?;
    Ok(Survey {
        engine,
        forest,
        damaged,
        replaced: None,
    })
}

fn read_through(engine: &dyn Engine, partitions: u32) -> Result<(Forest, Vec<Key>), EngineError> {
    let mut forest = Forest::new(partitions);
    let (mut damaged, mut orphans) = (Vec::new(), Vec::new());
    // The record whose rows are passing by, and where its chunks are.
    let mut current: Option<(Key, Option<Split>)> = None;
    for row in engine.range(&[], None) {
        let (row, value) = row?;
        match rows::parse_key(&row) {
            Some((key, RowKind::Head)) => {
                match rowio::decode(engine, &key, value.clone())? {
                    Some(record) => forest.apply(key.token(), NO_LEAF, record.leaf()),
                    None => damaged.push(key.clone()),
                }
                current = Some((key, rowio::split_of(value)));
            }
            Some((key, RowKind::Chunk { name, chunk })) => {
                let split = match &current {
                    Some((head, split)) if *head == key => *split,
                    _ => engine.get(&rows::head_key(&key))?.and_then(rowio::split_of),
                };
                if !split.is_some_and(|split| split.name == name && chunk < split.chunks)
                    && orphans.len() < ORPHANS_MAX
                {
                    orphans.push(row);
                }
            }
            // The `applied` row; or a row that damage made, which no read ever asks for.
            None => {}
        }
    }
    // Straight into the engine, unlogged: no read can tell whether they are there.
    for row in orphans {
        engine.remove(&row)?;
    }
    Ok((forest, damaged))
}
