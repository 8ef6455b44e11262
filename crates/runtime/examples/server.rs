//! What the tests execute: the shim, and a server that can be killed.
//!
//! `server shim run` is a shim. `server hold ROOT RUN ID` opens a runtime, starts a sandbox with one container that counts,
//! prints both ids, and waits to be killed. `server images ROOT ARCHIVE...` imports and removes images, with a line for
//! each, until it is killed.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use runtime::cri::{
    ContainerConfig, ContainerMetadata, ImageSpec, PodSandboxConfig, PodSandboxMetadata, RuntimeService,
};
use runtime::images::{Images, Registries};
use runtime::sandbox::NoNetwork;
use runtime::{Config, Runtime};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "shim") {
        return runtime::shim::main(args.into_iter().skip(1));
    }
    let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
    if let Some(("images", [root, archives @ ..])) =
        args.split_first().and_then(|(first, rest)| Some((first.to_str()?, rest)))
    {
        tokio.block_on(churn(root.as_ref(), archives));
    }
    let [_, root, run, id] = &args[..] else { return ExitCode::from(2) };
    tokio.block_on(hold(root.as_ref(), run.as_ref(), &id.to_string_lossy()));
    ExitCode::SUCCESS
}

async fn hold(root: &Path, run: &Path, id: &str) {
    let images = Images::open(root.join("images"), Registries::default()).expect("images");
    let runtime = Runtime::open(Config::new(root, run, id, images, Arc::new(NoNetwork))).await.expect("runtime");
    let config = PodSandboxConfig {
        metadata: PodSandboxMetadata { name: "held".into(), uid: "held".into(), ..PodSandboxMetadata::default() },
        log_directory: root.join("logs").display().to_string(),
        ..PodSandboxConfig::default()
    };
    let sandbox = runtime.run_pod_sandbox(config.clone(), "").await.expect("sandbox");
    let script = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done";
    let container = ContainerConfig {
        metadata: ContainerMetadata { name: "count".into(), attempt: 0 },
        image: ImageSpec { image: "busybox".into(), ..ImageSpec::default() },
        command: ["sh", "-c", script].map(String::from).to_vec(),
        log_path: "count.log".into(),
        ..ContainerConfig::default()
    };
    let container = runtime.create_container(&sandbox, container, &config).await.expect("container");
    runtime.start_container(&container).await.expect("start");
    println!("{sandbox} {container}");
    std::future::pending::<()>().await;
}

async fn churn(root: &Path, archives: &[std::ffi::OsString]) {
    let images = Images::open(root, Registries::default()).expect("images");
    loop {
        for archive in archives {
            images.import(Path::new(archive)).await.expect("imports");
            println!("imported");
        }
        for image in images.list() {
            images.hold(&image.id, "user").expect("holds");
            images.remove(&image.id).expect("removes");
            images.release(&image.id, "user");
            images.retain_users(&std::collections::HashSet::new()).expect("forgets");
            println!("removed");
        }
    }
}
