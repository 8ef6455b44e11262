//! The decision again, slow and obvious: no columns, no classes, no groups, no order of work. It reads the rules off the pods and
//! nodes anew for every question, so that a mistake in what the real decision keeps and shares shows as a difference.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    expression::Selector,
    node::{Node, Taint},
    pod::{HostPort, Needs, NodeAffinity, NodeTerm, Pod, PodTerm, SpreadConstraint, Toleration},
};

/// A cluster as lists. Pods are on nodes by index.
pub(crate) struct World<'a> {
    pub nodes: &'a [Node],
    pub pods: &'a [(std::sync::Arc<Pod>, usize)],
    pub namespaces: &'a dyn Fn(&str, &Selector) -> bool,
    pub siblings: Option<&'a Selector>,
    pub rules: &'a Rules,
}

/// What a profile may change.
pub(crate) struct Rules {
    pub strategy: Strategy,
    /// Constraints of pods that state none, if they are not the system's: label, greatest skew, and whether it is hard.
    pub spread: Option<Vec<(&'static str, i64, bool)>>,
    /// The weights of resources, taints, node affinity, spread and pod affinity.
    pub weights: [i64; 5],
    pub hard_affinity: i64,
}

#[derive(Clone, Copy)]
pub(crate) enum Strategy {
    Least,
    Most,
    /// 0 for an empty node, 100 for one that is half full, 40 for a full one.
    Ratio,
}

impl Default for Rules {
    fn default() -> Self {
        Self { strategy: Strategy::Least, spread: None, weights: [1, 3, 2, 2, 2], hard_affinity: 1 }
    }
}

/// Every node that will do with its score, by name.
pub(crate) fn decide(pod: &Pod, world: &World<'_>) -> BTreeMap<String, i64> {
    let feasible: Vec<usize> = (0..world.nodes.len()).filter(|&node| fits(pod, node, world)).collect();
    let scores = total(pod, &feasible, world);
    feasible.iter().zip(scores).map(|(&node, score)| (world.nodes[node].name.to_string(), score)).collect()
}

/// What a pod needs of a resource in the worst moment of its life, read off its specification; so much for containers that
/// request none.
pub(crate) fn needed(spec: &Value, resource: &str, default: i64) -> i64 {
    let amount = |amounts: &Value| amounts[resource].as_str().map(|text| in_units(text, resource));
    let of = |container: &Value| amount(&container["resources"]["requests"]).unwrap_or(default);
    let all = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
    let mut moments = Vec::new();
    let mut running = 0;
    for init in all("initContainers") {
        moments.push(running + of(&init));
        if init["restartPolicy"] == "Always" {
            running += of(&init);
        }
    }
    moments.push(running + all("containers").iter().map(of).sum::<i64>());
    moments.into_iter().max().unwrap_or(0) + amount(&spec["overhead"]).unwrap_or(0)
}

fn in_units(text: &str, resource: &str) -> i64 {
    let (number, factor) = match text {
        text if text.ends_with('m') => (&text[..text.len() - 1], 1),
        text if text.ends_with("Mi") => (&text[..text.len() - 2], 1000 << 20),
        text if text.ends_with("Gi") => (&text[..text.len() - 2], 1000 << 30),
        text => (text, 1000),
    };
    let thousandths = number.parse::<i64>().unwrap() * factor;
    if resource == "cpu" { thousandths } else { thousandths / 1000 }
}

/// Whom the pod would have to take the place of on each node where that helps: by node, the uids of the victims with the most
/// important first.
pub(crate) fn victims(
    pod: &Pod,
    world: &World<'_>,
    since: &dyn Fn(&Pod) -> i64,
) -> BTreeMap<String, Vec<(i32, String)>> {
    let mut all = BTreeMap::new();
    for at in 0..world.nodes.len() {
        if fits(pod, at, world) || is_hopeless(pod, at, world) {
            continue;
        }
        let mut lower: Vec<_> =
            world.pods.iter().filter(|(it, node)| *node == at && it.priority < pod.priority).cloned().collect();
        lower.sort_by_key(|(it, _)| (std::cmp::Reverse(it.priority), since(it)));
        let mut pods: Vec<_> = world.pods.to_vec();
        pods.retain(|(it, _)| !lower.iter().any(|(other, _)| other.uid() == it.uid()));
        if lower.is_empty() || !fits(pod, at, &World { pods: &pods, ..*world }) {
            continue;
        }
        let mut gone = Vec::new();
        for it in lower {
            pods.push(it.clone());
            if !fits(pod, at, &World { pods: &pods, ..*world }) {
                pods.pop();
                gone.push((it.0.priority, it.0.uid().to_owned()));
            }
        }
        all.insert(world.nodes[at].name.to_string(), gone);
    }
    all
}

/// Whether a node that will not do would not do without other pods either, as far as the first rule that says so knows.
fn is_hopeless(pod: &Pod, at: usize, world: &World<'_>) -> bool {
    let (needs, node) = (&*pod.needs, &world.nodes[at]);
    if !chooses_at_all(needs, node) {
        return true;
    }
    if !ports_free(needs, at, world) {
        return false;
    }
    if !has_room(needs, at, world) {
        let mut requests = needs.requests.iter();
        return requests.any(|(name, amount)| *amount > node.allocatable(name)) || node.allocatable("pods") == 0;
    }
    if let Some(it) = hard(pod, world).iter().find(|it| !is_even(pod, it, at, world)) {
        return node.labels.get(&it.topology_key).is_none();
    }
    !is_near(pod, at, world)
}

/// The rules that look at the pod and the node alone.
fn chooses_at_all(needs: &Needs, node: &Node) -> bool {
    let cordon =
        Taint { key: "node.kubernetes.io/unschedulable".into(), value: "".into(), effect: "NoSchedule".into() };
    (!node.unschedulable || tolerates(&needs.tolerations, &cordon))
        && tolerates_all(needs, node)
        && chooses(&needs.node_affinity, node)
}

fn fits(pod: &Pod, at: usize, world: &World<'_>) -> bool {
    let (needs, node) = (&*pod.needs, &world.nodes[at]);
    chooses_at_all(needs, node)
        && ports_free(needs, at, world)
        && has_room(needs, at, world)
        && spread_allows(pod, at, world)
        && affinity_allows(pod, at, world)
}

fn on<'a>(at: usize, world: &'a World<'_>) -> impl Iterator<Item = &'a Pod> {
    world.pods.iter().filter(move |(_, node)| *node == at).map(|(pod, _)| &**pod)
}

fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|it| {
        (it.effect.is_empty() || it.effect == taint.effect)
            && (it.key.is_empty() || it.key == taint.key)
            && (&*it.operator == "Exists" || it.value == taint.value)
    })
}

