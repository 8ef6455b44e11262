//! The image service of a remote runtime.

use ::runtime::cri::{
    AuthConfig, Image, ImageFilter, ImageFsInfoResponse, ImageService, ImageSpec, PodSandboxConfig, Result,
};
use async_trait::async_trait;

use super::{REQUEST_TIMEOUT, Remote};
use crate::convert::{Wire, error};
use crate::v1;

fn bounded<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(REQUEST_TIMEOUT);
    request
}

#[async_trait]
impl ImageService for Remote {
    async fn list_images(&self, filter: &ImageFilter) -> Result<Vec<Image>> {
        let request = v1::ListImagesRequest { filter: filter.clone().to_wire() };
        let response = self.images.clone().list_images(bounded(request)).await.map_err(error)?;
        Ok(Wire::from_wire(response.into_inner().images))
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        let request = v1::ImageStatusRequest { image: image.clone().to_wire(), verbose: false };
        let response = self.images.clone().image_status(bounded(request)).await.map_err(error)?;
        Ok(Wire::from_wire(response.into_inner().image))
    }

    /// Takes as long as the registry does.
    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        sandbox_config: Option<&PodSandboxConfig>,
    ) -> Result<String> {
        let request = v1::PullImageRequest {
            image: image.to_wire(),
            auth: auth.to_wire(),
            sandbox_config: sandbox_config.cloned().to_wire(),
        };
        let response = self.images.clone().pull_image(request).await.map_err(error)?;
        Ok(response.into_inner().image_ref)
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<()> {
        let request = v1::RemoveImageRequest { image: image.clone().to_wire() };
        self.images.clone().remove_image(bounded(request)).await.map_err(error).map(drop)
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        let response = self.images.clone().image_fs_info(bounded(v1::ImageFsInfoRequest {})).await.map_err(error)?;
        Ok(Wire::from_wire(response.into_inner()))
    }
}
