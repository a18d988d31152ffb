//! How connections are made: TCP unless the builder is handed another way, for instance into a simulated network.

use std::{fmt, io, pin::Pin, sync::Arc, task, time::Duration};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};

use crate::error::Error;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The window of one HTTP/2 stream, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// The window of one connection, in bytes.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// A connection of any sort.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
type BoxIo = Box<dyn Io>;

/// Timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For a connection to open.
    pub(crate) connect: Duration,
    /// Between two HTTP/2 pings, whether or not there are calls.
    pub(crate) keep_alive: Duration,
    /// For the answer to a ping; a peer that stays silent is cut off.
    pub(crate) keep_alive_answer: Duration,
}

/// Makes connections to nodes.
#[derive(Clone)]
pub(crate) struct Connector {
    connect: Arc<dyn Fn(Uri) -> BoxFuture<'static, Result<BoxIo, BoxError>> + Send + Sync>,
    timeouts: Timeouts,
}

impl Connector {
    /// Connections over TCP, without Nagle's delay.
    pub(crate) fn tcp(timeouts: Timeouts) -> Self {
        let service = tower::service_fn(|uri: Uri| async move {
            let host = uri
                .host()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned();
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        });
        Connector::new(service, timeouts)
    }

    /// Connections by a service of the caller.
    pub(crate) fn new<S>(service: S, timeouts: Timeouts) -> Self
    where
        S: Service<Uri> + Clone + Send + Sync + 'static,
        S::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let connect = move |uri: Uri| -> BoxFuture<'static, Result<BoxIo, BoxError>> {
            let service = service.clone();
            Box::pin(async move {
                let io = service.oneshot(uri).await.map_err(Into::into)?;
                Ok(Box::new(io) as BoxIo)
            })
        };
        Connector {
            connect: Arc::new(connect),
            timeouts,
        }
    }

    /// A channel to an address that [`check_address`] accepts. It connects with its first call, and again with the
    /// next after a failure.
    pub(crate) fn channel(&self, address: &str) -> Channel {
        let endpoint = endpoint(address)
            .expect("the address was checked")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(self.timeouts.keep_alive)
            .keep_alive_timeout(self.timeouts.keep_alive_answer)
            .keep_alive_while_idle(true);
        endpoint.connect_with_connector_lazy(Dial(self.clone()))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

/// Checks an address, with or without `http://` in front, and gives it as `host:port`.
pub(crate) fn parse_address(text: &str) -> Result<String, Error> {
    let address = text
        .trim()
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let wrong = || {
        Error::config(format!(
            "`{text}` is not an endpoint: host:port is expected"
        ))
    };
    let uri: Uri = format!("http://{address}").parse().map_err(|_| wrong())?;
    let complete = uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some();
    if !complete || uri.path() != "/" || uri.query().is_some() {
        return Err(wrong());
    }
    Ok(address.to_owned())
}

/// Whether the address can be dialled at all.
pub(crate) fn check_address(address: &str) -> Result<(), Error> {
    endpoint(address).map(drop)
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Error::config(format!("`{address}` is not an address: {error}")))
}

/// The connector as tonic calls it, with the connect timeout around it.
struct Dial(Connector);

impl Service<Uri> for Dial {
    type Response = TokioIo<BoxIo>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), BoxError>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let limit = self.0.timeouts.connect;
        let connecting = (self.0.connect)(uri);
        Box::pin(async move {
            match timeout(limit, connecting).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(format!("no connection within {limit:?}").into()),
            }
        })
    }
}
