//! What a configuration must be like, and upstream's words for what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    Configuration, DefaultPreemptionArgs, DynamicResourcesArgs, Extender, GROUP_VERSION, InterPodAffinityArgs,
    NodeAffinityArgs, NodeResourcesBalancedAllocationArgs, NodeResourcesFitArgs, PluginConfig, PodTopologySpreadArgs,
    Profile, ShapePoint, VolumeBindingArgs, shape,
};
use crate::{duration, expression::Operator, pod::NodeTerm};

/// Plugins that were removed in this version.
const REMOVED: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];
const STRATEGIES: [&str; 3] = ["LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"];

type Errors = Vec<String>;

fn invalid(path: &str, value: impl std::fmt::Display, why: &str) -> String {
    format!("{path}: Invalid value: {value}: {why}")
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn required(path: &str, why: &str) -> String {
    if why.is_empty() { format!("{path}: Required value") } else { format!("{path}: Required value: {why}") }
}

fn unsupported(path: &str, value: &str, supported: &[&str]) -> String {
    let supported: Vec<String> = supported.iter().map(|it| quoted(it)).collect();
    format!("{path}: Unsupported value: {value:?}: supported values: {}", supported.join(", "))
}

/// All that is wrong.
pub(super) fn configuration(it: &Configuration) -> Errors {
    let mut errors = Errors::new();
    if it.leader_election.leader_elect && it.leader_election.resource_lock != "leases" {
        let lock = quoted(&it.leader_election.resource_lock);
        errors.push(invalid("leaderElection.resourceLock", lock, "resourceLock value must be \"leases\""));
    }
    if it.parallelism <= 0 {
        errors.push(invalid("parallelism", it.parallelism, "should be an integer value greater than zero"));
    }
    let mut names = BTreeMap::new();
    for (index, profile) in it.profiles.iter().enumerate() {
        let path = format!("profiles[{index}]");
        check_profile(&path, profile, &mut errors);
        let name = profile.scheduler_name.as_deref().unwrap_or_default();
        if let Some(first) = names.insert(name, index) {
            errors.push(format!("{path}.schedulerName: Duplicate value: \"profiles[{first}].schedulerName\""));
        }
    }
    check_queue_sort(&it.profiles, &mut errors);
    check_percentage("percentageOfNodesToScore", it.percentage_of_nodes_to_score, &mut errors);
    if it.pod_initial_backoff_seconds <= 0 {
        errors.push(invalid("podInitialBackoffSeconds", it.pod_initial_backoff_seconds, "must be greater than 0"));
    }
    if it.pod_max_backoff_seconds < it.pod_initial_backoff_seconds {
        let why = "must be greater than or equal to PodInitialBackoffSeconds";
        errors.push(invalid("podMaxBackoffSeconds", it.pod_max_backoff_seconds, why));
    }
    check_extenders(&it.extenders, &mut errors);
    errors
}

fn check_percentage(path: &str, percentage: Option<i32>, errors: &mut Errors) {
    if let Some(percentage) = percentage.filter(|it| !(0..=100).contains(it)) {
        errors.push(invalid(path, percentage, "not in valid range [0-100]"));
    }
}

fn check_profile(path: &str, profile: &Profile, errors: &mut Errors) {
    if profile.scheduler_name.as_deref().unwrap_or_default().is_empty() {
        errors.push(required(&format!("{path}.schedulerName"), ""));
    }
    check_percentage(&format!("{path}.percentageOfNodesToScore"), profile.percentage_of_nodes_to_score, errors);
    let removed = |path: &str, name: &str| {
        let why = format!("was invalid in version \"v1\" (KubeSchedulerConfiguration is version {GROUP_VERSION:?})");
        REMOVED.contains(&name).then(|| invalid(path, quoted(name), &why))
    };
    for (point, set) in profile.plugins.sets() {
        for (index, plugin) in set.enabled.iter().enumerate() {
            let path = format!("{path}.plugins.{point}.enabled[{index}]");
            match removed(&path, &plugin.name) {
                Some(error) => errors.push(error),
                None if crate::profile::exists(&plugin.name) => {}
                None => errors.push(invalid(&path, quoted(&plugin.name), "plugin does not exist")),
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (index, config) in profile.plugin_config.iter().enumerate() {
        let path = format!("{path}.pluginConfig[{index}]");
        if !seen.insert(&config.name) {
            errors.push(format!("{path}: Duplicate value: {:?}", config.name));
        }
        match removed(&path, &config.name) {
            Some(error) => errors.push(error),
            None => check_args(&format!("{path}.args"), config, errors),
        }
    }
}

fn check_args(path: &str, config: &PluginConfig, errors: &mut Errors) {
    if !shape::has_args(&config.name) {
        return;
    }
    let kind = config.args.get("kind").and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != format!("{}Args", config.name)) {
        let (name, group) = (&config.name, "kubescheduler.config.k8s.io");
        errors.push(format!("args for plugin {name} were not of type {name}Args.{group}, got {kind}.{group}"));
        return;
    }
    let checked = match &*config.name {
        "DefaultPreemption" => config.read().map(|args| preemption(path, &args, errors)),
        "InterPodAffinity" => config.read().map(|args| pod_affinity(path, &args, errors)),
        "NodeAffinity" => config.read().map(|args| node_affinity(path, &args, errors)),
        "NodeResourcesBalancedAllocation" => config.read().map(|args| balanced(path, &args, errors)),
        "NodeResourcesFit" => config.read().map(|args| fit(path, &args, errors)),
        "PodTopologySpread" => config.read().map(|args| spread(path, &args, errors)),
        "VolumeBinding" => config.read().map(|args| volume_binding(path, &args, errors)),
        _ => config.read().map(|args| dynamic_resources(path, &args, errors)),
    };
    errors.extend(checked.err());
}

fn preemption(path: &str, args: &DefaultPreemptionArgs, errors: &mut Errors) {
    let (percentage, absolute) = (args.min_candidate_nodes_percentage, args.min_candidate_nodes_absolute);
    let names = [format!("{path}.minCandidateNodesPercentage"), format!("{path}.minCandidateNodesAbsolute")];
    if !(0..=100).contains(&percentage) {
        errors.push(invalid(&names[0], percentage, "not in valid range [0, 100]"));
    }
    if absolute < 0 {
        errors.push(invalid(&names[1], absolute, "not in valid range [0, inf)"));
    }
    if percentage == 0 && absolute == 0 {
        errors.push(invalid(&names[0], 0, "cannot be zero at the same time as minCandidateNodesAbsolute"));
        errors.push(invalid(&names[1], 0, "cannot be zero at the same time as minCandidateNodesPercentage"));
    }
}

fn pod_affinity(path: &str, args: &InterPodAffinityArgs, errors: &mut Errors) {
    if !(0..=100).contains(&args.hard_pod_affinity_weight) {
        let path = format!("{path}.hardPodAffinityWeight");
        errors.push(invalid(&path, args.hard_pod_affinity_weight, "not in valid range [0, 100]"));
    }
}

fn node_affinity(path: &str, args: &NodeAffinityArgs, errors: &mut Errors) {
    let path = format!("{path}.addedAffinity");
    let affinity = &args.added_affinity;
    for (index, term) in affinity.required.iter().flat_map(|it| &it.node_selector_terms).enumerate() {
        let path = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{index}]");
        node_term(&path, term, errors);
    }
    for (index, term) in affinity.preferred.iter().enumerate() {
        let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}]");
        node_term(&path, &term.preference, errors);
    }
}

