//! Which segment files are live, spare, or in the making. No disk here: the writer and the drain act, this remembers.

use std::collections::{BTreeMap, VecDeque};

use super::LogPosition;

/// A segment that recovery may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) position: LogPosition,
    /// Sequence of its first record, or of the next one to come.
    pub(crate) first: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
}

/// All segment files of a log.
#[derive(Debug)]
pub(crate) struct Segments {
    /// By generation; the last one is being written, or the last one recovered.
    live: VecDeque<Live>,
    /// Files free for reuse: zero-filled and durable, number → length.
    spares: BTreeMap<u32, u64>,
    next_file: u32,
    next_generation: u64,
}

impl Segments {
    pub(crate) fn new(
        live: Vec<Live>,
        spares: BTreeMap<u32, u64>,
        next_file: u32,
        next_generation: u64,
    ) -> Self {
        Self {
            live: live.into(),
            spares,
            next_file,
            next_generation,
        }
    }

    /// Number of live segments.
    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Number of spare files.
    pub(crate) fn spare_count(&self) -> usize {
        self.spares.len()
    }

    /// Takes the lowest spare of at least `bytes`: its number and length.
    pub(crate) fn take_spare(&mut self, bytes: u64) -> Option<(u32, u64)> {
        let (file, length) = self
            .spares
            .iter()
            .find(|(_, length)| **length >= bytes)
            .map(|(file, length)| (*file, *length))?;
        self.spares.remove(&file);
        Some((file, length))
    }

    /// Takes the highest spare, to be removed, if there are more than `keep`.
    pub(crate) fn take_surplus(&mut self, keep: usize) -> Option<u32> {
        if self.spares.len() <= keep {
            return None;
        }
        self.spares.pop_last().map(|(file, _)| file)
    }

    /// Takes a spare shorter than `bytes`, to be removed: a crash cut its making short.
    pub(crate) fn take_unfinished(&mut self, bytes: u64) -> Option<u32> {
        let (file, _) = self.spares.iter().find(|(_, length)| **length < bytes)?;
        let file = *file;
        self.spares.remove(&file);
        Some(file)
    }

    /// Adds a file that is zero-filled (or was live) and durable.
    pub(crate) fn add_spare(&mut self, file: u32, bytes: u64) {
        self.spares.insert(file, bytes);
    }

    /// A number for a new file.
    pub(crate) fn next_file(&mut self) -> u32 {
        let file = self.next_file;
        self.next_file = file
            .checked_add(1)
            .expect("four billion segment files were never made");
        file
    }

    /// A generation for a segment about to be opened; higher than all before.
    pub(crate) fn next_generation(&mut self) -> u64 {
        let generation = self.next_generation;
        self.next_generation += 1;
        generation
    }

    /// The header of this segment is durable; it is the current one now.
    pub(crate) fn opened(&mut self, live: Live) {
        debug_assert!(
            self.live
                .back()
                .is_none_or(|last| last.position.generation < live.position.generation)
        );
        self.live.push_back(live);
    }

    /// The first segment that recovery needs if all records up to `through` are safe elsewhere.
    pub(crate) fn first_live(&self, through: u64) -> LogPosition {
        // The next one's first sequence says where each ends.
        let through = through.saturating_add(1);
        let before = self
            .live
            .iter()
            .skip(1)
            .take_while(|next| next.first <= through)
            .count();
        self.live
            .get(before)
            .map(|live| live.position)
            .unwrap_or_default()
    }

    /// Makes the segments before `first_live` spare; the last one stays in any case.
    pub(crate) fn release(&mut self, first_live: LogPosition) {
        while self.live.len() > 1 && self.live[0].position.generation < first_live.generation {
            let live = self.live.pop_front().expect("there are two");
            self.add_spare(live.position.segment, live.bytes);
        }
    }
}
