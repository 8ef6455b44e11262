//! Thresholds: how little of something may be left, for how long, and how much more must be there before it is well again.

use std::time::Duration;

use api::quantity::Quantity;

use super::signal::Signal;
use crate::config::{Configuration, Texts};

/// What holds where a configuration says nothing. Disks are let fill up further than upstream does: most machines that run a
/// single node use one disk for everything, and a tenth of it free is common there.
const DEFAULTS: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "5%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "5%"),
    ("imagefs.inodesFree", "5%"),
];

/// An amount, or a part of the capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Absolute(i64),
    Part(f64),
}

impl Amount {
    /// `None` is no threshold: upstream takes `0%` and `100%` for that.
    fn parse(signal: &str, text: &str) -> Result<Option<Amount>, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let bad = || format!("eviction threshold {signal} must be a percentage between 0% and 100%: {text}");
            let percent: f64 = percent.parse().map_err(|_| bad())?;
            return match percent {
                0.0 | 100.0 => Ok(None),
                percent if percent > 0.0 && percent < 100.0 => Ok(Some(Amount::Part(percent / 100.0))),
                _ => Err(bad()),
            };
        }
        let quantity = Quantity::parse(text).map_err(|_| {
            format!("eviction threshold {signal}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
        })?;
        match quantity.value() {
            value if value > 0 => Ok(Some(Amount::Absolute(value))),
            _ => Err(format!("eviction threshold {signal} must be positive: {text}")),
        }
    }

    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Amount::Absolute(amount) => amount,
            Amount::Part(part) => (part * capacity as f64) as i64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub value: Amount,
    /// Zero where pods are evicted at once.
    pub grace: Duration,
    pub reclaim: Option<Amount>,
}

impl Threshold {
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

/// All thresholds and what holds for them together.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    pub all: Vec<Threshold>,
    /// How long a condition is kept after it was last seen.
    pub transition: Duration,
    /// Seconds that a pod gets at most to stop where a soft threshold is met.
    pub max_grace: i64,
}

impl Thresholds {
    pub fn new(configuration: &Configuration) -> Result<Thresholds, String> {
        let defaults = DEFAULTS.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let hard = match &configuration.eviction_hard {
            None => defaults,
            Some(own) if configuration.merge_default_eviction_settings => {
                let mut merged: Texts = defaults;
                merged.extend(own.clone());
                merged
            }
            Some(own) => own.clone(),
        };
        let mut reclaims = Vec::new();
        for (name, text) in &configuration.eviction_minimum_reclaim {
            reclaims.push((signal(name)?, Amount::parse(name, text)?));
        }
        let reclaim = |wanted: Signal| reclaims.iter().find(|(s, _)| *s == wanted).and_then(|(_, amount)| *amount);
        let mut all = Vec::new();
        for (name, text) in &hard {
            let signal = signal(name)?;
            if let Some(value) = Amount::parse(name, text)? {
                all.push(Threshold { signal, value, grace: Duration::ZERO, reclaim: reclaim(signal) });
            }
        }
        for (name, text) in &configuration.eviction_soft {
            let signal = signal(name)?;
            let grace = configuration.eviction_soft_grace_period.get(name).filter(|grace| !grace.0.is_zero());
            let grace = grace
                .ok_or_else(|| format!("grace period must be specified for the soft eviction threshold {name}"))?;
            if let Some(value) = Amount::parse(name, text)? {
                all.push(Threshold { signal, value, grace: grace.0, reclaim: reclaim(signal) });
            }
        }
        // Memory before all else, since it is what the kernel kills for.
        all.sort_by_key(|threshold| threshold.signal);
        Ok(Thresholds {
            all,
            transition: configuration.eviction_pressure_transition_period.0,
            max_grace: configuration.eviction_max_pod_grace_period,
        })
    }

    /// What hard thresholds keep back of a capacity.
    pub fn reserved(&self, signal: Signal, capacity: i64) -> i64 {
        let hard = self.all.iter().filter(|t| t.signal == signal && t.is_hard());
        hard.map(|t| t.value.of(capacity)).max().unwrap_or(0)
    }
}

fn signal(name: &str) -> Result<Signal, String> {
    Signal::parse(name).ok_or_else(|| format!("unknown eviction signal {name}"))
}

/// The amounts of a reservation such as `systemReserved`, in thousandths for `cpu`.
pub fn reserved(texts: &Texts) -> Result<crate::resources::Amounts, String> {
    let one = |(name, text): (&String, &String)| {
        if !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid") {
            return Err(format!("cannot reserve {name:?} resource"));
        }
        let quantity = Quantity::parse(text)
            .map_err(|error| format!("failed to parse quantity {text:?} for {name:?} resource: quantities {error}"))?;
        if quantity.sign() < 0 {
            return Err(format!("resource quantity for {name:?} cannot be negative: {text}"));
        }
        Ok((name.clone(), if name == "cpu" { quantity.milli_value() } else { quantity.value() }))
    };
    texts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_and_soft_thresholds_are_read_with_their_grace_and_reclaim() {
        let configuration = Configuration {
            eviction_hard: Some([("memory.available".to_owned(), "1Mi".to_owned())].into()),
            eviction_soft: [("pid.available".to_owned(), "10%".to_owned())].into(),
            eviction_soft_grace_period: [("pid.available".to_owned(), crate::config::Duration::from_secs(5))].into(),
            eviction_minimum_reclaim: [("memory.available".to_owned(), "1%".to_owned())].into(),
            ..Configuration::default()
        };
        let read = Thresholds::new(&configuration).unwrap();
        let memory = Threshold {
            signal: Signal::MemoryAvailable,
            value: Amount::Absolute(1 << 20),
            grace: Duration::ZERO,
            reclaim: Some(Amount::Part(0.01)),
        };
        let pids = Threshold {
            signal: Signal::PidAvailable,
            value: Amount::Part(0.1),
            grace: Duration::from_secs(5),
            reclaim: None,
        };
        assert_eq!(read.all, [memory, pids]);
        assert_eq!(read.reserved(Signal::MemoryAvailable, 1 << 30), 1 << 20);
        let defaults = Thresholds::new(&Configuration::default()).unwrap();
        assert_eq!(defaults.all.len(), DEFAULTS.len());
        let merged = Configuration { merge_default_eviction_settings: true, ..configuration };
        assert_eq!(Thresholds::new(&merged).unwrap().all.len(), DEFAULTS.len() + 1);
    }
}
