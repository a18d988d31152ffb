//! The network as a part: a node binds and connects through [`Net`], never through `tokio::net` itself, so that the same
//! node runs on sockets in production and inside a simulation under test.
//!
//! This module leaves out, on purpose: any protocol. It moves connections, not messages.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    future::BoxFuture,
    stream::{BoxStream, StreamExt},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::transport::{Channel, Endpoint, server::Connected};

/// HTTP/2 keepalive: a peer that is silent this long is asked whether it still lives.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A peer that does not answer a keepalive within this is given up, and its connection closed.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 window of a connection between nodes, in bytes; a stream may use all of it.
pub const PEER_WINDOW_BYTES: u32 = 8 << 20;
/// Pending connections of a listener before the system refuses more.
const LISTEN_BACKLOG: u32 = 1024;

/// What a connection is made of.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One connection, whatever carries it.
pub struct Conn {
    io: Box<dyn Io>,
    peer: Option<SocketAddr>,
    /// Its place among the connections of a limited listener.
    _place: Option<OwnedSemaphorePermit>,
}

impl Conn {
    /// Wraps a byte stream; `peer` is the other side's address, if known.
    pub fn new(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
    ) -> Self {
        Conn {
            io: Box::new(io),
            peer,
            _place: None,
        }
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The address of the other side of a connection, as handlers find it in a request's extensions.
#[derive(Debug, Clone)]
pub struct PeerAddr(pub Option<SocketAddr>);

impl Connected for Conn {
    type ConnectInfo = PeerAddr;

    fn connect_info(&self) -> PeerAddr {
        PeerAddr(self.peer)
    }
}

/// A bound port: its address and the connections that arrive on it. Dropping it closes the port.
pub struct Listener {
    /// The address that was bound; names the real port where port 0 was asked for.
    pub local_addr: SocketAddr,
    /// Connections as they arrive. An error is one failed connection, not the end.
    pub incoming: BoxStream<'static, io::Result<Conn>>,
}

impl Listener {
    /// At most `most` connections at once; more are closed as they come (I7).
    #[must_use]
    pub fn limited(self, most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let admit = move |conn: io::Result<Conn>| {
            let place = places.clone().try_acquire_owned();
            std::future::ready(match (conn, place) {
                (Ok(conn), Ok(place)) => Some(Ok(Conn {
                    _place: Some(place),
                    ..conn
                })),
                (Ok(conn), Err(_)) => {
                    tracing::warn!(?conn, most, "too many connections: closed one");
                    None
                }
                (Err(error), _) => Some(Err(error)),
            })
        };
        Listener {
            local_addr: self.local_addr,
            incoming: self.incoming.filter_map(admit).boxed(),
        }
    }
}

/// Binds ports and opens connections. [`TcpNet`] in production; a simulation brings its own.
pub trait Net: Send + Sync + 'static {
    /// Binds `addr` (`host:port`) and listens.
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Listener>>;
    /// Opens a connection to `addr` (`host:port`). The caller bounds the time.
    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Conn>>;
    /// All addresses that the name in `addr` (`host:port`) stands for, each as `host:port`. The caller bounds the time.
    fn resolve(&self, addr: &str) -> BoxFuture<'static, io::Result<Vec<String>>> {
        let addr = addr.to_owned();
        Box::pin(async move { Ok(vec![addr]) })
    }
}

/// Real sockets.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpNet;

impl Net for TcpNet {
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Listener>> {
        let addr = addr.to_owned();
        Box::pin(async move { bind_tcp(&addr).await })
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Conn>> {
        let addr = addr.to_owned();
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let peer = stream.peer_addr().ok();
            Ok(Conn::new(stream, peer))
        })
    }

    fn resolve(&self, addr: &str) -> BoxFuture<'static, io::Result<Vec<String>>> {
        let addr = addr.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host(addr).await?;
            let mut addrs: Vec<String> = found.map(|addr| addr.to_string()).collect();
            addrs.sort();
            addrs.dedup();
            Ok(addrs)
        })
    }
}

