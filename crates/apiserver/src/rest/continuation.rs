//! The continue token of a paged list: at which revision and behind which key the next page begins.

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::clock;

/// Where a list goes on. Opaque to clients.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    v: String,
    /// The revision of the first page; -1 to go on inconsistently at the newest.
    pub rv: i64,
    /// The last key that was sent, without the range's prefix.
    pub start: String,
    /// When the first page was read, in seconds since 1970.
    #[serde(default)]
    at: i64,
}

/// For how long a list can be continued consistently, as upstream's compaction interval. Whoever takes longer is told so even
/// where the revision could still be read, so that clients need to know only one rule.
const LIFE: i64 = 300;

impl Continuation {
    /// The place behind a key; `before` is the token of the page before, if that was not the first.
    pub fn new(revision: i64, key: &str, prefix: &str, before: Option<&Continuation>) -> Self {
        let start = key.strip_prefix(prefix).unwrap_or(key).to_owned();
        let at = before.filter(|b| b.rv == revision).map_or_else(clock::seconds, |before| before.at);
        Continuation { v: "meta.k8s.io/v1".to_owned(), rv: revision, start, at }
    }

    /// Whether it can be continued only without consistency.
    pub fn is_old(&self) -> bool {
        self.rv >= 0 && clock::seconds() - self.at > LIFE
    }

    /// The same place at whatever revision is newest then.
    pub fn inconsistent(&self) -> Self {
        Continuation { v: self.v.clone(), rv: -1, start: self.start.clone(), at: self.at }
    }

    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub fn decode(token: &str) -> Result<Self, Status> {
        let invalid = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| invalid("not base64"))?;
        let this: Continuation = serde_json::from_slice(&bytes).map_err(|_| invalid("not a continue token"))?;
        if this.v != "meta.k8s.io/v1" {
            return Err(invalid("server does not recognize this encoded version"));
        }
        if this.start.is_empty()
            || this.rv == 0
            || this.rv < -1
            || this.start.split('/').any(|s| s.is_empty() || s == "..")
        {
            return Err(invalid("incorrect encoded start"));
        }
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_way_and_nonsense_is_refused() {
        let token = Continuation::new(7, "/registry/pods/a/b", "/registry/pods/", None);
        assert_eq!(token.start, "a/b");
        assert!(!token.is_old() && Continuation { at: 0, ..Continuation::new(7, "k", "", None) }.is_old());
        assert_eq!(Continuation::decode(&token.encode()), Ok(token));
        for bad in [
            "",
            "x",
            "e30",
            "eyJ2IjoieCIsInJ2IjoxLCJzdGFydCI6ImEifQ",
            "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9hIn0",
        ] {
            assert!(Continuation::decode(bad).is_err(), "{bad}");
        }
    }
}
