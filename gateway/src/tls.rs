//! TLS for the listener: versions 1.2 and 1.3, a certificate from files that may change at any time, and client
//! certificates if a CA for them is set. Files that cannot be used, or whose certificate is out of date, leave the last
//! good ones in force. Open connections keep the certificate that they began with. Only this file and `store/tls.rs`
//! name rustls.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::verdict::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::certificate::Validity;
use crate::clock::Clock;

/// The time between two checks of the files.
const LOOK: Duration = Duration::from_secs(1);

/// A connection after its handshake.
pub type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// The paths of the certificates, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The root certificates of client certificates; `None` if the server asks for none.
    pub client_ca: Option<PathBuf>,
    /// Whether peers without a client certificate are refused.
    pub client_required: bool,
}

/// The reasons why the files cannot be used. No message quotes the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, #[source] io::Error),
    /// A file does not hold the expected PEM.
    #[error("{0} holds no {1} in PEM")]
    Empty(String, &'static str),
    /// The certificate, or an intermediate one, is not valid now.
    #[error("{0} {1}")]
    OutOfDate(String, String),
    /// The certificate and the key do not belong together.
    #[error("the certificate and its key cannot be used: {0}")]
    Unusable(String),
}

/// The certificate in force, and its files. Nothing is in force without TLS.
#[derive(Debug, Default)]
pub struct Tls {
    in_force: ArcSwapOption<InForce>,
}

/// What a reload has read and proved, and not put in force yet.
#[derive(Debug)]
pub struct Prepared(Option<Arc<InForce>>);

#[derive(Debug)]
struct InForce {
    files: Files,
    config: Arc<ServerConfig>,
    /// The digests of the files. They show which have changed.
    digests: Digests,
    /// The validity of the whole chain, as far as it can be read.
    validity: Option<Validity>,
}

impl InForce {
    fn of(contents: &Contents, files: &Files) -> Result<Self, Error> {
        let config = Arc::new(contents.config(files)?);
        Ok(Self { files: files.clone(), config, digests: contents.digests(), validity: contents.validity() })
    }

    /// The same, as a successor of `before`. A new certificate must be valid now. An unchanged one may be out of date: a
    /// new CA or key is used in any case.
    fn following(before: Option<&Self>, contents: &Contents, files: &Files) -> Result<Self, Error> {
        let new = Self::of(contents, files)?;
        if before.is_none_or(|before| before.digests[0] != new.digests[0]) {
            new.prove_date(now())?;
        }
        Ok(new)
    }

    /// Rejects a certificate that is not valid at this time.
    fn prove_date(&self, now: DateTime<Utc>) -> Result<(), Error> {
        let files = &self.files;
        let shown = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let told = |words| Err(Error::OutOfDate(files.certificate.display().to_string(), words));
        match self.validity {
            Some(Validity { until, .. }) if until < now => {
                told(format!("has expired: it was valid until {}", shown(until)))
            }
            Some(Validity { from, .. }) if from > now => {
                told(format!("is not valid yet: it is from {} on; look at the clock of this machine too", shown(from)))
            }
            _ => Ok(()),
        }
    }
}

/// The digests of the certificate, the key and the roots of client certificates.
type Digests = [Option<Digest>; 3];

/// The settings of these files, in the same order.
const SETTINGS: [&str; 3] = ["tls_certificate", "tls_key", "tls_client_ca"];

