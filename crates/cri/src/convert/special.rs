//! Messages whose shape differs: the wire nests by operating system, and wraps what may be absent.

use runtime::cri;

use super::Wire;
use crate::v1;

/// Both directions of one message; an absent one is the default.
macro_rules! special {
    ($own:ident = $wire:ident: |$this:ident| $to:expr, |$that:ident| $from:expr) => {
        impl Wire<v1::$wire> for cri::$own {
            fn to_wire(self) -> v1::$wire {
                let $this = self;
                $to
            }

            fn from_wire(wire: v1::$wire) -> cri::$own {
                let $that = wire;
                $from
            }
        }

        impl Wire<Option<v1::$wire>> for cri::$own {
            fn to_wire(self) -> Option<v1::$wire> {
                Some(Wire::<v1::$wire>::to_wire(self))
            }

            fn from_wire(wire: Option<v1::$wire>) -> cri::$own {
                wire.map(Wire::from_wire).unwrap_or_default()
            }
        }
    };
}

/// In filters an empty text stands for none.
fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// `SIGRTMIN+3` is `SIGRTMINPLUS3` on the wire. What it has no word for is left to the runtime.
fn signal_to_wire(name: &str) -> i32 {
    let name = name.replace('+', "PLUS").replace('-', "MINUS");
    v1::Signal::from_str_name(&name).unwrap_or_default() as i32
}

fn signal_from_wire(number: i32) -> String {
    match v1::Signal::try_from(number) {
        Ok(v1::Signal::RuntimeDefault) | Err(_) => String::new(),
        Ok(signal) => signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-"),
    }
}

special!(ContainerConfig = ContainerConfig:
    |own| v1::ContainerConfig {
        metadata: own.metadata.to_wire(),
        image: own.image.to_wire(),
        command: own.command,
        args: own.args,
        working_dir: own.working_dir,
        envs: own.envs.to_wire(),
        mounts: own.mounts.to_wire(),
        devices: own.devices.to_wire(),
        labels: own.labels,
        annotations: own.annotations,
        log_path: own.log_path,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        tty: own.tty,
        linux: own.linux.to_wire(),
        cdi_devices: own.cdi_devices.to_wire(),
        stop_signal: signal_to_wire(&own.stop_signal),
    },
    |wire| cri::ContainerConfig {
        metadata: Wire::from_wire(wire.metadata),
        image: Wire::from_wire(wire.image),
        command: wire.command,
        args: wire.args,
        working_dir: wire.working_dir,
        envs: Wire::from_wire(wire.envs),
        mounts: Wire::from_wire(wire.mounts),
        devices: Wire::from_wire(wire.devices),
        cdi_devices: Wire::from_wire(wire.cdi_devices),
        labels: wire.labels,
        annotations: wire.annotations,
        log_path: wire.log_path,
        stdin: wire.stdin,
        stdin_once: wire.stdin_once,
        tty: wire.tty,
        linux: Wire::from_wire(wire.linux),
        stop_signal: signal_from_wire(wire.stop_signal),
    }
);

special!(ContainerStatus = ContainerStatus:
    |own| v1::ContainerStatus {
        id: own.id,
        metadata: own.metadata.to_wire(),
        state: own.state.to_wire(),
        created_at: own.created_at,
        started_at: own.started_at,
        finished_at: own.finished_at,
        exit_code: own.exit_code,
        image: own.image.to_wire(),
        image_ref: own.image_ref,
        reason: own.reason,
        message: own.message,
        labels: own.labels,
        annotations: own.annotations,
        mounts: own.mounts.to_wire(),
        log_path: own.log_path,
        resources: own.resources.map(|linux| v1::ContainerResources { linux: linux.to_wire() }),
        image_id: own.image_id,
        user: own.user.map(|linux| v1::ContainerUser { linux: linux.to_wire() }),
        stop_signal: signal_to_wire(&own.stop_signal),
    },
    |wire| cri::ContainerStatus {
        id: wire.id,
        metadata: Wire::from_wire(wire.metadata),
        state: Wire::from_wire(wire.state),
        created_at: wire.created_at,
        started_at: wire.started_at,
        finished_at: wire.finished_at,
        exit_code: wire.exit_code,
        image: Wire::from_wire(wire.image),
        // Older runtimes have but the one reference.
        image_id: some(wire.image_id).unwrap_or_else(|| wire.image_ref.clone()),
        image_ref: wire.image_ref,
        reason: wire.reason,
        message: wire.message,
        labels: wire.labels,
        annotations: wire.annotations,
        mounts: Wire::from_wire(wire.mounts),
        log_path: wire.log_path,
        resources: wire.resources.and_then(|resources| Wire::from_wire(resources.linux)),
        user: wire.user.and_then(|user| Wire::from_wire(user.linux)),
        stop_signal: signal_from_wire(wire.stop_signal),
        // Those below are not part of the message.
        ..cri::ContainerStatus::default()
    }
);

