//! CEL expressions that choose devices: `device.driver`, `device.attributes[domain].name`, `device.capacity[domain].name` and
//! `device.allowMultipleAllocations`, with quantities and semantic versions.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::quantity::Quantity;
use cel::{Context, Env, ExecutionError, Program, Value, extractors::This, objects::Opaque};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use parking_lot::Mutex;

/// Expressions that are kept ready.
const KEPT: usize = 256;

/// Evaluates expressions, each compiled once.
pub(crate) struct Selectors {
    env: Arc<Env>,
    ready: Mutex<HashMap<String, Arc<Result<Ready, String>>>>,
}

struct Ready {
    program: Program,
    /// The domains that the expression names: one that a device has nothing of is empty, not an error.
    domains: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Amount(Quantity);

impl Opaque for Amount {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Quantity"
    }
}

/// A version by semver.org, without build metadata, which does not count.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    pre: Vec<Part>,
}

/// A part of a pre-release: numbers come before words.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

impl Opaque for Version {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Semver"
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let text = text.split('+').next()?;
        let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
        let number = |text: &str| -> Option<u64> {
            let is_plain = text == "0" || !text.starts_with('0');
            (is_plain && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
        };
        let numbers: Vec<u64> = numbers.split('.').map(number).collect::<Option<_>>()?;
        let part = |text: &str| match number(text) {
            Some(number) => Some(Part::Number(number)),
            None => (!text.is_empty()).then(|| Part::Word(text.into())),
        };
        let pre = pre.map_or(Some(Vec::new()), |pre| pre.split('.').map(part).collect())?;
        Some(Self { numbers: numbers.try_into().ok()?, pre })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // A release comes after its pre-releases.
        let by_release = || self.pre.is_empty().cmp(&other.pre.is_empty());
        self.numbers.cmp(&other.numbers).then_with(by_release).then_with(|| self.pre.cmp(&other.pre))
    }
}

fn compare(a: &Arc<dyn Opaque>, b: &Arc<dyn Opaque>) -> Result<Ordering, ExecutionError> {
    let versions = a.downcast_ref::<Version>().zip(b.downcast_ref::<Version>()).map(|(a, b)| a.cmp(b));
    let amounts = || a.downcast_ref::<Amount>().zip(b.downcast_ref::<Amount>()).map(|(a, b)| a.cmp(b));
    versions.or_else(amounts).ok_or_else(|| ExecutionError::function_error("compareTo", "no such overload"))
}

fn quantity(text: &str) -> Result<Value, ExecutionError> {
    let quantity = Quantity::parse(text).map_err(|error| ExecutionError::function_error("quantity", error))?;
    Ok(Value::Opaque(Arc::new(Amount(quantity))))
}

fn version(text: &str) -> Result<Value, ExecutionError> {
    let version =
        Version::parse(text).ok_or_else(|| ExecutionError::function_error("semver", "Invalid Semantic Version"))?;
    Ok(Value::Opaque(Arc::new(version)))
}

type Any = Arc<dyn Opaque>;

fn own(it: &Any) -> Result<Quantity, ExecutionError> {
    let amount = it.downcast_ref::<Amount>().map(|it| it.0);
    amount.ok_or_else(|| ExecutionError::function_error("quantity", "no such overload"))
}

fn amount(it: Quantity) -> Value {
    Value::Opaque(Arc::new(Amount(it)))
}

fn version_number(it: &Any, at: usize) -> Result<Value, ExecutionError> {
    let version = it.downcast_ref::<Version>();
    let version = version.ok_or_else(|| ExecutionError::function_error("semver", "no such overload"))?;
    Ok(Value::Int(i64::try_from(version.numbers[at]).unwrap_or(i64::MAX)))
}

