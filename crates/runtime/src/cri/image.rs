//! Messages about images.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::FilesystemUsage;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// A reference or an image's id.
    pub image: String,
    pub annotations: BTreeMap<String, String>,
    /// What the user wrote, where `image` has been resolved already.
    pub user_specified_image: String,
    pub runtime_handler: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// The user that the image asks for, if it is a number.
    pub uid: Option<i64>,
    /// The user that the image asks for, if it is a name.
    pub username: String,
    pub spec: ImageSpec,
    /// Not to be removed by garbage collection.
    pub pinned: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFilter {
    pub image: Option<ImageSpec>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    pub username: String,
    pub password: String,
    /// Base64 of `username:password`.
    pub auth: String,
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFsInfoResponse {
    pub image_filesystems: Vec<FilesystemUsage>,
    pub container_filesystems: Vec<FilesystemUsage>,
}
