//! `/metrics`: the counters of the data path and the figures of the store, as Prometheus reads them.
//!
//! Names carry the prefix `ringfort_` and base units; no key, no value and no client ever becomes a label.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use ringfort_proto::Reason;

use crate::{
    counters::{Counters, Histogram, LATENCY_BOUNDS_US, Verb},
    health::{Health, Phase},
};

/// Figures that are read when somebody asks.
pub type Gauge = (&'static str, &'static str, Option<Unit>, f64);

/// Reads gauges: the store's, the links'.
pub type Probe = Box<dyn Fn() -> Vec<Gauge> + Send + Sync>;

/// A figure that several have, each under its own label.
pub struct Family {
    /// Its name, without the prefix.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Its unit.
    pub unit: Option<Unit>,
    /// What the label is called.
    pub label: &'static str,
    /// By label.
    pub values: Vec<(String, f64)>,
}

/// Reads families: the other members'.
pub type FamilyProbe = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

/// All that `/metrics` shows of one node.
pub struct Metrics {
    registry: Registry,
    sources: Arc<Sources>,
}

struct Sources {
    node: String,
    version: &'static str,
    counters: Arc<Counters>,
    health: Arc<Health>,
    probes: OnceLock<Vec<Probe>>,
    families: OnceLock<FamilyProbe>,
}

impl Metrics {
    /// The metrics of the node called `node`.
    pub fn new(node: &str, counters: Arc<Counters>, health: Arc<Health>) -> Self {
        let sources = Arc::new(Sources {
            node: node.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            counters,
            health,
            probes: OnceLock::new(),
            families: OnceLock::new(),
        });
        let mut registry = Registry::with_prefix("ringfort");
        registry.register_collector(Box::new(sources.clone()));
        Metrics { registry, sources }
    }

    /// From now on these are asked at each scrape, too. A node says once which it has.
    pub fn add_probes(&self, probes: Vec<Probe>) {
        let _ = self.sources.probes.set(probes);
    }

    /// As [`Self::add_probes`], for figures with a label.
    pub fn add_families(&self, probe: FamilyProbe) {
        let _ = self.sources.families.set(probe);
    }

    /// The text of one scrape.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => "# EOF\n".to_owned(), // a string takes all, so this never comes
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let e = &mut encoder;
        let labels = [("node", self.node.as_str()), ("version", self.version)];
        let mut info = e.encode_descriptor("build", "The running build", None, MetricType::Info)?;
        info.encode_info(&labels)?;
        self.requests(e)?;
        self.latencies(e)?;
        self.plain(e)?;
        let phase = self.health.phase();
        let flag = |yes: bool| f64::from(u8::from(yes));
        gauge(
            e,
            "ready",
            "1 while the node takes requests",
            None,
            flag(phase == Phase::Ready),
        )?;
        gauge(
            e,
            "draining",
            "1 while the node stops",
            None,
            flag(phase == Phase::Draining),
        )?;
        if let Some(bytes) = resident_bytes() {
            let help = "Memory of the process in physical pages";
            gauge(e, "resident_memory", help, Some(Unit::Bytes), bytes)?;
        }
        let probes = self.probes.get().into_iter().flatten();
        for (name, help, unit, value) in probes.flat_map(|probe| probe()) {
            gauge(e, name, help, unit, value)?;
        }
        let families = self.families.get().map(|probe| probe());
        for family in families.unwrap_or_default() {
            let unit = family.unit.as_ref();
            let kind = MetricType::Gauge;
            let mut metric = e.encode_descriptor(family.name, family.help, unit, kind)?;
            for (label, value) in &family.values {
                let labels = [(family.label, label.as_str())];
                metric.encode_family(&labels)?.encode_gauge(value)?;
            }
        }
        Ok(())
    }
}

impl Sources {
    fn requests(&self, e: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Operations of clients that this node finished, by verb and outcome";
        let mut metric = e.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for verb in Verb::ALL {
            for reason in std::iter::once(None).chain(Reason::ALL.iter().copied().map(Some)) {
                let outcome = reason.map_or("OK", Reason::as_str);
                let labels = [("operation", verb.as_str()), ("outcome", outcome)];
                let count = self.counters.outcomes(verb, reason);
                count_into(&mut metric.encode_family(&labels)?, count)?;
            }
        }
        Ok(())
    }

