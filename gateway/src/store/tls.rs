//! TLS to the database, as `sslmode` asks for it. Each connection reads the files, so new ones are used at once.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::url::{Address, SslMode};

/// Makes the handshake as the client.
pub(super) async fn connect(address: &Address, name: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let config = config(address)?;
    // Certificates name addresses without their interface.
    let name = name.split('%').next().unwrap_or_default().to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(|cause| explained(&cause))
}

/// Explains a failed handshake, with the way to mend it.
fn explained(cause: &io::Error) -> io::Error {
    let said = cause.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let mend = match said {
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::UnknownIssuer => "name the root of its certificate in sslrootcert",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "call it by a name that its certificate has, or use sslmode=verify-ca"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "renew its certificate",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "look at the clocks; its certificate is not valid yet"
            }
            _ => "look at its certificate, or use sslmode=require",
        },
        Some(Error::AlertReceived(_)) => {
            "the server refuses this side of it: look at sslcert and sslkey, and at its log"
        }
        _ => "look at the server's ssl settings and its log",
    };
    io::Error::new(cause.kind(), format!("TLS with the server fails ({cause}); {mend}"))
}

fn config(address: &Address) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if address.ssl_mode < SslMode::VerifyCa {
        Arc::new(Unproved(Arc::clone(&provider)))
    } else {
        let roots = Arc::new(roots(address.ssl_root.as_deref())?);
        let known = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let known = known.build().map_err(io::Error::other)?;
        if address.ssl_mode == SslMode::VerifyCa { Arc::new(OfAnyName(known)) } else { known }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = &address.ssl_client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|_| io::Error::other(format!("{} holds no private key in PEM", key.display())))?;
    builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
}

fn roots(file: Option<&Path>) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            for root in certificates(file)? {
                roots.add(root).map_err(|cause| io::Error::other(format!("{}: {cause}", file.display())))?;
            }
        }
    }
    Ok(roots)
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let none = || io::Error::other(format!("{} holds no certificate in PEM", file.display()));
    let all: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?).collect::<Result<_, _>>().map_err(|_| none())?;
    if all.is_empty() { Err(none()) } else { Ok(all) }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(file).map_err(|cause| io::Error::other(format!("{} cannot be read: {cause}", file.display())))
}

/// For `prefer` and `require`, which encrypt without a proof of the server's identity. A machine in between could show
/// its own key, so checking a signature would prove nothing. None is checked, since rustls cannot read certificates of
/// X.509 version 1, which servers make for themselves.
#[derive(Debug)]
struct Unproved(Arc<CryptoProvider>);

impl ServerCertVerifier for Unproved {
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

/// For `verify-ca`, which checks the chain but not the name.
#[derive(Debug)]
struct OfAnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for OfAnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
