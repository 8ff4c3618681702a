//! A certificate authority of a test's own, clients that trust it, and gateways with its certificates.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::raw::Wire;
use super::{Gateway, Setup, eventually};

/// An authority with the certificates that it issued.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Authority { issuer: Issuer::new(params, key), certificate: der, pem }
    }

    pub(crate) fn issue(&self, name: &str) -> (CertificateDer<'static>, String, KeyPair) {
        self.issue_for(name, (1975, 4096))
    }

    /// Issues a certificate that is valid between two years.
    fn issue_for(&self, name: &str, years: (i32, i32)) -> (CertificateDer<'static>, String, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.der().clone(), certificate.pem(), key)
    }

    /// Writes a new certificate and key to their files.
    pub(crate) fn install(&self, folder: &Path) -> CertificateDer<'static> {
        self.install_for(folder, (1975, 4096))
    }

    /// The same, valid between two years.
    pub(crate) fn install_for(&self, folder: &Path, years: (i32, i32)) -> CertificateDer<'static> {
        let (der, pem, key) = self.issue_for("localhost", years);
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("a file");
        std::fs::write(folder.join("certificate.pem"), pem).expect("a file");
        der
    }

    pub(crate) fn client(&self, own: Option<(CertificateDer<'static>, KeyPair)>, versions: Versions) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate], key).expect("a client's certificate")
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

pub(crate) type Versions = &'static [&'static rustls::SupportedProtocolVersion];
pub(crate) const OLDER: Versions = &[&rustls::version::TLS12];
pub(crate) const NEWER: Versions = &[&rustls::version::TLS13];
pub(crate) const BOTH: Versions = &[&rustls::version::TLS13, &rustls::version::TLS12];

pub(crate) async fn shake(gateway: &Gateway, connector: &TlsConnector) -> TlsStream<TcpStream> {
    shake_at(gateway.address(), connector).await
}

pub(crate) async fn shake_at(address: &str, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.expect("the gateway listens");
    let name = ServerName::try_from("localhost").expect("a name");
    connector.connect(name, stream).await.expect("the handshake")
}

pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("certificates")[0].clone().into_owned()
}

/// A gateway with TLS that accepts client certificates of the same authority.
pub(crate) async fn with_tls(authority: &Authority, files: &TempDir) -> Gateway {
    with_tls_and(authority, files, |setup| setup).await
}

/// The same, with further settings.
pub(crate) async fn with_tls_and(authority: &Authority, files: &TempDir, further: fn(Setup) -> Setup) -> Gateway {
    authority.install(files.path());
    let gateway = further(setup(authority, files)).listen().await;
    let client = authority.client(None, BOTH);
    eventually("the gateway is ready", async || {
        let mut wire = Wire::over(shake(&gateway, &client).await);
        wire.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        wire.answer().await.filter(|told| told.status == 200)
    })
    .await;
    gateway
}

/// The settings for the files of [`Authority::install`].
pub(crate) fn setup(authority: &Authority, files: &TempDir) -> Setup {
    std::fs::write(files.path().join("ca.pem"), &authority.pem).expect("a file");
    let path = |name: &str| files.path().join(name).display().to_string();
    let setup =
        Setup::default().with("EYE_TLS_CERTIFICATE", path("certificate.pem")).with("EYE_TLS_KEY", path("key.pem"));
    setup.with("EYE_TLS_CLIENT_CA", path("ca.pem"))
}
