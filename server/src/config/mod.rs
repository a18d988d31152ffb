//! All settings of a node, from flags, environment and file; each limit that an operator may move has its place here (I7).
//!
//! One table makes the struct, the flags, the names of environment variables (`RINGFORT_` and the name in capitals) and
//! the fields of the file. Flags beat environment beats file beats default; [`Config::validate`] judges the whole, once.

mod file;
mod report;
mod validate;
mod value;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::limits::Limits;
pub(crate) use file::nearest;
pub use value::{ByteSize, HostPort, InitialMember, Setting, parse_duration};

/// Prefix of the environment variables that are settings.
pub const ENV_PREFIX: &str = "RINGFORT_";
/// Stands for the host's name in the text of any setting, wherever it came from.
const HOST_NAME: &str = "{hostname}";
/// The environment variable that has the host's name.
pub const HOST_NAME_ENV: &str = "HOSTNAME";
/// The source of a name that nobody gave.
const FROM_HOST: Source = Source::Derived("the host's name");
/// Environment variables with the prefix that are not settings of `serve`.
const OTHER_ENV: &[&str] = &["ENDPOINTS", "CONFIG", "LOG", "ENGINE_RESTARTS"];
/// A configuration file is this long at most, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Open files that are no connection of a client or of another node: 256 HTTP connections, those to other nodes, storage.
const OWN_FILES: usize = 384;

/// A setting, a file or a combination that cannot be used: `serve` exits 2 with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        ConfigError {
            problems: vec![problem.into()],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag(&'static str),
    /// An environment variable.
    Env(String),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// Nobody said otherwise.
    Default,
    /// Made from another value, which is named.
    Derived(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(name) => write!(f, "flag --{}", name.replace('_', "-")),
            Source::Env(name) => write!(f, "environment {name}"),
            Source::File(path, line) => write!(f, "file {}:{line}", path.display()),
            Source::Default => f.write_str("default"),
            Source::Derived(from) => write!(f, "from {from}"),
        }
    }
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, ($($arg:tt)*);)*) => {
        /// Every setting of one node.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $field: $type,)*
            /// Where each value came from, by the setting's name.
            pub sources: BTreeMap<&'static str, Source>,
        }

        /// The settings as flags: the text of each that was given.
        #[derive(Debug, Clone, Default, clap::Args)]
        pub struct Flags {
            $($(#[doc = $doc])+ #[arg(long, $($arg)*)] pub $field: Option<String>,)*
        }

        /// The names of all settings, as fields of the file.
        pub const NAMES: &[&str] = &[$(stringify!($field),)*];

        impl Flags {
            fn get(&self, name: &str) -> Option<&String> {
                match name { $(stringify!($field) => self.$field.as_ref(),)* _ => None }
            }
        }

        impl Config {
            fn from_texts(mut texts: Texts) -> Result<Self, ConfigError> {
                $(let $field = texts.take::<$type>(stringify!($field), $default);)*
                if !texts.problems.is_empty() {
                    return Err(ConfigError { problems: texts.problems });
                }
                let whole = "a value that is missing is a problem, and problems return above";
                Ok(Config {
                    $($field: $field.expect(whole),)*
                    sources: texts.sources,
                })
            }

            /// Each setting's name, value and source, in the order of the table.
            pub fn values(&self) -> Vec<(&'static str, serde_json::Value, &Source)> {
                let mut values = Vec::with_capacity(NAMES.len());
                $(values.push((stringify!($field), self.$field.show(), &self.sources[stringify!($field)]));)*
                values
            }
        }
    };
}

