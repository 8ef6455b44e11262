//! Seccomp filters: the default one, and those that an administrator wrote for a node.
//!
//! A filter of `seccompiler` knows two outcomes. A profile with more becomes several filters, one an outcome: the kernel
//! runs all and takes the strictest.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde::Deserialize;

use super::capabilities::bit;
use super::syscalls::{ALLOWED, BY_CAPABILITY, number};
use crate::cri::{CriError, ProfileType, Result, SecurityProfile};

/// The filters of a container, compiled, in base64, in the order in which they are to be installed.
pub fn filters(profile: Option<&SecurityProfile>, capabilities: u64, privileged: bool) -> Result<Vec<String>> {
    let Some(profile) = profile.filter(|_| !privileged) else { return Ok(Vec::new()) };
    let programs = match profile.profile_type {
        ProfileType::Unconfined => return Ok(Vec::new()),
        ProfileType::RuntimeDefault => default_profile(capabilities)?,
        ProfileType::Localhost => localhost(Path::new(&profile.localhost_ref), capabilities)?,
    };
    Ok(programs.iter().map(encode).collect())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn failed(error: impl std::fmt::Display) -> CriError {
    CriError::invalid(format!("seccomp profile: {error}"))
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let machine = TargetArch::try_from(std::env::consts::ARCH).map_err(failed)?;
    let filter = SeccompFilter::new(rules, otherwise, matched, machine).map_err(failed)?;
    BpfProgram::try_from(filter).map_err(failed)
}

fn encode(program: &BpfProgram) -> String {
    let bytes = program.iter().flat_map(|i| {
        let [a, b] = i.code.to_ne_bytes();
        let [w, x, y, z] = i.k.to_ne_bytes();
        [a, b, i.jt, i.jf, w, x, y, z]
    });
    STANDARD.encode(bytes.collect::<Vec<u8>>())
}

fn condition(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value).map_err(failed)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(failed)
}

/// Flags of `clone` that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Everything that is not allowed gives EPERM, except `clone3`, whose arguments no filter sees: ENOSYS makes the C
/// library fall back to `clone`.
fn default_profile(capabilities: u64) -> Result<Vec<BpfProgram>> {
    let has = |name: &str| bit(name).is_some_and(|bit| capabilities & bit != 0);
    let mut rules = Rules::new();
    let by_capability = BY_CAPABILITY.iter().filter(|(name, _)| has(name)).flat_map(|(_, calls)| *calls);
    for call in ALLOWED.iter().chain(by_capability) {
        if let Some(number) = number(call) {
            rules.insert(number, Vec::new());
        }
    }
    let clone = if has("SYS_ADMIN") {
        Vec::new()
    } else {
        vec![rule(vec![condition(0, SeccompCmpOp::MaskedEq(CLONE_NAMESPACES), 0)?])?]
    };
    let personality = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff]
        .map(|persona| rule(vec![condition(0, SeccompCmpOp::Eq, persona)?]))
        .into_iter()
        .collect::<Result<_>>()?;
    // A virtual machine's sockets lead out of every network namespace.
    let socket = vec![rule(vec![condition(0, SeccompCmpOp::Ne, libc::AF_VSOCK as u64)?])?];
    let arguments = [("clone", clone), ("clone3", Vec::new()), ("personality", personality), ("socket", socket)];
    rules.extend(arguments.into_iter().filter_map(|(call, rules)| Some((number(call)?, rules))));
    let mut programs = vec![compile(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?];
    if let (false, Some(clone3)) = (has("SYS_ADMIN"), number("clone3")) {
        let rules = Rules::from([(clone3, Vec::new())]);
        programs.push(compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?);
    }
    #[cfg(target_arch = "x86_64")]
    {
        use super::compat::{anything, beside, default_filter};
        // The first one says all that there is to say about 32-bit calls.
        let mut answers = std::iter::once(default_filter(has, CLONE_NAMESPACES as u32));
        programs = programs.into_iter().map(|native| beside(native, answers.next().unwrap_or_else(anything))).collect();
    }
    Ok(programs)
}

/// A profile as runtimes and Docker have it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Calls>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Scope>,
    #[serde(default)]
    excludes: Option<Scope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Scope {
    caps: Vec<String>,
    arches: Vec<String>,
}

impl Scope {
    /// Whether the scope has a condition that holds here.
    fn holds(&self, capabilities: u64) -> bool {
        let cap = |name: &String| bit(name).is_some_and(|bit| capabilities & bit != 0);
        let arch = |name: &String| {
            name == if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" } || name == std::env::consts::ARCH
        };
        self.caps.iter().all(cap) && (self.arches.is_empty() || self.arches.iter().any(arch))
    }

