//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

pub const DATA_DIR: &str = "/var/lib/regatta";
/// This program's version and that of the API it serves.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes v1.36.0)");

/// Kubernetes, whole, in one binary
#[derive(Parser)]
#[command(name = "regatta", version = VERSION)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start the cluster: server and node in one process. Ctrl-C stops it and leaves the pods running
    Up(Box<Up>),
    /// Stop the cluster's process; with --purge also every pod, and remove all that the cluster made
    Down(Down),
    /// Say whether the cluster runs and is ready
    Status(Place),
    /// Print the version
    Version,
    /// Work with the node's images
    Image {
        #[command(flatten)]
        place: Place,
        #[command(subcommand)]
        command: Image,
    },
    /// Serve the built-in container runtime over CRI v1, without a cluster
    Cri(crate::cri_server::Cri),
    /// A small application to try a cluster with
    Sample {
        #[command(subcommand)]
        command: crate::sample::Command,
    },
}

#[derive(Args, Clone, Debug)]
pub struct Up {
    /// Directory that keeps everything of the cluster
    #[arg(long, default_value = DATA_DIR)]
    pub data_dir: PathBuf,
    /// File to write the administrator's kubeconfig to; one that is there keeps its other contexts [default: kubeconfig.yaml in
    /// the data directory, or as at the last start]
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Address to serve the API on [default: 0.0.0.0, or as at the last start]
    #[arg(long)]
    pub bind_address: Option<IpAddr>,
    /// Port to serve the API on [default: 6443, or as at the last start]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub https_port: Option<u16>,
    /// Range of the pods' addresses [default: 10.42.0.0/16, or as at the first start]
    #[arg(long)]
    pub cluster_cidr: Option<IpNet>,
    /// Range of the services' addresses [default: 10.43.0.0/16, or as at the first start]
    #[arg(long)]
    pub service_cidr: Option<IpNet>,
    /// The node's name [default: the machine's name, or as at the first start]
    #[arg(long)]
    pub node_name: Option<String>,
    /// Registries' mirrors, credentials and TLS settings, in the form of k3s's registries.yaml [default: as at the last start;
    /// /dev/null for none]
    #[arg(long)]
    pub registries: Option<PathBuf>,
    /// Folder of static pods' manifests [default: manifests in the data directory]
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Socket of another container runtime to use, as unix:///run/containerd/containerd.sock [default: the built-in one]
    #[arg(long, value_name = "URL")]
    pub container_runtime_endpoint: Option<String>,
    /// Attach pods by the CNI plugins that are configured in --cni-conf-dir, in place of the built-in network [default: as at
    /// the last start]
    #[arg(long, conflicts_with = "container_runtime_endpoint")]
    pub cni: bool,
    /// Where the plugins of the pod network are [default: /opt/cni/bin, or as at the last start]
    #[arg(long)]
    pub cni_bin_dir: Option<PathBuf>,
    /// Where the configurations of the pod network are [default: /etc/cni/net.d, or as at the last start]
    #[arg(long)]
    pub cni_conf_dir: Option<PathBuf>,
    /// The kubelet's configuration: a KubeletConfiguration of kubelet.config.k8s.io/v1beta1
    #[arg(long, value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    /// Directory of *.conf files laid over it in the order of their names
    #[arg(long, value_name = "DIR")]
    pub kubelet_config_dir: Option<PathBuf>,
    /// The scheduler's configuration: a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// Programs that know credentials for registries: a CredentialProviderConfig of kubelet.config.k8s.io/v1
    #[arg(long, value_name = "FILE", requires = "image_credential_provider_bin_dir")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// Where those programs are
    #[arg(long, value_name = "DIR")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Run in the background; returns when the cluster is ready
    #[arg(long)]
    pub detach: bool,
    /// The process in the background, which tells the one before it how its start ends
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub detached: bool,
}

#[derive(Args)]
pub struct Down {
    #[command(flatten)]
    pub place: Place,
    /// Remove every container, mount, namespace, interface, rule and file of the cluster
    #[arg(long)]
    pub purge: bool,
}

#[derive(Args)]
pub struct Place {
    /// The cluster's data directory
    #[arg(long, default_value = DATA_DIR, global = true)]
    pub data_dir: PathBuf,
}

#[derive(Subcommand)]
pub enum Image {
    /// Import images from archives: docker save or OCI image layout, plain, gzip or zstd
    Import {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Pull an image from its registry
    Pull {
        #[arg(value_name = "REF")]
        reference: String,
        /// Registries file [default: the one that the cluster was started with]
        #[arg(long)]
        registries: Option<PathBuf>,
    },
    /// List the images
    List,
    /// Remove an image's name; the image goes with its last one
    Remove {
        #[arg(value_name = "REF")]
        reference: String,
    },
}
