//! Trust bundles: the certificates of ClusterTrustBundles as one file.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use kube::Api;
use kube::api::ListParams;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The file's content; nothing that is missing may be missing unless the projection is optional.
pub async fn bundle(client: &kube::Client, wanted: &ClusterTrustBundleProjection) -> Result<String, String> {
    let api: Api<ClusterTrustBundle> = Api::all(client.clone());
    let optional = wanted.optional.unwrap_or(false);
    let texts: Vec<String> = match (&wanted.name, &wanted.signer_name) {
        (Some(name), _) => match api.get_opt(name).await.map_err(|e| e.to_string())? {
            Some(found) => vec![found.spec.trust_bundle],
            None if optional => Vec::new(),
            None => return Err(format!("clustertrustbundle {name:?} not found")),
        },
        (None, Some(signer)) => {
            let Some(selector) = &wanted.label_selector else { return Ok(String::new()) };
            let value = serde_json::to_value(selector).map_err(|e| e.to_string())?;
            let all = api.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
            let chosen = all.items.into_iter().filter(|found| {
                let labels = found.metadata.labels.clone().unwrap_or_default();
                found.spec.signer_name.as_ref() == Some(signer)
                    && api::volume::selects(&value, |key| labels.get(key).map(String::as_str))
            });
            let texts: Vec<String> = chosen.map(|found| found.spec.trust_bundle).collect();
            if texts.is_empty() && !optional {
                return Err(format!("combined trust bundle is empty: signerName={signer:?}"));
            }
            texts
        }
        (None, None) => return Err("either name or signerName must be given".to_owned()),
    };
    Ok(combine(&texts))
}

/// Each certificate once, without what stands between them.
fn combine(texts: &[String]) -> String {
    let mut found = BTreeSet::new();
    for text in texts {
        for part in text.split(BEGIN).skip(1) {
            if let Some((body, _)) = part.split_once(END) {
                let lines: Vec<&str> = body.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                found.insert(lines.join("\n"));
            }
        }
    }
    found.iter().map(|body| format!("{BEGIN}\n{body}\n{END}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_appears_once() {
        let one = |body: &str| format!("{BEGIN}\n{body}\n{END}\n");
        let texts = [format!("# a comment\n{}{}", one("QQ=="), one("Qg==")), one("QQ==")];
        assert_eq!(combine(&texts), one("QQ==") + &one("Qg=="));
    }
}