fn node_term(path: &str, term: &NodeTerm, errors: &mut Errors) {
    for (index, it) in term.match_expressions.iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        match it.operator {
            Operator::Unknown => errors.push(format!("{path}.operator: Unsupported value")),
            Operator::In | Operator::NotIn if it.values.is_empty() => {
                errors.push(invalid(
                    &format!("{path}.values"),
                    "[]",
                    "for 'in', 'notin' operators, values set can't be empty",
                ));
            }
            Operator::Exists | Operator::DoesNotExist if !it.values.is_empty() => errors.push(invalid(
                &format!("{path}.values"),
                format!("{:?}", it.values),
                "values set must be empty for exists and does not exist",
            )),
            Operator::Gt | Operator::Lt if it.values.len() != 1 => errors.push(invalid(
                &format!("{path}.values"),
                format!("{:?}", it.values),
                "for 'Gt', 'Lt' operators, exactly one value is required",
            )),
            _ => {}
        }
    }
}

fn balanced(path: &str, args: &NodeResourcesBalancedAllocationArgs, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, resource) in args.resources.iter().enumerate() {
        let path = format!("{path}.resources[{index}]");
        if !seen.insert(&resource.name) {
            errors.push(format!("{path}.name: Duplicate value: {:?}", resource.name));
        }
        if !matches!(resource.weight, 0 | 1) {
            errors.push(invalid(&format!("{path}.weight"), resource.weight, "must be 1"));
        }
    }
}