fn tolerates_all(needs: &Needs, node: &Node) -> bool {
    let mut hard = node.taints.iter().filter(|taint| &*taint.effect != "PreferNoSchedule");
    hard.all(|taint| tolerates(&needs.tolerations, taint))
}

fn term_matches(term: &NodeTerm, node: &Node) -> bool {
    let labels = term.match_expressions.iter().all(|it| it.matches(node.labels.get(&it.key)));
    let fields = term.match_fields.iter().all(|it| it.matches(Some(&node.name)));
    (term.match_expressions.len() + term.match_fields.len() > 0) && labels && fields
}

fn chooses(affinity: &NodeAffinity, node: &Node) -> bool {
    let required = affinity.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)));
    affinity.selector.iter().all(|it| it.matches(node.labels.get(&it.key))) && required
}

fn ports_free(needs: &Needs, at: usize, world: &World<'_>) -> bool {
    let any = |port: &HostPort| &*port.address == "0.0.0.0";
    let clash = |a: &HostPort, b: &HostPort| {
        a.port == b.port && a.protocol == b.protocol && (any(a) || any(b) || a.address == b.address)
    };
    !on(at, world).flat_map(|pod| &pod.needs.ports).any(|used| needs.ports.iter().any(|port| clash(port, used)))
}

fn used(at: usize, resource: &str, world: &World<'_>) -> i64 {
    on(at, world).map(|pod| pod.needs.request(resource)).sum()
}

fn has_room(needs: &Needs, at: usize, world: &World<'_>) -> bool {
    let node = &world.nodes[at];
    let pods = i64::try_from(on(at, world).count()).unwrap();
    pods < node.allocatable("pods")
        && needs.requests.iter().all(|(name, amount)| used(at, name, world) + amount <= node.allocatable(name))
}

fn selects(selector: Option<&Selector>, namespace: &str, pod: &Pod) -> bool {
    pod.item.namespace() == namespace && selector.is_some_and(|it| it.matches(|key| pod.labels().get(key)))
}