    fn is_empty(&self) -> bool {
        self.caps.is_empty() && self.arches.is_empty()
    }
}

fn localhost(path: &Path, capabilities: u64) -> Result<Vec<BpfProgram>> {
    let text = std::fs::read(path)
        .map_err(|error| CriError::invalid(format!("cannot load seccomp profile {}: {error}", path.display())))?;
    let profile: Profile = serde_json::from_slice(&text)
        .map_err(|error| CriError::invalid(format!("cannot load seccomp profile {}: {error}", path.display())))?;
    compile_profile(&profile, capabilities)
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno),
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        other => return Err(failed(format!("unsupported action {other}"))),
    })
}

/// One filter gives everything its default except what has rules of its own; one more for each other action.
fn compile_profile(profile: &Profile, capabilities: u64) -> Result<Vec<BpfProgram>> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut by_action: Vec<(SeccompAction, Rules)> = Vec::new();
    for calls in &profile.syscalls {
        let included = calls.includes.as_ref().is_none_or(|scope| scope.holds(capabilities));
        let excluded = calls.excludes.as_ref().is_some_and(|scope| !scope.is_empty() && scope.holds(capabilities));
        let wanted = action(&calls.action, calls.errno_ret)?;
        if !included || excluded || wanted == default {
            continue;
        }
        let conditions: Vec<_> = calls.args.iter().flatten().map(compare).collect::<Result<_>>()?;
        let at = by_action.iter().position(|(known, _)| *known == wanted).unwrap_or_else(|| {
            by_action.push((wanted, Rules::new()));
            by_action.len() - 1
        });
        for number in calls.names.iter().chain(&calls.name).filter_map(|name| number(name)) {
            let rules = &mut by_action[at].1;
            match (rules.get_mut(&number), conditions.is_empty()) {
                // Without a condition it holds always, whatever was or will be said more narrowly.
                (_, true) => drop(rules.insert(number, Vec::new())),
                (Some(known), false) if known.is_empty() => {}
                (Some(known), false) => known.push(rule(conditions.clone())?),
                (None, false) => drop(rules.insert(number, vec![rule(conditions.clone())?])),
            }
        }
    }
    // Where the default is strict, a call that has any rule must pass the first filter, or the others were in vain.
    if default != SeccompAction::Allow {
        let mut allowed: Rules = Rules::new();
        for (outcome, rules) in &by_action {
            for (number, rules) in rules {
                match outcome {
                    SeccompAction::Allow => drop(allowed.entry(*number).or_insert_with(|| rules.clone())),
                    _ => drop(allowed.insert(*number, Vec::new())),
                }
            }
        }
        by_action.retain(|(outcome, _)| *outcome != SeccompAction::Allow);
        let mut programs = vec![compile(allowed, default, SeccompAction::Allow)?];
        for (outcome, rules) in by_action {
            programs.push(compile(rules, SeccompAction::Allow, outcome)?);
        }
        return Ok(programs);
    }
    by_action.into_iter().map(|(outcome, rules)| compile(rules, SeccompAction::Allow, outcome)).collect()
}

fn compare(argument: &Argument) -> Result<SeccompCondition> {
    let Argument { index, value, value_two, op } = argument;
    let (operator, value) = match op.as_str() {
        "SCMP_CMP_NE" => (SeccompCmpOp::Ne, *value),
        "SCMP_CMP_LT" => (SeccompCmpOp::Lt, *value),
        "SCMP_CMP_LE" => (SeccompCmpOp::Le, *value),
        "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, *value),
        "SCMP_CMP_GE" => (SeccompCmpOp::Ge, *value),
        "SCMP_CMP_GT" => (SeccompCmpOp::Gt, *value),
        "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(*value), *value_two),
        other => return Err(failed(format!("unsupported operator {other}"))),
    };
    condition(*index, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_compile_to_one_filter_an_outcome() {
        for (profile, filters) in [
            (r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#, 0),
            (
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#,
                1,
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    {"names": ["mkdir", "unknown"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                    {"names": ["chmod"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
                2,
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                    {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                    {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                     "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
                    {"names": ["ptrace"], "action": "SCMP_ACT_LOG"}]}"#,
                2,
            ),
        ] {
            let parsed: Profile = serde_json::from_str(profile).unwrap();
            assert_eq!(compile_profile(&parsed, 0).unwrap().len(), filters, "{profile}");
        }
    }

    #[test]
    fn the_default_profile_has_a_second_filter_only_without_the_power_to_make_namespaces() {
        assert_eq!(default_profile(0).unwrap().len(), 2);
        assert_eq!(default_profile(bit("SYS_ADMIN").unwrap()).unwrap().len(), 1);
    }
}
