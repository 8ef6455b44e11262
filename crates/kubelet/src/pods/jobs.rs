//! The doing: each function is one action of a decision, done to its end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use runtime::cri::{ContainerState, CriError, LinuxContainerResources};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::memory::{Present, Reason};
use super::pod::{Member, Pod, Role};
use super::{resize, statics};
use crate::containers::Makings;
use crate::context::Context;
use crate::fields::Addresses;
use crate::volumes::Prepared;
use crate::{hooks, resources, sandbox};

/// A container gets at least this long after its hook took the grace period.
const AFTER_HOOK: Duration = Duration::from_secs(2);
/// Before a static pod that could not be shown in the API is shown again.
const MIRROR_AGAIN: Duration = Duration::from_secs(5);
/// Before something that failed and must succeed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

pub async fn create_sandbox(context: Arc<Context>, pod: Arc<Pod>, attempt: u32) -> Result<(), String> {
    if let Err(error) = context.claims.prepare(&pod).await {
        let message = format!("Failed to prepare dynamic resources: prepare dynamic resources: {error}");
        context.warn(&pod, None, "FailedPrepareDynamicResources", message.clone());
        return Err(message);
    }
    let made = async {
        let handler = sandbox::handler(&context, &pod).await?;
        sandbox::check_user_namespace(&context, &pod, &handler).await?;
        let config = sandbox::config(&context, &pod, attempt)?;
        let logs = context.log_dir(&pod);
        std::fs::create_dir_all(&logs).map_err(|e| format!("create log directory {}: {e}", logs.display()))?;
        for message in sandbox::resolver(&context, &pod).1 {
            context.warn(&pod, None, "DNSConfigForming", message);
        }
        context.runtime.run_pod_sandbox(config, &handler).await.map_err(|e| rpc(&e))
    };
    match made.await {
        Ok(_) => Ok(()),
        Err(error) => {
            context.warn(&pod, None, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
            Err(error)
        }
    }
}

/// A runtime's error as upstream's messages show those of a remote one.
fn rpc(error: &CriError) -> String {
    format!("rpc error: code = {:?} desc = {}", error.code, error.message)
}

/// What a start needs besides the pod.
pub struct Start {
    pub container: String,
    pub attempt: u32,
    pub sandbox: String,
    pub addresses: Addresses,
    pub volumes: Prepared,
    pub image: Present,
    /// The running container that an ephemeral one targets.
    pub target: Option<String>,
    /// The container is to stop before its hook has passed.
    pub cancelled: CancellationToken,
}

/// Why a start failed, and whether the runtime keeps the container as one that ended, so that the crash-loop rules hold.
pub struct Failed {
    pub why: Reason,
    pub ended: bool,
}

/// Makes and starts a container and runs its postStart hook.
pub async fn start(context: Arc<Context>, pod: Arc<Pod>, start: Start) -> Result<(), Failed> {
    let Some(member) = pod.member(&start.container) else { return Ok(()) };
    let name = Some(member.spec.name.as_str());
    let failed = |reason: &str, message: String| {
        context.warn(&pod, name, "Failed", format!("Error: {message}"));
        Failed { why: Reason::new(reason, message), ended: false }
    };
    let makings = Makings {
        context: &context,
        pod: &pod,
        member,
        attempt: start.attempt,
        addresses: &start.addresses,
        volumes: &start.volumes,
        image: &start.image,
        target: start.target.as_deref(),
    };
    let config = makings.config().await.map_err(|e| failed("CreateContainerConfigError", e))?;
    let sandbox_config = sandbox::config(&context, &pod, 0).map_err(|e| failed("CreateContainerConfigError", e))?;
    let created = context.runtime.create_container(&start.sandbox, config, &sandbox_config).await;
    let id = created.map_err(|e| failed("CreateContainerError", e.message))?;
    context.tell(&pod, name, "Created", format!("Container created: {}", member.spec.name));
    if let Err(error) = context.runtime.start_container(&id).await {
        let mut failed = failed("RunContainerError", format!("failed to start container {id:?}: {}", error.message));
        let status = context.runtime.container_status(&id).await;
        failed.ended = status.is_ok_and(|s| s.state == ContainerState::Exited);
        if !failed.ended {
            let _ = context.runtime.remove_container(&id).await;
        }
        return Err(failed);
    }
    context.tell(&pod, name, "Started", format!("Container started: {}", member.spec.name));
    let hook = post_start(&context, &pod, member, &id, &start.addresses);
    start.cancelled.run_until_cancelled(hook).await.unwrap_or(Ok(()))
}

async fn post_start(
    context: &Context,
    pod: &Pod,
    member: &Member,
    id: &str,
    addresses: &Addresses,
) -> Result<(), Failed> {
    let Some(handler) = member.spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let ip = addresses.pod_ips.first().map(String::as_str).unwrap_or_default();
    let Err(error) = hooks::run(context, pod, handler, &member.spec, id, ip).await else { return Ok(()) };
    let name = Some(member.spec.name.as_str());
    let message = format!("PostStartHook failed: {error}");
    context.warn(pod, name, "FailedPostStartHook", message.clone());
    let killing = format!("Container {} failed postStart hook, will be restarted", member.spec.name);
    context.tell(pod, name, "Killing", killing);
    let _ = context.runtime.stop_container(id, Duration::from_secs(pod.grace() as u64)).await;
    Err(Failed { why: Reason::new("PostStartHookError", message), ended: true })
}

/// Runs a container's preStop hook within the grace that there is. False where there is none to run.
pub async fn pre_stop(context: &Context, pod: &Pod, id: &str, name: &str, grace: i64) -> bool {
    let member = pod.member(name).filter(|m| m.role != Role::Ephemeral);
    let hook = member.and_then(|m| m.spec.lifecycle.as_ref()?.pre_stop.as_ref().map(|handler| (m, handler)));
    let Some((member, handler)) = hook.filter(|_| grace > 0) else { return false };
    let ip = pod.status().and_then(|s| s.pod_ip.clone()).unwrap_or_default();
    let run = hooks::run(context, pod, handler, &member.spec, id, &ip);
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(grace as u64), run).await {
        context.warn(pod, Some(name), "FailedPreStopHook", format!("PreStopHook failed: {error}"));
    }
    true
}

