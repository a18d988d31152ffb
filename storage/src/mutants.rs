//! Planted bugs, each of which breaks one promise, for the test that the simulation's checker finds them.
//!
//! *Invariant:* without the feature `mutants`, which nothing but that test turns on, [`is_planted`] is a constant `false`, and
//! no code of a bug is left in the binary. With it, the `ringfort` binary does not compile.

/// Whether this build can plant bugs.
pub const CAN_PLANT: bool = cfg!(feature = "mutants");

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A write is acknowledged at one copy, whatever W is.
    AckBeforeW = 1,
    /// A copy counts before the log is durable.
    AckBeforeSync,
    /// The log's groups are not synced.
    SkipSync,
    /// Of siblings the one with the newest wall clock stays.
    OrderByWallClock,
    /// A merge drops a sibling.
    DropSibling,
    /// A start does not see that the directory is older than what others heard of it: the actor mints on, and the copies count.
    ReuseActor,
    /// An unclean start goes on with the old actor.
    KeepActor,
    /// A change may get its place in the log before a freeze, and come into the table after it.
    ApplyLate,
    /// The log gets what the table held before the change.
    LogBehind,
    /// A copy that is not synced counts toward R.
    CountUnsynced,
    /// A request that is sent again is applied again.
    ApplyTwice,
    /// A delete replaces nothing.
    IgnoreDeleteContext,
    /// One owner less gets the object.
    SendToFewer,
    /// A message that was sent under an older epoch is taken like any other.
    AcceptStaleEpoch,
    /// A message of another cluster is taken like any other.
    AcceptForeign,
    /// A record or a value is believed without its checksum.
    BadChecksum,
    /// A read is answered at one copy, whatever R is.
    ReadOne,
    /// What a read finds to differ stays so.
    NoRepair,
    /// In the place of an owner that is held to be down comes another member.
    PlaceByLiveness,
    /// While two layouts live, R is counted over the owners of both.
    CountOverLayouts,
    /// A proposer has its own value decided, whatever was voted for before.
    TwoDecided,
    /// A vote is told and not made durable.
    ForgetVote,
    /// Writes go to the newest layout alone, though an older one is still read from.
    ForgetOldEarly,
    /// A partition is received from whichever old owners have acknowledged the layout, without waiting for the others.
    CopyBeforeAck,
    /// What a layout gives to a store counts as received there at once: a node that leaves takes its copies along.
    LeaveWithoutDraining,
    /// The kept Merkle tree goes on claiming a key that a drain has erased.
    TreeMissesErase,
    /// A record that fails its verification is sent to others as if it were whole.
    ShipCorrupt,
    /// A start does not know the hints that the store held.
    HintLost,
    /// What a read finds to differ at a fallback is repaired there, as if that were an owner.
    RepairFallback,
    /// Where a key is written, siblings that have expired go with what the clock says of them.
    DropExpiredClock,
    /// What was read under an older reap generation is taken like anything else.
    AcceptOlderGeneration,
    /// A tombstone is confirmed for reaping before the log is durable.
    ConfirmBeforeSync,
    /// What is past the grace is erased where it is found, without a round.
    ReapByTime,
}

/// All that can be planted.
pub const ALL: [Mutant; 33] = [
    Mutant::AckBeforeW,
    Mutant::AckBeforeSync,
    Mutant::SkipSync,
    Mutant::OrderByWallClock,
    Mutant::DropSibling,
    Mutant::ReuseActor,
    Mutant::KeepActor,
    Mutant::ApplyLate,
    Mutant::LogBehind,
    Mutant::CountUnsynced,
    Mutant::ApplyTwice,
    Mutant::IgnoreDeleteContext,
    Mutant::SendToFewer,
    Mutant::AcceptStaleEpoch,
    Mutant::AcceptForeign,
    Mutant::BadChecksum,
    Mutant::ReadOne,
    Mutant::NoRepair,
    Mutant::PlaceByLiveness,
    Mutant::CountOverLayouts,
    Mutant::TwoDecided,
    Mutant::ForgetVote,
    Mutant::ForgetOldEarly,
    Mutant::CopyBeforeAck,
    Mutant::LeaveWithoutDraining,
    Mutant::TreeMissesErase,
    Mutant::ShipCorrupt,
    Mutant::HintLost,
    Mutant::RepairFallback,
    Mutant::DropExpiredClock,
    Mutant::AcceptOlderGeneration,
    Mutant::ConfirmBeforeSync,
    Mutant::ReapByTime,
];

#[cfg(feature = "mutants")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants the mutant of this name in the whole process; false if there is none, or the feature is off.
pub fn plant(name: &str) -> bool {
    let found = ALL.into_iter().find(|m| format!("{m:?}") == name);
    #[cfg(feature = "mutants")]
    if let Some(mutant) = found {
        PLANTED.store(mutant as u8, std::sync::atomic::Ordering::Relaxed);
        return true;
    }
    found.is_some() && cfg!(feature = "mutants")
}

/// Whether this bug is planted.
#[cfg(feature = "mutants")]
pub fn is_planted(mutant: Mutant) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == mutant as u8
}

/// Whether this bug is planted: never.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_planted(_: Mutant) -> bool {
    false
}
