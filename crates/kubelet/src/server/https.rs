//! The HTTPS port: TLS, where clients may show a certificate of the cluster's authority.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Caller};
use super::{Server, text};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failure to accept, which is a want of descriptors or memory.
pub(super) const BREATHE: Duration = Duration::from_millis(100);

/// What the port is served with, all PEM.
pub struct Keys {
    pub certificate: String,
    pub key: String,
    /// Who signs the certificates of clients that are believed.
    pub client_authority: String,
}

impl Server {
    /// Serves HTTPS until the kubelet ends or the token is cancelled. The error is about the keys.
    pub fn serve_https(
        &self,
        listener: TcpListener,
        keys: &Keys,
        stopping: CancellationToken,
    ) -> io::Result<impl Future<Output = ()> + Send + 'static + use<>> {
        let acceptor = acceptor(keys)?;
        let context = &self.context;
        let access = Access::new(context.client.clone(), context.node_name.clone(), context.configuration.clone());
        let (server, access) = (self.clone(), Arc::new(access));
        let serve = async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::spawn(connection(server.clone(), access.clone(), acceptor.clone(), stream));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the kubelet's port cannot take a connection");
                        tokio::time::sleep(BREATHE).await;
                    }
                }
            }
        };
        Ok(async move {
            let _: Option<()> = stopping.run_until_cancelled(serve).await;
        })
    }
}

async fn connection(server: Server, access: Arc<Access>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = shown.and_then(|certificate| Caller::from_certificate(certificate));
    let service = service_fn(|request| {
        let (server, access, peer) = (server.clone(), access.clone(), peer.clone());
        async move {
            let checked = access.check(peer, request.method(), request.uri().path(), request.headers()).await;
            Ok::<_, Infallible>(match checked {
                Ok(()) => server.answer(request).await,
                Err(super::Refusal(status, message)) => text(status, message),
            })
        }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.with_upgrades().await {
        tracing::debug!(%error, "a connection to the kubelet's port ended");
    }
}

fn acceptor(keys: &Keys) -> io::Result<TlsAcceptor> {
    let certificates = |pem: &str| -> io::Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(io::Error::other)
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&keys.client_authority)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(keys.key.as_bytes()).map_err(io::Error::other)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&keys.certificate)?, key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
