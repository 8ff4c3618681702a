//! TLS for the listener: versions 1.2 and 1.3, the certificate from files that may change at any time, and client
//! certificates if a CA for them is named. A pair of files that cannot be used, or whose certificate is out of date, leaves
//! the last good one in force; connections that are open keep what they began with. Only this file names rustls.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::verdict::Digest;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::certificate::Validity;
use crate::clock::Clock;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A connection after its handshake.
pub type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Where the certificates are, in PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, followed by those between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The roots that client certificates must come from; `None` if none are asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether a peer without such a certificate gets no connection.
    pub client_required: bool,
}

/// Why the files cannot be used. Nothing of the key is ever told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, #[source] io::Error),
    /// A file does not hold what it should, in PEM.
    #[error("{0} holds no {1} in PEM")]
    Empty(String, &'static str),
    /// The certificate, or one between it and the root, is not valid now.
    #[error("{0} {1}")]
    OutOfDate(String, String),
    /// The parts do not make a whole.
    #[error("the certificate and its key cannot be used: {0}")]
    Unusable(String),
}

/// The certificates in force.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    in_force: ArcSwap<InForce>,
}

#[derive(Debug)]
struct InForce {
    config: Arc<ServerConfig>,
    /// Of all files together; says whether they have changed.
    digest: Digest,
    /// Of the certificate alone.
    certificate: Digest,
    /// For how long the certificate and those between it and the root are valid, as far as they can be read.
    validity: Option<Validity>,
}

impl InForce {
    fn of(contents: &Contents, files: &Files) -> Result<Self, Error> {
        let config = Arc::new(contents.config(files)?);
        let (digest, certificate) = (contents.digest(), Digest::of(&contents.certificate));
        Ok(Self { config, digest, certificate, validity: contents.validity() })
    }

    /// Refuses a certificate that is not valid at this time.
    fn prove_date(&self, files: &Files, now: DateTime<Utc>) -> Result<(), Error> {
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

/// What the files hold.
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

    fn digest(&self) -> Digest {
        let parts = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        let digests = parts.map(|part| part.map_or([0; 32], |bytes| Digest::of(bytes).0));
        Digest::of(&digests.concat())
    }

    /// The time for which all of the chain is valid.
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
                // A caller without a certificate may still show a token.
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
    /// [`Error`], which says what to mend.
    pub fn load(files: Files) -> Result<Arc<Self>, Error> {
        let in_force = InForce::of(&Contents::read(&files)?, &files)?;
        // A gateway that did not start would serve those neither who look at no dates.
        if let Err(error) = in_force.prove_date(&files, now()) {
            tracing::error!(%error, "callers will refuse the TLS certificate");
        }
        Ok(Arc::new(Self { files, in_force: ArcSwap::from_pointee(in_force) }))
    }

    /// The end of the certificate in force, in seconds since 1970.
    pub fn expires_at_s(&self) -> Option<i64> {
        self.in_force.load().validity.map(|validity| validity.until.timestamp())
    }

    /// Shakes hands with a peer, with the certificate of now.
    ///
    /// # Errors
    ///
    /// What the peer did wrong, or that it is gone. The caller sets the time limit.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream> {
        let config = Arc::clone(&self.in_force.load().config);
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Takes new files over as they come, until told to stop.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let follow = async {
            let mut looks = tokio::time::interval(LOOK);
            let (mut refused, mut expired) = (None, false);
            loop {
                looks.tick().await;
                let ends = self.in_force.load().validity.is_some_and(|validity| validity.until < now());
                if ends && !expired {
                    tracing::error!("the TLS certificate in force has expired: callers will refuse it");
                }
                expired = ends;
                let tls = Arc::clone(&self);
                let Ok(Err((digest, error))) = tokio::task::spawn_blocking(move || tls.look()).await else {
                    refused = None;
                    continue;
                };
                // The same bad files are told once; half of a new pair is bad until the other half is there.
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
        let contents = Contents::read(&self.files).map_err(|error| (None, error))?;
        let digest = contents.digest();
        let before = self.in_force.load();
        if digest != before.digest {
            let new = InForce::of(&contents, &self.files).map_err(|error| (Some(digest), error))?;
            // Another CA is taken over whatever became of the certificate.
            if new.certificate != before.certificate {
                new.prove_date(&self.files, now()).map_err(|error| (Some(digest), error))?;
            }
            self.in_force.store(Arc::new(new));
            tracing::info!("the new TLS files are in force");
        }
        Ok(())
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(Clock::default().now_us()).unwrap_or_default()
}

/// All that is wrong with the files, for who looks before anything starts.
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
    whole.and_then(|whole| whole.prove_date(files, now())).err().map(|error| error.to_string()).into_iter().collect()
}

/// SHA-256 of the certificate that the client has proved, if it has.
pub fn client_certificate(stream: &TlsStream) -> Option<Digest> {
    let certificates = stream.get_ref().1.peer_certificates()?;
    certificates.first().map(|certificate| Digest::of(certificate))
}

/// What a client of a gateway believes certificates by.
#[derive(Debug)]
pub struct Roots(RootCertStore);

impl Roots {
    /// Those in a file, in PEM, or those of the web.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds none.
    pub fn read(file: Option<&Path>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let Some(file) = file else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            return Ok(Self(roots));
        };
        let name = file.display().to_string();
        let bytes = std::fs::read(file).map_err(|error| Error::Unreadable(name.clone(), error))?;
        let found = certificates(&bytes).ok_or(Error::Empty(name, "certificate"))?;
        // A bundle may hold some that are no roots to this library.
        roots.add_parsable_certificates(found);
        Ok(Self(roots))
    }
}

/// Shakes hands with a gateway as its client, and proves its certificate.
///
/// # Errors
///
/// The certificate is not believed, or the peer is gone. The caller sets the time limit.
pub async fn connect(
    host: &str,
    stream: TcpStream,
    roots: &Roots,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(io::Error::other)?
        .with_root_certificates(roots.0.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
