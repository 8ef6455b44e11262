//! A pod as the kubelet works with it: the API object, its containers in start order, and what follows from them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1;

use super::observed::Observed;

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the ones after it start.
    Init,
    /// A restartable init container: it starts in order and runs beside the main containers.
    Sidecar,
    Main,
    /// Added to a running pod for debugging; never restarted.
    Ephemeral,
}

/// What the end of a container is followed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Nothing,
    Restart,
    /// All containers of the pod begin again, the init containers first.
    RestartAll,
}

/// A container of the spec with its role.
#[derive(Clone, Debug)]
pub struct Member {
    pub role: Role,
    pub spec: v1::Container,
}

/// One revision of a pod that is bound to this node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The object, without its containers: they are in `members`.
    pub object: v1::Pod,
    /// Init containers and sidecars in order, then main, then ephemeral containers.
    pub members: Vec<Member>,
    /// The container that an ephemeral one looks into, by its own name.
    pub targets: BTreeMap<String, String>,
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

impl Pod {
    /// Takes the object apart; absent metadata become empty strings, which the API never stores.
    pub fn new(mut object: v1::Pod) -> Pod {
        let mut members = Vec::new();
        let mut ephemeral = Vec::new();
        if let Some(spec) = &mut object.spec {
            for container in spec.init_containers.take().unwrap_or_default() {
                let sidecar = container.restart_policy.as_deref() == Some("Always");
                members.push(Member { role: if sidecar { Role::Sidecar } else { Role::Init }, spec: container });
            }
            members
                .extend(std::mem::take(&mut spec.containers).into_iter().map(|spec| Member { role: Role::Main, spec }));
            ephemeral = spec.ephemeral_containers.take().unwrap_or_default();
        }
        let target = |e: &v1::EphemeralContainer| Some((e.name.clone(), e.target_container_name.clone()?));
        let targets = ephemeral.iter().filter_map(target).collect();
        members.extend(ephemeral.into_iter().map(|e| Member { role: Role::Ephemeral, spec: as_container(e) }));
        Pod {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
            members,
            targets,
            object,
        }
    }

    pub fn spec(&self) -> &v1::PodSpec {
        self.object.spec.as_ref().unwrap_or(&EMPTY_SPEC)
    }

    /// The status that the API last showed.
    pub fn status(&self) -> Option<&v1::PodStatus> {
        self.object.status.as_ref()
    }

    /// The object with its containers again. Ephemeral ones are left out.
    pub fn whole(&self) -> v1::Pod {
        let mut object = self.object.clone();
        if let Some(spec) = &mut object.spec {
            let of = |roles: &[Role]| {
                self.members.iter().filter(|m| roles.contains(&m.role)).map(|m| m.spec.clone()).collect::<Vec<_>>()
            };
            spec.containers = of(&[Role::Main]);
            spec.init_containers = Some(of(&[Role::Init, Role::Sidecar])).filter(|list| !list.is_empty());
        }
        object
    }