/// How many pods a constraint counts on each node of the domain; none for nodes that it does not look at.
fn counted(pod: &Pod, it: &SpreadConstraint, keys: &[&str], world: &World<'_>) -> BTreeMap<String, i64> {
    let mut domains = BTreeMap::new();
    for (at, node) in world.nodes.iter().enumerate() {
        let included = (!it.honor_affinity || chooses(&pod.needs.node_affinity, node))
            && (!it.honor_taints || tolerates_all(&pod.needs, node))
            && keys.iter().all(|key| node.labels.get(key).is_some());
        let Some(domain) = node.labels.get(&it.topology_key).filter(|_| included) else { continue };
        let selector = it.selector.as_ref();
        let staying = on(at, world).filter(|other| !other.item.deleting);
        let count = staying.filter(|other| selects(selector, pod.item.namespace(), other)).count();
        *domains.entry(domain.to_owned()).or_default() += i64::try_from(count).unwrap();
    }
    domains
}

/// The hard constraints: the pod's own, or the profile's for pods that are spread with others.
fn hard(pod: &Pod, world: &World<'_>) -> Vec<SpreadConstraint> {
    constraints(pod, world).into_iter().filter(|it| it.hard).collect()
}

fn constraints(pod: &Pod, world: &World<'_>) -> Vec<SpreadConstraint> {
    let default = |key: &str, max_skew, hard| SpreadConstraint {
        max_skew,
        min_domains: 1,
        topology_key: key.into(),
        selector: world.siblings.cloned(),
        hard,
        honor_affinity: true,
        honor_taints: false,
    };
    match (&world.rules.spread, pod.needs.spread.is_empty(), world.siblings) {
        (_, false, _) => pod.needs.spread.clone(),
        (_, true, None) => Vec::new(),
        (None, ..) => {
            vec![default("kubernetes.io/hostname", 3, false), default("topology.kubernetes.io/zone", 5, false)]
        }
        (Some(listed), ..) => listed.iter().map(|(key, skew, hard)| default(key, *skew, *hard)).collect(),
    }
}

fn spread_allows(pod: &Pod, at: usize, world: &World<'_>) -> bool {
    hard(pod, world).iter().all(|it| is_even(pod, it, at, world))
}

fn is_even(pod: &Pod, it: &SpreadConstraint, at: usize, world: &World<'_>) -> bool {
    let hard = hard(pod, world);
    let keys: Vec<&str> = hard.iter().map(|it| &*it.topology_key).collect();
    let Some(domain) = world.nodes[at].labels.get(&it.topology_key) else { return false };
    let domains = counted(pod, it, &keys, world);
    let enough = i64::try_from(domains.len()).unwrap() >= it.min_domains;
    let fewest = if enough { domains.values().min().copied().unwrap_or(0) } else { 0 };
    let own = i64::from(selects(it.selector.as_ref(), pod.item.namespace(), pod));
    domains.get(domain).copied().unwrap_or(0) + own - fewest <= it.max_skew
}

fn term_selects(term: &PodTerm, pod: &Pod, world: &World<'_>) -> bool {
    let namespace = pod.item.namespace();
    let by_selector = term.scope.selector.as_ref().is_some_and(|it| (world.namespaces)(namespace, it));
    (term.scope.names.iter().any(|it| **it == *namespace) || by_selector)
        && selects(term.selector.as_ref(), namespace, pod)
}

fn together(key: &str, a: usize, b: usize, world: &World<'_>) -> bool {
    let domain = |at: usize| world.nodes[at].labels.get(key);
    domain(a).is_some() && domain(a) == domain(b)
}

/// Whether the pods are near that the pod needs near.
fn is_near(pod: &Pod, at: usize, world: &World<'_>) -> bool {
    let near = &pod.needs.affinity.required;
    let wanted: Vec<_> =
        world.pods.iter().filter(|(other, _)| near.iter().all(|it| term_selects(it, other, world))).collect();
    let met = near.iter().all(|it| wanted.iter().any(|(_, node)| together(&it.topology_key, at, *node, world)));
    // The first of a group may go anywhere that has the labels, if nobody is where such a label is.
    let nobody = !wanted.iter().any(|(_, node)| near.iter().any(|it| together(&it.topology_key, *node, *node, world)));
    let first = nobody
        && near.iter().all(|it| term_selects(it, pod, world))
        && near.iter().all(|it| together(&it.topology_key, at, at, world));
    near.is_empty() || met || first
}

fn affinity_allows(pod: &Pod, at: usize, world: &World<'_>) -> bool {
    let avoided = world.pods.iter().any(|(other, node)| {
        let far = pod.needs.anti_affinity.required.iter();
        far.into_iter().any(|it| term_selects(it, other, world) && together(&it.topology_key, at, *node, world))
    });
    let unwanted = world.pods.iter().any(|(other, node)| {
        let theirs = &other.needs.anti_affinity.required;
        theirs.iter().any(|it| term_selects(it, pod, world) && together(&it.topology_key, at, *node, world))
    });
    is_near(pod, at, world) && !avoided && !unwanted
}