special!(PodSandboxStatus = PodSandboxStatus:
    |own| {
        let mut ips = own.ips.iter().map(ToString::to_string);
        v1::PodSandboxStatus {
            id: own.id,
            metadata: own.metadata.to_wire(),
            state: own.state.to_wire(),
            created_at: own.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options: own.namespace_options.to_wire() }),
            }),
            labels: own.labels,
            annotations: own.annotations,
            runtime_handler: own.runtime_handler,
        }
    },
    |wire| {
        let network = wire.network.unwrap_or_default();
        let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        cri::PodSandboxStatus {
            id: wire.id,
            metadata: Wire::from_wire(wire.metadata),
            state: Wire::from_wire(wire.state),
            created_at: wire.created_at,
            ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
            namespace_options: Wire::from_wire(wire.linux.and_then(|linux| linux.namespaces?.options)),
            labels: wire.labels,
            annotations: wire.annotations,
            runtime_handler: wire.runtime_handler,
        }
    }
);

special!(PodSandboxStats = PodSandboxStats:
    |own| v1::PodSandboxStats {
        attributes: own.attributes.to_wire(),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: own.cpu.to_wire(),
            memory: own.memory.to_wire(),
            network: own.network.to_wire(),
            process: own.process.to_wire(),
            containers: own.containers.to_wire(),
        }),
    },
    |wire| {
        let linux = wire.linux.unwrap_or_default();
        cri::PodSandboxStats {
            attributes: Wire::from_wire(wire.attributes),
            cpu: Wire::from_wire(linux.cpu),
            memory: Wire::from_wire(linux.memory),
            network: Wire::from_wire(linux.network),
            process: Wire::from_wire(linux.process),
            containers: Wire::from_wire(linux.containers),
        }
    }
);

special!(FilesystemUsage = FilesystemUsage:
    |own| v1::FilesystemUsage {
        timestamp: own.timestamp,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: own.mountpoint }),
        used_bytes: own.used_bytes.to_wire(),
        inodes_used: own.inodes_used.to_wire(),
    },
    |wire| cri::FilesystemUsage {
        timestamp: wire.timestamp,
        mountpoint: wire.fs_id.unwrap_or_default().mountpoint,
        used_bytes: Wire::from_wire(wire.used_bytes),
        inodes_used: Wire::from_wire(wire.inodes_used),
    }
);

special!(RuntimeHandler = RuntimeHandler:
    |own| v1::RuntimeHandler {
        name: own.name,
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: own.recursive_read_only_mounts,
            user_namespaces: own.user_namespaces,
        }),
    },
    |wire| {
        let features = wire.features.unwrap_or_default();
        cri::RuntimeHandler {
            name: wire.name,
            recursive_read_only_mounts: features.recursive_read_only_mounts,
            user_namespaces: features.user_namespaces,
        }
    }
);

special!(StatusResponse = StatusResponse:
    |own| v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions: own.conditions.to_wire() }),
        info: Default::default(),
        runtime_handlers: own.runtime_handlers.to_wire(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: own.supplemental_groups_policy,
            ..v1::RuntimeFeatures::default()
        }),
    },
    |wire| cri::StatusResponse {
        conditions: Wire::from_wire(wire.status.unwrap_or_default().conditions),
        runtime_handlers: Wire::from_wire(wire.runtime_handlers),
        supplemental_groups_policy: wire.features.unwrap_or_default().supplemental_groups_policy,
    }
);

