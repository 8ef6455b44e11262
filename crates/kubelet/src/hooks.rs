//! Lifecycle hooks: what runs right after a container's start and right before its stop.

use std::time::Duration;

use k8s_openapi::api::core::v1;

use crate::context::Context;
use crate::probes::{self, Call};

/// The longest that an HTTP hook may take.
const HTTP_LIMIT: Duration = Duration::from_secs(30);

/// Runs the handler in the container; the error says why it failed.
pub async fn run(
    context: &Context,
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
        let call = Call::of(action, container, pod_ip)?;
        let status = probes::get(&call, "kube-lifecycle/1.36", HTTP_LIMIT).await?.status;
        return if status < 400 { Ok(()) } else { Err(format!("HTTP hook failed with statuscode: {status}")) };
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