settings! {
    /// Name of this node, unique in the cluster: 1 to 63 of a-z, 0-9 and '-' [default: that of the directory, else the host's]
    name: String = Some("{hostname}"), (value_name = "NAME");
    /// Directory of this node's data [default: ringfort-data/NAME]
    data_dir: PathBuf = Some(""), (value_name = "DIR");
    /// Where to listen for clients (gRPC)
    client_addr: HostPort = Some("127.0.0.1:7400"), (value_name = "HOST:PORT");
    /// Where to listen for other nodes (gRPC)
    peer_addr: HostPort = Some("127.0.0.1:7500"), (value_name = "HOST:PORT");
    /// Where to listen for /livez, /readyz and /metrics (HTTP)
    http_addr: HostPort = Some("127.0.0.1:7600"), (value_name = "HOST:PORT");
    /// The address that clients dial, if not the bound one
    client_advertise: Option<HostPort> = Some(""), (value_name = "HOST:PORT");
    /// The address that other nodes dial, if not the bound one
    peer_advertise: Option<HostPort> = Some(""), (value_name = "HOST:PORT");
    /// The address that scrapers dial, if not the bound one
    http_advertise: Option<HostPort> = Some(""), (value_name = "HOST:PORT");
    /// All members of a new cluster by name and peer address, the same list on each; ignored once there is data
    initial: Vec<InitialMember> = Some(""), (value_name = "NAME=HOST:PORT,…");
    /// Peer addresses of members of an existing cluster
    seeds: Vec<HostPort> = Some(""), (value_name = "HOST:PORT,…");
    /// As a member, add nodes that wait to be added, without a staged layout change
    auto_join: bool = Some("false"), (value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true);
    /// Failure domain; with as many zones as replicas no two copies share one
    zone: String = Some(""), (value_name = "ZONE");
    /// Share of the data, 1 being the usual
    capacity: f64 = Some("1.0"), (value_name = "NUMBER");
    /// Partitions of a new cluster, a power of two; fixed once it exists
    partitions: u32 = Some("1024"), (value_name = "COUNT");
    /// Copies of each key in a new cluster (N)
    replicas: u32 = Some("3"), (value_name = "COUNT");
    /// Worker threads; 0: half of the cores, at least one
    workers: usize = Some("0"), (value_name = "COUNT");
    /// Memory for the table: write buffer and row cache in one
    table_bytes: ByteSize = Some("96MiB"), (value_name = "BYTES");
    /// Memory for sled's cache (it uses up to three times as much)
    sled_cache_bytes: ByteSize = Some("64MiB"), (value_name = "BYTES");
    /// Below this much free space puts of clients are refused
    free_space_floor: ByteSize = Some("256MiB"), (value_name = "BYTES");
    /// Below this much free space nothing more is stored or written down; what has begun may use it
    free_space_reserve: ByteSize = Some("128MiB"), (value_name = "BYTES");
    /// Connections of clients at once
    connections: usize = Some("4096"), (value_name = "COUNT");
    /// Connections of other nodes at once; each has three or four
    peer_connections: usize = Some("4096"), (value_name = "COUNT");
    /// Operations that this node coordinates at once
    pending_operations: usize = Some("65536"), (value_name = "COUNT");
    /// Running request ids of one client
    running_per_client: usize = Some("4096"), (value_name = "COUNT");
    /// Running request ids of this node
    running_per_node: usize = Some("65536"), (value_name = "COUNT");
    /// A value in one put, at most
    value_bytes: ByteSize = Some("1MiB"), (value_name = "BYTES");
    /// Siblings of one key, at most
    siblings: usize = Some("64"), (value_name = "COUNT");
    /// All siblings of one key together, at most
    object_bytes: ByteSize = Some("4MiB"), (value_name = "BYTES");
    /// How long the values that a delete replaced are kept and can be undeleted; the same on all nodes
    soft_delete: Duration = Some("24h"), (value_name = "DURATION");
    /// How long after that, or after they expired, deleted keys are remembered at least; then they are reaped, once all members take part
    reap_grace: Duration = Some("10m"), (value_name = "DURATION");
    /// For tests: allows a reap_grace in which a repeated request is not known any more, and is applied anew
    reap_early: bool = Some("false"), (value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true);
    /// Bytes a second that are read at most to verify what is stored
    scrub_rate: ByteSize = Some("4MiB"), (value_name = "BYTES");
    /// Everything stored is verified about so often
    scrub_interval: Duration = Some("24h"), (value_name = "DURATION");
    /// Sessions of clients at once
    sessions: usize = Some("1024"), (value_name = "COUNT");
    /// Operations of one session without an answer taken
    session_operations: usize = Some("4096"), (value_name = "COUNT");
    /// Bytes of one session without an answer taken
    session_bytes: ByteSize = Some("4MiB"), (value_name = "BYTES");
    /// Bytes that wait for one peer
    peer_queue_bytes: ByteSize = Some("32MiB"), (value_name = "BYTES");
    /// Bytes a second that this node receives when a new layout gives it partitions, at most; it gives way to clients
    transfer_rate: ByteSize = Some("64MiB"), (value_name = "BYTES");
    /// How often each partition is compared with its other owners; what is missed somewhere is found and mended so
    exchange_interval: Duration = Some("10s"), (value_name = "DURATION");
    /// Memory of hints, held for owners that are down; past it no more are taken
    hint_bytes: ByteSize = Some("64MiB"), (value_name = "BYTES");
    /// Hints that are older are dropped, and left to anti-entropy
    hint_age: Duration = Some("3h"), (value_name = "DURATION");
    /// Bytes a second of hints that are delivered, at most; it gives way to clients
    hint_rate: ByteSize = Some("16MiB"), (value_name = "BYTES");
    /// How long to wait for members' answers at the start
    hello_timeout: Duration = Some("2s"), (value_name = "DURATION");
    /// How long a connection to a node may take to open
    connect_timeout: Duration = Some("2s"), (value_name = "DURATION");
    /// How long `status` waits for each member
    status_timeout: Duration = Some("500ms"), (value_name = "DURATION");
    /// How long a stopping node waits for work in flight
    drain_timeout: Duration = Some("5s"), (value_name = "DURATION");
}

