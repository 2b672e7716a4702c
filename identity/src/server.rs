//! The side that answers: what a caller showed, and whether it counts.
//!
//! The handshake proves that the caller has the key of what it shows, whoever signed it; [`Judge`] says afterwards
//! what that is worth. Nobody may act on a certificate that wasn't judged.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{Facts, Identity, now, show_time, tls::TlsError};

/// What a caller showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    /// It is who it says, until `not_after`.
    Valid {
        identity: Identity,
        not_after: i64,
        /// How far the cluster's log was when it was made.
        made: u64,
    },
    /// It was who it says.
    Expired {
        identity: Identity,
        not_after: i64,
        made: u64,
    },
    /// Nobody that is known here, and why.
    Refused(String),
}

/// Answers as somebody, and asks every caller for its certificate, without needing one.
pub(crate) fn config(shows: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = crate::tls::provider();
    let verifier = Possession { algorithms: provider.signature_verification_algorithms };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Config)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(shows);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Says what a certificate is worth.
#[derive(Debug, Clone)]
pub(crate) struct Judge(Arc<dyn ClientCertVerifier>);

impl Judge {
    pub(crate) fn new(
        authority: CertificateDer<'static>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(TlsError::Config)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        verifier.map(Self).map_err(TlsError::Verifier)
    }

    /// Judges the chain that a caller showed, by this machine's clock.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>]) -> Shown {
        let Some(certificate) = chain.first() else { return Shown::Nothing };
        let facts = match Facts::read(certificate) {
            Ok(facts) => facts,
            Err(error) => return Shown::Refused(error.to_string()),
        };
        let Facts { identity, not_before, not_after, made } = facts;
        let at = |seconds: i64| {
            let since = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            UnixTime::since_unix_epoch(since)
        };
        let clock = now();
        match self.0.verify_client_cert(certificate, &[], at(clock)) {
            Ok(_) => Shown::Valid { identity, not_after, made },
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => match self.0.verify_client_cert(certificate, &[], at(not_after)) {
                Ok(_) => Shown::Expired { identity, not_after, made },
                Err(_) => Shown::Refused(foreign(&identity)),
            },
            Err(Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            )) => Shown::Refused(format!(
                "the certificate of {identity} begins to count at {}, and the clock here says {}; set both clocks \
                 right",
                show_time(not_before),
                show_time(clock)
            )),
            Err(_) => Shown::Refused(foreign(&identity)),
        }
    }
}

fn foreign(identity: &Identity) -> String {
    format!("the certificate of {identity} is not of this cluster; join this one with a token of it")
}

/// Checks that the caller has the key of the certificate that it shows, and nothing else: [`Judge`] does that.
#[derive(Debug)]
struct Possession {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("nothing older than TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
