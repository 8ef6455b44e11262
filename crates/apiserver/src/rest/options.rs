//! The options of lists and watches that say which revision is meant, and which of them go together, in upstream's words.

use std::time::Duration;

use api::Status;
use api::validation::Errors;

use super::{Call, store_error};

/// How long a read waits for a revision that is still to come.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the query says.
pub struct Options {
    /// None where it is not given or empty.
    pub revision: Option<u64>,
    pub exact: bool,
    /// Whether a watch begins with what is there; none where that is left to the revision.
    pub send_initial: Option<bool>,
}

impl Options {
    /// Checks what a list or a watch asks for.
    pub fn of(call: &Call, watch: bool) -> Result<Self, Status> {
        let query = &call.query;
        let matching = query.get("resourceVersionMatch");
        let send_initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
        let given = query.get("resourceVersion");
        let mut errors = Errors::default();
        let mut forbidden =
            |field: &str, why: &str| errors.push("FieldValueForbidden", field, format!("Forbidden: {why}"));
        const MATCH: &str = "resourceVersionMatch";
        if watch {
            if send_initial.is_some() && matching != Some("NotOlderThan") {
                forbidden(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
            if matching.is_some() && send_initial.is_none() {
                forbidden(MATCH, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
        } else if matching.is_some() && given.is_none() {
            forbidden(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if matching.is_some() && query.get("continue").is_some() {
            forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
        if !watch && matching == Some("Exact") && given == Some("0") {
            forbidden(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if !watch && send_initial.is_some() {
            forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        let supported: &[&str] = if watch { &["NotOlderThan"] } else { &["Exact", "NotOlderThan", ""] };
        if let Some(other) = matching.filter(|m| !supported.contains(m)) {
            let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            let why = format!("Unsupported value: {other:?}: supported values: {}", list.join(", "));
            errors.push("FieldValueNotSupported", MATCH, why);
        }
        errors.into_result("meta.k8s.io", "ListOptions", "")?;
        Ok(Options { revision: revision(call)?, exact: matching == Some("Exact"), send_initial })
    }
}

/// The `resourceVersion` parameter.
pub fn revision(call: &Call) -> Result<Option<u64>, Status> {
    let Some(text) = call.query.get("resourceVersion") else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let why = format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
        Status::bad_request(format!("invalid resource version: resourceVersion: {why}"))
    })
}

/// Waits until reads see at least what was asked for: everything where nothing was, and a little for what another server may
/// have made already.
pub async fn fresh_enough(call: &Call, asked: Option<u64>) -> Result<(), Status> {
    let store = &call.server.store;
    let Some(revision) = asked else { return store.fresh().await.map(|_| ()).map_err(store_error) };
    let reached = tokio::time::timeout(PATIENCE, async {
        while store.revision() < revision {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if store.fresh().await.is_err() {
                return;
            }
        }
    });
    if store.revision() < revision && (reached.await.is_err() || store.revision() < revision) {
        return Err(store_error(store::Error::Future { requested: revision, current: store.revision() }));
    }
    Ok(())
}