impl Config {
    /// Combines the sources and validates the result. `env` holds the process's environment, with the host's name as
    /// [`HOST_NAME_ENV`]; `file` is the path given
    /// by `--config` (or `RINGFORT_CONFIG`).
    ///
    /// # Errors
    /// All that is wrong, one line each.
    pub fn load(
        flags: &Flags,
        env: &BTreeMap<String, String>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let fields = match file {
            Some(path) => file::read(path, &read_file(path)?, NAMES)?,
            None => BTreeMap::new(),
        };
        let mut texts = Texts {
            host: env.get(HOST_NAME_ENV).filter(|h| !h.is_empty()).cloned(),
            ..Texts::default()
        };
        for &name in NAMES {
            let variable = format!("{ENV_PREFIX}{}", name.to_uppercase());
            let found = if let Some(text) = flags.get(name) {
                Some((text.clone(), Source::Flag(name)))
            } else if let Some(text) = env.get(&variable) {
                Some((text.clone(), Source::Env(variable)))
            } else {
                fields.get(name).map(|field| {
                    let path = file.map(Path::to_path_buf).unwrap_or_default();
                    (field.text.clone(), Source::File(path, field.line))
                })
            };
            if let Some(found) = found {
                texts.given.insert(name, found);
            }
        }
        let mut config = Config::from_texts(texts)?;
        config.derive();
        config.validate()?;
        Ok(config)
    }

    /// Whether nobody gave the node a name, so that a directory that has one keeps it.
    pub fn is_named_by_host(&self) -> bool {
        self.sources["name"] == FROM_HOST
    }

    /// The limits of the data path.
    pub fn limits(&self) -> Limits {
        Limits {
            pending_operations: self.pending_operations,
            running_per_client: self.running_per_client,
            running_per_node: self.running_per_node,
            value_bytes: self.value_bytes.bytes(),
            siblings: self.siblings,
            object_bytes: self.object_bytes.bytes(),
            soft_delete: self.soft_delete,
            session_operations: self.session_operations,
            session_bytes: self.session_bytes.bytes(),
            sessions: self.sessions,
            peer_queue_bytes: self.peer_queue_bytes.bytes(),
            peer_connect_timeout: self.connect_timeout,
        }
    }

