//! Deleting one key.

use std::future::IntoFuture;

use bytes::Bytes;
use futures::future::BoxFuture;
use ringfort_proto::v1::{DeleteRequest, operation_result};
use tokio::time::Instant;

use super::get::Get;
use crate::{
    Client, Context, Deleted, Durability, Error,
    call::{Call, mismatch, run},
    options::{Common, common_options},
};

/// A delete of one key; await it. See [`Client::delete`].
#[derive(Debug, Clone)]
#[must_use = "nothing is deleted until it is awaited"]
pub struct Delete {
    pub(super) client: Client,
    pub(super) common: Common,
    pub(super) key: Bytes,
    pub(super) context: Option<Context>,
    pub(super) w: Option<u32>,
    pub(super) durability: Option<Durability>,
    pub(super) purge: bool,
}

impl Delete {
    pub(crate) fn new(client: Client, key: Bytes) -> Self {
        Delete {
            client,
            common: Common::default(),
            key,
            context: None,
            w: None,
            durability: None,
            purge: false,
        }
    }

    common_options!();

    /// Deletes exactly what this context covers, without reading first.
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// How many copies acknowledge the delete before it returns.
    pub fn w(mut self, w: u32) -> Self {
        self.w = Some(w);
        self
    }

    /// What an acknowledged copy rests on.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Keeps nothing of what is deleted, so that it cannot be [undeleted](Client::undelete).
    pub fn purge(mut self) -> Self {
        self.purge = true;
        self
    }

    pub(super) async fn send(self) -> Result<Deleted, Error> {
        let deadline = self.common.deadline(&self.client.inner().defaults);
        self.send_by(deadline).await
    }

    pub(super) async fn send_by(mut self, deadline: Instant) -> Result<Deleted, Error> {
        // Read once per call, and keep that context over all attempts: a second read could cover what was written
        // after the caller decided to delete.
        let (context, found) = match self.context.take() {
            Some(context) => (context, None),
            None => {
                let mut get = Get::new(self.client.clone(), self.key.clone());
                get.common = self.common.clone();
                let read = get.send_by(deadline).await?;
                match read.context() {
                    Some(context) if read.is_found() => (context.clone(), Some(true)),
                    _ => return Ok(Deleted::nothing(&read)),
                }
            }
        };
        let inner = self.client.inner();
        let request = DeleteRequest {
            key: Some(self.common.key(&inner.defaults, self.key)),
            context: context.into_bytes(),
            options: Some(
                self.common
                    .write_options(&inner.defaults, self.w, self.durability),
            ),
            purge: self.purge,
        };
        match run(&Call::delete(inner, request, deadline), inner).await? {
            operation_result::Kind::Delete(delete) => Ok(Deleted::from_wire(delete, found)),
            _ => Err(mismatch(true)),
        }
    }
}

impl IntoFuture for Delete {
    type Output = Result<Deleted, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