/// What a stop needs besides the pod.
pub struct Stop {
    pub id: String,
    pub container: String,
    /// The event's words.
    pub why: Option<String>,
    /// The preStop hook has run or is running elsewhere.
    pub hooked: bool,
    /// When it is killed; it may move while the container stops.
    pub deadline: watch::Receiver<Instant>,
}

/// Stops a container within its grace, of which its preStop hook takes its part unless it has run before. Gives its id.
pub async fn stop(context: Arc<Context>, pod: Arc<Pod>, stop: Stop) -> String {
    let Stop { id, container, why, hooked, mut deadline } = stop;
    let message = why.unwrap_or_else(|| format!("Stopping container {container}"));
    context.tell(&pod, Some(&container), "Killing", message);
    let until = |deadline: &watch::Receiver<Instant>| deadline.borrow().saturating_duration_since(Instant::now());
    let mut left = until(&deadline);
    let grace = whole_seconds(left);
    if !hooked {
        let hook = pre_stop(&context, &pod, &id, &container, grace);
        let ran = tokio::select! {
            ran = hook => ran,
            () = passed(&mut deadline) => true,
        };
        if ran {
            left = until(&deadline).max(AFTER_HOOK);
        }
    }
    let hurried = async {
        // As long as nothing changes, the runtime itself keeps the time.
        if deadline.changed().await.is_ok() {
            passed(&mut deadline).await;
            return context.runtime.stop_container(&id, Duration::ZERO).await;
        }
        std::future::pending().await
    };
    let stopped = tokio::select! {
        stopped = context.runtime.stop_container(&id, left) => stopped,
        stopped = hurried => stopped,
    };
    if let Err(error) = stopped
        && !error.is_not_found()
    {
        tracing::warn!(pod = pod.display(), container, %error, "stopping a container failed");
        tokio::time::sleep(AGAIN).await;
    }
    id
}

/// A second that has begun counts: however late the job comes, a hook gets what is left.
fn whole_seconds(left: Duration) -> i64 {
    i64::try_from(left.as_secs()).unwrap_or(i64::MAX).saturating_add(i64::from(left.subsec_nanos() > 0))
}

/// Waits for the deadline, wherever it moves.
async fn passed(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = deadline.changed() => if changed.is_err() {
                return tokio::time::sleep_until(at).await;
            },
        }
    }
}

/// Calls the runtime; a failure is logged and waited out, since the decision is made again.
pub async fn call(what: &'static str, pod: &Pod, work: impl Future<Output = runtime::cri::Result<()>>) -> bool {
    match work.await {
        Err(error) if !error.is_not_found() => {
            tracing::warn!(pod = pod.display(), %error, "{what} failed");
            tokio::time::sleep(AGAIN).await;
            false
        }
        _ => true,
    }
}

