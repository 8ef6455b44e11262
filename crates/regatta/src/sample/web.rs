//! The sample's web server: each visit is counted in the database, which is found by its Service's name.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("web server listening on {listen}");
    let accept = async {
        loop {
            let (stream, peer) = listener.accept().await?;
            tokio::spawn(async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                if let Err(error) = served.await {
                    eprintln!("{peer}: {error}");
                }
            });
        }
    };
    tokio::select! {
        result = accept => result,
        result = super::stopped() => result,
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/" => match tokio::time::timeout(DATABASE_TIMEOUT, count()).await {
            Ok(Ok(visits)) => (StatusCode::OK, page(visits)),
            Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("the database cannot be reached: {error:#}\n")),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n".to_owned()),
        },
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    println!("{} {} {}", request.method(), request.uri(), status.as_u16());
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}

fn page(visits: u64) -> String {
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    format!(
        "{}\nversion: {}\npod: {}\nvisits: {visits}\n",
        variable("GREETING", "Hello"),
        variable("VERSION", "unknown"),
        variable("HOSTNAME", "unknown"),
    )
}

/// Asks the database for the next count.
async fn count() -> Result<u64> {
    let database = std::env::var("DATABASE").unwrap_or_else(|_| "database:5432".to_owned());
    let (host, port) = database.rsplit_once(':').with_context(|| format!("DATABASE is {database:?}, not HOST:PORT"))?;
    let port: u16 = port.parse().with_context(|| format!("DATABASE is {database:?}, not HOST:PORT"))?;
    let resolver = TokioResolver::builder_tokio()?.build()?;
    let addresses = resolver.lookup_ip(host).await.with_context(|| format!("cannot resolve {host}"))?;
    let Some(address) = addresses.iter().next() else { bail!("{host} has no address") };
    let stream =
        TcpStream::connect((address, port)).await.with_context(|| format!("cannot connect to {address}:{port}"))?;
    let mut stream = BufReader::new(stream);
    let password = std::env::var("DATABASE_PASSWORD").unwrap_or_default();
    if !password.is_empty() {
        let answer = ask(&mut stream, &format!("AUTH {password}")).await?;
        if answer != "OK" {
            bail!("{answer}");
        }
    }
    let answer = ask(&mut stream, "INCR visits").await?;
    answer.parse().with_context(|| format!("the database answered {answer:?}"))
}

async fn ask(stream: &mut BufReader<TcpStream>, command: &str) -> Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    Ok(answer.trim().to_owned())
}
