//! Settings of a client, judged once.

use std::{sync::Arc, time::Duration};

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use crate::{
    Client, Criticality, Error,
    connector::{Connector, Timeouts, parse_address},
    discovery::Signals,
    inner::{Defaults, Inner},
    options::TIMEOUT_MAX,
    random::Random,
    session::Parts,
};

/// The endpoint of a client that names none.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:7400";
/// How long a call may take unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    keep_alive: Duration::from_secs(3),
    keep_alive_answer: Duration::from_secs(3),
};
/// The most endpoints; more than a few only make a mistake more likely.
const ENDPOINTS_MAX: usize = 64;

type MakeConnector = Box<dyn FnOnce(Timeouts) -> Connector + Send>;

/// Settings of a [`Client`]; all have defaults.
#[must_use = "a builder does nothing until it is built"]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    timeout: Duration,
    namespace: String,
    criticality: Option<Criticality>,
    seed: Option<u64>,
    timeouts: Timeouts,
    connector: Option<MakeConnector>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            endpoints: Vec::new(),
            timeout: TIMEOUT,
            namespace: String::new(),
            criticality: None,
            seed: None,
            timeouts: TIMEOUTS,
            connector: None,
        }
    }
}

impl ClientBuilder {
    /// Nodes to learn the layout from, as `host:port`; any one that answers is enough. Default
    /// [`DEFAULT_ENDPOINT`].
    pub fn endpoints<E: Into<String>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// How long a call may take, retries included, unless it says otherwise; at most four minutes. Default 1 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The namespace of keys, unless a call says otherwise. Default `default`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How early an overloaded node may refuse calls, unless a call says otherwise. Default
    /// [`Criticality::Critical`].
    pub fn criticality(mut self, criticality: Criticality) -> Self {
        self.criticality = Some(criticality);
        self
    }

    /// How long a connection may take to open. Default 500 ms.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// How often a connection is probed, and how long the answer may take before it is given up. Default 3 s each.
    pub fn keep_alive(mut self, interval: Duration, answer: Duration) -> Self {
        self.timeouts.keep_alive = interval;
        self.timeouts.keep_alive_answer = answer;
        self
    }

    /// Where all chance comes from: the client's id, jitter, the order of nodes. Default the operating system. Two
    /// clients of one cluster must never have the same seed, since their request ids would be the same.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How connections are made, instead of TCP: a tower service from `http://host:port` to a byte stream.
    pub fn connector<S>(mut self, service: S) -> Self
    where
        S: Service<Uri> + Clone + Send + Sync + 'static,
        S::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S::Future: Send,
    {
        self.connector = Some(Box::new(move |timeouts| Connector::new(service, timeouts)));
        self
    }

    /// The client. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::Kind::Config): an endpoint is not `host:port`, there are too many, or a timeout is 0.
    pub fn build(self) -> Result<Client, Error> {
        let mut endpoints = self.endpoints;
        if endpoints.is_empty() {
            endpoints.push(DEFAULT_ENDPOINT.to_owned());
        }
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(Error::config(format!(
                "{} endpoints; at most {ENDPOINTS_MAX}",
                endpoints.len()
            )));
        }
        let mut addresses = Vec::new();
        for endpoint in &endpoints {
            let address = parse_address(endpoint)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let Timeouts {
            connect,
            keep_alive,
            keep_alive_answer,
        } = self.timeouts;
        if [self.timeout, connect, keep_alive, keep_alive_answer]
            .iter()
            .any(Duration::is_zero)
        {
            return Err(Error::config("a timeout of 0 leaves no time for anything"));
        }
        let connector = match self.connector {
            Some(make) => make(self.timeouts),
            None => Connector::tcp(self.timeouts),
        };
        let random = match self.seed {
            Some(seed) => Random::seeded(seed),
            None => Random::from_os()?,
        };
        let defaults = Defaults {
            timeout: self.timeout.min(TIMEOUT_MAX),
            namespace: self.namespace,
            criticality: self.criticality,
        };
        let parts = Parts {
            connector,
            signals: Arc::new(Signals::default()),
            random,
        };
        Inner::new(defaults, parts, &addresses).map(Client::from_inner)
    }
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("endpoints", &self.endpoints)
            .field("timeout", &self.timeout)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
