//! Users of pods' own (`hostUsers: false`): a range of the node's user and group ids for each pod, which no other pod has
//! while the pod is here. It is kept as `userns` in the pod's directory, as upstream keeps it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use runtime::cri::{IDMapping, NamespaceMode, UserNamespace};
use serde::{Deserialize, Serialize};

use crate::pods::pod::Pod;
use crate::volumes::pod_dir;

const FILE: &str = "userns";

/// The ranges of a node, and who has which.
pub struct Ranges {
    pods: PathBuf,
    first: u32,
    count: u32,
    length: u32,
    /// By the pods' uids.
    taken: Mutex<BTreeMap<String, WrittenRange>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    uid_mappings: Vec<WrittenRange>,
    gid_mappings: Vec<WrittenRange>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRange {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl WrittenRange {
    fn overlaps(&self, other: &WrittenRange) -> bool {
        let end = |range: &WrittenRange| u64::from(range.host_id) + u64::from(range.length);
        u64::from(self.host_id) < end(other) && u64::from(other.host_id) < end(self)
    }
}

impl Ranges {
    /// With the ranges that pods in the directory `pods` have. The node's are those that `/etc/subuid` and `/etc/subgid` give
    /// the user `kubelet`, or the first ones after the node's own users.
    pub fn open(pods: PathBuf, length: u32, max_pods: u32) -> io::Result<Ranges> {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (first, ids) = allotted(&read("/etc/subuid"), &read("/etc/subgid"))
            .and_then(|found| {
                found.map_or(Ok((length, length.saturating_mul(max_pods))), |found| checked(found, length))
            })
            .and_then(|(first, ids)| match ids / length < max_pods {
                true => Err(format!("kubelet user assigned IDs are not enough to support {max_pods} pods")),
                false => Ok((first, ids)),
            })
            .map_err(io::Error::other)?;
        let ranges = Ranges { pods, first, count: ids / length, length, taken: Mutex::default() };
        for entry in fs::read_dir(&ranges.pods)?.flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if let Some(range) = ranges.read(&uid).map_err(|error| io::Error::other(format!("pod {uid}: {error}")))? {
                ranges.taken.lock().insert(uid, range);
            }
        }
        Ok(ranges)
    }

    /// The pod's own users, if it is to have any: the same at every call until they are released.
    pub fn of(&self, pod: &Pod) -> Result<Option<UserNamespace>, String> {
        if pod.spec().host_users.unwrap_or(true) {
            return Ok(None);
        }
        let mut taken = self.taken.lock();
        let range = match taken.get(&pod.uid) {
            Some(range) => *range,
            None => {
                let of = |number| WrittenRange {
                    host_id: self.first + number * self.length,
                    container_id: 0,
                    length: self.length,
                };
                let free = (0..self.count).map(of).find(|range| !taken.values().any(|taken| taken.overlaps(range)));
                let range =
                    free.ok_or("create user namespace: could not find an empty slot to allocate a user namespace")?;
                self.write(&pod.uid, range).map_err(|error| format!("create user namespace: {error}"))?;
                taken.insert(pod.uid.clone(), range);
                range
            }
        };
        let ids = vec![IDMapping { host_id: range.host_id, container_id: 0, length: range.length }];
        Ok(Some(UserNamespace { mode: NamespaceMode::Pod, uids: ids.clone(), gids: ids }))
    }

    /// Gives back the range of a pod of which nothing is left.
    pub fn release(&self, uid: &str) {
        self.taken.lock().remove(uid);
    }

    fn read(&self, uid: &str) -> Result<Option<WrittenRange>, String> {
        let text = match fs::read(pod_dir(&self.pods, uid).join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| error.to_string())?,
        };
        let written: Written = serde_json::from_slice(&text)
            .map_err(|error| format!("user namespace: invalid user namespace mappings file: {error}"))?;
        match (&written.uid_mappings[..], &written.gid_mappings[..]) {
            ([uids], [gids]) if uids == gids && uids.container_id == 0 => Ok(Some(*uids)),
            _ => Err("user namespace: invalid user namespace configuration".to_owned()),
        }
    }

    /// On the disk, with its name, before anything is made with it.
    fn write(&self, uid: &str, range: WrittenRange) -> io::Result<()> {
        let written = Written { uid_mappings: vec![range], gid_mappings: vec![range] };
        let directory = pod_dir(&self.pods, uid);
        fs::create_dir_all(&directory)?;
        let temporary = directory.join("userns.new");
        fs::write(&temporary, serde_json::to_vec(&written)?)?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(temporary, directory.join(FILE))?;
        File::open(directory)?.sync_all()
    }
}

