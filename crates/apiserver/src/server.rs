//! The server: what it is made of, and how connections are served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use api::kind::Registry;
use arc_swap::ArcSwap;
use client::{Acceptor, Identity};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use rustls::CipherSuite;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use store::Store;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Peer;
use crate::access::authorization::Authorizer;
use crate::access::certificate::{AnyClient, Authorities};
use crate::access::grants::Grants;
use crate::access::token::{KeyError, Tokens};
use crate::admission::Chain;
use crate::catalog::Catalog;
use crate::flow::Flow;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::rest::forms::Forms;
use crate::special::metrics::Samples;
use crate::stack::{Next, stack};
use crate::wire::Body;

/// A stream to a kubelet.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Reaches the HTTP server of a node's kubelet, already authenticated as the API server: in memory or over TLS.
pub type KubeletDialer = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Box<dyn Stream>>> + Send + Sync>;

/// Keys and certificates, all PEM.
#[derive(Clone)]
pub struct Pki {
    /// The authorities whose client certificates are believed.
    pub client_ca: String,
    /// The serving certificate with its chain, and its key.
    pub serving_certificate: String,
    pub serving_key: String,
    /// The ECDSA P-256 key, PKCS#8, that signs service-account tokens.
    pub service_account_key: String,
}

/// What a server is made of.
#[derive(Clone)]
pub struct Config {
    pub store: Store,
    pub pki: Pki,
    /// Where Services get their addresses; the first is the `kubernetes` Service's.
    pub service_cidr: IpNet,
    /// Where Services get their node ports: first and last.
    pub node_ports: (u16, u16),
    /// Where clients inside the cluster reach this server; the endpoints of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// Without one, logs, exec, attach and port-forward answer 503.
    pub kubelet: Option<KubeletDialer>,
}

/// Why a server cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{what} is not valid PEM: {error}")]
    Pem { what: &'static str, error: rustls::pki_types::pem::Error },
    #[error("the client certificate authority cannot be used: {0}")]
    Authority(webpki::Error),
    #[error("the serving certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the cluster's first objects could not be made: {0}")]
    Bootstrap(api::Status),
}

/// What every request sees.
pub struct Server {
    pub config: Config,
    pub store: Store,
    pub catalog: ArcSwap<Catalog>,
    pub tokens: Tokens,
    pub authorities: Authorities,
    pub authorizers: Vec<Box<dyn Authorizer>>,
    pub admission: Chain,
    pub metrics: Metrics,
    pub flow: Flow,
    pub forms: Forms,
    pub memory: Memory,
    pub samples: Samples,
    pub ready: AtomicBool,
    /// Cancelled when the server shuts down: watches end, connections close when idle.
    pub stopping: CancellationToken,
}

/// A Kubernetes API server over a store.
#[derive(Clone)]
pub struct ApiServer {
    server: Arc<Server>,
    stack: Next,
    /// What new connections are served with.
    tls: Arc<ArcSwap<TlsAcceptor>>,
    connections: TaskTracker,
}

/// The cipher suites that are chosen before others.
const AES_128: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// For how long connections may finish what they are doing when the server shuts down.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a client may take to finish its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a client may take to send the head of a request, and leave its connection unused before that.
const IDLE: Duration = Duration::from_secs(90);

