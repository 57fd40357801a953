//! TLS towards Redis: certificates are always checked, against the system's roots or `REDIS_CA_FILE`.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Reads the authorities of a PEM file; the error is a text for the settings report.
pub(crate) fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|_| format!("cannot read {}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|_| format!("bad certificate in {}", path.display()))?;
        roots
            .add(certificate)
            .map_err(|_| format!("bad certificate in {}", path.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("no certificate in {}", path.display()));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err("no certificate authorities on this system: set REDIS_CA_FILE".to_owned());
    }
    Ok(roots)
}

/// The client side of TLS.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let roots = match ca_file {
        Some(path) => read_roots(path)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|fault| fault.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