/// The functions that CEL itself does not have. Their names are new, so that none can be refused.
fn declare(context: &mut Context<'_, '_>) {
    let results = [
        context.add_function("quantity", |text: Arc<String>| quantity(&text)),
        context.add_function("isQuantity", |text: Arc<String>| Quantity::parse(&text).is_ok()),
        context.add_function("semver", |text: Arc<String>| version(&text)),
        context.add_function("isSemver", |text: Arc<String>| Version::parse(&text).is_some()),
        context.add_function("compareTo", |This(a): This<Any>, b: Any| compare(&a, &b).map(|it| Value::Int(it as i64))),
        context.add_function("isGreaterThan", |This(a): This<Any>, b: Any| {
            compare(&a, &b).map(|it| Value::Bool(it == Ordering::Greater))
        }),
        context.add_function("isLessThan", |This(a): This<Any>, b: Any| {
            compare(&a, &b).map(|it| Value::Bool(it == Ordering::Less))
        }),
        context.add_function("major", |This(it): This<Any>| version_number(&it, 0)),
        context.add_function("minor", |This(it): This<Any>| version_number(&it, 1)),
        context.add_function("patch", |This(it): This<Any>| version_number(&it, 2)),
        context.add_function("sign", |This(it): This<Any>| {
            own(&it).map(|it| Value::Int(i64::try_from(it.sign()).unwrap_or(0)))
        }),
        context.add_function("isInteger", |This(it): This<Any>| {
            own(&it).map(|it| Value::Bool(Quantity::new(it.value(), it.format()) == it))
        }),
        context.add_function("asInteger", |This(it): This<Any>| own(&it).map(|it| Value::Int(it.value()))),
        context.add_function("asApproximateFloat", |This(it): This<Any>| own(&it).map(|it| Value::Float(it.as_f64()))),
        context.add_function("add", |This(a): This<Any>, b: Any| -> Result<Value, ExecutionError> {
            Ok(amount(own(&a)? + own(&b)?))
        }),
        context.add_function("sub", |This(a): This<Any>, b: Any| -> Result<Value, ExecutionError> {
            Ok(amount(own(&a)? - own(&b)?))
        }),
    ];
    for conflict in results.into_iter().filter_map(Result::err) {
        tracing::error!(%conflict, "a function of CEL has a name that is taken");
    }
}

impl Selectors {
    pub fn new() -> Self {
        Self { env: Arc::new(Env::stdlib()), ready: Mutex::default() }
    }

    /// Whether the expression is true of the device.
    pub fn matches(&self, expression: &str, driver: &str, device: &Device) -> Result<bool, String> {
        let ready = self.ready(expression);
        let ready = ready.as_ref().as_ref().map_err(Clone::clone)?;
        let mut context = Context::with_env(self.env.clone());
        declare(&mut context);
        context.add_variable_from_value("device", value(driver, device, &ready.domains).map_err(|it| it.to_string())?);
        match ready.program.execute(&context) {
            Ok(Value::Bool(matches)) => Ok(matches),
            Ok(_) => Err("CEL expression does not evaluate to a bool".into()),
            Err(error) => Err(format!("CEL runtime error: {error}")),
        }
    }

    fn ready(&self, expression: &str) -> Arc<Result<Ready, String>> {
        let mut all = self.ready.lock();
        if let Some(ready) = all.get(expression) {
            return ready.clone();
        }
        if all.len() >= KEPT {
            all.clear();
        }
        let program = self.env.compile(expression).map_err(|error| format!("CEL compile error: {error}"));
        let ready = Arc::new(program.map(|program| Ready { program, domains: domains(expression) }));
        all.insert(expression.to_owned(), ready.clone());
        ready
    }
}

/// The quoted texts right after `attributes[` and `capacity[`.
fn domains(expression: &str) -> BTreeSet<String> {
    let indexed = ["attributes[", "capacity["].into_iter().flat_map(|map| expression.split(map).skip(1));
    let quoted = indexed.filter_map(|rest| {
        let quote = rest.trim_start().chars().next().filter(|it| matches!(it, '"' | '\''))?;
        rest.trim_start()[1..].split(quote).next()
    });
    quoted.map(str::to_owned).collect()
}

