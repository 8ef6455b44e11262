//! The machine's switches for forwarding between interfaces: set where they are off, and set back by the purge that finds
//! nobody else who needs them.

use super::{Error, Ranges, foreign, table_name};
use crate::nft::Family;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const SWITCHES: [(&str, Family); 2] =
    [("/proc/sys/net/ipv4/ip_forward", Family::V4), ("/proc/sys/net/ipv6/conf/all/forwarding", Family::V6)];

/// What the switches were before a cluster set them. Kept where nothing outlives the machine's next start.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Before(BTreeMap<String, String>);

impl Before {
    fn path(run: &Path) -> PathBuf {
        run.join("sysctls.json")
    }

    fn read(run: &Path) -> Before {
        std::fs::read(Before::path(run)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn write(&self, run: &Path) -> io::Result<()> {
        std::fs::create_dir_all(run)?;
        std::fs::write(Before::path(run), serde_json::to_vec(self)?)
    }
}

/// Lets the node route for its pods.
pub(super) fn enable(ranges: &Ranges, run: &Path) -> Result<(), Error> {
    let mut before = Before::read(run);
    for (path, family) in SWITCHES {
        let used = ranges.pods.iter().any(|range| Family::of(range.addr()) == family);
        let failed = |source| Error::Sysctl { path, wanted: "1", source };
        if !used {
            continue;
        }
        match std::fs::read_to_string(path) {
            Ok(value) if value.trim() != "1" => {
                before.0.entry(path.to_owned()).or_insert_with(|| value.trim().to_owned());
                before.write(run).map_err(failed)?;
                std::fs::write(path, "1").map_err(failed)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sets back what the cluster has set. Another cluster of this machine inherits that task; where another program has
/// rules for forwarded packets, the switches stay on.
pub(super) fn restore(id: &str, run: &Path) -> Result<(), Error> {
    let before = Before::read(run);
    if before.0.is_empty() {
        return Ok(());
    }
    let anchors = foreign::other_anchors(id).map_err(super::netlink("netlink"))?;
    if let Some(heir) = anchors.iter().find_map(|anchor| place_of(anchor, run)) {
        let mut inherited = Before::read(&heir);
        for (path, value) in before.0 {
            inherited.0.entry(path).or_insert(value);
        }
        if let Err(error) = inherited.write(&heir) {
            tracing::warn!(%error, "forwarding stays on when the last cluster is gone");
        }
        return Ok(());
    }
    let own = table_name(id);
    let others = foreign::forward_chains().map_err(super::netlink("nftables"))?;
    if anchors.is_empty() && others.iter().all(|chain| chain.table == own) {
        for (path, family) in SWITCHES {
            let Some(value) = before.0.get(path) else { continue };
            if let Err(error) = std::fs::write(path, value) {
                tracing::warn!(path, ?family, %error, "forwarding could not be set back");
            }
        }
    }
    let _ = std::fs::remove_file(Before::path(run));
    Ok(())
}

/// The directory of the cluster with this anchor, beside ours.
fn place_of(anchor: &str, run: &Path) -> Option<PathBuf> {
    let id = anchor.strip_prefix("rg")?;
    let clusters = std::fs::read_dir(run.parent()?).ok()?.flatten();
    clusters.map(|entry| entry.path()).find(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(id)) && path != run
    })
}
