//! Which devices of a node satisfy claims: a search with backtracking, in the order of requests, alternatives and devices.

use std::collections::{BTreeMap, HashMap};

use api::quantity::Quantity;
use k8s_openapi::{
    api::{
        core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm},
        resource::v1::{
            AllocationResult, CapacityRequestPolicy, DeviceAllocationConfiguration, DeviceAllocationResult,
            DeviceClass, DeviceConstraint, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim,
        },
    },
    apimachinery::pkg::api::resource,
};

use super::{
    pools::Candidate,
    selectors::Selectors,
    taken::{DeviceId, Taken},
};

/// Devices that a claim may have at most.
const MOST: usize = 32;
/// Devices that are tried before a search is given up.
const PATIENCE: usize = 200_000;

/// A claim to be allocated.
pub(super) struct Asked<'a> {
    pub claim: &'a ResourceClaim,
    requests: Vec<Request<'a>>,
}

/// Any one of the alternatives will do, the first is the best.
struct Request<'a> {
    alternatives: Vec<Alternative<'a>>,
}

struct Alternative<'a> {
    /// `request`, or `request/subrequest`.
    name: String,
    class: &'a DeviceClass,
    selectors: Vec<&'a str>,
    /// All devices that match, else so many.
    count: Option<usize>,
    admin: bool,
    tolerations: &'a [DeviceToleration],
    capacity: BTreeMap<&'a str, Quantity>,
}

impl<'a> Asked<'a> {
    /// Finds the claim's classes by name. An error says what is missing.
    pub fn new(claim: &'a ResourceClaim, class: impl Fn(&str) -> Option<&'a DeviceClass>) -> Result<Self, String> {
        let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
        let request = |request: &'a k8s_openapi::api::resource::v1::DeviceRequest| {
            let missing = |name: &str| format!("request {}: device class {name} does not exist", request.name);
            let own = request.exactly.iter().map(|it| {
                let class = class(&it.device_class_name).ok_or_else(|| missing(&it.device_class_name))?;
                Ok(Alternative {
                    name: request.name.clone(),
                    class,
                    selectors: selectors(class, it.selectors.as_deref()),
                    count: count(it.allocation_mode.as_deref(), it.count),
                    admin: it.admin_access == Some(true),
                    tolerations: it.tolerations.as_deref().unwrap_or_default(),
                    capacity: amounts(it.capacity.as_ref().and_then(|it| it.requests.as_ref())),
                })
            });
            let subs = request.first_available.iter().flatten().map(|it| {
                let class = class(&it.device_class_name).ok_or_else(|| missing(&it.device_class_name))?;
                Ok(Alternative {
                    name: format!("{}/{}", request.name, it.name),
                    class,
                    selectors: selectors(class, it.selectors.as_deref()),
                    count: count(it.allocation_mode.as_deref(), it.count),
                    admin: false,
                    tolerations: it.tolerations.as_deref().unwrap_or_default(),
                    capacity: amounts(it.capacity.as_ref().and_then(|it| it.requests.as_ref())),
                })
            });
            Ok::<_, String>(Request { alternatives: own.chain(subs).collect::<Result<_, String>>()? })
        };
        Ok(Self { claim, requests: requests.map(request).collect::<Result<_, _>>()? })
    }

    fn constraints(&self) -> impl Iterator<Item = &'a DeviceConstraint> {
        self.claim.spec.devices.iter().flat_map(|devices| devices.constraints.iter().flatten())
    }
}

fn selectors<'a>(
    class: &'a DeviceClass,
    own: Option<&'a [k8s_openapi::api::resource::v1::DeviceSelector]>,
) -> Vec<&'a str> {
    let all = class.spec.selectors.iter().flatten().chain(own.unwrap_or_default());
    all.filter_map(|selector| Some(&*selector.cel.as_ref()?.expression)).collect()
}

fn count(mode: Option<&str>, count: Option<i64>) -> Option<usize> {
    (mode != Some("All")).then(|| usize::try_from(count.unwrap_or(1)).unwrap_or(1).max(1))
}

