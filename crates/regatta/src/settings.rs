//! What a start was asked for, what the first start fixed, and whether the two agree.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::cli::Up;
use crate::data::{DataDir, Settings};

const CLUSTER_CIDR: &str = "10.42.0.0/16";
const SERVICE_CIDR: &str = "10.43.0.0/16";
const HTTPS_PORT: u16 = 6443;
const CNI_BIN_DIR: &str = "/opt/cni/bin";
const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// A node's name is also the value of its label `kubernetes.io/hostname`.
const LONGEST_NAME: usize = 63;
/// The share of the cluster's range that one node hands out.
const NODE_PREFIX: u8 = 24;

/// Everything that is decided before anything is made.
pub struct Plan {
    pub settings: Settings,
    pub cluster_cidr: IpNet,
    pub service_cidr: IpNet,
    /// This node's share of the cluster's range.
    pub pod_cidr: IpNet,
    pub bind: SocketAddr,
    pub node_address: IpAddr,
    /// Begins the name of every interface that the cluster makes.
    pub interface_prefix: String,
    pub scheduler: scheduler::Options,
}

/// Settles the options of this start with what the first start fixed.
pub fn settle(options: &Up, data: &DataDir, previous: Option<&Settings>) -> Result<Plan> {
    let fixed = |name: &str, asked: Option<String>, before: Option<&String>, default: &str| match (asked, before) {
        (Some(asked), Some(before)) if asked != *before => bail!(
            "the cluster of {} was made with --{name} {before}; it cannot become {asked}. Leave the option out, or make \
             a new cluster in another --data-dir",
            data.path.display()
        ),
        (asked, before) => Ok(asked.or_else(|| before.cloned()).unwrap_or_else(|| default.to_owned())),
    };
    let text = |net: Option<IpNet>| net.map(|n| n.trunc().to_string());
    let node_default = crate::address::node_name()?;
    // Where nothing is asked for, what the last start was told holds.
    let last = |asked: &Option<PathBuf>, before: fn(&Settings) -> &PathBuf, default: &str| {
        let before = previous.map(before).filter(|path| !path.as_os_str().is_empty());
        absolute(asked.clone().or_else(|| before.cloned()).unwrap_or_else(|| default.into()))
    };
    let bind_address = options
        .bind_address
        .or_else(|| previous.and_then(|p| p.bind_address))
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let https_port =
        options.https_port.or_else(|| previous.map(|p| p.https_port).filter(|p| *p != 0)).unwrap_or(HTTPS_PORT);
    let settings = Settings {
        cluster_cidr: fixed(
            "cluster-cidr",
            text(options.cluster_cidr),
            previous.map(|p| &p.cluster_cidr),
            CLUSTER_CIDR,
        )?,
        service_cidr: fixed(
            "service-cidr",
            text(options.service_cidr),
            previous.map(|p| &p.service_cidr),
            SERVICE_CIDR,
        )?,
        node_name: fixed("node-name", options.node_name.clone(), previous.map(|p| &p.node_name), &node_default)?,
        kubeconfig: last(&options.kubeconfig, |p| &p.kubeconfig, &data.join("kubeconfig.yaml").to_string_lossy())?,
        context: previous.map(|p| p.context.clone()).unwrap_or_default(),
        kubeconfigs: previous.map(|p| p.kubeconfigs.clone()).unwrap_or_default(),
        https_port,
        bind_address: Some(bind_address),
        registries: options
            .registries
            .clone()
            .map(absolute)
            .transpose()?
            .or_else(|| previous.and_then(|p| p.registries.clone())),
        server: String::new(),
        // A pod's containers are in one runtime's hands for good.
        container_runtime_endpoint: fixed(
            "container-runtime-endpoint",
            options.container_runtime_endpoint.clone(),
            previous.map(|p| &p.container_runtime_endpoint),
            "",
        )?,
        cni: options.cni || previous.is_some_and(|p| p.cni),
        cni_bin_dir: last(&options.cni_bin_dir, |p| &p.cni_bin_dir, CNI_BIN_DIR)?,
        cni_conf_dir: last(&options.cni_conf_dir, |p| &p.cni_conf_dir, CNI_CONF_DIR)?,
    };
    if settings.cni && !settings.container_runtime_endpoint.is_empty() {
        bail!(
            "--cni is for the built-in runtime; the one at {} asks its own plugins",
            settings.container_runtime_endpoint
        );
    }
    check_node_name(&settings.node_name)?;
    let cluster_cidr: IpNet = settings.cluster_cidr.parse().context("--cluster-cidr")?;
    let service_cidr: IpNet = settings.service_cidr.parse().context("--service-cidr")?;
    check_ranges(cluster_cidr, service_cidr)?;
    check_bind(bind_address)?;
    let pod_cidr = cluster_cidr
        .subnets(NODE_PREFIX.max(cluster_cidr.prefix_len()))
        .ok()
        .and_then(|mut nets| nets.next())
        .context("--cluster-cidr has no room for a node")?;
    let interface_prefix = format!("rg{}", &data.id[..6]);
    let fallback = match pod_cidr.hosts().next() {
        Some(IpAddr::V4(gateway)) => gateway,
        _ => Ipv4Addr::LOCALHOST,
    };
    let node_address = crate::address::of_node(bind_address, &interface_prefix, fallback)?;
    let shown = if bind_address.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { bind_address };
    let server = format!("https://{}", SocketAddr::new(shown, https_port));
    let scheduler = options.scheduler_config.as_deref().map(scheduler::Options::load).transpose();
    Ok(Plan {
        scheduler: scheduler.context("the scheduler's configuration cannot be used")?.unwrap_or_default(),
        settings: Settings { server, ..settings },
        cluster_cidr,
        service_cidr,
        pod_cidr,
        bind: SocketAddr::new(bind_address, https_port),
        node_address,
        interface_prefix,
    })
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).with_context(|| format!("cannot use {}", path.display()))
}

