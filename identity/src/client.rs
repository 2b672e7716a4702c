//! The side that dials: what a coordinator must show.
//!
//! A coordinator proves that the cluster's authority calls it a member. Its address proves nothing, and isn't
//! looked at: addresses change, and the authority signs for nobody but this cluster.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::{Facts, Identity, certificate::fingerprint, tls::TlsError};

/// Which authority is believed.
#[derive(Debug, Clone)]
pub enum Pin {
    /// This one.
    Authority(CertificateDer<'static>),
    /// The one of this SHA-256; a coordinator sends it along.
    Fingerprint([u8; 32]),
}

/// Dials as somebody, and believes one authority.
pub(crate) fn config(
    pin: Pin,
    shows: Option<Arc<dyn ResolvesClientCert>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = crate::tls::provider();
    let verifier = Verifier { pin, algorithms: provider.signature_verification_algorithms };
    let builder = builder(provider)?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match shows {
        Some(resolver) => builder.with_client_cert_resolver(resolver),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Dials as nobody, and believes what has this fingerprint: the first contact of whoever joins.
pub fn pinned(fingerprint: [u8; 32]) -> Result<Arc<ClientConfig>, TlsError> {
    config(Pin::Fingerprint(fingerprint), None)
}

/// Dials as nobody, and believes this authority: whoever shows a token instead.
pub fn trusting(authority: CertificateDer<'static>) -> Result<Arc<ClientConfig>, TlsError> {
    config(Pin::Authority(authority), None)
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Config)
}

#[derive(Debug)]
struct Verifier {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = match &self.pin {
            Pin::Authority(authority) => authority,
            Pin::Fingerprint(wanted) => intermediates
                .iter()
                .find(|sent| fingerprint(sent) == *wanted)
                .ok_or(Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))?,
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, self.algorithms.all)?;
        match Facts::read(end_entity).map(|facts| facts.identity) {
            Ok(Identity::Member(_)) => Ok(ServerCertVerified::assertion()),
            Ok(Identity::Agent(_) | Identity::User(_)) | Err(_) => {
                Err(Error::General("what answers there is no coordinator of this cluster".to_owned()))
            }
        }
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
