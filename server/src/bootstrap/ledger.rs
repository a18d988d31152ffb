//! The decree in the identity file: where an acceptance is made durable, and found again after a restart.

use std::{io, sync::Arc};

use ringfort_ring::{Decree as RingDecree, consensus::Promises};
use ringfort_storage::identity::{Identity, IdentityFile};

use super::{BadDecree, Decree, Ledger, Standing};

/// Keeps the decree in the identity file, in two synced slots.
pub struct IdentityLedger(pub Arc<IdentityFile>);

impl Ledger for IdentityLedger {
    fn keep(&mut self, decree: &Decree, decided: bool) -> io::Result<()> {
        let bytes = decree.encode();
        self.0
            .update(|identity| {
                if decided {
                    identity.cluster_id = Some(decree.cluster.0);
                    identity.partitions = decree.layout.partitions();
                    identity.layouts = bytes;
                    identity.unfinished_decree.clear();
                } else {
                    identity.unfinished_decree = bytes;
                }
            })
            .map_err(io::Error::other)
    }

    fn join(&mut self, founding: &Decree, newest: Arc<RingDecree>) -> io::Result<()> {
        let promises = Promises::outside(newest).encode();
        self.0
            .update(|identity| {
                identity.cluster_id = Some(founding.cluster.0);
                identity.partitions = founding.layout.partitions();
                identity.layouts = founding.encode();
                identity.votes = promises;
            })
            .map_err(io::Error::other)
    }
}

/// What a store holds of a decree, from its identity.
///
/// # Errors
/// The identity is whole, but not a decree of this version.
pub fn standing_of(identity: &Identity) -> Result<Standing, BadDecree> {
    if !identity.layouts.is_empty() {
        let decree = Decree::decode(&identity.layouts)?;
        return Ok(Standing::Member(Arc::new(decree)));
    }
    if identity.unfinished_decree.is_empty() {
        return Ok(Standing::Empty);
    }
    let decree = Decree::decode(&identity.unfinished_decree)?;
    Ok(Standing::Accepted(Arc::new(decree)))
}
