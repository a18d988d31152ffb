//! Reading one key.

use std::future::IntoFuture;

use bytes::Bytes;
use futures::future::BoxFuture;
use ringfort_proto::v1::{GetRequest, operation_result};
use tokio::time::Instant;

use crate::{
    Client, Error, Read,
    call::{Call, mismatch, run},
    options::{Common, common_options},
};

/// A read of one key; await it. See [`Client::get`].
#[derive(Debug, Clone)]
#[must_use = "nothing is read until it is awaited"]
pub struct Get {
    pub(super) client: Client,
    pub(super) common: Common,
    pub(super) key: Bytes,
    pub(super) r: Option<u32>,
    pub(super) deleted: bool,
}

impl Get {
    pub(crate) fn new(client: Client, key: Bytes) -> Self {
        Get {
            client,
            common: Common::default(),
            key,
            r: None,
            deleted: false,
        }
    }

    common_options!();

    /// How many copies answer before the read returns.
    pub fn r(mut self, r: u32) -> Self {
        self.r = Some(r);
        self
    }

    /// Also reads what was deleted lately: see [`Read::deleted`].
    pub fn deleted(mut self, deleted: bool) -> Self {
        self.deleted = deleted;
        self
    }

    /// The call, to be awaited.
    pub(super) fn send_by(
        self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Read, Error>> + Send + use<> {
        let defaults = &self.client.inner().defaults;
        let request = GetRequest {
            key: Some(self.common.key(defaults, self.key)),
            options: Some(self.common.read_options(defaults, self.r)),
            deleted: self.deleted,
        };
        let call = Call::get(request, deadline);
        let client = self.client;
        async move {
            match run(&call, client.inner()).await? {
                operation_result::Kind::Get(get) => Ok(Read::from_wire(get)),
                _ => Err(mismatch(false)),
            }
        }
    }
}

impl IntoFuture for Get {
    type Output = Result<Read, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let deadline = self.common.deadline(&self.client.inner().defaults);
        Box::pin(self.send_by(deadline))
    }
}
