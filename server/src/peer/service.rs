//! `ringfort.peer.v1.Peer` on the peer port.

use std::sync::{Arc, OnceLock};

use ringfort_proto::{
    Failure, Reason, peer,
    peer::peer_server::{Peer, PeerServer},
};
use ringfort_ring::StoreId;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::{
    fence::Fenced,
    outbox::{Outbox, Outgoing},
    replica::Replica,
};
use crate::limits::{PEER_MESSAGE_BYTES_MAX, SCAN_BYTES_MAX, SCAN_KEYS_MAX};

/// The part of the peer service that is no data path: bootstrap, status, gossip.
#[tonic::async_trait]
pub trait Membership: Send + Sync + 'static {
    /// Tells who this node is, and what it heard of the asker.
    async fn hello(&self, request: peer::HelloRequest) -> Result<peer::HelloResponse, Status>;

    /// Accepts the decree of epoch 1, durably.
    async fn accept(&self, request: peer::AcceptRequest) -> Result<peer::AcceptResponse, Status>;

    /// Answers one message of an exchange of gossip.
    async fn gossip(&self, message: peer::GossipMessage) -> Result<peer::GossipMessage, Status>;

    /// Begins to verify all that is stored.
    async fn scrub(&self, request: peer::ScrubRequest) -> Result<peer::ScrubResponse, Status>;

    /// Votes on the next decree.
    async fn vote(&self, request: peer::VoteRequest) -> Result<peer::VoteResponse, Status>;

    /// Takes over a newer decree, and tells the newest.
    async fn decrees(&self, request: peer::DecreesRequest)
    -> Result<peer::DecreesResponse, Status>;
}

/// Holds the data path once the node is a member; empty before.
pub type DataSlot = Arc<OnceLock<Arc<Replica>>>;

