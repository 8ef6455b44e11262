use super::*;
use crate::{plugins::Plugin, profile};

fn parse(body: &str) -> Result<Configuration, ConfigError> {
    Configuration::parse(&format!("apiVersion: {GROUP_VERSION}\nkind: {KIND}\n{body}"))
}

fn first(body: &str) -> profile::Profile {
    let configuration = parse(body).unwrap();
    profile::Profile::new(&configuration.profiles[0], configuration.percentage_of_nodes_to_score, &[])
}

#[test]
fn what_is_wrong_is_told_in_upstreams_words() {
    let table = [
        ("parallelism: 0", "parallelism: Invalid value: 0: should be an integer value greater than zero"),
        ("percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"),
        (
            "podInitialBackoffSeconds: 20",
            "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds",
        ),
        ("profiles: [{schedulerName: ''}]", "profiles[0].schedulerName: Required value"),
        (
            "profiles: [{schedulerName: a}, {schedulerName: a}]",
            "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\"",
        ),
        (
            "profiles: [{plugins: {score: {enabled: [{name: EBSLimits}]}}}]",
            "profiles[0].plugins.score.enabled[0]: Invalid value: \"EBSLimits\": was invalid in version \"v1\" \
             (KubeSchedulerConfiguration is version \"kubescheduler.config.k8s.io/v1\")",
        ),
        (
            "profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 200}}]}]",
            "profiles[0].pluginConfig[0].args.minCandidateNodesPercentage: Invalid value: 200: not in valid range [0, 100]",
        ),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: -1}}]}]",
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: -1: not in valid range [0, 100]",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]",
            "profiles[0].pluginConfig[0].args.scoringStrategy.type: Unsupported value: \"Best\": supported values: \
             \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 1, topologyKey: a, \
             whenUnsatisfiable: DoNotSchedule}]}}]}]",
            "profiles[0].pluginConfig[0].args.defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeAffinity}, {name: NodeAffinity}]}]",
            "profiles[0].pluginConfig[1]: Duplicate value: \"NodeAffinity\"",
        ),
        (
            "extenders: [{urlPrefix: 'http://a', prioritizeVerb: p}]",
            "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
        ),
        (
            "extenders: [{bindVerb: b}, {bindVerb: b}]",
            "extenders: Invalid value: \"found 2 extenders implementing bind\": only one extender can implement bind",
        ),
        (
            "extenders: [{managedResources: [{name: cpu}]}]",
            "extenders[0].managedResources[0].name: Invalid value: \"cpu\": is an invalid extended resource name",
        ),
        ("profile: []", "strict decoding error: unknown field \"profile\""),
        (
            "profiles: [{plugins: {scores: {}}}]\nextenders: [{url: a}]",
            "strict decoding error: unknown field \"extenders[0].url\", unknown field \"profiles[0].plugins.scores\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeAffinity, args: {added: {}}}]}]",
            "strict decoding error: decoding .profiles[0].pluginConfig[0]: strict decoding error: decoding args for plugin \
             NodeAffinity: unknown field \"added\"",
        ),
    ];
    for (body, expected) in table {
        assert_eq!(parse(body).map(drop).unwrap_err().to_string(), expected, "{body}");
    }
    let of_kind = |version: &str, kind: &str| Configuration::parse(&format!("apiVersion: {version}\nkind: {kind}"));
    assert_eq!(
        of_kind("kubescheduler.config.k8s.io/v1beta3", KIND).unwrap_err().to_string(),
        "no kind \"KubeSchedulerConfiguration\" is registered for version \"kubescheduler.config.k8s.io/v1beta3\""
    );
    assert!(matches!(Configuration::parse("a: [").unwrap_err(), ConfigError::Syntax(_)));
}

#[test]
fn plugins_are_enabled_and_weighed_as_the_nearest_word_says() {
    let default = profile::Profile::default();
    for (plugin, weight) in [
        (Plugin::TaintToleration, 3),
        (Plugin::PodTopologySpread, 2),
        (Plugin::NodeResourcesFit, 1),
        (Plugin::NodePorts, 0),
        (Plugin::ImageLocality, 1),
    ] {
        assert_eq!((default.filters(plugin), default.weight(plugin)), (plugin.filters(), weight), "{plugin:?}");
    }
    let table = [
        ("{score: {enabled: [{name: NodeAffinity, weight: 7}]}}", Plugin::NodeAffinity, true, 7),
        ("{score: {enabled: [{name: NodeAffinity}]}}", Plugin::NodeAffinity, true, 1),
        ("{score: {disabled: [{name: NodeAffinity}]}}", Plugin::NodeAffinity, true, 0),
        ("{filter: {disabled: [{name: NodeAffinity}]}}", Plugin::NodeAffinity, false, 2),
        ("{multiPoint: {disabled: [{name: '*'}]}}", Plugin::NodeAffinity, false, 0),
        (
            "{multiPoint: {disabled: [{name: '*'}], enabled: [{name: NodeAffinity, weight: 4}]}}",
            Plugin::NodeAffinity,
            true,
            4,
        ),
        (
            "{multiPoint: {disabled: [{name: NodeAffinity}]}, score: {enabled: [{name: NodeAffinity, weight: 5}]}}",
            Plugin::NodeAffinity,
            false,
            5,
        ),
    ];
    for (plugins, plugin, filters, weight) in table {
        let profile = first(&format!("profiles: [{{plugins: {plugins}}}]"));
        assert_eq!((profile.filters(plugin), profile.weight(plugin)), (filters, weight), "{plugins}");
    }
}

#[test]
fn arguments_left_out_have_upstreams_defaults() {
    let profile =
        first("profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesAbsolute: 5}}]}]");
    assert_eq!(profile.preemption_nodes, (10, 5));
    assert_eq!((&*profile.name, profile.hard_affinity_weight, profile.percentage), ("default-scheduler", 1, 0));
    assert_eq!(profile.volume_binding_timeout.as_secs(), 600);
    let own = first("percentageOfNodesToScore: 40\nprofiles: [{schedulerName: a, percentageOfNodesToScore: 70}]");
    assert_eq!((&*own.name, own.percentage), ("a", 70));
    let ratio = first(
        "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio, \
         resources: [{name: example.com/gpu, weight: 3}], requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, \
         {utilization: 100, score: 10}]}}}}]}]",
    );
    assert_eq!(ratio.fit.strategy, profile::Strategy::Ratio(vec![(0, 0), (100, 100)]));
    assert_eq!(ratio.fit.resources, [("example.com/gpu".into(), 3)]);
}
