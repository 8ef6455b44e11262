//! Streams to kubelets and proxies to nodes, pods and services. The server checks who asks for what and where it is;
//! the request then goes on as it is, and after an upgrade the bytes of both sides are copied.

use std::net::SocketAddr;
use std::sync::Arc;

use api::kind::Kind;
use api::status::Reason;
use api::{Status, Value};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::dispatch::{no_such_path, not_allowed};
use crate::guard;
use crate::rest::{self, key};
use crate::server::{Server, Stream};
use crate::wire::query::escape;
use crate::wire::{Body, Query, Request, RequestInfo, Response, answer};

/// Headers that are about one connection and go no further.
const HOP_BY_HOP: [header::HeaderName; 4] =
    [header::PROXY_AUTHENTICATE, header::PROXY_AUTHORIZATION, header::TE, header::TRAILER];

/// What is read of a kubelet's refusal.
const LONGEST_REFUSAL: usize = 10_000;

/// Answers `log`, `exec`, `attach`, `portforward` and `proxy`.
pub async fn answer(
    server: &Arc<Server>,
    kind: &Arc<Kind>,
    info: &RequestInfo,
    request: Request,
) -> Result<Response, Status> {
    let entry = server.store.get(&key(kind, &info.namespace, &target(info).name));
    let entry = entry.ok_or_else(|| Status::not_found(&kind.group, &kind.plural, &target(info).name))?;
    let object = rest::parse(&entry.value)?;
    let query = guard::query(&request);
    match (&*kind.plural, info.subresource.as_str()) {
        ("pods", "log") if *request.method() == Method::GET => log(server, info, &object, &query, request).await,
        ("pods", "exec" | "attach" | "portforward") => stream(server, info, &object, &query, request).await,
        ("nodes", "proxy") => {
            let path = with_query(&tail(info), request.uri());
            forward(dial(server, &info.name).await?, &path, request).await
        }
        ("pods", "proxy") => {
            let port = target(info).port.or_else(|| first_port(&object));
            let address = object["status"]["podIP"].as_str().unwrap_or("");
            proxy(info, address, port.unwrap_or(80), request).await
        }
        ("services", "proxy") => {
            let (address, port) = endpoint(server, info, &object)?;
            proxy(info, &address, port, request).await
        }
        ("pods", "log") => Err(not_allowed()),
        _ => Err(no_such_path()),
    }
}

/// Name and port of `[scheme:]name[:port]`, as the proxies take it.
struct Target {
    name: String,
    port: Option<u16>,
    port_name: String,
}

fn target(info: &RequestInfo) -> Target {
    let parts: Vec<&str> = if info.subresource == "proxy" { info.name.split(':').collect() } else { vec![&info.name] };
    let (name, port) = match parts.as_slice() {
        [name] => (*name, ""),
        [name, port] => (*name, *port),
        [_, name, port] => (*name, *port),
        _ => (info.name.as_str(), ""),
    };
    Target { name: name.to_owned(), port: port.parse().ok(), port_name: port.to_owned() }
}

async fn log(
    server: &Server,
    info: &RequestInfo,
    pod: &Value,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    let container = container(info, pod, query)?;
    let Some(node) = node(pod) else {
        return Ok(answer::text(StatusCode::OK, ""));
    };
    for name in ["tailLines", "limitBytes", "sinceSeconds"] {
        let least = i64::from(name != "tailLines");
        if query.integer(name)?.is_some_and(|n| n < least) {
            let mut errors = api::validation::Errors::default();
            let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.invalid(name, query.get(name).unwrap_or(""), why);
            errors.into_result("", "PodLogOptions", &info.name)?;
        }
    }
    let names = ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
    let path = format!("/containerLogs/{}/{}/{container}", info.namespace, info.name);
    let path = with_parameters(path, query, &names, &[]);
    let response = forward(dial(server, node).await?, &path, request).await?;
    if response.status().is_success() { Ok(response) } else { Err(refused(info, response).await) }
}