fn check_node_name(name: &str) -> Result<()> {
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.len() > LONGEST_NAME {
        bail!(
            "the node name {name:?} has {} characters, the most are {LONGEST_NAME}; choose another with --node-name",
            name.len()
        );
    }
    if !name.split('.').all(label) {
        bail!("--node-name {name:?} is not a lowercase RFC 1123 subdomain (letters, digits, '-' and '.')");
    }
    Ok(())
}

/// The pods' and services' ranges are IPv4, so the API must be reachable there too.
fn check_bind(address: IpAddr) -> Result<()> {
    if address.is_ipv6() && !address.is_unspecified() {
        bail!(
            "--bind-address {address} is IPv6, but the ranges of pods and services are IPv4; give an IPv4 address, or ::"
        );
    }
    Ok(())
}

fn check_ranges(cluster: IpNet, service: IpNet) -> Result<()> {
    if !matches!((cluster, service), (IpNet::V4(_), IpNet::V4(_))) {
        bail!("--cluster-cidr and --service-cidr must be IPv4 ranges");
    }
    if cluster.contains(&service) || service.contains(&cluster) {
        bail!("--cluster-cidr {cluster} and --service-cidr {service} overlap; give them separate ranges");
    }
    if cluster.prefix_len() > 28 {
        bail!("--cluster-cidr {cluster} is too small; a node needs at least a /28");
    }
    if !(12..=28).contains(&service.prefix_len()) {
        bail!("--service-cidr {service} must be between a /12 and a /28");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(args: &[&str], previous: Option<&Settings>) -> Result<Plan> {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            up: Up,
        }
        let bound = previous.is_some() || args.contains(&"--bind-address");
        let local: &[&str] = if bound { &[] } else { &["--bind-address", "127.0.0.1"] };
        let line = Line::try_parse_from(["up"].iter().chain(local).chain(args))?;
        settle(&line.up, &DataDir::at(std::path::Path::new("/nowhere/data"))?, previous)
    }

    #[test]
    fn what_the_first_start_fixed_holds_and_cannot_be_changed() {
        let first = plan(&["--cluster-cidr", "10.9.0.0/16", "--node-name", "a"], None).expect("plan");
        assert_eq!(first.pod_cidr.to_string(), "10.9.0.0/24");
        let again = plan(&[], Some(&first.settings)).expect("plan");
        assert_eq!(again.settings, first.settings);
        let elsewhere = plan(&["--kubeconfig", "/nowhere/config"], Some(&first.settings)).expect("plan");
        let kept = plan(&[], Some(&elsewhere.settings)).expect("plan");
        assert_eq!(kept.settings.kubeconfig.to_str(), Some("/nowhere/config"));
        assert_eq!(kept.settings.kubeconfigs, elsewhere.settings.kubeconfigs);
        let error = plan(&["--cluster-cidr", "10.8.0.0/16"], Some(&first.settings)).err().expect("refused");
        assert!(error.to_string().contains("was made with --cluster-cidr 10.9.0.0/16"), "{error}");
    }

    #[test]
    fn a_bare_start_takes_what_the_last_one_was_told() {
        let told = [
            "--https-port",
            "7443",
            "--registries",
            "/nowhere/registries.yaml",
            "--cni",
            "--cni-bin-dir",
            "/nowhere/bin",
        ];
        let first = plan(&told, None).expect("plan");
        let bare = plan(&[], Some(&first.settings)).expect("plan");
        assert_eq!(bare.settings, first.settings);
        assert_eq!(bare.bind, "127.0.0.1:7443".parse().expect("address"));
        let other = plan(&["--https-port", "8443"], Some(&first.settings)).expect("plan");
        assert_eq!(other.bind.port(), 8443);
        assert!(plan(&["--https-port", "0"], None).is_err());
        // What an earlier version wrote says nothing about the address.
        let old = Settings { bind_address: None, https_port: 0, ..first.settings };
        assert_eq!(plan(&[], Some(&old)).expect("plan").bind, "0.0.0.0:6443".parse().expect("address"));
    }

    #[test]
    fn bad_ranges_and_names_are_refused_with_their_option() {
        for (args, part) in [
            (vec!["--cluster-cidr", "10.0.0.0/8", "--service-cidr", "10.1.0.0/16"], "overlap"),
            (vec!["--cluster-cidr", "10.1.0.0/30"], "too small"),
            (vec!["--service-cidr", "10.1.0.0/30"], "between"),
            (vec!["--cluster-cidr", "fd00::/64"], "IPv4"),
            (vec!["--node-name", "A"], "RFC 1123"),
            (vec!["--node-name", &"a".repeat(64)], "63"),
            (vec!["--node-name", &format!("{0}.{0}", "a".repeat(40))], "63"),
            (vec!["--bind-address", "fd00::1"], "IPv4"),
        ] {
            let error = plan(&args, None).err().expect("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
