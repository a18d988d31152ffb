//! Many operations in one call, each for itself: no atomicity across keys.

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};

use super::{delete::Delete, get::Get, put::Put};
use crate::{
    Client, Context, Durability, Error, Read, Written,
    options::{Common, common_options},
};

/// The most operations of one batch that run at a time.
const BATCH_RUNNING_MAX: usize = 4096;

/// Several reads; await it. See [`Client::batch_get`].
#[derive(Debug, Clone)]
#[must_use = "nothing is read until it is awaited"]
pub struct BatchGet {
    client: Client,
    common: Common,
    keys: Vec<Bytes>,
    r: Option<u32>,
}

impl BatchGet {
    pub(crate) fn new(client: Client, keys: Vec<Bytes>) -> Self {
        BatchGet {
            client,
            common: Common::default(),
            keys,
            r: None,
        }
    }

    common_options!();

    /// How many copies answer before each read returns.
    pub fn r(mut self, r: u32) -> Self {
        self.r = Some(r);
        self
    }
}

impl IntoFuture for BatchGet {
    type Output = Vec<Result<Read, Error>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let deadline = self.common.deadline(&self.client.inner().defaults);
            let reads = self.keys.into_iter().map(|key| {
                let mut get = Get::new(self.client.clone(), key);
                get.common = self.common.clone();
                get.r = self.r;
                get.send_by(deadline)
            });
            stream::iter(reads)
                .buffered(BATCH_RUNNING_MAX)
                .collect()
                .await
        })
    }
}

/// One write of a batch.
#[derive(Debug, Clone)]
#[must_use = "hand it to `Client::batch_write`"]
pub struct Mutation {
    key: Bytes,
    /// The value, or `None` for a delete.
    value: Option<Bytes>,
    context: Option<Context>,
    if_absent: bool,
    ttl: Option<Duration>,
}

impl Mutation {
    /// Stores a value.
    pub fn put(key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        Mutation {
            value: Some(value.into()),
            ..Mutation::delete(key)
        }
    }

    /// Deletes a key. Without a context it reads the key first, as [`Client::delete`] does.
    pub fn delete(key: impl AsRef<[u8]>) -> Self {
        Mutation {
            key: Bytes::copy_from_slice(key.as_ref()),
            value: None,
            context: None,
            if_absent: false,
            ttl: None,
        }
    }

    /// Replaces, or deletes, what this context covers.
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// Writes only if a read finds no value; see [`Put::if_absent`]. It means nothing for a delete.
    pub fn if_absent(mut self) -> Self {
        self.if_absent = true;
        self
    }

    /// How long the value lives. It means nothing for a delete.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// Several writes; await it. See [`Client::batch_write`].
#[derive(Debug, Clone)]
#[must_use = "nothing is written until it is awaited"]
pub struct BatchWrite {
    client: Client,
    common: Common,
    mutations: Vec<Mutation>,
    w: Option<u32>,
    durability: Option<Durability>,
}

impl BatchWrite {
    pub(crate) fn new(client: Client, mutations: Vec<Mutation>) -> Self {
        BatchWrite {
            client,
            common: Common::default(),
            mutations,
            w: None,
            durability: None,
        }
    }

    common_options!();

    /// How many copies acknowledge each write before it returns.
    pub fn w(mut self, w: u32) -> Self {
        self.w = Some(w);
        self
    }

    /// What an acknowledged copy rests on.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    async fn send(
        &self,
        mutation: Mutation,
        deadline: tokio::time::Instant,
    ) -> Result<Written, Error> {
        let Some(value) = mutation.value else {
            let mut delete = Delete::new(self.client.clone(), mutation.key);
            delete.common = self.common.clone();
            delete.context = mutation.context;
            delete.w = self.w;
            delete.durability = self.durability;
            let deleted = delete.send_by(deadline).await?;
            return Ok(Written {
                context: None,
                siblings: deleted.siblings,
                evidence: deleted.evidence,
            });
        };
        let mut put = Put::new(self.client.clone(), mutation.key, value);
        put.common = self.common.clone();
        put.context = mutation.context;
        put.if_absent = mutation.if_absent;
        put.ttl = mutation.ttl;
        put.w = self.w;
        put.durability = self.durability;
        put.send_by(deadline).await
    }
}

impl IntoFuture for BatchWrite {
    type Output = Vec<Result<Written, Error>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let deadline = self.common.deadline(&self.client.inner().defaults);
            let mutations = std::mem::take(&mut self.mutations);
            let this = &self;
            let writes = mutations
                .into_iter()
                .map(|mutation| this.send(mutation, deadline));
            stream::iter(writes)
                .buffered(BATCH_RUNNING_MAX)
                .collect()
                .await
        })
    }
}
