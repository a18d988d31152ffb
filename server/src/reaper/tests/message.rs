//! What is on its way in the world, what decides its order, and which rule is broken.

use ringfort_ring::Epoch;
use ringfort_storage::{Key, store::Hint, version::Object};

use crate::reaper::core::{Question, Standing, Verdict};

/// SplitMix64 (Steele, Lea and Flood 2014).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// What was read under an older generation is taken.
    TakeOlder,
    /// A round ends without waiting for the hints of before.
    ForgetHints,
    /// A store that has missed a round keeps what it has.
    KeepMissed,
    /// What is past the window is erased where it is found.
    ByTime,
}

impl Bug {
    pub const ALL: [Bug; 4] = [
        Bug::TakeOlder,
        Bug::ForgetHints,
        Bug::KeepMissed,
        Bug::ByTime,
    ];
}

/// What is on its way.
#[derive(Clone)]
pub enum Message {
    /// An object, as it was read under a generation; for an owner, or to be held as a hint.
    Store {
        key: Key,
        object: Object,
        read_under: u64,
        hint: bool,
        /// It counts for this write.
        write: Option<usize>,
    },
    /// A hint for an owner.
    Delivery {
        hint: Hint,
    },
    /// It has it durably, or does not need it.
    Delivered {
        hint: Hint,
        owner: usize,
    },
    /// A question of a round.
    Ask(Question),
    Confirmed {
        generation: u64,
        epoch: Epoch,
        verdict: Verdict,
        at: (u64, u64),
    },
    Standing {
        to: u64,
        epoch: Epoch,
        standing: Standing,
        at: (u64, u64),
    },
    Finished {
        to: u64,
    },
    /// All that a synced owner holds, for one that has to receive it.
    Page {
        records: Vec<(Key, Object)>,
        generation: u64,
        floor: u64,
    },
}

/// What happened.
#[derive(Debug, Default)]
pub struct Figures {
    pub finished: u64,
    pub reaped: u64,
    pub refused: u64,
    pub missed: u64,
    pub hints: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.finished += other.finished;
        self.reaped += other.reaped;
        self.refused += other.refused;
        self.missed += other.missed;
        self.hints += other.hints;
    }
}
