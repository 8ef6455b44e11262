//! What the configuration says about places, checked against the machine.

use super::cpu_set::CpuSet;
use super::cpus::Rules;
use super::hints::Policy;
use super::machine::Machine;
use super::memory::Memory;
use crate::config::{Configuration, CpuManagerPolicy, MemoryManagerPolicy, TopologyManagerPolicy};
use crate::eviction::{Signal, reserved};
use crate::resources::Amounts;

/// Nodes that upstream looks at all sets of, unless it is told to go further.
const MOST_NODES: usize = 8;

/// Whether the configuration can be right on any machine.
pub fn check(configuration: &Configuration) -> Result<(), String> {
    if configuration.cpu_manager_policy == CpuManagerPolicy::Static
        && configuration.reserved_system_cpus.is_empty()
        && reserved_amount(configuration, "cpu") == 0
    {
        return Err(
            "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
                .to_owned(),
        );
    }
    CpuSet::parse(&configuration.reserved_system_cpus).map_err(|why| format!("reservedSystemCPUs: {why}"))?;
    for (name, value) in &configuration.cpu_manager_policy_options {
        match name.as_str() {
            "full-pcpus-only" | "strict-cpu-reservation" => flag("CPU Manager", name, value)?,
            _ => return Err(format!("unsupported cpumanager option: {name:?} ({value})")),
        };
    }
    for (name, value) in &configuration.topology_manager_policy_options {
        match name.as_str() {
            "prefer-closest-numa-nodes" => drop(flag("Topology Manager", name, value)?),
            "max-allowable-numa-nodes" => drop(nodes(value)?),
            _ => return Err(format!("unknown Topology Manager Policy option: {name:?}")),
        }
    }
    Ok(())
}

fn flag(of: &str, name: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("bad value for {of} option {name:?}: {value:?}"))
}

fn nodes(value: &str) -> Result<usize, String> {
    let count = value.parse::<usize>().ok().filter(|count| *count >= MOST_NODES);
    count.ok_or_else(|| {
        format!("the minimum value of \"max-allowable-numa-nodes\" should not be less than {MOST_NODES}")
    })
}

/// Thousandths for `cpu`.
fn reserved_amount(configuration: &Configuration, name: &str) -> i64 {
    let each = [&configuration.system_reserved, &configuration.kube_reserved];
    each.iter().filter_map(|texts| reserved(texts).ok()?.get(name).copied()).sum()
}

pub fn cpu_rules(configuration: &Configuration, machine: &Machine) -> Result<Rules, String> {
    let is = |name: &str| configuration.cpu_manager_policy_options.get(name).is_some_and(|value| value == "true");
    let mut rules =
        Rules { reserved: CpuSet::default(), full_cores: is("full-pcpus-only"), strict: is("strict-cpu-reservation") };
    if configuration.cpu_manager_policy == CpuManagerPolicy::None {
        return Ok(Rules::default());
    }
    let named = CpuSet::parse(&configuration.reserved_system_cpus)?;
    if !named.without(&machine.all()).is_empty() {
        return Err(format!("reservedSystemCPUs: the machine has no processors {}", named.without(&machine.all())));
    }
    let count = usize::try_from((reserved_amount(configuration, "cpu") + 999) / 1000).unwrap_or(0);
    rules.reserved = if named.is_empty() { machine.all().0.into_iter().take(count).collect() } else { named };
    Ok(rules)
}

pub fn topology(configuration: &Configuration, machine: &Machine) -> Result<Policy, String> {
    let options = &configuration.topology_manager_policy_options;
    let most = options.get("max-allowable-numa-nodes").map_or(Ok(MOST_NODES), |value| nodes(value))?;
    let kind = configuration.topology_manager_policy;
    if kind != TopologyManagerPolicy::None && machine.nodes.len() > most {
        return Err(format!("unsupported on machines with more than {most} NUMA Nodes"));
    }
    let prefer_closest = options.get("prefer-closest-numa-nodes").is_some_and(|value| value == "true");
    Ok(Policy { kind, prefer_closest })
}

/// What the nodes' memory has to give: all but what is reserved of each.
pub fn memory(configuration: &Configuration, machine: &Machine) -> Result<Memory, String> {
    let mut allocatable = machine.nodes.clone();
    if configuration.memory_manager_policy == MemoryManagerPolicy::None {
        return Ok(Memory { allocatable, ..Memory::default() });
    }
    let mut sum = Amounts::new();
    for reservation in &configuration.reserved_memory {
        let node = reservation.numa_node;
        let all = allocatable.get_mut(&node).ok_or_else(|| {
            format!(
                "the reserved memory configuration references a NUMA node {node} that does not exist on this machine"
            )
        })?;
        for (name, text) in &reservation.limits {
            let quantity =
                api::quantity::Quantity::parse(text).map_err(|e| format!("reservedMemory: {name} {text:?}: {e}"))?;
            *all.entry(name.clone()).or_default() -= quantity.value();
            *sum.entry(name.clone()).or_default() += quantity.value();
        }
    }
    let whole: i64 = machine.nodes.values().filter_map(|all| all.get("memory")).sum();
    let evicted = configuration.thresholds().map(|t| t.reserved(Signal::MemoryAvailable, whole)).unwrap_or(0);
    let expected = reserved_amount(configuration, "memory") + evicted;
    let total = sum.get("memory").copied().unwrap_or(0);
    if total == 0 {
        return Err("[memorymanager] you should specify the system reserved memory".to_owned());
    }
    if total != expected {
        return Err(format!(
            "the total amount {total} of type \"memory\" is not equal to the value {expected} determined by Node Allocatable feature"
        ));
    }
    Ok(Memory { allocatable, ..Memory::default() })
}
