//! How long a node rests before its failed pod is replaced once more. A state machine whose clock is the caller's.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// A node on which a set's pod of a generation has failed. A new generation is tried at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    pub set: String,
    pub generation: i64,
    pub node: String,
}

struct Rest {
    delay: Duration,
    since: Instant,
}

/// The nodes that rest.
#[derive(Default)]
pub(super) struct Backoff(HashMap<Spot, Rest>);

impl Backoff {
    /// Whether a failed pod may be replaced now, which makes the next rest longer; if not, how long until then.
    pub fn replace(&mut self, spot: Spot, now: Instant) -> Result<(), Duration> {
        // One that has not failed for long starts over.
        self.0.retain(|_, rest| now.duration_since(rest.since) <= LONGEST * 2);
        let delay = match self.0.get(&spot) {
            Some(rest) if now.duration_since(rest.since) < rest.delay => {
                return Err(rest.delay - now.duration_since(rest.since));
            }
            Some(rest) => (rest.delay * 2).min(LONGEST),
            None => FIRST,
        };
        self.0.insert(spot, Rest { delay, since: now });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_rests_twice_as_long_after_each_failure_and_others_do_not() {
        let spot = |generation, node: &str| Spot { set: "s".to_owned(), generation, node: node.to_owned() };
        let (start, seconds) = (Instant::now(), Duration::from_secs);
        let mut backoff = Backoff::default();
        // When, where: the rest that is left.
        let cases = [
            (0, 1, "a", None),
            (0, 1, "a", Some(1)),
            (0, 1, "b", None),
            (1, 1, "a", None),
            (2, 1, "a", Some(1)),
            (2, 2, "a", None),
            (3, 1, "a", None),
            (6, 1, "a", Some(1)),
            (7, 1, "a", None),
            // So long after the last failure that it begins anew.
            (7 + 1801, 1, "a", None),
            (7 + 1801, 1, "a", Some(1)),
        ];
        for (at, generation, node, expected) in cases {
            let rest = backoff.replace(spot(generation, node), start + seconds(at)).err();
            assert_eq!(rest, expected.map(seconds), "{at} {generation} {node}");
        }
        let mut at = start + seconds(10_000);
        for _ in 0..20 {
            at += backoff.replace(spot(1, "a"), at).err().unwrap_or_default();
        }
        backoff.replace(spot(1, "a"), at).unwrap();
        assert_eq!(backoff.replace(spot(1, "a"), at), Err(LONGEST), "never longer than that");
    }
}