fn fit(path: &str, args: &NodeResourcesFitArgs, errors: &mut Errors) {
    for (index, name) in args.ignored_resources.iter().enumerate() {
        label_name(&format!("{path}.ignoredResources[{index}]"), name, errors);
    }
    for (index, group) in args.ignored_resource_groups.iter().enumerate() {
        let path = format!("{path}.ignoredResourceGroups[{index}]");
        if group.contains('/') {
            errors.push(invalid(&path, quoted(group), "resource group name can't contain '/'"));
        }
        label_name(&path, group, errors);
    }
    let (path, strategy) = (format!("{path}.scoringStrategy"), &args.scoring_strategy);
    if !STRATEGIES.contains(&&*strategy.kind) {
        errors.push(unsupported(&format!("{path}.type"), &strategy.kind, &STRATEGIES));
    }
    for (index, resource) in strategy.resources.iter().enumerate() {
        if !(0..=100).contains(&resource.weight) {
            let why = format!("resource weight of {} not in valid range (0, 100]", resource.name);
            errors.push(invalid(&format!("{path}.resources[{index}].weight"), resource.weight, &why));
        }
    }
    let ratio = format!("{path}.requestedToCapacityRatio");
    match (&*strategy.kind, &strategy.requested_to_capacity_ratio) {
        ("RequestedToCapacityRatio", None) => {
            errors.push(required(&ratio, "must be specified when type is RequestedToCapacityRatio"));
        }
        ("RequestedToCapacityRatio", Some(it)) => points(&format!("{ratio}.shape"), &it.shape, errors),
        (_, Some(_)) => {
            errors.push(format!("{ratio}: Forbidden: must be nil when type is not RequestedToCapacityRatio"))
        }
        (_, None) => {}
    }
}

fn points(path: &str, shape: &[ShapePoint], errors: &mut Errors) {
    if shape.is_empty() {
        return errors.push(required(path, "at least one point must be specified"));
    }
    if let Some(index) = (1..shape.len()).find(|&index| shape[index - 1].utilization >= shape[index].utilization) {
        let path = format!("{path}[{index}].utilization");
        errors.push(invalid(&path, shape[index].utilization, "values must be sorted in increasing order"));
    }
    for (index, point) in shape.iter().enumerate() {
        for (field, value, most) in [("utilization", point.utilization, 100), ("score", point.score, 10)] {
            if !(0..=most).contains(&value) {
                let why = format!("not in valid range [0, {most}]");
                errors.push(invalid(&format!("{path}[{index}].{field}"), value, &why));
            }
        }
    }
}

fn spread(path: &str, args: &PodTopologySpreadArgs, errors: &mut Errors) {
    let kind = format!("{path}.defaultingType");
    match &*args.defaulting_type {
        "System" if !args.default_constraints.is_empty() => {
            errors.push(invalid(&kind, "\"System\"", "when .defaultConstraints are not empty"));
        }
        "System" | "List" => {}
        other => errors.push(unsupported(&kind, other, &["System", "List"])),
    }
    for (index, it) in args.default_constraints.iter().enumerate() {
        let path = format!("{path}.defaultConstraints[{index}]");
        if it.max_skew <= 0 {
            errors.push(invalid(&format!("{path}.maxSkew"), it.max_skew, "not in valid range (0, inf)"));
        }
        match &*it.topology_key {
            "" => errors.push(required(&format!("{path}.topologyKey"), "can not be empty")),
            key => label_name(&format!("{path}.topologyKey"), key, errors),
        }
        match &*it.when_unsatisfiable {
            "" => errors.push(required(&format!("{path}.whenUnsatisfiable"), "can not be empty")),
            "DoNotSchedule" | "ScheduleAnyway" => {}
            other => {
                let path = format!("{path}.whenUnsatisfiable");
                errors.push(unsupported(&path, other, &["DoNotSchedule", "ScheduleAnyway"]));
            }
        }
        if it.label_selector.is_some() {
            let why = "constraint must not define a selector, as they deduced for each pod";
            errors.push(format!("{path}.labelSelector: Forbidden: {why}"));
        }
        let earlier = &args.default_constraints[..index];
        if earlier.iter().any(|e| e.topology_key == it.topology_key && e.when_unsatisfiable == it.when_unsatisfiable) {
            errors.push(format!("{path}: Duplicate value: \"{{{}, {}}}\"", it.topology_key, it.when_unsatisfiable));
        }
    }
}