/// The service, to be added to the server of the peer port. It serves `membership` at once, and the data path as soon
/// as `data` is filled.
pub fn service(membership: Arc<dyn Membership>, data: DataSlot) -> PeerServer<PeerService> {
    PeerServer::new(PeerService { membership, data })
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

/// Implements the generated trait.
pub struct PeerService {
    membership: Arc<dyn Membership>,
    data: DataSlot,
}

impl PeerService {
    fn data(&self) -> Result<&Arc<Replica>, Status> {
        self.data.get().ok_or_else(|| {
            Failure::new(
                Reason::QuorumUnavailable,
                "this node is no member of a cluster yet",
            )
            .into()
        })
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(
        &self,
        request: Request<peer::HelloRequest>,
    ) -> Result<Response<peer::HelloResponse>, Status> {
        self.membership
            .hello(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn accept(
        &self,
        request: Request<peer::AcceptRequest>,
    ) -> Result<Response<peer::AcceptResponse>, Status> {
        self.membership
            .accept(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn gossip(
        &self,
        request: Request<peer::GossipMessage>,
    ) -> Result<Response<peer::GossipMessage>, Status> {
        self.membership
            .gossip(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let answer = self.membership.vote(request.into_inner()).await;
        answer.map(Response::new)
    }

    async fn decrees(
        &self,
        request: Request<peer::DecreesRequest>,
    ) -> Result<Response<peer::DecreesResponse>, Status> {
        let answer = self.membership.decrees(request.into_inner()).await;
        answer.map(Response::new)
    }

    async fn scrub(
        &self,
        request: Request<peer::ScrubRequest>,
    ) -> Result<Response<peer::ScrubResponse>, Status> {
        let answer = self.membership.scrub(request.into_inner()).await;
        answer.map(Response::new)
    }

    type ExchangeStream = ExchangeStream;

    async fn exchange(
        &self,
        request: Request<Streaming<peer::Batch>>,
    ) -> Result<Response<ExchangeStream>, Status> {
        let replica = Arc::clone(self.data()?);
        let (outbox, outgoing) = replica.open()?;
        let reader = tokio::spawn(read(request.into_inner(), replica, outbox));
        Ok(Response::new(ExchangeStream {
            outgoing,
            reader: reader.abort_handle(),
        }))
    }

    async fn scan(
        &self,
        request: Request<peer::ScanRequest>,
    ) -> Result<Response<peer::ScanResponse>, Status> {
        let replica = self.data()?;
        let mut request = request.into_inner();
        check_fence(replica, request.fence)?;
        request.max_keys = request.max_keys.clamp(1, SCAN_KEYS_MAX);
        request.max_bytes = request.max_bytes.clamp(1, SCAN_BYTES_MAX);
        let parts = replica.scan_parts();
        let (done, page) = oneshot::channel();
        // A caller that went away needs no page.
        let job = move || drop(done.send(parts.page(&request)));
        let busy = || Failure::new(Reason::Overloaded, "the engine pool is full");
        replica.pool().submit(Box::new(job)).map_err(|_| busy())?;
        Ok(Response::new(page.await.map_err(|_| busy())??))
    }

    async fn transfer(
        &self,
        request: Request<peer::TransferRequest>,
    ) -> Result<Response<peer::TransferResponse>, Status> {
        let replica = self.data()?;
        let request = request.into_inner();
        check_fence(replica, request.fence)?;
        let mut page = replica.giver().answer(request).await?;
        page.fence = Some(replica.fences().fence());
        Ok(Response::new(page))
    }

    async fn compare(
        &self,
        request: Request<peer::CompareRequest>,
    ) -> Result<Response<peer::CompareResponse>, Status> {
        let replica = self.data()?;
        let request = request.into_inner();
        check_fence(replica, request.fence)?;
        let from = StoreId(request.fence.unwrap_or_default().store_id);
        let answer = replica.comparer().answer(from, request).await?;
        Ok(Response::new(peer::CompareResponse {
            fence: Some(replica.fences().fence()),
            answer: Some(answer),
        }))
    }

    async fn reap(
        &self,
        request: Request<peer::ReapRequest>,
    ) -> Result<Response<peer::ReapResponse>, Status> {
        let replica = self.data()?;
        let request = request.into_inner();
        check_fence(replica, request.fence)?;
        let standings = replica.reaping().answer(request.question).await?;
        // After what was said was true: whoever was sent anything older by this node is listed in this epoch's decree.
        let fence = Some(replica.fences().fence());
        Ok(Response::new(peer::ReapResponse { fence, standings }))
    }

    async fn deliver(
        &self,
        request: Request<peer::DeliverRequest>,
    ) -> Result<Response<peer::DeliverResponse>, Status> {
        let replica = self.data()?;
        let request = request.into_inner();
        check_fence(replica, request.fence)?;
        let mut answer = replica.taker().answer(request).await?;
        answer.fence = Some(replica.fences().fence());
        Ok(Response::new(answer))
    }
}

/// Judges the fence of a unary request.
fn check_fence(replica: &Replica, fence: Option<peer::Fence>) -> Result<(), Failure> {
    let fence = fence.unwrap_or_default();
    match replica.fences().judge(&fence) {
        Fenced::Foreign => Err(replica.fences().wrong_cluster(&fence)),
        Fenced::Stale(epoch) => {
            let why = format!("the layout is at epoch {epoch} by now");
            Err(Failure::new(Reason::StaleEpoch, why).with("epoch", epoch))
        }
        Fenced::Current => Ok(()),
    }
}

/// Applies the batches of one stream until it ends.
async fn read(mut batches: Streaming<peer::Batch>, replica: Arc<Replica>, outbox: Arc<Outbox>) {
    loop {
        outbox.wait_for_room().await;
        match batches.message().await {
            Ok(Some(batch)) => {
                if let Err(failure) = replica.apply(batch, &outbox) {
                    return outbox.refuse(failure.into());
                }
            }
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(%status, "an incoming stream of a peer broke");
                break;
            }
        }
    }
    outbox.finish();
}

/// The replies of one stream. Dropping it ends the reading.
pub struct ExchangeStream {
    outgoing: Outgoing,
    reader: tokio::task::AbortHandle,
}

impl futures::Stream for ExchangeStream {
    type Item = Result<peer::Replies, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::pin::Pin::new(&mut self.outgoing).poll_next(cx)
    }
}

impl Drop for ExchangeStream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
