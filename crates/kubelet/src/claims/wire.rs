//! The messages of the services of dynamic resources' drivers. `v1` and `v1beta1` differ in their names alone.

use std::collections::HashMap;

use prost::Message;

macro_rules! messages {
    ($($name:ident { $($(#[$field:meta])+ $part:ident: $kind:ty,)* })*) => {$(
        #[derive(Clone, PartialEq, Message)]
        pub struct $name { $($(#[$field])+ pub $part: $kind,)* }
    )*};
}

messages! {
    // To prepare claims, or to take that back.
    Claims {
        #[prost(message, repeated, tag = "1")] claims: Vec<Claim>,
    }
    Claim {
        #[prost(string, tag = "1")] namespace: String,
        #[prost(string, tag = "2")] uid: String,
        #[prost(string, tag = "3")] name: String,
    }
    // By the claims' uids.
    Prepared {
        #[prost(map = "string, message", tag = "1")] claims: HashMap<String, PreparedClaim>,
    }
    PreparedClaim {
        #[prost(message, repeated, tag = "1")] devices: Vec<Device>,
        #[prost(string, tag = "2")] error: String,
    }
    Device {
        #[prost(string, repeated, tag = "1")] request_names: Vec<String>,
        #[prost(string, tag = "2")] pool_name: String,
        #[prost(string, tag = "3")] device_name: String,
        #[prost(string, repeated, tag = "4")] cdi_device_ids: Vec<String>,
    }
    Unprepared {
        #[prost(map = "string, message", tag = "1")] claims: HashMap<String, UnpreparedClaim>,
    }
    UnpreparedClaim {
        #[prost(string, tag = "1")] error: String,
    }
}
