//! Addresses of pods, remembered on disk: one record a sandbox, written before the address is used.
//!
//! A record appears whole or not at all (it is renamed into place). It is not forced to the disk: what a power failure
//! could lose, the pods that it was about, have then ended too. Addresses go round, so that one that was given back is used
//! again as late as possible.

use super::PortMapping;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Offsets go into interface names, and no node has more pods.
const MOST: u128 = 1 << 24;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no IP addresses available in range set: {first}-{last}")]
    Exhausted { first: IpAddr, last: IpAddr },
    #[error("network records in {path}: {source}")]
    Disk { path: PathBuf, source: io::Error },
}

/// What is known of an attached sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub sandbox: String,
    pub namespace: String,
    pub name: String,
    /// One of each range.
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub ports: Vec<PortMapping>,
}

pub const VERSION: u32 = 1;

#[derive(Debug)]
pub struct Ipam {
    directory: PathBuf,
    ranges: Vec<Range>,
    records: BTreeMap<String, Record>,
    used: HashSet<IpAddr>,
}

#[derive(Debug)]
struct Range {
    network: IpNet,
    /// The offset that was given out last.
    last: u128,
}

impl Ipam {
    /// Reads the records of an earlier life. What is no record (a crash left it half written) is removed.
    pub fn open(directory: &Path, ranges: &[IpNet]) -> Result<Ipam, Error> {
        let ranges = ranges.iter().map(|network| Range { network: *network, last: 1 }).collect();
        let mut ipam = Ipam { directory: directory.to_owned(), ranges, records: BTreeMap::new(), used: HashSet::new() };
        ipam.load().map_err(|source| ipam.disk(source))?;
        Ok(ipam)
    }

    fn load(&mut self) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == "last") {
                let last: Vec<IpAddr> = serde_json::from_slice(&std::fs::read(&path)?).unwrap_or_default();
                for range in &mut self.ranges {
                    range.last = last.iter().find_map(|address| range.offset(*address)).unwrap_or(range.last);
                }
                continue;
            }
            match serde_json::from_slice::<Record>(&std::fs::read(&path)?) {
                Ok(record) if record.version <= VERSION => {
                    self.used.extend(&record.addresses);
                    self.records.insert(record.sandbox.clone(), record);
                }
                _ => std::fs::remove_file(&path)?,
            }
        }
        Ok(())
    }

    /// The addresses of the sandbox: those that it has, else the next free ones.
    pub fn allocate(&mut self, mut record: Record) -> Result<Record, Error> {
        if let Some(known) = self.records.get(&record.sandbox) {
            return Ok(known.clone());
        }
        record.addresses.clear();
        for range in &self.ranges {
            let offset = range
                .next(&self.used)
                .ok_or_else(|| Error::Exhausted { first: range.address(1), last: range.address(range.size() - 1) })?;
            record.addresses.push(range.address(offset));
        }
        self.write(&self.path(&record.sandbox), &record)?;
        self.write(&self.directory.join("last"), &record.addresses)?;
        for (range, address) in self.ranges.iter_mut().zip(&record.addresses) {
            range.last = range.offset(*address).unwrap_or(range.last);
        }
        self.used.extend(&record.addresses);
        self.records.insert(record.sandbox.clone(), record.clone());
        Ok(record)
    }

    /// Gives the sandbox's addresses back; nothing for a sandbox that has none.
    pub fn release(&mut self, sandbox: &str) -> Result<(), Error> {
        let Some(record) = self.records.get(sandbox) else { return Ok(()) };
        match std::fs::remove_file(self.path(sandbox)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.disk(error)),
            _ => {}
        }
        record.addresses.iter().for_each(|address| {
            self.used.remove(address);
        });
        self.records.remove(sandbox);
        Ok(())
    }

    pub fn get(&self, sandbox: &str) -> Option<&Record> {
        self.records.get(sandbox)
    }

    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The place of an address in its range, which no other attached sandbox has.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.ranges.iter().find_map(|range| range.offset(address))
    }

    fn path(&self, sandbox: &str) -> PathBuf {
        self.directory.join(format!("{sandbox}.json"))
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), Error> {
        let fresh = path.with_extension("new");
        let bytes = serde_json::to_vec(value).map_err(|error| self.disk(error.into()))?;
        std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, path)).map_err(|source| self.disk(source))
    }

    fn disk(&self, source: io::Error) -> Error {
        Error::Disk { path: self.directory.clone(), source }
    }
}