fn amounts(requests: Option<&BTreeMap<String, resource::Quantity>>) -> BTreeMap<&str, Quantity> {
    let requests = requests.into_iter().flatten();
    requests.map(|(name, amount)| (&**name, Quantity::parse(&amount.0).unwrap_or_default())).collect()
}

/// One device for one request of one claim.
#[derive(Clone)]
struct Choice {
    claim: usize,
    request: usize,
    alternative: usize,
    candidate: usize,
    consumed: BTreeMap<String, Quantity>,
}

struct Search<'a> {
    asked: &'a [Asked<'a>],
    candidates: &'a [Candidate<'a>],
    selectors: &'a Selectors,
    taken: &'a Taken,
    ids: Vec<DeviceId>,
    /// What selectors have said, by alternative and candidate.
    known: HashMap<(usize, usize, usize, usize), bool>,
    chosen: Vec<Choice>,
    tried: usize,
}

/// Allocates all claims from a node's devices, or none. An error is not about what is free: nothing can be decided.
pub(super) fn allocate(
    asked: &[Asked<'_>],
    candidates: &[Candidate<'_>],
    taken: &Taken,
    selectors: &Selectors,
    node: &str,
) -> Result<Option<Vec<AllocationResult>>, String> {
    let ids = candidates.iter().map(Candidate::id).collect();
    let known = HashMap::new();
    let mut search = Search { asked, candidates, selectors, taken, ids, known, chosen: Vec::new(), tried: 0 };
    let found = search.solve(0, 0)?;
    Ok(found.then(|| (0..asked.len()).map(|claim| search.result(claim, node)).collect()))
}

impl<'a> Search<'a> {
    fn alternative(&self, claim: usize, request: usize, alternative: usize) -> &'a Alternative<'a> {
        &self.asked[claim].requests[request].alternatives[alternative]
    }

    /// Satisfies everything from this request on.
    fn solve(&mut self, claim: usize, request: usize) -> Result<bool, String> {
        let Some(asked) = self.asked.get(claim) else { return Ok(true) };
        let Some(wanted) = asked.requests.get(request) else { return self.solve(claim + 1, 0) };
        for (index, alternative) in wanted.alternatives.iter().enumerate() {
            let before = self.chosen.len();
            let solved = match alternative.count {
                Some(count) => self.take_some(claim, request, index, count, 0)?,
                None => self.take_all(claim, request, index)? && self.solve(claim, request + 1)?,
            };
            if solved {
                return Ok(true);
            }
            self.chosen.truncate(before);
        }
        Ok(false)
    }

    fn take_some(
        &mut self,
        claim: usize,
        request: usize,
        alternative: usize,
        count: usize,
        from: usize,
    ) -> Result<bool, String> {
        if count == 0 {
            return self.solve(claim, request + 1);
        }
        for candidate in from..self.candidates.len() {
            if !self.candidates[candidate].incomplete
                && self.matches(claim, request, alternative, candidate)?
                && self.take(claim, request, alternative, candidate)?
            {
                if self.take_some(claim, request, alternative, count - 1, candidate + 1)? {
                    return Ok(true);
                }
                self.chosen.pop();
            }
        }
        Ok(false)
    }

    fn take_all(&mut self, claim: usize, request: usize, alternative: usize) -> Result<bool, String> {
        let mut any = false;
        for candidate in 0..self.candidates.len() {
            let it = &self.candidates[candidate];
            if it.incomplete {
                let (name, request) =
                    (&self.asked[claim].claim.metadata.name, &self.alternative(claim, request, 0).name);
                let pool = format!("{}/{}", it.slice.driver, it.slice.pool.name);
                let name = name.as_deref().unwrap_or_default();
                return Err(format!(
                    "claim {name}, request {request}: asks for all devices, but resource pool {pool} is currently being updated"
                ));
            }
            if self.matches(claim, request, alternative, candidate)? {
                any = true;
                if !self.take(claim, request, alternative, candidate)? {
                    return Ok(false);
                }
            }
        }
        Ok(any)
    }

    /// Whether the device is of the kind that is asked for.
    fn matches(&mut self, claim: usize, request: usize, alternative: usize, candidate: usize) -> Result<bool, String> {
        let key = (claim, request, alternative, candidate);
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let (wanted, it) = (self.alternative(claim, request, alternative), &self.candidates[candidate]);
        let mut matches = true;
        for selector in &wanted.selectors {
            matches = matches && self.selectors.matches(selector, &it.slice.driver, it.device)?;
        }
        matches = matches && it.device.taints.iter().flatten().all(|taint| tolerated(taint, wanted.tolerations));
        self.known.insert(key, matches);
        Ok(matches)
    }

    /// Takes the device if it is free and the claim's constraints hold with it.
    fn take(&mut self, claim: usize, request: usize, alternative: usize, candidate: usize) -> Result<bool, String> {
        self.tried += 1;
        if self.tried > PATIENCE {
            return Err("timed out trying to allocate devices".into());
        }
        let wanted = self.alternative(claim, request, alternative);
        if self.chosen.iter().filter(|it| it.claim == claim).count() >= MOST
            || !self.asked[claim].constraints().all(|it| self.holds(it, claim, wanted, candidate))
        {
            return Ok(false);
        }
        let device = self.candidates[candidate].device;
        let Some(consumed) = consumption(wanted, device) else { return Ok(false) };
        let is_shared = device.allow_multiple_allocations == Some(true);
        let is_had = wanted.admin || self.is_free(candidate, is_shared, &consumed) && self.has_counters(candidate);
        if !is_had {
            return Ok(false);
        }
        let consumed = if is_shared && !wanted.admin { consumed } else { BTreeMap::new() };
        self.chosen.push(Choice { claim, request, alternative, candidate, consumed });
        Ok(true)
    }

    /// The choices that take something.
    fn takers(&self) -> impl Iterator<Item = &Choice> {
        self.chosen.iter().filter(|it| !self.alternative(it.claim, it.request, it.alternative).admin)
    }

    fn is_free(&self, candidate: usize, is_shared: bool, wanted: &BTreeMap<String, Quantity>) -> bool {
        let id = &self.ids[candidate];
        let mut chosen = self.takers().filter(|it| it.candidate == candidate);
        if !is_shared {
            return !self.taken.has(id) && chosen.next().is_none();
        }
        let mut used = self.taken.consumed(id);
        for (name, amount) in chosen.flat_map(|it| &it.consumed) {
            *used.entry(name.clone()).or_default() += *amount;
        }
        let device = self.candidates[candidate].device;
        device.capacity.iter().flatten().all(|(name, capacity)| {
            let all = Quantity::parse(&capacity.value.0).unwrap_or_default();
            let of = |amounts: &BTreeMap<String, Quantity>| amounts.get(name).copied().unwrap_or_default();
            of(&used) + of(wanted) <= all
        })
    }

    /// Whether what the devices of a pool share is enough for this one too.
    fn has_counters(&self, candidate: usize) -> bool {
        let it = &self.candidates[candidate];
        let wanted = it.device.consumes_counters.as_deref().unwrap_or_default();
        if wanted.is_empty() || self.is_taken(candidate) {
            return true;
        }
        let of_pool = |other: &&Candidate<'_>| {
            other.slice.driver == it.slice.driver && other.slice.pool.name == it.slice.pool.name
        };
        let amount = |text: &resource::Quantity| Quantity::parse(&text.0).unwrap_or_default();
        wanted.iter().all(|wanted| {
            let sets = self.candidates.iter().filter(of_pool).flat_map(|it| it.slice.shared_counters.iter().flatten());
            let Some(set) = sets.into_iter().find(|set| set.name == wanted.counter_set) else { return false };
            wanted.counters.iter().all(|(name, needed)| {
                let Some(all) = set.counters.get(name) else { return false };
                let mut left = amount(&all.value);
                for (index, other) in self.candidates.iter().enumerate().filter(|(_, it)| of_pool(it)) {
                    let uses = other.device.consumes_counters.iter().flatten();
                    let uses =
                        uses.filter(|it| it.counter_set == wanted.counter_set).find_map(|it| it.counters.get(name));
                    if let Some(uses) = uses.filter(|_| self.is_taken(index)) {
                        left -= amount(&uses.value);
                    }
                }
                amount(&needed.value) <= left
            })
        })
    }

    fn is_taken(&self, candidate: usize) -> bool {
        self.taken.has(&self.ids[candidate]) || self.takers().any(|it| it.candidate == candidate)
    }

    /// Whether a constraint allows the device beside those of the claim that are chosen already.
    fn holds(&self, constraint: &DeviceConstraint, claim: usize, wanted: &Alternative<'_>, candidate: usize) -> bool {
        let names = constraint.requests.as_deref().unwrap_or_default();
        let concerns = |it: &Alternative<'_>| {
            let base = it.name.split('/').next().unwrap_or_default();
            names.is_empty() || names.iter().any(|name| *name == it.name || name == base)
        };
        if !concerns(wanted) {
            return true;
        }
        let others = self
            .chosen
            .iter()
            .filter(|it| it.claim == claim && concerns(self.alternative(it.claim, it.request, it.alternative)));
        let value = |candidate: usize, attribute: &str| {
            let it = &self.candidates[candidate];
            let short =
                attribute.split_once('/').filter(|(domain, _)| *domain == it.slice.driver).map(|(_, name)| name);
            let attributes = it.device.attributes.as_ref()?;
            attributes.get(attribute).or_else(|| attributes.get(short?))
        };
        let mut others = others.map(|it| it.candidate);
        if let Some(attribute) = &constraint.match_attribute {
            let own = value(candidate, attribute);
            return own.is_some() && others.all(|other| value(other, attribute) == own);
        }
        if let Some(attribute) = &constraint.distinct_attribute {
            let own = value(candidate, attribute);
            return own.is_some() && others.all(|other| value(other, attribute) != own);
        }
        true
    }

    fn result(&self, claim: usize, node: &str) -> AllocationResult {
        let mut configs = Vec::new();
        let mut results = Vec::new();
        let mut seen = Vec::new();
        for choice in self.chosen.iter().filter(|it| it.claim == claim) {
            let wanted = self.alternative(choice.claim, choice.request, choice.alternative);
            let it = &self.candidates[choice.candidate];
            if !seen.contains(&&wanted.name) {
                seen.push(&wanted.name);
                let of_class = wanted.class.spec.config.iter().flatten();
                configs.extend(of_class.map(|config| DeviceAllocationConfiguration {
                    source: "FromClass".into(),
                    requests: Some(vec![wanted.name.clone()]),
                    opaque: config.opaque.clone(),
                }));
            }
            let is_shared = it.device.allow_multiple_allocations == Some(true);
            let consumed =
                choice.consumed.iter().map(|(name, amount)| (name.clone(), resource::Quantity(amount.to_string())));
            results.push(DeviceRequestAllocationResult {
                request: wanted.name.clone(),
                driver: it.slice.driver.clone(),
                pool: it.slice.pool.name.clone(),
                device: it.device.name.clone(),
                admin_access: wanted.admin.then_some(true),
                tolerations: Some(wanted.tolerations.to_vec()).filter(|it| !it.is_empty()),
                binding_conditions: it.device.binding_conditions.clone(),
                binding_failure_conditions: it.device.binding_failure_conditions.clone(),
                share_id: is_shared.then(|| uuid::Uuid::new_v4().to_string()),
                consumed_capacity: (is_shared && !wanted.admin).then(|| consumed.collect()),
            });
        }
        let of_claim = self.asked[claim].claim.spec.devices.iter().flat_map(|devices| devices.config.iter().flatten());
        configs.extend(of_claim.map(|config| DeviceAllocationConfiguration {
            source: "FromClaim".into(),
            requests: config.requests.clone(),
            opaque: config.opaque.clone(),
        }));
        let waits = results.iter().any(|it| it.binding_conditions.as_ref().is_some_and(|it| !it.is_empty()));
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now());
        AllocationResult {
            allocation_timestamp: waits.then_some(now),
            devices: Some(DeviceAllocationResult {
                results: Some(results),
                config: Some(configs).filter(|configs| !configs.is_empty()),
            }),
            node_selector: self.nodes(claim, node),
        }
    }

    /// The nodes from which the devices of a claim can be reached; none if from all.
    fn nodes(&self, claim: usize, node: &str) -> Option<NodeSelector> {
        let mut expressions = Vec::new();
        for choice in self.chosen.iter().filter(|it| it.claim == claim) {
            let it = &self.candidates[choice.candidate];
            let own = it.slice.per_device_node_selection == Some(true);
            let (all, selector) = match own {
                true => (it.device.all_nodes, &it.device.node_selector),
                false => (it.slice.all_nodes, &it.slice.node_selector),
            };
            let terms = selector.as_ref().map(|it| &it.node_selector_terms[..]);
            match terms {
                _ if all == Some(true) && it.device.binds_to_node != Some(true) => {}
                Some([only]) if only.match_fields.is_none() && it.device.binds_to_node != Some(true) => {
                    expressions.extend(only.match_expressions.iter().flatten().cloned());
                }
                _ => {
                    let requirement = NodeSelectorRequirement {
                        key: "metadata.name".into(),
                        operator: "In".into(),
                        values: Some(vec![node.to_owned()]),
                    };
                    let term =
                        NodeSelectorTerm { match_fields: Some(vec![requirement]), ..NodeSelectorTerm::default() };
                    return Some(NodeSelector { node_selector_terms: vec![term] });
                }
            }
        }
        expressions.dedup();
        let term = NodeSelectorTerm { match_expressions: Some(expressions), ..NodeSelectorTerm::default() };
        let is_any = term.match_expressions.as_ref().is_some_and(|it| !it.is_empty());
        is_any.then(|| NodeSelector { node_selector_terms: vec![term] })
    }
}