/// The first id and the number of ids that the files give the user `kubelet`, which must be the same in both.
fn allotted(subuid: &str, subgid: &str) -> Result<Option<(u32, u32)>, String> {
    let of = |text: &str| -> Result<Option<(u32, u32)>, String> {
        let mine = |line: &str| line.strip_prefix("kubelet:").map(str::to_owned);
        let lines: Vec<String> = text.lines().filter_map(mine).collect();
        let [line] = &lines[..] else {
            let many = || format!("kubelet user has {} ranges assigned, only one is supported", lines.len());
            return if lines.is_empty() { Ok(None) } else { Err(many()) };
        };
        let range = line.split_once(':').and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)));
        range.map(Some).ok_or_else(|| format!("cannot read the ids assigned to the kubelet user: {line:?}"))
    };
    let (uids, gids) = (of(subuid)?, of(subgid)?);
    if uids == gids {
        return Ok(uids);
    }
    Err("mismatched subuids and subgids for user \"kubelet\"".to_owned())
}

fn checked((first, count): (u32, u32), length: u32) -> Result<(u32, u32), String> {
    if !first.is_multiple_of(length) {
        return Err(format!("kubelet user assigned ID {first} is not a multiple of {length}"));
    }
    if first < length {
        return Err(format!("kubelet user assigned ID {first} must be greater or equal to {length}"));
    }
    if !count.is_multiple_of(length) || first.checked_add(count).is_none() {
        return Err(format!("kubelet user assigned IDs length {count} is not a multiple of {length}"));
    }
    Ok((first, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, host_users: bool) -> Pod {
        let object = serde_json::json!({"metadata": {"name": uid, "uid": uid},
            "spec": {"hostUsers": host_users, "containers": [{"name": "a"}]}});
        Pod::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_pod_keeps_its_range_over_a_restart_and_nobody_else_gets_it_until_it_is_released() {
        let directory = tempfile::tempdir().unwrap();
        let open = |pods| Ranges::open(directory.path().to_owned(), 65_536, pods).unwrap();
        let first = |ranges: &Ranges, uid| ranges.of(&pod(uid, false)).map(|users| users.unwrap().uids[0].host_id);
        let ranges = open(2);
        assert_eq!(ranges.of(&pod("host", true)), Ok(None));
        assert_eq!(
            [first(&ranges, "a"), first(&ranges, "b"), first(&ranges, "a")],
            [Ok(65_536), Ok(131_072), Ok(65_536)]
        );
        let ranges = open(2);
        let none = "create user namespace: could not find an empty slot to allocate a user namespace";
        assert_eq!([first(&ranges, "c"), first(&ranges, "b")], [Err(none.to_owned()), Ok(131_072)]);
        fs::remove_dir_all(directory.path().join("a")).unwrap();
        ranges.release("a");
        assert_eq!(first(&ranges, "c"), Ok(65_536));
        // One that was given when pods had fewer ids is kept, and those that it is part of are not given.
        let ranges = Ranges::open(directory.path().to_owned(), 131_072, 3).unwrap();
        assert_eq!([first(&ranges, "b"), first(&ranges, "d")], [Ok(131_072), Ok(262_144)]);
        fs::write(directory.path().join("c/userns"), "{").unwrap();
        assert!(Ranges::open(directory.path().to_owned(), 65_536, 2).is_err());
    }

    #[test]
    fn the_nodes_ids_are_those_that_its_files_give_the_kubelet() {
        let of = |uids: &str, gids: &str| {
            allotted(uids, gids).and_then(|found| found.map(|found| checked(found, 65_536)).transpose())
        };
        let line = |first: u32, count: u32| format!("build:100000:65536\nkubelet:{first}:{count}\n");
        assert_eq!(of("build:100000:65536\n", ""), Ok(None));
        assert_eq!(of(&line(131_072, 655_360), &line(131_072, 655_360)), Ok(Some((131_072, 655_360))));
        for (uids, gids, expected) in [
            (line(131_072, 655_360), String::new(), "mismatched subuids and subgids for user \"kubelet\""),
            (line(1, 65_536), line(1, 65_536), "kubelet user assigned ID 1 is not a multiple of 65536"),
            (line(0, 65_536), line(0, 65_536), "kubelet user assigned ID 0 must be greater or equal to 65536"),
            (line(65_536, 5), line(65_536, 5), "kubelet user assigned IDs length 5 is not a multiple of 65536"),
        ] {
            assert_eq!(of(&uids, &gids), Err(expected.to_owned()));
        }
    }
}
