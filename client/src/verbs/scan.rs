//! All keys, page by page, as a stream that can be taken up again.
//!
//! *Invariant:* a resume token stands after exactly the entries that the stream has yielded. It holds the cursor of the
//! page in progress and the last key yielded; the page is asked for again and what is not after that key is skipped, in
//! the order of tokens, so that keys which come or go meanwhile shift nothing.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context as Wake, Poll},
};

use bytes::Bytes;
use futures::{FutureExt, Stream, future::BoxFuture};
use prost::Message;
use ringfort_proto::v1::{Key, ScanEntry, ScanRequest, ScanResponse, kv_client::KvClient};
use tokio::time::{Duration, Instant};

use crate::{
    Client, Context, Error, Read, Sibling,
    ask::Attempt,
    call::token_of,
    inner::DEFAULT_NAMESPACE,
    options::{Common, TIMEOUT_MAX, common_options},
    session::MESSAGE_BYTES_MAX,
};

/// How long one page may take unless told otherwise: more than a single operation, since it reads many keys.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// One key and what stands under it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// The key's namespace.
    pub namespace: String,
    /// The key.
    pub key: Bytes,
    /// Its values; empty in a scan of keys only.
    pub siblings: Vec<Sibling>,
    /// What to hand in with a write that replaces these.
    pub context: Option<Context>,
}

/// Where a scan stands: opaque bytes that start another scan after the last entry that was yielded.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeToken(Bytes);

impl ResumeToken {
    /// A token from bytes that [`as_bytes`](ResumeToken::as_bytes) gave.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        ResumeToken(bytes.into())
    }

    /// The bytes, to be kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResumeToken({} bytes)", self.0.len())
    }
}

/// What a resume token holds.
#[derive(Clone, PartialEq, Message)]
struct Position {
    /// The cursor of the page in progress.
    #[prost(bytes = "bytes", tag = "1")]
    cursor: Bytes,
    /// The last key yielded.
    #[prost(message, optional, tag = "2")]
    last: Option<Key>,
    /// Whether the scan is over.
    #[prost(bool, tag = "3")]
    done: bool,
}

/// A stream of all entries in token order. Options are set before it is polled. See [`Client::scan`].
///
/// It ends after an error; [`resume_token`](Scan::resume_token) then says where to go on.
#[must_use = "a stream does nothing until it is polled"]
pub struct Scan {
    client: Client,
    common: Common,
    r: Option<u32>,
    limit: u32,
    keys_only: bool,
    position: Position,
    /// The cursor of the page after the one in progress; empty after the last.
    next_cursor: Bytes,
    page: VecDeque<ScanEntry>,
    /// Whether `page` is what the position's cursor gave.
    loaded: bool,
    asking: Option<BoxFuture<'static, Result<ScanResponse, Error>>>,
    failed: Option<Error>,
    ended: bool,
}

impl Scan {
    pub(crate) fn new(client: Client) -> Self {
        Scan {
            client,
            common: Common::default(),
            r: None,
            limit: 0,
            keys_only: false,
            position: Position::default(),
            next_cursor: Bytes::new(),
            page: VecDeque::new(),
            loaded: false,
            asking: None,
            failed: None,
            ended: false,
        }
    }

    common_options!();

    /// How many copies answer before a page returns.
    pub fn r(mut self, r: u32) -> Self {
        self.r = Some(r);
        self
    }

    /// How many keys a page has at most. A larger page is faster and takes more memory; the node has its own limit.
    pub fn page_size(mut self, keys: u32) -> Self {
        self.limit = keys;
        self
    }

    /// Leaves the values where they are.
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// Goes on after the last entry that another scan, with the same namespace, yielded.
    pub fn resume(mut self, token: &ResumeToken) -> Self {
        match Position::decode(token.0.clone()) {
            Ok(position) => {
                self.ended = position.done;
                self.position = position;
            }
            Err(error) => {
                self.failed = Some(Error::config(format!("this is no resume token: {error}")))
            }
        }
        self
    }

