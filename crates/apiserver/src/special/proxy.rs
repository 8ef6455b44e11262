//! The `proxy` subresource of nodes, pods and services: any method, any path, over HTTP or HTTPS, upgrades too. What comes back
//! is changed only where it names places behind the proxy: see [`rewrite`].

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api::kind::Kind;
use api::status::Reason;
use api::{Status, Value};
use http::{HeaderValue, Method, StatusCode, header};
use rand::seq::IndexedRandom;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connect::dial;
use super::forward::{self, forward, unreachable};
use super::rewrite::Rewriter;
use crate::rest::{self, key};
use crate::server::{Server, Stream};
use crate::wire::{Body, Request, RequestInfo, Response, answer};

/// How long a connection may take to come about, as upstream's dialer.
const PATIENCE: Duration = Duration::from_secs(30);

/// `[scheme:]name[:port]`, as the proxies take it.
#[derive(Debug, PartialEq, Eq)]
struct Target<'i> {
    https: bool,
    name: &'i str,
    /// A number or a name; empty where none is given.
    port: &'i str,
}

impl<'i> Target<'i> {
    fn parse(id: &'i str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let known = matches!(scheme, "" | "http" | "https") && !name.is_empty();
        known.then_some(Target { https: scheme == "https", name, port })
    }
}

/// Where the request goes on to.
enum Place {
    Kubelet(String),
    Address { https: bool, address: SocketAddr },
}

/// Answers `proxy`.
pub async fn proxy(
    server: &Arc<Server>,
    kind: &Kind,
    info: &RequestInfo,
    request: Request,
) -> Result<Response, Status> {
    let singular = &kind.singular;
    let target = Target::parse(&info.name)
        .ok_or_else(|| Status::bad_request(format!("invalid {singular} request {:?}", info.name)))?;
    let entry = server.store.get(&key(kind, &info.namespace, target.name));
    let object = entry.ok_or_else(|| Status::not_found(&kind.group, &kind.plural, target.name))?;
    let object = rest::parse(&object.value)?;
    let place = match &*kind.plural {
        "nodes" => node(&target, &object)?,
        "pods" => pod(&target, &object)?,
        _ => service(server, info, &target, &object)?,
    };
    let upgrades = forward::upgrades(request.headers());
    if info.rest.is_empty() && !upgrades && matches!(*request.method(), Method::GET | Method::HEAD) {
        return redirect(&request);
    }
    pass(server, &place, info, request).await
}

/// The proxied place's root is behind the slash, so that relative links lead below it.
fn redirect(request: &Request) -> Result<Response, Status> {
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path()))
        .map_err(|_| Status::bad_request("the path cannot be proxied"))?;
    let mut response = answer::bytes(StatusCode::MOVED_PERMANENTLY, "text/html; charset=utf-8", Body::empty());
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

async fn pass(server: &Server, place: &Place, info: &RequestInfo, mut request: Request) -> Result<Response, Status> {
    let onward = if info.rest.is_empty() { "/" } else { &info.rest };
    let path = request.uri().query().map_or_else(|| onward.to_owned(), |query| format!("{onward}?{query}"));
    let origin = match place {
        Place::Kubelet(node) => node.clone(),
        Place::Address { address, .. } => address.to_string(),
    };
    let host = forward::host(&request);
    let rewriter = Rewriter::new(
        request.uri().path(),
        onward,
        &origin,
        host.to_str().unwrap_or(""),
        request.method() == Method::HEAD,
    );
    if let Ok(uri) = HeaderValue::from_str(request.uri().path()) {
        request.headers_mut().insert("x-forwarded-uri", uri);
    }
    let stream = match place {
        Place::Kubelet(node) => dial(server, node).await?,
        Place::Address { https, address } => {
            let reached = tokio::time::timeout(PATIENCE, reach(*https, *address)).await;
            reached.map_err(|_| unreachable(format!("dial tcp {address}: i/o timeout")))??
        }
    };
    rewriter.rewrite(forward(stream, &path, request).await?).await
}

