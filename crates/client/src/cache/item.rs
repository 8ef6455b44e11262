//! One object in a cache: its bytes and the few facts that are asked for often.

use std::{
    any::Any,
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An object's labels, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All of them in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Labels {
        let mut pairs: Vec<(Box<str>, Box<str>)> = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        pairs.sort();
        Labels(pairs.into())
    }
}

/// An entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub controller: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    pub block_owner_deletion: bool,
}

/// An object as a cache holds it. Shared, never changed: a newer version is another item.
#[derive(Debug)]
pub struct Item {
    pub key: Key,
    pub uid: Box<str>,
    pub resource_version: u64,
    pub labels: Labels,
    pub owners: Box<[Owner]>,
    pub finalizers: Box<[Box<str>]>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// A pod's `spec.nodeName`, empty when it is not bound, and for every other kind.
    pub node_name: Box<str>,
    /// A pod's `status.phase`, empty for every other kind.
    pub phase: Box<str>,
    /// The object as JSON without `metadata.managedFields`; empty in a cache of metadata.
    pub bytes: Bytes,
    facts: OnceLock<Box<Fact>>,
}

/// One of the facts that are kept with an item, and the others.
#[derive(Debug)]
struct Fact {
    value: Box<dyn Any + Send + Sync>,
    next: OnceLock<Box<Fact>>,
}

impl Item {
    /// An item from an object's JSON, such as a test or an answer of the server gives; pods' node and phase included.
    pub fn from_json(json: &str) -> Result<Item, serde_json::Error> {
        read(json, Content::Pod, |name| name.into()).or_else(|_| read(json, Content::Object, |name| name.into()))
    }

    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// The owner that manages this object, of which there is at most one.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// Whether a controller may take it as its own by its labels: it has some, and nobody manages it.
    pub fn is_adoptable(&self) -> bool {
        !self.labels.0.is_empty() && self.controller().is_none()
    }

    /// Whether a text stands anywhere in the object's JSON: a quick way to see that a field does not.
    pub fn mentions(&self, text: &str) -> bool {
        memchr::memmem::find(&self.bytes, text.as_bytes()).is_some()
    }

    /// The typed object, made anew at each call: use it for one decision and drop it.
    pub fn parse<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }

    /// What `read` makes of this item, kept with it so that it is read once however often it is asked for: one value of each
    /// type. It must not hold the item itself.
    pub fn facts<T: Send + Sync + 'static, E>(&self, read: impl Fn(&Item) -> Result<T, E>) -> Result<&T, E> {
        let (mut place, mut made) = (&self.facts, None);
        loop {
            match place.get() {
                Some(fact) => match fact.value.downcast_ref() {
                    Some(known) => return Ok(known),
                    None => place = &fact.next,
                },
                None => {
                    let fact = match made.take() {
                        Some(fact) => fact,
                        None => Box::new(Fact { value: Box::new(read(self)?), next: OnceLock::new() }),
                    };
                    // Whoever comes first has the place, and may have read the same.
                    made = place.set(fact).err();
                }
            }
        }
    }

    /// The typed metadata alone.
    pub fn metadata(&self) -> Result<ObjectMeta, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head {
            metadata: ObjectMeta,
        }
        serde_json::from_slice::<Head>(&self.bytes).map(|head| head.metadata)
    }
}

/// What of an object is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Content {
    /// Everything but managed fields.
    Object,
    /// As `Object`, and the node and phase in the index.
    Pod,
    /// The index alone.
    Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    name: Box<str>,
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
    #[serde(default)]
    uid: Box<str>,
    #[serde(borrow, default)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "labels")]
    labels: Labels,
    #[serde(default, deserialize_with = "null_is_default")]
    owner_references: Box<[Owner]>,
    #[serde(default, deserialize_with = "null_is_default")]
    finalizers: Box<[Box<str>]>,
    #[serde(borrow, default)]
    deletion_timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    managed_fields: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
}

#[derive(Deserialize)]
struct PodHead<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(default)]
    spec: PodSpecHead,
    #[serde(default)]
    status: PodStatusHead,
}

#[derive(Deserialize, Default)]
struct PodSpecHead {
    #[serde(default, rename = "nodeName", deserialize_with = "null_is_default")]
    node_name: Box<str>,
}

#[derive(Deserialize, Default)]
struct PodStatusHead {
    #[serde(default, deserialize_with = "null_is_default")]
    phase: Box<str>,
}

