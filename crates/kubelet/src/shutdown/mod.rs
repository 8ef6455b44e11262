//! Graceful node shutdown: logind is made to wait, and pods are ended in the order of their priorities before the machine goes
//! down. See <https://kep.k8s.io/2000> and <https://kep.k8s.io/2712>.

mod bus;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::cri::{PodSandboxFilter, PodSandboxState};
use tokio::sync::{Notify, mpsc};

use crate::config::{Configuration, ShutdownByPriority};
use crate::context::Context;
use crate::eviction::Eviction;
use crate::labels;
use crate::pods::manager::Pods;
use crate::pods::memory::Failure;
use crate::pods::pod::{CRITICAL, Pod};
use bus::{Argument, Bus, Method, Reader};

const SOCKET: &str = "/run/dbus/system_bus_socket";
/// Where logind is told how long it is to wait.
const LOGIND: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// How often ended pods are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// Before logind is asked again where it did not answer.
const AGAIN: Duration = Duration::from_secs(5);

const MANAGER: Method = Method {
    destination: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
    member: "Inhibit",
};

/// The priorities from which pods have how long, the lowest first; none where the node just goes down.
fn periods(configuration: &Configuration) -> Vec<ShutdownByPriority> {
    let mut periods = configuration.shutdown_grace_period_by_pod_priority.clone();
    let seconds = |period: crate::config::Duration| i64::try_from(period.0.as_secs()).unwrap_or(i64::MAX);
    let (whole, critical) =
        (seconds(configuration.shutdown_grace_period), seconds(configuration.shutdown_grace_period_critical_pods));
    if periods.is_empty() && whole > 0 {
        periods = [(0, whole - critical), (CRITICAL, critical)]
            .map(|(priority, seconds)| ShutdownByPriority { priority, shutdown_grace_period_seconds: seconds })
            .into();
    }
    periods.sort_by_key(|period| period.priority);
    periods
}

/// The pods that are ended together, with the seconds that they have, the first ones first.
fn groups(periods: &[ShutdownByPriority], pods: Vec<Arc<Pod>>) -> Vec<(i64, Vec<Arc<Pod>>)> {
    let mut groups: Vec<_> = periods.iter().map(|p| (p.shutdown_grace_period_seconds, Vec::new())).collect();
    for pod in pods {
        let last = periods.iter().rposition(|period| period.priority <= pod.priority()).unwrap_or(0);
        groups[last].1.push(pod);
    }
    groups
}

enum News {
    /// The machine is about to go down; it waits as long as this is held.
    Begins(OwnedFd),
    /// It does not after all.
    Cancelled,
}

/// Waits for the node's shutdown, for ever.
pub async fn watch(context: Arc<Context>, pods: Pods, changed: Arc<Notify>) {
    let periods = periods(&context.configuration);
    if periods.is_empty() {
        return;
    }
    let whole: i64 = periods.iter().map(|period| period.shutdown_grace_period_seconds).sum();
    let (sender, mut news) = mpsc::unbounded_channel();
    let follow = move || {
        while !sender.is_closed() {
            if let Err(error) = listen(Path::new(SOCKET), u64::try_from(whole).unwrap_or(0), &sender) {
                tracing::warn!(%error, "logind does not say when the node shuts down");
            }
            std::thread::sleep(AGAIN);
        }
    };
    // It waits in system calls for as long as the process lives.
    if let Err(error) = std::thread::Builder::new().name("logind".into()).spawn(follow) {
        return tracing::warn!(%error, "the node's shutdown cannot be waited for");
    }
    while let Some(told) = news.recv().await {
        let begins = matches!(told, News::Begins(_));
        context.shutting_down.store(begins, Ordering::Relaxed);
        changed.notify_one();
        if let News::Begins(lock) = told {
            tracing::info!("the node shuts down; its pods are ended");
            end_all(&context, &pods, &periods).await;
            drop(lock);
        }
    }
}

/// Holds logind up and follows what it says, until the bus breaks.
fn listen(socket: &Path, seconds: u64, news: &mpsc::UnboundedSender<News>) -> io::Result<()> {
    let mut bus = Bus::connect(socket)?;
    bus.select("type='signal',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown'")?;
    wait_long_enough(&mut bus, seconds)?;
    let mut lock = Some(inhibit(&mut bus)?);
    loop {
        let signal = bus.signal()?;
        if signal.member != "PrepareForShutdown" {
            continue;
        }
        let begins = Reader { bytes: &signal.body, at: 0 }.number() == Some(1);
        let told = match (begins, lock.take()) {
            (true, Some(lock)) => News::Begins(lock),
            (true, None) => continue,
            (false, _) => {
                lock = Some(inhibit(&mut bus)?);
                News::Cancelled
            }
        };
        if news.send(told).is_err() {
            return Ok(());
        }
    }
}

