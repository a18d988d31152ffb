//! Storing one value.

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use ringfort_proto::v1::{PutRequest, operation_result};

use crate::{
    Client, Context, Durability, Error, Written,
    call::{Call, mismatch},
    options::{Common, common_options},
};

/// A write of one value; await it. See [`Client::put`].
#[derive(Debug, Clone)]
#[must_use = "nothing is written until it is awaited"]
pub struct Put {
    pub(super) client: Client,
    pub(super) common: Common,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) context: Option<Context>,
    pub(super) if_absent: bool,
    pub(super) ttl: Option<Duration>,
    pub(super) w: Option<u32>,
    pub(super) durability: Option<Durability>,
}

impl Put {
    pub(crate) fn new(client: Client, key: Bytes, value: Bytes) -> Self {
        Put {
            client,
            common: Common::default(),
            key,
            value,
            context: None,
            if_absent: false,
            ttl: None,
            w: None,
            durability: None,
        }
    }

    common_options!();

    /// Replaces what this context covers. Without one, the value stands beside what is there.
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// Writes only if a read finds no value. This is not exclusive: two such writes at once may become siblings.
    pub fn if_absent(mut self) -> Self {
        self.if_absent = true;
        self
    }

    /// How long the value lives, in whole milliseconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How many copies acknowledge the write before it returns.
    pub fn w(mut self, w: u32) -> Self {
        self.w = Some(w);
        self
    }

    /// What an acknowledged copy rests on.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    pub(super) async fn send(self) -> Result<Written, Error> {
        let inner = self.client.inner();
        let deadline = self.common.deadline(&inner.defaults);
        self.send_by(deadline).await
    }

    pub(super) async fn send_by(self, deadline: tokio::time::Instant) -> Result<Written, Error> {
        let inner = self.client.inner();
        let request = PutRequest {
            key: Some(self.common.key(&inner.defaults, self.key)),
            value: self.value,
            context: self.context.map(Context::into_bytes).unwrap_or_default(),
            if_absent: self.if_absent,
            // A lifetime below a millisecond is one, not forever.
            ttl_ms: self.ttl.map_or(0, |ttl| {
                u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
            }),
            options: Some(
                self.common
                    .write_options(&inner.defaults, self.w, self.durability),
            ),
        };
        match Call::put(inner, request, deadline)?.run(inner).await? {
            operation_result::Kind::Put(put) => Ok(Written::from_put(put)),
            _ => Err(mismatch(true)),
        }
    }
}

impl IntoFuture for Put {
    type Output = Result<Written, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
