//! What ReplicaSets and ReplicationControllers have in common.

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{
            PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
        },
    },
};
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

use super::decide::{Counts, Failure};
use crate::{
    condition::{self, Condition, condition},
    owner::Named,
    selector::Selector,
};

/// A kind that keeps a number of pods of one template.
pub(super) trait Replicated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + DeserializeOwned
    + Serialize
    + Clone
    + Send
    + Sync
    + 'static
{
    const KIND: &str;
    fn selector(&self) -> Option<Selector>;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> PodTemplateSpec;
    /// The object with its status brought up to date; none if it is.
    fn with_status(&self, counts: &Counts, failure: Option<&Failure>) -> Option<Self>;
}

/// Sets or removes the `ReplicaFailure` condition.
fn report<C: Condition>(conditions: &mut Option<Vec<C>>, failure: Option<&Failure>) {
    const KIND: &str = "ReplicaFailure";
    match failure {
        None => condition::remove(conditions, KIND),
        Some(_) if condition::find(conditions, KIND).is_some() => {}
        Some(failure) => {
            let reason = if failure.creating { "FailedCreate" } else { "FailedDelete" };
            condition::set(conditions, condition(KIND, "True", reason, &failure.message));
        }
    }
}

/// The same for both kinds, but for how they select and for fields of the status that only one has.
macro_rules! replicated {
    ($kind:ident, $status:ident, $condition:ident, |$spec:ident| $selector:expr, |$counts:ident| { $($more:tt)* }) => {
        impl Replicated for $kind {
            const KIND: &str = stringify!($kind);

            fn selector(&self) -> Option<Selector> {
                let $spec = self.spec.as_ref()?;
                $selector
            }

            fn replicas(&self) -> i32 {
                self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
            }

            fn min_ready_seconds(&self) -> i32 {
                self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
            }

            fn template(&self) -> PodTemplateSpec {
                self.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default()
            }

            fn with_status(&self, $counts: &Counts, failure: Option<&Failure>) -> Option<$kind> {
                let old = self.status.clone().unwrap_or_default();
                let mut conditions = old.conditions.clone();
                report::<$condition>(&mut conditions, failure);
                let new = $status {
                    replicas: $counts.replicas,
                    fully_labeled_replicas: nonzero($counts.fully_labeled),
                    ready_replicas: nonzero($counts.ready),
                    available_replicas: nonzero($counts.available),
                    observed_generation: Some(self.generation()),
                    conditions,
                    $($more)*
                };
                (old != new).then(|| $kind { status: Some(new), ..self.clone() })
            }
        }
    };
}

replicated!(ReplicaSet, ReplicaSetStatus, ReplicaSetCondition, |spec| Selector::new(&spec.selector), |counts| {
    terminating_replicas: Some(counts.terminating),
});
replicated!(
    ReplicationController,
    ReplicationControllerStatus,
    ReplicationControllerCondition,
    |spec| spec.selector.as_ref().map(Selector::equal),
    |counts| {}
);

/// Counters are left out when they are zero.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_set_says_what_keeps_it_from_its_pods_until_it_no_longer_does() {
        let failure = |creating, message: &str| Some(Failure { creating, message: message.to_owned() });
        let known = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "first"}]);
        let cases = [
            (json!([]), None, ""),
            (json!([]), failure(true, "quota"), "FailedCreate quota"),
            (json!([]), failure(false, "no"), "FailedDelete no"),
            // The first failure stands until there is none.
            (known.clone(), failure(true, "second"), "FailedCreate first"),
            (known, None, ""),
        ];
        for (conditions, failure, expected) in cases {
            let set: ReplicaSet = serde_json::from_value(json!({"metadata": {"name": "s", "generation": 2},
                "spec": {"selector": {}}, "status": {"replicas": 0, "conditions": conditions}}))
            .unwrap();
            let made = set.with_status(&Counts { replicas: 3, ready: 1, ..Counts::default() }, failure.as_ref());
            let status = made.unwrap().status.unwrap();
            assert_eq!((status.replicas, status.ready_replicas, status.observed_generation), (3, Some(1), Some(2)));
            let told = status.conditions.iter().flatten().map(|condition| {
                format!("{} {}", condition.reason(), condition.message.as_deref().unwrap_or_default())
            });
            assert_eq!(told.collect::<Vec<_>>().join(","), expected, "{conditions}");
        }
    }

    #[test]
    fn a_status_that_is_right_is_not_written() {
        let set: ReplicationController =
            serde_json::from_value(json!({"metadata": {"name": "s", "generation": 1}})).unwrap();
        let counts = Counts { replicas: 2, ..Counts::default() };
        let written = set.with_status(&counts, None).unwrap();
        assert!(written.with_status(&counts, None).is_none());
        assert!(written.with_status(&Counts::default(), None).is_some());
    }
}
