//! What a client asked for, checked: everything that can be refused before anything is attempted.

use std::time::Duration;

use bytes::Bytes;
use ringfort_proto::{Failure, Reason, v1, v1::operation::Kind};
use ringfort_ring::{Layout, PartitionId, Token, token};
use ringfort_storage::{
    Key, KeyError,
    version::{Context, NewPayload, RequestId, Value, context},
};

use crate::{
    counters::Verb,
    limits::{DEADLINE_MAX, Limits},
};

/// The namespace of keys that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// An operation whose key and deadline are good: enough to find its owners.
pub(super) struct Addressed {
    pub key: Key,
    pub partition: PartitionId,
    pub verb: Verb,
    pub deadline: Duration,
}

/// A read, checked.
pub(super) struct ReadSpec {
    pub need: u32,
    /// Only owners count.
    pub strict: bool,
    /// Whether what can be undeleted is told, too.
    pub deleted: bool,
}

/// A write, checked.
#[derive(Debug)]
pub(super) struct WriteSpec {
    pub payload: NewPayload,
    pub context: Option<Context>,
    /// `None`: the node makes one.
    pub request: Option<RequestId>,
    pub lowest_unanswered: u64,
    pub ttl_ms: u64,
    pub if_absent: bool,
    /// `None`: the default of each layout.
    pub w: Option<u32>,
    pub buffered: bool,
    /// Only owners count.
    pub strict: bool,
}

/// Frames the key of a request and finds its partition.
///
/// # Errors
/// `EMPTY_KEY`, `TOO_LARGE`.
pub fn locate(key: Option<&v1::Key>, layout: &Layout) -> Result<(Key, PartitionId), Failure> {
    let key = key.ok_or_else(empty_key)?;
    let namespace = if key.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        &key.namespace
    };
    let token = token(namespace.as_bytes(), &key.key);
    let key = Key::new(token.0, namespace.as_bytes(), &key.key).map_err(|why| match why {
        KeyError::Empty => empty_key(),
        why => Failure::new(Reason::TooLarge, why.to_string()),
    })?;
    let partition = layout.partition_of(Token(key.token()));
    Ok((key, partition))
}

fn empty_key() -> Failure {
    Failure::new(Reason::EmptyKey, "the request names no key")
}

/// Checks what every operation needs.
///
/// # Errors
/// `BAD_REQUEST`, `NO_DEADLINE`, and those of [`locate`].
pub(super) fn address(operation: &v1::Operation, layout: &Layout) -> Result<Addressed, Failure> {
    let (key, verb) = match &operation.kind {
        Some(Kind::Put(put)) => (&put.key, Verb::Put),
        Some(Kind::Get(get)) => (&get.key, Verb::Get),
        Some(Kind::Delete(delete)) => (&delete.key, Verb::Delete),
        None => {
            return Err(Failure::new(
                Reason::BadRequest,
                "the operation is none that this node knows",
            ));
        }
    };
    if operation.deadline_us == 0 {
        return Err(Failure::new(
            Reason::NoDeadline,
            "every request has a deadline; give one",
        ));
    }
    let deadline = Duration::from_micros(operation.deadline_us).min(DEADLINE_MAX);
    let (key, partition) = locate(key.as_ref(), layout)?;
    Ok(Addressed {
        key,
        partition,
        verb,
        deadline,
    })
}

/// Checks a get.
pub(super) fn check_get(get: &v1::GetRequest, layout: &Layout) -> Result<ReadSpec, Failure> {
    let options = get.options.as_ref();
    Ok(ReadSpec {
        need: quorum("r", options.and_then(|o| o.r), layout)?,
        strict: options.and_then(|o| o.strict).unwrap_or(false),
        deleted: get.deleted,
    })
}

/// Checks a put; its value is copied.
pub(super) fn check_put(
    put: &v1::PutRequest,
    key: &Key,
    cluster: u64,
    layout: &Layout,
    limits: &Limits,
) -> Result<WriteSpec, Failure> {
    if put.value.len() > limits.value_bytes {
        let why = format!(
            "the value has {} bytes, {} are allowed",
            put.value.len(),
            limits.value_bytes
        );
        return Err(Failure::new(Reason::TooLarge, why).with("limit", limits.value_bytes));
    }
    let context = (!put.context.is_empty())
        .then(|| decode_context(&put.context, cluster, key))
        .transpose()?;
    if put.if_absent && context.is_some() {
        return Err(Failure::new(
            Reason::BadRequest,
            "if_absent takes no context: it writes with the one it reads",
        ));
    }
    // Kept: so copied, never a slice of the receive buffer.
    let payload = NewPayload::Value(Value::new(Bytes::copy_from_slice(&put.value)));
    write_spec(
        payload,
        context,
        put.ttl_ms,
        put.if_absent,
        put.options.as_ref(),
        layout,
    )
}

/// Checks a delete: a write of a tombstone, with the context that it needs.
pub(super) fn check_delete(
    delete: &v1::DeleteRequest,
    key: &Key,
    cluster: u64,
    layout: &Layout,
    limits: &Limits,
) -> Result<WriteSpec, Failure> {
    if delete.context.is_empty() {
        let why = "a delete needs the context of a read of the same key";
        return Err(Failure::new(Reason::BadContext, why));
    }
    let context = decode_context(&delete.context, cluster, key)?;
    // What nobody could undelete is not kept.
    let payload = match delete.purge || limits.soft_delete.is_zero() {
        true => NewPayload::Purge,
        false => NewPayload::Delete,
    };
    write_spec(
        payload,
        Some(context),
        0,
        false,
        delete.options.as_ref(),
        layout,
    )
}

fn write_spec(
    payload: NewPayload,
    context: Option<Context>,
    ttl_ms: u64,
    if_absent: bool,
    options: Option<&v1::WriteOptions>,
    layout: &Layout,
) -> Result<WriteSpec, Failure> {
    let w = options.and_then(|o| o.w);
    quorum("w", w, layout)?;
    let request = options.and_then(|o| o.request_id.as_ref());
    Ok(WriteSpec {
        payload,
        context,
        request: request.map(|r| RequestId {
            client: r.client,
            sequence: r.sequence,
        }),
        lowest_unanswered: options.map_or(0, |o| o.lowest_unanswered),
        ttl_ms,
        if_absent,
        w,
        buffered: options.is_some_and(|o| o.durability() == v1::Durability::Buffered),
        strict: options.and_then(|o| o.strict).unwrap_or(false),
    })
}

fn decode_context(bytes: &[u8], cluster: u64, key: &Key) -> Result<Context, Failure> {
    context::decode(bytes, cluster, key)
        .map_err(|why| Failure::new(Reason::BadContext, why.to_string()))
}

/// W or R: as asked for, or the default. More than the owners there are is left to the check of who is alive.
pub(crate) fn quorum(name: &str, asked: Option<u32>, layout: &Layout) -> Result<u32, Failure> {
    match asked {
        None => Ok(layout.default_quorum()),
        Some(asked) if (1..=layout.replicas()).contains(&asked) => Ok(asked),
        Some(asked) => {
            let why = format!("{name} is {asked}; it may be 1 to {}", layout.replicas());
            Err(Failure::new(Reason::BadQuorum, why)
                .with(name, asked)
                .with("n", layout.replicas()))
        }
    }
}
