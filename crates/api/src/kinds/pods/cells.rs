//! Cells of pods, and of kinds with a pod template.

use serde_json::Value;

use crate::kinds::access::{at, entries, flag, has, list, number, text};
use crate::print::{joined, seconds, since};

/// The names of the containers, the images, and so on, of the template's spec at the path.
pub fn container_field(object: &Value, spec: &str, field: &str) -> Value {
    let names: Vec<&str> =
        list(at(object, spec), "containers").iter().map(|container| text(container, field)).collect();
    names.join(",").into()
}

/// A `LabelSelector` as text; `<none>` where it selects everything.
pub fn selector(selector: &Value) -> Value {
    let mut parts: Vec<(&str, String)> = entries(selector, "matchLabels")
        .map(|(k, v)| (k.as_str(), format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let values = || {
            let mut values: Vec<&str> = list(expression, "values").iter().filter_map(Value::as_str).collect();
            values.sort_unstable();
            values.join(",")
        };
        parts.push((
            key,
            match text(expression, "operator") {
                "In" => format!("{key} in ({})", values()),
                "NotIn" => format!("{key} notin ({})", values()),
                "DoesNotExist" => format!("!{key}"),
                _ => key.to_owned(),
            },
        ));
    }
    parts.sort_by(|a, b| a.0.cmp(b.0));
    let texts: Vec<&str> = parts.iter().map(|(_, text)| text.as_str()).collect();
    joined(&texts, ",").into()
}

/// What a row says of a pod's containers.
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<i64>,
}

fn latest(last: &mut Option<i64>, status: &Value) {
    let finished = seconds(text(status, "lastState.terminated.finishedAt"));
    *last = (*last).max(finished);
}

