//! How fast and how far the number of replicas may follow what the metrics call for. Functions of values and of what was
//! recommended and done lately.

use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How long a lower recommendation waits, in case it was a dip.
const DOWN_WINDOW: u64 = 300;

/// What is remembered of one autoscaler. It is lost at a restart, after which the first recommendation counts anew.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    recommendations: Vec<(Instant, i32)>,
    /// When how many replicas were added and taken away.
    ups: Vec<(Instant, i32)>,
    downs: Vec<(Instant, i32)>,
}

/// The number wanted, and what conditions say of how it came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Normalized {
    pub replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub able: (&'static str, &'static str),
    pub limited: bool,
    /// Reason and message of `ScalingLimited`.
    pub limit: (&'static str, &'static str),
}

/// The bounds that the user has set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub least: i32,
    pub most: i32,
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const STABLE_UP: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const STABLE_DOWN: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

fn since(list: &[(Instant, i32)], period: Duration, now: Instant) -> impl Iterator<Item = i32> + '_ {
    let recent = move |at: &Instant| now.saturating_duration_since(*at) < period;
    list.iter().filter(move |(at, _)| recent(at)).map(|(_, number)| *number)
}

fn window(rules: Option<&HPAScalingRules>, default: u64) -> Duration {
    let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
    Duration::from_secs(seconds.map_or(default, |seconds| u64::try_from(seconds).unwrap_or(0)))
}

impl History {
    /// The first number seen counts as a recommendation, so that nothing is taken away in haste.
    pub fn begin(&mut self, current: i32, now: Instant) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Remembers a change that was made, as far as rules ask for it.
    pub fn changed(&mut self, behavior: Option<&HorizontalPodAutoscalerBehavior>, from: i32, to: i32, now: Instant) {
        let Some(behavior) = behavior else { return };
        let (list, rules) =
            if to > from { (&mut self.ups, &behavior.scale_up) } else { (&mut self.downs, &behavior.scale_down) };
        let policies = rules.iter().flat_map(|rules| rules.policies.iter().flatten());
        let longest = policies.map(|policy| u64::try_from(policy.period_seconds).unwrap_or(0)).max().unwrap_or(0);
        list.retain(|(at, _)| now.saturating_duration_since(*at) < Duration::from_secs(longest));
        list.push((now, (to - from).abs()));
    }

    /// What becomes of the number that the metrics call for.
    pub fn normalize(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        current: i32,
        proposed: i32,
        bounds: Bounds,
        now: Instant,
    ) -> Normalized {
        let up_rules = behavior.and_then(|behavior| behavior.scale_up.as_ref());
        let down_rules = behavior.and_then(|behavior| behavior.scale_down.as_ref());
        let (up, down) = (window(up_rules, 0), window(down_rules, DOWN_WINDOW));
        let is_up = behavior.is_some() && proposed >= current;
        let stable = if is_up {
            since(&self.recommendations, up, now).fold(proposed, i32::min)
        } else {
            since(&self.recommendations, down, now).fold(proposed, i32::max)
        };
        self.recommendations.retain(|(at, _)| now.saturating_duration_since(*at) < up.max(down));
        self.recommendations.push((now, proposed));
        let able = match (stable != proposed, is_up) {
            (false, _) => READY,
            (true, true) => STABLE_UP,
            (true, false) => STABLE_DOWN,
        };
        let (replicas, limit) = match behavior {
            Some(_) => self.by_rules(up_rules, down_rules, current, stable, bounds, now),
            None => by_default(current, stable, bounds),
        };
        Normalized { replicas, able, limited: replicas != stable, limit }
    }

    fn by_rules(
        &self,
        up: Option<&HPAScalingRules>,
        down: Option<&HPAScalingRules>,
        current: i32,
        wanted: i32,
        bounds: Bounds,
        now: Instant,
    ) -> (i32, (&'static str, &'static str)) {
        if wanted > current {
            let limit = self.most(up, current, now).max(current);
            let (most, why) = if bounds.most > limit { (limit, UP_LIMIT) } else { (bounds.most, TOO_MANY) };
            if wanted > most {
                return (most, why);
            }
        } else if wanted < current {
            let limit = self.fewest(down, current, now).min(current);
            let (least, why) = if bounds.least < limit { (limit, DOWN_LIMIT) } else { (bounds.least, TOO_FEW) };
            if wanted < least {
                return (least, why);
            }
        }
        (wanted, WITHIN)
    }

    /// How far up the rules allow at the moment.
    fn most(&self, rules: Option<&HPAScalingRules>, current: i32, now: Instant) -> i32 {
        let limits = policies(rules).map(|(kind, value, period)| {
            let added: i32 = since(&self.ups, period, now).sum();
            let removed: i32 = since(&self.downs, period, now).sum();
            let start = current - added + removed;
            let hundredths = i64::from(start) * (100 + i64::from(value));
            if kind == "Percent" {
                at_most(hundredths.div_euclid(100) + i64::from(hundredths % 100 != 0))
            } else {
                start + value
            }
        });
        select(rules, limits, i32::MAX, current)
    }

