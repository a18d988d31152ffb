//! The limits of the data path (I7): each queue, list, message and wait has one, and a typed error past it.

use std::time::Duration;

/// A value in one put, at most.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Siblings of one object that a coordinator lets a write leave.
pub const SIBLINGS_MAX: usize = 64;
/// Bytes of one object that a coordinator lets a write leave.
pub const OBJECT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the values that a delete replaced can be undeleted, unless configured otherwise.
pub const SOFT_DELETE: Duration = Duration::from_secs(24 * 60 * 60);
/// Operations that a node coordinates at once; past it `OVERLOADED`.
pub const PENDING_OPERATIONS_MAX: usize = 65_536;
/// Running request ids of one client; past it `OVERLOADED`.
pub const RUNNING_PER_CLIENT_MAX: usize = 4_096;
/// Running request ids of a node; past it `OVERLOADED`.
pub const RUNNING_PER_NODE_MAX: usize = 65_536;
/// Attempts of one running request id that wait for the first.
pub const ATTACHED_MAX: usize = 8;
/// How long a write that is answered is kept for the copies that are still to be acknowledged: an owner that is lost meanwhile
/// gets its fallback, and one that is silent is marked for anti-entropy.
pub const LINGER: Duration = Duration::from_secs(1);
/// Writes that are answered and kept, at most; past it whoever has not acknowledged is marked at once.
pub const LINGERING_MAX: usize = 65_536;
/// The longest deadline that is kept; longer ones are cut to it.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// Width of a deadline bucket, and the period of the ticks that empty them.
pub const TICK: Duration = Duration::from_millis(5);
/// Loads that one operation waits for before it is refused as `OVERLOADED`: each found its key evicted again.
pub const LOADS_MAX: u8 = 4;
/// Jobs that wait for the engine pool; past it what needs one is `OVERLOADED`.
pub const POOL_JOBS_MAX: usize = 4_096;

/// Operations of one session without an answer taken; the node stops reading there.
pub const SESSION_OPERATIONS_MAX: usize = 4_096;
/// Bytes of requests of one session without an answer taken; the node stops reading there.
pub const SESSION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of answers that wait in one session; past it further reads are answered `OVERLOADED`.
pub const SESSION_OUTBOX_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Sessions of a node; past it `OVERLOADED`.
pub const SESSIONS_MAX: usize = 1_024;
/// Operations in one unary batch; past it `TOO_LARGE`.
pub const BATCH_OPERATIONS_MAX: usize = 4_096;
/// Bytes of the answers of one unary batch; past it the batch's further reads are answered `TOO_LARGE`. One larger
/// answer goes alone.
pub const BATCH_ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A message from a client, at most.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Windows towards clients: of a stream and of a connection.
pub const CLIENT_STREAM_WINDOW: u32 = 256 * 1024;
/// See [`CLIENT_STREAM_WINDOW`].
pub const CLIENT_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Keys of one page of a scan, at most.
pub const SCAN_KEYS_MAX: u32 = 1_000;
/// Bytes of one page of a scan, give or take one object.
pub const SCAN_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes that wait for one peer; past it an operation counts as not sent to that peer.
pub const PEER_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of one batch between nodes; one larger value goes alone.
pub const PEER_BATCH_BYTES_MAX: usize = 256 * 1024;
/// Objects over this go by the second connection.
pub const PEER_LARGE_BYTES: usize = 64 * 1024;
/// A message between nodes, at most.
pub const PEER_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Hints in one delivery to an owner, at most.
pub const DELIVERIES_MAX: usize = 256;
/// Bytes of the objects in one delivery, give or take one.
pub const DELIVERY_BYTES_MAX: usize = 256 * 1024;
/// Incoming streams of peers, two of each; past it `OVERLOADED`.
pub const PEER_STREAMS_MAX: usize = 16_384;
/// Bytes of replies that wait for one peer; past it the node stops reading from that peer.
pub const PEER_OUTBOX_BYTES_MAX: usize = 32 * 1024 * 1024;
/// One attempt to connect to a peer.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to connect to a peer.
pub const PEER_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The limits that a configuration may change; the others are fixed by the constants of this module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// See [`PENDING_OPERATIONS_MAX`].
    pub pending_operations: usize,
    /// See [`RUNNING_PER_CLIENT_MAX`].
    pub running_per_client: usize,
    /// See [`RUNNING_PER_NODE_MAX`].
    pub running_per_node: usize,
    /// See [`VALUE_BYTES_MAX`].
    pub value_bytes: usize,
    /// See [`SIBLINGS_MAX`].
    pub siblings: usize,
    /// See [`OBJECT_BYTES_MAX`].
    pub object_bytes: usize,
    /// See [`SOFT_DELETE`].
    pub soft_delete: Duration,
    /// See [`SESSION_OPERATIONS_MAX`].
    pub session_operations: usize,
    /// See [`SESSION_BYTES_MAX`].
    pub session_bytes: usize,
    /// See [`SESSIONS_MAX`].
    pub sessions: usize,
    /// See [`PEER_QUEUE_BYTES_MAX`].
    pub peer_queue_bytes: usize,
    /// See [`PEER_CONNECT_TIMEOUT`].
    pub peer_connect_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            pending_operations: PENDING_OPERATIONS_MAX,
            running_per_client: RUNNING_PER_CLIENT_MAX,
            running_per_node: RUNNING_PER_NODE_MAX,
            value_bytes: VALUE_BYTES_MAX,
            siblings: SIBLINGS_MAX,
            object_bytes: OBJECT_BYTES_MAX,
            soft_delete: SOFT_DELETE,
            session_operations: SESSION_OPERATIONS_MAX,
            session_bytes: SESSION_BYTES_MAX,
            sessions: SESSIONS_MAX,
            peer_queue_bytes: PEER_QUEUE_BYTES_MAX,
            peer_connect_timeout: PEER_CONNECT_TIMEOUT,
        }
    }
}
