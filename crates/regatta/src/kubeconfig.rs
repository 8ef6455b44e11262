//! The file with which clients reach the cluster.

use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::pki::{Pki, write};

/// Writes a kubeconfig for the cluster's administrator. Only its owner can read it.
pub fn write_admin(path: &Path, server: &str, pki: &Pki) -> Result<()> {
    let encode = |pem: &str| STANDARD.encode(pem);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "regatta", "cluster": {
            "server": server,
            "certificate-authority-data": encode(&pki.authority.certificate),
        }}],
        "users": [{"name": "regatta-admin", "user": {
            "client-certificate-data": encode(&pki.admin.certificate),
            "client-key-data": encode(&pki.admin.key),
        }}],
        "contexts": [{"name": "regatta", "context": {"cluster": "regatta", "user": "regatta-admin"}}],
        "current-context": "regatta",
        "preferences": {},
    });
    // JSON is YAML.
    write(path, &serde_json::to_string_pretty(&config)?, 0o600)
}
