//! How fast clients work around power cuts: fast while a slow disk has not yet synced what others have acknowledged, and often not at all until
//! the node is back, so that the first to touch such a key may be the node that has forgotten it.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use super::faults::{Fault, Kind};

/// How long clients go on hurrying when a node is due back, in ms.
const RUSH_AFTER_MS: u64 = 800;
/// A start takes about so long, in ms.
const START_MS: u64 = 100;

/// How fast clients work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tempo {
    /// As the run's settings say.
    Usual,
    /// Call after call.
    Rush,
    /// They wait.
    Hush,
}

/// The present tempo. Clones share it.
#[derive(Clone, Default)]
pub struct Baton(Arc<AtomicU8>);

impl Baton {
    /// Sets it.
    pub fn set(&self, tempo: Tempo) {
        self.0.store(tempo as u8, Relaxed);
    }

    /// The present tempo.
    pub fn tempo(&self) -> Tempo {
        match self.0.load(Relaxed) {
            rush if rush == Tempo::Rush as u8 => Tempo::Rush,
            hush if hush == Tempo::Hush as u8 => Tempo::Hush,
            _ => Tempo::Usual,
        }
    }
}

/// The tempi of a run, by time in ms.
#[derive(Debug, Default)]
pub struct Score(Vec<(Range<u64>, Tempo)>);

impl Score {
    /// For the power cuts of slow disks in a schedule.
    pub fn of(schedule: &[Fault]) -> Self {
        let cuts = schedule.iter();
        let cuts = cuts.filter(|fault| fault.kind == Kind::Crash && fault.worn_ms > 0);
        let spans = cuts.flat_map(|cut| {
            let back_ms = cut.at_ms + cut.for_ms + START_MS;
            let away = match cut.seed.is_multiple_of(2) {
                true => Tempo::Hush,
                false => Tempo::Rush,
            };
            [
                (
                    cut.at_ms.saturating_sub(cut.worn_ms)..cut.at_ms,
                    Tempo::Rush,
                ),
                (cut.at_ms..back_ms, away),
                (back_ms..back_ms + RUSH_AFTER_MS, Tempo::Rush),
            ]
        });
        Score(spans.collect())
    }

    /// The same, with times when clients wait.
    #[must_use]
    pub fn with_hushes(mut self, hushes: impl IntoIterator<Item = Range<u64>>) -> Self {
        let hushes = hushes.into_iter().map(|span| (span, Tempo::Hush));
        self.0.extend(hushes);
        self
    }

    /// The tempo at a time.
    pub fn at(&self, now_ms: u64) -> Tempo {
        let now = self.0.iter().filter(|(span, _)| span.contains(&now_ms));
        now.map(|(_, tempo)| *tempo).max().unwrap_or(Tempo::Usual)
    }
}