/// The contents of the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &Files) -> Result<Self, Error> {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|error| Error::Unreadable(path.display().to_string(), error));
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_ref().map(read).transpose()?,
        })
    }

    fn digests(&self) -> Digests {
        let parts = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        parts.map(|part| part.map(|bytes| Digest::of(bytes)))
    }

    /// The time in which all certificates of the chain are valid.
    fn validity(&self) -> Option<Validity> {
        let each = certificates(&self.certificate)?.into_iter().filter_map(|certificate| Validity::of(&certificate));
        each.reduce(|one, other| Validity { from: one.from.max(other.from), until: one.until.min(other.until) })
    }

    fn config(&self, files: &Files) -> Result<ServerConfig, Error> {
        let empty = |path: &PathBuf, what| Error::Empty(path.display().to_string(), what);
        let unusable = |error: &dyn std::error::Error| Error::Unusable(error.to_string());
        let chain = certificates(&self.certificate).ok_or_else(|| empty(&files.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| empty(&files.key, "private key"))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| unusable(&error))?;
        let builder = match files.client_ca.as_ref().zip(self.client_ca.as_ref()) {
            None => builder.with_no_client_auth(),
            Some((path, bytes)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(bytes).ok_or_else(|| empty(path, "certificate"))? {
                    roots.add(root).map_err(|error| unusable(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                // A caller without a certificate may identify itself by a token.
                let verifier = if files.client_required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(&error))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// An [`Error`], whose message says how to mend it.
    pub fn load(files: Files) -> Result<Arc<Self>, Error> {
        let in_force = InForce::of(&Contents::read(&files)?, &files)?;
        // Some callers check no dates. They could not use a gateway that refuses to start.
        if let Err(error) = in_force.prove_date(now()) {
            tracing::error!(%error, "callers will refuse the TLS certificate");
        }
        Ok(Arc::new(Self { in_force: ArcSwapOption::from_pointee(in_force) }))
    }

    /// Reads and proves the files of a reload; none turn TLS off.
    ///
    /// # Errors
    ///
    /// An [`Error`], as [`Tls::load`], and for a new certificate that is not valid now.
    pub fn prepare(&self, files: Option<Files>) -> Result<Prepared, Error> {
        let Some(files) = files else { return Ok(Prepared(None)) };
        let contents = Contents::read(&files)?;
        let before = self.in_force.load_full();
        if let Some(before) = before.as_ref().filter(|one| one.files == files && one.digests == contents.digests()) {
            return Ok(Prepared(Some(Arc::clone(before))));
        }
        Ok(Prepared(Some(Arc::new(InForce::following(before.as_deref(), &contents, &files)?))))
    }

    /// Puts it in force, for handshakes that begin from now on. Returns the settings whose files have other contents.
    pub fn put_in_force(&self, Prepared(new): Prepared) -> Vec<&'static str> {
        let before = self.in_force.swap(new.clone());
        match (before, new) {
            (Some(before), Some(new)) => {
                let pairs = before.digests.into_iter().zip(new.digests).zip(SETTINGS);
                pairs.filter(|((before, new), _)| before != new).map(|(_, setting)| setting).collect()
            }
            (Some(_), None) => {
                tracing::warn!("TLS is off: everybody on the way can read tokens and events");
                Vec::new()
            }
            (None, _) => Vec::new(),
        }
    }

    /// The end of the certificate in force, in seconds since 1970. The metrics read it.
    pub fn expires_at_s(&self) -> Option<i64> {
        self.in_force.load().as_ref()?.validity.map(|validity| validity.until.timestamp())
    }

    /// The handshake with the certificate in force; `None` without TLS.
    pub fn handshake(&self) -> Option<Handshake> {
        self.in_force.load().as_ref().map(|in_force| Handshake(Arc::clone(&in_force.config)))
    }

    /// Checks the files and uses new ones as they come, until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let follow = async {
            let mut looks = tokio::time::interval(LOOK);
            let (mut refused, mut expired) = (None, false);
            loop {
                looks.tick().await;
                let ends = self.expires_at_s().is_some_and(|end| end < now().timestamp());
                if ends && !expired {
                    tracing::error!("the TLS certificate in force has expired: callers will refuse it");
                }
                expired = ends;
                let tls = Arc::clone(&self);
                let Ok(Err((digest, error))) = tokio::task::spawn_blocking(move || tls.look()).await else {
                    refused = None;
                    continue;
                };
                // The same bad files are logged once. While only one file of a new pair is there, the pair is bad.
                if refused.replace(digest) != Some(digest) {
                    tracing::warn!(%error, "the new TLS files cannot be used; the last good ones stay in force");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }

    fn look(&self) -> Result<(), (Option<Digest>, Error)> {
        let before = self.in_force.load();
        let Some(in_force) = before.as_ref() else { return Ok(()) };
        let files = &in_force.files;
        let contents = Contents::read(files).map_err(|error| (None, error))?;
        let digests = contents.digests();
        if digests == in_force.digests {
            return Ok(());
        }
        let digest = Digest::of(&digests.map(|one| one.map_or([0; 32], |digest| digest.0)).concat());
        let new = InForce::following(Some(in_force), &contents, files).map_err(|error| (Some(digest), error))?;
        // A reload may have taken other files meanwhile. They stay.
        let replaced = self.in_force.compare_and_swap(&*before, Some(Arc::new(new)));
        if replaced.as_ref().map(Arc::as_ptr) == before.as_ref().map(Arc::as_ptr) {
            tracing::info!("the new TLS files are in force");
        }
        Ok(())
    }
}

/// A handshake that a peer may make.
pub struct Handshake(Arc<ServerConfig>);

impl Handshake {
    /// Makes the handshake.
    ///
    /// # Errors
    ///
    /// The peer broke the handshake or has gone. The caller sets the time limit.
    pub async fn accept(self, stream: TcpStream) -> io::Result<TlsStream> {
        TlsAcceptor::from(self.0).accept(stream).await
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(Clock::default().now_us()).unwrap_or_default()
}

/// All problems of the files, for `eye config check`.
pub fn problems(files: &Files) -> Vec<String> {
    let named = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    let unreadable = named.into_iter().flatten().filter_map(|path| {
        let error = std::fs::read(path).err()?;
        Some(Error::Unreadable(path.display().to_string(), error).to_string())
    });
    let unreadable: Vec<String> = unreadable.collect();
    if !unreadable.is_empty() {
        return unreadable;
    }
    let whole = Contents::read(files).and_then(|contents| InForce::of(&contents, files));
    whole.and_then(|whole| whole.prove_date(now())).err().map(|error| error.to_string()).into_iter().collect()
}

/// SHA-256 of the client certificate that the handshake proved, if any.
pub fn client_certificate(stream: &TlsStream) -> Option<Digest> {
    let certificates = stream.get_ref().1.peer_certificates()?;
    certificates.first().map(|certificate| Digest::of(certificate))
}

/// The root certificates that a client of the gateway trusts.
#[derive(Debug)]
pub struct Roots(Proof);

#[derive(Debug)]
enum Proof {
    By(RootCertStore),
    None,
}

impl Roots {
    /// Reads the roots from a PEM file, or takes the public ones.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds no certificate.
    pub fn read(file: Option<&Path>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let Some(file) = file else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            return Ok(Self(Proof::By(roots)));
        };
        let name = file.display().to_string();
        let bytes = std::fs::read(file).map_err(|error| Error::Unreadable(name.clone(), error))?;
        let found = certificates(&bytes).ok_or(Error::Empty(name, "certificate"))?;
        // A bundle may hold certificates that this library does not accept as roots.
        roots.add_parsable_certificates(found);
        Ok(Self(Proof::By(roots)))
    }

    /// Trusts every certificate. For health checks of this machine's gateway, which send no secret.
    pub fn unproved() -> Self {
        Self(Proof::None)
    }
}

/// Makes the handshake with a gateway as its client, and checks its certificate.
///
/// # Errors
///
/// The certificate is not trusted, or the peer has gone. The caller sets the time limit.
pub async fn connect(
    host: &str,
    stream: TcpStream,
    roots: &Roots,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(io::Error::other)?;
    let builder = match &roots.0 {
        Proof::By(roots) => builder.with_root_certificates(roots.clone()),
        Proof::None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unproved(provider))),
    };
    let config = builder.with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Verifies that the server holds the key of its certificate, and nothing else about the certificate.
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
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
