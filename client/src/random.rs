//! The one source of chance: seeded by the builder, or by the operating system.

use std::sync::{Arc, Mutex, PoisonError};

#[expect(
    clippy::disallowed_types,
    reason = "the edge where a client's seed is drawn, unless it was handed in"
)]
use rand::{
    RngExt, SeedableRng,
    rngs::{StdRng, SysRng},
};

use crate::error::Error;

/// A shared, seeded generator. It is asked when something failed, and never on the path of a call that succeeds.
#[derive(Debug, Clone)]
pub(crate) struct Random(Arc<Mutex<StdRng>>);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Random(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub(crate) fn from_os() -> Result<Self, Error> {
        let rng = StdRng::try_from_rng(&mut SysRng).map_err(|error| {
            Error::config(format!("the operating system gives no randomness: {error}"))
        })?;
        Ok(Random(Arc::new(Mutex::new(rng))))
    }

    /// Any number.
    pub(crate) fn number(&self) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }

    /// A number in `[0, 1)`.
    pub(crate) fn fraction(&self) -> f64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }
}
