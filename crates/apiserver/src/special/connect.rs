//! Streams to kubelets: logs, exec, attach and port-forward. The server checks who asks for what and where it is; the request
//! then goes on as it is, in whatever protocol the client and the kubelet agree on.

use api::schema::Type;
use api::status::Reason;
use api::{Status, Value};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;

use super::forward::{forward, upgrades};
use super::proxy::proxy;
use crate::access::authorization;
use crate::admission::{Attributes, Operation, admit};
use crate::dispatch::not_allowed;
use crate::guard;
use crate::rest::{self, Call};
use crate::server::{Server, Stream};
use crate::wire::query::escape;
use crate::wire::{Query, Request, RequestInfo, Response, answer};

/// What is read of a kubelet's refusal.
const LONGEST_REFUSAL: usize = 10_000;

/// Answers `log`, `exec`, `attach`, `portforward` and `proxy`.
pub async fn answer(call: &Call, request: Request) -> Result<Response, Status> {
    let Call { server, kind, info, .. } = call;
    if info.subresource == "log" {
        if *request.method() != Method::GET {
            return Err(not_allowed());
        }
        let pod = rest::parse(&call.entry()?.value)?;
        return log(server, info, &pod, &guard::query(&request), request).await;
    }
    let proxies = info.subresource == "proxy";
    if !proxies && !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(not_allowed());
    }
    // A WebSocket is opened by GET, but what it opens is more than a look.
    if info.verb == "get" && !proxies {
        let creates = RequestInfo { verb: "create", ..RequestInfo::clone(info) };
        if !authorization::allowed(server, &call.user, &creates) {
            return Err(authorization::forbidden(&call.user, &creates));
        }
    }
    let warnings = admit(call, Operation::Connect, &mut options(call)?).await?;
    let mut response = if proxies {
        proxy(server, kind, info, request).await?
    } else {
        let pod = rest::parse(&call.entry()?.value)?;
        stream(server, info, &pod, &guard::query(&request), request).await?
    };
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// The options of a stream as the object that admission sees: `PodExecOptions` and the like, from the query.
fn options(call: &Call) -> Result<Value, Status> {
    let attributes = Attributes::new(call, Operation::Connect, &call.info.subresource);
    let (group, version, kind) = attributes.kind();
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut object = json!({"kind": kind, "apiVersion": version});
    let fields = api::table::get(&format!("io.k8s.api.core.v1.{kind}")).map_or(&[][..], |schema| &schema.fields);
    for field in fields.iter().filter(|field| call.query.has(&field.name)) {
        let name = &*field.name;
        let numbers = || -> Result<Vec<i64>, Status> {
            let each = call.query.all(name).flat_map(|text| text.split(','));
            each.map(|text| text.parse().map_err(|_| Status::bad_request(format!("{name}: {text:?} is no number"))))
                .collect()
        };
        object[name] = match &field.ty {
            Type::Bool => call.query.flag(name).into(),
            Type::String => call.query.get(name).unwrap_or("").into(),
            Type::List(item, _) if matches!(**item, Type::Int32 | Type::Int64) => json!(numbers()?),
            Type::List(..) => call.query.all(name).collect(),
            _ => continue,
        };
    }
    if call.info.subresource == "proxy" && !call.info.rest.is_empty() {
        object["path"] = call.info.rest.trim_start_matches('/').into();
    }
    Ok(object)
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
    // A WebSocket brings a log, too.
    let brings = response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if brings { Ok(response) } else { Err(refused(info, response).await) }
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
    if !upgrades(request.headers()) {
        return Err(Status::bad_request("Upgrade request required"));
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

/// A connection to a node's kubelet.
pub async fn dial(server: &Server, node: &str) -> Result<Box<dyn Stream>, Status> {
    let unreachable = |why: String| Status::new(Reason::ServiceUnavailable, why);
    let dialer =
        server.config.kubelet.as_ref().ok_or_else(|| unreachable("no kubelet can be reached from here".to_owned()))?;
    dialer(node.to_owned())
        .await
        .map_err(|error| unreachable(format!("the kubelet of node {node:?} cannot be reached: {error}")))
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
