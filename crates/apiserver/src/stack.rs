//! The way of a request: one list of layers, each a file, in the order in which a request meets them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service, ServiceBuilder};

use crate::access::{authentication, authorization, impersonation};
use crate::server::Server;
use crate::wire::{Request, Response};
use crate::{dispatch, flow, guard, metrics};

/// The whole stack.
pub fn stack(server: &Arc<Server>) -> Next {
    ServiceBuilder::new()
        .layer(step(server, guard::encode_errors))
        .layer(step(server, guard::catch_panics))
        .layer(step(server, guard::read_info))
        .layer(step(server, metrics::observe))
        .layer(step(server, guard::limit_time))
        .layer(step(server, authentication::authenticate))
        .layer(step(server, impersonation::impersonate))
        .layer(step(server, flow::limit))
        .layer(step(server, authorization::authorize))
        .service(Next::new(server, |server, request, _| dispatch::dispatch(server, request)))
}

type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// What comes after a layer. Cheap to clone.
#[derive(Clone)]
pub struct Next(Arc<dyn Fn(Request) -> Answering + Send + Sync>);

impl Next {
    fn new<F, A>(server: &Arc<Server>, handle: F) -> Self
    where
        F: Fn(Arc<Server>, Request, ()) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        let server = server.clone();
        Next(Arc::new(move |request| Box::pin(handle(server.clone(), request, ()))))
    }

    /// Passes the request on.
    pub fn run(self, request: Request) -> Answering {
        (self.0)(request)
    }
}

impl Service<Request> for Next {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let answering = (self.0)(request);
        Box::pin(async move { Ok(answering.await) })
    }
}

/// A layer made of a function that gets the request and what comes next.
fn step<F, A>(server: &Arc<Server>, handle: F) -> impl Layer<Next, Service = Next> + use<F, A>
where
    F: Fn(Arc<Server>, Request, Next) -> A + Copy + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    let server = server.clone();
    tower::layer::layer_fn(move |next: Next| {
        let server = server.clone();
        Next(Arc::new(move |request| Box::pin(handle(server.clone(), request, next.clone()))))
    })
}