/// The kubelet's refusal of a log, which is text, as clients want to read it.
async fn refused(info: &RequestInfo, response: Response) -> Status {
    let (parts, body) = response.into_parts();
    let said = match http_body_util::Limited::new(body, LONGEST_REFUSAL).collect().await {
        Ok(said) => String::from_utf8_lossy(&said.to_bytes()).into_owned(),
        Err(error) => error.to_string(),
    };
    match parts.status {
        StatusCode::BAD_REQUEST => Status::bad_request(said),
        StatusCode::NOT_FOUND => {
            let message = format!("the server could not find the requested resource (pods {})", info.name);
            Status::new(Reason::NotFound, format!("{message}: {said}")).about("", "pods", &info.name)
        }
        _ => Status::internal(said),
    }
}

async fn stream(
    server: &Server,
    info: &RequestInfo,
    pod: &Value,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(not_allowed());
    }
    let upgrades = request.headers().contains_key(header::UPGRADE);
    if !upgrades {
        return Err(Status::bad_request("unable to upgrade: missing upgrade headers in request"));
    }
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    if matches!(phase, "Succeeded" | "Failed") && info.subresource != "portforward" {
        return Err(Status::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let path = match info.subresource.as_str() {
        "portforward" => {
            let names = ["port", "ports"];
            with_parameters(format!("/portForward/{}/{}", info.namespace, info.name), query, &names, &[])
        }
        what => {
            let container = container(info, pod, query)?;
            // The kubelet's own names for the streams that are wanted.
            let streams = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
            let path = format!("/{what}/{}/{}/{container}", info.namespace, info.name);
            with_parameters(path, query, &["command"], &streams)
        }
    };
    let node =
        node(pod).ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", info.name)))?;
    forward(dial(server, node).await?, &path, request).await
}

fn node(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

/// The path with the named parameters as they came and the flags under the names that they have there.
fn with_parameters(path: String, query: &Query, names: &[&str], flags: &[(&str, &str)]) -> String {
    let mut out = path;
    let mut mark = '?';
    let mut push = |name: &str, value: &str| {
        out.push_str(&format!("{mark}{name}={}", escape(value)));
        mark = '&';
    };
    for name in names {
        query.all(name).for_each(|value| push(name, value));
    }
    for (name, theirs) in flags {
        if query.flag(name) {
            push(theirs, "1");
        }
    }
    out
}

fn with_query(path: &str, uri: &Uri) -> String {
    uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

fn tail(info: &RequestInfo) -> String {
    if info.rest.is_empty() { "/".to_owned() } else { info.rest.clone() }
}

/// The container that is asked for, or the only one.
fn container(info: &RequestInfo, pod: &Value, query: &Query) -> Result<String, Status> {
    let names = |field: &str| -> Vec<&str> {
        pod["spec"][field].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    match query.get("container") {
        Some(name) if main.iter().chain(&init).chain(&ephemeral).any(|n| *n == name) => Ok(name.to_owned()),
        Some(name) => Err(Status::bad_request(format!("container {name} is not valid for pod {}", info.name))),
        None if main.len() == 1 => Ok(main[0].to_owned()),
        None => {
            let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
            if let Some(name) = annotated.filter(|name| main.contains(name)) {
                return Ok(name.to_owned());
            }
            let mut message = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                info.name,
                main.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

async fn dial(server: &Server, node: &str) -> Result<Box<dyn Stream>, Status> {
    let unreachable = |why: String| Status::new(Reason::ServiceUnavailable, why);
    let dialer =
        server.config.kubelet.as_ref().ok_or_else(|| unreachable("no kubelet can be reached from here".to_owned()))?;
    dialer(node.to_owned())
        .await
        .map_err(|error| unreachable(format!("the kubelet of node {node:?} cannot be reached: {error}")))
}

fn first_port(pod: &Value) -> Option<u16> {
    let ports = pod["spec"]["containers"].as_array()?.iter().flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.filter_map(|p| p["containerPort"].as_u64()).find_map(|p| u16::try_from(p).ok())
}

/// An address behind the service, from its endpoint slices.
fn endpoint(server: &Server, info: &RequestInfo, service: &Value) -> Result<(String, u16), Status> {
    let target = target(info);
    let none =
        || Status::new(Reason::ServiceUnavailable, format!("no endpoints available for service {:?}", target.name));
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let wanted = ports.iter().find(|p| {
        target.port_name.is_empty()
            || p["name"] == target.port_name.as_str()
            || target.port.is_some_and(|n| p["port"] == n)
    });
    let name = wanted.ok_or_else(none)?["name"].as_str().unwrap_or("");
    let range = format!("/registry/endpointslices/{}/", info.namespace);
    let page = server.store.list(&range, store::List::default()).map_err(rest::store_error)?;
    for entry in page.entries {
        let slice = rest::parse(&entry.value)?;
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != target.name.as_str() {
            continue;
        }
        let port = slice["ports"].as_array().into_iter().flatten().find(|p| p["name"].as_str().unwrap_or("") == name);
        let ready = slice["endpoints"].as_array().into_iter().flatten().find(|e| e["conditions"]["ready"] != false);
        let address = ready.and_then(|e| e["addresses"][0].as_str());
        if let (Some(port), Some(address)) = (port.and_then(|p| p["port"].as_u64()), address) {
            return Ok((address.to_owned(), u16::try_from(port).unwrap_or(0)));
        }
    }
    Err(none())
}

async fn proxy(info: &RequestInfo, address: &str, port: u16, request: Request) -> Result<Response, Status> {
    let unreachable =
        |why: String| Status::new(Reason::ServiceUnavailable, format!("error trying to reach service: {why}"));
    let address = address.parse().map_err(|_| unreachable("it has no address".to_owned()))?;
    let stream =
        TcpStream::connect(SocketAddr::new(address, port)).await.map_err(|error| unreachable(error.to_string()))?;
    let path = with_query(&tail(info), request.uri());
    forward(Box::new(stream), &path, request).await
}

/// Sends the request on and passes the answer back; after a 101 the two connections are one.
async fn forward(stream: Box<dyn Stream>, path: &str, mut request: Request) -> Result<Response, Status> {
    let failed = |error: hyper::Error| {
        Status::new(Reason::ServiceUnavailable, format!("error trying to reach service: {error}"))
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let ours = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let upgrades = parts.headers.contains_key(header::UPGRADE);
    let mut onward = http::Request::new(if upgrades { Body::empty() } else { body });
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = path.parse().map_err(|_| Status::bad_request("the path cannot be proxied"))?;
    *onward.headers_mut() = without_hops(parts.headers, upgrades);
    onward.headers_mut().insert(header::HOST, HeaderValue::from_static("kubelet"));
    let mut answered = sender.send_request(onward).await.map_err(failed)?;
    let status = answered.status();
    let headers = without_hops(answered.headers().clone(), upgrades);
    let mut response = if status == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut answered);
        tokio::spawn(async move {
            let (Ok(ours), Ok(theirs)) = (ours.await, theirs.await) else { return };
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            // Either side may hang up whenever it likes.
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut ours, &mut theirs, 32 * 1024, 32 * 1024).await;
        });
        Response::new(Body::empty())
    } else {
        Response::new(Body::Through(answered.into_body()))
    };
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The headers that go on. `Connection` and `Upgrade` do so only for an upgrade.
fn without_hops(mut headers: HeaderMap, upgrades: bool) -> HeaderMap {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(header::TRANSFER_ENCODING);
    if !upgrades {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_parameters_become_the_kubelets() {
        let query = Query::parse("command=sh&command=-c&command=a%20b&stdin=true&stdout=true&tty=false&container=x");
        let flags = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
        let path = with_parameters("/exec/a/b/c".to_owned(), &query, &["command"], &flags);
        assert_eq!(path, "/exec/a/b/c?command=sh&command=-c&command=a%20b&input=1&output=1");
    }
}
