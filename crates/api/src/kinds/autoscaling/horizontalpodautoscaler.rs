//! `autoscaling/v2 HorizontalPodAutoscaler`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .namespaced()
        .short(&["hpa"])
        .category("all")
        .status()
        .build()
}
