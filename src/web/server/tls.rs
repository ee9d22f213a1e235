//! TLS with certificates that can be renewed while it runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// `[server.tls]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and those that vouch for it, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

#[derive(Debug)]
struct Certificate {
    config: TlsConfig,
    present: RwLock<Arc<CertifiedKey>>,
    /// When the files that were read last had been written.
    read_at: Mutex<[Option<SystemTime>; 2]>,
}

fn written(config: &TlsConfig) -> [Option<SystemTime>; 2] {
    [&config.cert_file, &config.key_file].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn new(config: &TlsConfig) -> Result<Self, String> {
        let read_at = Mutex::new(written(config));
        let present = RwLock::new(Arc::new(read(config)?));
        let certificate = Arc::new(Certificate { config: config.clone(), present, read_at });
        let resolver = Arc::clone(&certificate);
        let mut server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|cause| format!("TLS: {cause}"))?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), certificate })
    }

    /// Reads the files again. New connections get what they hold now; if they can't be used, what they held before.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn reload(&self) -> Result<(), String> {
        // Also of files that can't be used: they are told of once.
        *self.certificate.read_at.lock().unwrap_or_else(PoisonError::into_inner) = written(&self.certificate.config);
        let read = Arc::new(read(&self.certificate.config)?);
        *self.certificate.present.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// Reads the files again if they were written since, and tells whether they were.
    ///
    /// # Errors
    /// See [`Tls::reload`].
    pub fn reload_if_changed(&self) -> Result<bool, String> {
        let written = written(&self.certificate.config);
        if *self.certificate.read_at.lock().unwrap_or_else(PoisonError::into_inner) == written {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(config: &TlsConfig) -> Result<CertifiedKey, String> {
    let TlsConfig { cert_file, key_file } = config;
    let unreadable = |key: &str, path: &PathBuf, cause: &dyn std::fmt::Display| {
        format!("`server.tls.{key}`: can't use `{}`: {cause}", path.display())
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect)
        .map_err(|cause| unreadable("cert_file", cert_file, &cause))?;
    if certificates.is_empty() {
        return Err(unreadable("cert_file", cert_file, &"it holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|cause| unreadable("key_file", key_file, &cause))?;
    let key = any_supported_type(&key).map_err(|cause| unreadable("key_file", key_file, &cause))?;
    let certified = CertifiedKey::new(certificates, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(cause) => Err(unreadable("key_file", key_file, &format!("it is not of this certificate: {cause}"))),
    }
}
