//! Several gRPC services on one port, told apart by the first part of the path.

use std::{
    convert::Infallible,
    future::ready,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use tonic::{Status, body::Body, server::NamedService};
use tower::{Service, util::BoxCloneService};

/// One service, whatever its type.
type AnyService = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// Sends each call to the service that its path names; one that none has is `UNIMPLEMENTED`.
#[derive(Clone, Default)]
pub struct Switch {
    services: Vec<(&'static str, AnyService)>,
}

impl Switch {
    /// Adds a service under its own name. Services here are always ready, as generated ones are.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        self.services.push((S::NAME, BoxCloneService::new(service)));
        self
    }
}

impl Service<Request<Body>> for Switch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let found = self.services.iter_mut().find(|(n, _)| *n == name);
        match found {
            Some((_, service)) => service.call(request),
            None => {
                let status = Status::unimplemented(format!("no service `{name}` on this port"));
                ready(Ok(status.into_http())).boxed()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Echo;

    impl NamedService for Echo {
        const NAME: &'static str = "test.Echo";
    }

    impl Service<Request<Body>> for Echo {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            ready(Ok(Response::new(Body::empty())))
        }
    }

    fn status_of(path: &str) -> Option<String> {
        let mut switch = Switch::default().with(Echo);
        let request = Request::builder()
            .uri(path)
            .body(Body::empty())
            .expect("a valid request");
        let response = switch
            .call(request)
            .now_or_never()
            .expect("answers at once");
        let headers = response.expect("infallible").headers().clone();
        headers
            .get("grpc-status")
            .map(|s| s.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn a_path_finds_its_service_and_no_other() {
        assert_eq!(status_of("/test.Echo/Say"), None);
        for path in ["/test.Echo2/Say", "/test/Say", "/", "/Say"] {
            assert_eq!(status_of(path).as_deref(), Some("12"), "{path}");
        }
    }
}
