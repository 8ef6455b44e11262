//! HTTP as probes and hooks speak it: one request a connection, redirects only to the same host, any certificate.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::check::port_of;

/// What Go's client says of a server that answers a handshake in plain HTTP.
pub const PLAIN_ANSWER: &str = "http: server gave HTTP response to HTTPS client";

const BODY_MAX: usize = 10 * 1024;
const REDIRECTS_MAX: usize = 10;

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Call {
    pub fn of(action: &v1::HTTPGetAction, container: &v1::Container, pod_ip: &str) -> Result<Call, String> {
        let path = action.path.clone().unwrap_or_default();
        Ok(Call {
            tls: action.scheme.as_deref() == Some("HTTPS"),
            host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
            port: port_of(&action.port, container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
        })
    }

    /// The call that a redirect asks for; none if that leads to another host.
    fn redirected(&self, location: &str) -> Option<Call> {
        let mut call = self.clone();
        let (tls, rest) = match location.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return None,
            None if location.starts_with("//") => (self.tls, &location[2..]),
            None => {
                call.path = match location.strip_prefix('/') {
                    Some(_) => location.to_owned(),
                    None => {
                        let folder = self.path.split('?').next().unwrap_or_default().rsplit_once('/');
                        format!("{}/{location}", folder.map_or("", |(folder, _)| folder))
                    }
                };
                return Some(call);
            }
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let bare = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match bare.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (bare, if tls { 443 } else { 80 }),
        };
        call.path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        (call.tls, call.port) = (tls, port);
        (host.trim_matches(['[', ']']) == self.host).then_some(call)
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

/// What a server answered.
pub struct Reply {
    pub status: u16,
    /// Its beginning.
    pub body: String,
    /// Where a redirect leads.
    location: Option<String>,
}

/// The last answer of a chain of redirects, of which only those to the same host are followed. Errors are worded as Go's
/// client words them.
pub async fn get(call: &Call, agent: &str, limit: Duration) -> Result<Reply, String> {
    let told = |call: &Call, error: String| format!("Get \"{}\": {error}", call.url());
    let follow = async {
        let mut call = call.clone();
        for _ in 0..=REDIRECTS_MAX {
            let reply = exchange(&call, agent).await.map_err(|error| told(&call, error))?;
            let next = reply.location.as_deref().filter(|_| matches!(reply.status, 301 | 302 | 303 | 307 | 308));
            match next.and_then(|location| call.redirected(location)) {
                Some(next) => call = next,
                None => return Ok(reply),
            }
        }
        Err(told(&call, format!("stopped after {REDIRECTS_MAX} redirects")))
    };
    match timeout(limit, follow).await {
        Ok(done) => done,
        Err(_) => {
            Err(told(call, "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()))
        }
    }
}

async fn exchange(call: &Call, agent: &str) -> Result<Reply, String> {
    let stream = TcpStream::connect((call.host.as_str(), call.port)).await;
    let stream = stream.map_err(|e| format!("dial tcp {}:{}: {}", call.host, call.port, words(&e)))?;
    if call.tls {
        let name = ServerName::try_from(call.host.clone()).map_err(|e| e.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(ANY.clone()).connect(name, stream).await;
        send(call, agent, stream.map_err(|e| if is_plain(&e) { PLAIN_ANSWER.to_owned() } else { e.to_string() })?).await
    } else {
        send(call, agent, stream).await
    }
}

/// Whether a handshake failed because the other side does not speak TLS.
fn is_plain(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

async fn send<S>(call: &Call, agent: &str, stream: S) -> Result<Reply, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut request = Request::get(call.path.as_str()).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    for (name, value) in &call.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        headers.append(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
    }
    let host = format!("{}:{}", call.host, call.port);
    for (name, value) in [("host", host.as_str()), ("user-agent", agent), ("accept", "*/*"), ("connection", "close")] {
        if !headers.contains_key(name) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).map_err(|e| e.to_string())?);
        }
    }
    // One that is given without a value is not sent at all.
    if headers.get(http::header::ACCEPT).is_some_and(HeaderValue::is_empty) {
        headers.remove(http::header::ACCEPT);
    }
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok(Reply { status, body, location })
    };
    tokio::pin!(exchange);
    // The connection is driven only for as long as the answer takes. A server that closes may have answered before.
    tokio::select! {
        biased;
        done = &mut exchange => done,
        closed = connection => match closed {
            Ok(()) => exchange.await.map_err(|_: String| "EOF".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// A system error in the words of Go's `net` package.
pub fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// Asks the standard gRPC health service.
pub async fn grpc_health(host: &str, port: u16, service: &str, limit: Duration) -> Result<Option<String>, String> {
    let answer = timeout(limit, health(host, port, service)).await;
    let late = || format!("timeout: failed to connect service \"{host}:{port}\" within {}s", limit.as_secs());
    match answer.map_err(|_| late())?? {
        1 => Ok(None),
        status => {
            let name =
                ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(status as usize).unwrap_or(&"UNKNOWN");
            Err(format!("service unhealthy (responded with \"{name}\")"))
        }
    }
}

async fn health(host: &str, port: u16, service: &str) -> Result<u8, String> {
    let refused = |e: &dyn std::fmt::Display| format!("error: failed to connect service at \"{host}:{port}\": {e}");
    let stream = TcpStream::connect((host, port)).await.map_err(|e| refused(&words(&e)))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| refused(&e))?;
    // HealthCheckRequest{service = 1}, in one uncompressed gRPC message.
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        prost::encode_length_delimiter(service.len(), &mut message).map_err(|e| e.to_string())?;
        message.extend(service.bytes());
    }
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let early = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(|e| e.to_string())?;
        let status = early.or_else(|| body.trailers().and_then(|t| t.get("grpc-status").cloned()));
        match status.as_ref().and_then(|s| s.to_str().ok()) {
            Some("0") => {}
            Some(code) => return Err(format!("error: health rpc failed with code {code}")),
            None => return Err("error: health rpc failed without a status".to_owned()),
        }
        // HealthCheckResponse{status = 1}, absent if it is the default 0.
        let message = body.to_bytes();
        Ok(match message.get(5..7) {
            Some([0x08, status]) => *status,
            _ => 0,
        })
    };
    tokio::select! {
        biased;
        done = exchange => done,
        _ = connection => Err(refused(&"the connection was closed")),
    }
}

/// Takes every certificate: a probe asks whether the container answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

static ANY: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Arc::new(config)
});

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_to_the_same_host_only() {
        let (host, path) = ("10.0.0.2".to_owned(), "/a/b?c".to_owned());
        let call = Call { tls: false, host, port: 8080, path, headers: Vec::new() };
        for (location, expected) in [
            ("/x?y", Some("http://10.0.0.2:8080/x?y")),
            ("x", Some("http://10.0.0.2:8080/a/x")),
            ("http://10.0.0.2/x", Some("http://10.0.0.2:80/x")),
            ("https://10.0.0.2:8443", Some("https://10.0.0.2:8443/")),
            ("//10.0.0.2:8080/x", Some("http://10.0.0.2:8080/x")),
            ("http://0.0.0.0/", None),
            ("ftp://10.0.0.2/", None),
        ] {
            assert_eq!(call.redirected(location).map(|c| c.url()).as_deref(), expected, "{location}");
        }
    }
}
