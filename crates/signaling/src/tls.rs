//! TLS, by `rustls` with `ring`.

use std::{fmt, io, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, RootCertStore,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

/// Why a certificate or a key cannot be used. The caller's fault: the file is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// No certificate in it, or not PEM.
    #[error("no certificate: a PEM file with one or more CERTIFICATE sections is needed ({0})")]
    NoCertificate(String),
    /// No private key in it, or not PEM. What is in it is not shown.
    #[error("no private key: a PEM file with a PRIVATE KEY section is needed")]
    NoKey,
    /// Both are there, but do not work, alone or together.
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
}

/// A server's certificate and key. `Debug` shows neither.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<rustls::ServerConfig>,
}

impl ServerTls {
    /// Reads the certificate chain, the server's own first, and its private key (PKCS#8, SEC1 or PKCS#1), both as PEM. TLS 1.2
    /// and 1.3 are spoken.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates_of(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?;
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        Ok(Self {
            config: Arc::new(config),
        })
    }

    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Whose certificates a client takes for a server's, with a `wss://` url. Names and validity are always checked.
#[derive(Clone)]
pub struct ClientTls {
    roots: Arc<RootCertStore>,
}

impl ClientTls {
    /// The certificate authorities that Mozilla trusts, as they were when this was built. Same as `Default`.
    pub fn web() -> Self {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        Self::with_roots(roots)
    }

    /// The certificate authorities of this PEM file, and no others. For a private authority.
    pub fn from_ca_pem(certificates: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates_of(certificates)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Unusable(error.to_string()))?;
        }
        Ok(Self::with_roots(roots))
    }

    fn with_roots(roots: RootCertStore) -> Self {
        Self {
            roots: Arc::new(roots),
        }
    }

    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self::web()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::NoCertificate(error.to_string()))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate("the file has none".to_owned()));
    }
    Ok(certificates)
}