special!(PodSandboxFilter = PodSandboxFilter:
    |own| v1::PodSandboxFilter {
        id: own.id.unwrap_or_default(),
        state: own.state.map(|state| v1::PodSandboxStateValue { state: state.to_wire() }),
        label_selector: own.label_selector,
    },
    |wire| cri::PodSandboxFilter {
        id: some(wire.id),
        state: wire.state.map(|value| Wire::from_wire(value.state)),
        label_selector: wire.label_selector,
    }
);

special!(ContainerFilter = ContainerFilter:
    |own| v1::ContainerFilter {
        id: own.id.unwrap_or_default(),
        state: own.state.map(|state| v1::ContainerStateValue { state: state.to_wire() }),
        pod_sandbox_id: own.pod_sandbox_id.unwrap_or_default(),
        label_selector: own.label_selector,
    },
    |wire| cri::ContainerFilter {
        id: some(wire.id),
        state: wire.state.map(|value| Wire::from_wire(value.state)),
        pod_sandbox_id: some(wire.pod_sandbox_id),
        label_selector: wire.label_selector,
    }
);

special!(ContainerStatsFilter = ContainerStatsFilter:
    |own| v1::ContainerStatsFilter {
        id: own.id.unwrap_or_default(),
        pod_sandbox_id: own.pod_sandbox_id.unwrap_or_default(),
        label_selector: own.label_selector,
    },
    |wire| cri::ContainerStatsFilter {
        id: some(wire.id),
        pod_sandbox_id: some(wire.pod_sandbox_id),
        label_selector: wire.label_selector,
    }
);

special!(PodSandboxStatsFilter = PodSandboxStatsFilter:
    |own| v1::PodSandboxStatsFilter { id: own.id.unwrap_or_default(), label_selector: own.label_selector },
    |wire| cri::PodSandboxStatsFilter { id: some(wire.id), label_selector: wire.label_selector }
);

/// It has no default of its own: an event always is about something.
impl Wire<v1::ContainerEventResponse> for cri::ContainerEventResponse {
    fn to_wire(self) -> v1::ContainerEventResponse {
        v1::ContainerEventResponse {
            container_id: self.container_id,
            container_event_type: self.container_event_type.to_wire(),
            created_at: self.created_at,
            pod_sandbox_status: self.pod_sandbox_status.to_wire(),
            containers_statuses: self.containers_statuses.to_wire(),
        }
    }

    fn from_wire(wire: v1::ContainerEventResponse) -> cri::ContainerEventResponse {
        cri::ContainerEventResponse {
            container_id: wire.container_id,
            container_event_type: Wire::from_wire(wire.container_event_type),
            created_at: wire.created_at,
            pod_sandbox_status: Wire::from_wire(wire.pod_sandbox_status),
            containers_statuses: Wire::from_wire(wire.containers_statuses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_keep_their_names() {
        for name in ["", "SIGTERM", "SIGRTMIN+3", "SIGRTMAX-14"] {
            assert_eq!(signal_from_wire(signal_to_wire(name)), name);
        }
        assert_eq!(signal_from_wire(signal_to_wire("SIGNONE")), "");
    }

    #[test]
    fn what_is_absent_on_the_wire_is_the_default_and_addresses_keep_their_order() {
        let status: cri::PodSandboxStatus = Wire::from_wire(v1::PodSandboxStatus::default());
        assert_eq!((status.ips.len(), status.namespace_options), (0, cri::NamespaceOption::default()));
        let ips = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let status = cri::PodSandboxStatus { ips: ips.clone(), ..cri::PodSandboxStatus::default() };
        let back: cri::PodSandboxStatus = Wire::from_wire(Wire::<v1::PodSandboxStatus>::to_wire(status));
        assert_eq!(back.ips, ips);
    }
}