    fn latencies(&self, e: &mut DescriptorEncoder) -> fmt::Result {
        let help = "From an operation's arrival to its answer";
        let unit = Unit::Seconds;
        let kind = MetricType::Histogram;
        let mut metric = e.encode_descriptor("request_duration", help, Some(&unit), kind)?;
        for verb in Verb::ALL {
            let (sum, count, buckets) = cumulated(self.counters.latency(verb));
            metric
                .encode_family(&[("operation", verb.as_str())])?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn plain(&self, e: &mut DescriptorEncoder) -> fmt::Result {
        let c = &*self.counters;
        let bytes = Some(Unit::Bytes);
        let counters: [(&str, &str, Option<Unit>, &AtomicU64); 23] = [
            (
                "client_in",
                "Bytes of keys and values that clients sent",
                bytes.clone(),
                &c.client_bytes_in,
            ),
            (
                "client_out",
                "Bytes of values that clients were sent",
                bytes.clone(),
                &c.client_bytes_out,
            ),
            (
                "peer_out",
                "Bytes handed to connections to peers",
                bytes.clone(),
                &c.peer_bytes_out,
            ),
            (
                "peer_batches",
                "Batches sent to peers",
                None,
                &c.peer_batches,
            ),
            (
                "forwards",
                "Operations sent on to another node",
                None,
                &c.forwards,
            ),
            (
                "read_repairs",
                "Objects sent or merged because a read found them behind",
                None,
                &c.read_repairs,
            ),
            (
                "read_repairs_coalesced",
                "Copies that a read found to differ while their repair was on its way",
                None,
                &c.repairs_coalesced,
            ),
            ("engine_loads", "Keys read from the engine", None, &c.loads),
            (
                "peer_not_sent",
                "Operations that did not go out to a peer",
                None,
                &c.not_sent,
            ),
            (
                "peer_refused",
                "Operations of peers that were refused",
                None,
                &c.peer_refused,
            ),
            (
                "wrong_cluster",
                "Messages refused for their cluster id",
                None,
                &c.wrong_cluster,
            ),
            (
                "gossip_messages",
                "Messages of gossip sent",
                None,
                &c.gossip_messages,
            ),
            (
                "gossip_out",
                "Bytes of gossip sent",
                bytes.clone(),
                &c.gossip_bytes_out,
            ),
            (
                "gossip_failed",
                "Exchanges of gossip with members that were not answered",
                None,
                &c.gossip_failed,
            ),
            (
                "replica_stores",
                "Objects merged for peers",
                None,
                &c.replica_stores,
            ),
            (
                "replica_reads",
                "Digests and objects answered to peers",
                None,
                &c.replica_reads,
            ),
            (
                "scrub_records",
                "Records that a scrub has verified",
                None,
                &c.scrub_records,
            ),
            (
                "scrub_read",
                "Bytes that a scrub has read",
                bytes.clone(),
                &c.scrub_bytes,
            ),
            (
                "scrub_damaged",
                "Records that a scrub found damaged",
                None,
                &c.scrub_damaged,
            ),
            (
                "scrub_orphans",
                "Chunks of no record that a scrub found",
                None,
                &c.scrub_orphans,
            ),
            (
                "reaped",
                "Deleted and expired keys that were forgotten here",
                None,
                &c.reaped,
            ),
            (
                "reaping_rounds_begun",
                "Rounds of reaping that this node has begun",
                None,
                &c.reaping_begun,
            ),
            (
                "reaping_rounds_ended",
                "Rounds of reaping that this node has driven to their end",
                None,
                &c.reaping_ended,
            ),
        ];
        for (name, help, unit, counter) in counters {
            let kind = MetricType::Counter;
            let mut metric = e.encode_descriptor(name, help, unit.as_ref(), kind)?;
            count_into(&mut metric, counter.load(Relaxed))?;
        }
        let now = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        gauge(e, "sessions", "Sessions open now", None, now(&c.sessions))?;
        gauge(
            e,
            "pending_operations",
            "Operations in work now",
            None,
            now(&c.pending),
        )?;
        let queued = "Bytes that wait for peers now";
        gauge(e, "peer_queue", queued, bytes, now(&c.peer_queue_bytes))
    }
}

fn count_into(metric: &mut MetricEncoder<'_>, count: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, u64>(&count, None)
}

fn gauge(
    e: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    value: f64,
) -> fmt::Result {
    e.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?
        .encode_gauge(&value)
}

/// Sum in seconds, count, and buckets (upper bound in seconds, own count) as the encoder wants them.
fn cumulated(histogram: &Histogram) -> (f64, u64, Vec<(f64, u64)>) {
    let counts = histogram.buckets();
    let bounds = LATENCY_BOUNDS_US
        .iter()
        .map(|us| *us as f64 / 1e6)
        .chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(counts).collect();
    (
        histogram.sum_us() as f64 / 1e6,
        counts.iter().sum(),
        buckets,
    )
}

/// Resident memory as the system counts it; only Linux says.
fn resident_bytes() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((pages * PAGE_BYTES) as f64)
}

/// A page on all machines that this is built for.
const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_scrape_shows_what_was_counted() {
        let counters = Arc::new(Counters::default());
        counters.finished(Verb::Put, None, Duration::from_micros(80));
        counters.finished(Verb::Put, None, Duration::from_secs(20));
        counters.finished(
            Verb::Get,
            Some(Reason::Overloaded),
            Duration::from_millis(1),
        );
        let metrics = Metrics::new("n0", counters, Arc::new(Health::default()));
        metrics.add_probes(vec![Box::new(|| vec![("store_keys", "Keys", None, 7.0)])]);
        metrics.add_families(Box::new(|| {
            vec![Family {
                name: "peer_up",
                help: "Up",
                unit: None,
                label: "peer",
                values: vec![("n1".to_owned(), 1.0), ("n2".to_owned(), 0.0)],
            }]
        }));
        let text = metrics.render();
        for line in [
            "ringfort_requests_total{operation=\"put\",outcome=\"OK\"} 2",
            "ringfort_requests_total{operation=\"get\",outcome=\"OVERLOADED\"} 1",
            "ringfort_request_duration_seconds_bucket{le=\"0.0001\",operation=\"put\"} 1",
            "ringfort_request_duration_seconds_bucket{le=\"+Inf\",operation=\"put\"} 2",
            "ringfort_request_duration_seconds_count{operation=\"put\"} 2",
            "ringfort_client_in_bytes_total 0",
            "ringfort_ready 0.0",
            "ringfort_store_keys 7.0",
            "ringfort_peer_up{peer=\"n2\"} 0.0",
            "# TYPE ringfort_peer_queue_bytes gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
