//! Storing one value.

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use ringfort_proto::v1::{PutRequest, operation_result};
use tokio::time::Instant;

use crate::{
    Client, Context, Durability, Error, Written,
    call::{Call, mismatch, run},
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

    /// The call, to be awaited. All that it is made from is judged here and now, which keeps the future small.
    pub(super) fn send_by(
        self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Written, Error>> + Send + use<> {
        let defaults = &self.client.inner().defaults;
        let request = PutRequest {
            key: Some(self.common.key(defaults, self.key)),
            value: self.value,
            context: self.context.map(Context::into_bytes).unwrap_or_default(),
            if_absent: self.if_absent,
            ttl_ms: self.ttl.map_or(0, ttl_ms),
            options: Some(self.common.write_options(defaults, self.w, self.durability)),
        };
        let call = Call::put(self.client.inner(), request, deadline);
        let client = self.client;
        async move {
            match run(&call, client.inner()).await? {
                operation_result::Kind::Put(put) => Ok(Written::from_put(put)),
                _ => Err(mismatch(true)),
            }
        }
    }
}

/// A lifetime below a millisecond is one, not forever.
fn ttl_ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl IntoFuture for Put {
    type Output = Result<Written, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let deadline = self.common.deadline(&self.client.inner().defaults);
        Box::pin(self.send_by(deadline))
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_future_of_a_put_is_small() {
        let client = Client::builder().build().expect("the defaults are valid");
        let deadline = Instant::now() + Duration::from_secs(1);
        let bytes = size_of_val(&client.put("key", "value").send_by(deadline));
        // One allocation per call, of a size that allocators keep at hand.
        assert!(bytes <= 1024, "{bytes} bytes");
    }
}
