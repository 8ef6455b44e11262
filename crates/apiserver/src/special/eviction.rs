//! Evicting a pod: a delete that disruption budgets may refuse.

use api::selector::LabelSelector;
use api::status::{Cause, Reason};
use api::{Status, Value};
use http::StatusCode;
use serde_json::json;
use store::List;

use crate::clock;
use crate::rest::delete::{DeleteOptions, remove};
use crate::rest::{Call, input, metadata, output, prefix, store_error, update};
use crate::wire::Response;

/// Deletes the pod if its budget allows it.
pub async fn evict(call: &Call) -> Result<Response, Status> {
    let eviction = input::read_as(call, "policy/v1", "Eviction")?;
    let sent = metadata::text(&eviction, "name");
    if !sent.is_empty() && sent != call.info.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = DeleteOptions::from_value(&eviction["deleteOptions"])?;
    options.dry_run |= call.dry_run()?;
    let pod = call.of(call.kind.clone(), &call.info.namespace, &call.info.name);
    let object = pod.parse(&*pod.entry()?)?;
    let phase = object["status"]["phase"].as_str().unwrap_or("");
    let counts = !matches!(phase, "Succeeded" | "Failed" | "Pending") && !metadata::is_deleting(&object);
    if counts {
        spend_budget(call, &object, options.dry_run).await?;
    }
    remove(&pod, &call.info.name, &options).await?;
    let created = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    output::encode(call, StatusCode::CREATED, &created, false)
}

/// Takes one disruption from the pod's budget, or refuses.
async fn spend_budget(call: &Call, pod: &Value, dry: bool) -> Result<(), Status> {
    let catalog = call.server.catalog.load();
    let Some(kind) = catalog.get("policy", "v1", "poddisruptionbudgets").cloned() else { return Ok(()) };
    let range = prefix(&kind, &call.info.namespace);
    let page = call.server.store.list(&range, List::default()).map_err(store_error)?;
    let labels = pod["metadata"]["labels"].as_object();
    let mut matching = Vec::new();
    for entry in page.entries {
        let budget = crate::rest::parse(&entry.value)?;
        if LabelSelector::from_object(&budget["spec"]["selector"])?.matches(labels) {
            matching.push(budget);
        }
    }
    let Some(budget) = matching.first() else { return Ok(()) };
    if matching.len() > 1 {
        return Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    let ready = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    if !ready && budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
        return Ok(());
    }
    let budget_name = metadata::text(budget, "name").to_owned();
    let now = clock::now();
    let name = &call.info.name;
    let take = |budget: &mut Value| {
        let (current, desired) =
            (budget["status"]["currentHealthy"].as_i64(), budget["status"]["desiredHealthy"].as_i64());
        if !ready && current.unwrap_or(0) >= desired.unwrap_or(0) && desired.unwrap_or(0) > 0 {
            return Ok(());
        }
        let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
        if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
            return Err(refused(&budget_name, "is still being processed by the server", 10));
        }
        if allowed <= 0 {
            let why = format!("needs {} healthy pods and has {} currently", desired.unwrap_or(0), current.unwrap_or(0));
            return Err(refused(&budget_name, &why, 0));
        }
        budget["status"]["disruptionsAllowed"] = Value::from(allowed - 1);
        budget["status"]["disruptedPods"][name] = Value::from(now.as_str());
        Ok(())
    };
    if dry {
        return take(&mut budget.clone());
    }
    update::rewrite(&call.of(kind, &call.info.namespace, &budget_name), "status", take).await
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