/// Reads an object's JSON into an item, without building a tree of it. `intern` shares the namespaces' names.
pub(crate) fn read(json: &str, content: Content, intern: impl FnOnce(&str) -> Arc<str>) -> serde_json::Result<Item> {
    let (meta, node_name, phase) = if content == Content::Pod {
        let head: PodHead<'_> = serde_json::from_str(json)?;
        (head.metadata, head.spec.node_name, head.status.phase)
    } else {
        (serde_json::from_str::<Head<'_>>(json)?.metadata, "".into(), "".into())
    };
    let bytes = match meta.managed_fields {
        _ if content == Content::Metadata => Bytes::new(),
        None => Bytes::copy_from_slice(json.as_bytes()),
        Some(managed) => without(json, "\"managedFields\"", managed),
    };
    Ok(Item {
        key: Key { namespace: intern(meta.namespace.as_deref().unwrap_or_default()), name: meta.name.into() },
        uid: meta.uid,
        resource_version: meta.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0),
        labels: meta.labels,
        owners: meta.owner_references,
        finalizers: meta.finalizers,
        deleting: meta.deletion_timestamp.is_some(),
        node_name,
        phase,
        bytes,
        facts: OnceLock::new(),
    })
}

/// `json` without the field that has `value`, a part of `json`, under the quoted name `field`.
fn without(json: &str, field: &str, value: &RawValue) -> Bytes {
    let value_at = value.get().as_ptr() as usize - json.as_ptr() as usize;
    let mut from = json[..value_at].rfind(field).unwrap_or(value_at);
    let mut to = value_at + value.get().len();
    let after = &json[to..];
    match after.trim_start().strip_prefix(',') {
        Some(rest) => to += after.len() - rest.len(),
        None => from = json[..from].rfind(',').filter(|at| json[at + 1..from].trim().is_empty()).unwrap_or(from),
    }
    let mut out = Vec::with_capacity(from + json.len() - to);
    out.extend_from_slice(&json.as_bytes()[..from]);
    out.extend_from_slice(&json.as_bytes()[to..]);
    Bytes::from(out)
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    let map: std::collections::BTreeMap<Box<str>, Box<str>> = null_is_default(deserializer)?;
    Ok(Labels(map.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str, content: Content) -> Item {
        read(json, content, |name| name.into()).expect("readable")
    }

    #[test]
    fn an_item_is_its_bytes_without_managed_fields_and_a_small_index() {
        let pod = item(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7",
                "labels":{"b":"2","a":"1"},"managedFields":[{"manager":"m"}],"deletionTimestamp":"2026-01-01T00:00:00Z",
                "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"o","controller":true}]},
                "spec":{"nodeName":"node-1"},"status":{"phase":"Running"}}"#,
            Content::Pod,
        );
        assert_eq!((pod.namespace(), pod.name(), &*pod.uid, pod.resource_version), ("n", "a", "u", 7));
        assert_eq!((pod.labels.get("a"), pod.labels.get("c")), (Some("1"), None));
        assert_eq!(pod.controller().map(|owner| &*owner.uid), Some("o"));
        assert_eq!((&*pod.node_name, &*pod.phase, pod.deleting), ("node-1", "Running", true));
        let text = std::str::from_utf8(&pod.bytes).unwrap();
        assert!(!text.contains("managedFields") && text.contains(r#""resourceVersion":"7""#), "{text}");
        let typed: k8s_openapi::api::core::v1::Pod = pod.parse().unwrap();
        assert_eq!(typed.spec.unwrap().node_name.as_deref(), Some("node-1"));
    }

    #[test]
    fn facts_are_read_once() {
        let item = item(r#"{"metadata":{"name":"a"}}"#, Content::Object);
        fn fails<T>(_: &Item) -> Result<T, &'static str> {
            Err("unreadable")
        }
        assert_eq!(item.facts::<u8, _>(fails), Err("unreadable"));
        assert_eq!(item.facts::<u8, &str>(|_| Ok(7)), Ok(&7));
        assert_eq!(item.facts::<u8, _>(fails), Ok(&7));
        assert_eq!(item.facts::<String, &str>(|_| Ok("a".to_owned())), Ok(&"a".to_owned()), "each type has its own");
        assert_eq!(item.facts::<String, &str>(|_| Ok("b".to_owned())), Ok(&"a".to_owned()));
        assert_eq!(item.facts::<u8, _>(fails), Ok(&7));
    }

    #[test]
    fn nulls_and_absent_fields_are_empty() {
        let json =
            r#"{"metadata":{"name":"a","labels":null,"ownerReferences":null,"deletionTimestamp":null},"spec":3}"#;
        let item = item(json, Content::Metadata);
        assert_eq!((item.namespace(), item.deleting, item.bytes.len()), ("", false, 0));
        assert!(read("{}", Content::Object, |name| name.into()).is_err());
    }

    #[test]
    fn managed_fields_are_cut_wherever_they_stand() {
        for meta in [
            r#"{"managedFields":[{"a":"\"managedFields\""}],"name":"a"}"#,
            r#"{"name":"a" , "managedFields" : [] }"#,
            r#"{"annotations":{"managedFields":"x"},"managedFields":[],"name":"a"}"#,
        ] {
            let stripped = item(&format!(r#"{{"metadata":{meta},"data":{{}}}}"#), Content::Object);
            let mut expected: serde_json::Value = serde_json::from_str(meta).unwrap();
            expected.as_object_mut().unwrap().remove("managedFields");
            let value: serde_json::Value = stripped.parse().unwrap();
            assert_eq!(value["metadata"], expected);
        }
    }
}
