//! Which processors and which NUMA nodes' memory and devices containers have, where the configuration says that it matters:
//! upstream's CPU, memory and topology managers.
//!
//! The places are fixed when a pod is admitted, written down before its first container starts, and given back when nothing of
//! it is left. Containers without processors of their own run on those that nobody owns, wherever those are meanwhile.

pub mod cpu_set;
mod cpus;
pub mod hints;
mod machine;
mod memory;
mod reconcile;
mod settings;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::{Configuration, CpuManagerPolicy, MemoryManagerPolicy, TopologyManagerScope};
use crate::devices::Devices;
use crate::pods::pod::{Member, Pod, Role};
use crate::resources::{Amounts, Qos, amounts, requests};
use cpu_set::CpuSet;
use cpus::Cpus;
use hints::{Hint, Mask, Policy, merge};
use machine::Machine;
use memory::{Block, Memory};

pub use reconcile::keep;
pub use settings::check;

/// Why a pod has no place: the reason and the words of its admission's failure.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    fn affinity() -> Refusal {
        let message = "Resources cannot be allocated with Topology locality".to_owned();
        Refusal { reason: "TopologyAffinityError", message }
    }

    fn unexpected(why: String) -> Refusal {
        let message = format!("Allocate failed due to {why}, which is unexpected");
        Refusal { reason: "UnexpectedAdmissionError", message }
    }
}

/// The places of this node's containers.
pub struct Placement {
    machine: Machine,
    directory: PathBuf,
    topology: Policy,
    of_pods: bool,
    cpu_policy: CpuManagerPolicy,
    cpu_rules: cpus::Rules,
    memory_policy: MemoryManagerPolicy,
    held: Mutex<Held>,
    /// One pod at a time, from looking to writing down.
    turn: tokio::sync::Mutex<()>,
    /// Told when the processors that nobody owns are others.
    shared_changed: Notify,
}

struct Held {
    cpus: Cpus,
    memory: Memory,
}

/// What one container asks for that has a place.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wishes {
    cpus: usize,
    memory: Amounts,
}

impl Placement {
    /// With what was written down in `directory` before.
    pub fn open(configuration: &Configuration, directory: &Path) -> io::Result<Placement> {
        let machine = Machine::read(Path::new("/sys/devices/system"));
        let invalid = io::Error::other::<String>;
        let cpu_rules = settings::cpu_rules(configuration, &machine).map_err(invalid)?;
        let fresh = Cpus::new(&machine, &cpu_rules);
        let cpus = match configuration.cpu_manager_policy {
            CpuManagerPolicy::None => fresh,
            CpuManagerPolicy::Static => state::read_cpus(directory, "static", fresh)?,
        };
        let fresh = settings::memory(configuration, &machine).map_err(invalid)?;
        let memory = match configuration.memory_manager_policy {
            MemoryManagerPolicy::None => fresh,
            MemoryManagerPolicy::Static => state::read_memory(directory, "Static", fresh)?,
        };
        Ok(Placement {
            topology: settings::topology(configuration, &machine).map_err(invalid)?,
            of_pods: configuration.topology_manager_scope == TopologyManagerScope::Pod,
            machine,
            directory: directory.to_owned(),
            cpu_policy: configuration.cpu_manager_policy,
            cpu_rules,
            memory_policy: configuration.memory_manager_policy,
            held: Mutex::new(Held { cpus, memory }),
            turn: tokio::sync::Mutex::default(),
            shared_changed: Notify::new(),
        })
    }

