//! What the figures must reach, by the names under which they are printed.

/// A bound that a figure must keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

use Goal::{AtLeast, AtMost};

/// Each with the unit that it is printed in.
const GOALS: [(&str, Goal); 27] = [
    ("first start to a ready API server, p50", AtMost(200.0)),
    ("first start to a Ready node, p50", AtMost(1_000.0)),
    ("restart to a Ready node, p50", AtMost(300.0)),
    ("idle memory, PSS of all processes", AtMost(50.0)),
    ("idle CPU", AtMost(0.3)),
    ("idle writes to disk", AtMost(1_024.0)),
    ("create, 64 at once", AtLeast(9_000.0)),
    ("create, CPU of the server", AtMost(130.0)),
    ("get, 64 at once", AtLeast(15_000.0)),
    ("get, CPU of the server", AtMost(50.0)),
    ("patch, 64 at once", AtLeast(7_000.0)),
    ("patch, CPU of the server", AtMost(160.0)),
    ("delete, 64 at once", AtLeast(9_000.0)),
    ("delete, CPU of the server", AtMost(130.0)),
    ("list of 10000 pods, p50", AtMost(50.0)),
    ("memory with 10000 pods, PSS of the server", AtMost(120.0)),
    ("100 watchers, 200 writes/s, write to delivery, p99", AtMost(5.0)),
    ("CPU of the server, the write included", AtMost(10.0)),
    ("scheduling onto 1000 nodes, plain pods, created to bound", AtLeast(2_500.0)),
    ("scheduling onto 5000 nodes, plain pods, created to bound", AtLeast(2_000.0)),
    ("scheduling onto 20000 nodes, plain pods, created to bound", AtLeast(1_000.0)),
    ("CPU of all servers", AtMost(0.4)),
    ("POST of a pod to bound at this rate, p99", AtMost(100.0)),
    ("POST of a pod to Running, p50", AtMost(100.0)),
    ("50 pods at once, all Running", AtMost(3_000.0)),
    ("of each shim", AtMost(1.5)),
    ("of it a shim", AtMost(1.5)),
];

impl Goal {
    /// The goal of a figure, if it has one.
    pub fn of(what: &str) -> Option<Goal> {
        GOALS.iter().find(|(name, _)| *name == what.trim()).map(|(_, goal)| *goal)
    }

    pub fn is_met(self, value: f64) -> bool {
        match self {
            AtMost(limit) => value <= limit,
            AtLeast(limit) => value >= limit,
        }
    }

    pub fn shown(self) -> String {
        match self {
            AtMost(limit) => format!("at most {limit}"),
            AtLeast(limit) => format!("at least {limit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_on_its_own_side_and_found_by_the_whole_name() {
        let idle = Goal::of("idle writes to disk").unwrap();
        assert!(idle.is_met(1_024.0) && !idle.is_met(1_025.0));
        let create = Goal::of("  create, 64 at once").unwrap();
        assert!(create.is_met(9_000.0) && !create.is_met(8_999.0));
        assert_eq!(Goal::of("create"), None);
    }
}
