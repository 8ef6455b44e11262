//! Makes certificates. The subject, names and key of the request go into them byte by byte, since a name of several
//! organizations, or of a kind that nobody thought of, must come out as it went in.

use std::time::Duration;

use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use rcgen::{KeyPair, SigningKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::request::Asked;

/// So far back certificates begin, for clients whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(300);
/// How long a certificate lives if nobody asks for less.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
pub(super) const SHORTEST: Duration = Duration::from_secs(600);

/// The cluster's certificate authority.
pub(super) struct Issuer {
    key: KeyPair,
    /// Its name and key identifier, DER.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    ends: Timestamp,
    algorithm: Vec<u8>,
}

impl Issuer {
    /// From PEM.
    pub fn new(certificate: &str, key: &str) -> Result<Issuer, String> {
        let key = KeyPair::from_pem(key).map_err(|error| error.to_string())?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|error| error.to_string())?;
        let (_, parsed) = X509Certificate::from_der(&pem.contents).map_err(|error| error.to_string())?;
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let ends =
            Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|error| error.to_string())?;
        let algorithm = algorithm(&key).ok_or("keys of the authority's kind cannot sign here")?;
        Ok(Issuer { name: parsed.subject().as_raw().to_vec(), key_id, ends, algorithm, key })
    }

    /// A certificate, PEM, for what was asked, for these usages and so long, but no longer than the authority itself lives.
    pub fn issue(&self, asked: &Asked, usages: &[String], life: Duration, now: Timestamp) -> Result<String, String> {
        let add = |at: Timestamp, by: Duration| at.checked_add(by).map_err(|error| error.to_string());
        let begins = now.checked_sub(BACKDATE).map_err(|error| error.to_string())?;
        let ends = add(now, life)?.min(self.ends);
        let serial: [u8; 16] = uuid::Uuid::new_v4().into_bytes();
        let to_be_signed = der::sequence(&[
            der::tagged(0xa0, &der::tagged(0x02, &[2])),
            der::positive(&serial),
            self.algorithm.clone(),
            self.name.clone(),
            der::sequence(&[time(begins), time(ends)]),
            asked.subject.clone(),
            asked.public_key.clone(),
            der::tagged(0xa3, &der::sequence(&self.extensions(asked, usages))),
        ]);
        let signature = self.key.sign(&to_be_signed).map_err(|error| error.to_string())?;
        let certificate = der::sequence(&[to_be_signed, self.algorithm.clone(), der::bits(&signature, 0)]);
        Ok(pem(&certificate))
    }

    fn extensions(&self, asked: &Asked, usages: &[String]) -> Vec<Vec<u8>> {
        let has = |name: &str| usages.iter().any(|usage| usage == name);
        let mut all = Vec::new();
        // The first bit is the highest of the first byte.
        let bits = KEY_USAGES.iter().filter(|(_, name)| has(name)).fold(0u16, |bits, (bit, _)| bits | 0x8000 >> bit);
        if bits != 0 {
            let unused = bits.trailing_zeros();
            let bytes = bits.to_be_bytes();
            let value = der::bits(&bytes[..if unused >= 8 { 1 } else { 2 }], (unused % 8) as u8);
            all.push(der::extension(&[0x55, 0x1d, 0x0f], true, &value));
        }
        let purposes = PURPOSES.iter().filter(|(_, name)| has(name)).map(|(oid, _)| der::tagged(0x06, oid));
        let purposes: Vec<Vec<u8>> = purposes.collect();
        if !purposes.is_empty() {
            all.push(der::extension(&[0x55, 0x1d, 0x25], false, &der::sequence(&purposes)));
        }
        all.push(der::extension(&[0x55, 0x1d, 0x13], true, &der::sequence(&[])));
        if let Some(id) = &self.key_id {
            all.push(der::extension(&[0x55, 0x1d, 0x23], false, &der::sequence(&[der::tagged(0x80, id)])));
        }
        if !asked.names.is_empty() {
            // Where there is no subject, the names are all there is to know.
            all.push(der::extension(&[0x55, 0x1d, 0x11], asked.subject == [0x30, 0x00], &asked.names));
        }
        all
    }
}

/// Bits of the key usage extension by the API's names.
const KEY_USAGES: &[(u16, &str)] = &[
    (0, "signing"),
    (0, "digital signature"),
    (1, "content commitment"),
    (2, "key encipherment"),
    (3, "data encipherment"),
    (4, "key agreement"),
    (5, "cert sign"),
    (6, "crl sign"),
    (7, "encipher only"),
    (8, "decipher only"),
];

