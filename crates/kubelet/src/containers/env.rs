//! A container's environment.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1;
use runtime::cri::KeyValue;

use super::expansion::expand;
use crate::fields::{self, Addresses};
use crate::objects::Objects;
use crate::pods::pod::Pod;
use crate::resources::{self, Amounts};
use crate::volumes::{self, Prepared, Source};

/// Everything that values may come from.
pub struct Sources<'a> {
    pub pod: &'a Pod,
    pub addresses: &'a Addresses,
    pub allocatable: &'a Amounts,
    pub objects: &'a Objects,
    pub volumes: &'a Prepared,
}

/// Ordered variables in which a later definition takes the place of an earlier one.
#[derive(Default)]
pub struct Environment(Vec<KeyValue>);

impl Environment {
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|v| v.key == name).map(|v| v.value.clone())
    }

    fn set(&mut self, key: String, value: String) {
        match self.0.iter_mut().find(|v| v.key == key) {
            Some(old) => old.value = value,
            None => self.0.push(KeyValue { key, value }),
        }
    }

    pub fn into_vec(self) -> Vec<KeyValue> {
        self.0
    }
}

/// Resolves `envFrom`, `env` and the services' variables; an error is the message of `CreateContainerConfigError`.
pub async fn resolve(container: &v1::Container, sources: &Sources<'_>) -> Result<Environment, String> {
    let links = sources.pod.spec().enable_service_links.unwrap_or(true);
    let services = service_variables(&sources.objects.services(&sources.pod.namespace, links).await);
    let mut env = Environment::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in all_keys(from, sources).await? {
            env.set(format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let lookup = |name: &str| env.get(name).or_else(|| services.get(name).cloned());
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, lookup)),
            (None, Some(from)) => one_key(from, container, sources).await?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(variable.name.clone(), value);
        }
    }
    for (key, value) in services {
        if env.get(&key).is_none() {
            env.set(key, value);
        }
    }
    Ok(env)
}

async fn all_keys(from: &v1::EnvFromSource, sources: &Sources<'_>) -> Result<Vec<(String, String)>, String> {
    let namespace = &sources.pod.namespace;
    if let Some(reference) = &from.config_map_ref {
        return match sources.objects.config_map(namespace, &reference.name).await? {
            Some(map) => Ok(map.data.unwrap_or_default().into_iter().collect()),
            None if reference.optional.unwrap_or(false) => Ok(Vec::new()),
            None => Err(format!("configmap {:?} not found", reference.name)),
        };
    }
    if let Some(reference) = &from.secret_ref {
        return match sources.objects.secret(namespace, &reference.name).await? {
            Some(secret) => Ok(secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, text(v))).collect()),
            None if reference.optional.unwrap_or(false) => Ok(Vec::new()),
            None => Err(format!("secret {:?} not found", reference.name)),
        };
    }
    Ok(Vec::new())
}

fn text(bytes: ByteString) -> String {
    String::from_utf8(bytes.0).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// `None` for an optional key that is not there: then the variable is not set.
async fn one_key(
    from: &v1::EnvVarSource,
    container: &v1::Container,
    sources: &Sources<'_>,
) -> Result<Option<String>, String> {
    let namespace = &sources.pod.namespace;
    if let Some(field) = &from.field_ref {
        return fields::value(sources.pod, sources.addresses, &field.field_path).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        let of = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => sources.pod.member(name).map(|m| &m.spec).ok_or(format!("container {name} not found"))?,
            None => container,
        };
        return resources::field(selector, of.resources.as_ref(), sources.allocatable).map(Some);
    }
    if let Some(selector) = &from.config_map_key_ref {
        let optional = selector.optional.unwrap_or(false);
        return match sources.objects.config_map(namespace, &selector.name).await? {
            None if optional => Ok(None),
            None => Err(format!("configmap {:?} not found", selector.name)),
            Some(map) => match map.data.unwrap_or_default().remove(&selector.key) {
                None if !optional => {
                    Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", selector.key, selector.name))
                }
                value => Ok(value),
            },
        };
    }
    if let Some(selector) = &from.secret_key_ref {
        let optional = selector.optional.unwrap_or(false);
        return match sources.objects.secret(namespace, &selector.name).await? {
            None if optional => Ok(None),
            None => Err(format!("secret {:?} not found", selector.name)),
            Some(secret) => match secret.data.unwrap_or_default().remove(&selector.key) {
                None if !optional => {
                    Err(format!("couldn't find key {} in Secret {namespace}/{}", selector.key, selector.name))
                }
                value => Ok(value.map(text)),
            },
        };
    }
    if let Some(selector) = &from.file_key_ref {
        return from_file(selector, sources.volumes);
    }
    Err("unsupported source of an environment variable".to_owned())
}

