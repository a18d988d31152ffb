//! What the data path counts, as plain atomics that `/metrics` reads (no key ever becomes a label).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use ringfort_proto::Reason;

/// The verbs of an operation, as metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A put, `if_absent` included.
    Put,
    /// A get.
    Get,
    /// A delete.
    Delete,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Verb; 3] = [Verb::Put, Verb::Get, Verb::Delete];

    /// The verb as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Put => "put",
            Verb::Get => "get",
            Verb::Delete => "delete",
        }
    }
}

/// Upper bounds of the latency buckets, in microseconds; one more bucket holds what is slower.
pub const LATENCY_BOUNDS_US: [u64; 18] = [
    50, 100, 200, 400, 700, 1_000, 1_500, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 10_000_000,
];

/// A histogram of latencies over [`LATENCY_BOUNDS_US`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one latency.
    pub fn observe(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|&bound| bound < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Counts per bucket (not cumulative), the last one unbounded.
    pub fn buckets(&self) -> [u64; LATENCY_BOUNDS_US.len() + 1] {
        std::array::from_fn(|i| self.buckets[i].load(Relaxed))
    }

    /// The sum of all latencies, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Relaxed)
    }
}

/// Outcomes of one verb: answered, or failed for each reason.
#[derive(Debug, Default)]
struct Outcomes {
    ok: AtomicU64,
    failed: [AtomicU64; Reason::ALL.len()],
    latency: Histogram,
}

/// The counters of a node's data path. All only grow, except those that say "now".
#[derive(Debug, Default)]
pub struct Counters {
    verbs: [Outcomes; Verb::ALL.len()],
    /// Bytes of keys and values that clients sent.
    pub client_bytes_in: AtomicU64,
    /// Bytes of values that clients were sent.
    pub client_bytes_out: AtomicU64,
    /// Operations that their client said to be retries.
    pub retries: AtomicU64,
    /// Operations sent on to another node.
    pub forwards: AtomicU64,
    /// Objects sent to owners, or merged here, because a read found them behind.
    pub read_repairs: AtomicU64,
    /// Copies of which that was not sent again, since it was on its way.
    pub repairs_coalesced: AtomicU64,
    /// Keys read from the engine because the table had no whole base.
    pub loads: AtomicU64,
    /// Operations that did not go out to one peer: not connected, or its queue was full.
    pub not_sent: AtomicU64,
    /// Bytes that wait for peers now.
    pub peer_queue_bytes: AtomicU64,
    /// Bytes handed to the connections to peers.
    pub peer_bytes_out: AtomicU64,
    /// Operations of peers that this node refused.
    pub peer_refused: AtomicU64,
    /// Messages refused because they came from another cluster.
    pub wrong_cluster: AtomicU64,
    /// Messages of gossip sent.
    pub gossip_messages: AtomicU64,
    /// Bytes of gossip sent.
    pub gossip_bytes_out: AtomicU64,
    /// Exchanges of gossip that failed.
    pub gossip_failed: AtomicU64,
    /// Batches sent to peers.
    pub peer_batches: AtomicU64,
    /// Objects merged for peers.
    pub replica_stores: AtomicU64,
    /// Digests and objects answered to peers.
    pub replica_reads: AtomicU64,
    /// Records that a scrub verified.
    pub scrub_records: AtomicU64,
    /// Bytes that a scrub read.
    pub scrub_bytes: AtomicU64,
    /// Records that a scrub found damaged.
    pub scrub_damaged: AtomicU64,
    /// Chunks without a record that a scrub found.
    pub scrub_orphans: AtomicU64,
    /// Deleted and expired keys whose records went.
    pub reaped: AtomicU64,
    /// Rounds of reaping that this node has begun.
    pub reaping_begun: AtomicU64,
    /// Rounds of reaping that this node has driven to their end.
    pub reaping_ended: AtomicU64,
    /// Sessions open now.
    pub sessions: AtomicU64,
    /// Operations in work now.
    pub pending: AtomicU64,
}

impl Counters {
    /// Counts one finished operation: `reason` is `None` if it was answered.
    pub fn finished(&self, verb: Verb, reason: Option<Reason>, latency: Duration) {
        self.count(verb, reason);
        self.verbs[verb as usize].latency.observe(latency);
    }

    /// Counts one operation that was refused before it was taken; its latency would only flatter.
    pub fn refused(&self, verb: Verb, reason: Reason) {
        self.count(verb, Some(reason));
    }

    fn count(&self, verb: Verb, reason: Option<Reason>) {
        let outcomes = &self.verbs[verb as usize];
        match reason.and_then(|r| Reason::ALL.iter().position(|&all| all == r)) {
            None => outcomes.ok.fetch_add(1, Relaxed),
            Some(index) => outcomes.failed[index].fetch_add(1, Relaxed),
        };
    }

    /// How many operations of `verb` ended so: `None` for answered.
    pub fn outcomes(&self, verb: Verb, reason: Option<Reason>) -> u64 {
        let outcomes = &self.verbs[verb as usize];
        match reason.and_then(|r| Reason::ALL.iter().position(|&all| all == r)) {
            None => outcomes.ok.load(Relaxed),
            Some(index) => outcomes.failed[index].load(Relaxed),
        }
    }

    /// The latencies of `verb`, from the operation's arrival to its answer.
    pub fn latency(&self, verb: Verb) -> &Histogram {
        &self.verbs[verb as usize].latency
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Relaxed);
}

/// Takes from a counter that says "now".
pub fn take(counter: &AtomicU64, amount: usize) {
    counter.fetch_sub(amount as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_latencies_fall_into_their_cells() {
        let counters = Counters::default();
        counters.finished(Verb::Get, None, Duration::from_micros(50));
        counters.finished(Verb::Put, Some(Reason::Overloaded), Duration::from_secs(60));
        assert_eq!(counters.outcomes(Verb::Get, None), 1);
        assert_eq!(counters.outcomes(Verb::Put, Some(Reason::Overloaded)), 1);
        assert_eq!(counters.outcomes(Verb::Put, None), 0);
        counters.refused(Verb::Delete, Reason::EmptyKey);
        assert_eq!(counters.outcomes(Verb::Delete, Some(Reason::EmptyKey)), 1);
        assert_eq!(
            counters.latency(Verb::Delete).buckets().iter().sum::<u64>(),
            0
        );
        assert_eq!(counters.latency(Verb::Get).buckets()[0], 1);
        let slow = counters.latency(Verb::Put).buckets();
        assert_eq!(slow[LATENCY_BOUNDS_US.len()], 1);
        assert_eq!(counters.latency(Verb::Put).sum_us(), 60_000_000);
    }
}
