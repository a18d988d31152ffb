//! Reading, changing and writing one key.

use std::{future::IntoFuture, ops::Deref, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::{delete::Delete, get::Get, put::Put};
use crate::{
    Client, Error, Kind, Sibling, Written,
    options::{Common, common_options},
};

/// How many rounds a call makes unless told otherwise.
const ROUNDS: u32 = 5;
/// The ceiling of the pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// What the closure of [`Client::read_modify_write`] is shown: the siblings, none if the key is not found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Current<'a> {
    /// The values that stand side by side.
    pub siblings: &'a [Sibling],
    /// What an earlier round of this call has already stored. It is among the siblings, unless somebody replaced it,
    /// and holds the change already: merge it with the others rather than changing it again.
    pub written: Option<&'a Bytes>,
}

impl Deref for Current<'_> {
    type Target = [Sibling];

    fn deref(&self) -> &[Sibling] {
        self.siblings
    }
}

/// What the closure of [`Client::read_modify_write`] wants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// This value, in place of all siblings.
    Put(Bytes),
    /// No value, in place of all siblings.
    Delete,
    /// What is there, as it is: nothing is written.
    Keep,
}

/// A read, a change and a write that carries the read's context; await it. See [`Client::read_modify_write`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens until it is awaited"]
pub struct ReadModifyWrite<F> {
    client: Client,
    common: Common,
    key: Bytes,
    rounds: u32,
    ttl: Option<Duration>,
    change: F,
}

impl<F: FnMut(&Current<'_>) -> Change + Send> ReadModifyWrite<F> {
    pub(crate) fn new(client: Client, key: Bytes, change: F) -> Self {
        ReadModifyWrite {
            client,
            common: Common::default(),
            key,
            rounds: ROUNDS,
            ttl: None,
            change,
        }
    }

    common_options!();

    /// How many times it reads and writes at most; at least once.
    pub fn rounds(mut self, rounds: u32) -> Self {
        self.rounds = rounds.max(1);
        self
    }

    /// How long the new value lives.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn send(mut self) -> Result<Written, Error> {
        let inner = self.client.inner().clone();
        let deadline = self.common.deadline(&inner.defaults);
        let mut written: Option<Bytes> = None;
        let mut last: Option<Written> = None;
        for round in 1.. {
            let more = round < self.rounds;
            match self.round(&mut written, deadline).await {
                Ok(done) if done.siblings <= 1 || !more => return Ok(done),
                Ok(conflict) => last = Some(conflict),
                // Nothing changed: others have filled the key with siblings since it was read.
                Err(error)
                    if more && error.kind() == Kind::TooManySiblings && !error.is_ambiguous() => {}
                // The write of an earlier round stands; only the merging failed, and the next reader will do it.
                Err(error) => return last.filter(|_| error.is_retryable()).ok_or(error),
            }
            sleep(PAUSE_MAX.mul_f64(inner.random().fraction())).await;
        }
        unreachable!("the last round returns")
    }

    async fn round(
        &mut self,
        written: &mut Option<Bytes>,
        deadline: Instant,
    ) -> Result<Written, Error> {
        let mut get = Get::new(self.client.clone(), self.key.clone());
        get.common = self.common.clone();
        let read = get.send_by(deadline).await?;
        let current = Current {
            siblings: read.siblings(),
            written: written.as_ref(),
        };
        match (self.change)(&current) {
            Change::Put(value) => {
                let mut put = Put::new(self.client.clone(), self.key.clone(), value.clone());
                put.common = self.common.clone();
                put.context = read.context().cloned();
                put.ttl = self.ttl;
                let done = put.send_by(deadline).await?;
                *written = Some(value);
                Ok(done)
            }
            Change::Delete if read.is_found() => {
                let mut delete = Delete::new(self.client.clone(), self.key.clone());
                delete.common = self.common.clone();
                delete.context = read.context().cloned();
                let deleted = delete.send_by(deadline).await?;
                // What a delete leaves was written meanwhile, by others: it is one sibling too many.
                let siblings = if deleted.siblings == 0 {
                    0
                } else {
                    deleted.siblings + 1
                };
                Ok(Written {
                    context: None,
                    siblings,
                    evidence: deleted.evidence,
                })
            }
            Change::Delete | Change::Keep => {
                let context = read
                    .context()
                    .filter(|_| read.siblings().len() == 1)
                    .cloned();
                Ok(Written {
                    context,
                    siblings: u32::from(read.is_found()),
                    evidence: read.evidence(),
                })
            }
        }
    }
}

impl<F: FnMut(&Current<'_>) -> Change + Send + 'static> IntoFuture for ReadModifyWrite<F> {
    type Output = Result<Written, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
