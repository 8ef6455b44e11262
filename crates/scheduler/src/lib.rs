//! The scheduler: it gives each pod a node.
//!
//! ```text
//!   caches ─▶ Queue (active, backing off, unschedulable) ─▶ decide(snapshot, pod) ─▶ assume ─▶ pods/binding
//!      └────▶ Snapshot (columns, changed in place)  ──────────▲      └─▶ why not: event, condition, back to the queue
//! ```
//!
//! - Deciding is a function of values ([`decide`], [`plugins`]); [`run`] is the only place that reads, waits and writes.
//! - A pod is parsed once, into what it *needs*; pods with equal needs share it, and what rules say of a node by needs and
//!   node alone is worked out once for all of them ([`class`]).
//! - A decision is assumed at once and written in the background, so that the next one can follow. The API's word replaces
//!   what was assumed.
//! - A pod that fits nowhere is tried again when something happens that may help it, by the rules that had rejected it. Nothing
//!   is polled, and nothing sleeps between a pod's creation and its binding.
//!
//! - A pod of high priority may take the place of lower ones ([`preempt`]): they are deleted, and the room is kept for it.
//!
//! - Rules about other kinds than nodes and pods are extensions with caches of their own ([`plugins::extension`]).
//!
//! Preemption does not look at disruption budgets, which upstream respects where it can.

mod class;
mod decide;
mod expression;
mod node;
mod objects;
mod plugins;
mod pod;
mod preempt;
mod queue;
mod run;
mod snapshot;
mod verdict;
mod writer;

#[cfg(test)]
mod tests;

pub use run::run;

/// How the scheduler is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pods that name this scheduler are its own. It is also the name under which it writes events.
    pub scheduler_name: String,
    /// How many feasible nodes are enough to choose from, in per cent of all nodes; 0 adapts it to their number as upstream
    /// does (50 % of 100 nodes, 10 % of 5,000, never less than 5 % or 100 nodes).
    pub percentage_of_nodes_to_score: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".into(), percentage_of_nodes_to_score: 0 }
    }
}
