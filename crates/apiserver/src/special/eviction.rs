//! Evicting a pod: a delete that disruption budgets may refuse, and that says in the pod's status why it goes.

use std::sync::Arc;

use api::kind::Kind;
use api::selector::LabelSelector;
use api::status::{Cause, Reason};
use api::{Status, Value};
use http::StatusCode;
use serde_json::json;
use store::List;

use super::binding::set_condition;
use crate::admission::{Operation, admit};
use crate::clock;
use crate::rest::delete::remove;
use crate::rest::delete_options::DeleteOptions;
use crate::rest::{Call, input, metadata, output, prefix, store_error, update};
use crate::wire::{Response, answer};

/// How often an eviction is tried again that a change of the pod has overtaken.
const ATTEMPTS: usize = 20;
/// How many evictions of a budget may be under way that its controller has not noticed.
const MOST_DISRUPTED: usize = 2000;

/// Deletes the pod if its budget allows it.
pub async fn evict(call: &Call) -> Result<Response, Status> {
    let versions = ["policy/v1", "policy/v1beta1"];
    let input::Input { object: mut eviction, mut warnings } = input::read_as(call, &versions, "Eviction")?;
    if metadata::text(&eviction, "name") != call.info.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = DeleteOptions::from_value(&eviction["deleteOptions"])?;
    if call.dry_run() {
        options.dry_run = true;
    }
    warnings.extend(admit(call, Operation::Create, &mut eviction).await?);
    let pod = call.of(call.kind.clone(), &call.info.namespace, &call.info.name);
    if !ignoring_budgets(&pod, &options).await? {
        within_budget(&pod, &options).await?;
    }
    let created = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    let mut response = output::encode(call, StatusCode::CREATED, &created, false)?;
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// What a pod's state means for its eviction.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It has ended or ends anyway.
    Ended,
    /// It does not run yet: it may go as long as it has not begun to.
    Pending,
    /// Its budget decides.
    Running,
}

fn state(pod: &Value) -> State {
    match pod["status"]["phase"].as_str() {
        Some("Succeeded" | "Failed") => State::Ended,
        _ if metadata::is_deleting(pod) => State::Ended,
        Some("Pending") => State::Pending,
        _ => State::Running,
    }
}

/// Evicts a pod that no budget counts; false where one may.
async fn ignoring_budgets(pod: &Call, options: &DeleteOptions) -> Result<bool, Status> {
    for attempt in 1.. {
        let entry = pod.entry()?;
        let mut options = options.clone();
        let free = options.resource_version.is_none();
        match state(&pod.parse(&entry)?) {
            State::Running => return Ok(false),
            // Should it begin to run meanwhile, its budget must be asked.
            State::Pending if free => options.resource_version = Some(entry.modified.to_string()),
            State::Pending | State::Ended => {}
        }
        match disrupt(pod, &options).await {
            Err(status) if free && status.reason == Reason::Conflict && attempt < ATTEMPTS => {}
            result => return result.map(|()| true),
        }
    }
    Ok(false)
}

/// Evicts a running pod if the budget that it counts for lets it.
async fn within_budget(pod: &Call, options: &DeleteOptions) -> Result<(), Status> {
    let entry = pod.entry()?;
    let object = pod.parse(&entry)?;
    let Some((kind, budget)) = budget(pod, &object)? else { return disrupt(pod, options).await };
    if !uncounted(&object, &budget) {
        spend(pod, kind, metadata::text(&budget, "name"), options.dry_run).await?;
        return disrupt(pod, options).await;
    }
    // It does not count as healthy, unless it has become ready since.
    let mut exact = options.clone();
    exact.resource_version = Some(entry.modified.to_string());
    match disrupt(pod, &exact).await {
        Err(status) if status.reason == Reason::Conflict && options.resource_version.is_none() => {
            Err(processing(metadata::text(&budget, "name")))
        }
        result => result,
    }
}

