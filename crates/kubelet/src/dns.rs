//! What a pod's names are: its host name, its `/etc/hosts` and its `/etc/resolv.conf`.

use std::fmt::Write as _;
use std::path::Path;

use runtime::cri::DNSConfig;

use crate::pods::pod::Pod;

/// The cluster's DNS as pods see it.
#[derive(Clone, Debug, Default)]
pub struct ClusterDns {
    pub servers: Vec<String>,
    /// `cluster.local`.
    pub domain: String,
}

/// Longest host name the kernel takes.
const HOST_NAME_MAX: usize = 63;
/// Longest name that the kernel takes for the whole of host and domain.
const FULL_NAME_MAX: usize = 64;
/// What resolvers read of their settings: servers, domains to search, the length of each and of all.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const DOMAIN_MAX: usize = 253;
const SEARCH_LINE_MAX: usize = 2048;
/// Where a node whose resolver is systemd's has the settings that others can use.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The pod's host name, and its domain below the cluster's where it has a subdomain.
pub fn host_name(pod: &Pod, cluster: &ClusterDns) -> (String, String) {
    let spec = pod.spec();
    if let Some(name) = &spec.hostname_override {
        return (name.clone(), String::new());
    }
    let mut name: &str = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(&pod.name);
    if name.len() > HOST_NAME_MAX {
        name = name[..HOST_NAME_MAX].trim_end_matches(['-', '.']);
    }
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty());
    let domain = subdomain.map(|s| format!("{s}.{}.svc.{}", pod.namespace, cluster.domain)).unwrap_or_default();
    (name.to_owned(), domain)
}

/// The name that the kernel is to give; with `setHostnameAsFQDN` the whole one.
pub fn kernel_name(pod: &Pod, cluster: &ClusterDns) -> Result<String, String> {
    let (name, domain) = host_name(pod, cluster);
    if domain.is_empty() || !pod.spec().set_hostname_as_fqdn.unwrap_or(false) {
        return Ok(name);
    }
    let whole = format!("{name}.{domain}");
    if whole.len() > FULL_NAME_MAX {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too long (64 characters is the max, {} characters requested)",
            whole.len()
        ));
    }
    Ok(whole)
}

/// The pod's `/etc/hosts`; `node` is the node's own, which pods on its network get.
pub fn hosts_file(pod: &Pod, ips: &[String], cluster: &ClusterDns, node: &str) -> String {
    let mut out = String::new();
    if pod.host_network() {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(node);
    } else {
        out.push_str(concat!(
            "# Kubernetes-managed hosts file.\n",
            "127.0.0.1\tlocalhost\n",
            "::1\tlocalhost ip6-localhost ip6-loopback\n",
            "fe00::0\tip6-localnet\n",
            "fe00::0\tip6-mcastprefix\n",
            "fe00::1\tip6-allnodes\n",
            "fe00::2\tip6-allrouters\n",
        ));
        let (name, domain) = host_name(pod, cluster);
        for ip in ips {
            let whole = if domain.is_empty() { String::new() } else { format!("{name}.{domain}\t") };
            let _ = writeln!(out, "{ip}\t{whole}{name}");
        }
    }
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(out, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    out
}

/// The node's resolver settings for pods; none where the file is none. A resolver on the node's own loopback is nobody else's.
pub fn of_node(file: &Path) -> Option<String> {
    if file.as_os_str().is_empty() {
        return None;
    }
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let servers = parse(&text).servers;
    let local = !servers.is_empty() && servers.iter().all(|s| s.starts_with("127.") || s == "::1");
    let better = if local { std::fs::read_to_string(RESOLVED).ok() } else { None };
    Some(better.unwrap_or(text))
}

/// Cuts settings down to what resolvers read, and gives what there is to say about it.
pub fn fit(config: &mut DNSConfig) -> Vec<String> {
    let mut told = Vec::new();
    if config.servers.len() > SERVERS_MAX {
        config.servers.truncate(SERVERS_MAX);
        told.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            config.servers.join(" ")
        ));
    }
    let before = config.searches.len();
    config.searches.truncate(SEARCHES_MAX);
    config.searches.retain(|domain| domain.len() <= DOMAIN_MAX);
    while config.searches.join(" ").len() > SEARCH_LINE_MAX {
        config.searches.pop();
    }
    if config.searches.len() < before {
        told.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            config.searches.join(" ")
        ));
    }
    told
}

