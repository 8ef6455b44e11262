//! ServiceAccount: every pod runs as an account of its namespace and, unless it declines, has the account's token mounted.

use std::time::Duration;

use api::{Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::{Attributes, Operation, Plugin};
use crate::rest::{parse, prepare};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Where it is `true`, an account's pods refer to the account's own secrets only.
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
/// The default account of a new namespace is made by a controller: a first pod waits for it this many times.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn handles(&self, attributes: &Attributes) -> bool {
        match attributes.operation {
            Operation::Create => attributes.is("", "pods"),
            Operation::Update => attributes.is_of("", "pods", "ephemeralcontainers"),
            _ => false,
        }
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, pod: &mut Value) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        if pod["metadata"]["annotations"].get(MIRROR).is_some() {
            return mirror(attributes, pod);
        }
        let given = pod["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty());
        let given = given.or(pod["spec"]["serviceAccount"].as_str().filter(|name| !name.is_empty()));
        let name = given.unwrap_or("default").to_owned();
        pod["spec"]["serviceAccountName"] = Value::from(name.as_str());
        pod["spec"]["serviceAccount"] = Value::from(name.as_str());
        let account = account(attributes, pod, &name).await?;
        let mounts = pod["spec"]["automountServiceAccountToken"]
            .as_bool()
            .or(account["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if mounts {
            mount(pod);
        }
        let secrets = &account["imagePullSecrets"];
        if pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
            && secrets.as_array().is_some_and(|s| !s.is_empty())
        {
            pod["spec"]["imagePullSecrets"] = secrets.clone();
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, _: Option<&Value>, pod: &Value) -> Result<(), Status> {
        if pod["metadata"]["annotations"].get(MIRROR).is_some() {
            return mirror(attributes, pod);
        }
        let namespace = attributes.namespace();
        let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let Some(entry) = attributes.call.server.store.get(&format!("/registry/serviceaccounts/{namespace}/{name}"))
        else {
            return Ok(());
        };
        let account = parse(&entry.value)?;
        if account["metadata"]["annotations"][ENFORCE] != "true" {
            return Ok(());
        }
        let created = attributes.operation == Operation::Create;
        match unmountable(&account, pod, created) {
            Some(why) => Err(attributes.forbidden(pod, why)),
            None => Ok(()),
        }
    }
}

/// The first secret that the pod refers to and its account does not.
fn unmountable(account: &Value, pod: &Value, created: bool) -> Option<String> {
    let (spec, name) = (&pod["spec"], account["metadata"]["name"].as_str().unwrap_or(""));
    let each = |value: &'_ Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let listed = |field: &str, secret: &Value| each(account, field).iter().any(|own| own["name"] == *secret);
    let shown = |secret: &Value| secret.as_str().unwrap_or("").to_owned();
    let because = format!("is not allowed because service account {name} does not reference that");
    let mut lists = vec![("ephemeral container", "ephemeralContainers")];
    if created {
        for volume in each(spec, "volumes") {
            let secret = &volume["secret"]["secretName"];
            if volume["secret"].is_object() && !listed("secrets", secret) {
                return Some(format!("volume with secret.secretName={:?} {because} secret", shown(secret)));
            }
        }
        lists = vec![("init container", "initContainers"), ("container", "containers")];
    }
    for (what, field) in lists {
        for container in each(spec, field) {
            for variable in each(&container, "env") {
                let reference = &variable["valueFrom"]["secretKeyRef"];
                if reference.is_object() && !listed("secrets", &reference["name"]) {
                    let (container, variable) = (shown(&container["name"]), shown(&variable["name"]));
                    let secret = shown(&reference["name"]);
                    return Some(format!(
                        "{what} {container} with envVar {variable} referencing secret.secretName={secret:?} {because} secret"
                    ));
                }
            }
        }
    }
    let pulls = each(spec, "imagePullSecrets").into_iter().enumerate().filter(|_| created);
    pulls.into_iter().find(|(_, secret)| !listed("imagePullSecrets", &secret["name"])).map(|(index, secret)| {
        format!("imagePullSecrets[{index}].name={:?} {because} imagePullSecret", shown(&secret["name"]))
    })
}

fn mirror(attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err(attributes.forbidden(pod, "a mirror pod may not reference service accounts"));
    }
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    if sources.any(|source| source["serviceAccountToken"].is_object()) {
        return Err(attributes.forbidden(pod, "a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

async fn account(attributes: &Attributes<'_>, pod: &Value, name: &str) -> Result<Value, Status> {
    let namespace = &attributes.call.info.namespace;
    let key = format!("/registry/serviceaccounts/{namespace}/{name}");
    let attempts = if name == "default" { ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(entry) = attributes.call.server.store.get(&key) {
            return parse(&entry.value);
        }
    }
    Err(attributes.forbidden(
        pod,
        format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"),
    ))
}

/// Mounts the token's volume into every container that has nothing mounted there.
fn mount(pod: &mut Value) {
    let mut existing = pod["spec"]["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
    let existing = existing.find(|name| name.starts_with("kube-api-access-")).map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| prepare::generated("kube-api-access-"));
    let mut used = false;
    for field in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = &mut container["volumeMounts"];
            if mounts.as_array().is_some_and(|all| all.iter().any(|m| m["mountPath"] == MOUNT_PATH)) {
                continue;
            }
            if !mounts.is_array() {
                *mounts = json!([]);
            }
            if let Some(all) = mounts.as_array_mut() {
                all.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                used = true;
            }
        }
    }
    if !used || existing.is_some() {
        return;
    }
    if !pod["spec"]["volumes"].is_array() {
        pod["spec"]["volumes"] = json!([]);
    }
    if let Some(volumes) = pod["spec"]["volumes"].as_array_mut() {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_mounted_once_and_not_over_what_is_there() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]}});
        mount(&mut pod);
        mount(&mut pod);
        assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(1));
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], MOUNT_PATH);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn an_accounts_pods_refer_to_its_own_secrets_where_it_says_so() {
        let account =
            json!({"metadata": {"name": "a"}, "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}]});
        let env = |secret: &str| json!([{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]}]);
        let because = "is not allowed because service account a does not reference that";
        let table = [
            (json!({"containers": env("own"), "imagePullSecrets": [{"name": "pull"}]}), String::new()),
            (
                json!({"volumes": [{"secret": {"secretName": "x"}}]}),
                format!("volume with secret.secretName=\"x\" {because} secret"),
            ),
            (
                json!({"initContainers": env("x")}),
                format!("init container c with envVar E referencing secret.secretName=\"x\" {because} secret"),
            ),
            (
                json!({"imagePullSecrets": [{"name": "pull"}, {"name": "x"}]}),
                format!("imagePullSecrets[1].name=\"x\" {because} imagePullSecret"),
            ),
        ];
        for (spec, expected) in table {
            let got = unmountable(&account, &json!({"spec": spec}), true).unwrap_or_default();
            assert_eq!(got, expected, "{spec}");
        }
    }
}
