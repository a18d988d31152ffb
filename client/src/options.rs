//! Options of a call, and the builder methods that set them.

use std::time::Duration;

use bytes::Bytes;
use ringfort_proto::v1;
use tokio::time::Instant;

use crate::inner::Defaults;

/// The longest deadline of a call. Request ids are remembered for five minutes; a call that outlived them could be
/// applied twice.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(240);

/// What an acknowledged copy rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Stable storage: the copy survives a power cut.
    Synced,
    /// Memory, on its way to the log: a crash of W nodes at once may lose it.
    Buffered,
}

impl Durability {
    fn to_wire(self) -> v1::Durability {
        match self {
            Durability::Synced => v1::Durability::Synced,
            Durability::Buffered => v1::Durability::Buffered,
        }
    }
}

/// What an overloaded node sheds first: the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Criticality {
    /// Work that nobody waits for and that may fail.
    Sheddable,
    /// Work that a batch job waits for.
    SheddablePlus,
    /// What users see; the default.
    Critical,
    /// What the whole service rests on.
    CriticalPlus,
}

impl Criticality {
    fn to_wire(self) -> v1::Criticality {
        match self {
            Criticality::Sheddable => v1::Criticality::Sheddable,
            Criticality::SheddablePlus => v1::Criticality::SheddablePlus,
            Criticality::Critical => v1::Criticality::Critical,
            Criticality::CriticalPlus => v1::Criticality::CriticalPlus,
        }
    }
}

/// Options that every call has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Common {
    pub(crate) namespace: Option<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) criticality: Option<Criticality>,
    pub(crate) strict: Option<bool>,
}

impl Common {
    /// The key as it travels.
    pub(crate) fn key(&self, defaults: &Defaults, key: Bytes) -> v1::Key {
        v1::Key {
            namespace: self
                .namespace
                .clone()
                .unwrap_or_else(|| defaults.namespace.clone()),
            key,
        }
    }

    /// When the call that starts now has to be over.
    pub(crate) fn deadline(&self, defaults: &Defaults) -> Instant {
        Instant::now() + self.timeout.unwrap_or(defaults.timeout).min(TIMEOUT_MAX)
    }

    fn criticality(&self, defaults: &Defaults) -> i32 {
        self.criticality
            .or(defaults.criticality)
            .map_or(0, |criticality| criticality.to_wire() as i32)
    }

    pub(crate) fn read_options(&self, defaults: &Defaults, r: Option<u32>) -> v1::ReadOptions {
        v1::ReadOptions {
            r,
            strict: self.strict,
            criticality: self.criticality(defaults),
            attempt: 0,
        }
    }

    pub(crate) fn write_options(
        &self,
        defaults: &Defaults,
        w: Option<u32>,
        durability: Option<Durability>,
    ) -> v1::WriteOptions {
        v1::WriteOptions {
            w,
            strict: self.strict,
            durability: durability.map_or(0, |durability| durability.to_wire() as i32),
            criticality: self.criticality(defaults),
            ..v1::WriteOptions::default()
        }
    }
}

/// The builder methods of [`Common`], for a builder with a field `common`.
macro_rules! common_options {
    () => {
        /// The namespace of the key, instead of the client's.
        pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
            self.common.namespace = Some(namespace.into());
            self
        }

        /// How long the whole call may take, retries included; at most four minutes.
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.common.timeout = Some(timeout);
            self
        }

        /// How early an overloaded node may refuse the call.
        pub fn criticality(mut self, criticality: $crate::Criticality) -> Self {
            self.common.criticality = Some(criticality);
            self
        }

        /// Whether only owners count, so that no fallback stands in for one that is down.
        pub fn strict(mut self, strict: bool) -> Self {
            self.common.strict = Some(strict);
            self
        }
    };
}
pub(crate) use common_options;
