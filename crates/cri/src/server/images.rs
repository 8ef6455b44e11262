//! The image service.

use std::sync::Arc;

use ::runtime::cri::ImageService;
use tonic::{Request, Response, Status};

use crate::convert::{Wire, status};
use crate::v1::{self, image_service_server};

pub struct Served(pub Arc<dyn ImageService>);

#[tonic::async_trait]
impl image_service_server::ImageService for Served {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let filter = Wire::from_wire(request.into_inner().filter);
        let images = self.0.list_images(&filter).await.map_err(status)?;
        Ok(Response::new(v1::ListImagesResponse { images: images.to_wire() }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let image = Wire::from_wire(request.into_inner().image);
        let image = self.0.image_status(&image).await.map_err(status)?;
        Ok(Response::new(v1::ImageStatusResponse { image: image.to_wire(), ..Default::default() }))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let request = request.into_inner();
        let sandbox: Option<::runtime::cri::PodSandboxConfig> = Wire::from_wire(request.sandbox_config);
        let pulled = self.0.pull_image(Wire::from_wire(request.image), Wire::from_wire(request.auth), sandbox.as_ref());
        Ok(Response::new(v1::PullImageResponse { image_ref: pulled.await.map_err(status)? }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        self.0.remove_image(&Wire::from_wire(request.into_inner().image)).await.map_err(status)?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        Ok(Response::new(self.0.image_fs_info().await.map_err(status)?.to_wire()))
    }
}