/// The names of one domain with their values.
type Names = HashMap<String, Value>;

fn value(driver: &str, device: &Device, named: &BTreeSet<String>) -> Result<Value, ExecutionError> {
    let empty = || named.iter().map(|domain| (domain.clone(), Names::new())).collect::<HashMap<String, Names>>();
    let (mut attributes, mut capacity) = (empty(), empty());
    for (name, attribute) in device.attributes.iter().flatten() {
        let (domain, name) = name.split_once('/').unwrap_or((driver, name));
        attributes.entry(domain.to_owned()).or_default().insert(name.to_owned(), of_attribute(attribute)?);
    }
    for (name, amount) in device.capacity.iter().flatten() {
        let (domain, name) = name.split_once('/').unwrap_or((driver, name));
        capacity.entry(domain.to_owned()).or_default().insert(name.to_owned(), quantity(&amount.value.0)?);
    }
    Ok(Value::from(HashMap::from([
        ("driver".to_owned(), Value::from(driver.to_owned())),
        ("attributes".to_owned(), of_domains(attributes)),
        ("capacity".to_owned(), of_domains(capacity)),
        ("allowMultipleAllocations".to_owned(), Value::Bool(device.allow_multiple_allocations == Some(true))),
    ])))
}

fn of_domains(domains: HashMap<String, Names>) -> Value {
    Value::from(domains.into_iter().map(|(domain, names)| (domain, Value::from(names))).collect::<HashMap<_, _>>())
}

fn of_attribute(attribute: &DeviceAttribute) -> Result<Value, ExecutionError> {
    if let Some(text) = &attribute.version {
        return version(text);
    }
    let text = attribute.string.clone().map(Value::from);
    let int = attribute.int.map(Value::Int);
    Ok(text.or(int).or(attribute.bool.map(Value::Bool)).unwrap_or(Value::Null))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_are_chosen_by_their_attributes_and_capacity() {
        let device: Device = serde_json::from_value(json!({
            "name": "gpu-0",
            "attributes": {
                "model": {"string": "a100"}, "index": {"int": 3}, "healthy": {"bool": true},
                "driverVersion": {"version": "1.2.3-rc.1"}, "other.example/color": {"string": "red"},
            },
            "capacity": {"memory": {"value": "40Gi"}},
        }))
        .unwrap();
        let selectors = Selectors::new();
        let table = [
            ("device.driver == 'gpu.example'", Ok(true)),
            (
                "device.attributes['gpu.example'].model == 'a100' && device.attributes['gpu.example'].index < 4",
                Ok(true),
            ),
            ("device.attributes[\"gpu.example\"].healthy && !device.allowMultipleAllocations", Ok(true)),
            ("device.attributes['other.example'].color == 'blue'", Ok(false)),
            ("'color' in device.attributes['nobody.example']", Ok(false)),
            ("has(device.attributes['gpu.example'].nothing)", Ok(false)),
            ("device.capacity['gpu.example'].memory.compareTo(quantity('40Gi')) >= 0", Ok(true)),
            ("device.capacity['gpu.example'].memory.isGreaterThan(quantity('1Ti'))", Ok(false)),
            ("device.attributes['gpu.example'].driverVersion.isLessThan(semver('1.2.3'))", Ok(true)),
            ("device.attributes['gpu.example'].driverVersion.isGreaterThan(semver('1.2.3-beta'))", Ok(true)),
            ("device.attributes['gpu.example'].nothing == 'x'", Err("CEL runtime error")),
            ("device.driver", Err("CEL expression does not evaluate to a bool")),
            ("device.", Err("CEL compile error")),
        ];
        for (expression, expected) in table {
            let found = selectors.matches(expression, "gpu.example", &device);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{expression}"),
                (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{expression}: {found}"),
                (found, expected) => panic!("{expression}: {found:?}, not {expected:?}"),
            }
        }
    }
}
