//! The certificates of the described peers: one ECDSA P-256 chain (root → intermediate → leaf) with a SPIFFE URI SAN in each leaf, the shape
//! of Squire's own. Valid for a day, written for one run; never used outside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};

use super::Values;

/// SPIFFE ID of the client-side proxy.
const CLIENT_ID: &str = "spiffe://cluster.local/ns/bench/sa/client";
/// SPIFFE ID of the server-side proxy.
const SERVER_ID: &str = "spiffe://cluster.local/ns/bench/sa/server";
/// DNS SAN of the server's leaf, for peers that can only check a name (nginx, haproxy).
const SERVER_NAME: &str = "server.bench.svc";

const CLIENT_NAME: &str = "client.bench.svc";

/// Where the PEM files are.
pub(crate) struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes the chain and writes it into `dir`.
    pub(crate) fn write(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let chain = Chain::new().context("cannot make the certificates")?;
        fs::write(dir.join("root.pem"), chain.root.pem())?;
        for (side, id, name) in [("client", CLIENT_ID, CLIENT_NAME), ("server", SERVER_ID, SERVER_NAME)] {
            let (leaf, key) = chain.leaf(id, name)?;
            let bundle = format!("{}{}", leaf.pem(), chain.intermediate.pem());
            fs::write(dir.join(format!("{side}-chain.pem")), &bundle)?;
            fs::write(dir.join(format!("{side}-key.pem")), key.serialize_pem())?;
            fs::write(
                dir.join(format!("{side}.pem")),
                format!("{bundle}{}", key.serialize_pem()),
            )?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The placeholders `root`, `client_chain`, `client_key`, `client_pem` (chain and key in one file), the same for `server`, the IDs and
    /// the server's DNS name.
    pub(crate) fn values(&self) -> Values {
        let mut values = Values::default();
        let path = |file: &str| self.dir.join(file).display().to_string();
        values.set("root", path("root.pem"));
        for side in ["client", "server"] {
            values.set(&format!("{side}_chain"), path(&format!("{side}-chain.pem")));
            values.set(&format!("{side}_key"), path(&format!("{side}-key.pem")));
            values.set(&format!("{side}_pem"), path(&format!("{side}.pem")));
        }
        values.set("client_id", CLIENT_ID);
        values.set("server_id", SERVER_ID);
        values.set("server_name", SERVER_NAME);
        values
    }
}

struct Chain {
    root: Certificate,
    intermediate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Chain {
    fn new() -> Result<Self> {
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let root_params = authority("Bench root", BasicConstraints::Constrained(1));
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::new(root_params, root_key);

        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority("Bench intermediate", BasicConstraints::Constrained(0));
        let intermediate = params.signed_by(&key, &root_issuer)?;
        Ok(Self {
            root,
            intermediate,
            issuer: Issuer::new(params, key),
        })
    }

    fn leaf(&self, id: &str, dns: &str) -> Result<(Certificate, KeyPair)> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = validity();
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![SanType::URI(id.try_into()?), SanType::DnsName(dns.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name.push(DnType::CommonName, dns);
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }
}

fn authority(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = validity();
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn validity() -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}
