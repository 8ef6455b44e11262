//! What a request asks for, and which signer may give it. Functions of values.

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    oid_registry,
    prelude::FromDer,
    x509::X509Name,
};

/// A certificate request (PKCS #10) whose signature holds, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The subject and the public key, DER.
    pub subject: Vec<u8>,
    pub public_key: Vec<u8>,
    /// The value of the extension of alternative names, DER; empty if there are none.
    pub names: Vec<u8>,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub has_email: bool,
    pub has_uri: bool,
    pub has_dns: bool,
    pub has_address: bool,
}

impl Asked {
    /// Reads a request from PEM.
    pub fn read(pem: &[u8]) -> Result<Asked, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| error.to_string())?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
        }
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
        request.verify_signature().map_err(|error| format!("unable to verify the request's signature: {error}"))?;
        let info = &request.certification_request_info;
        let mut asked = Asked {
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            common_name: texts(&info.subject, &oid_registry::OID_X509_COMMON_NAME)
                .into_iter()
                .next()
                .unwrap_or_default(),
            organizations: texts(&info.subject, &oid_registry::OID_X509_ORGANIZATION_NAME),
            ..Asked::default()
        };
        let extensions = info.iter_attributes().filter_map(|attribute| match attribute.parsed_attribute() {
            x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(request) => Some(&request.extensions),
            _ => None,
        });
        for extension in extensions.flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                asked.names = extension.value.to_vec();
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(_) => asked.has_dns = true,
                        GeneralName::IPAddress(_) => asked.has_address = true,
                        GeneralName::URI(_) => asked.has_uri = true,
                        GeneralName::RFC822Name(_) => asked.has_email = true,
                        _ => {}
                    }
                }
            }
        }
        Ok(asked)
    }
}

fn texts(name: &X509Name<'_>, kind: &oid_registry::asn1_rs::Oid<'_>) -> Vec<String> {
    let attributes = name.iter_by_oid(kind);
    attributes.filter_map(|attribute| attribute.as_str().ok().map(str::to_owned)).collect()
}

const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Whether the signer is one of the cluster's own.
pub(super) fn is_ours(signer: &str) -> bool {
    [API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&signer)
}

/// What a signer of the cluster has against a request, in upstream's words.
pub(super) fn refuse(spec: &CertificateSigningRequestSpec, asked: &Asked) -> Result<(), String> {
    let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    let only = |needed: &str| {
        let known = ["digital signature", "key encipherment", needed];
        usages.iter().all(|usage| known.contains(usage)) && usages.contains(&needed)
    };
    let signing = usages.contains(&"digital signature");
    let fail = |message: &str| Err(message.to_owned());
    let of_nodes = asked.organizations == ["system:nodes"];
    let of_node = asked.common_name.starts_with("system:node:");
    match spec.signer_name.as_str() {
        API_CLIENT if !only("client auth") => {
            Err(format!("usages did not match expected [client auth digital signature key encipherment]: {usages:?}"))
        }
        KUBELET_CLIENT | KUBELET_SERVING if !of_nodes => fail("subject organization is not system:nodes"),
        KUBELET_CLIENT | KUBELET_SERVING if asked.has_email => fail("email subjectAltNames are not allowed"),
        KUBELET_CLIENT | KUBELET_SERVING if asked.has_uri => fail("URI subjectAltNames are not allowed"),
        KUBELET_CLIENT if asked.has_dns => fail("DNS subjectAltNames are not allowed"),
        KUBELET_CLIENT if asked.has_address => fail("IP subjectAltNames are not allowed"),
        KUBELET_SERVING if !asked.has_dns && !asked.has_address => fail("DNS or IP subjectAltName is required"),
        KUBELET_CLIENT | KUBELET_SERVING if !of_node => fail("subject common name does not begin with system:node: "),
        KUBELET_CLIENT if !only("client auth") || !signing => {
            fail("usages did not match [client auth digital signature key encipherment]")
        }
        KUBELET_SERVING if !only("server auth") || !signing => {
            fail("usages did not match [digital signature key encipherment server auth]")
        }
        KUBELET_SERVING if spec.username.as_deref() != Some(&asked.common_name) => {
            fail("requester's username does not match the common name of the requested certificate")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_signer_gives_what_it_is_for() {
        let node = Asked {
            common_name: "system:node:a".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Asked::default()
        };
        let serving = Asked { has_dns: true, ..node.clone() };
        let user = Asked { common_name: "alice".to_owned(), ..Asked::default() };
        let (client, server) =
            (json!(["client auth", "digital signature"]), json!(["server auth", "digital signature"]));
        let cases = [
            (API_CLIENT, &client, &user, ""),
            (API_CLIENT, &server, &user, "usages did not match"),
            (API_CLIENT, &json!(["digital signature"]), &user, "usages did not match"),
            (KUBELET_CLIENT, &client, &node, ""),
            (KUBELET_CLIENT, &client, &user, "subject organization"),
            (KUBELET_CLIENT, &client, &serving, "DNS subjectAltNames"),
            (KUBELET_CLIENT, &json!(["client auth"]), &node, "usages did not match"),
            (KUBELET_SERVING, &server, &serving, ""),
            (KUBELET_SERVING, &server, &node, "DNS or IP"),
            (LEGACY, &json!(["any"]), &user, ""),
        ];
        for (signer, usages, asked, expected) in cases {
            let spec = json!({"signerName": signer, "usages": usages, "request": "", "username": "system:node:a"});
            let refused = refuse(&serde_json::from_value(spec).unwrap(), asked).err().unwrap_or_default();
            assert!(refused.starts_with(expected) && refused.is_empty() == expected.is_empty(), "{signer}: {refused}");
        }
    }
}
