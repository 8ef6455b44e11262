//! Seeing to it that a container's image is present.

mod credentials;
mod providers;
mod pulled;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use runtime::cri::{AuthConfig, Image, ImageSpec};
use tokio::sync::Semaphore;

pub use providers::CredentialProviders;

use crate::config::{Duration, Verification};
use crate::context::Context;
use crate::pods::memory::{Present, Reason};
use crate::pods::pod::{Member, Pod};
use credentials::Credential;
use pulled::Pulled;

/// What pulls share.
pub struct Pulls {
    /// The pulls that may be under way together; none where that is not limited.
    turns: Option<Semaphore>,
    providers: CredentialProviders,
    pulled: Pulled,
    verification: Verification,
}

impl Pulls {
    /// Keeps its records below `data`.
    pub fn new(at_once: Option<u32>, providers: CredentialProviders, verification: Verification, data: &Path) -> Pulls {
        let turns = at_once.map(|most| Semaphore::new(most as usize));
        Pulls { turns, providers, pulled: Pulled::at(data.join("image_manager/pulled")), verification }
    }

    /// Forgets what was known of images that are gone.
    pub fn keep(&self, images: &[Image]) {
        self.pulled.keep(images.iter().map(|image| &image.id));
    }

    fn may_use(&self, image: &Image, reference: &str, shown: &[Credential]) -> bool {
        let sources = shown.iter().filter_map(|credential| credential.source.as_ref());
        self.verification == Verification::NeverVerify || self.pulled.may_use(&image.id, reference, sources)
    }
}

/// The container's image by its pull policy, and those of its image volumes by theirs. The error is the container's waiting
/// reason.
pub async fn ensure(context: &Context, pod: &Pod, member: &Member) -> Result<Present, Reason> {
    let own = Wanted { image: member.spec.image.as_deref(), policy: member.spec.image_pull_policy.as_deref() };
    let mut present = ensure_one(context, pod, member, own).await?;
    let mounted = |name: &str| member.spec.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    for volume in pod.spec().volumes.iter().flatten().filter(|volume| mounted(&volume.name)) {
        if let Some(source) = &volume.image {
            let wanted = Wanted { image: source.reference.as_deref(), policy: source.pull_policy.as_deref() };
            let image = ensure_one(context, pod, member, wanted).await?;
            present.volumes.insert(volume.name.clone(), image.id);
        }
    }
    Ok(present)
}

struct Wanted<'a> {
    image: Option<&'a str>,
    policy: Option<&'a str>,
}

async fn ensure_one(context: &Context, pod: &Pod, member: &Member, wanted: Wanted<'_>) -> Result<Present, Reason> {
    let image = wanted.image.unwrap_or_default();
    let tell = |reason: &str, message: String| context.tell(pod, Some(&member.spec.name), reason, message);
    let warn = |reason: &str, message: String| context.warn(pod, Some(&member.spec.name), reason, message);
    if !credentials::well_formed(image) {
        let message = format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        );
        warn("InspectFailed", message.clone());
        return Err(Reason::new("InvalidImageName", message));
    }
    let policy = wanted.policy.unwrap_or("IfNotPresent");
    let here = status(context, image).await.map_err(|message| {
        let message = format!("Failed to inspect image {image:?}: {message}");
        warn("InspectFailed", message.clone());
        Reason::new("ImageInspectError", message)
    })?;
    let shown = match (&here, policy) {
        (None, "Never") => Vec::new(),
        _ => credentials::of_pod(context, pod, image).await,
    };
    match (policy, here) {
        ("IfNotPresent" | "Never", Some(found)) if context.pulls.may_use(&found, image, &shown) => {
            tell("Pulled", format!("Container image {image:?} already present on machine"));
            Ok(present(found))
        }
        ("Never", _) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            warn("ErrImageNeverPull", message.clone());
            warn("Failed", "Error: ErrImageNeverPull".to_owned());
            Err(Reason::new("ErrImageNeverPull", message))
        }
        _ => {
            tell("Pulling", format!("Pulling image {image:?}"));
            let asked = Instant::now();
            let _turn = match &context.pulls.turns {
                Some(turns) => turns.acquire().await.ok(),
                None => None,
            };
            let began = Instant::now();
            let pulled = pull(context, image, shown).await.map_err(|message| {
                warn("Failed", format!("Failed to pull image {image:?}: {message}"));
                warn("Failed", "Error: ErrImagePull".to_owned());
                Reason::new("ErrImagePull", message)
            })?;
            let size = pulled.size;
            let (took, with_waiting) = (whole_milliseconds(began.elapsed()), whole_milliseconds(asked.elapsed()));
            tell(
                "Pulled",
                format!(
                    "Successfully pulled image {image:?} in {took} ({with_waiting} including waiting). Image size: {size} bytes."
                ),
            );
            Ok(present(pulled))
        }
    }
}

fn whole_milliseconds(took: std::time::Duration) -> Duration {
    Duration(std::time::Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)))
}

fn present(image: Image) -> Present {
    Present { id: image.id, uid: image.uid, username: image.username, volumes: BTreeMap::new() }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}

async fn status(context: &Context, image: &str) -> Result<Option<Image>, String> {
    context.images.image_status(&spec(image)).await.map_err(|e| e.message)
}

/// Pulls with each credential that fits the registry, and without one if none does.
async fn pull(context: &Context, image: &str, shown: Vec<Credential>) -> Result<Image, String> {
    let provided = context.pulls.providers.credentials(image).await;
    let mut tries: Vec<(Option<AuthConfig>, _)> = shown.into_iter().map(|c| (Some(c.auth), c.source)).collect();
    tries.extend(provided.into_iter().map(|auth| (Some(auth), None)));
    if tries.is_empty() {
        tries.push((None, None));
    }
    let mut errors = Vec::new();
    for (auth, source) in tries {
        match context.images.pull_image(spec(image), auth, None).await {
            Ok(id) => {
                let found = status(context, &id).await?;
                let found = found.ok_or_else(|| format!("image {image:?} is gone right after its pull"))?;
                if let Err(error) = context.pulls.pulled.note(&found.id, image, source.as_ref()) {
                    tracing::warn!(image, %error, "who pulled an image cannot be written down");
                }
                return Ok(found);
            }
            Err(error) => errors.push(error.message),
        }
    }
    errors.dedup();
    Err(errors.join(", "))
}
