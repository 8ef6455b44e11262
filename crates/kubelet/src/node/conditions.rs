//! The node's conditions, and the events that tell of their changes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use runtime::cri::RuntimeService;

use crate::pods::status::whole_seconds;

/// A condition; its reason and message while it is false and while it is true; and the events of either.
struct Row {
    kind: &'static str,
    well: (&'static str, &'static str),
    ill: (&'static str, &'static str),
    events: (&'static str, &'static str),
}

const PRESSURES: [Row; 3] = [
    Row {
        kind: "MemoryPressure",
        well: ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ill: ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        events: ("NodeHasSufficientMemory", "NodeHasInsufficientMemory"),
    },
    Row {
        kind: "DiskPressure",
        well: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ill: ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        events: ("NodeHasNoDiskPressure", "NodeHasDiskPressure"),
    },
    Row {
        kind: "PIDPressure",
        well: ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ill: ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        events: ("NodeHasSufficientPID", "NodeHasInsufficientPID"),
    },
];

/// Why the runtime cannot run pods, if it cannot.
pub async fn runtime(runtime: &dyn RuntimeService) -> Result<(), String> {
    let status = runtime.status().await.map_err(|error| format!("container runtime is down: {error}"))?;
    let broken = status.conditions.into_iter().filter(|c| !c.status).map(|c| {
        let what = match c.r#type.as_str() {
            "NetworkReady" => "container runtime network not ready",
            _ => "container runtime not ready",
        };
        format!("{what}: {}=false reason:{} message:{}", c.r#type, c.reason, c.message)
    });
    let broken: Vec<_> = broken.collect();
    if broken.is_empty() { Ok(()) } else { Err(broken.join("; ")) }
}

/// All conditions; those that did not change keep the time of their last change.
pub fn compute(
    pressures: &[&str],
    runtime: &Result<(), String>,
    last: &v1::NodeStatus,
    now: Timestamp,
) -> Vec<v1::NodeCondition> {
    let mut all: Vec<_> = PRESSURES
        .iter()
        .map(|row| {
            let is = pressures.contains(&row.kind);
            let (reason, message) = if is { row.ill } else { row.well };
            condition(row.kind, is, reason, message)
        })
        .collect();
    all.push(match runtime {
        Ok(()) => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        Err(why) => condition("Ready", false, "KubeletNotReady", why),
    });
    let now = Time(whole_seconds(now));
    for new in &mut all {
        let old = find(last, &new.type_).filter(|old| old.status == new.status);
        new.last_transition_time = old.and_then(|o| o.last_transition_time.clone()).or_else(|| Some(now.clone()));
        new.last_heartbeat_time = Some(now.clone());
    }
    all
}

/// The reasons of the events that tell what is different from before.
pub fn events(before: &v1::NodeStatus, after: &v1::NodeStatus) -> Vec<&'static str> {
    let changed = |kind: &str| {
        let (old, new) = (find(before, kind), find(after, kind)?);
        (old.is_none_or(|old| old.status != new.status)).then(|| new.status == "True")
    };
    let pressures =
        PRESSURES.iter().filter_map(|row| changed(row.kind).map(|ill| if ill { row.events.1 } else { row.events.0 }));
    let ready = changed("Ready").map(|ready| if ready { "NodeReady" } else { "NodeNotReady" });
    pressures.chain(ready).collect()
}

fn condition(kind: &str, value: bool, reason: &str, message: &str) -> v1::NodeCondition {
    v1::NodeCondition {
        type_: kind.to_owned(),
        status: if value { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..Default::default()
    }
}

pub fn find<'a>(status: &'a v1::NodeStatus, kind: &str) -> Option<&'a v1::NodeCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_it_changes_and_a_change_is_told() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let status = |pressures: &[&str], last: &v1::NodeStatus, second| v1::NodeStatus {
            conditions: Some(compute(pressures, &Ok(()), last, at(second))),
            ..Default::default()
        };
        let first = status(&[], &v1::NodeStatus::default(), 1);
        let second = status(&["MemoryPressure"], &first, 2);
        let since = |status: &v1::NodeStatus, kind: &str| {
            find(status, kind).and_then(|c| c.last_transition_time.clone()).map(|t| t.0.as_second())
        };
        assert_eq!((since(&second, "DiskPressure"), since(&second, "MemoryPressure")), (Some(1), Some(2)));
        assert_eq!(
            events(&v1::NodeStatus::default(), &first),
            ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]
        );
        assert_eq!(events(&first, &second), ["NodeHasInsufficientMemory"]);
    }
}