fn volume_binding(path: &str, args: &VolumeBindingArgs, errors: &mut Errors) {
    if args.bind_timeout_seconds < 0 {
        let why = "invalid BindTimeoutSeconds, should not be a negative value";
        errors.push(invalid(&format!("{path}.bindTimeoutSeconds"), args.bind_timeout_seconds, why));
    }
    if args.shape.is_some() {
        let why = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
        errors.push(invalid(&format!("{path}.shape"), "[]", why));
    }
}

fn dynamic_resources(path: &str, args: &DynamicResourcesArgs, errors: &mut Errors) {
    for (field, value, least, why) in [
        ("filterTimeout", &args.filter_timeout, 0.0, "must be zero or positive"),
        ("bindingTimeout", &args.binding_timeout, 1.0, "must be at least 1 second"),
    ] {
        let Some(value) = value else { continue };
        match duration::parse(value) {
            Some(seconds) if seconds >= least => {}
            Some(_) => errors.push(invalid(&format!("{path}.{field}"), quoted(value), why)),
            None => errors.push(format!("time: invalid duration {value:?}")),
        }
    }
}

/// A queue has one order, so the profiles must agree about it.
fn check_queue_sort(profiles: &[Profile], errors: &mut Errors) {
    let Some((first, others)) = profiles.split_first() else { return };
    let sort = &first.plugins.queue_sort;
    if sort.enabled.len() > 1 {
        let path = "profiles[0].plugins.queueSort.Enabled";
        errors.push(invalid(path, sort.enabled.len(), "only one queue sort plugin can be enabled"));
    }
    for (index, other) in others.iter().enumerate() {
        if other.plugins.queue_sort != *sort {
            let path = format!("profiles[{}].plugins.queueSort", index + 1);
            errors.push(invalid(&path, format!("{:?}", other.plugins.queue_sort), "must be the same for all profiles"));
        }
    }
}

fn check_extenders(extenders: &[Extender], errors: &mut Errors) {
    let mut managed = BTreeSet::new();
    for (index, it) in extenders.iter().enumerate() {
        let path = format!("extenders[{index}]");
        if !it.prioritize_verb.is_empty() && it.weight <= 0 {
            errors.push(invalid(&format!("{path}.weight"), it.weight, "must have a positive weight applied to it"));
        }
        for (index, resource) in it.managed_resources.iter().enumerate() {
            let path = format!("{path}.managedResources[{index}].name");
            let before = errors.len();
            label_name(&path, &resource.name, errors);
            let own = resource.name.contains('/') && !resource.name.contains("kubernetes.io/");
            if errors.len() == before && (!own || resource.name.starts_with("requests.")) {
                errors.push(invalid(&path, quoted(&resource.name), "is an invalid extended resource name"));
            }
            if !managed.insert(&resource.name) {
                errors.push(invalid(&path, quoted(&resource.name), "duplicate extender managed resource name"));
            }
        }
        if let Some(timeout) = it.http_timeout.as_deref().filter(|it| duration::parse(it).is_none()) {
            errors.push(format!("time: invalid duration {timeout:?}"));
        }
    }
    let binders = extenders.iter().filter(|it| !it.bind_verb.is_empty()).count();
    if binders > 1 {
        let found = format!("\"found {binders} extenders implementing bind\"");
        errors.push(invalid("extenders", found, "only one extender can implement bind"));
    }
}

fn label_name(path: &str, name: &str, errors: &mut Errors) {
    errors
        .extend(api::validation::names::qualified_name(name).into_iter().map(|why| invalid(path, quoted(name), &why)));
}
