//! A network in memory.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{StreamExt, future::BoxFuture};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::net::{Conn, Listener, Net};

/// Bytes that a connection holds in each direction.
const PIPE_BYTES: usize = 256 * 1024;

/// Who listens at an address, and the connections that came there.
struct Port {
    listener: mpsc::UnboundedSender<Conn>,
    connections: Vec<AbortHandle>,
}

/// Addresses and who listens there. Clones are the same network.
#[derive(Clone, Default)]
pub struct MemNet(Arc<Mutex<BTreeMap<String, Port>>>);

impl MemNet {
    /// Nobody is reachable at `addr` any more, and all connections to it break.
    pub fn cut(&self, addr: &str) {
        let port = self.lock().remove(addr);
        port.iter()
            .flat_map(|port| &port.connections)
            .for_each(AbortHandle::abort);
    }

    /// All connections to `addr` break; new ones can be made at once.
    pub fn shake(&self, addr: &str) {
        if let Some(port) = self.lock().get_mut(addr) {
            port.connections
                .drain(..)
                .for_each(|connection| connection.abort());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Port>> {
        self.0.lock().expect("nothing panics under this lock")
    }

    fn open(&self, addr: &str) -> io::Result<Conn> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let mut ports = self.lock();
        let port = ports.get_mut(addr).ok_or_else(refused)?;
        let (mine, mut near) = tokio::io::duplex(PIPE_BYTES);
        let (mut far, theirs) = tokio::io::duplex(PIPE_BYTES);
        let wire = async move { drop(tokio::io::copy_bidirectional(&mut near, &mut far).await) };
        port.connections.push(tokio::spawn(wire).abort_handle());
        port.listener
            .send(Conn::new(theirs, None))
            .map_err(|_| refused())?;
        Ok(Conn::new(mine, None))
    }
}

impl Net for MemNet {
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Listener>> {
        let (listener, arrivals) = mpsc::unbounded_channel();
        self.lock().insert(
            addr.to_owned(),
            Port {
                listener,
                connections: Vec::new(),
            },
        );
        let incoming = futures::stream::unfold(arrivals, |mut arrivals| async move {
            Some((Ok(arrivals.recv().await?), arrivals))
        });
        let local_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Box::pin(async move {
            Ok(Listener {
                local_addr,
                incoming: incoming.boxed(),
            })
        })
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Conn>> {
        let opened = self.open(addr);
        Box::pin(async move { opened })
    }
}
