//! TLS as the web knows it, for `https_web`: a certificate for the host name under roots that are trusted (SPIFFE Federation
//! 5.2.1.4). It never looks at SPIFFE IDs.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::NoServerSessionStorage,
    version::TLS13,
};
use squire_mesh::tls::provider;

use super::endpoint::HTTP;

/// Where Linux distributions keep the roots everybody trusts.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A client that trusts these roots; none: those of the machine.
pub(super) fn client(roots: Option<&[CertificateDer<'static>]>) -> Result<Arc<ClientConfig>, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(roots) => {
            for root in roots {
                store.add(root.clone()).map_err(|error| format!("webRoots: {error}"))?;
            }
        }
        None => {
            store.add_parsable_certificates(system_roots()?);
        }
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
    let path =
        found.ok_or("this machine has no roots in the usual places: install ca-certificates, or set webRoots")?;
    let pem = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect())
}

/// A server that shows a certificate of the web; both files are PEM.
pub(super) fn server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let wrong = |path: &Path, what: String| format!("{}: {what}", path.display());
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| wrong(certificate, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| wrong(key, error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?;
    let config = builder.with_no_client_auth().with_single_cert(chain, private);
    let mut config =
        config.map_err(|error| wrong(certificate, format!("{error}; it must fit the key {}", key.display())))?;
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
