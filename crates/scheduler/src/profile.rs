//! A profile: which rules take part for the pods of one scheduler name, with what weight and arguments.
//!
//! Rules always filter in their default order; a configuration that lists them in another order changes nothing but which of
//! several reasons is told. A rule takes part in filtering, reserving and binding as a whole, by the `filter` point.

use std::time::Duration;

use crate::{
    config::{
        self, DefaultPreemptionArgs, InterPodAffinityArgs, NodeAffinityArgs, NodeResourcesBalancedAllocationArgs,
        NodeResourcesFitArgs, PluginSet, Plugins, PodTopologySpreadArgs, ResourceSpec, VolumeBindingArgs,
    },
    plugins::Plugin,
    pod::{NodeAffinity, SpreadConstraint},
};

/// Plugins that are always as they are, because there is one of their sort.
const FIXED: [&str; 6] =
    ["SchedulingGates", "PrioritySort", "NodeName", "DefaultPreemption", "DefaultBinder", "GangScheduling"];

/// The soft constraints of pods that state none: label and greatest skew.
const SPREAD: [(&str, i64); 2] = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];

/// Whether there is a plugin of this name.
pub(crate) fn exists(name: &str) -> bool {
    FIXED.contains(&name) || Plugin::ALL.iter().any(|plugin| plugin.name() == name)
}

#[derive(Debug)]
pub(crate) struct Profile {
    pub name: Box<str>,
    /// How many feasible nodes are enough, in per cent of all; 0 means as upstream adapts it to their number.
    pub percentage: usize,
    /// The rules that filter, as bits of [`Plugin::bit`].
    filters: u32,
    /// The weight of each rule's score, 0 for those that do not score.
    weights: [i64; Plugin::ALL.len()],
    /// Whether pods may take the place of others.
    pub preempts: bool,
    /// Whether scheduling gates hold pods back.
    pub gates: bool,
    /// What part of the nodes, in per cent, and how many at least preemption is tried on.
    pub preemption_nodes: (usize, usize),
    pub added_affinity: NodeAffinity,
    pub hard_affinity_weight: i64,
    pub ignore_preferred_of_others: bool,
    pub fit: Fit,
    pub balanced: Vec<Box<str>>,
    pub spread: Vec<SpreadConstraint>,
    /// Whether [`spread`](Self::spread) is the system's, for which nodes need not have all labels.
    pub system_spread: bool,
    pub volume_binding_timeout: Duration,
}

/// Arguments of `NodeResourcesFit`.
#[derive(Debug)]
pub(crate) struct Fit {
    ignored: Vec<Box<str>>,
    ignored_groups: Vec<Box<str>>,
    pub strategy: Strategy,
    /// Names and weights.
    pub resources: Vec<(Box<str>, i64)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Least,
    Most,
    /// Points of utilization in per cent and score from 0 to 100.
    Ratio(Vec<(i64, i64)>),
}

impl Fit {
    /// Whether the filter leaves a resource to others.
    pub fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map(|(group, _)| group);
        self.ignored.iter().any(|name| **name == *resource)
            || self.ignored_groups.iter().any(|it| group.is_some_and(|group| **it == *group))
    }
}

