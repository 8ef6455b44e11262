//! The files that volumes of API objects show.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1;

use super::{Ownership, Volumes, trust};
use crate::fields::{self, Addresses};
use crate::pods::pod::Pod;
use crate::resources;

/// How soon what is not watched is looked at again.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(50);

/// A file's content, mode and, where it is not root, its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub user: Option<u32>,
}

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, File>;

/// What a pod's payloads are made from.
pub struct Makings<'a> {
    pub volumes: &'a Volumes,
    pub pod: &'a Pod,
    pub addresses: &'a Addresses,
    pub ownership: Ownership,
    pub volume: &'a str,
}

impl Makings<'_> {
    pub async fn config_map(
        &self,
        name: &str,
        items: Option<&[v1::KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        out: &mut Payload,
    ) -> Result<(), String> {
        let optional = optional.unwrap_or(false);
        let Some(map) = self.volumes.objects.config_map(&self.pod.namespace, name).await? else {
            return if optional { Ok(()) } else { Err(format!("configmap {name:?} not found")) };
        };
        let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
        select(text.chain(binary).collect(), items, optional, mode, "configmap references non-existent config key", out)
    }

    pub async fn secret(
        &self,
        name: &str,
        items: Option<&[v1::KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        out: &mut Payload,
    ) -> Result<(), String> {
        let optional = optional.unwrap_or(false);
        let Some(secret) = self.volumes.objects.secret(&self.pod.namespace, name).await? else {
            return if optional { Ok(()) } else { Err(format!("secret {name:?} not found")) };
        };
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect();
        select(data, items, optional, mode, "references non-existent secret key", out)
    }

    pub fn downward(
        &self,
        items: Option<&[v1::DownwardAPIVolumeFile]>,
        mode: i32,
        out: &mut Payload,
    ) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => fields::value(self.pod, self.addresses, &field.field_path)?,
                (None, Some(selector)) => {
                    let name = selector.container_name.as_deref().unwrap_or_default();
                    let of = self.pod.member(name).ok_or_else(|| format!("container {name} not found"))?;
                    resources::field(selector, of.spec.resources.as_ref(), &self.volumes.allocatable)?
                }
                (None, None) => String::new(),
            };
            let mode = item.mode.unwrap_or(mode) as u32;
            out.insert(item.path.clone(), File { data: text.into_bytes(), mode, user: None });
        }
        Ok(())
    }

    /// All sources of a projected volume; gives when its first token is to be renewed.
    pub async fn projected(
        &self,
        source: &v1::ProjectedVolumeSource,
        out: &mut Payload,
    ) -> Result<Option<Timestamp>, String> {
        let mode = source.default_mode.unwrap_or(0o644);
        let mut refresh_at: Option<Timestamp> = None;
        for source in source.sources.iter().flatten() {
            if let Some(s) = &source.config_map {
                self.config_map(&s.name, s.items.as_deref(), s.optional, mode, out).await?;
            } else if let Some(s) = &source.secret {
                self.secret(&s.name, s.items.as_deref(), s.optional, mode, out).await?;
            } else if let Some(s) = &source.downward_api {
                self.downward(s.items.as_deref(), mode, out)?;
            } else if let Some(s) = &source.service_account_token {
                let (token, at) = self.volumes.tokens.get(&self.volumes.client, self.pod, self.volume, s).await?;
                // Whoever runs the pod may read its token, and nobody else may where that can be told.
                let Ownership { fs_group, user, .. } = self.ownership;
                let mode = if fs_group.is_some() || user.is_some() { 0o600 } else { mode as u32 };
                out.insert(s.path.clone(), File { data: token.into_bytes(), mode, user });
                refresh_at = Some(refresh_at.map_or(at, |r| r.min(at)));
            } else if let Some(s) = &source.cluster_trust_bundle {
                let data = trust::bundle(&self.volumes.client, s).await?.into_bytes();
                out.insert(s.path.clone(), File { data, mode: mode as u32, user: None });
                let again = Timestamp::now() + LOOK_AGAIN;
                refresh_at = Some(refresh_at.map_or(again, |r| r.min(again)));
            } else {
                return Err("a projected source's type is not supported by this node".to_owned());
            }
        }
        Ok(refresh_at)
    }
}

/// All keys, or those that `items` names at their paths.
fn select(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[v1::KeyToPath]>,
    optional: bool,
    mode: i32,
    complaint: &str,
    out: &mut Payload,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        out.extend(data.into_iter().map(|(key, data)| (key, File { data, mode: mode as u32, user: None })));
        return Ok(());
    };
    let mut missing = Vec::new();
    for item in items {
        // A key may be shown at more than one path.
        let mode = item.mode.unwrap_or(mode) as u32;
        match data.get(&item.key) {
            Some(data) => {
                out.insert(item.path.clone(), File { data: data.clone(), mode, user: None });
            }
            None if optional => {}
            None => missing.push(item.key.as_str()),
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("{complaint}: {}", missing.join(", "))) }
}
