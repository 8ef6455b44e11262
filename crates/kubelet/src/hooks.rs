//! Lifecycle hooks: what runs right after a container's start and right before its stop.

use std::time::Duration;

use k8s_openapi::api::core::v1;

use crate::context::Context;
use crate::pods::pod::Pod;
use crate::probes::{self, Call};

/// The longest that an HTTP hook may take.
const HTTP_LIMIT: Duration = Duration::from_secs(30);
const AGENT: &str = "kube-lifecycle/1.36";

/// Runs the handler in the container; the error says why it failed.
pub async fn run(
    context: &Context,
    pod: &Pod,
    handler: &v1::LifecycleHandler,
    container: &v1::Container,
    id: &str,
    pod_ip: &str,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let cmd = exec.command.clone().unwrap_or_default();
        let shown = format!("{cmd:?}");
        // The grace period ends it, not a limit of its own.
        return match context.runtime.exec_sync(id, cmd, Duration::ZERO).await {
            Ok(done) if done.exit_code == 0 => Ok(()),
            Ok(done) => {
                let output = String::from_utf8_lossy(&done.stderr);
                Err(format!("command {shown} exited with {}: {output}", done.exit_code))
            }
            Err(error) => Err(error.message),
        };
    }
    if let Some(action) = &handler.http_get {
        let mut call = Call::of(action, container, pod_ip)?;
        // Any answer will do.
        let answer = probes::get(&call, AGENT, HTTP_LIMIT).await;
        if !call.tls || !answer.as_ref().is_err_and(|error| error.ends_with(probes::PLAIN_ANSWER)) {
            return answer.map(drop);
        }
        // Hooks were once called without TLS whatever they asked for, and some still expect it. Credentials stay here.
        call.tls = false;
        call.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
        probes::get(&call, AGENT, HTTP_LIMIT).await?;
        let about = format!("request to HTTPS lifecycle hook {}:{} got HTTP response", call.host, call.port);
        context.warn(
            pod,
            Some(&container.name),
            "LifecycleHTTPFallback",
            format!("{about}, retry with HTTP succeeded"),
        );
        return Ok(());
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        return Ok(());
    }
    if handler.tcp_socket.is_some() {
        return Err("tcpSocket hooks are not supported".to_owned());
    }
    Err("invalid handler: no action".to_owned())
}