    /// Cuts the numbers of connections to what `open_files` allows, so that strangers' connections never take the files
    /// that storage needs: a node that cannot open its own ends. Says what it cut.
    pub fn fit_open_files(&mut self, open_files: u64) -> Option<String> {
        let all = usize::try_from(open_files).unwrap_or(usize::MAX);
        let left = all.saturating_sub(OWN_FILES);
        let clients = (left / 4 * 3).max(1);
        let peers = (left / 4).max(1);
        if self.connections <= clients && self.peer_connections <= peers {
            return None;
        }
        self.connections = self.connections.min(clients);
        self.peer_connections = self.peer_connections.min(peers);
        Some(format!(
            "this process may have {open_files} files open: at most {} connections of clients and {} of nodes are taken; \
             raise the limit (`ulimit -n`) for more",
            self.connections, self.peer_connections
        ))
    }

    /// Fills in what follows from other values.
    fn derive(&mut self) {
        if self.data_dir.as_os_str().is_empty() {
            self.data_dir = Path::new("ringfort-data").join(&self.name);
            self.sources.insert("data_dir", Source::Derived("name"));
        }
        if self.workers == 0 {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            self.workers = (cores / 2).max(1);
            self.sources
                .insert("workers", Source::Derived("the machine's cores"));
        }
    }
}

/// Variables of the environment that look like settings but are none, each with the nearest name: a typing error there
/// would otherwise pass in silence.
pub fn unknown_env(env: &BTreeMap<String, String>) -> Vec<String> {
    env.keys()
        .filter_map(|variable| {
            let name = variable.strip_prefix(ENV_PREFIX)?;
            let lower = name.to_lowercase();
            if OTHER_ENV.contains(&name) || NAMES.contains(&lower.as_str()) {
                return None;
            }
            let hint = nearest(&lower, NAMES.iter().copied()).map_or_else(String::new, |near| {
                format!("; did you mean {ENV_PREFIX}{}?", near.to_uppercase())
            });
            Some(format!("{variable} is not a setting{hint}"))
        })
        .collect()
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let fail = |what: String| ConfigError::new(format!("{}: {what}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|error| fail(format!("cannot be read: {error}")))?
        .len();
    if length > MAX_FILE_BYTES {
        return Err(fail(format!("is longer than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))
}

/// The texts that were given, on their way to become values.
#[derive(Default)]
struct Texts {
    given: BTreeMap<&'static str, (String, Source)>,
    /// The host's name, if it is known.
    host: Option<String>,
    sources: BTreeMap<&'static str, Source>,
    problems: Vec<String>,
}

impl Texts {
    fn take<T: Setting>(&mut self, name: &'static str, default: Option<&str>) -> Option<T> {
        let given = self.given.remove(name);
        let (text, source) = match (given, default) {
            (Some(given), _) => given,
            (None, Some(HOST_NAME)) if self.host.is_some() => (HOST_NAME.to_owned(), FROM_HOST),
            (None, Some(default)) if default != HOST_NAME => (default.to_owned(), Source::Default),
            (None, _) => {
                self.problems.push(format!(
                    "`{name}` is required: pass --{}, set {ENV_PREFIX}{}, or write it into the file",
                    name.replace('_', "-"),
                    name.to_uppercase()
                ));
                return None;
            }
        };
        let text = match (text.contains(HOST_NAME), &self.host) {
            (false, _) => text,
            (true, Some(host)) => text.replace(HOST_NAME, host),
            (true, None) => {
                self.problems.push(format!(
                    "`{name}` is {text}, and this host has no name ({source})"
                ));
                return None;
            }
        };
        match T::parse(&text) {
            Ok(value) => {
                self.sources.insert(name, source);
                Some(value)
            }
            Err(problem) => {
                self.problems
                    .push(format!("`{name}`: {problem} ({source})"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
