//! Connections that lead into memory, and the HTTP/2 server at their end.

use std::{io, pin::Pin, task, time::Duration};

use http::Uri;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use ringfort_proto::v1::{admin_server::AdminServer, kv_server::KvServer};
use tokio::io::DuplexStream;
use tonic::body::Body;
use tower::Service;

use super::{FakeCluster, number, service::FakeNode};

/// Bytes on their way in each direction.
const PIPE_BYTES: usize = 256 << 10;
/// How long a connection takes to open: long enough for others to run meanwhile, under paused time too.
const OPEN_DELAY: Duration = Duration::from_micros(100);

/// How the clients of a fake cluster connect.
pub(super) fn connector(
    cluster: FakeCluster,
) -> impl Service<Uri, Response = DuplexStream, Error = io::Error, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |uri: Uri| {
        let cluster = cluster.clone();
        async move {
            tokio::time::sleep(OPEN_DELAY).await;
            if is_hidden(&cluster, &uri) {
                return std::future::pending().await;
            }
            connect(&cluster, &uri)
        }
    })
}

fn host(uri: &Uri) -> Option<&str> {
    uri.host().and_then(|host| host.strip_suffix(".fake"))
}

fn is_hidden(cluster: &FakeCluster, uri: &Uri) -> bool {
    host(uri).is_some_and(|host| cluster.lock().nodes[number(host)].hidden)
}

fn connect(cluster: &FakeCluster, uri: &Uri) -> io::Result<DuplexStream> {
    let host = host(uri).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "no such host in the fake cluster")
    })?;
    let node = number(host);
    let mut state = cluster.lock();
    if state.nodes[node].stopped {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "the fake node is stopped",
        ));
    }
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let service = Router::new(FakeNode::new(cluster.clone(), node));
    let serving = tokio::spawn(async move {
        let server = auto::Builder::new(TokioExecutor::new()).http2_only();
        // A connection that ends in an error is one that a test broke.
        let _ = server
            .serve_connection(TokioIo::new(far), TowerToHyperService::new(service))
            .await;
    });
    state.nodes[node].connections.push(serving.abort_handle());
    Ok(near)
}

/// Both services of one port.
#[derive(Debug, Clone)]
struct Router {
    kv: KvServer<FakeNode>,
    admin: AdminServer<FakeNode>,
}

impl Router {
    fn new(node: FakeNode) -> Self {
        Router {
            kv: KvServer::new(node.clone()),
            admin: AdminServer::new(node),
        }
    }
}

impl Service<http::Request<hyper::body::Incoming>> for Router {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        if request.uri().path().starts_with("/ringfort.v1.Admin/") {
            self.admin.call(request)
        } else {
            self.kv.call(request)
        }
    }
}
