//! How many replicas a metric calls for. Functions of values, with upstream's arithmetic.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    jiff::{SignedDuration, Timestamp},
};

use crate::{condition, owner::Named};

/// Around a pod's start its CPU usage tells little.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that is not ready and became so within this time of its start has never been ready.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What a pod was measured to use, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub value: i64,
    pub at: Timestamp,
    /// Over how long the value was measured.
    pub window: Duration,
}

/// By pod.
pub(super) type Samples = BTreeMap<String, Sample>;

/// So little deviation from the target changes nothing, in either direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    pub down: f64,
    pub up: f64,
}

impl Tolerance {
    fn allows(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// How many replicas are called for, and what was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// The average over pods, or the value, in thousandths.
    pub value: i64,
    /// In percent of what was requested.
    pub utilization: Option<i32>,
}

/// What a metric of pods is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// An average in thousandths.
    Average(i64),
    /// Percent of what the pods request of the resource, or one container of theirs.
    Utilization(i32),
}

/// The resource that a metric is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource<'a> {
    pub name: &'a str,
    /// Of this container alone; empty for the whole pod.
    pub container: &'a str,
}

fn round(number: f64) -> i32 {
    number.ceil().clamp(0.0, f64::from(i32::MAX)) as i32
}

/// Which pods count how.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    /// Pending, or not yet telling anything about their CPU usage.
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    /// On their way out, or failed.
    ignored: BTreeSet<String>,
}

