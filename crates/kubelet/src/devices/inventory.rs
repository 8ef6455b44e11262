//! Which devices there are and who has them: values, and what follows from them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::resources::Amounts;

/// What a plugin says that a container with its devices needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Needs {
    pub envs: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Node>,
    /// Devices that the runtime knows by these names.
    pub cdi: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub container_path: String,
    pub host_path: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub container_path: String,
    pub host_path: String,
    pub permissions: String,
}

/// Devices that a container has, for as long as its pod is here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub pod: String,
    pub container: String,
    pub resource: String,
    pub devices: Vec<String>,
    pub needs: Needs,
}

/// Devices by resource and id, with their health, and who has which.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub resources: BTreeMap<String, BTreeMap<String, bool>>,
    /// The NUMA nodes that devices are near to.
    pub near: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
    pub grants: Vec<Grant>,
}

impl Inventory {
    /// What the node has, and what of it is well.
    pub fn amounts(&self) -> (Amounts, Amounts) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let each = |well: bool| {
            let rows = self.resources.iter();
            rows.map(|(name, all)| (name.clone(), count(all.values().filter(|healthy| !well || **healthy).count())))
                .collect()
        };
        (each(false), each(true))
    }

    pub fn granted(&self, pod: &str, container: &str, resource: &str) -> Option<&Grant> {
        self.grants.iter().find(|g| g.pod == pod && g.container == container && g.resource == resource)
    }

    /// The devices that containers of a pod have together; none where one of them has not been given any yet.
    pub fn given<'a>(
        &self,
        pod: &str,
        resource: &str,
        containers: impl Iterator<Item = &'a str>,
    ) -> Option<Vec<String>> {
        let grants: Option<Vec<_>> = containers.map(|container| self.granted(pod, container, resource)).collect();
        let devices: BTreeSet<_> = grants?.into_iter().flat_map(|grant| &grant.devices).cloned().collect();
        Some(devices.into_iter().collect())
    }

    /// Healthy devices that nobody else has. What the `lenders`, containers of the same pod that end before this one starts, have
    /// may be used again.
    pub fn free(&self, pod: &str, resource: &str, lenders: &[&str]) -> Vec<String> {
        let lent = |grant: &&Grant| grant.pod != pod || !lenders.contains(&grant.container.as_str());
        let taken: BTreeSet<&String> =
            self.grants.iter().filter(|g| g.resource == resource).filter(lent).flat_map(|g| &g.devices).collect();
        let all = self.resources.get(resource).into_iter().flatten();
        all.filter(|(id, healthy)| **healthy && !taken.contains(id)).map(|(id, _)| id.clone()).collect()
    }

    /// As many of the free devices as are wanted, the preferred ones first.
    pub fn choose(resource: &str, free: &[String], wanted: usize, preferred: &[String]) -> Result<Vec<String>, String> {
        if free.len() < wanted {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {wanted}, Available: {}",
                free.len()
            ));
        }
        let liked = preferred.iter().filter(|id| free.contains(id));
        let rest = free.iter().filter(|id| !preferred.contains(id));
        Ok(liked.chain(rest).take(wanted).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_given_once_and_only_if_it_is_well() {
        let mut inventory = Inventory::default();
        let devices = [("a", true), ("b", true), ("c", false), ("d", true)];
        let devices = devices.map(|(id, healthy)| (id.to_owned(), healthy)).into();
        inventory.resources.insert("x.test/dev".to_owned(), devices);
        let grant = |pod: &str, container: &str, id: &str| Grant {
            pod: pod.to_owned(),
            container: container.to_owned(),
            resource: "x.test/dev".to_owned(),
            devices: vec![id.to_owned()],
            ..Grant::default()
        };
        inventory.grants = vec![grant("p", "init", "a"), grant("q", "main", "b")];
        let free = |pod: &str, lenders: &[&str]| inventory.free(pod, "x.test/dev", lenders).join(" ");
        assert_eq!(
            (free("p", &["init"]), free("p", &[]), free("r", &["init"])),
            ("a d".into(), "d".into(), "d".into())
        );
        let given = |pod: &str, containers: &[&str]| inventory.given(pod, "x.test/dev", containers.iter().copied());
        assert_eq!(given("p", &["init"]), Some(vec!["a".to_owned()]));
        assert_eq!(given("p", &["init", "main"]), None);
        let (capacity, allocatable) = inventory.amounts();
        assert_eq!((capacity["x.test/dev"], allocatable["x.test/dev"]), (4, 3));
        let ids = ["a", "d", "e"].map(str::to_owned);
        let choose = |wanted, preferred: &str| Inventory::choose("x.test/dev", &ids, wanted, &[preferred.to_owned()]);
        assert_eq!(choose(2, "e"), Ok(vec!["e".to_owned(), "a".to_owned()]));
        assert_eq!(
            choose(4, ""),
            Err("requested number of devices unavailable for x.test/dev. Requested: 4, Available: 3".to_owned())
        );
    }
}
