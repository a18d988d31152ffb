//! The one place that judges a configuration as a whole.

use std::{collections::BTreeSet, time::Duration};

use ringfort_ring::{
    NodeName, PARTITIONS_MAX, PARTITIONS_MIN, REPLICAS_MAX, ZONE_LEN_MAX, tokens_for_capacity,
};

use ringfort_storage::version::APPLIED_AGE_MS_MAX;

use super::{ByteSize, Config, ConfigError, HostPort};
use crate::limits::{OBJECT_BYTES_MAX, VALUE_BYTES_MAX};

/// A bootstrap list or seed list is this long at most.
pub const MAX_MEMBERS: usize = 256;
/// Bounds of memory settings.
const MIN_MEMORY: ByteSize = ByteSize(1 << 20);
const MAX_MEMORY: ByteSize = ByteSize(1 << 40);
/// What the wire and the store are built for.
const MAX_VALUE: ByteSize = ByteSize(VALUE_BYTES_MAX as u64);
const MAX_OBJECT: ByteSize = ByteSize(OBJECT_BYTES_MAX as u64);
/// Most of anything that is counted.
const MAX_COUNT: usize = 1 << 20;
/// Most worker threads.
const MAX_WORKERS: usize = 1024;
/// The longest timeout that makes sense.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// A request that is repeated so long after it was applied is known to be.
const REQUESTS_KNOWN: Duration = Duration::from_millis(APPLIED_AGE_MS_MAX);

/// The longest window or interval that makes sense: about ten years.
const MAX_WINDOW: Duration = Duration::from_secs(3_660 * 24 * 60 * 60);

impl Config {
    /// Judges the whole.
    ///
    /// # Errors
    /// All that is wrong, one line each, with the source of the value to blame.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Problems {
            config: self,
            found: Vec::new(),
        };
        problems.identity();
        problems.addresses();
        problems.members();
        problems.limits();
        if problems.found.is_empty() {
            Ok(())
        } else {
            Err(ConfigError {
                problems: problems.found,
            })
        }
    }
}

struct Problems<'a> {
    config: &'a Config,
    found: Vec<String>,
}

