//! What the node has, and what of it pods may ask for.

use std::collections::BTreeMap;

use api::quantity::{Format, Quantity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::facts::{self, Disk};
use crate::config::Configuration;
use crate::eviction::{Signal, Thresholds, reserved};
use crate::resources::{self, Amounts};

/// Amounts as the API shows them.
pub type Shown = BTreeMap<String, Text>;

/// What is there: measured once, when the kubelet starts, since pods were admitted by it.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub cpus: usize,
    pub memory: u64,
    pub disk: u64,
    /// Bytes of a page, and how many are set aside.
    pub huge_pages: Vec<(u64, u64)>,
}

impl Machine {
    pub fn measure(data: &std::path::Path) -> Machine {
        Machine {
            cpus: facts::cpus(),
            memory: facts::Memory::read().total,
            disk: Disk::at(data).map_or(0, |disk| disk.capacity),
            huge_pages: facts::huge_pages(),
        }
    }

    pub fn capacity(&self, max_pods: u32) -> Shown {
        let mut all: Shown = [
            ("cpu", self.cpus.to_string()),
            ("memory", format!("{}Ki", self.memory / 1024)),
            ("pods", max_pods.to_string()),
            ("ephemeral-storage", format!("{}Ki", self.disk / 1024)),
        ]
        .map(|(name, text)| (name.to_owned(), Text(text)))
        .into();
        all.extend(self.huge_pages.iter().map(|(size, count)| {
            let bytes = |number: u64| Quantity::new(i64::try_from(number).unwrap_or(i64::MAX), Format::BinarySi);
            (format!("hugepages-{}", bytes(*size)), Text(bytes(size * count).to_string()))
        }));
        all
    }
}

/// What is kept back from pods: for the system, for the kubelet and for hard eviction thresholds. The configuration is valid.
pub fn kept_back(configuration: &Configuration, thresholds: &Thresholds, capacity: &Shown) -> Amounts {
    let mut all = Amounts::new();
    for texts in [&configuration.system_reserved, &configuration.kube_reserved] {
        for (name, amount) in reserved(texts).unwrap_or_default() {
            *all.entry(name).or_default() += amount;
        }
    }
    for (name, signal) in [("memory", Signal::MemoryAvailable), ("ephemeral-storage", Signal::NodeFsAvailable)] {
        let whole = capacity.get(name).map_or(0, |text| resources::parse(text).value());
        *all.entry(name.to_owned()).or_default() += thresholds.reserved(signal, whole);
    }
    // Pages that are set aside are no memory for anything else.
    let huge = capacity.iter().filter(|(name, _)| name.starts_with("hugepages-"));
    *all.entry("memory".to_owned()).or_default() += huge.map(|(_, text)| resources::parse(text).value()).sum::<i64>();
    all
}

/// What is left of a capacity; never less than nothing.
pub fn allocatable(capacity: &Shown, kept: &Amounts) -> Shown {
    let one = |(name, text): (&String, &Text)| {
        let Some(kept) = kept.get(name).filter(|kept| **kept > 0) else { return (name.clone(), text.clone()) };
        let whole = resources::parse(text);
        let left = if name == "cpu" {
            Quantity::from_milli((whole.milli_value() - kept).max(0), whole.format())
        } else {
            let left = (whole.value() - kept).max(0);
            // As upstream shows it: what is no whole number of kibibytes is plain.
            Quantity::new(left, if left % 1024 == 0 { whole.format() } else { Format::DecimalSi })
        };
        let shown = match name.as_str() {
            "memory" if left.value() % 1024 == 0 => format!("{}Ki", left.value() / 1024),
            _ => left.to_string(),
        };
        (name.clone(), Text(shown))
    };
    capacity.iter().map(one).collect()
}

/// The resources of the node that others told the API of, such as a user by a patch: those that no kubelet measures.
pub fn foreign(told: Option<&Shown>, own: &Shown) -> Shown {
    let measured = |name: &String| own.contains_key(name) || name.starts_with("hugepages-");
    told.into_iter().flatten().filter(|(name, _)| !measured(name)).map(|(n, t)| (n.clone(), t.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Texts;

    #[test]
    fn reservations_thresholds_and_huge_pages_are_kept_back() {
        let machine =
            Machine { cpus: 4, memory: 8 << 30, disk: 100 << 30, huge_pages: vec![(2 << 20, 512), (1 << 30, 0)] };
        let texts = |pairs: &[(&str, &str)]| -> Texts {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let configuration = Configuration {
            system_reserved: texts(&[("cpu", "500m"), ("memory", "1Gi")]),
            kube_reserved: texts(&[("cpu", "100m"), ("ephemeral-storage", "1Gi")]),
            eviction_hard: Some(texts(&[("memory.available", "100Mi"), ("nodefs.available", "10%")])),
            ..Configuration::default()
        };
        let thresholds = configuration.thresholds().unwrap();
        let capacity = machine.capacity(110);
        let left = allocatable(&capacity, &kept_back(&configuration, &thresholds, &capacity));
        let show = |all: &Shown| all.iter().map(|(n, t)| format!("{n}={}", t.0)).collect::<Vec<_>>().join(" ");
        assert_eq!(
            show(&capacity),
            "cpu=4 ephemeral-storage=104857600Ki hugepages-1Gi=0 hugepages-2Mi=1Gi memory=8388608Ki pods=110"
        );
        assert_eq!(
            show(&left),
            "cpu=3400m ephemeral-storage=89Gi hugepages-1Gi=0 hugepages-2Mi=1Gi memory=6189056Ki pods=110"
        );
        let mut told = capacity.clone();
        told.insert("example.com/foo".to_owned(), Text("5".to_owned()));
        assert_eq!(show(&foreign(Some(&told), &capacity)), "example.com/foo=5");
    }
}