fn group(pods: &[Pod], samples: &Samples, resource: Option<Resource<'_>>, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name().to_owned();
        let status = pod.status.clone().unwrap_or_default();
        let phase = status.phase.as_deref().unwrap_or_default();
        let sample = samples.get(&name);
        if pod.is_deleting() || phase == "Failed" {
            groups.ignored.insert(name);
        } else if phase == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = sample {
            let of_cpu = resource.is_some_and(|resource| resource.name == "cpu");
            let ready = condition::find(&status.conditions, "Ready");
            let is_telling = !of_cpu
                || match (ready, &status.start_time) {
                    (Some(ready), Some(start)) => {
                        let since = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
                        if start.0.saturating_add(CPU_INITIALIZATION).is_ok_and(|end| end > now) {
                            let measured = since.saturating_add(sample.window).unwrap_or(Timestamp::MAX);
                            ready.status != "False" && sample.at >= measured
                        } else {
                            let first = start.0.saturating_add(INITIAL_READINESS).unwrap_or(Timestamp::MAX);
                            ready.status != "False" || first <= since
                        }
                    }
                    _ => false,
                };
            if is_telling {
                groups.ready += 1;
            } else {
                groups.unready.insert(name);
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// What each pod requests of a resource, in thousandths.
fn requests(pods: &[Pod], resource: Resource<'_>) -> Result<BTreeMap<String, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
        let mut sum = 0;
        let mut found = false;
        for container in containers.filter(|one| resource.container.is_empty() || one.name == resource.container) {
            found = true;
            let requested = container.resources.iter().flat_map(|resources| resources.requests.iter().flatten());
            let amount = requested.into_iter().find(|(name, _)| *name == resource.name).and_then(|(_, q)| milli(&q.0));
            sum += amount.ok_or_else(|| {
                format!("missing request for {} in container {} of Pod {}", resource.name, container.name, pod.name())
            })?;
        }
        if !found {
            return Err(format!("container {} not found in Pod {}", resource.container, pod.name()));
        }
        all.insert(pod.name().to_owned(), sum);
    }
    Ok(all)
}

/// A quantity in thousandths.
pub(super) fn milli(quantity: &str) -> Option<i64> {
    api::quantity::Quantity::parse(quantity).ok().map(|quantity| quantity.milli_value())
}

/// The ratio of what is to what should be, the average, and in percent where that was asked for.
fn ratio(
    values: &BTreeMap<String, i64>,
    requests: Option<&BTreeMap<String, i64>>,
    target: Target,
) -> Result<(f64, i64, Option<i32>), String> {
    match (target, requests) {
        (Target::Utilization(wanted), Some(requests)) => {
            let known = values.iter().filter_map(|(pod, value)| Some((value, requests.get(pod)?)));
            let (sum, requested, count) = known
                .fold((0, 0, 0), |(sum, total, count), (value, request)| (sum + value, total + request, count + 1));
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let percent = i32::try_from(sum * 100 / requested).unwrap_or(i32::MAX);
            Ok((f64::from(percent) / f64::from(wanted), sum / count, Some(percent)))
        }
        (Target::Average(wanted), _) => {
            let average = values.values().sum::<i64>() / i64::try_from(values.len().max(1)).unwrap_or(1);
            Ok((average as f64 / wanted as f64, average, None))
        }
        (Target::Utilization(_), None) => Err("a utilization needs a resource".to_owned()),
    }
}

/// What a metric that each pod has of its own calls for.
pub(super) fn of_pods(
    pods: &[Pod],
    samples: &Samples,
    resource: Option<Resource<'_>>,
    target: Target,
    current: i32,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(pods, samples, resource, now);
    let is_out = |pod: &str| groups.unready.contains(pod) || groups.ignored.contains(pod);
    let counted = samples.iter().filter(|(pod, _)| !is_out(pod));
    let mut values: BTreeMap<String, i64> = counted.map(|(pod, sample)| (pod.clone(), sample.value)).collect();
    let requests = match (target, resource) {
        (Target::Utilization(_), Some(resource)) => Some(requests(pods, resource)?),
        _ => None,
    };
    if values.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let (first, value, utilization) = ratio(&values, requests.as_ref(), target)?;
    let found = |replicas| Proposal { replicas, value, utilization };
    let rebalance = !groups.unready.is_empty() && first > 1.0;
    if !rebalance && groups.missing.is_empty() {
        let replicas = if tolerance.allows(first) { current } else { round(first * groups.ready as f64) };
        return Ok(found(replicas));
    }
    // Of pods that are not known the worst for the change is assumed: on the way down that they use all they may, on the
    // way up that they use nothing.
    let assumed = |pod: &String| match target {
        _ if first > 1.0 => 0,
        Target::Average(target) => target,
        Target::Utilization(percent) => {
            let request = requests.as_ref().and_then(|requests| requests.get(pod)).copied().unwrap_or(0);
            request * i64::from(percent.max(100)) / 100
        }
    };
    if first != 1.0 || matches!(target, Target::Average(_)) {
        values.extend(groups.missing.iter().map(|pod| (pod.clone(), assumed(pod))));
    }
    if rebalance {
        values.extend(groups.unready.iter().map(|pod| (pod.clone(), 0)));
    }
    let (second, ..) = ratio(&values, requests.as_ref(), target)?;
    let turns = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    if tolerance.allows(second) || turns {
        return Ok(found(current));
    }
    let replicas = round(second * values.len() as f64);
    let turns = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
    Ok(found(if turns { current } else { replicas }))
}

/// What a single value, of an object or from outside, calls for when it should be `target` in all.
pub(super) fn of_value(
    value: i64,
    target: i64,
    pods: &[Pod],
    current: i32,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    let ratio = value as f64 / target as f64;
    let replicas = if current == 0 {
        round(ratio)
    } else if tolerance.allows(ratio) {
        current
    } else if pods.is_empty() {
        let why = "no pods returned by selector while calculating replica count";
        return Err(format!("unable to calculate ready pods: {why}"));
    } else {
        let is_ready = |pod: &&Pod| {
            let status = pod.status.as_ref();
            status.is_some_and(|status| {
                status.phase.as_deref() == Some("Running") && condition::is_true(&status.conditions, "Ready")
            })
        };
        round(ratio * pods.iter().filter(is_ready).count() as f64)
    };
    Ok(Proposal { replicas, value, utilization: None })
}

/// What a single value calls for when it should be `target` for each replica.
pub(super) fn of_value_per_pod(value: i64, target: i64, replicas: i32, tolerance: Tolerance) -> Proposal {
    let ratio = value as f64 / (target as f64 * f64::from(replicas));
    let wanted = if tolerance.allows(ratio) { replicas } else { round(value as f64 / target as f64) };
    let average = if replicas == 0 { value } else { (value as f64 / f64::from(replicas)).ceil() as i64 };
    Proposal { replicas: wanted, value: average, utilization: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";
    const TOLERANCE: Tolerance = Tolerance { down: 0.1, up: 0.1 };

    /// Pods from `name:kind:cpu`; kinds are `ok`, `new` (just started), `unready` (never ready), `pending`, `gone`.
    fn world(text: &str) -> (Vec<Pod>, Samples) {
        let (mut pods, mut samples) = (Vec::new(), Samples::new());
        for (number, word) in text.split_whitespace().enumerate() {
            let (kind, cpu) = word.split_once(':').unwrap();
            let name = format!("p{number}");
            let (phase, ready, start, since) = match kind {
                "new" => ("Running", "True", "2026-01-01T00:59:50Z", "2026-01-01T00:59:55Z"),
                "unready" => ("Running", "False", "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"),
                "pending" => ("Pending", "False", "2026-01-01T00:59:50Z", "2026-01-01T00:59:55Z"),
                _ => ("Running", "True", "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"),
            };
            let mut pod = json!({"metadata": {"name": name},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"phase": phase, "startTime": start,
                    "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}});
            if kind == "gone" {
                pod["metadata"]["deletionTimestamp"] = NOW.into();
            }
            pods.push(serde_json::from_value(pod).unwrap());
            if let Ok(value) = cpu.parse() {
                let window = Duration::from_secs(15);
                samples.insert(name, Sample { value, at: NOW.parse().unwrap(), window });
            }
        }
        (pods, samples)
    }

    #[test]
    fn replicas_follow_utilization_as_upstreams_do() {
        // Pods, current replicas, target in percent; replicas, percent.
        let cases = [
            ("ok:300 ok:500 ok:700", 3, 30, Ok((5, 50))),
            ("ok:300 ok:500 ok:700", 3, 100, Ok((2, 50))),
            ("ok:1010 ok:1030 ok:1020", 3, 100, Ok((3, 102))),
            ("ok:300 ok:500 unready:700", 3, 30, Ok((3, 40))),
            ("new:100 ok:500 ok:700", 3, 30, Ok((4, 60))),
            ("pending: ok:500 ok:700", 3, 30, Ok((4, 60))),
            ("gone:100 ok:500 ok:700", 3, 30, Ok((4, 60))),
            ("ok: ok:500 ok:700", 3, 30, Ok((4, 60))),
            ("ok: ok:100 ok:100", 3, 50, Ok((3, 10))),
            ("ok:", 1, 50, Err("did not receive metrics for targeted pods (pods might be unready)")),
            ("", 1, 50, Err("no pods returned by selector while calculating replica count")),
        ];
        for (text, current, percent, expected) in cases {
            let (pods, samples) = world(text);
            let cpu = Some(Resource { name: "cpu", container: "" });
            let target = Target::Utilization(percent);
            let made = of_pods(&pods, &samples, cpu, target, current, TOLERANCE, NOW.parse().unwrap());
            let made = made.map(|made| (made.replicas, made.utilization.unwrap()));
            assert_eq!(made, expected.map_err(str::to_owned), "{text} of {percent} %");
        }
    }

    #[test]
    fn averages_and_single_values_scale_in_proportion() {
        let (pods, samples) = world("ok:20000 ok:10000 ok:30000");
        let now = NOW.parse().unwrap();
        let average = |target| of_pods(&pods, &samples, None, Target::Average(target), 3, TOLERANCE, now).unwrap();
        assert_eq!(average(10_000), Proposal { replicas: 6, value: 20_000, utilization: None });
        assert_eq!(average(20_000).replicas, 3);
        assert_eq!(of_value(60_000, 20_000, &pods, 3, TOLERANCE).unwrap().replicas, 9);
        assert_eq!(of_value(60_000, 20_000, &[], 0, TOLERANCE).unwrap().replicas, 3);
        assert_eq!(
            of_value_per_pod(86_000, 20_000, 4, TOLERANCE),
            Proposal { replicas: 4, value: 21_500, utilization: None }
        );
        assert_eq!(of_value_per_pod(100_000, 20_000, 4, TOLERANCE).replicas, 5);
    }

    #[test]
    fn a_missing_request_is_an_error() {
        let (mut pods, samples) = world("ok:100");
        pods[0].spec.as_mut().unwrap().containers[0].resources = None;
        let run = |container| {
            let cpu = Some(Resource { name: "cpu", container });
            of_pods(&pods, &samples, cpu, Target::Utilization(50), 1, TOLERANCE, NOW.parse().unwrap()).unwrap_err()
        };
        assert_eq!(run(""), "missing request for cpu in container c of Pod p0");
        assert_eq!(run("x"), "container x not found in Pod p0");
    }
}
