//! The HTTP port: `/livez`, `/readyz` and `/metrics`.
//!
//! `/livez` says "restart me" and never depends on a quorum; `/readyz` says "route to me". Neither blocks on the data path.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_stream::Stream;

use crate::net::Conn;

/// Connections at once; more are closed unanswered.
const MAX_CONNECTIONS: usize = 256;
/// The head of a request must arrive within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request, at most, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// What the port answers with.
pub trait Pages: Send + Sync + 'static {
    /// `None` when ready, else why not.
    fn unready(&self) -> Option<String>;
    /// `None` while a restart would not help, else why it would.
    fn dead(&self) -> Option<String>;
    /// The metrics, in OpenMetrics text.
    fn metrics(&self) -> String;
}

/// Serves `incoming` until it ends or the future is dropped.
pub async fn serve(
    mut incoming: impl Stream<Item = std::io::Result<Conn>> + Unpin,
    pages: Arc<dyn Pages>,
) {
    let open = Arc::new(AtomicUsize::new(0));
    while let Some(conn) = incoming.next().await {
        let Ok(conn) = conn else { continue };
        if open.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (pages, open) = (pages.clone(), open.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, pages.as_ref());
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(conn), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn answer(request: &Request<Incoming>, pages: &dyn Pages) -> Response<Full<Bytes>> {
    respond(request.method(), request.uri().path(), pages)
}

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn respond(method: &Method, path: &str, pages: &dyn Pages) -> Response<Full<Bytes>> {
    let said = |bad: Option<String>, good: &str| match bad {
        None => (StatusCode::OK, TEXT, format!("{good}\n")),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
    };
    let (status, kind, body) = if !matches!(*method, Method::GET | Method::HEAD) {
        let words = "only GET\n".to_owned();
        (StatusCode::METHOD_NOT_ALLOWED, TEXT, words)
    } else {
        match path {
            "/livez" => said(pages.dead(), "live"),
            "/readyz" => said(pages.unready(), "ready"),
            "/metrics" => (StatusCode::OK, OPEN_METRICS, pages.metrics()),
            _ => {
                let words = "/livez, /readyz or /metrics\n".to_owned();
                (StatusCode::NOT_FOUND, TEXT, words)
            }
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::probe::ask,
        net::{Net, TcpNet},
    };

    struct Starting;

    impl Pages for Starting {
        fn unready(&self) -> Option<String> {
            Some("recovering".to_owned())
        }
        fn dead(&self) -> Option<String> {
            None
        }
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
    }

    #[tokio::test]
    async fn a_starting_node_is_alive_and_not_ready() {
        let listener = TcpNet.bind("127.0.0.1:0").await.expect("loopback binds");
        let addr = listener.local_addr.to_string();
        let server = tokio::spawn(serve(listener.incoming, Arc::new(Starting)));
        for (path, expected) in [
            ("/livez", (200, "live\n")),
            ("/readyz", (503, "recovering\n")),
            ("/metrics", (200, "# EOF\n")),
            ("/", (404, "/livez, /readyz or /metrics\n")),
        ] {
            let (status, body) = ask(&addr, path, HEAD_TIMEOUT).await.expect("answers");
            assert_eq!((status, body.as_str()), expected, "{path}");
        }
        server.abort();
    }

    #[test]
    fn other_methods_are_refused() {
        let response = respond(&Method::POST, "/readyz", &Starting);
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