impl Profile {
    /// The profile of a configuration that was validated. Extenders' resources of `ignored` are not checked here.
    pub fn new(profile: &config::Profile, percentage: Option<i32>, ignored: &[Box<str>]) -> Self {
        let Plugins { filter, score, post_filter, pre_enqueue, multi_point, .. } = &profile.plugins;
        let state = |point: &PluginSet, name: &str, default: Option<i64>| enabled([point, multi_point], name, default);
        let mut filters = 0;
        let mut weights = [0; Plugin::ALL.len()];
        for plugin in Plugin::ALL {
            let name = plugin.name();
            if plugin.filters() && state(filter, &name, Some(0)).is_some() {
                filters |= plugin.bit();
            }
            weights[plugin as usize] =
                plugin.weight().and_then(|weight| state(score, &name, Some(weight))).unwrap_or(0);
        }
        let fit: NodeResourcesFitArgs = profile.args("NodeResourcesFit");
        let balanced: NodeResourcesBalancedAllocationArgs = profile.args("NodeResourcesBalancedAllocation");
        let preemption: DefaultPreemptionArgs = profile.args("DefaultPreemption");
        let affinity: InterPodAffinityArgs = profile.args("InterPodAffinity");
        let added: NodeAffinityArgs = profile.args("NodeAffinity");
        let spread: PodTopologySpreadArgs = profile.args("PodTopologySpread");
        let volumes: VolumeBindingArgs = profile.args("VolumeBinding");
        let percentage = profile.percentage_of_nodes_to_score.or(percentage).unwrap_or(0);
        let system_spread = spread.defaulting_type == "System";
        Self {
            name: profile.scheduler_name.as_deref().unwrap_or_default().into(),
            percentage: usize::try_from(percentage).unwrap_or(0),
            filters,
            weights,
            preempts: state(post_filter, "DefaultPreemption", Some(0)).is_some(),
            gates: state(pre_enqueue, "SchedulingGates", Some(0)).is_some(),
            preemption_nodes: (
                usize::try_from(preemption.min_candidate_nodes_percentage).unwrap_or(0),
                usize::try_from(preemption.min_candidate_nodes_absolute).unwrap_or(0),
            ),
            added_affinity: added.added_affinity.resolve(Vec::new()),
            hard_affinity_weight: affinity.hard_pod_affinity_weight.into(),
            ignore_preferred_of_others: affinity.ignore_preferred_terms_of_existing_pods,
            fit: fit_of(fit, ignored),
            balanced: resources(balanced.resources).into_iter().map(|(name, _)| name).collect(),
            spread: if system_spread { system_constraints() } else { listed_constraints(spread) },
            system_spread,
            volume_binding_timeout: Duration::from_secs(u64::try_from(volumes.bind_timeout_seconds).unwrap_or(0)),
        }
    }

    pub fn filters(&self, plugin: Plugin) -> bool {
        self.filters & plugin.bit() != 0
    }

    pub fn weight(&self, plugin: Plugin) -> i64 {
        self.weights[plugin as usize]
    }
}

impl Default for Profile {
    fn default() -> Self {
        let configuration = config::Configuration::default();
        Self::new(&configuration.profiles[0], None, &[])
    }
}

/// The weight of a plugin at an extension point, if it is enabled there: the point's own word comes first, then that for all
/// points, then the default.
fn enabled(sets: [&PluginSet; 2], name: &str, default: Option<i64>) -> Option<i64> {
    for set in sets {
        if let Some(entry) = set.enables(name) {
            return Some(i64::from(entry.weight.filter(|weight| *weight != 0).unwrap_or(1)));
        }
        if set.disables(name) {
            return None;
        }
    }
    default
}

fn resources(specs: Vec<ResourceSpec>) -> Vec<(Box<str>, i64)> {
    if specs.is_empty() {
        return vec![("cpu".into(), 1), ("memory".into(), 1)];
    }
    specs.into_iter().map(|it| (it.name.into(), if it.weight == 0 { 1 } else { it.weight })).collect()
}

fn fit_of(args: NodeResourcesFitArgs, ignored: &[Box<str>]) -> Fit {
    let own = args.ignored_resources.into_iter().map(String::into_boxed_str);
    let strategy = args.scoring_strategy;
    Fit {
        ignored: own.chain(ignored.iter().cloned()).collect(),
        ignored_groups: args.ignored_resource_groups.into_iter().map(String::into_boxed_str).collect(),
        strategy: match (&*strategy.kind, strategy.requested_to_capacity_ratio) {
            ("MostAllocated", _) => Strategy::Most,
            (_, Some(ratio)) => Strategy::Ratio(
                ratio.shape.iter().map(|it| (it.utilization.into(), i64::from(it.score) * 10)).collect(),
            ),
            _ => Strategy::Least,
        },
        resources: resources(strategy.resources),
    }
}

fn system_constraints() -> Vec<SpreadConstraint> {
    let constraint = |(key, max_skew): (&str, i64)| SpreadConstraint {
        max_skew,
        min_domains: 1,
        topology_key: key.into(),
        selector: None,
        hard: false,
        honor_affinity: true,
        honor_taints: false,
    };
    SPREAD.into_iter().map(constraint).collect()
}

/// Their selectors are found for each pod.
fn listed_constraints(args: PodTopologySpreadArgs) -> Vec<SpreadConstraint> {
    args.default_constraints.into_iter().map(|it| it.resolve(&client::Labels::default())).collect()
}