/// The one budget that selects the pod.
fn budget(pod: &Call, object: &Value) -> Result<Option<(Arc<Kind>, Value)>, Status> {
    let catalog = pod.server.catalog.load();
    let Some(kind) = catalog.get("policy", "v1", "poddisruptionbudgets").cloned() else { return Ok(None) };
    let page = pod.server.store.list(&prefix(&kind, &pod.info.namespace), List::default()).map_err(store_error)?;
    let labels = object["metadata"]["labels"].as_object();
    let mut matching = Vec::new();
    for entry in page.entries {
        let budget = crate::rest::parse(&entry.value)?;
        // One that selects everything or cannot be read selects nothing here.
        let selector = LabelSelector::from_object(&budget["spec"]["selector"]).unwrap_or_default();
        if !selector.is_empty() && selector.matches(labels) {
            matching.push(budget);
        }
    }
    if matching.len() > 1 {
        return Err(Status::new(
            Reason::Unknown,
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    Ok(matching.pop().map(|budget| (kind, budget)))
}

/// Whether a pod that is not ready may go without taking of its budget.
fn uncounted(pod: &Value, budget: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    if conditions.any(|c| c["type"] == "Ready" && c["status"] == "True") {
        return false;
    }
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let desired = number("desiredHealthy");
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || number("currentHealthy") >= desired && desired > 0
}

/// Takes one disruption from the budget, or refuses.
async fn spend(pod: &Call, kind: Arc<Kind>, name: &str, dry: bool) -> Result<(), Status> {
    let now = clock::now();
    let budget = pod.of(kind, &pod.info.namespace, name);
    let take = |budget: &mut Value| take(budget, &pod.info.name, &now);
    if dry {
        return take(&mut budget.parse(&*budget.entry()?)?);
    }
    update::rewrite(&budget, "status", take).await.map(|_| ())
}

/// The budget with one disruption less.
fn take(budget: &mut Value, pod: &str, now: &str) -> Result<(), Status> {
    let name = metadata::text(budget, "name").to_owned();
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let (allowed, observed) = (number("disruptionsAllowed"), number("observedGeneration"));
    let forbidden = |why: &str| Err(Status::forbidden("policy", "poddisruptionbudget", &name, why));
    if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(processing(&name));
    }
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if budget["status"]["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(refused(&name, &format!("needs {desired} healthy pods and has {current} currently"), 0));
    }
    budget["status"]["disruptionsAllowed"] = Value::from(allowed - 1);
    if allowed == 1 {
        exhausted(budget, now);
    }
    budget["status"]["disruptedPods"][pod] = Value::from(now);
    Ok(())
}

/// Says of a budget that it allows nothing more.
fn exhausted(budget: &mut Value, now: &str) {
    let known = budget["status"]["conditions"].as_array().into_iter().flatten();
    let since = known.into_iter().find(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False");
    let since = since.map_or(Value::from(now), |known| known["lastTransitionTime"].clone());
    let condition = json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": since, "observedGeneration": budget["status"]["observedGeneration"],
    });
    set_condition(budget, condition);
}

/// Says in the pod's status that it is evicted, and deletes it.
async fn disrupt(pod: &Call, options: &DeleteOptions) -> Result<(), Status> {
    let mut options = options.clone();
    if !options.dry_run {
        let revision = tell(pod, &options).await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(revision);
        }
    }
    remove(pod, &pod.info.name, &options).await.map(|_| ())
}

/// Sets the pod's condition; gives the revision that it has now.
async fn tell(pod: &Call, options: &DeleteOptions) -> Result<String, Status> {
    let now = clock::now();
    update::rewrite(pod, "", |object| {
        let differs = |what: &str, asked: &str, own: &str, done: &str| {
            let why = format!(
                "the {what} in the precondition ({asked}) does not match the {what} in record ({own}). The object might have been {done}"
            );
            Err(Status::conflict("", "Pod", &pod.info.name, &why))
        };
        let (uid, revision) = (metadata::text(object, "uid"), metadata::text(object, "resourceVersion"));
        if let Some(asked) = options.uid.as_deref().filter(|asked| !asked.is_empty() && *asked != uid) {
            return differs("UID", asked, uid, "deleted and then recreated");
        }
        if let Some(asked) = options.resource_version.as_deref().filter(|asked| !asked.is_empty() && *asked != revision) {
            return differs("ResourceVersion", asked, revision, "modified");
        }
        let known = object["status"]["conditions"].as_array().into_iter().flatten();
        let told = known.into_iter().any(|c| {
            c["type"] == "DisruptionTarget" && c["status"] == "True" && c["reason"] == "EvictionByEvictionAPI"
        });
        if !told {
            let mut condition = json!({
                "type": "DisruptionTarget", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            });
            if let Some(generation) = object["metadata"]["generation"].as_i64() {
                condition["observedGeneration"] = generation.into();
            }
            set_condition(object, condition);
        }
        Ok(())
    })
    .await
    .map(|revision| revision.to_string())
}