async fn reach(https: bool, address: SocketAddr) -> Result<Box<dyn Stream>, Status> {
    let failed = |error: std::io::Error| unreachable(format!("dial tcp {address}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    let _ = stream.set_nodelay(true);
    if !https {
        return Ok(Box::new(stream));
    }
    Ok(Box::new(TLS.connect(ServerName::from(address.ip()), stream).await.map_err(failed)?))
}

fn node(target: &Target, node: &Value) -> Result<Place, Status> {
    let kubelet = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(10250);
    if target.port.is_empty() || target.port == kubelet.to_string() {
        return Ok(Place::Kubelet(target.name.to_owned()));
    }
    let addresses = || node["status"]["addresses"].as_array().into_iter().flatten();
    let of = |kind: &str| addresses().find(|a| a["type"] == kind).and_then(|a| a["address"].as_str());
    let address = of("InternalIP").or_else(|| of("ExternalIP")).unwrap_or("");
    Ok(Place::Address { https: target.https, address: proxyable(address, port(target.port)?)? })
}

fn pod(target: &Target, pod: &Value) -> Result<Place, Status> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let first = || containers.into_iter().find_map(|c| c["ports"][0]["containerPort"].as_u64()).map(|p| p.to_string());
    let wanted = match target.port {
        "" => first().unwrap_or_else(|| if target.https { "443" } else { "80" }.to_owned()),
        given => given.to_owned(),
    };
    let address = pod["status"]["podIP"].as_str().or_else(|| pod["status"]["podIPs"][0]["ip"].as_str()).unwrap_or("");
    Ok(Place::Address { https: target.https, address: proxyable(address, port(&wanted)?)? })
}

fn port(text: &str) -> Result<u16, Status> {
    text.parse().map_err(|_| unreachable(format!("dial tcp: lookup tcp/{text}: unknown port")))
}

/// Places of the cluster only: neither the server's own machine nor what a link-local address may reveal.
fn proxyable(address: &str, port: u16) -> Result<SocketAddr, Status> {
    let refused = || Status::bad_request("address not allowed");
    let address: IpAddr = address.parse().map_err(|_| refused())?;
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let global = !(local || address.is_loopback() || address.is_multicast() || address.is_unspecified());
    if global { Ok(SocketAddr::new(address, port)) } else { Err(refused()) }
}

/// One of the addresses behind a service, from its endpoint slices.
fn service(server: &Server, info: &RequestInfo, target: &Target, service: &Value) -> Result<Place, Status> {
    let unavailable = |why: String| Status::new(Reason::ServiceUnavailable, why);
    let mut name = target.port;
    if let Ok(number) = target.port.parse::<u64>() {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let port = ports.into_iter().find(|p| p["port"] == number);
        let missing = || unavailable(format!("no service port {number} found for service {:?}", target.name));
        name = port.ok_or_else(missing)?["name"].as_str().unwrap_or("");
    }
    let range = format!("/registry/endpointslices/{}/", info.namespace);
    let snapshot = server.store.snapshot(&range, None).map_err(rest::store_error)?;
    let mut places = Vec::new();
    for entry in snapshot.iter() {
        let slice = rest::parse(&entry.value)?;
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != target.name {
            continue;
        }
        let list = |field: &str| slice[field].as_array().cloned().unwrap_or_default();
        let Some(port) = list("ports").into_iter().find(|p| p["name"].as_str().unwrap_or("") == name) else { continue };
        let port = port["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
        let ready = list("endpoints").into_iter().filter(|e| e["conditions"]["ready"] != false);
        let addresses = ready.filter_map(|e| e["addresses"][0].as_str().map(str::to_owned));
        places.extend(addresses.filter_map(|address| proxyable(&address, port).ok()));
    }
    let address = places.choose(&mut rand::rng()).copied();
    let none = || unavailable(format!("no endpoints available for service {:?}", info.name));
    Ok(Place::Address { https: target.https, address: address.ok_or_else(none)? })
}

/// TLS to pods and services, whose certificates nobody could check: upstream does not either.
static TLS: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyServer(provider.signature_verification_algorithms));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
});

/// Checks only that the peer holds the key of the certificate that it shows.
#[derive(Debug)]
struct AnyServer(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyServer {
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
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_scheme_name_and_port() {
        let target = |https, name, port| Some(Target { https, name, port });
        let table = [
            ("web", target(false, "web", "")),
            ("web:80", target(false, "web", "80")),
            ("https:web:tls", target(true, "web", "tls")),
            ("http:web:", target(false, "web", "")),
            ("ftp:web:21", None),
            (":80", None),
            ("a:b:c:d", None),
        ];
        for (id, expected) in table {
            assert_eq!(Target::parse(id), expected, "{id}");
        }
    }

    #[test]
    fn the_servers_own_machine_is_no_place_to_proxy_to() {
        for address in ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1", "", "x"] {
            assert!(proxyable(address, 80).is_err(), "{address}");
        }
        assert!(proxyable("10.244.0.5", 80).is_ok() && proxyable("fd00::5", 80).is_ok());
    }
}
