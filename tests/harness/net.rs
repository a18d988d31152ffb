//! The simulated network and the simulated time, as the parts of a node and the connector of a client.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use ringfort::{
    clock::Clock,
    net::{Conn, Listener, Net},
};
use tokio::time::Instant;
use turmoil::net::{TcpListener, TcpStream};

/// The wall clock's reading when a run starts, in ms since the Unix epoch.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// Sockets of the simulated host that uses them.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimNet;

impl Net for SimNet {
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Listener>> {
        let port = port_of(addr);
        async move {
            // A host has one address in a simulation, whatever name it is given to bind.
            let listener = TcpListener::bind(("0.0.0.0", port?)).await?;
            let local_addr = listener.local_addr()?;
            let incoming = futures::stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await;
                let conn = accepted.map(|(stream, peer)| Conn::new(stream, Some(peer)));
                Some((conn, listener))
            });
            Ok(Listener {
                local_addr,
                incoming: incoming.boxed(),
            })
        }
        .boxed()
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Conn>> {
        let addr = addr.to_owned();
        async move {
            let stream = TcpStream::connect(addr).await?;
            let peer = stream.peer_addr().ok();
            Ok(Conn::new(stream, peer))
        }
        .boxed()
    }
}

fn port_of(addr: &str) -> io::Result<u16> {
    addr.rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{addr}: no port")))
}

/// What a client dials with.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimDial;

impl tower::Service<http::Uri> for SimDial {
    type Response = TcpStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let addr = uri.authority().map(ToString::to_string).unwrap_or_default();
        TcpStream::connect(addr).boxed()
    }
}

/// Simulated time; the wall clock can be set off from it, as a bad clock is.
#[derive(Debug, Clone, Default)]
pub struct SimClock {
    wall_offset_ms: Arc<AtomicI64>,
}

impl SimClock {
    /// Lets the wall clock be off by this much from now on, in ms.
    pub fn set_wall_offset_ms(&self, offset_ms: i64) {
        self.wall_offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        let now_ms = EPOCH_MS + elapsed().as_millis() as u64;
        now_ms.saturating_add_signed(self.wall_offset_ms.load(Ordering::Relaxed))
    }
}

static NOW_NS: AtomicU64 = AtomicU64::new(0);

/// Notes how far the run is; whoever steps it says so, before each step.
pub(crate) fn set_now(now: Duration) {
    NOW_NS.store(now.as_nanos() as u64, Ordering::Relaxed);
}

/// Simulated time since the start of the run, as of the last step. Also good outside of hosts.
pub fn elapsed() -> Duration {
    Duration::from_nanos(NOW_NS.load(Ordering::Relaxed))
}
