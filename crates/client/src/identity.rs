//! Who is calling.

use std::collections::BTreeMap;

/// The authenticated caller of a request, as upstream's `user.Info`.
///
/// In memory it travels beside the connection and never in a header, so that nobody can claim it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user's name, such as `system:kube-scheduler`.
    pub name: String,
    /// A value that tells users of the same name apart over time; often empty.
    pub uid: String,
    /// The groups that the user is in, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Further facts that authenticators know, such as the pod of a service account's token.
    pub extra: BTreeMap<String, Vec<String>>,
}

const AUTHENTICATED: &str = "system:authenticated";

impl Identity {
    fn new<const N: usize>(name: String, groups: [&str; N]) -> Identity {
        let groups = groups.iter().map(ToString::to_string).collect();
        Identity { name, uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// A part of the control plane under a well-known user name: `system:kube-scheduler`.
    pub fn component(name: &str) -> Identity {
        Identity::new(name.to_owned(), [AUTHENTICATED])
    }

    /// A service account, with the groups that its token would give.
    pub fn service_account(namespace: &str, name: &str) -> Identity {
        let everyone_here = format!("system:serviceaccounts:{namespace}");
        let groups = ["system:serviceaccounts", &everyone_here, AUTHENTICATED];
        Identity::new(format!("system:serviceaccount:{namespace}:{name}"), groups)
    }

    /// One controller, which upstream runs as a service account of its own in `kube-system`.
    pub fn controller(name: &str) -> Identity {
        Identity::service_account("kube-system", name)
    }

    /// A part of the control plane by its whole user name, or a controller by its service account's.
    pub fn part(name: &str) -> Identity {
        if name.starts_with("system:") { Identity::component(name) } else { Identity::controller(name) }
    }

    /// The kubelet of a node.
    pub fn node(name: &str) -> Identity {
        Identity::new(format!("system:node:{name}"), ["system:nodes", AUTHENTICATED])
    }

    /// A member of `system:masters`, who may do everything.
    pub fn admin(name: &str) -> Identity {
        Identity::new(name.to_owned(), ["system:masters", AUTHENTICATED])
    }

    /// Who sent no credentials at all.
    pub fn anonymous() -> Identity {
        Identity::new("system:anonymous".to_owned(), ["system:unauthenticated"])
    }

    /// The program's name as it goes into `User-Agent`, from which the server makes the default field manager, and
    /// which therefore follows upstream's: `kubelet`, `kube-scheduler`, `kube-controller-manager`.
    pub fn agent(&self) -> &str {
        match self.name.strip_prefix("system:") {
            Some(name) if name.starts_with("node:") => "kubelet",
            Some(name) if name.starts_with("serviceaccount:kube-system:") => "kube-controller-manager",
            Some(name) if !name.contains(':') => name,
            _ => "regatta",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_named_as_upstream_names_its_programs() {
        let cases = [
            (Identity::node("a"), "kubelet"),
            (Identity::controller("job-controller"), "kube-controller-manager"),
            (Identity::component("system:kube-scheduler"), "kube-scheduler"),
            (Identity::admin("kubernetes-admin"), "regatta"),
            (Identity::service_account("default", "x"), "regatta"),
        ];
        for (identity, agent) in cases {
            assert_eq!(identity.agent(), agent, "{}", identity.name);
        }
    }
}
