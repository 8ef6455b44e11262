//! What of the placement outlives the kubelet: upstream's two files, with its names and a checksum.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cpu_set::CpuSet;
use super::cpus::Cpus;
use super::memory::{Block, Memory};
use crate::resources::Amounts;

pub const CPU_FILE: &str = "cpu_manager_state";
pub const MEMORY_FILE: &str = "memory_manager_state";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuState {
    policy_name: String,
    default_cpu_set: CpuSet,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, CpuSet>>,
    checksum: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemoryState {
    policy_name: String,
    machine_state: BTreeMap<usize, Amounts>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
    checksum: u32,
}

impl CpuState {
    /// Of the text by which upstream knows a state.
    fn sum(&self) -> u32 {
        let containers = |(pod, all): (&String, &BTreeMap<String, CpuSet>)| {
            let all: Vec<_> = all.iter().map(|(container, set)| format!("{container}:{set}")).collect();
            format!("{pod}:map[{}]", all.join(" "))
        };
        let pods: Vec<_> = self.entries.iter().map(containers).collect();
        checksum(&format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} \
             Entries:(map[string]map[string]string)map[{}] Checksum:(checksum.Checksum)0}}",
            self.policy_name,
            self.default_cpu_set,
            pods.join(" ")
        ))
    }
}

impl MemoryState {
    fn sum(&self) -> u32 {
        checksum(&serde_json::json!([self.policy_name, self.machine_state, self.entries]).to_string())
    }
}

/// FNV-1a.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// What was written before; `fresh` where nothing was.
pub fn read_cpus(directory: &Path, policy: &str, fresh: Cpus) -> io::Result<Cpus> {
    let path = directory.join(CPU_FILE);
    let Some(state) = read::<CpuState>(&path)? else { return Ok(fresh) };
    judge(&path, &state.policy_name, policy, state.checksum == state.sum())?;
    let read = Cpus { shared: state.default_cpu_set, owned: state.entries };
    let all = |cpus: &Cpus| cpus.owned.values().flat_map(BTreeMap::values).fold(cpus.shared.clone(), |a, b| a.union(b));
    if all(&read) == all(&fresh) {
        return Ok(read);
    }
    let (known, there) = (all(&read), all(&fresh));
    Err(refusal(&path, &format!("its processors {known} are not the machine's, {there}")))
}

pub fn write_cpus(directory: &Path, policy: &str, cpus: &Cpus) -> io::Result<()> {
    let (default_cpu_set, entries) = (cpus.shared.clone(), cpus.owned.clone());
    let mut state = CpuState { policy_name: policy.to_owned(), default_cpu_set, entries, checksum: 0 };
    state.checksum = state.sum();
    write(&directory.join(CPU_FILE), &state)
}

pub fn read_memory(directory: &Path, policy: &str, fresh: Memory) -> io::Result<Memory> {
    let path = directory.join(MEMORY_FILE);
    let Some(state) = read::<MemoryState>(&path)? else { return Ok(fresh) };
    judge(&path, &state.policy_name, policy, state.checksum == state.sum())?;
    if state.machine_state != fresh.allocatable {
        return Err(refusal(&path, "its memory is not the machine's"));
    }
    Ok(Memory { allocatable: state.machine_state, blocks: state.entries })
}

pub fn write_memory(directory: &Path, policy: &str, memory: &Memory) -> io::Result<()> {
    let (machine_state, entries) = (memory.allocatable.clone(), memory.blocks.clone());
    let mut state = MemoryState { policy_name: policy.to_owned(), machine_state, entries, checksum: 0 };
    state.checksum = state.sum();
    write(&directory.join(MEMORY_FILE), &state)
}

fn judge(path: &Path, known: &str, configured: &str, whole: bool) -> io::Result<()> {
    if !whole {
        return Err(refusal(path, "checkpoint is corrupted"));
    }
    if known != configured {
        let why = format!("configured policy {configured:?} differs from state checkpoint policy {known:?}");
        return Err(refusal(path, &why));
    }
    Ok(())
}

fn refusal(path: &Path, why: &str) -> io::Error {
    let path = path.display();
    io::Error::other(format!(
        "could not restore state from checkpoint: {why}, please drain this node and delete the checkpoint file \"{path}\" before restarting Kubelet"
    ))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| refusal(path, &error.to_string())),
    }
}

fn write(path: &Path, state: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, serde_json::to_vec(state)?)?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::super::cpus::Rules;
    use super::super::machine::sample;
    use super::*;

    #[test]
    fn a_state_has_upstreams_checksum_and_is_read_again_only_by_its_own_policy() {
        let state = CpuState {
            policy_name: "none".into(),
            default_cpu_set: CpuSet::parse("4-6").unwrap(),
            entries: BTreeMap::new(),
            checksum: 0,
        };
        assert_eq!(state.sum(), 354_655_845);
        let directory = tempfile::tempdir().unwrap();
        let (machine, rules) = (sample(1, 2, 2, 1), Rules::default());
        let fresh = Cpus::new(&machine, &rules);
        let mut cpus = fresh.clone();
        cpus.take(&machine, &rules, ("p", "c"), 2, None, &CpuSet::default()).unwrap();
        write_cpus(directory.path(), "static", &cpus).unwrap();
        assert_eq!(read_cpus(directory.path(), "static", fresh.clone()).unwrap(), cpus);
        let why = |policy: &str, fresh: Cpus| read_cpus(directory.path(), policy, fresh).unwrap_err().to_string();
        assert!(
            why("none", fresh.clone())
                .contains("configured policy \"none\" differs from state checkpoint policy \"static\"")
        );
        assert!(why("static", Cpus::new(&sample(2, 2, 2, 1), &rules)).contains("are not the machine's"));
        let path = directory.path().join(CPU_FILE);
        let text = std::fs::read_to_string(&path).unwrap().replace("1,3", "1-2");
        std::fs::write(path, text).unwrap();
        assert!(why("static", fresh).contains("checkpoint is corrupted"));
    }
}
