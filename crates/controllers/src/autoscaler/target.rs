//! What is scaled, by its `scale` subresource.

use http::Request;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::Value;

use crate::{
    discovery::Directory,
    frame::{Env, Error},
    owner::Named,
};

/// A scale as it was read.
pub(super) struct Scale {
    path: String,
    object: Value,
    pub replicas: i32,
    pub status_replicas: i32,
    /// Empty if the target has none.
    pub selector: String,
}

impl Scale {
    pub async fn read(env: &Env, directory: &Directory, autoscaler: &HorizontalPodAutoscaler) -> Result<Scale, Error> {
        let target = &autoscaler.spec.scale_target_ref;
        let group =
            target.api_version.as_deref().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
        let Some(kind) = directory.find(group, &target.kind).await? else {
            return Err(Error::Message(format!("no matches for kind {:?} in group {group:?}", target.kind)));
        };
        let path = format!("{}/{}/scale", kind.path_in(autoscaler.namespace()), target.name);
        let request = Request::get(&path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        let object: Value = env.client.request(request).await?;
        let number = |part: &str| {
            let number = object[part]["replicas"].as_i64().unwrap_or(0);
            i32::try_from(number).unwrap_or(i32::MAX)
        };
        let (replicas, status_replicas) = (number("spec"), number("status"));
        let selector = object["status"]["selector"].as_str().unwrap_or_default().to_owned();
        Ok(Scale { path, object, replicas, status_replicas, selector })
    }

    /// Asks for another number, unless the target was changed since it was read.
    pub async fn write(&self, env: &Env, replicas: i32) -> Result<(), Error> {
        let mut object = self.object.clone();
        object["spec"]["replicas"] = replicas.into();
        let request = Request::put(&self.path).header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(serde_json::to_vec(&object)?).map_err(kube::Error::HttpError)?;
        env.client.request::<Value>(request).await?;
        Ok(())
    }
}
