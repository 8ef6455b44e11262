//! The kubelet's HTTP server: health, pods, logs, exec, attach, port-forward and numbers, with the paths and parameters of
//! upstream's. It serves pipes in memory, whose other end is the API server, and the HTTPS port, where every request is checked.

mod access;
mod channels;
mod checkpoint;
mod forward;
pub(crate) mod health;
mod https;
mod logs;
mod metrics;
mod multiplex;
mod node_logs;
mod session;
mod socket;
pub mod spdy;
pub mod streaming;
mod summary;
mod upgrade;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::cri::{ContainerFilter, ContainerState, PodSandboxFilter};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::context::Context;
use crate::pods::manager::Pods;
use crate::pods::pod::Pod;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub use https::Keys;

type Query = HashMap<String, Vec<String>>;

/// An answer that is not what was asked for.
struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(message: impl Into<String>) -> Refusal {
        Refusal(StatusCode::NOT_FOUND, message.into())
    }

    fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal(StatusCode::BAD_REQUEST, message.into())
    }

    fn internal(message: impl std::fmt::Display) -> Refusal {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, message.to_string())
    }
}

/// Serves any stream that it is given. Clones share.
#[derive(Clone)]
pub struct Server {
    context: Arc<Context>,
    pods: Pods,
}

impl Server {
    pub(crate) fn new(context: Arc<Context>, pods: Pods) -> Server {
        Server { context, pods }
    }

    /// Serves HTTP/1.1 with upgrades on a stream whose peer may do everything, in a task of its own.
    pub fn accept<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let server = self.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the kubelet ended");
            }
        });
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.route(request).await.unwrap_or_else(|Refusal(status, message)| text(status, message))
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let query = parse_query(request.uri().query().unwrap_or_default());
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into()));
        }
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz"] | ["healthz", "ping" | "syncloop"] => {
                Ok(text(StatusCode::OK, "ok".into()))
            }
            ["pods"] => Ok(self.list_pods()),
            ["runningpods"] => self.list_running().await,
            ["configz"] => Ok(as_json(&summary::known(json!({"kubeletconfig": &*self.context.configuration})))),
            ["stats"] | ["stats", "summary"] => summary::answer(&self.context, &self.pods, &query).await,
            ["metrics"] => metrics::own(&self.context, &self.pods).await,
            ["metrics", "resource"] => metrics::resource(&self.context).await,
            ["metrics", "cadvisor"] => metrics::cadvisor(&self.context, &self.pods).await,
            ["metrics", "probes"] => Ok(metrics::probes(&self.context)),
            ["logs", ..] if !self.context.configuration.enable_system_log_handler => {
                Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n".into()))
            }
            ["logs", ..] => node_logs::answer(&unescape_path(&parts[1..].join("/")), &query).await,
            ["run" | "exec" | "attach" | "portForward" | "containerLogs" | "checkpoint", ..]
                if !self.context.configuration.enable_debugging_handlers =>
            {
                Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n".into()))
            }
            ["run", namespace, pod, .., container] if parts.len() <= 5 => {
                session::run_to_end(&self.context, &*self.pod(namespace, pod)?, container, &query, request.method())
                    .await
            }
            ["checkpoint", namespace, pod, container] => {
                let (pod, method) = (self.pod(namespace, pod)?, request.method());
                checkpoint::answer(&self.context, &pod, container, &query, method).await
            }
            ["containerLogs", namespace, pod, container] => {
                logs::answer(&self.context, &*self.pod(namespace, pod)?, container, &query, request).await
            }
            // A uid between pod and container is told by some clients.
            ["exec", namespace, pod, .., container] if parts.len() <= 5 => {
                session::exec(&self.context, &*self.pod(namespace, pod)?, container, &query, request).await
            }
            ["attach", namespace, pod, .., container] if parts.len() <= 5 => {
                session::attach(&self.context, &*self.pod(namespace, pod)?, container, &query, request).await
            }
            ["portForward", namespace, pod, ..] if parts.len() <= 4 => {
                forward::answer(&self.context, &*self.pod(namespace, pod)?, &query, request).await
            }
            _ => Err(Refusal::not_found("404 page not found")),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        self.pods
            .named(namespace, name)
            .ok_or_else(|| Refusal::not_found(format!("pod \"{name}_{namespace}\" does not exist")))
    }

    /// What the runtime runs, whatever the API says.
    async fn list_running(&self) -> Result<Response<Body>, Refusal> {
        let running = ContainerFilter { state: Some(ContainerState::Running), ..Default::default() };
        let containers = self.context.runtime.list_containers(&running).await.map_err(Refusal::internal)?;
        let sandboxes = self.context.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await;
        let items: Vec<_> = sandboxes
            .map_err(Refusal::internal)?
            .into_iter()
            .filter_map(|sandbox| {
                let own = containers.iter().filter(|c| c.pod_sandbox_id == sandbox.id);
                let own: Vec<_> =
                    own.map(|c| json!({"name": c.metadata.name, "image": c.image.image, "resources": {}})).collect();
                let of = sandbox.metadata;
                let metadata = json!({"name": of.name, "namespace": of.namespace, "uid": of.uid});
                (!own.is_empty()).then(|| json!({"metadata": metadata, "spec": {"containers": own}, "status": {}}))
            })
            .collect();
        Ok(as_json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})))
    }

    fn list_pods(&self) -> Response<Body> {
        let items: Vec<_> = self.pods.all().iter().map(|pod| pod.whole()).collect();
        as_json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn text(status: StatusCode, message: String) -> Response<Body> {
    let mut response = Response::new(full(message));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn as_json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn parse_query(text: &str) -> Query {
    let mut query = Query::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        query.entry(unescape(name)).or_default().push(unescape(value));
    }
    query
}

/// Undoes the escapes of a path, where a plus is a plus.
fn unescape_path(text: &str) -> String {
    unescape(&text.replace('+', "%2B"))
}

/// Undoes the escapes of a query.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a parameter says yes.
fn flag(query: &Query, name: &str) -> bool {
    query.get(name).and_then(|v| v.first()).is_some_and(|v| matches!(v.as_str(), "true" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_and_escaped_parameters_are_read() {
        let query = parse_query("command=sh&command=-c&command=echo%20a+b%26c&tty=1&empty");
        assert_eq!(query["command"], ["sh", "-c", "echo a b&c"]);
        assert!(flag(&query, "tty") && !flag(&query, "empty"));
    }
}