    /// Where the stream stands: after the last entry that it yielded.
    pub fn resume_token(&self) -> ResumeToken {
        ResumeToken(self.position.encode_to_vec().into())
    }

    fn ask(&self) -> BoxFuture<'static, Result<ScanResponse, Error>> {
        let client = self.client.clone();
        let defaults = &client.inner().defaults;
        let request = ScanRequest {
            cursor: self.position.cursor.clone(),
            limit: self.limit,
            // A scan is of all namespaces unless one is named, for the call or for the client.
            namespace: self
                .common
                .namespace
                .clone()
                .unwrap_or_else(|| defaults.namespace.clone()),
            keys_only: self.keys_only,
            options: Some(self.common.read_options(defaults, self.r)),
        };
        let timeout = self
            .common
            .timeout
            .unwrap_or(PAGE_TIMEOUT.max(defaults.timeout))
            .min(TIMEOUT_MAX);
        fetch(client, request, Instant::now() + timeout).boxed()
    }

    /// Goes on to the next page, or to the first; past the last one the scan is over.
    fn turn(&mut self) {
        if !self.loaded {
            self.asking = Some(self.ask());
        } else if self.next_cursor.is_empty() {
            self.position.done = true;
            self.ended = true;
        } else {
            self.position.cursor = std::mem::take(&mut self.next_cursor);
            self.loaded = false;
        }
    }

    /// Whether the last yielded key lies at or after this one.
    fn is_behind(&self, key: &Key) -> bool {
        self.position
            .last
            .as_ref()
            .is_some_and(|last| order(key) <= order(last))
    }
}

/// Asks for one page, a few times if need be.
async fn fetch(
    client: Client,
    request: ScanRequest,
    deadline: Instant,
) -> Result<ScanResponse, Error> {
    let question = |channel, attempt: Attempt| {
        let mut request = request.clone();
        request.options.get_or_insert_default().attempt = attempt.number;
        let request = attempt.with(request);
        let mut node = KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        async move { node.scan(request).await }
    };
    client.inner().ask(deadline, question).await
}

/// The order of a scan: by token, then by the framed key.
fn order(key: &Key) -> (u64, usize, &str, &Bytes) {
    let namespace = namespace_of(key);
    (token_of(key).0, namespace.len(), namespace, &key.key)
}

fn namespace_of(key: &Key) -> &str {
    if key.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        &key.namespace
    }
}

impl Stream for Scan {
    type Item = Result<Entry, Error>;

    fn poll_next(self: Pin<&mut Self>, wake: &mut Wake<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            this.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            while let Some(found) = this.page.pop_front() {
                let key = found.key.clone().unwrap_or_default();
                if !this.is_behind(&key) {
                    this.position.last = Some(key);
                    return Poll::Ready(Some(Ok(entry(found))));
                }
            }
            if let Some(asking) = &mut this.asking {
                let Poll::Ready(answer) = asking.poll_unpin(wake) else {
                    return Poll::Pending;
                };
                this.asking = None;
                match answer {
                    Ok(page) => {
                        this.page = page.entries.into();
                        this.next_cursor = page.cursor;
                    }
                    Err(error) => {
                        this.ended = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                this.loaded = true;
                continue;
            }
            this.turn();
        }
    }
}

fn entry(wire: ScanEntry) -> Entry {
    let key = wire.key.unwrap_or_default();
    let namespace = namespace_of(&key).to_owned();
    let read = Read::from_wire(ringfort_proto::v1::GetResponse {
        deleted: Vec::new(),
        siblings: wire.siblings,
        context: wire.context,
        evidence: None,
    });
    let context = read.context().cloned();
    Entry {
        namespace,
        key: Bytes::copy_from_slice(&key.key),
        siblings: read.into_siblings(),
        context,
    }
}
