//! The dialer: one way to reach the API, in memory or over HTTPS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderValue, Request, Uri, header::USER_AGENT, uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::{
        Client as HttpClient,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kube::client::Body;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::io::DuplexStream;
use tower::{BoxError, Service, ServiceBuilder};

use crate::Identity;

/// What an API server in this process gives: it serves HTTP on the stream, as if the identity had authenticated.
///
/// It must return at once; serving happens in tasks of its own. A server that has shut down drops the stream.
pub type Acceptor = Arc<dyn Fn(DuplexStream, Identity) + Send + Sync>;

/// Where the API is.
#[derive(Clone)]
pub enum Endpoint {
    /// In this process.
    Memory(Acceptor),
    /// At a URL; the credential, not the identity given to [`connect`], says who is calling.
    Https(kube::Client),
}

/// Proof of who is calling, for [`Endpoint::https`].
#[derive(Clone)]
pub enum Credential {
    /// A client certificate and its key, both PEM.
    Certificate { certificate: String, key: String },
    /// A bearer token.
    Token(String),
    /// None; the caller is `system:anonymous`.
    Anonymous,
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the certificate authority is not valid PEM: {0}")]
    Authority(rustls_pki_types::pem::Error),
    #[error("the credentials or the address cannot be used: {0}")]
    Client(#[from] kube::Error),
}

impl Endpoint {
    /// An API server at `url` whose certificate is signed by `authority` (PEM; none: the system's roots).
    pub fn https(url: Uri, authority: Option<&[u8]>, credential: Credential) -> Result<Endpoint, ConnectError> {
        let mut config = kube::Config::new(url);
        if let Some(pem) = authority {
            let roots =
                CertificateDer::pem_slice_iter(pem).map(|der| der.map(|der| der.to_vec())).collect::<Result<_, _>>();
            config.root_cert = Some(roots.map_err(ConnectError::Authority)?);
        }
        // A watch may be silent for as long as the server lets it live; the cache watches its own deadline.
        config.read_timeout = None;
        match credential {
            Credential::Certificate { certificate, key } => {
                config.auth_info.client_certificate_data = Some(BASE64.encode(certificate));
                config.auth_info.client_key_data = Some(BASE64.encode(key).into());
            }
            Credential::Token(token) => config.auth_info.token = Some(token.into()),
            Credential::Anonymous => {}
        }
        Ok(Endpoint::Https(kube::Client::try_from(config)?))
    }
}

/// Idle connections kept by a client in memory: one costs two tasks and their buffers.
const IDLE_CONNECTIONS: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a pipe in memory holds per direction before the writer waits. Allocated only as far as it is used.
const PIPE: usize = 64 * 1024;

/// A client of the API for `identity`. Watches and protocol upgrades (exec, attach, port-forward) work in every form.
///
/// Must be called within a tokio runtime. Clones of the client share its connections.
pub fn connect(endpoint: &Endpoint, identity: Identity) -> kube::Client {
    let acceptor = match endpoint {
        Endpoint::Memory(acceptor) => acceptor.clone(),
        Endpoint::Https(client) => return client.clone(),
    };
    let agent = format!("{}/v{} regatta", identity.agent(), env!("CARGO_PKG_VERSION"));
    let agent = HeaderValue::from_str(&agent).unwrap_or(HeaderValue::from_static("regatta"));
    let http = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build(MemoryConnector { acceptor, identity: Arc::new(identity) });
    let service = ServiceBuilder::new()
        .layer_fn(Counting)
        .map_request(move |mut request: Request<Body>| {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(uri::Scheme::HTTP);
            parts.authority = Some(uri::Authority::from_static("kubernetes.default.svc"));
            // With scheme, authority and the path that the request came with, the parts are whole.
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
            request.headers_mut().entry(USER_AGENT).or_insert_with(|| agent.clone());
            request
        })
        .map_err(BoxError::from)
        .service(http);
    kube::Client::new(service, "default")
}

/// Counts requests by method and code.
#[derive(Clone)]
struct Counting<S>(S);

impl<S, B> Service<Request<Body>> for Counting<S>
where
    S: Service<Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures::future::BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let answering = self.0.call(request);
        Box::pin(async move {
            let answered = answering.await;
            if let Ok(answer) = &answered {
                crate::metrics::request(method.as_str(), answer.status().as_u16());
            }
            answered
        })
    }
}

#[derive(Clone)]
struct MemoryConnector {
    acceptor: Acceptor,
    identity: Arc<Identity>,
}

impl Service<Uri> for MemoryConnector {
    type Response = MemoryStream;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<MemoryStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        (self.acceptor)(theirs, Identity::clone(&self.identity));
        std::future::ready(Ok(MemoryStream(TokioIo::new(ours))))
    }
}

/// The client's end of a pipe to the server in this process.
struct MemoryStream(TokioIo<DuplexStream>);

impl Connection for MemoryStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for MemoryStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for MemoryStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
