//! The image service of the Container Runtime Interface over [`Images`].

use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use super::{Credentials, Image, ImageError, Images};
use crate::cri::{
    self, AuthConfig, CriError, FilesystemUsage, ImageFilter, ImageFsInfoResponse, ImageService, ImageSpec,
    PodSandboxConfig,
};

impl From<ImageError> for CriError {
    fn from(error: ImageError) -> CriError {
        let message = error.to_string();
        match error {
            ImageError::Name { .. } => CriError::invalid(message),
            ImageError::NotFound(_) => CriError::not_found(message),
            // The client says which image.
            ImageError::Pull { message, .. } => CriError::new(cri::Code::Unavailable, message),
            ImageError::Broken { .. } | ImageError::Archive { .. } | ImageError::Io { .. } => {
                CriError::internal(message)
            }
        }
    }
}

#[async_trait]
impl ImageService for Images {
    async fn list_images(&self, filter: &ImageFilter) -> cri::Result<Vec<cri::Image>> {
        Ok(match filter.image.as_ref().filter(|spec| !spec.image.is_empty()) {
            Some(spec) => self.resolve(&spec.image).iter().map(|i| message(i)).collect(),
            None => self.list().iter().map(|i| message(i)).collect(),
        })
    }

    async fn image_status(&self, image: &ImageSpec) -> cri::Result<Option<cri::Image>> {
        Ok(self.resolve(&image.image).map(|i| message(&i)))
    }

    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        _sandbox_config: Option<&PodSandboxConfig>,
    ) -> cri::Result<String> {
        let auth = auth.map(|auth| Credentials {
            username: auth.username,
            password: auth.password,
            auth: auth.auth,
            token: auth.registry_token,
            identity_token: auth.identity_token,
        });
        Ok(self.pull(&image.image, auth, &|_| {}).await?.id.clone())
    }

    async fn remove_image(&self, image: &ImageSpec) -> cri::Result<()> {
        self.remove(&image.image)?;
        Ok(())
    }

    async fn image_fs_info(&self) -> cri::Result<ImageFsInfoResponse> {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        let usage = FilesystemUsage {
            timestamp,
            mountpoint: self.root().display().to_string(),
            used_bytes: Some(self.used_bytes()),
            inodes_used: None,
        };
        Ok(ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems: Vec::new() })
    }
}

fn message(image: &Image) -> cri::Image {
    let user = image.config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok();
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid,
        ..cri::Image::default()
    }
}