impl Problems<'_> {
    /// Notes a problem of one setting, unless `fine`.
    fn check(&mut self, fine: bool, setting: &'static str, what: impl FnOnce() -> String) {
        if !fine {
            let source = &self.config.sources[setting];
            self.found
                .push(format!("`{setting}` {} ({source})", what()));
        }
    }

    fn identity(&mut self) {
        let c = self.config;
        let mut judge = |setting, verdict: Result<(), String>| {
            if let Err(what) = verdict {
                self.check(false, setting, || what);
            }
        };
        judge(
            "name",
            NodeName::new(&c.name)
                .map(drop)
                .map_err(|e| match c.is_named_by_host() {
                    true => format!("is `{}`: {e}; pass --name", c.name),
                    false => format!("is `{}`: {e}", c.name),
                }),
        );
        judge(
            "capacity",
            tokens_for_capacity(c.capacity)
                .map(drop)
                .map_err(|e| format!("is {}: {e}", c.capacity)),
        );
        let zone = c.zone.len() <= ZONE_LEN_MAX && c.zone.bytes().all(|b| b.is_ascii_graphic());
        self.check(zone, "zone", || {
            format!("must be at most {ZONE_LEN_MAX} printable characters of ASCII, without blanks")
        });
        let partitions = PARTITIONS_MIN..=PARTITIONS_MAX;
        self.check(
            c.partitions.is_power_of_two() && partitions.contains(&c.partitions),
            "partitions",
            || {
                format!(
                    "is {}: must be a power of two from {PARTITIONS_MIN} to {PARTITIONS_MAX}",
                    c.partitions
                )
            },
        );
        self.check((1..=REPLICAS_MAX).contains(&c.replicas), "replicas", || {
            format!("is {}: must be from 1 to {REPLICAS_MAX}", c.replicas)
        });
    }

    fn addresses(&mut self) {
        let c = self.config;
        // The HTTP port follows the host that clients dial, so it needs no name of its own.
        let http_advertise = c.http_advertise.as_ref().or(c.client_advertise.as_ref());
        for (setting, addr, advertise) in [
            ("client_addr", &c.client_addr, c.client_advertise.as_ref()),
            ("peer_addr", &c.peer_addr, c.peer_advertise.as_ref()),
            ("http_addr", &c.http_addr, http_advertise),
        ] {
            self.check(
                !addr.is_unspecified() || advertise.is_some(),
                setting,
                || {
                    let flag = setting.replace("_addr", "-advertise");
                    format!("is {addr}, which nobody can dial: say what to dial with --{flag}")
                },
            );
        }
        for (setting, advertise) in [
            ("client_advertise", &c.client_advertise),
            ("peer_advertise", &c.peer_advertise),
            ("http_advertise", &c.http_advertise),
        ] {
            let dialable = |a: &HostPort| !a.is_unspecified() && a.port != 0;
            self.check(advertise.as_ref().is_none_or(dialable), setting, || {
                "is an address that nobody can dial".to_owned()
            });
        }
        for (setting, addr) in [
            ("client_addr", &c.client_addr),
            ("peer_addr", &c.peer_addr),
            ("http_addr", &c.http_addr),
        ] {
            // The layout lists addresses, and keeps them over restarts.
            self.check(addr.port != 0, setting, || "must name a port".to_owned());
        }
        let fixed: Vec<_> = [&c.client_addr, &c.peer_addr, &c.http_addr]
            .into_iter()
            .collect();
        let distinct: BTreeSet<_> = fixed.iter().collect();
        self.check(distinct.len() == fixed.len(), "peer_addr", || {
            "must differ from client_addr and http_addr, and those from each other".to_owned()
        });
    }

    fn members(&mut self) {
        let c = self.config;
        let names: BTreeSet<_> = c.initial.iter().map(|m| m.name.as_str()).collect();
        let peers: BTreeSet<_> = c.initial.iter().map(|m| &m.peer).collect();
        for member in &c.initial {
            if let Err(error) = NodeName::new(&member.name) {
                self.check(false, "initial", || {
                    format!("names `{}`: {error}", member.name)
                });
            }
        }
        self.check(
            names.len() == c.initial.len() && peers.len() == c.initial.len(),
            "initial",
            || "lists a name or an address twice".to_owned(),
        );
        self.check(
            c.initial.is_empty() || names.contains(c.name.as_str()),
            "initial",
            || format!("does not list this node, `{}`", c.name),
        );
        let dialable = |a: &HostPort| !a.is_unspecified() && a.port != 0;
        self.check(
            c.initial.iter().all(|m| dialable(&m.peer)),
            "initial",
            || "lists an address that nobody can dial".to_owned(),
        );
        self.check(c.seeds.iter().all(dialable), "seeds", || {
            "lists an address that nobody can dial".to_owned()
        });
        self.check(c.initial.len() <= MAX_MEMBERS, "initial", || {
            format!("lists more than {MAX_MEMBERS} members")
        });
        self.check(c.seeds.len() <= MAX_MEMBERS, "seeds", || {
            format!("lists more than {MAX_MEMBERS} addresses")
        });
    }

    fn limits(&mut self) {
        let c = self.config;
        for (setting, bytes) in [
            ("table_bytes", c.table_bytes),
            ("free_space_floor", c.free_space_floor),
            ("free_space_reserve", c.free_space_reserve),
            ("hint_bytes", c.hint_bytes),
            ("sled_cache_bytes", c.sled_cache_bytes),
        ] {
            self.check((MIN_MEMORY..=MAX_MEMORY).contains(&bytes), setting, || {
                format!("is {bytes}: must be from {MIN_MEMORY} to {MAX_MEMORY}")
            });
        }
        let (floor, reserve) = (c.free_space_floor, c.free_space_reserve);
        self.check(reserve <= floor, "free_space_reserve", || {
            format!("is {reserve}: must not be over free_space_floor, which is {floor}")
        });
        for (setting, bytes, max) in [
            ("value_bytes", c.value_bytes, MAX_VALUE),
            ("object_bytes", c.object_bytes, MAX_OBJECT),
            ("session_bytes", c.session_bytes, MAX_MEMORY),
            ("peer_queue_bytes", c.peer_queue_bytes, MAX_MEMORY),
            ("scrub_rate", c.scrub_rate, MAX_MEMORY),
        ] {
            self.check((ByteSize(1)..=max).contains(&bytes), setting, || {
                format!("is {bytes}: must be from 1 to {max}")
            });
        }
        for (setting, count) in [
            ("connections", c.connections),
            ("peer_connections", c.peer_connections),
            ("pending_operations", c.pending_operations),
            ("running_per_client", c.running_per_client),
            ("running_per_node", c.running_per_node),
            ("siblings", c.siblings),
            ("sessions", c.sessions),
            ("session_operations", c.session_operations),
        ] {
            self.check((1..=MAX_COUNT).contains(&count), setting, || {
                format!("is {count}: must be from 1 to {MAX_COUNT}")
            });
        }
        for (setting, timeout) in [
            ("hello_timeout", c.hello_timeout),
            ("connect_timeout", c.connect_timeout),
            ("status_timeout", c.status_timeout),
            ("exchange_interval", c.exchange_interval),
        ] {
            let fine = !timeout.is_zero() && timeout <= MAX_TIMEOUT;
            self.check(fine, setting, || {
                format!("is {timeout:?}: must be more than 0 and at most {MAX_TIMEOUT:?}")
            });
        }
        self.check(c.drain_timeout <= MAX_TIMEOUT, "drain_timeout", || {
            format!("is {:?}: must be at most {MAX_TIMEOUT:?}", c.drain_timeout)
        });
        self.check(c.soft_delete <= MAX_WINDOW, "soft_delete", || {
            format!("is {:?}: must be at most {MAX_WINDOW:?}", c.soft_delete)
        });
        self.check(c.reap_grace <= MAX_WINDOW, "reap_grace", || {
            format!("is {:?}: must be at most {MAX_WINDOW:?}", c.reap_grace)
        });
        let fine = c.reap_grace > REQUESTS_KNOWN || c.reap_early;
        self.check(fine, "reap_grace", || {
            format!(
                "is {:?}: must be more than {REQUESTS_KNOWN:?}, for which requests that are repeated are known",
                c.reap_grace
            )
        });
        let interval = c.scrub_interval;
        let fine = !interval.is_zero() && interval <= MAX_WINDOW;
        self.check(fine, "scrub_interval", || {
            format!("is {interval:?}: must be more than 0 and at most {MAX_WINDOW:?}")
        });
        self.check(c.workers <= MAX_WORKERS, "workers", || {
            format!("is {}: must be at most {MAX_WORKERS}", c.workers)
        });
    }
}
