//! Requests and limits: what a pod asks for in sum, its quality of service, and its cgroup settings.

mod oom;
mod settings;

use std::collections::BTreeMap;

pub use api::quantity::Quantity;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::pods::pod::{Pod, Role};

pub use settings::{Rules, container, page_size_of, pod_resources, shares};

/// Amounts by resource: thousandths for `cpu`, whole units for all else.
pub type Amounts = BTreeMap<String, i64>;

/// A quantity that the API has validated; one that it has not counts nothing.
pub fn parse(text: &Text) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

fn amount(name: &str, text: &Text) -> i64 {
    let quantity = parse(text);
    if name == "cpu" { quantity.milli_value() } else { quantity.value() }
}

/// Amounts of a map of quantities.
pub fn amounts(map: Option<&BTreeMap<String, Text>>) -> Amounts {
    map.into_iter().flatten().map(|(name, text)| (name.clone(), amount(name, text))).collect()
}

pub fn requests(resources: Option<&v1::ResourceRequirements>) -> Amounts {
    amounts(resources.and_then(|r| r.requests.as_ref()))
}

pub fn limits(resources: Option<&v1::ResourceRequirements>) -> Amounts {
    amounts(resources.and_then(|r| r.limits.as_ref()))
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += amount;
    }
}

fn at_least(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let have = sum.entry(name.clone()).or_default();
        *have = (*have).max(*amount);
    }
}

/// A pod's effective amounts: the larger of all that runs together at the end and of each init container beside the
/// sidecars started before it; what the pod as a whole says goes first; overhead comes on top.
fn effective(pod: &Pod, of: impl Fn(Option<&v1::ResourceRequirements>) -> Amounts) -> Amounts {
    let mut sum = Amounts::new();
    for member in pod.with_role(Role::Main) {
        add(&mut sum, &of(member.spec.resources.as_ref()));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for member in pod.members.iter().filter(|m| matches!(m.role, Role::Init | Role::Sidecar)) {
        let own = of(member.spec.resources.as_ref());
        if member.role == Role::Sidecar {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            at_least(&mut peak, &sidecars);
        } else {
            let mut together = own;
            add(&mut together, &sidecars);
            at_least(&mut peak, &together);
        }
    }
    at_least(&mut sum, &peak);
    sum.extend(of(pod.spec().resources.as_ref()));
    sum
}

/// What the scheduler and admission count for the pod.
pub fn pod_requests(pod: &Pod) -> Amounts {
    let mut sum = effective(pod, requests);
    add(&mut sum, &amounts(pod.spec().overhead.as_ref()));
    sum
}

/// A pod's limit of one resource, where it has one.
pub fn limit_of(pod: &Pod, name: &str) -> Option<Quantity> {
    let format = if name == "cpu" { api::quantity::Format::DecimalSi } else { api::quantity::Format::BinarySi };
    effective(pod, limits).get(name).map(|amount| Quantity::new(*amount, format))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }

    pub fn of(pod: &Pod) -> Qos {
        let whole = pod.spec().resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
        let all: Vec<_> = match whole {
            Some(resources) => vec![Some(resources)],
            None => {
                pod.members.iter().filter(|m| m.role != Role::Ephemeral).map(|m| m.spec.resources.as_ref()).collect()
            }
        };
        let counted = |map: Amounts| {
            map.into_iter().filter(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && *amount > 0).collect()
        };
        let pairs: Vec<(Amounts, Amounts)> =
            all.into_iter().map(|r| (counted(requests(r)), counted(limits(r)))).collect();
        if pairs.iter().all(|(requests, limits)| requests.is_empty() && limits.is_empty()) {
            return Qos::BestEffort;
        }
        let fixed = |(requests, limits): &(Amounts, Amounts)| {
            limits.len() == 2 && requests.iter().all(|(name, amount)| limits.get(name) == Some(amount))
        };
        if pairs.iter().all(fixed) { Qos::Guaranteed } else { Qos::Burstable }
    }

    pub fn cgroup(self) -> &'static str {
        match self {
            Qos::Guaranteed => "/kubepods",
            Qos::Burstable => "/kubepods/burstable",
            Qos::BestEffort => "/kubepods/besteffort",
        }
    }
}

/// The cgroup of a pod, below the runtime's own.
pub fn pod_cgroup(pod: &Pod) -> String {
    format!("{}/pod{}", Qos::of(pod).cgroup(), pod.uid)
}

/// What a `resourceFieldRef` gives: the container's value, the node's where no limit is set, rounded up to the divisor.
pub fn field(
    selector: &v1::ResourceFieldSelector,
    resources: Option<&v1::ResourceRequirements>,
    allocatable: &Amounts,
) -> Result<String, String> {
    let unknown = || format!("unsupported container resource : {}", selector.resource);
    let (which, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let (limits, requests) = (limits(resources), requests(resources));
    let value = match which {
        "limits" => limits.get(name).or(allocatable.get(name)),
        "requests" => requests.get(name).or(limits.get(name)),
        _ => return Err(unknown()),
    };
    let value = value.copied().unwrap_or(0);
    // Both in thousandths, so that a divisor of `1m` for cpu works.
    let value = if name == "cpu" { i128::from(value) } else { i128::from(value) * 1000 };
    let divisor = selector.divisor.as_ref().map_or(0, |d| i128::from(parse(d).milli_value()));
    let divisor = if divisor <= 0 { 1000 } else { divisor };
    Ok(((value + divisor - 1) / divisor).to_string())
}
