//! A runtime of this process, served over CRI v1 on a Unix socket, so that `crictl` and other kubelets can use it.

mod images;
mod runtime;
mod streams;

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use ::runtime::cri::{ImageService, RuntimeService};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tonic::codegen::Service;

use crate::v1::image_service_server::ImageServiceServer;
use crate::v1::runtime_service_server::RuntimeServiceServer;
use streams::Streams;

/// What a request may measure, as the client's answers.
const MESSAGE_MAX: usize = 16 << 20;

/// Serves until it is dropped. The socket is root's alone; one that a dead server left is replaced.
pub async fn serve(
    socket: &Path,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
) -> io::Result<Infallible> {
    let listener = listen(socket).await?;
    let streams = Streams::start(runtime.clone()).await?;
    let runtime =
        RuntimeServiceServer::new(runtime::Served { runtime, streams }).max_decoding_message_size(MESSAGE_MAX);
    let images = ImageServiceServer::new(images::Served(images)).max_decoding_message_size(MESSAGE_MAX);
    loop {
        let (stream, _) = listener.accept().await?;
        let (runtime, images) = (runtime.clone(), images.clone());
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (mut runtime, mut images) = (runtime.clone(), images.clone());
            async move {
                if request.uri().path().starts_with("/runtime.v1.ImageService/") {
                    images.call(request).await
                } else {
                    runtime.call(request).await
                }
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(async move {
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to the runtime's socket broke");
            }
        });
    }
}

async fn listen(socket: &Path) -> io::Result<UnixListener> {
    if std::fs::metadata(socket).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if tokio::net::UnixStream::connect(socket).await.is_ok() {
            let message = format!("{} is served by another process", socket.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