impl ApiServer {
    /// Makes the server and, where they are missing, the cluster's first objects. It is ready when this returns.
    pub async fn new(config: Config) -> Result<Self, StartError> {
        let tls = Arc::new(ArcSwap::from_pointee(tls(&config.pki)?));
        let authorities = certificates("the client certificate authority", &config.pki.client_ca)?;
        let server = Arc::new(Server {
            store: config.store.clone(),
            catalog: ArcSwap::from_pointee(Catalog::new(Registry::builtin())),
            tokens: Tokens::new(&config.pki.service_account_key)?,
            authorities: Authorities::new(&authorities).map_err(StartError::Authority)?,
            authorizers: vec![Box::new(Grants)],
            admission: Chain::standard(),
            metrics: Metrics::default(),
            flow: Flow::default(),
            forms: Forms::default(),
            memory: Memory::default(),
            samples: Samples::default(),
            ready: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            config,
        });
        let stack = stack(&server);
        crate::bootstrap::run(&server).await.map_err(StartError::Bootstrap)?;
        crate::flow::keeper::start(&server).await.map_err(StartError::Bootstrap)?;
        crate::special::repair::start(&server);
        server.ready.store(true, Ordering::Release);
        Ok(ApiServer { server, stack, tls, connections: TaskTracker::new() })
    }

    /// Serves callers in this process. Must be used within a tokio runtime.
    pub fn acceptor(&self) -> Acceptor {
        let this = self.clone();
        Arc::new(move |stream: DuplexStream, identity: Identity| {
            if !this.server.stopping.is_cancelled() {
                this.connections.spawn(this.clone().serve(stream, Peer::Known(Arc::new(identity))));
            }
        })
    }

    /// Serves new connections with another certificate; those that are open go on.
    pub fn serve_with(&self, certificate: &str, key: &str) -> Result<(), StartError> {
        let (serving_certificate, serving_key) = (certificate.to_owned(), key.to_owned());
        let pki = Pki { serving_certificate, serving_key, ..self.server.config.pki.clone() };
        self.tls.store(Arc::new(tls(&pki)?));
        Ok(())
    }

    /// Serves HTTPS until [`ApiServer::shutdown`].
    pub async fn serve_https(&self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.server.stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    self.connections.spawn(self.clone().handshake(stream));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: some must close first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Ends watches, lets other requests finish and closes all connections.
    pub async fn shutdown(&self) {
        self.server.ready.store(false, Ordering::Release);
        self.server.stopping.cancel();
        self.connections.close();
        if tokio::time::timeout(DRAIN + Duration::from_secs(1), self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "connections were still open at shutdown");
        }
    }

    /// Whether requests are served.
    pub fn is_ready(&self) -> bool {
        self.server.ready.load(Ordering::Acquire)
    }

    async fn handshake(self, stream: TcpStream) {
        // Small answers must not wait for the client's acknowledgement.
        let _ = stream.set_nodelay(true);
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, self.tls.load_full().accept(stream)).await else { return };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = self.server.authorities.identify(chain, SystemTime::now());
        self.serve(stream, peer).await;
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, peer: Peer) {
        let stack = self.stack.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let mut request = request.map(Body::Through);
            request.extensions_mut().insert(peer.clone());
            stack.clone().run(request).map(Ok::<_, std::convert::Infallible>)
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1000)
            .keep_alive_interval(Duration::from_secs(30));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // Errors are the client's: it went away or sent what is no HTTP.
            _ = connection.as_mut() => return,
            () = self.server.stopping.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = tokio::time::timeout(DRAIN, connection).await;
    }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(list) if list.is_empty() => {
            Err(StartError::Pem { what, error: rustls::pki_types::pem::Error::NoItemsFound })
        }
        Ok(list) => Ok(list),
        Err(error) => Err(StartError::Pem { what, error }),
    }
}

fn tls(pki: &Pki) -> Result<TlsAcceptor, StartError> {
    let chain = certificates("the serving certificate", &pki.serving_certificate)?;
    let key = PrivateKeyDer::from_pem_slice(pki.serving_key.as_bytes())
        .map_err(|error| StartError::Pem { what: "the serving key", error })?;
    let mut provider = rustls::crypto::ring::default_provider();
    // The server chooses, as upstream's does: AES-128 costs both ends less than what some clients name first.
    provider.cipher_suites.sort_by_key(|suite| !AES_128.contains(&suite.suite()));
    let provider = Arc::new(provider);
    let clients = Arc::new(AnyClient::new(&provider));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