pub async fn tear_down(context: Arc<Context>, pod: Arc<Pod>) -> bool {
    let failed = |what: &str, error: String| tracing::warn!(pod = pod.display(), error, "{what} failed");
    let claims = context.claims.unprepare(&pod.uid).await.map_err(|e| failed("unpreparing dynamic resources", e));
    let volumes = context.volumes.tear_down(&pod.uid).await.map_err(|e| failed("taking down volumes", e));
    if claims.and(volumes).is_err() {
        tokio::time::sleep(AGAIN).await;
        return false;
    }
    context.users.release(&pod.uid);
    true
}

/// Brings settings to running containers: first what takes from them, then the pod's own cgroup, then what gives.
pub async fn resize(
    context: Arc<Context>,
    pod: Arc<Pod>,
    sandbox: String,
    changes: Vec<(String, LinuxContainerResources, LinuxContainerResources)>,
) -> Result<(), String> {
    let runtime = &context.runtime;
    let told = |error: CriError| error.message;
    for (id, now, wanted) in &changes {
        let limit = wanted.memory_limit_in_bytes;
        if limit > 0 && (now.memory_limit_in_bytes <= 0 || limit < now.memory_limit_in_bytes) {
            let used = runtime.container_stats(id).await.map_err(told)?.memory.usage_bytes.unwrap_or(0);
            if used > limit as u64 {
                return Err(format!("attempting to set container memory limit ({limit}) below current usage ({used})"));
            }
        }
        runtime.update_container_resources(id, resize::lowered(now, wanted)).await.map_err(told)?;
    }
    let whole = resources::pod_resources(&pod, &context.rules);
    runtime.update_pod_sandbox_resources(&sandbox, None, Some(whole)).await.map_err(told)?;
    for (id, _, wanted) in &changes {
        runtime.update_container_resources(id, resize::update(wanted)).await.map_err(told)?;
    }
    Ok(())
}

/// Deletes an object of the API at once, if it is still the one with that uid.
pub async fn delete(context: &Context, pod: &Pod, uid: &str) -> bool {
    let api: Api<v1::Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params =
        DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
    match api.delete(&pod.name, &params).await {
        Ok(_) => true,
        // Gone, or another pod of the same name is there.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
        Err(error) => {
            tracing::warn!(pod = pod.display(), %error, "deleting the pod's object failed");
            tokio::time::sleep(AGAIN).await;
            false
        }
    }
}

/// Makes the object by which the API shows a static pod.
pub async fn create_mirror(context: Arc<Context>, pod: Arc<Pod>) -> bool {
    let api: Api<v1::Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
    let nodes: Api<v1::Node> = Api::all(context.client.clone());
    let mut registered = context.registered.subscribe();
    // Without its node's uid a mirror cannot be made.
    let _ = tokio::time::timeout(MIRROR_AGAIN, registered.wait_for(|registered| *registered)).await;
    let made = async {
        let node = nodes.get(&context.node_name).await?;
        api.create(&PostParams::default(), &statics::mirror(&node, &pod)).await
    };
    match made.await {
        Ok(_) => true,
        // It is there already and on its way here.
        Err(kube::Error::Api(status)) if status.code == 409 => true,
        Err(error) => {
            tracing::warn!(pod = pod.display(), %error, "a static pod cannot be shown in the API");
            tokio::time::sleep(MIRROR_AGAIN).await;
            false
        }
    }
}

/// Deletes what is left of a pod: its object with that uid, if there is one, its sandboxes and its logs.
pub async fn finish(context: Arc<Context>, pod: Arc<Pod>, sandboxes: Vec<String>, object: Option<String>) -> bool {
    let delete = async {
        match &object {
            Some(uid) => delete(&context, &pod, uid).await,
            None => true,
        }
    };
    let remove = async {
        let runtime = &context.runtime;
        for id in sandboxes {
            call("removing a sandbox", &pod, runtime.remove_pod_sandbox(&id)).await;
        }
        let logs = context.log_dir(&pod);
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(logs)).await;
    };
    futures::future::join(delete, remove).await.0
}

/// Brings a status to the API. Gives the object's new resource version.
pub async fn patch(context: Arc<Context>, pod: Arc<Pod>, patch: Value) -> Result<u64, bool> {
    let api: Api<v1::Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
    match api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(pod) => Ok(pod.metadata.resource_version.and_then(|v| v.parse().ok()).unwrap_or(0)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Err(false),
        Err(error) => {
            tracing::warn!(pod = pod.display(), %error, "writing the pod's status failed");
            tokio::time::sleep(AGAIN).await;
            Err(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_that_has_begun_is_left_to_a_hook() {
        for (milliseconds, expected) in [(0, 0), (1, 1), (850, 1), (1000, 1), (1001, 2), (29_990, 30)] {
            assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), expected, "{milliseconds}");
        }
    }
}