/// The weighted sum of all scores.
fn total(pod: &Pod, feasible: &[usize], world: &World<'_>) -> Vec<i64> {
    let [resources, taint, affinity, even, near] = world.rules.weights;
    let parts = [
        (resources, feasible.iter().map(|&at| allocated(pod, at, world)).collect()),
        (1, feasible.iter().map(|&at| balanced(pod, at, world)).collect()),
        (1, feasible.iter().map(|&at| images(pod, at, world)).collect()),
        (taint, taints(pod, feasible, world)),
        (affinity, preferred(pod, feasible, world)),
        (even, spread(pod, feasible, world)),
        (near, nearness(pod, feasible, world)),
    ];
    (0..feasible.len())
        .map(|at| parts.iter().map(|(weight, scores): &(i64, Vec<i64>)| weight * scores[at]).sum())
        .collect()
}

fn allocated(pod: &Pod, at: usize, world: &World<'_>) -> i64 {
    let node = &world.nodes[at];
    let names = ["cpu", "memory"].iter().enumerate().filter(|(_, name)| node.allocatable(name) > 0);
    let scores: Vec<i64> = names
        .map(|(index, name)| {
            let all = node.allocatable(name);
            let used: i64 =
                on(at, world).map(|other| other.needs.assumed[index]).sum::<i64>() + pod.needs.assumed[index];
            match world.rules.strategy {
                Strategy::Least if used > all => 0,
                Strategy::Least => (all - used) * 100 / all,
                Strategy::Most => used.min(all) * 100 / all,
                Strategy::Ratio => match if used > all { 100 } else { used * 100 / all } {
                    percent @ ..=50 => 100 * percent / 50,
                    percent => 100 + (40 - 100) * (percent - 50) / 50,
                },
            }
        })
        .collect();
    let sum = scores.iter().sum::<i64>();
    match (world.rules.strategy, i64::try_from(scores.len()).unwrap()) {
        (_, 0) => 0,
        // What scores nothing does not count, and the mean is rounded.
        (Strategy::Ratio, _) => match i64::try_from(scores.iter().filter(|score| **score > 0).count()).unwrap() {
            0 => 0,
            count => (sum as f64 / count as f64).round() as i64,
        },
        (_, count) => sum / count,
    }
}

fn balanced(pod: &Pod, at: usize, world: &World<'_>) -> i64 {
    if pod.needs.request("cpu") == 0 && pod.needs.request("memory") == 0 {
        return 0;
    }
    let node = &world.nodes[at];
    let fractions: Vec<f64> = ["cpu", "memory"]
        .iter()
        .filter(|name| node.allocatable(name) > 0)
        .map(|name| {
            let used = used(at, name, world) + pod.needs.request(name);
            (used as f64 / node.allocatable(name) as f64).min(1.0)
        })
        .collect();
    let deviation = if let [cpu, memory] = fractions[..] { ((cpu - memory) / 2.0).abs() } else { 0.0 };
    ((1.0 - deviation) * 100.0) as i64
}

fn images(pod: &Pod, at: usize, world: &World<'_>) -> i64 {
    let mb = 1 << 20;
    let nodes = i64::try_from(world.nodes.len()).unwrap();
    let size = |image: &str| {
        let holders = i64::try_from(world.nodes.iter().filter(|node| node.images.contains_key(image)).count()).unwrap();
        world.nodes[at].images.get(image).map_or(0, |size| size * holders / nodes)
    };
    let sum: i64 = pod.needs.images.iter().map(|image| size(image)).sum();
    let most = 1000 * mb * i64::try_from(pod.needs.images.len().max(1)).unwrap();
    100 * (sum.clamp(23 * mb, most) - 23 * mb) / (most - 23 * mb)
}

fn stretch(raw: &[i64], reverse: bool) -> Vec<i64> {
    let max = raw.iter().copied().max().unwrap_or(0);
    let scaled = raw.iter().map(|it| if max == 0 { 0 } else { 100 * it / max });
    scaled.map(|it| if reverse { 100 - it } else { it }).collect()
}

fn taints(pod: &Pod, feasible: &[usize], world: &World<'_>) -> Vec<i64> {
    let against = |&at: &usize| {
        let soft = world.nodes[at].taints.iter().filter(|taint| &*taint.effect == "PreferNoSchedule");
        i64::try_from(soft.filter(|taint| !tolerates(&pod.needs.tolerations, taint)).count()).unwrap()
    };
    let raw: Vec<i64> = feasible.iter().map(against).collect();
    // When all are equal it makes no difference, and the decision leaves it out.
    if raw.iter().all(|it| *it == 0) { vec![0; raw.len()] } else { stretch(&raw, true) }
}

