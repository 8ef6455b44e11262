//! Where exec, attach and port-forward are answered: an HTTP server on loopback. A URL is for one use, soon.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::runtime::cri::{
    AttachRequest, Code, ContainerState, CriError, ExecRequest, PodSandboxState, Result, RuntimeService,
};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kubelet::streaming::{self, Wanted};
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// How long a URL is good for, and how many may be open, as upstream's runtimes have it.
const LIFETIME: Duration = Duration::from_secs(60);
const OPEN_MAX: usize = 1000;

pub struct Streams {
    address: SocketAddr,
    runtime: Arc<dyn RuntimeService>,
    open: Mutex<HashMap<String, (Instant, Wanted)>>,
}

impl Streams {
    pub async fn start(runtime: Arc<dyn RuntimeService>) -> io::Result<Arc<Streams>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let streams = Arc::new(Streams { address: listener.local_addr()?, runtime, open: Mutex::default() });
        let served = Arc::downgrade(&streams);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(streams) = served.upgrade() else { return };
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let answer = streams.answer(request);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service).with_upgrades());
            }
        });
        Ok(streams)
    }

    fn answer(&self, request: http::Request<Incoming>) -> http::Response<streaming::Body> {
        let token = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let wanted = self.open.lock().remove(&token).filter(|(since, _)| since.elapsed() < LIFETIME);
        streaming::answer(self.runtime.clone(), wanted.map(|(_, wanted)| wanted), request)
    }

    fn url(&self, kind: &str, wanted: Wanted) -> Result<String> {
        let mut open = self.open.lock();
        open.retain(|_, (since, _)| since.elapsed() < LIFETIME);
        if open.len() >= OPEN_MAX {
            return Err(CriError::new(Code::ResourceExhausted, "maximum number of in-flight requests exceeded"));
        }
        let token = uuid::Uuid::new_v4().simple().to_string();
        open.insert(token.clone(), (Instant::now(), wanted));
        Ok(format!("http://{}/{kind}/{token}", self.address))
    }

    async fn running(&self, id: &str) -> Result<()> {
        if self.runtime.container_status(id).await?.state == ContainerState::Running {
            return Ok(());
        }
        Err(CriError::precondition(format!("container {id:?} is not running")))
    }

    pub async fn exec(&self, request: ExecRequest) -> Result<String> {
        self.running(&request.container_id).await?;
        self.url("exec", Wanted::Exec(request))
    }

    pub async fn attach(&self, request: AttachRequest) -> Result<String> {
        self.running(&request.container_id).await?;
        self.url("attach", Wanted::Attach(request))
    }

    pub async fn port_forward(&self, sandbox: String, ports: Vec<u16>) -> Result<String> {
        if self.runtime.pod_sandbox_status(&sandbox).await?.state != PodSandboxState::Ready {
            return Err(CriError::precondition(format!("sandbox {sandbox:?} is not running")));
        }
        self.url("portforward", Wanted::PortForward { sandbox, ports })
    }
}
