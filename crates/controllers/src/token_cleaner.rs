//! Old tokens in Secrets: such as clusters before v1.24 made by themselves for every account. One that nobody has used for a
//! year is marked invalid, and a year after that it goes. Those that users made are left alone, and so are those of pods.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use client::{Cache, Key};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
    jiff::{ToSpan, civil::Date, tz::TimeZone},
};
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use serde_json::{Value, json};

use crate::{
    account_tokens::{NAME, TYPE, UID},
    frame::{Env, Error, Loop, Synced, now},
    owner::Named,
};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where the server says since when it notes what is used.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// How long a token may be unused, and how long it stays once it is marked.
const DAYS: i64 = 365;
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs the cleaner of old tokens.
pub(crate) async fn run(env: Env) {
    let secrets: Cache<Secret> = env.caches.select(&format!("type={TYPE}"));
    let accounts: Cache<ServiceAccount> = env.caches.get();
    let pods: Cache<Pod> = env.caches.get();
    let work = Loop::new().needs(&secrets).needs(&accounts).needs(&pods);
    work.queue.add(Key::new("", TYPE));
    let sync = async |_: Key| -> Synced {
        let today = now().0.to_zoned(TimeZone::UTC).date();
        if !is_tracked_long_enough(&env, today).await? {
            return Ok(Some(EVERY));
        }
        let mut used = BTreeMap::new();
        for secret in secrets.list().iter().filter_map(|item| secrets.parse(item)) {
            let account = secret.annotation(NAME).and_then(|name| accounts.read(secret.namespace(), name));
            let step = step(&secret, account.as_ref(), today, |name| {
                let of_pods = || {
                    pods.list_ns(secret.namespace())
                        .iter()
                        .flat_map(|pod| pod.parse().map(|pod| secrets_of(&pod)))
                        .flatten()
                        .collect()
                };
                let used: &HashSet<String> = used.entry(secret.namespace().to_owned()).or_insert_with(of_pods);
                used.contains(name)
            });
            take(&env, &secret, step, today).await?;
        }
        Ok(Some(EVERY))
    };
    work.run(&env, 1, sync).await;
}

/// Whether a token without a note of its use has really not been used.
async fn is_tracked_long_enough(env: &Env, today: Date) -> Result<bool, Error> {
    let noted = env.api::<ConfigMap>("kube-system").get(TRACKING).await?;
    let since = noted.data.as_ref().and_then(|data| date(data.get("since")?));
    let since = since.ok_or_else(|| Error::Message(format!("{TRACKING} does not say since when")))?;
    Ok(since < oldest(today))
}

/// The first day that is not too long ago.
fn oldest(today: Date) -> Date {
    today.saturating_sub(DAYS.days())
}

fn date(text: &str) -> Option<Date> {
    Date::strptime("%Y-%m-%d", text).ok()
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep,
    Mark,
    Delete,
}

/// What becomes of a token, given its account; `is_used` says whether a pod names its Secret.
fn step(secret: &Secret, account: Option<&ServiceAccount>, today: Date, is_used: impl FnOnce(&str) -> bool) -> Step {
    let label = |name: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let created = secret.metadata.creation_timestamp.as_ref().map(|time| time.0.to_zoned(TimeZone::UTC).date());
    let is_old = created.is_some_and(|created| created < oldest(today));
    // A note that cannot be read says nothing, so it is not taken for an old one.
    let is_unused = label(LAST_USED).is_none_or(|text| date(text).is_some_and(|used| used < oldest(today)));
    let is_meant = |account: &&ServiceAccount| {
        let uid = secret.annotation(UID).unwrap_or_default();
        let mut listed = account.secrets.iter().flatten();
        (uid.is_empty() || uid == account.uid()) && listed.any(|listed| listed.name.as_deref() == Some(secret.name()))
    };
    // Only what its account lists was made by itself.
    if !is_old || !is_unused || secret.is_deleting() || account.filter(is_meant).is_none() || is_used(secret.name()) {
        return Step::Keep;
    }
    match label(INVALID_SINCE).and_then(|since| date(since)) {
        None => Step::Mark,
        Some(since) if since >= oldest(today) => Step::Keep,
        Some(_) => Step::Delete,
    }
}

