//! ConfigMaps, Secrets and Services as pods refer to them.

use std::collections::BTreeSet;

use client::{Cache, Caches};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::pods::pod::Pod;

/// What kind of object a pod refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ConfigMap,
    Secret,
}

/// Reads what pods refer to, from the shared caches.
#[derive(Clone)]
pub struct Objects {
    client: kube::Client,
    pub config_maps: Cache<v1::ConfigMap>,
    pub secrets: Cache<v1::Secret>,
    services: Cache<v1::Service>,
    /// The caches live as long as this does.
    _caches: Caches,
}

impl Objects {
    pub fn new(client: kube::Client, caches: &Caches) -> Objects {
        Objects {
            client,
            config_maps: caches.get(),
            secrets: caches.get(),
            services: caches.get(),
            _caches: caches.clone(),
        }
    }

    /// `Ok(None)` if there is no such object.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<v1::ConfigMap>, String> {
        self.read(&self.config_maps, namespace, name).await
    }

    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<v1::Secret>, String> {
        self.read(&self.secrets, namespace, name).await
    }

    /// The services whose addresses a pod's environment holds: those of its namespace, if it wants them, and the API's.
    pub async fn services(&self, namespace: &str, links: bool) -> Vec<v1::Service> {
        self.services.synced().await;
        let mut found = Vec::new();
        if links {
            found.extend(self.services.list_ns(namespace).iter().filter_map(|item| item.parse().ok()));
        }
        if !links || namespace != "default" {
            found.extend(self.services.get("default", "kubernetes").and_then(|item| item.parse::<v1::Service>().ok()));
        }
        found
    }

    /// The cache may not have heard yet of an object made just before its pod; then the server is asked.
    async fn read<K>(&self, cache: &Cache<K>, namespace: &str, name: &str) -> Result<Option<K>, String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug,
    {
        if let Some(item) = cache.get(namespace, name) {
            return item.parse().map(Some).map_err(|error| error.to_string());
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.get_opt(name).await.map_err(|error| error.to_string())
    }
}

/// The ConfigMaps and Secrets by name that the pod's volumes show, so that a change of one refreshes them.
pub fn references(pod: &Pod) -> BTreeSet<(Kind, String)> {
    let mut found = BTreeSet::new();
    for volume in pod.spec().volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            found.insert((Kind::ConfigMap, source.name.clone()));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) {
            found.insert((Kind::Secret, name));
        }
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            found.extend(source.config_map.iter().map(|s| (Kind::ConfigMap, s.name.clone())));
            found.extend(source.secret.iter().map(|s| (Kind::Secret, s.name.clone())));
        }
    }
    for member in &pod.members {
        for source in member.spec.env_from.iter().flatten() {
            found.extend(source.config_map_ref.iter().map(|s| (Kind::ConfigMap, s.name.clone())));
            found.extend(source.secret_ref.iter().map(|s| (Kind::Secret, s.name.clone())));
        }
        for source in member.spec.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            found.extend(source.config_map_key_ref.iter().map(|s| (Kind::ConfigMap, s.name.clone())));
            found.extend(source.secret_key_ref.iter().map(|s| (Kind::Secret, s.name.clone())));
        }
    }
    found
}