fn inhibit(bus: &mut Bus) -> io::Result<OwnedFd> {
    let why = "Kubelet needs time to handle node shutdown";
    let mut answer = bus.call(MANAGER, &["shutdown", "kubelet", why, "delay"].map(Argument::Text))?;
    answer.fds.pop().ok_or_else(|| io::Error::other("logind gives no lock"))
}

/// Sees that logind waits for as long as pods have.
fn wait_long_enough(bus: &mut Bus, seconds: u64) -> io::Result<()> {
    let enough = |bus: &mut Bus| -> io::Result<bool> {
        let get = Method { interface: "org.freedesktop.DBus.Properties", member: "Get", ..MANAGER };
        let answer = bus.call(get, &[MANAGER.interface, "InhibitDelayMaxUSec"].map(Argument::Text))?;
        let most = Reader { bytes: &answer.body, at: 0 }.variant_long();
        Ok(most.unwrap_or(0) >= seconds.saturating_mul(1_000_000))
    };
    if enough(bus)? {
        return Ok(());
    }
    if let Some(directory) = Path::new(LOGIND).parent() {
        std::fs::create_dir_all(directory)?;
    }
    let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds}\n");
    std::fs::write(LOGIND, text)?;
    // It reads its settings anew on SIGHUP; that systemd can reload the unit, which it could do as well, is rather new.
    let kill = Method {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "KillUnit",
    };
    let unit = Argument::Text("systemd-logind.service");
    bus.call(kill, &[unit, Argument::Text("all"), Argument::Number(Signal::SIGHUP as i32)])?;
    let began = std::time::Instant::now();
    while !enough(bus)? {
        if began.elapsed() > AGAIN {
            return Err(io::Error::other(format!("logind does not wait for {seconds} seconds")));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

async fn end_all(context: &Context, pods: &Pods, periods: &[ShutdownByPriority]) {
    for (seconds, group) in groups(periods, pods.all()) {
        if group.is_empty() {
            continue;
        }
        for pod in &group {
            let eviction = Eviction {
                failure: Failure::new(REASON, MESSAGE),
                grace: seconds.min(pod.spec().termination_grace_period_seconds.unwrap_or(30)),
                disruption: Some(MESSAGE.to_owned()),
            };
            pods.evict(&pod.uid, eviction);
        }
        let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if tokio::time::timeout(limit, ended(context, &group)).await.is_err() {
            tracing::warn!(seconds, "pods have not ended in their time; the node goes down all the same");
        }
    }
}

/// Waits until none of the pods has anything that runs.
async fn ended(context: &Context, pods: &[Arc<Pod>]) {
    loop {
        let ready = PodSandboxFilter { state: Some(PodSandboxState::Ready), ..Default::default() };
        if let Ok(running) = context.runtime.list_pod_sandbox(&ready).await {
            let runs = |pod: &Arc<Pod>| running.iter().any(|s| s.labels.get(labels::POD_UID) == Some(&pod.uid));
            if !pods.iter().any(runs) {
                return;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_end_in_the_order_of_their_priorities() {
        let pod = |name: &str, priority: i32| {
            let object = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority}});
            Arc::new(Pod::new(serde_json::from_value(object).unwrap()))
        };
        let shown = |configuration: &str| {
            let text =
                format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{configuration}");
            let periods = periods(&Configuration::parse(&text).unwrap());
            let pods = vec![pod("low", -1), pod("plain", 0), pod("high", 1000), pod("critical", 2_000_001_000)];
            let shown = groups(&periods, if periods.is_empty() { Vec::new() } else { pods }).into_iter().map(
                |(seconds, group)| {
                    let names: Vec<_> = group.iter().map(|pod| pod.name.as_str()).collect();
                    format!("{seconds}:{}", names.join(","))
                },
            );
            shown.collect::<Vec<_>>().join(" ")
        };
        for (configuration, expected) in [
            ("", ""),
            ("shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s", "20:low,plain,high 10:critical"),
            (
                "shutdownGracePeriodByPodPriority: [{priority: 1000, shutdownGracePeriodSeconds: 5}, \
                 {priority: 0, shutdownGracePeriodSeconds: 7}, {priority: 5000, shutdownGracePeriodSeconds: 3}]",
                "7:low,plain 5:high 3:critical",
            ),
        ] {
            assert_eq!(shown(configuration), expected, "{configuration}");
        }
    }
}