    pub fn with_role(&self, role: Role) -> impl DoubleEndedIterator<Item = &Member> {
        self.members.iter().filter(move |m| m.role == role)
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.spec.name == name)
    }

    /// The volumes that a container mounts or reads its environment from; the kubelet has nothing to do with others.
    pub fn used_volumes(&self) -> BTreeSet<&str> {
        let mut used = BTreeSet::new();
        for Member { spec, .. } in &self.members {
            used.extend(spec.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()));
            used.extend(spec.volume_devices.iter().flatten().map(|device| device.name.as_str()));
            let sources = spec.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
            used.extend(sources.filter_map(|from| from.file_key_ref.as_ref()).map(|file| file.volume_name.as_str()));
        }
        used
    }

    pub fn restart_policy(&self) -> &str {
        self.spec().restart_policy.as_deref().unwrap_or("Always")
    }

    /// What follows an end with this code; `None` when it never ran or its end is unknown. The first rule that fits goes
    /// before the container's policy, and that before the pod's.
    pub fn after(&self, member: &Member, exit_code: Option<i32>) -> After {
        let Some(code) = exit_code else { return After::Restart };
        if let Some(rule) = member.spec.restart_policy_rules.iter().flatten().find(|r| rule_matches(r, code)) {
            return if rule.action == "RestartAllContainers" { After::RestartAll } else { After::Restart };
        }
        let again = match (member.role, member.spec.restart_policy.as_deref().unwrap_or(self.restart_policy())) {
            (Role::Sidecar, _) | (Role::Main, "Always") => true,
            (Role::Ephemeral, _) | (_, "Never") => false,
            (Role::Init | Role::Main, _) => code != 0,
        };
        if again { After::Restart } else { After::Nothing }
    }

    /// Whether a container that ended with this code is to run again.
    pub fn restarts(&self, member: &Member, exit_code: Option<i32>) -> bool {
        self.after(member, exit_code) != After::Nothing
    }

    /// Whether anything that a probe condemns is to run again.
    pub fn restarts_failed(&self, member: &Member) -> bool {
        self.restarts(member, Some(137))
    }

    /// When all containers were last to begin again: the end of the last container whose rules say so.
    pub fn began_again(&self, seen: &Observed) -> Option<Timestamp> {
        let rules = |name: &str| {
            self.member(name).filter(|m| m.spec.restart_policy_rules.iter().flatten().any(|r| r.action != "Restart"))
        };
        let ends = seen.containers.iter().filter_map(|c| {
            let all = self.after(rules(&c.name)?, c.ended_with()) == After::RestartAll;
            c.finished_at.filter(|_| all)
        });
        ends.max()
    }

    /// Whether it comes from a file of the node and not from the API, where only its mirror is.
    pub fn is_static(&self) -> bool {
        let annotations = self.object.metadata.annotations.as_ref();
        annotations.and_then(|a| a.get(crate::labels::SOURCE)).is_some_and(|source| source != "api")
    }

    pub fn priority(&self) -> i32 {
        self.spec().priority.unwrap_or(0)
    }

    /// Whether the node must run it before all that is not: by its priority, or because it is static.
    pub fn is_critical(&self) -> bool {
        self.is_static() || self.priority() >= CRITICAL
    }

    pub fn deletion(&self) -> Option<Timestamp> {
        self.object.metadata.deletion_timestamp.as_ref().map(|t| t.0)
    }

    /// Seconds between a container's TERM and its KILL.
    pub fn grace(&self) -> i64 {
        let set =
            self.object.metadata.deletion_timestamp.as_ref().and(self.object.metadata.deletion_grace_period_seconds);
        bounded(set.or(self.spec().termination_grace_period_seconds).unwrap_or(30).max(0))
    }

    /// Whether the API already shows the pod as ended, so that nothing of it may run again.
    pub fn ended(&self) -> bool {
        matches!(self.status().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
    }

    pub fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }

    /// `name_namespace(uid)`, as upstream's messages name a pod.
    pub fn display(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// A reference for events; with a container, to that container's field of the spec.
    pub fn reference(&self, container: Option<&str>) -> v1::ObjectReference {
        let field_path = container.and_then(|name| self.member(name)).map(|m| {
            let list = match m.role {
                Role::Init | Role::Sidecar => "initContainers",
                Role::Main => "containers",
                Role::Ephemeral => "ephemeralContainers",
            };
            format!("spec.{list}{{{}}}", m.spec.name)
        });
        v1::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            resource_version: self.object.metadata.resource_version.clone(),
            field_path,
        }
    }
}

/// The priority from which a pod is critical: that of `system-cluster-critical`.
pub const CRITICAL: i32 = 2_000_000_000;

/// Seconds of a hundred years, which nobody outwaits. The API takes more, up to where the sum with a time is none.
const LONGEST: i64 = 100 * 366 * 24 * 3600;

/// A period in seconds that can be added to any time.
pub fn bounded(seconds: i64) -> i64 {
    seconds.min(LONGEST)
}

static EMPTY_SPEC: std::sync::LazyLock<v1::PodSpec> = std::sync::LazyLock::new(v1::PodSpec::default);

fn rule_matches(rule: &v1::ContainerRestartRule, code: i32) -> bool {
    let Some(on) = &rule.exit_codes else { return false };
    let listed = on.values.iter().flatten().any(|v| *v == code);
    match on.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

fn as_container(e: v1::EphemeralContainer) -> v1::Container {
    v1::Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        name: e.name,
        resources: e.resources,
        security_context: e.security_context,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
        ..Default::default()
    }
}