/// Object identifiers of extended key usages by the API's names.
const PURPOSES: &[(&[u8], &str)] = &[
    (&[0x55, 0x1d, 0x25, 0x00], "any"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 1], "server auth"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 2], "client auth"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 3], "code signing"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 4], "email protection"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 4], "s/mime"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 5], "ipsec end system"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 6], "ipsec tunnel"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 7], "ipsec user"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 8], "timestamping"),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 9], "ocsp signing"),
    (&[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3], "microsoft sgc"),
    (&[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1], "netscape sgc"),
];

/// The signature algorithm of a key, DER.
fn algorithm(key: &KeyPair) -> Option<Vec<u8>> {
    let known: [(&rcgen::SignatureAlgorithm, &[u8], bool); 4] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], false),
        (&rcgen::PKCS_ECDSA_P384_SHA384, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], false),
        (&rcgen::PKCS_RSA_SHA256, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], true),
        (&rcgen::PKCS_ED25519, &[0x2b, 0x65, 0x70], false),
    ];
    let (_, oid, has_null) = known.into_iter().find(|(algorithm, ..)| key.algorithm() == *algorithm)?;
    let oid = der::tagged(0x06, oid);
    Some(der::sequence(&if has_null { vec![oid, vec![0x05, 0x00]] } else { vec![oid] }))
}

/// Two digits of the year until 2050, four from then on, as X.509 wants it.
fn time(at: Timestamp) -> Vec<u8> {
    let at = at.to_zoned(TimeZone::UTC);
    if at.year() < 2050 {
        der::tagged(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        der::tagged(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

fn pem(certificate: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The little of DER that a certificate is made of.
mod der {
    pub fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        let length = content.len().to_be_bytes();
        let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
        match significant {
            [] => out.push(0),
            [short] if *short < 0x80 => out.push(*short),
            long => {
                out.push(0x80 | long.len() as u8);
                out.extend_from_slice(long);
            }
        }
        out.extend_from_slice(content);
        out
    }

    pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
        tagged(0x30, &parts.concat())
    }

    /// A positive integer from its bytes.
    pub fn positive(bytes: &[u8]) -> Vec<u8> {
        let mut content: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        if content.first().is_none_or(|first| *first >= 0x80) {
            content.insert(0, 0);
        }
        tagged(0x02, &content)
    }

    pub fn bits(bytes: &[u8], unused: u8) -> Vec<u8> {
        tagged(0x03, &[&[unused], bytes].concat())
    }

    pub fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
        let mut parts = vec![tagged(0x06, oid)];
        if critical {
            parts.push(tagged(0x01, &[0xff]));
        }
        parts.push(tagged(0x04, value));
        sequence(&parts)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequest, IsCa};

    use super::*;

    fn issuer() -> (Issuer, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        (Issuer::new(&certificate.pem(), &key.serialize_pem()).unwrap(), certificate.der().to_vec())
    }

    fn request() -> CertificateSigningRequest {
        let mut params = CertificateParams::new(vec!["node.example".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:a");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_says_what_was_asked_and_is_signed_by_the_authority() {
        let (issuer, authority) = issuer();
        let asked = Asked::read(request().pem().unwrap().as_bytes()).unwrap();
        assert_eq!(
            (&*asked.common_name, asked.has_dns, &asked.organizations[..]),
            ("system:node:a", true, &["system:nodes".to_owned()][..])
        );
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let usages = ["digital signature", "key encipherment", "server auth"].map(str::to_owned);
        let pem = issuer.issue(&asked, &usages, Duration::from_secs(3600), now).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (rest, made) = X509Certificate::from_der(&pem.contents).unwrap();
        let (_, authority) = X509Certificate::from_der(&authority).unwrap();
        made.verify_signature(Some(authority.public_key())).unwrap();
        assert!(rest.is_empty());
        assert_eq!(made.subject().as_raw(), asked.subject);
        assert_eq!(made.public_key().raw, asked.public_key);
        assert_eq!(made.validity().not_after.timestamp(), now.as_second() + 3600);
        let usage = made.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        let purposes = made.extended_key_usage().unwrap().unwrap().value;
        assert!(purposes.server_auth && !purposes.client_auth);
        assert_eq!(made.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        assert!(!made.is_ca());
    }

    #[test]
    fn a_certificate_ends_no_later_than_its_authority() {
        let (issuer, _) = issuer();
        let asked = Asked::read(request().pem().unwrap().as_bytes()).unwrap();
        let late = issuer.ends.checked_sub(Duration::from_secs(60)).unwrap();
        let pem = issuer.issue(&asked, &[], LONGEST, late).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, made) = X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(made.validity().not_after.timestamp(), issuer.ends.as_second());
    }

    #[test]
    fn a_request_with_a_broken_signature_is_refused() {
        let mut der = request().der().to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let text = pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert!(Asked::read(text.as_bytes()).is_err());
    }
}