fn tolerated(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> bool {
    !matches!(&*taint.effect, "NoSchedule" | "NoExecute")
        || tolerations.iter().any(|it| {
            let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|it| it.is_empty() || it == has);
            is(&it.effect, &taint.effect)
                && is(&it.key, &taint.key)
                && match it.operator.as_deref().unwrap_or("Equal") {
                    "Exists" => true,
                    "" | "Equal" => {
                        it.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
                    }
                    _ => false,
                }
        })
}

/// What a request takes of a device's capacity, as the device's policies round it; none if the device cannot give it.
fn consumption(
    wanted: &Alternative<'_>,
    device: &k8s_openapi::api::resource::v1::Device,
) -> Option<BTreeMap<String, Quantity>> {
    let mut consumed = BTreeMap::new();
    let has = |name: &str| device.capacity.as_ref().is_some_and(|all| all.contains_key(name));
    if !wanted.capacity.keys().all(|name| has(name)) {
        return None;
    }
    for (name, capacity) in device.capacity.iter().flatten() {
        let all = Quantity::parse(&capacity.value.0).unwrap_or_default();
        let asked = wanted.capacity.get(&**name).copied();
        let amount = match &capacity.request_policy {
            Some(policy) => by_policy(policy, asked, all)?,
            None => asked.unwrap_or(all),
        };
        if amount > all {
            return None;
        }
        consumed.insert(name.clone(), amount);
    }
    Some(consumed)
}

fn by_policy(policy: &CapacityRequestPolicy, asked: Option<Quantity>, all: Quantity) -> Option<Quantity> {
    let read = |text: &resource::Quantity| Quantity::parse(&text.0).unwrap_or_default();
    let Some(asked) = asked else { return Some(policy.default.as_ref().map_or(all, read)) };
    if let Some(values) = &policy.valid_values {
        return values.iter().map(read).filter(|value| *value >= asked).min();
    }
    let Some(range) = &policy.valid_range else { return Some(asked) };
    let mut amount = asked.max(read(&range.min));
    if let Some(step) = range.step.as_ref().map(read).filter(|step| step.sign() > 0) {
        let over = amount.value() - read(&range.min).value();
        let steps = over.div_euclid(step.value()) + i64::from(over.rem_euclid(step.value()) > 0);
        amount = read(&range.min) + Quantity::new(steps * step.value(), step.format());
    }
    range.max.as_ref().is_none_or(|max| amount <= read(max)).then_some(amount)
}
