//! `autoscaling/v1 HorizontalPodAutoscaler`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .namespaced()
        .short(&["hpa"])
        .category("all")
        .stored_as("autoscaling/v2")
        .status()
        .build()
}