fn processing(budget: &str) -> Status {
    refused(budget, "is still being processed by the server.", 10)
}

fn refused(budget: &str, why: &str, retry: u32) -> Status {
    let mut status =
        Status::new(Reason::TooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.");
    let details = status.details.get_or_insert_default();
    details.retry_after_seconds = retry;
    details.causes.push(Cause {
        reason: "DisruptionBudget".to_owned(),
        message: format!("The disruption budget {budget} {why}"),
        field: String::new(),
    });
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_state_says_whether_its_budget_is_asked() {
        let table = [
            (json!({"status": {"phase": "Succeeded"}}), State::Ended),
            (json!({"status": {"phase": "Failed"}}), State::Ended),
            (json!({"metadata": {"deletionTimestamp": "t"}, "status": {"phase": "Running"}}), State::Ended),
            (json!({"metadata": {"deletionTimestamp": "t"}, "status": {"phase": "Pending"}}), State::Ended),
            (json!({"status": {"phase": "Pending"}}), State::Pending),
            (json!({"status": {"phase": "Running"}}), State::Running),
        ];
        for (pod, expected) in table {
            assert_eq!(state(&pod), expected, "{pod}");
        }
    }

    #[test]
    fn a_pod_that_is_not_ready_goes_uncounted_where_its_budget_is_kept_or_says_so() {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let budget = |policy: &str, current: i64, desired: i64| json!({"spec": {"unhealthyPodEvictionPolicy": policy}, "status": {"currentHealthy": current, "desiredHealthy": desired}});
        let table = [
            (&ready, budget("AlwaysAllow", 3, 1), false),
            (&unready, budget("AlwaysAllow", 0, 1), true),
            (&unready, budget("IfHealthyBudget", 1, 1), true),
            (&unready, budget("IfHealthyBudget", 0, 1), false),
            (&unready, budget("IfHealthyBudget", 0, 0), false),
        ];
        for (pod, budget, expected) in table {
            assert_eq!(uncounted(pod, &budget), expected, "{budget}");
        }
    }

    #[test]
    fn a_budget_is_spent_down_to_nothing_and_says_so() {
        let mut budget = json!({"metadata": {"name": "b", "generation": 1}, "status": {
            "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1}});
        take(&mut budget, "p", "now").expect("allowed");
        assert_eq!(budget["status"]["disruptedPods"]["p"], "now");
        assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
        let refused = take(&mut budget, "q", "now").expect_err("nothing is left");
        let cause = &refused.details.expect("details").causes[0].message;
        assert_eq!(cause, "The disruption budget b needs 1 healthy pods and has 2 currently");
        budget["metadata"]["generation"] = json!(2);
        let refused = take(&mut budget, "q", "now").expect_err("the controller has not seen it");
        assert_eq!(refused.details.map(|d| d.retry_after_seconds), Some(10));
        budget["status"]["observedGeneration"] = json!(2);
        let many: serde_json::Map<String, Value> = (0..=MOST_DISRUPTED).map(|n| (n.to_string(), json!("t"))).collect();
        budget["status"]["disruptedPods"] = Value::Object(many);
        budget["status"]["disruptionsAllowed"] = json!(5);
        assert_eq!(take(&mut budget, "q", "now").expect_err("too many").code, 403);
    }
}
