//! TLS for checks: which roots to trust, and which server name to expect.
//!
//! Invariant: the server's certificate is verified in every handshake (none is resumed), unless the
//! operator says `verify = false`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// Where distributions keep their trusted certificates.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Why TLS cannot be set up for checks.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The system has no bundle of certificates.
    #[error("no bundle of certificates at {}; name a PEM file in `roots`", BUNDLES[0])]
    NoBundle,
    /// The file of roots cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        error: Arc<io::Error>,
    },
    /// The file of roots is not valid PEM.
    #[error("{}: {why}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file of roots holds no usable certificate.
    #[error(
        "{}: holds no certificate; write them in PEM form (-----BEGIN CERTIFICATE-----)",
        path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The server name is not a host name.
    #[error("server_name: \"{0}\" is not a host name; write one like \"api.example\"")]
    ServerName(String),
    /// The TLS library offers no usable protocol version.
    #[error("TLS: {0}")]
    Library(Error),
}

/// The roots that checks trust. Clones share one copy, so any number of names costs one bundle.
#[derive(Clone, Debug)]
pub struct CheckRoots(Arc<ClientConfig>);

impl CheckRoots {
    /// Reads the certificates of a PEM file, else those of the system.
    ///
    /// # Errors
    /// If there is no file, or no valid certificate in it.
    pub fn read(path: Option<&Path>) -> Result<Self, TlsConfigError> {
        Self::new(Some(read_roots(path)?))
    }

    /// Trusts any server: `verify = false`.
    ///
    /// # Errors
    /// If the TLS library does not work.
    pub fn accept_any() -> Result<Self, TlsConfigError> {
        Self::new(None)
    }

    fn new(roots: Option<RootCertStore>) -> Result<Self, TlsConfigError> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsConfigError::Library)?;
        let config = match roots {
            Some(roots) => config.with_root_certificates(roots),
            None => config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider))),
        };
        let mut config = config.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// The TLS settings of a check.
#[derive(Debug)]
pub struct CheckTls {
    config: Arc<ClientConfig>,
    name: Option<(String, ServerName<'static>)>,
}

impl CheckTls {
    /// Expects a certificate for this host name, else for the target's address.
    ///
    /// # Errors
    /// As [`CheckTls::check_name`].
    pub fn new(roots: &CheckRoots, server_name: Option<&str>) -> Result<Self, TlsConfigError> {
        let name =
            server_name.map(|name| Ok::<_, TlsConfigError>((name.to_owned(), parse_name(name)?)));
        Ok(Self {
            config: Arc::clone(&roots.0),
            name: name.transpose()?,
        })
    }

    /// Checks that a server name is a host name.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_name(server_name: &str) -> Result<(), TlsConfigError> {
        parse_name(server_name).map(drop)
    }

    /// Returns the host name to expect, if one is set.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.name.as_ref().map(|(name, _)| &**name)
    }

    pub(super) fn name(&self, address: IpAddr) -> ServerName<'static> {
        match &self.name {
            Some((_, name)) => name.clone(),
            None => ServerName::IpAddress(address.into()),
        }
    }

    /// Returns a connector that offers these protocols (ALPN), separated by commas.
    pub(super) fn connector(&self, alpn: &[u8]) -> TlsConnector {
        let offered = alpn.split(|byte| *byte == b',');
        let offered: Vec<_> = offered.filter(|name| !name.is_empty()).collect();
        if offered.is_empty() {
            return Arc::clone(&self.config).into();
        }
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = offered.into_iter().map(<[u8]>::to_vec).collect();
        Arc::new(config).into()
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsConfigError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsConfigError::ServerName(name.to_owned()))
}

fn read_roots(path: Option<&Path>) -> Result<RootCertStore, TlsConfigError> {
    let of_system = || BUNDLES.iter().map(Path::new).find(|path| path.exists());
    let path = path.or_else(of_system).ok_or(TlsConfigError::NoBundle)?;
    let text = fs::read(path).map_err(|error| TlsConfigError::Read {
        path: path.into(),
        error: Arc::new(error),
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| TlsConfigError::Pem {
            path: path.into(),
            why: error.to_string(),
        })?;
        // A bundle holds some certificates that are too old to be parsed. The others are trusted.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(TlsConfigError::NoCertificate { path: path.into() });
    }
    Ok(roots)
}

/// Describes a TLS error for the operator.
pub(super) fn describe(error: &Error) -> String {
    let Error::InvalidCertificate(why) = error else {
        return format!("TLS: {error}");
    };
    let why = match why {
        // A bad signature comes from another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is not signed by a trusted authority; see `roots`".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name; see `server_name`".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet".into()
        }
        other => format!("is not valid: {other}"),
    };
    format!("the server's certificate {why}")
}

/// Accepts any certificate: `verify = false`.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
