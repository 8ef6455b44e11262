//! The kinds of the autoscaling group.

mod horizontalpodautoscaler;
mod horizontalpodautoscaler_v1;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![horizontalpodautoscaler::kind(), horizontalpodautoscaler_v1::kind()]
}