fn preferred(pod: &Pod, feasible: &[usize], world: &World<'_>) -> Vec<i64> {
    let sum = |&at: &usize| {
        let met = pod.needs.node_affinity.preferred.iter().filter(|(_, term)| term_matches(term, &world.nodes[at]));
        met.map(|(weight, _)| i64::from(*weight)).sum()
    };
    stretch(&feasible.iter().map(sum).collect::<Vec<_>>(), false)
}

fn spread(pod: &Pod, feasible: &[usize], world: &World<'_>) -> Vec<i64> {
    let soft: Vec<_> = constraints(pod, world).into_iter().filter(|it| !it.hard).collect();
    // For the system's own constraints nodes need not have all labels.
    let stated = !pod.needs.spread.is_empty() || world.rules.spread.is_some();
    if soft.is_empty() {
        return vec![0; feasible.len()];
    }
    let label = |at: usize, it: &SpreadConstraint| world.nodes[at].labels.get(&it.topology_key);
    let scored: Vec<bool> =
        feasible.iter().map(|&at| !stated || soft.iter().all(|it| label(at, it).is_some())).collect();
    let candidates: Vec<usize> = feasible.iter().zip(&scored).filter(|(_, it)| **it).map(|(at, _)| *at).collect();
    let keys: Vec<&str> = if stated { soft.iter().map(|it| &*it.topology_key).collect() } else { Vec::new() };
    let mut costs = vec![0.0; feasible.len()];
    for it in &soft {
        let is_hostname = &*it.topology_key == "kubernetes.io/hostname";
        let kinds: std::collections::BTreeSet<_> = candidates.iter().map(|&at| label(at, it)).collect();
        let kinds = if is_hostname { candidates.len() } else { kinds.len() };
        let domains = counted(pod, it, &keys, world);
        for (cost, &at) in costs.iter_mut().zip(feasible) {
            let Some(domain) = label(at, it) else { continue };
            let selector = it.selector.as_ref();
            let here = on(at, world).filter(|other| !other.item.deleting);
            let here = here.filter(|other| selects(selector, pod.item.namespace(), other)).count();
            let count =
                if is_hostname { i64::try_from(here).unwrap() } else { domains.get(domain).copied().unwrap_or(0) };
            *cost += count as f64 * ((kinds + 2) as f64).ln() + (it.max_skew - 1) as f64;
        }
    }
    let costs: Vec<Option<i64>> =
        costs.iter().zip(&scored).map(|(it, scored)| scored.then(|| it.round() as i64)).collect();
    let (min, max) =
        (costs.iter().flatten().min().copied().unwrap_or(0), costs.iter().flatten().max().copied().unwrap_or(0));
    costs.iter().map(|it| it.map_or(0, |cost| if max == 0 { 100 } else { 100 * (max + min - cost) / max })).collect()
}

fn nearness(pod: &Pod, feasible: &[usize], world: &World<'_>) -> Vec<i64> {
    let mut says: Vec<(i64, &str, usize)> = Vec::new();
    for (other, node) in world.pods {
        let mine = pod.needs.affinity.preferred.iter().map(|(weight, term)| (i64::from(*weight), term));
        let mine =
            mine.chain(pod.needs.anti_affinity.preferred.iter().map(|(weight, term)| (-i64::from(*weight), term)));
        says.extend(
            mine.filter(|(_, it)| term_selects(it, other, world))
                .map(|(weight, it)| (weight, &*it.topology_key, *node)),
        );
        let theirs = other.needs.affinity.required.iter().map(|term| (world.rules.hard_affinity, term));
        let theirs =
            theirs.chain(other.needs.affinity.preferred.iter().map(|(weight, term)| (i64::from(*weight), term)));
        let far = other.needs.anti_affinity.preferred.iter().map(|(weight, term)| (-i64::from(*weight), term));
        let theirs = theirs.chain(far).filter(|(_, it)| term_selects(it, pod, world));
        says.extend(theirs.map(|(weight, it)| (weight, &*it.topology_key, *node)));
    }
    let sum = |&at: &usize| {
        says.iter().filter(|(_, key, node)| together(key, at, *node, world)).map(|(weight, ..)| weight).sum()
    };
    let raw: Vec<i64> = feasible.iter().map(sum).collect();
    let (min, max) = raw.iter().fold((0, 0), |(min, max), it| (*it.min(&min), *it.max(&max)));
    raw.iter().map(|it| if max > min { 100 * (it - min) / (max - min) } else { 0 }).collect()
}
