//! The port on which somebody of the same machine asks whether the kubelet lives.

use std::convert::Infallible;
use std::net::SocketAddr;

use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::https::BREATHE;
use super::text;

pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let refused = |error| std::io::Error::other(format!("healthzPort: cannot listen on {address}: {error}"));
    TcpListener::bind(address).await.map_err(refused)
}

/// Answers `ok` to `/healthz`, for ever.
pub async fn serve(listener: TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the port of the kubelet's health cannot take a connection");
                tokio::time::sleep(BREATHE).await;
                continue;
            }
        };
        tokio::spawn(async move {
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let known = matches!(request.uri().path(), "/healthz" | "/healthz/ping" | "/livez" | "/readyz");
                let (status, words) = if known { (StatusCode::OK, "ok") } else { (StatusCode::NOT_FOUND, "not found") };
                Ok::<_, Infallible>(text(status, words.to_owned()))
            });
            // Whoever leaves early has heard enough.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