impl Range {
    /// Addresses in the range, the network's own included, the broadcast address not.
    fn size(&self) -> u128 {
        let bits = u32::from(self.network.max_prefix_len() - self.network.prefix_len());
        let all = 1u128.checked_shl(bits).unwrap_or(MOST).min(MOST);
        if self.network.addr().is_ipv4() { all.saturating_sub(1) } else { all }
    }

    /// The first free offset behind the last one. 0 is the network, 1 the gateway.
    fn next(&self, used: &HashSet<IpAddr>) -> Option<u128> {
        (self.last + 1..self.size()).chain(2..=self.last).find(|offset| !used.contains(&self.address(*offset)))
    }

    fn address(&self, offset: u128) -> IpAddr {
        at(self.network, offset)
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        self.network.contains(&address).then(|| number(address) - number(self.network.network()))
    }
}

/// The address at an offset in a range.
pub fn at(range: IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4).wrapping_add(offset as u32)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6).wrapping_add(offset)).into()),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path, range: &str) -> Ipam {
        Ipam::open(directory, &[range.parse().unwrap()]).unwrap()
    }

    fn allocate(ipam: &mut Ipam, sandbox: &str) -> Result<String, Error> {
        let record = Record {
            version: VERSION,
            sandbox: sandbox.into(),
            namespace: String::new(),
            name: String::new(),
            addresses: vec![],
            ports: vec![],
        };
        ipam.allocate(record).map(|record| record.addresses[0].to_string())
    }

    #[test]
    fn addresses_go_round_before_one_is_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = open(directory.path(), "10.0.0.0/29");
        assert_eq!(allocate(&mut ipam, "a").unwrap(), "10.0.0.2");
        assert_eq!(allocate(&mut ipam, "b").unwrap(), "10.0.0.3");
        ipam.release("a").unwrap();
        assert_eq!(allocate(&mut ipam, "c").unwrap(), "10.0.0.4");
        assert_eq!(allocate(&mut ipam, "d").unwrap(), "10.0.0.5");
        assert_eq!(allocate(&mut ipam, "e").unwrap(), "10.0.0.6");
        assert_eq!(allocate(&mut ipam, "f").unwrap(), "10.0.0.2");
    }

    #[test]
    fn an_exhausted_range_is_told_with_its_bounds_and_takes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = open(directory.path(), "10.0.0.0/30");
        allocate(&mut ipam, "a").unwrap();
        let error = allocate(&mut ipam, "b").unwrap_err();
        assert_eq!(error.to_string(), "no IP addresses available in range set: 10.0.0.1-10.0.0.2");
        ipam.release("a").unwrap();
        assert_eq!(allocate(&mut ipam, "b").unwrap(), "10.0.0.2");
    }

    #[test]
    fn a_restart_keeps_the_addresses_and_the_place_in_the_round_and_drops_half_written_records() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = open(directory.path(), "10.0.0.0/24");
        allocate(&mut ipam, "a").unwrap();
        allocate(&mut ipam, "b").unwrap();
        ipam.release("b").unwrap();
        std::fs::write(directory.path().join("c.new"), b"{\"version\":1,").unwrap();
        let mut ipam = open(directory.path(), "10.0.0.0/24");
        assert!(!directory.path().join("c.new").exists());
        assert_eq!(allocate(&mut ipam, "a").unwrap(), "10.0.0.2");
        assert_eq!(allocate(&mut ipam, "d").unwrap(), "10.0.0.4");
    }

    #[test]
    fn both_families_give_one_address_each() {
        let directory = tempfile::tempdir().unwrap();
        let ranges = ["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let mut ipam = Ipam::open(directory.path(), &ranges).unwrap();
        let record = Record {
            version: VERSION,
            sandbox: "a".into(),
            namespace: String::new(),
            name: String::new(),
            addresses: vec![],
            ports: vec![],
        };
        let addresses = ipam.allocate(record).unwrap().addresses;
        assert_eq!(addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
    }
}
