//! ResourceQuota. What an object uses is added to its namespace's quotas in the transaction that stores the object, and taken from
//! them in the one that deletes it: quotas are exact at every revision, whichever server writes, and are never raced.
//!
//! [`usage`] says what an object uses, [`scopes`] which quotas are for it.

mod scopes;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use api::kind::Kind;
use api::kinds::pods::resources::quantity;
use api::quantity::{Format, Quantity};
use api::{Status, Value};
use bytes::Bytes;
use serde_json::json;
use store::{Entry, Expect, List, Op};

use super::reserve::Reservation;
use crate::clock;
use crate::rest::{Call, metadata, parse, prefix, store_error};

/// Whose writes of a status have the quota counted.
const CONTROLLER: &str = "system:serviceaccount:kube-system:resourcequota-controller";

type Amounts = BTreeMap<String, Quantity>;

/// Charges the namespace's quotas with what `new` uses more than `old`.
pub fn reserve(call: &Call, old: Option<&Value>, new: &mut Value, reservation: &mut Reservation) -> Result<(), Status> {
    if !call.kind.namespaced {
        return Ok(());
    }
    if call.kind.group.is_empty() && call.kind.plural == "resourcequotas" && new.is_object() {
        // A status that a client writes stands until the controller has the quota counted again.
        let counts = call.info.subresource.is_empty() || call.user.name == CONTROLLER;
        return if counts { refresh(call, new) } else { Ok(()) };
    }
    let range = format!("/registry/resourcequotas/{}/", call.info.namespace);
    let page = call.server.store.list(&range, List::default()).map_err(store_error)?;
    if page.entries.is_empty() {
        return Ok(());
    }
    let nothing = Value::Null;
    let old = old.unwrap_or(&nothing);
    for entry in &page.entries {
        charge(call, entry, old, new, reservation)?;
    }
    Ok(())
}

fn charge(call: &Call, entry: &Entry, old: &Value, new: &Value, reservation: &mut Reservation) -> Result<(), Status> {
    let mut quota = parse(&entry.value)?;
    let hard = amounts(&quota["spec"]["hard"]);
    let name = metadata::text(&quota, "name").to_owned();
    let now = clock::seconds();
    let used = amounts(&quota["status"]["used"]);
    let pod = call.kind.group.is_empty() && call.kind.plural == "pods";
    if pod && (old.is_null() || call.info.subresource == "resize") {
        specified(&name, &hard, &quota, new)?;
    }
    let after = usage::of(&call.kind, &quota, new, now);
    // A pod that should be gone long since may have been counted or not, by when the quota was last looked at.
    let overdue = pod && usage::overdue(old, now);
    let (base, before) = if overdue {
        (with_pods_of_now(call, &quota, &used, Some(metadata::text(old, "name")))?, Amounts::new())
    } else {
        (used.clone(), usage::of(&call.kind, &quota, old, now))
    };
    let (mut next, mut over) = add(&hard, &base, &before, &after);
    // A pod that is there already may go on, whatever the quota has become meanwhile.
    let asks = !pod || old.is_null() || call.info.subresource == "resize";
    if pod && asks && !overdue && !over.is_empty() {
        // Some pods may have become overdue since, which nothing tells of.
        let base = with_pods_of_now(call, &quota, &used, None)?;
        (next, over) = add(&hard, &base, &before, &after);
    }
    if asks && !over.is_empty() {
        let list = |pick: fn(&Over) -> Quantity| {
            over.iter().map(|o| format!("{}={}", o.resource, pick(o))).collect::<Vec<_>>().join(",")
        };
        let (more, current, limit) = (list(|o| o.more), list(|o| o.current), list(|o| o.limit));
        let why = format!("exceeded quota: {name}, requested: {more}, used: {current}, limited: {limit}");
        return Err(Status::forbidden(&call.kind.group, &call.kind.plural, metadata::text(new, "name"), &why));
    }
    if next != used {
        quota["status"]["hard"] = quota["spec"]["hard"].clone();
        quota["status"]["used"] = text(&next);
        let bytes = Bytes::from(api::codec::stored::encode(&quota));
        reservation.push(Expect::Modified(entry.modified), Op::put(entry.key.clone(), bytes));
    }
    Ok(())
}

/// A resource of which too much is wanted.
struct Over {
    resource: String,
    more: Quantity,
    current: Quantity,
    limit: Quantity,
}

fn zero() -> Quantity {
    Quantity::new(0, Format::DecimalSi)
}

/// What is used when `before` has become `after`, and what of it is too much.
fn add(hard: &Amounts, used: &Amounts, before: &Amounts, after: &Amounts) -> (Amounts, Vec<Over>) {
    let (mut next, mut over) = (used.clone(), Vec::new());
    for (resource, limit) in hard {
        let of = |amounts: &Amounts| amounts.get(resource).copied().unwrap_or_else(zero);
        let more = of(after) - of(before);
        if more.is_zero() {
            continue;
        }
        let current = of(used);
        let sum = current + more;
        if more.sign() > 0 && sum > *limit {
            over.push(Over { resource: resource.clone(), more, current, limit: *limit });
        }
        next.insert(resource.clone(), if sum.sign() < 0 { zero() } else { sum });
    }
    (next, over)
}