    /// How far down the rules allow at the moment.
    fn fewest(&self, rules: Option<&HPAScalingRules>, current: i32, now: Instant) -> i32 {
        let limits = policies(rules).map(|(kind, value, period)| {
            let added: i32 = since(&self.ups, period, now).sum();
            let removed: i32 = since(&self.downs, period, now).sum();
            let start = current - added + removed;
            let rest = i64::from(start) * (100 - i64::from(value)).max(0) / 100;
            if kind == "Percent" { at_most(rest) } else { start - value }
        });
        // The most change is the smallest number.
        let limits = limits.map(|limit| -limit);
        -select(rules, limits, i32::MAX, -current)
    }
}

fn at_most(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn policies(rules: Option<&HPAScalingRules>) -> impl Iterator<Item = (&str, i32, Duration)> {
    let all = rules.into_iter().flat_map(|rules| rules.policies.iter().flatten());
    all.map(|policy| {
        let period = Duration::from_secs(u64::try_from(policy.period_seconds).unwrap_or(0));
        (policy.type_.as_str(), policy.value, period)
    })
}

/// The limit that the policy of the rules selects; `unlimited` where there are none, `current` where they are disabled.
fn select(rules: Option<&HPAScalingRules>, limits: impl Iterator<Item = i32>, unlimited: i32, current: i32) -> i32 {
    match rules.and_then(|rules| rules.select_policy.as_deref()) {
        Some("Disabled") => current,
        Some("Min") => limits.min().unwrap_or(unlimited),
        _ => limits.max().unwrap_or(unlimited),
    }
}

/// Without rules: at most twice as many at once, but four are always allowed.
fn by_default(current: i32, wanted: i32, bounds: Bounds) -> (i32, (&'static str, &'static str)) {
    let limit = current.saturating_mul(2).max(4);
    let (most, why) = if bounds.most > limit { (limit, UP_LIMIT) } else { (bounds.most, TOO_MANY) };
    if wanted < bounds.least {
        (bounds.least, TOO_FEW)
    } else if wanted > most {
        (most, why)
    } else {
        (wanted, WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BOUNDS: Bounds = Bounds { least: 1, most: 100 };

    fn rules(up: serde_json::Value, down: serde_json::Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(json!({"scaleUp": up, "scaleDown": down})).unwrap()
    }

    #[test]
    fn without_rules_growth_doubles_and_shrinking_waits() {
        let (mut history, now) = (History::default(), Instant::now());
        history.begin(3, now);
        let up = history.normalize(None, 3, 50, BOUNDS, now);
        assert_eq!((up.replicas, up.limit, up.limited), (6, UP_LIMIT, true));
        let mut history = History::default();
        history.begin(10, now);
        let soon = history.normalize(None, 10, 2, BOUNDS, now + Duration::from_secs(60));
        assert_eq!((soon.replicas, soon.able), (10, STABLE_DOWN));
        let later = history.normalize(None, 10, 2, BOUNDS, now + Duration::from_secs(301));
        assert_eq!((later.replicas, later.able, later.limit), (2, READY, WITHIN));
        let beyond = history.normalize(None, 10, 0, BOUNDS, now + Duration::from_secs(1000));
        assert_eq!((beyond.replicas, beyond.limit), (1, TOO_FEW));
    }

    #[test]
    fn rules_limit_the_rate_in_both_directions() {
        let now = Instant::now();
        let slow = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]});
        let with = |policy: &str| {
            let mut rules = slow.clone();
            rules["selectPolicy"] = policy.into();
            rules
        };
        // Policy, current, wanted; what comes of it.
        let cases = [
            ("Max", 10, 50, 12, UP_LIMIT),
            ("Min", 10, 50, 11, UP_LIMIT),
            ("Disabled", 10, 50, 10, UP_LIMIT),
            ("Max", 10, 11, 11, WITHIN),
            ("Max", 10, 1, 8, DOWN_LIMIT),
            ("Min", 10, 1, 9, DOWN_LIMIT),
            ("Disabled", 10, 1, 10, DOWN_LIMIT),
            ("Max", 99, 200, 100, TOO_MANY),
            ("Max", 2, 0, 1, TOO_FEW),
        ];
        for (policy, current, wanted, expected, limit) in cases {
            let behavior = rules(with(policy), with(policy));
            let made = History::default().normalize(Some(&behavior), current, wanted, BOUNDS, now);
            assert_eq!((made.replicas, made.limit), (expected, limit), "{policy}: {current} to {wanted}");
        }
    }

    #[test]
    fn what_was_done_within_the_period_counts_against_the_rate() {
        let pods =
            json!({"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]});
        let behavior = rules(pods.clone(), pods);
        let (mut history, now) = (History::default(), Instant::now());
        history.changed(Some(&behavior), 10, 13, now);
        let soon = history.normalize(Some(&behavior), 13, 50, BOUNDS, now + Duration::from_secs(30));
        assert_eq!(soon.replicas, 14);
        let later = history.normalize(Some(&behavior), 13, 50, BOUNDS, now + Duration::from_secs(61));
        assert_eq!(later.replicas, 17);
    }

    #[test]
    fn growth_waits_for_its_window_too() {
        let behavior = rules(json!({"stabilizationWindowSeconds": 60}), json!({}));
        let (mut history, now) = (History::default(), Instant::now());
        history.begin(3, now);
        let soon = history.normalize(Some(&behavior), 3, 9, BOUNDS, now + Duration::from_secs(30));
        assert_eq!((soon.replicas, soon.able), (3, STABLE_UP));
        let later = history.normalize(Some(&behavior), 3, 9, BOUNDS, now + Duration::from_secs(120));
        assert_eq!((later.replicas, later.able), (9, READY));
    }
}
