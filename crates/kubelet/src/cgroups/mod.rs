//! The control groups around pods: all that pods may use together, and how the qualities of service share the processors.

mod tree;

use std::sync::Arc;
use std::time::Duration;

use client::events::EventType;
use runtime::PodCgroups;
use runtime::cri::LinuxContainerResources;

use crate::context::Context;
use crate::pods::manager::Pods;
use crate::resources::Amounts;
use tree::Shares;

/// How often the groups are brought in order where nobody asks for it.
const EVERY: Duration = Duration::from_secs(60);

/// What all pods may use: what the node has, less what is reserved where that is enforced.
pub fn pods_limit(capacity: &Amounts, reserved: &[Amounts], enforced: bool) -> LinuxContainerResources {
    tree::limit(capacity, if enforced { reserved } else { &[] })
}

/// Keeps the groups in order, for ever.
pub async fn keep(context: Arc<Context>, pods: Pods, groups: PodCgroups, limit: LinuxContainerResources) {
    let (mut limited, mut known) = (false, None);
    let mut times = tokio::time::interval(EVERY);
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = times.tick() => {
                // What somebody else changed is set again now and then.
                known = None;
                limited = limited || set_limit(&context, &groups, &limit).await;
            }
            () = context.pods_changed.notified() => {}
        }
        let shares = Shares::of(pods.all().iter().map(|pod| &**pod));
        if known != Some(shares) {
            match set(&groups, shares.settings()).await {
                Ok(()) => known = Some(shares),
                Err(error) => tracing::warn!(error, "the groups of pods cannot be set"),
            }
        }
    }
}

/// Limits all pods together and tells of it; false where it is to be tried again.
async fn set_limit(context: &Context, groups: &PodCgroups, limit: &LinuxContainerResources) -> bool {
    let made = set(groups, vec![(tree::PODS, limit.clone())]).await;
    let enforces = context.configuration.enforce_node_allocatable.iter().any(|part| part == "pods");
    match &made {
        Ok(()) if enforces => {
            let message = "Updated Node Allocatable limit across pods".to_owned();
            context.tell_of_node(EventType::Normal, "NodeAllocatableEnforced", message);
        }
        Ok(()) => {}
        Err(error) => {
            let message = format!("Failed to update Node Allocatable Limits \"{}\": {error}", tree::PODS);
            context.tell_of_node(EventType::Warning, "FailedNodeAllocatableEnforcement", message);
        }
    }
    made.is_ok()
}

async fn set(groups: &PodCgroups, settings: Vec<(&'static str, LinuxContainerResources)>) -> Result<(), String> {
    let groups = groups.clone();
    let work =
        move || settings.iter().try_for_each(|(path, resources)| groups.make(&groups.below(path), Some(resources)));
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