/// The value of a key in a file of an emptyDir, which another container of the pod has written.
fn from_file(selector: &v1::FileKeySelector, volumes: &Prepared) -> Result<Option<String>, String> {
    const FILE_MAX: u64 = 64 * 1024;
    let v1::FileKeySelector { volume_name, path, key, optional } = selector;
    let optional = optional.unwrap_or(false);
    let Some(Source::Path { path: root, .. }) = volumes.sources.get(volume_name) else {
        return Err(format!("cannot find the volume {volume_name:?} referenced by FileKeyRef"));
    };
    let told = |error: &dyn std::fmt::Display| format!("failed to open environment variable file {path:?}: {error}");
    let mut text = String::new();
    match volumes::open_below(root, path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && optional => return Ok(None),
        Err(error) => return Err(told(&error)),
        Ok(file) => {
            if file.metadata().map_err(|e| told(&e))?.len() > FILE_MAX {
                return Err(told(&"the file is larger than 64 KiB"));
            }
            std::io::Read::read_to_string(&mut std::io::Read::take(file, FILE_MAX), &mut text).map_err(|e| told(&e))?;
        }
    }
    match file_value(&text, key).map_err(|error| format!("invalid environment variable file {path:?}: {error}"))? {
        None if !optional => Err(format!("environment variable key {key:?} not found in file {path:?}")),
        value => Ok(value),
    }
}

/// The value of a key in an environment file: `KEY=value` a line, with comments; a value in single quotes is taken as it
/// stands and may go over several lines. The last of several counts.
fn file_value(text: &str, key: &str) -> Result<Option<String>, String> {
    let (mut found, mut rest) = (None, text);
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with('#') {
            rest = after;
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| format!("{bare:?} is no assignment"))?;
        let name = name.trim();
        let value = match value.trim_start().strip_prefix('\'') {
            Some(_) => {
                let quoted = &rest[rest.find('\'').map_or(0, |at| at + 1)..];
                let (value, tail) = quoted.split_once('\'').ok_or_else(|| format!("{name}'s quote is not closed"))?;
                let (end, next) = tail.split_once('\n').unwrap_or((tail, ""));
                if !end.trim().is_empty() && !end.trim_start().starts_with('#') {
                    return Err(format!("{name} is followed by {:?}", end.trim()));
                }
                rest = next;
                value.to_owned()
            }
            None => {
                rest = after;
                value.split('#').next().unwrap_or_default().trim().to_owned()
            }
        };
        if name == key {
            found = Some(value);
        }
    }
    Ok(found)
}

/// The variables of Docker's links that every service with an address gets.
fn service_variables(services: &[v1::Service]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let name = screaming(service.metadata.name.as_deref().unwrap_or_default());
        let ports = spec.ports.as_deref().unwrap_or_default();
        out.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        if let Some(first) = ports.first() {
            out.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        }
        for (index, port) in ports.iter().enumerate() {
            if let Some(label) = port.name.as_deref().filter(|n| !n.is_empty()) {
                out.insert(format!("{name}_SERVICE_PORT_{}", screaming(label)), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{prefix}_PORT"), port.port.to_string());
            out.insert(format!("{prefix}_ADDR"), ip.to_owned());
            out.insert(prefix, url);
        }
    }
    out
}

fn screaming(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_file_gives_the_value_of_a_key() {
        let text = "# settings\nA=1\n\nB='two # words'\nC='three\nlines\n' # end\nD=four # told\nA=5\n";
        for (key, expected) in [
            ("A", Some("5")),
            ("B", Some("two # words")),
            ("C", Some("three\nlines\n")),
            ("D", Some("four")),
            ("E", None),
        ] {
            assert_eq!(file_value(text, key).unwrap().as_deref(), expected, "{key}");
        }
        for broken in ["A", "A='1", "A='1' 2"] {
            assert!(file_value(broken, "A").is_err(), "{broken}");
        }
    }

    #[test]
    fn a_service_gives_the_variables_of_links() {
        let service = serde_json::json!({"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.0.0.7", "ports": [
            {"name": "sql", "port": 5432}]}});
        let got = service_variables(&[serde_json::from_value(service).unwrap()]);
        let got: Vec<_> = got.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            got,
            [
                "MY_DB_PORT=tcp://10.0.0.7:5432",
                "MY_DB_PORT_5432_TCP=tcp://10.0.0.7:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.0.0.7",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_SERVICE_HOST=10.0.0.7",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_SQL=5432",
            ]
        );
    }
}