/// A quota of CPU or memory wants every container to say how much of it it needs, unless the pod says so as a whole.
fn specified(name: &str, hard: &Amounts, quota: &Value, pod: &Value) -> Result<(), Status> {
    let of_pod = |field: &str| pod["spec"]["resources"][field].as_object().is_some_and(|all| !all.is_empty());
    if !scopes::take_in_pod(quota, pod) || of_pod("requests") || of_pod("limits") {
        return Ok(());
    }
    let mut missing = Vec::new();
    for resource in hard.keys() {
        let (field, plain) = resource.split_once('.').unwrap_or(("requests", resource));
        if !matches!(field, "requests" | "limits") || !matches!(plain, "cpu" | "memory") {
            continue;
        }
        let lists = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array());
        let without: BTreeSet<&str> = lists
            .into_iter()
            .flatten()
            .flatten()
            .filter(|container| container["resources"][field].get(plain).is_none())
            .filter_map(|container| container["name"].as_str())
            .collect();
        if !without.is_empty() {
            missing.push(format!("{resource} for: {}", without.into_iter().collect::<Vec<_>>().join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("failed quota: {name}: must specify {}", missing.join("; "));
    Err(Status::forbidden("", "pods", metadata::text(pod, "name"), &why))
}

/// A quota that is written is told what is used at that revision, whatever its status said.
fn refresh(call: &Call, quota: &mut Value) -> Result<(), Status> {
    let used = count(call, quota)?;
    quota["status"]["hard"] = quota["spec"]["hard"].clone();
    quota["status"]["used"] = text(&used);
    Ok(())
}

/// What all objects of the namespace use of a quota.
fn count(call: &Call, quota: &Value) -> Result<Amounts, Status> {
    let mut used: Amounts = amounts(&quota["spec"]["hard"]).into_keys().map(|resource| (resource, zero())).collect();
    let catalog = call.server.catalog.load();
    for kind in catalog.iter().filter(|k| k.namespaced && k.has_verb("list") && catalog.stored(k).version == k.version)
    {
        count_kind(call, quota, kind, None, &mut used)?;
    }
    Ok(used)
}

/// What is used when what pods use, which is all that depends on the time, is counted anew, but for a pod that is left out.
fn with_pods_of_now(call: &Call, quota: &Value, used: &Amounts, without: Option<&str>) -> Result<Amounts, Status> {
    let mut used = used.clone();
    used.iter_mut().filter(|(resource, _)| usage::is_of_pods(resource)).for_each(|(_, sum)| *sum = zero());
    count_kind(call, quota, &call.kind, without, &mut used)?;
    Ok(used)
}

/// Adds what the objects of a kind use, as far as `used` has the resource.
fn count_kind(
    call: &Call,
    quota: &Value,
    kind: &Kind,
    without: Option<&str>,
    used: &mut Amounts,
) -> Result<(), Status> {
    let now = clock::seconds();
    let page = call.server.store.list(&prefix(kind, &call.info.namespace), List::default()).map_err(store_error)?;
    for entry in page.entries {
        let object = parse(&entry.value)?;
        if without.is_some_and(|name| metadata::text(&object, "name") == name) {
            continue;
        }
        for (resource, amount) in usage::of(kind, quota, &object, now) {
            if let Some(sum) = used.get_mut(&resource) {
                *sum += amount;
            }
        }
    }
    Ok(())
}

fn amounts(list: &Value) -> Amounts {
    let parsed = list.as_object().into_iter().flatten();
    parsed.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

fn text(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_must_say_what_they_need_unless_their_pod_does() {
        let hard = amounts(&json!({"cpu": "1", "limits.memory": "1Gi", "pods": "1", "requests.storage": "1"}));
        let pod = |extra: Value| {
            let mut pod = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [
                {"name": "b", "resources": {"requests": {"cpu": "1"}}}, {"name": "a"}]}});
            pod["spec"].as_object_mut().expect("a spec").extend(extra.as_object().cloned().expect("fields"));
            pod
        };
        let refused = specified("q", &hard, &json!({}), &pod(json!({}))).expect_err("something is missing");
        assert!(
            refused.message.ends_with("failed quota: q: must specify cpu for: a,i; limits.memory for: a,b,i"),
            "{}",
            refused.message
        );
        assert!(specified("q", &hard, &json!({}), &pod(json!({"resources": {"requests": {"cpu": "1"}}}))).is_ok());
        // The quota is for other pods.
        assert!(specified("q", &hard, &json!({"spec": {"scopes": ["Terminating"]}}), &pod(json!({}))).is_ok());
    }

    #[test]
    fn what_is_used_is_added_to_and_never_below_nothing() {
        let of = |value: Value| amounts(&value);
        let hard = of(json!({"cpu": "2", "pods": "3"}));
        let (next, over) =
            add(&hard, &of(json!({"cpu": "1"})), &of(json!({})), &of(json!({"cpu": "500m", "pods": "1", "x": "9"})));
        assert_eq!((text(&next), over.len()), (json!({"cpu": "1500m", "pods": "1"}), 0));
        let (next, _) = add(&hard, &of(json!({"cpu": "1"})), &of(json!({"cpu": "2"})), &of(json!({})));
        assert_eq!(text(&next), json!({"cpu": "0"}));
        let (_, over) = add(&hard, &of(json!({"cpu": "1"})), &of(json!({})), &of(json!({"cpu": "1001m"})));
        assert_eq!(over.iter().map(|o| o.more.to_string()).collect::<Vec<_>>(), ["1001m"]);
        // What is too much already may become less.
        let (_, over) = add(&hard, &of(json!({"cpu": "5"})), &of(json!({"cpu": "2"})), &of(json!({"cpu": "1"})));
        assert!(over.is_empty());
    }
}
