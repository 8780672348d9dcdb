//! TLS of checks: whom to trust, and which name to ask for.
//!
//! Invariant: the server's certificate is verified in every handshake (none is resumed), unless the
//! operator says `verify = false`.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

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

/// Where distributions keep the certificates that they trust.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Whom checks trust. Clones share all of it, so that any number of names costs one bundle.
#[derive(Clone, Debug)]
pub struct CheckRoots(Arc<ClientConfig>);

impl CheckRoots {
    /// The certificates of a PEM file, else those of the system. Reads files.
    ///
    /// # Errors
    /// A text for the operator.
    pub fn read(path: Option<&Path>) -> Result<Self, String> {
        Self::new(Some(read_roots(path)?))
    }

    /// Whoever answers: `verify = false`.
    ///
    /// # Errors
    /// A text for the operator.
    pub fn anyone() -> Result<Self, String> {
        Self::new(None)
    }

    fn new(roots: Option<RootCertStore>) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = match roots {
            Some(roots) => config.with_root_certificates(roots),
            None => config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider))),
        };
        let mut config = config.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// How a check has TLS.
#[derive(Debug)]
pub struct CheckTls {
    config: Arc<ClientConfig>,
    name: Option<(String, ServerName<'static>)>,
}

impl CheckTls {
    /// Asks for this host name, else for the target's address.
    ///
    /// # Errors
    /// See [`CheckTls::name_error`].
    pub fn new(roots: &CheckRoots, server_name: Option<&str>) -> Result<Self, String> {
        let name = server_name.map(|name| Ok::<_, String>((name.to_owned(), parse_name(name)?)));
        Ok(Self {
            config: Arc::clone(&roots.0),
            name: name.transpose()?,
        })
    }

    /// What is wrong with a host name to ask for, for the operator.
    #[must_use]
    pub fn name_error(server_name: &str) -> Option<String> {
        parse_name(server_name).err()
    }

    /// The host name to ask for, where one is set.
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

    /// Offers these protocols, with commas between.
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

fn parse_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        format!("server_name: \"{name}\" is no host name; write one like \"api.example\"")
    })
}

fn read_roots(path: Option<&Path>) -> Result<RootCertStore, String> {
    let of_system = || BUNDLES.iter().map(Path::new).find(|path| path.exists());
    let path = path.or_else(of_system).ok_or_else(|| {
        format!(
            "there is no bundle of certificates at {}; name a PEM file by `roots`",
            BUNDLES[0]
        )
    })?;
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| format!("{}: {error}", path.display()))?;
        // A bundle has some that are too old to be read. The others are trusted.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        let path = path.display();
        return Err(format!(
            "{path}: holds no certificate; write them in PEM form (-----BEGIN CERTIFICATE-----)"
        ));
    }
    Ok(roots)
}

/// What went wrong, for people.
pub(super) fn describe(error: &Error) -> String {
    let Error::InvalidCertificate(why) = error else {
        return format!("TLS: {error}");
    };
    let why = match why {
        // A bad signature is that of another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is signed by nobody trusted; see `roots`".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name; see `server_name`".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet".into()
        }
        other => format!("is not good: {other}"),
    };
    format!("the server's certificate {why}")
}

/// Takes any certificate: `verify = false`.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
