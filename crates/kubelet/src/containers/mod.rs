//! From a container of the spec to what the runtime is asked for.

pub mod env;
pub mod expansion;
mod last_words;
mod mounts;
pub mod observe;
pub mod security;

use k8s_openapi::api::core::v1;
use runtime::cri::{CDIDevice, ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig};

use crate::context::Context;
use crate::fields::Addresses;
use crate::pods::memory::Present;
use crate::pods::pod::{Member, Pod};
use crate::volumes::Prepared;
use crate::{labels, resources};

/// Changes when a running container must be replaced: with its name or its image, as upstream.
pub fn hash(container: &v1::Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let bytes = container.name.bytes().chain([0]).chain(image.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:x}")
}

/// Everything that one container is made from.
pub struct Makings<'a> {
    pub context: &'a Context,
    pub pod: &'a Pod,
    pub member: &'a Member,
    pub attempt: u32,
    pub addresses: &'a Addresses,
    pub volumes: &'a Prepared,
    pub image: &'a Present,
    /// The container whose processes an ephemeral one joins.
    pub target: Option<&'a str>,
}

impl Makings<'_> {
    /// The container's configuration, its directories and files made. The error is `CreateContainerConfigError`'s message.
    pub async fn config(&self) -> Result<ContainerConfig, String> {
        let (context, pod, spec) = (self.context, self.pod, &self.member.spec);
        let allocatable = &context.volumes.allocatable;
        let volumes = self.volumes;
        let sources = env::Sources { pod, addresses: self.addresses, allocatable, objects: &context.objects, volumes };
        let envs = env::resolve(spec, &sources).await?;
        let lookup = |name: &str| envs.get(name);
        let expanded = |list: &Option<Vec<String>>| {
            list.iter().flatten().map(|text| expansion::expand(text, lookup)).collect::<Vec<_>>()
        };
        let users = context.users.of(pod)?;
        let security_context = security::container(pod, spec, self.image, &context.seccomp(), self.target, users)?;
        let mut mounts = mounts::resolve(self, &envs)?;
        let granted = context.devices.allocate(pod, self.member).await?;
        let (mut devices, mut annotations) =
            (mounts::devices(self)?, labels::annotations(pod, self.member, self.attempt));
        let (command, args) = (expanded(&spec.command), expanded(&spec.args));
        let mut envs = envs.into_vec();
        let mut cdi_devices = context.claims.devices(pod, self.member)?;
        for needs in granted {
            cdi_devices.extend(needs.cdi.iter().cloned());
            mounts::grant(needs, &mut mounts, &mut devices, &mut envs, &mut annotations);
        }
        let mut resources = resources::container(pod, self.member, spec.resources.as_ref(), &context.rules);
        (resources.cpuset_cpus, resources.cpuset_mems) = context.placement.of(&pod.uid, &spec.name);
        let log_path = format!("{}/{}.log", spec.name, self.attempt);
        let logs = context.log_dir(pod).join(&spec.name);
        std::fs::create_dir_all(&logs).map_err(|e| format!("create log directory {}: {e}", logs.display()))?;
        Ok(ContainerConfig {
            metadata: ContainerMetadata { name: spec.name.clone(), attempt: self.attempt },
            image: ImageSpec {
                image: self.image.id.clone(),
                user_specified_image: spec.image.clone().unwrap_or_default(),
                ..Default::default()
            },
            command,
            args,
            working_dir: spec.working_dir.clone().unwrap_or_default(),
            mounts,
            devices,
            cdi_devices: cdi_devices.into_iter().map(|name| CDIDevice { name }).collect(),
            labels: labels::container(pod, self.member),
            annotations,
            log_path,
            stdin: spec.stdin.unwrap_or(false),
            stdin_once: spec.stdin_once.unwrap_or(false),
            tty: spec.tty.unwrap_or(false),
            linux: LinuxContainerConfig { resources, security_context },
            stop_signal: spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()).unwrap_or_default(),
            envs,
        })
    }
}