async fn bind_tcp(addr: &str) -> io::Result<Listener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in tokio::net::lookup_host(addr).await? {
        match listen(addr) {
            Ok(listener) => {
                let local_addr = listener.local_addr()?;
                let incoming = futures::stream::unfold(listener, accept_one).boxed();
                return Ok(Listener {
                    local_addr,
                    incoming,
                });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen(addr: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = if addr.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    // A node that restarts takes its port back while old connections still linger.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(LISTEN_BACKLOG)
}

async fn accept_one(
    listener: tokio::net::TcpListener,
) -> Option<(io::Result<Conn>, tokio::net::TcpListener)> {
    let conn = match listener.accept().await {
        Ok((stream, peer)) => stream
            .set_nodelay(true)
            .map(|()| Conn::new(stream, Some(peer))),
        Err(error) => {
            // Out of file descriptors, mostly: accepting again at once would only spin.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            Err(error)
        }
    };
    Some((conn, listener))
}

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A gRPC channel to `addr` (`host:port`) through `net`: lazy, so it always succeeds; it connects with the first
/// call, and again after a connection broke. A connect attempt takes `connect_timeout` at most.
pub fn channel(net: &Arc<dyn Net>, addr: &str, connect_timeout: Duration) -> Channel {
    endpoint(addr, connect_timeout).connect_with_connector_lazy(connector(net, connect_timeout))
}

/// As [`channel`], but connects now.
///
/// # Errors
/// Nobody answered at `addr` within `connect_timeout`.
pub async fn connect_channel(
    net: &Arc<dyn Net>,
    addr: &str,
    connect_timeout: Duration,
) -> Result<Channel, tonic::transport::Error> {
    endpoint(addr, connect_timeout)
        .connect_with_connector(connector(net, connect_timeout))
        .await
}

fn endpoint(addr: &str, connect_timeout: Duration) -> Endpoint {
    // The connector dials by the address it is given here; the URI only has to be one.
    let uri = format!("http://{addr}");
    let endpoint = Endpoint::from_shared(uri)
        .unwrap_or_else(|_| Endpoint::from_static("http://invalid.invalid:1"));
    endpoint
        .connect_timeout(connect_timeout)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(PEER_WINDOW_BYTES)
        .initial_connection_window_size(PEER_WINDOW_BYTES)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .tcp_nodelay(true)
}

/// Headers of one reply at most, in bytes: an error's details travel there.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// What tonic dials with.
fn connector(
    net: &Arc<dyn Net>,
    connect_timeout: Duration,
) -> impl tower::Service<
    http::Uri,
    Response = TokioIo<Conn>,
    Error = io::Error,
    Future = BoxFuture<'static, io::Result<TokioIo<Conn>>>,
> + Clone
+ Send
+ 'static {
    let net = net.clone();
    tower::service_fn(move |uri: http::Uri| {
        let net = net.clone();
        Box::pin(async move {
            let addr = uri
                .authority()
                .map(|authority| authority.as_str().to_owned())
                .unwrap_or_default();
            match tokio::time::timeout(connect_timeout, net.connect(&addr)).await {
                Ok(conn) => Ok(TokioIo::new(conn?)),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection to {addr} within {connect_timeout:?}"),
                )),
            }
        }) as BoxFuture<'static, io::Result<TokioIo<Conn>>>
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_bound_port_accepts_what_connect_opens() {
        let net = TcpNet;
        let mut listener = net.bind("127.0.0.1:0").await.expect("loopback binds");
        let addr = listener.local_addr.to_string();
        let mut near = net.connect(&addr).await.expect("listens");
        let mut far = listener
            .incoming
            .next()
            .await
            .expect("never ends")
            .expect("accepted");
        near.write_all(b"ring").await.expect("open");
        let mut read = [0; 4];
        far.read_exact(&mut read).await.expect("open");
        assert_eq!(&read, b"ring");
        assert!(far.connect_info().0.is_some());
    }

    #[tokio::test]
    async fn a_name_stands_for_all_its_addresses() {
        let of = async |addr: &str| TcpNet.resolve(addr).await;
        assert_eq!(
            of("127.0.0.1:7").await.expect("an address"),
            ["127.0.0.1:7"]
        );
        let named = of("localhost:7").await.expect("every machine has it");
        assert!(named.iter().all(|addr| addr.ends_with(":7")), "{named:?}");
        assert!(of("no port").await.is_err());
    }

    #[tokio::test]
    async fn past_the_limit_connections_are_closed_until_one_ends() {
        let (tell, arrivals) = tokio::sync::mpsc::unbounded_channel();
        let arrive = || {
            tell.send(Conn::new(tokio::io::empty(), None))
                .expect("listens")
        };
        let incoming = futures::stream::unfold(arrivals, |mut arrivals| async move {
            Some((Ok(arrivals.recv().await?), arrivals))
        });
        let mut listener = Listener {
            local_addr: SocketAddr::from(([127, 0, 0, 1], 1)),
            incoming: incoming.boxed(),
        }
        .limited(2);
        let mut open: Vec<_> = Vec::new();
        for _ in 0..3 {
            arrive();
        }
        for _ in 0..2 {
            open.push(listener.incoming.next().await.expect("never ends"));
        }
        assert!(
            futures::poll!(listener.incoming.next()).is_pending(),
            "the third is closed"
        );
        open.pop();
        arrive();
        let next = listener.incoming.next().await.expect("never ends");
        assert!(next.is_ok());
    }

    #[tokio::test]
    async fn a_second_bind_of_one_port_is_refused() {
        let net = TcpNet;
        let first = net.bind("127.0.0.1:0").await.expect("loopback binds");
        let second = net.bind(&first.local_addr.to_string()).await;
        assert_eq!(
            second.err().map(|e| e.kind()),
            Some(io::ErrorKind::AddrInUse)
        );
    }
}
