//! Verifying what nodes have stored.

use ringfort_proto::v1::{self, admin_client::AdminClient};
use serde::{Deserialize, Serialize};

use crate::{Client, Error};

/// How far a node is with verifying every record that it has stored; counted since its process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Scrubbing {
    /// Passes that are through.
    pub passes: u64,
    /// Whether one is under way.
    pub running: bool,
    /// How far that one is.
    pub per_mille: u32,
    /// Records verified.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Records that failed.
    pub damaged: u64,
    /// Milliseconds since the last pass ended; `None` if there was none.
    pub last_ms: Option<u64>,
}

/// What became of asking one node to verify what it has stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScrubStart {
    /// The node.
    pub name: String,
    /// The number of the pass that begins there: it is through once [`Scrubbing::passes`] has come to it. `None`: no answer.
    pub pass: Option<u64>,
}

impl Client {
    /// Has all nodes verify every record that they have stored, from now on. What fails comes back from other owners by itself.
    /// [`Self::status`] tells how far they are.
    ///
    /// # Errors
    /// No node answered; see [`Error::kind`].
    pub async fn scrub(&self) -> Result<Vec<ScrubStart>, Error> {
        let answer = self
            .ask(|channel, attempt| async move {
                AdminClient::new(channel)
                    .scrub(attempt.with(v1::ScrubRequest {}))
                    .await
            })
            .await?;
        let nodes = answer.nodes.into_iter().map(|node| ScrubStart {
            name: node.name,
            pass: Some(node.pass).filter(|pass| *pass > 0),
        });
        Ok(nodes.collect())
    }
}

pub(super) fn scrubbing(wire: v1::Scrubbing) -> Scrubbing {
    Scrubbing {
        passes: wire.passes,
        running: wire.running,
        per_mille: wire.per_mille,
        records: wire.records,
        bytes: wire.bytes,
        damaged: wire.damaged,
        last_ms: wire.last_ms,
    }
}
