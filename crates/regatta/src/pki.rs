//! The cluster's keys and certificates: made at first start, kept in the data directory, renewed before they end.
//!
//! All keys are ECDSA P-256. The authority lives ten years, what it signs one year; a certificate that ends within thirty days
//! or does not carry the wanted names is made anew at start.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};

const DAY: i64 = 86_400;
/// Certificates that end sooner are renewed.
const RENEW_DAYS: i64 = 30;

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// Everything that the server needs to prove who it is, and to know who others are.
pub struct Pki {
    pub authority: Pair,
    pub serving: Pair,
    /// What the node's kubelet serves with.
    pub kubelet: Pair,
    /// `kubernetes-admin` of `system:masters`: what the kubeconfig file holds.
    pub admin: Pair,
    /// Signs service account tokens (PKCS #8).
    pub service_account_key: String,
}

/// Who a certificate is for.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Subject {
    common_name: String,
    organization: Option<String>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    server: bool,
    /// Seconds since 1970.
    #[serde(default)]
    ends: i64,
}

impl Pki {
    /// Loads what is in `directory` and makes what is missing or about to end.
    pub fn ensure(directory: &Path, names: &[String], addresses: &[IpAddr]) -> Result<Pki> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let folder = Folder { path: directory.to_owned(), now: Timestamp::now().as_second() };
        let authority = folder.authority()?;
        let mut dns: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(str::to_owned).to_vec();
        dns.push("kubernetes.default.svc.cluster.local".to_owned());
        dns.extend(names.iter().cloned());
        let subject = |common_name: &str, organization: Option<&str>, server: bool, dns: Vec<String>| Subject {
            common_name: common_name.to_owned(),
            organization: organization.map(str::to_owned),
            names: dns,
            addresses: if server { addresses.to_vec() } else { Vec::new() },
            server,
            ends: 0,
        };
        Ok(Pki {
            serving: folder.signed("apiserver", subject("kube-apiserver", None, true, dns), &authority)?,
            kubelet: {
                let node = names.first().map_or("localhost", String::as_str);
                let names = names.iter().cloned().chain(["localhost".to_owned()]).collect();
                let subject = subject(&format!("system:node:{node}"), Some("system:nodes"), true, names);
                folder.signed("kubelet", subject, &authority)?
            },
            admin: folder.signed(
                "admin",
                subject("kubernetes-admin", Some("system:masters"), false, Vec::new()),
                &authority,
            )?,
            service_account_key: folder.key("service-account.key")?,
            authority,
        })
    }
}

struct Folder {
    path: PathBuf,
    now: i64,
}

impl Folder {
    fn authority(&self) -> Result<Pair> {
        let key = self.key("ca.key")?;
        let path = self.path.join("ca.crt");
        if let Some(certificate) = read(&path)? {
            return Ok(Pair { certificate, key });
        }
        // A new authority is no replacement of a lost one: every certificate and kubeconfig names the old one.
        if self.path.join("apiserver.crt").exists() {
            bail!(
                "the cluster's authority {} is missing; restore it, or begin anew after `regatta down --purge`",
                path.display()
            );
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        self.set_validity(&mut params, 3650)?;
        let certificate = params.self_signed(&KeyPair::from_pem(&key)?)?.pem();
        write(&path, &certificate, 0o644)?;
        Ok(Pair { certificate, key })
    }

    /// A certificate for the subject, signed by the authority. What it was made for lies beside it, so that a change of
    /// names or the end of its time is seen.
    fn signed(&self, name: &str, mut wanted: Subject, authority: &Pair) -> Result<Pair> {
        let (path, about) = (self.path.join(format!("{name}.crt")), self.path.join(format!("{name}.json")));
        let key = self.key(&format!("{name}.key"))?;
        if let (Some(certificate), Some(text)) = (read(&path)?, read(&about)?)
            && let Ok(made) = serde_json::from_str::<Subject>(&text)
        {
            wanted.ends = made.ends;
            if made == wanted && made.ends - self.now > RENEW_DAYS * DAY {
                return Ok(Pair { certificate, key });
            }
        }
        let mut params = CertificateParams::new(wanted.names.clone())?;
        params.subject_alt_names.extend(wanted.addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, wanted.common_name.clone());
        if let Some(organization) = &wanted.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization.clone());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        if wanted.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        wanted.ends = self.set_validity(&mut params, 365)?;
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)
            .context("the cluster's authority (ca.crt, ca.key) cannot be used")?;
        let certificate = params.signed_by(&KeyPair::from_pem(&key)?, &issuer)?.pem();
        write(&path, &certificate, 0o644)?;
        write(&about, &serde_json::to_string(&wanted)?, 0o644)?;
        Ok(Pair { certificate, key })
    }

    fn set_validity(&self, params: &mut CertificateParams, days: i64) -> Result<i64> {
        // An hour back, for clients whose clock is behind.
        params.not_before =
            (std::time::UNIX_EPOCH + std::time::Duration::from_secs((self.now - 3600).max(0) as u64)).into();
        let ends = self.now + days * DAY;
        params.not_after = (std::time::UNIX_EPOCH + std::time::Duration::from_secs(ends.max(0) as u64)).into();
        Ok(ends)
    }

    fn key(&self, name: &str) -> Result<String> {
        let path = self.path.join(name);
        if let Some(key) = read(&path)? {
            return Ok(key);
        }
        let key = KeyPair::generate()?.serialize_pem();
        write(&path, &key, 0o600)?;
        Ok(key)
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file whole or not at all.
pub fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let temporary = path.with_extension("new");
    let work = || -> std::io::Result<()> {
        // A file that a crash left would keep its mode.
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    work().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_and_certificates_are_renewed_when_names_change() {
        let directory = tempfile::tempdir().expect("directory");
        let ensure = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            Pki::ensure(directory.path(), &names, &[IpAddr::from([127, 0, 0, 1])]).expect("keys")
        };
        let (first, second, third) = (ensure(&["a"]), ensure(&["a"]), ensure(&["b"]));
        assert_eq!(first.authority.certificate, second.authority.certificate);
        assert_eq!(first.serving.certificate, second.serving.certificate);
        assert_eq!(first.service_account_key, third.service_account_key);
        assert_ne!(first.serving.certificate, third.serving.certificate);
        assert_eq!(first.admin.certificate, third.admin.certificate);
        fs::remove_file(directory.path().join("ca.crt")).expect("authority");
        let error = Pki::ensure(directory.path(), &[], &[]).err().expect("the authority is lost").to_string();
        assert!(error.contains("ca.crt is missing; restore it"), "{error}");
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(directory.path().join("ca.key")).expect("key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