/// How a terminated container ended, where no reason says it.
fn ended(terminated: &Value) -> String {
    match (text(terminated, "reason"), number(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn summary(pod: &Value) -> Summary {
    let (spec, status) = (at(pod, "spec"), at(pod, "status"));
    let mut reason = match text(status, "reason") {
        "" => text(status, "phase").to_owned(),
        reason => reason.to_owned(),
    };
    let condition = |name: &str| list(status, "conditions").iter().find(|c| text(c, "type") == name);
    if condition("PodScheduled").is_some_and(|c| text(c, "reason") == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let sidecar = |name: &str| {
        list(spec, "initContainers").iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always")
    };
    let inits = list(spec, "initContainers");
    let sidecars = inits.iter().filter(|c| text(c, "restartPolicy") == "Always").count();
    let mut all =
        Summary { reason, ready: 0, total: list(spec, "containers").len() + sidecars, restarts: 0, last_restart: None };
    let (mut sidecar_restarts, mut sidecar_last, mut initializing) = (0, None, false);
    for (index, container) in list(status, "initContainerStatuses").iter().enumerate() {
        let is_sidecar = sidecar(text(container, "name"));
        all.restarts += number(container, "restartCount");
        latest(&mut all.last_restart, container);
        if is_sidecar {
            sidecar_restarts += number(container, "restartCount");
            latest(&mut sidecar_last, container);
        }
        let terminated = at(container, "state.terminated");
        if !terminated.is_null() && number(terminated, "exitCode") == 0 {
            continue;
        }
        if is_sidecar && flag(container, "started") {
            all.ready += usize::from(flag(container, "ready"));
            continue;
        }
        let waiting = text(container, "state.waiting.reason");
        all.reason = if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", inits.len())
        };
        initializing = true;
        break;
    }
    let is_true = |name: &str| condition(name).is_some_and(|c| text(c, "status") == "True");
    if !initializing || is_true("Initialized") {
        all.restarts = sidecar_restarts;
        all.last_restart = sidecar_last;
        let running = containers(&mut all, list(status, "containerStatuses"));
        if all.reason == "Completed" && running {
            all.reason = if is_true("Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if has(pod, "metadata.deletionTimestamp") {
        if text(status, "reason") == "NodeLost" {
            all.reason = "Unknown".to_owned();
        } else if !matches!(text(status, "phase"), "Succeeded" | "Failed") {
            all.reason = "Terminating".to_owned();
        }
    }
    all
}

/// Counts the main containers; answers whether one is running and ready.
fn containers(all: &mut Summary, statuses: &[Value]) -> bool {
    let mut running = false;
    for container in statuses.iter().rev() {
        all.restarts += number(container, "restartCount");
        latest(&mut all.last_restart, container);
        let waiting = text(container, "state.waiting.reason");
        let terminated = at(container, "state.terminated");
        if !waiting.is_empty() {
            all.reason = waiting.to_owned();
        } else if !terminated.is_null() {
            all.reason = ended(terminated);
        } else if flag(container, "ready") && has(container, "state.running") {
            running = true;
            all.ready += 1;
        }
    }
    running
}

/// The cells of a pod: Name, Ready, Status, Restarts, Age, IP, Node, Nominated Node, Readiness Gates.
pub fn pod(pod: &Value, now: i64) -> Vec<Value> {
    let all = summary(pod);
    let restarts = match all.last_restart {
        Some(last) if all.restarts != 0 => {
            format!("{} ({} ago)", all.restarts, crate::print::duration(now - last))
        }
        _ => all.restarts.to_string(),
    };
    let or_none = |text: &str| Value::from(if text.is_empty() { "<none>" } else { text });
    let ip = match list(pod, "status.podIPs").first() {
        Some(first) => text(first, "ip"),
        None => text(pod, "status.podIP"),
    };
    vec![
        at(pod, "metadata.name").clone(),
        format!("{}/{}", all.ready, all.total).into(),
        all.reason.into(),
        restarts.into(),
        since(text(pod, "metadata.creationTimestamp"), now).into(),
        or_none(ip),
        or_none(text(pod, "spec.nodeName")),
        or_none(text(pod, "status.nominatedNodeName")),
        readiness_gates(pod),
    ]
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let conditions = list(pod, "status.conditions");
    let passed = gates.iter().filter(|gate| {
        conditions.iter().any(|c| text(c, "type") == text(gate, "conditionType") && text(c, "status") == "True")
    });
    format!("{}/{}", passed.count(), gates.len()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_status_reads_as_kubectl_shows_it() {
        let spec =
            json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let ok = json!({"state": {"running": {}}, "ready": true, "restartCount": 0});
        let table = [
            (json!({"phase": "Pending"}), ["0/2", "Pending", "0"]),
            (json!({"phase": "Running", "containerStatuses": [ok, ok]}), ["2/2", "Running", "0"]),
            (
                json!({"phase": "Pending", "initContainerStatuses": [
                    {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}),
                ["0/2", "Init:1/2", "0"],
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"finishedAt": "1970-01-01T00:00:00Z"}}}]}),
                ["0/2", "Init:CrashLoopBackOff", "2 (5m ago)"],
            ),
            (
                json!({"phase": "Running", "containerStatuses": [ok, {"restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                ["1/2", "CrashLoopBackOff", "3"],
            ),
            (
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, ok]}),
                ["1/2", "Running", "0"],
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), ["0/2", "Evicted", "0"]),
            (
                json!({"phase": "Running", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
                ["0/2", "ExitCode:3", "0"],
            ),
        ];
        for (status, wanted) in table {
            let cells = pod(&json!({"metadata": {"name": "p"}, "spec": spec, "status": status}), 300);
            assert_eq!(cells[1..4], wanted.map(Value::from), "{status}");
        }
        let gone = json!({"metadata": {"name": "p", "deletionTimestamp": "1970-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(pod(&gone, 0)[2], "Terminating");
    }

    #[test]
    fn selectors_read_as_upstream_writes_them() {
        assert_eq!(selector(&json!({})), "<none>");
        let given = json!({"matchLabels": {"b": "2"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&given), "a in (x,y),b=2,!c");
    }
}