async fn take(env: &Env, secret: &Secret, step: Step, today: Date) -> Result<(), Error> {
    let name = secret.name();
    let taken = match step {
        Step::Keep => return Ok(()),
        Step::Mark => {
            tracing::info!(secret = %format_args!("{}/{name}", secret.namespace()), "an old token is marked invalid");
            let patch = json!({"metadata": {"uid": secret.uid(), "labels": {INVALID_SINCE: today.to_string()}}});
            env.patch::<Secret>(secret.namespace(), name, "", &patch).await.map(|_| ())
        }
        Step::Delete => {
            tracing::info!(secret = %format_args!("{}/{name}", secret.namespace()), "an old token is deleted");
            let resource_version = secret.metadata.resource_version.clone();
            let preconditions = Some(Preconditions { resource_version, uid: Some(secret.uid().to_owned()) });
            let api: Api<Secret> = env.api(secret.namespace());
            api.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() })
                .await
                .map(|_| ())
                .map_err(Error::from)
        }
    };
    match taken {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// The Secrets that a pod names, and perhaps some more: what is taken for used is kept.
fn secrets_of(pod: &Value) -> HashSet<String> {
    let mut names = HashSet::new();
    collect(&pod["spec"], false, &mut names);
    names
}

fn collect(value: &Value, is_secret: bool, names: &mut HashSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| match value {
            Value::String(name) if key == "secretName" || (is_secret && key == "name") => {
                names.insert(name.clone());
            }
            value => collect(value, key.to_ascii_lowercase().contains("secret"), names),
        }),
        Value::Array(values) => values.iter().for_each(|value| collect(value, is_secret, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_nobody_has_used_for_a_year_is_marked_and_goes_a_year_later() {
        const OLD: &str = "2024-01-01";
        // When it was made, last used, and marked; what its account lists; whether a pod has it.
        let cases = [
            (OLD, "", "", "token", false, Step::Mark),
            (OLD, "2024-12-31", "", "token", false, Step::Mark),
            (OLD, "2024-12-31", "2025-01-01", "token", false, Step::Delete),
            (OLD, "", "2025-06-01", "token", false, Step::Keep),
            (OLD, "", "soon", "token", false, Step::Mark),
            (OLD, "2025-06-01", "", "token", false, Step::Keep),
            (OLD, "2025-06-01", "2025-01-01", "token", false, Step::Keep),
            (OLD, "yesterday", "", "token", false, Step::Keep),
            (OLD, "", "", "another", false, Step::Keep),
            (OLD, "", "", "token", true, Step::Keep),
            ("2025-06-01", "", "", "token", false, Step::Keep),
        ];
        let today = date("2026-02-01").unwrap();
        for (made, last, marked, listed, is_used, expected) in cases {
            let mut labels = json!({});
            for (name, value) in
                [(LAST_USED, last), (INVALID_SINCE, marked)].into_iter().filter(|(_, value)| !value.is_empty())
            {
                labels[name] = value.into();
            }
            let secret = json!({"metadata": {"name": "token", "labels": labels, "annotations": {NAME: "robot", UID: "1"},
                "creationTimestamp": format!("{made}T12:00:00Z")}});
            let secret: Secret = serde_json::from_value(secret).unwrap();
            let account = |uid: &str| -> ServiceAccount {
                serde_json::from_value(
                    json!({"metadata": {"name": "robot", "uid": uid}, "secrets": [{"name": listed}]}),
                )
                .unwrap()
            };
            let step = |account: Option<&ServiceAccount>| step(&secret, account, today, |_| is_used);
            assert_eq!(step(Some(&account("1"))), expected, "{made} {last} {marked} {listed} {is_used}");
            assert_eq!(step(Some(&account("2"))), Step::Keep, "it is of another account");
            assert_eq!(step(None), Step::Keep);
        }
    }

    #[test]
    fn every_way_to_name_a_secret_in_a_pod_is_found() {
        let pod = json!({"spec": {
            "imagePullSecrets": [{"name": "a"}],
            "containers": [{"name": "main", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}],
                "envFrom": [{"secretRef": {"name": "c"}}, {"configMapRef": {"name": "no"}}]}],
            "volumes": [{"name": "no", "secret": {"secretName": "d"}}, {"name": "no", "projected": {"sources": [{"secret": {"name": "e"}}]}},
                {"name": "no", "csi": {"nodePublishSecretRef": {"name": "f"}}}, {"name": "no", "azureFile": {"secretName": "g"}}]}});
        let mut names: Vec<String> = secrets_of(&pod).into_iter().collect();
        names.sort();
        assert_eq!(names.concat(), "abcdefg");
    }
}
