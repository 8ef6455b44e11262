//! The one path of all kinds: create, read, list, watch, update, patch and delete, directed by a kind's descriptor.

pub mod continuation;
pub mod create;
pub mod delete;
pub mod delete_options;
pub mod forms;
pub mod index;
pub mod input;
pub mod list;
pub mod metadata;
pub mod options;
pub mod output;
pub mod patch;
pub mod prepare;
pub mod read;
pub mod select;
pub mod socket;
pub mod update;
pub mod view;
pub mod watch;
pub mod write_options;

use std::sync::Arc;

use api::kind::Kind;
use api::{Status, Value};
use bytes::Bytes;
use client::Identity;
use http::{HeaderMap, header};
use store::Entry;

use crate::server::Server;
use crate::wire::{Accept, Query, RequestInfo};

/// A request for a resource, with all that handlers want to know of it.
pub struct Call {
    pub server: Arc<Server>,
    /// The version that the path names.
    pub kind: Arc<Kind>,
    /// The version in which its objects are stored.
    pub stored: Arc<Kind>,
    pub info: Arc<RequestInfo>,
    pub query: Arc<Query>,
    pub user: Arc<Identity>,
    pub accept: Accept,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Call {
    /// A write by the server itself.
    pub fn internal(server: &Arc<Server>, kind: Arc<Kind>, namespace: &str, name: &str) -> Call {
        let info = RequestInfo {
            resource_request: true,
            verb: "create",
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            resource: kind.plural.to_string(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static("kube-apiserver"));
        Call {
            stored: server.catalog.load().stored(&kind),
            server: server.clone(),
            kind,
            info: Arc::new(info),
            query: Arc::default(),
            user: Arc::new(Identity::admin("system:apiserver")),
            accept: Accept::JSON,
            headers,
            body: Bytes::new(),
        }
    }

    /// The same request as if it were for another kind and object: how one operation is made of another.
    pub fn of(&self, kind: Arc<Kind>, namespace: &str, name: &str) -> Call {
        let info = RequestInfo {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            resource: kind.plural.to_string(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: String::new(),
            ..RequestInfo::clone(&self.info)
        };
        Call {
            server: self.server.clone(),
            stored: self.server.catalog.load().stored(&kind),
            kind,
            info: Arc::new(info),
            query: self.query.clone(),
            user: self.user.clone(),
            accept: self.accept,
            headers: self.headers.clone(),
            body: self.body.clone(),
        }
    }

    /// Whether the path's version is the stored one, so that stored bytes can be sent as they are.
    pub fn is_stored_version(&self) -> bool {
        Arc::ptr_eq(&self.kind, &self.stored)
    }

    /// The store's key of the object that the path names.
    pub fn key(&self) -> String {
        key(&self.kind, &self.info.namespace, &self.info.name)
    }

    /// The entry of the object that the path names, or 404.
    pub fn entry(&self) -> Result<Arc<Entry>, Status> {
        self.server.store.get(&self.key()).ok_or_else(|| self.not_found())
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(&self.kind.group, &self.kind.plural, &self.info.name)
    }

    /// The stored object in the path's version, with its resourceVersion.
    pub fn parse(&self, entry: &Entry) -> Result<Value, Status> {
        self.parse_at(&entry.value, entry.modified)
    }

    /// As [`Call::parse`], of stored bytes.
    pub fn parse_at(&self, stored: &[u8], revision: u64) -> Result<Value, Status> {
        let mut object = parse(stored)?;
        if !self.is_stored_version() {
            self.kind.strategy.from_storage(&mut object);
            metadata::set_type(&mut object, &self.kind);
        }
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("resourceVersion".to_owned(), Value::from(revision.to_string()));
        }
        Ok(object)
    }

    /// The object's bytes for the store.
    pub fn encode(&self, mut object: Value) -> Vec<u8> {
        if !self.is_stored_version() {
            self.kind.strategy.to_storage(&mut object);
            metadata::set_type(&mut object, &self.stored);
        }
        let mut stored = api::codec::stored::encode(&object);
        // It is kept for long.
        stored.shrink_to_fit();
        stored
    }

    /// Whether nothing is to be written, as the query says.
    pub fn dry_run(&self) -> bool {
        self.query.all("dryRun").any(|value| value == "All")
    }

    /// Whether what a PUT or PATCH would store is what the path names: name and namespace are in the object too.
    pub fn check_name(&self, object: &Value) -> Result<(), Status> {
        let (name, namespace) = (metadata::text(object, "name"), metadata::text(object, "namespace"));
        let (url, of_url) = (&self.info.name, &self.info.namespace);
        if name.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({url} based on URL) was undeterminable: name must be provided"
            )));
        }
        if name != url {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({url})"
            )));
        }
        if self.kind.namespaced && !namespace.is_empty() && namespace != of_url {
            return Err(Status::bad_request(format!(
                "the namespace of the object ({namespace}) does not match the namespace on the request ({of_url})"
            )));
        }
        Ok(())
    }

    /// The name under which the write is recorded in managed fields.
    pub fn manager(&self) -> String {
        if let Some(manager) = self.query.get("fieldManager") {
            return manager.to_owned();
        }
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let prefix: String =
            agent.split('/').next().unwrap_or("").chars().filter(|c| !c.is_control()).take(128).collect();
        if prefix.is_empty() { "unknown".to_owned() } else { prefix }
    }
}

/// `/registry/<prefix>/<namespace>/<name>`.
pub fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    let mut key = prefix(kind, namespace);
    key.push_str(name);
    key
}

/// The range of a kind's objects, in one namespace or, where it is empty, all.
pub fn prefix(kind: &Kind, namespace: &str) -> String {
    let mut key = String::with_capacity(96);
    key.push_str("/registry/");
    key.push_str(&kind.storage.prefix);
    key.push('/');
    if kind.namespaced && !namespace.is_empty() {
        key.push_str(namespace);
        key.push('/');
    }
    key
}

/// Stored bytes as a value.
pub fn parse(stored: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(stored).map_err(|error| Status::internal(format!("a stored object cannot be read: {error}")))
}

/// The `Status` for a store that did not do what it was asked.
pub fn store_error(error: store::Error) -> Status {
    use api::status::Reason;
    match error {
        store::Error::Compacted { requested, oldest } => {
            Status::expired(format!("too old resource version: {requested} ({oldest})"))
        }
        store::Error::Future { requested, current } => {
            let mut status = Status::new(
                Reason::Timeout,
                format!("Timeout: Too large resource version: {requested}, current: {current}"),
            );
            let details = status.details.get_or_insert_default();
            details.retry_after_seconds = 1;
            details.causes.push(api::status::Cause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                field: String::new(),
            });
            status
        }
        store::Error::Failed(_) => Status::internal(error),
        store::Error::Closed => Status::new(Reason::ServiceUnavailable, "the server is shutting down"),
        other => Status::internal(other),
    }
}
