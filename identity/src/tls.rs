//! What one process proves itself with, in both directions, and how that is exchanged while it runs.

use std::{
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert, VerifierBuilderError},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{CertificateError, Credential, Facts, client, client::Pin, server, server::Judge, server::Shown};

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("can't use the key of the certificate")]
    Key(#[source] rustls::Error),
    #[error("can't set up TLS")]
    Config(#[source] rustls::Error),
    #[error("can't use the authority's certificate")]
    Verifier(#[source] VerifierBuilderError),
    #[error("can't read the certificate")]
    Certificate(#[source] CertificateError),
}

/// The one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// One process's side of TLS; cheap to clone.
#[derive(Clone)]
pub struct Tls {
    authority: CertificateDer<'static>,
    current: Arc<Current>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    judge: Judge,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Tls").field(&self.facts().identity).finish()
    }
}

impl Tls {
    /// Believes an authority, and proves itself with a credential of it.
    pub fn new(authority: CertificateDer<'static>, credential: &Credential) -> Result<Self, TlsError> {
        let current = Arc::new(Current(RwLock::new(proof(&authority, credential)?)));
        Ok(Self {
            client: client::config(Pin::Authority(authority.clone()), Some(current.clone()))?,
            server: server::config(current.clone())?,
            judge: Judge::new(authority.clone(), provider())?,
            current,
            authority,
        })
    }

    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// Proves itself with another credential from the next connection on.
    pub fn exchange(&self, credential: &Credential) -> Result<(), TlsError> {
        let proof = proof(&self.authority, credential)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = proof;
        Ok(())
    }

    /// What the current certificate says.
    pub fn facts(&self) -> Facts {
        self.current.get().facts.clone()
    }

    /// For calls to members.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// The handshake with a caller, and what it showed.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Shown)> {
        let stream = TlsAcceptor::from(self.server.clone()).accept(stream).await?;
        let (_, connection) = stream.get_ref();
        let shown = self.judge.judge(connection.peer_certificates().unwrap_or_default());
        Ok((stream, shown))
    }
}

/// A credential as rustls wants it, and what it says.
struct Proof {
    facts: Facts,
    key: Arc<CertifiedKey>,
}

fn proof(authority: &CertificateDer<'static>, credential: &Credential) -> Result<Arc<Proof>, TlsError> {
    let facts = credential.facts().map_err(TlsError::Certificate)?;
    let key = PrivateKeyDer::from(credential.key.clone_key());
    let key = ring::sign::any_supported_type(&key).map_err(TlsError::Key)?;
    // The authority goes along for those who know no more of it than its fingerprint.
    let chain = vec![credential.certificate.clone(), authority.clone()];
    let key = CertifiedKey::new(chain, key);
    key.keys_match().map_err(TlsError::Key)?;
    Ok(Arc::new(Proof { facts, key: Arc::new(key) }))
}

/// What is shown in the next handshake.
struct Current(RwLock<Arc<Proof>>);

impl Current {
    fn get(&self) -> Arc<Proof> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Current(…)")
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().key.clone())
    }
}
