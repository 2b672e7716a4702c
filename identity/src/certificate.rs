//! What is read out of certificates, and a certificate together with its key.

use std::fmt;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use crate::{Identity, NameError, pem, serial};

/// Why a certificate says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("these bytes are no certificate")]
    Unreadable,
    #[error("the certificate names nobody")]
    Nameless,
    #[error("the certificate names nobody that is known here")]
    Name(#[source] NameError),
}

/// What a certificate says. Whether it may be believed is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub identity: Identity,
    /// Seconds since the Unix epoch, as everywhere here.
    pub not_before: i64,
    pub not_after: i64,
    /// How far the cluster's log was when it was made; the beginning where it doesn't say.
    pub made: u64,
}

impl Facts {
    /// Reads a certificate of ours.
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Unreadable)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| CertificateError::Unreadable)?
            .ok_or(CertificateError::Nameless)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        // One certificate is one name: with two, it would matter who reads which.
        let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(CertificateError::Nameless) };
        let identity = Identity::from_uri(uri).map_err(CertificateError::Name)?;
        let validity = certificate.validity();
        Ok(Self {
            identity,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            made: serial::made(certificate.raw_serial()),
        })
    }

    /// How long it counts in all, in seconds.
    pub fn life(&self) -> i64 {
        self.not_after.saturating_sub(self.not_before).max(0)
    }
}

/// SHA-256 of a certificate: what a join token carries of the authority's.
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A certificate with its key: what one proves itself with.
pub struct Credential {
    pub certificate: CertificateDer<'static>,
    pub key: PrivatePkcs8KeyDer<'static>,
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Self { certificate: self.certificate.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credential(…)")
    }
}

impl Credential {
    /// Certificate and key, as one text: whoever reads it can be its owner.
    pub fn to_pem(&self) -> String {
        pem::certificate(&self.certificate) + &pem::key(self.key.secret_pkcs8_der())
    }

    /// Reads what [`Self::to_pem`] wrote.
    pub fn from_pem(text: &str) -> Option<Self> {
        Some(Self { certificate: pem::read_certificate(text)?, key: pem::read_key(text)? })
    }

    pub fn facts(&self) -> Result<Facts, CertificateError> {
        Facts::read(&self.certificate)
    }
}