/// The pod's resolver settings; `node` is the text of the node's own `resolv.conf`.
pub fn resolver(pod: &Pod, cluster: &ClusterDns, node: &str) -> DNSConfig {
    let spec = pod.spec();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let from_cluster = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !pod.host_network());
    let mut config = match policy {
        "None" => DNSConfig::default(),
        _ if from_cluster && !cluster.servers.is_empty() => {
            let domain = &cluster.domain;
            let mut searches = vec![format!("{}.svc.{domain}", pod.namespace), format!("svc.{domain}"), domain.clone()];
            merge(&mut searches, &parse(node).searches);
            DNSConfig { servers: cluster.servers.clone(), searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => parse(node),
    };
    if policy != "None" && config.servers.is_empty() && node.is_empty() {
        // What a resolver takes without a word is the loopback; said aloud, nobody fills it in.
        (config.servers, config.searches) = (vec!["127.0.0.1".to_owned()], vec![".".to_owned()]);
    }
    if let Some(own) = &spec.dns_config {
        merge(&mut config.servers, own.nameservers.as_deref().unwrap_or_default());
        merge(&mut config.searches, own.searches.as_deref().unwrap_or_default());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    config
}

fn merge(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn parse(text: &str) -> DNSConfig {
    let mut config = DNSConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else { continue };
        let words = words.map(str::to_owned);
        match keyword {
            "nameserver" => config.servers.extend(words.take(1)),
            "search" => {
                config.searches = words.map(|w| w.trim_end_matches('.').to_owned()).filter(|w| !w.is_empty()).collect()
            }
            "options" => config.options = words.collect(),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let object = serde_json::json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec});
        Pod::new(serde_json::from_value(object).unwrap())
    }

    fn cluster() -> ClusterDns {
        ClusterDns { servers: vec!["10.96.0.10".into()], domain: "cluster.local".into() }
    }

    #[test]
    fn the_dns_policy_chooses_the_resolver() {
        let node = "nameserver 192.0.2.1\nsearch corp.example.\noptions edns0\n";
        for (spec, expected) in [
            (
                serde_json::json!({}),
                "10.96.0.10|shop.svc.cluster.local svc.cluster.local cluster.local corp.example|ndots:5",
            ),
            (serde_json::json!({"hostNetwork": true}), "192.0.2.1|corp.example|edns0"),
            (serde_json::json!({"dnsPolicy": "Default"}), "192.0.2.1|corp.example|edns0"),
            (
                serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"],
                    "searches": ["a.example"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "192.0.2.9|a.example|ndots:2 edns0",
            ),
            (
                serde_json::json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
                "10.96.0.10|shop.svc.cluster.local svc.cluster.local cluster.local corp.example|ndots:2",
            ),
        ] {
            let got = resolver(&pod(spec.clone()), &cluster(), node);
            let got = [got.servers, got.searches, got.options].map(|l| l.join(" ")).join("|");
            assert_eq!(got, expected, "{spec}");
        }
    }

    #[test]
    fn settings_are_cut_to_what_resolvers_read() {
        let list = |count: usize, length: usize| -> Vec<String> {
            (0..count).map(|number| format!("{number:0length$}")).collect()
        };
        for (servers, searches, expected) in [
            (list(3, 1), list(32, 63), (3, 32, 0)),
            (list(4, 1), list(33, 10), (3, 32, 2)),
            (list(1, 1), list(32, 64), (1, 31, 1)),
            (list(1, 1), list(2, 254), (1, 0, 1)),
        ] {
            let mut config = DNSConfig { servers, searches, ..DNSConfig::default() };
            let told = fit(&mut config);
            assert_eq!((config.servers.len(), config.searches.len(), told.len()), expected);
            assert!(told.iter().all(|text| text.contains("limits were exceeded")), "{told:?}");
        }
    }

    #[test]
    fn a_subdomain_gives_the_pod_a_full_name() {
        let pod = pod(serde_json::json!({"subdomain": "db", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["a", "b"]}]}));
        assert_eq!(kernel_name(&pod, &cluster()).unwrap(), "web-0.db.shop.svc.cluster.local");
        let hosts = hosts_file(&pod, &["10.1.0.2".to_owned()], &cluster(), "");
        assert!(hosts.contains("10.1.0.2\tweb-0.db.shop.svc.cluster.local\tweb-0\n"), "{hosts}");
        assert!(hosts.ends_with("\n# Entries added by HostAliases.\n192.0.2.7\ta\tb\n"), "{hosts}");
    }
}
