//! `networking.k8s.io/v1 IPAddress`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("networking.k8s.io", "v1", "IPAddress", "ipaddresses").short(&["ip"]).build()
}