    /// Fixes the places of all containers of a pod, and their devices.
    pub async fn admit(&self, pod: &Pod, devices: &Devices) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        let done = self.place(pod, devices).await;
        if done.is_err() {
            devices.release(&pod.uid);
            self.release(&pod.uid);
        }
        done
    }

    async fn place(&self, pod: &Pod, devices: &Devices) -> Result<(), Refusal> {
        let members: Vec<&Member> = pod.members.iter().filter(|m| m.role != Role::Ephemeral).collect();
        let whole = if self.of_pods { Some(self.place_of_pod(pod, devices)?) } else { None };
        for member in members {
            let wishes = self.wishes(pod, member);
            let hint = match whole {
                Some(hint) => hint,
                None => {
                    let mut wanted = self.own_hints(pod, &[member], &wishes, &self.lent(pod, member));
                    wanted.extend(devices.hints(pod, &[member], &self.machine.node_ids()));
                    merge(self.topology, &self.machine, &wanted).ok_or_else(Refusal::affinity)?
                }
            };
            self.take(pod, member, &wishes, hint)?;
            devices.reserve(pod, member, hint.nodes).await.map_err(Refusal::unexpected)?;
        }
        Ok(())
    }

    /// One place for all containers of a pod together.
    fn place_of_pod(&self, pod: &Pod, devices: &Devices) -> Result<Hint, Refusal> {
        let add = |sum: &mut Wishes, more: &Wishes| {
            sum.cpus += more.cpus;
            more.memory.iter().for_each(|(name, size)| *sum.memory.entry(name.clone()).or_default() += size);
        };
        let (mut running, mut sidecars, mut peak) = (Wishes::default(), Wishes::default(), Wishes::default());
        for member in pod.members.iter().filter(|m| m.role != Role::Ephemeral) {
            let own = self.wishes(pod, member);
            match member.role {
                Role::Init => {
                    let mut together = own;
                    add(&mut together, &sidecars);
                    peak.cpus = peak.cpus.max(together.cpus);
                    for (name, size) in together.memory {
                        let most = peak.memory.entry(name).or_default();
                        *most = (*most).max(size);
                    }
                }
                Role::Sidecar => {
                    add(&mut sidecars, &own);
                    add(&mut running, &own);
                }
                Role::Main | Role::Ephemeral => add(&mut running, &own),
            }
        }
        running.cpus = running.cpus.max(peak.cpus);
        for (name, size) in peak.memory {
            let most = running.memory.entry(name).or_default();
            *most = (*most).max(size);
        }
        let members: Vec<&Member> = pod.members.iter().filter(|m| m.role != Role::Ephemeral).collect();
        let mut wanted = self.own_hints(pod, &members, &running, &self.given(pod, &members));
        wanted.extend(devices.hints(pod, &members, &self.machine.node_ids()));
        merge(self.topology, &self.machine, &wanted).ok_or_else(Refusal::affinity)
    }

    /// What the container asks for of what is given by place.
    fn wishes(&self, pod: &Pod, member: &Member) -> Wishes {
        // What the pod asks for as a whole is nobody's own.
        let whole = pod.spec().resources.as_ref().is_some_and(|r| r.requests.is_some() || r.limits.is_some());
        if Qos::of(pod) != Qos::Guaranteed || whole {
            return Wishes::default();
        }
        let asked = requests(member.spec.resources.as_ref());
        let limits = amounts(member.spec.resources.as_ref().and_then(|r| r.limits.as_ref()));
        let asked = |name: &str| asked.get(name).or(limits.get(name)).copied().unwrap_or(0);
        let milli = asked("cpu");
        let mut wishes = Wishes::default();
        if self.cpu_policy == CpuManagerPolicy::Static && milli % 1000 == 0 {
            wishes.cpus = usize::try_from(milli / 1000).unwrap_or(0);
        }
        if self.memory_policy == MemoryManagerPolicy::Static {
            let sizes = limits.keys().filter(|name| *name == "memory" || name.starts_with("hugepages-"));
            wishes.memory = sizes.map(|name| (name.clone(), asked(name))).filter(|(_, size)| *size > 0).collect();
        }
        wishes
    }

    /// The hints of processors and memory for what the members wish together; nothing of what is not wanted. Members that have
    /// theirs already, since the pod was admitted before, can have no others.
    fn own_hints(&self, pod: &Pod, members: &[&Member], wishes: &Wishes, lent: &Lent) -> Vec<Option<Vec<Hint>>> {
        let held = self.held.lock();
        let mut all = Vec::new();
        if wishes.cpus > 0 {
            let wishing = members.iter().filter(|member| self.wishes(pod, member).cpus > 0);
            let given: Option<Vec<_>> = wishing.map(|m| held.cpus.of(&pod.uid, &m.spec.name)).collect();
            all.push(Some(match given {
                Some(given) => {
                    let given = given.into_iter().fold(CpuSet::default(), |all, set| all.union(set));
                    Cpus::hints_at(&self.machine, wishes.cpus, &given)
                }
                None => held.cpus.hints(&self.machine, &self.cpu_rules, wishes.cpus, &lent.cpus),
            }));
        }
        if !wishes.memory.is_empty() {
            let wishing = members.iter().filter(|member| !self.wishes(pod, member).memory.is_empty());
            let given: Option<Vec<_>> = wishing.map(|m| held.memory.nodes_of(&pod.uid, &m.spec.name)).collect();
            let hints = match given {
                Some(given) => {
                    let nodes = given.into_iter().flat_map(Mask::nodes).collect();
                    vec![Hint { nodes: Some(nodes), preferred: true }]
                }
                None => held.memory.hints(&wishes.memory, &lent.blocks),
            };
            all.extend(wishes.memory.keys().map(|_| Some(hints.clone())));
        }
        tracing::trace!(pod = pod.display(), hints = all.len(), "places were looked for");
        all
    }

    /// What some of a pod's containers have already.
    fn given(&self, pod: &Pod, members: &[&Member]) -> Lent {
        let held = self.held.lock();
        let names = || members.iter().map(|member| member.spec.name.as_str());
        let cpus = names().filter_map(|name| held.cpus.of(&pod.uid, name));
        let blocks = names().filter_map(|name| held.memory.of(&pod.uid, name));
        Lent {
            cpus: cpus.fold(CpuSet::default(), |all, set| all.union(set)),
            blocks: blocks.flatten().cloned().collect(),
        }
    }

    /// What init containers had that have ended when this one starts.
    fn lent(&self, pod: &Pod, member: &Member) -> Lent {
        let held = self.held.lock();
        let mut lent = Lent::default();
        let before = pod.members.iter().take_while(|m| m.spec.name != member.spec.name);
        for earlier in before {
            let (cpus, blocks) =
                (held.cpus.of(&pod.uid, &earlier.spec.name), held.memory.of(&pod.uid, &earlier.spec.name));
            if earlier.role == Role::Init {
                lent.cpus = lent.cpus.union(cpus.unwrap_or(&CpuSet::default()));
                lent.blocks.extend(blocks.into_iter().flatten().cloned());
            } else {
                // It runs on, with what it took over.
                lent.cpus = lent.cpus.without(cpus.unwrap_or(&CpuSet::default()));
            }
        }
        lent
    }

    fn take(&self, pod: &Pod, member: &Member, wishes: &Wishes, hint: Hint) -> Result<(), Refusal> {
        let who = (pod.uid.as_str(), member.spec.name.as_str());
        let lent = self.lent(pod, member);
        let mut held = self.held.lock();
        if wishes.cpus > 0 && held.cpus.of(who.0, who.1).is_none() {
            let threads = self.machine.threads();
            if self.cpu_rules.full_cores && !wishes.cpus.is_multiple_of(threads) {
                let message = format!(
                    "SMT Alignment Error: requested {} cpus not multiple cpus per core = {threads}",
                    wishes.cpus
                );
                return Err(Refusal { reason: "SMTAlignmentError", message });
            }
            let whole = held.cpus.free(&self.machine, &self.cpu_rules, &lent.cpus).len();
            if self.cpu_rules.full_cores && whole < wishes.cpus {
                let message = format!(
                    "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {whole}, requested CPUs = {}, CPUs per core = {threads}",
                    wishes.cpus
                );
                return Err(Refusal { reason: "SMTAlignmentError", message });
            }
            let taken = held.cpus.take(&self.machine, &self.cpu_rules, who, wishes.cpus, hint.nodes, &lent.cpus);
            taken.map_err(Refusal::unexpected)?;
            let written = state::write_cpus(&self.directory, "static", &held.cpus);
            written.map_err(|error| Refusal::unexpected(error.to_string()))?;
            self.shared_changed.notify_one();
        }
        if !wishes.memory.is_empty() && held.memory.of(who.0, who.1).is_none() {
            held.memory.take(who, &wishes.memory, hint, &lent.blocks).map_err(Refusal::unexpected)?;
            let written = state::write_memory(&self.directory, "Static", &held.memory);
            written.map_err(|error| Refusal::unexpected(error.to_string()))?;
        }
        Ok(())
    }

    /// Gives back what a pod had.
    pub fn release(&self, uid: &str) {
        let mut held = self.held.lock();
        if held.cpus.release(uid) {
            self.told(state::write_cpus(&self.directory, "static", &held.cpus));
            self.shared_changed.notify_one();
        }
        if held.memory.release(uid) {
            self.told(state::write_memory(&self.directory, "Static", &held.memory));
        }
    }

    /// Gives back what pods had that are no longer here.
    pub fn keep_only(&self, here: impl Fn(&str) -> bool) {
        let held = self.held.lock();
        let gone: Vec<String> =
            held.cpus.owned.keys().chain(held.memory.blocks.keys()).filter(|uid| !here(uid)).cloned().collect();
        drop(held);
        gone.iter().for_each(|uid| self.release(uid));
    }

    fn told(&self, written: io::Result<()>) {
        if let Err(error) = written {
            tracing::warn!(%error, directory = %self.directory.display(), "the places of containers cannot be written down");
        }
    }

    /// The processors and the memory nodes of a container, as the kernel writes them; empty for any. Where every processor but
    /// the reserved ones has an owner, those without share the reserved ones: none at all would be any.
    pub fn of(&self, pod: &str, container: &str) -> (String, String) {
        let held = self.held.lock();
        let cpus = match self.cpu_policy {
            CpuManagerPolicy::None => String::new(),
            CpuManagerPolicy::Static => {
                let left = if held.cpus.shared.is_empty() { &self.cpu_rules.reserved } else { &held.cpus.shared };
                held.cpus.of(pod, container).unwrap_or(left).to_string()
            }
        };
        let nodes = held.memory.nodes_of(pod, container);
        let nodes = nodes.map(|nodes| nodes.nodes().collect::<CpuSet>().to_string());
        (cpus, nodes.unwrap_or_default())
    }

    /// Why a pod's requests cannot change while it runs, if it is so.
    pub fn pins(&self, pod: &Pod) -> Option<&'static str> {
        let guaranteed = Qos::of(pod) == Qos::Guaranteed;
        match (self.cpu_policy, self.memory_policy) {
            _ if !guaranteed => None,
            (CpuManagerPolicy::Static, _) => {
                Some("Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy")
            }
            (_, MemoryManagerPolicy::Static) => {
                Some("Resize is infeasible for Guaranteed Pods alongside Memory Manager static policy")
            }
            _ => None,
        }
    }
}

/// What earlier containers of a pod leave to a later one.
#[derive(Default)]
struct Lent {
    cpus: CpuSet,
    blocks: Vec<Block>,
}

/// Where so many devices could come from, by the nodes that each is near to; nothing where no device is near to any.
pub fn device_hints(
    all: &BTreeMap<String, Vec<usize>>,
    free: &[String],
    wanted: usize,
    nodes: &[usize],
) -> Option<Vec<Hint>> {
    if all.values().all(Vec::is_empty) {
        return None;
    }
    if free.len() < wanted {
        return Some(Vec::new());
    }
    let near = |mask: Mask, id: &String| all.get(id).is_some_and(|near| near.iter().any(|node| mask.has(*node)));
    let masks = Mask::all_of(nodes);
    let could = |mask: &&Mask| all.keys().filter(|id| near(**mask, id)).count() >= wanted;
    let least = masks.iter().filter(could).map(|mask| mask.count()).min().unwrap_or(0);
    let can = masks.iter().filter(|mask| free.iter().filter(|id| near(**mask, id)).count() >= wanted);
    Some(can.map(|mask| Hint { nodes: Some(*mask), preferred: mask.count() == least }).collect())
}

#[cfg(test)]
mod tests;
