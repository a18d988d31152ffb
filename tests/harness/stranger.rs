//! Somebody who does not belong: a node that the layout listed once and that speaks under its old epoch, or a node of another cluster.
//! It connects to the peer port as any node does, and sends a well-formed object.
//!
//! Judges I9 from outside: such a message is refused, and one of a stale epoch is told the newer one. What is taken all the same
//! the checker finds as a value that nobody wrote.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use ringfort::{
    net::{Net, connect_channel},
    wire::encode_object,
};
use ringfort_proto::{
    Failure, Reason,
    peer::{self, peer_client::PeerClient},
};
use ringfort_ring::token;
use ringfort_storage::{
    Key,
    version::{ActorId, Dot, NewPayload, Object, RequestId, Value, Write},
};
use tokio::time::{sleep, timeout};
use tonic::{Status, transport::Channel};

use super::{history::History, net::SimNet, workload::key_name};

/// The namespace of clients that name none.
const NAMESPACE: &[u8] = b"default";
/// What the stranger stores; no client does.
const VALUE: &[u8] = b"a stranger's";
/// The stranger gives a node up after this.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks for orders.
const PAUSE: Duration = Duration::from_millis(20);
/// The number of its message.
const ID: u64 = 7;

/// One thing to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The name of the node to bother.
    pub node: String,
    /// The number of the key to write.
    pub key: usize,
    /// Decides the rest.
    pub seed: u64,
}

/// What is to be done. Clones share it.
#[derive(Clone, Default)]
pub struct Orders(Arc<Mutex<VecDeque<Order>>>);

impl Orders {
    /// Adds one.
    pub fn give(&self, order: Order) {
        self.all().push_back(order);
    }

    fn take(&self) -> Option<Order> {
        self.all().pop_front()
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<Order>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what it is told, for ever.
pub async fn run(orders: Orders, history: History) {
    loop {
        let Some(order) = orders.take() else {
            sleep(PAUSE).await;
            continue;
        };
        let answer = match timeout(PATIENCE, bother(&order)).await {
            Ok(answer) => answer,
            Err(_) => Ok(Answer::None("it takes too long".to_owned())),
        };
        let node = &order.node;
        let trace = &history.trace;
        match answer {
            Ok(Answer::Refused) => trace.line(format_args!("{node} refuses the stranger")),
            Ok(Answer::None(why)) => {
                trace.line(format_args!("{node} has no answer for the stranger: {why}"));
            }
            Err(wrong) => history.records().wrong.push(wrong),
        }
    }
}

/// What became of a message, if all is well.
enum Answer {
    /// Refused, as it must be.
    Refused,
    /// The node was not there, or went away.
    None(String),
}

/// Sends one message. What is wrong with the answer is the error.
async fn bother(order: &Order) -> Result<Answer, String> {
    let mut client = match connect(&order.node).await {
        Ok(client) => client,
        Err(why) => return Ok(Answer::None(why)),
    };
    // Asked as an empty node asks, which belongs to no cluster yet.
    let hello = client.hello(peer::HelloRequest::default()).await;
    let decree = hello.ok().and_then(|hello| hello.into_inner().decree);
    let Some(peer::Decree {
        cluster_id,
        layout: Some(layout),
        ..
    }) = decree
    else {
        return Ok(Answer::None("it tells of no cluster".to_owned()));
    };
    let is_foreign = order.seed.is_multiple_of(2);
    let mut fence = peer::Fence {
        cluster_id,
        epoch: layout.epoch,
        store_id: order.seed,
        durable_sequence: 0,
    };
    if is_foreign {
        fence.cluster_id ^= 1;
    } else {
        fence.epoch -= 1;
    }
    let batch = peer::Batch {
        fence: Some(fence),
        stores: vec![store(order)],
        ..peer::Batch::default()
    };
    // The stream must not end before the answer comes.
    let batches =
        futures::StreamExt::chain(futures::stream::iter([batch]), futures::stream::pending());
    let reply = match client.exchange(batches).await {
        Ok(replies) => first_answer(replies.into_inner()).await,
        Err(status) => Err(status),
    };
    judge(reply, is_foreign, layout.epoch)
        .map_err(|wrong| format!("{}, of the stranger's {fence:?}: {wrong}", order.node))
}

async fn connect(node: &str) -> Result<PeerClient<Channel>, String> {
    let net = Arc::new(SimNet) as Arc<dyn Net>;
    let addr = format!("{node}:7500");
    let channel = connect_channel(&net, &addr, PATIENCE).await;
    channel
        .map(PeerClient::new)
        .map_err(|error| error.to_string())
}

/// The first message that answers the store; `None`: the stream ended without.
async fn first_answer(
    mut replies: tonic::Streaming<peer::Replies>,
) -> Result<Option<peer::Replies>, Status> {
    while let Some(message) = replies.message().await? {
        let refused = message.refused.iter().any(|refused| refused.id == ID);
        if refused || message.stored.contains(&ID) {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

fn judge(
    reply: Result<Option<peer::Replies>, Status>,
    is_foreign: bool,
    epoch: u64,
) -> Result<Answer, String> {
    match reply {
        Ok(None) => Ok(Answer::None("the stream ended".to_owned())),
        Err(status) => match Failure::from_status(&status) {
            Some(failure) if is_foreign && failure.reason == Reason::WrongCluster => {
                Ok(Answer::Refused)
            }
            Some(failure) if failure.reason == Reason::WrongCluster => {
                Err(format!("refused as foreign: {failure}"))
            }
            _ => Ok(Answer::None(status.message().to_owned())),
        },
        Ok(Some(message)) => match message.refused.first() {
            Some(refused)
                if !is_foreign
                    && refused.reason == Reason::StaleEpoch.as_str()
                    && refused.epoch >= epoch =>
            {
                Ok(Answer::Refused)
            }
            Some(refused) => Err(format!("refused with the wrong words: {refused:?}")),
            None => Err("it was taken".to_owned()),
        },
    }
}

/// A well-formed store of a value that no client wrote.
fn store(order: &Order) -> peer::Store {
    let name = key_name(order.key);
    let token = token(NAMESPACE, name.as_bytes());
    let key = Key::new(token.0, NAMESPACE, name.as_bytes()).expect("a short key");
    let dot = Dot {
        actor: ActorId(order.seed),
        counter: 1,
    };
    let write = Write {
        context: None,
        payload: NewPayload::Value(Value::new(Bytes::from_static(VALUE))),
        request: RequestId {
            client: order.seed,
            sequence: 1,
        },
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms: 0,
    };
    peer::Store {
        id: ID,
        key: key.framed().clone(),
        object: encode_object(&Object::empty().write(&write, dot, 1)),
        ..peer::Store::default()
    }
}
