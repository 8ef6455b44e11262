//! One question to a container: by HTTP, TCP, gRPC or a command inside it.

use std::time::Duration;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::{self, Call};
use crate::context::Context;

/// Output that is shown of a probe that failed.
const OUTPUT_MAX: usize = 10 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Success,
    /// A success that the user should hear about.
    Warning(String),
    Failure(String),
}

/// The container that is asked.
pub struct Target<'a> {
    pub context: &'a Context,
    pub container: &'a v1::Container,
    pub id: &'a str,
    pub pod_ip: &'a str,
}

/// Asks what the probe says; takes no longer than `limit`.
pub async fn run(target: &Target<'_>, probe: &v1::Probe, limit: Duration) -> Answer {
    let answer = if let Some(exec) = &probe.exec {
        command(target, exec.command.clone().unwrap_or_default(), limit).await
    } else if let Some(action) = &probe.http_get {
        http_get(target, action, limit).await
    } else if let Some(action) = &probe.tcp_socket {
        tcp(target, action.host.as_deref(), &action.port, limit).await
    } else if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).unwrap_or(0);
        http::grpc_health(target.pod_ip, port, action.service.as_deref().unwrap_or_default(), limit).await
    } else {
        Err("missing probe handler".to_owned())
    };
    match answer {
        Ok(None) => Answer::Success,
        Ok(Some(warning)) => Answer::Warning(warning),
        Err(message) => Answer::Failure(message),
    }
}

type Outcome = Result<Option<String>, String>;

async fn command(target: &Target<'_>, cmd: Vec<String>, limit: Duration) -> Outcome {
    let shown = format!("{cmd:?}");
    match target.context.runtime.exec_sync(target.id, cmd, limit).await {
        Ok(done) if done.exit_code == 0 => Ok(None),
        Ok(done) => {
            let mut output = done.stdout;
            output.extend(done.stderr);
            output.truncate(OUTPUT_MAX);
            Err(String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) if error.code == runtime::cri::Code::DeadlineExceeded => {
            Err(format!("command timed out: {shown} timed out after {}s", limit.as_secs()))
        }
        Err(error) => Err(error.message),
    }
}

async fn http_get(target: &Target<'_>, action: &v1::HTTPGetAction, limit: Duration) -> Outcome {
    let call = Call::of(action, target.container, target.pod_ip)?;
    let reply = http::get(&call, "kube-probe/1.36", limit).await?;
    match reply.status {
        200..=299 => Ok(None),
        300..=399 => Ok(Some(format!("Probe terminated redirects, Response body: {}", reply.body))),
        status => Err(format!("HTTP probe failed with statuscode: {status}")),
    }
}

async fn tcp(target: &Target<'_>, host: Option<&str>, port: &IntOrString, limit: Duration) -> Outcome {
    let port = port_of(port, target.container)?;
    let host = host.filter(|h| !h.is_empty()).unwrap_or(target.pod_ip);
    let address = format!("{host}:{port}");
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(None),
        Ok(Err(error)) => Err(format!("dial tcp {address}: {}", http::words(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

/// A port by number, or by its name in the container.
pub fn port_of(port: &IntOrString, container: &v1::Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| "couldn't find port: no such port in the container".to_owned())
}
