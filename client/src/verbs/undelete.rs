//! Bringing back what was deleted.

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use ringfort_proto::{Failure, Reason};

use super::{get::Get, put::Put};
use crate::{
    Client, Error, Written,
    options::{Common, common_options},
};

/// A put of the value that was deleted last; await it. See [`Client::undelete`].
#[derive(Debug, Clone)]
#[must_use = "nothing is brought back until it is awaited"]
pub struct Undelete {
    client: Client,
    common: Common,
    key: Bytes,
    ttl: Option<Duration>,
    w: Option<u32>,
}

impl Undelete {
    pub(crate) fn new(client: Client, key: Bytes) -> Self {
        Undelete {
            client,
            common: Common::default(),
            key,
            ttl: None,
            w: None,
        }
    }

    common_options!();

    /// How long the value lives from now on; for ever unless given, whatever it was stored with before.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How many copies acknowledge the write before it returns.
    pub fn w(mut self, w: u32) -> Self {
        self.w = Some(w);
        self
    }

    async fn send(self) -> Result<Option<Written>, Error> {
        let deadline = self.common.deadline(&self.client.inner().defaults);
        let mut get = Get::new(self.client.clone(), self.key.clone());
        get.common = self.common.clone();
        get.deleted = true;
        let read = get.send_by(deadline).await?;
        if read.is_found() {
            let failure = Failure::new(Reason::ConditionFailed, "a value is there already");
            return Err(Error::from_failure(failure, "", false));
        }
        let value = match read.deleted() {
            [] => return Ok(None),
            [only] => only.clone(),
            several => return Err(Error::several_siblings(several.len())),
        };
        let mut put = Put::new(self.client, self.key, value);
        put.common = self.common;
        put.context = read.context().cloned();
        put.ttl = self.ttl;
        put.w = self.w;
        put.send_by(deadline).await.map(Some)
    }
}

impl IntoFuture for Undelete {
    type Output = Result<Option<Written>, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
