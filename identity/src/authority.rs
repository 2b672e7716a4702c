//! The cluster's certificate authority, and what it is asked.

use std::{fmt, net::IpAddr, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

use crate::{Credential, Identity, fingerprint, now, serial};

/// An authority lives as long as its cluster; whoever wants another begins another cluster.
const AUTHORITY_YEARS: u64 = 30;
/// Clocks of hosts differ; a certificate that begins tomorrow is of no use today.
const BACKDATED: Duration = Duration::from_secs(300);

/// Why a certificate can't be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("can't make a key")]
    Key(#[source] rcgen::Error),
    #[error("can't read the authority's certificate or key")]
    Read(#[source] rcgen::Error),
    #[error("the request for a certificate makes no sense")]
    Request(#[source] rcgen::Error),
    #[error("`{}` can't stand in a certificate", .0.escape_debug())]
    Host(String),
    #[error("can't sign the certificate")]
    Sign(#[source] rcgen::Error),
}

/// A key that has no certificate yet, and the request for one.
pub struct Request {
    key: KeyPair,
}

impl Request {
    /// Makes a key: ECDSA on P-256, which everything speaks.
    pub fn make() -> Result<Self, AuthorityError> {
        Ok(Self { key: KeyPair::generate().map_err(AuthorityError::Key)? })
    }

    /// Takes a key up again that was made before.
    pub fn from_key(key: &PrivatePkcs8KeyDer<'_>) -> Result<Self, AuthorityError> {
        Ok(Self { key: KeyPair::try_from(key).map_err(AuthorityError::Read)? })
    }

    pub fn key(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der())
    }

    /// What is sent to be signed: the public key, signed with the other. Names nobody; the answer does.
    pub fn to_der(&self) -> Result<Vec<u8>, AuthorityError> {
        let request = CertificateParams::default().serialize_request(&self.key);
        Ok(request.map_err(AuthorityError::Request)?.der().to_vec())
    }

    /// Puts the answer beside the key.
    pub fn answered(&self, certificate: Vec<u8>) -> Credential {
        Credential { certificate: certificate.into(), key: self.key() }
    }
}

/// SHA-256 of the public key in a request. Refuses a request that its key did not sign.
pub fn request_key(request: &[u8]) -> Result<[u8; 32], AuthorityError> {
    let request = CertificateSigningRequestDer::from(request);
    let asked = CertificateSigningRequestParams::from_der(&request).map_err(AuthorityError::Request)?;
    Ok(fingerprint(asked.public_key.der_bytes()))
}

/// Makes the certificates of one cluster. Whoever has it can be anyone in that cluster.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Authority(…)")
    }
}

impl Authority {
    /// Makes a new one: the beginning of a cluster's trust.
    pub fn make() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Key)?;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let mut params = CertificateParams::default();
        // It signs leaves, no other authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named("Muster cluster authority");
        params.not_before = epoch + seconds(now()) - BACKDATED;
        params.not_after = epoch + seconds(now()) + Duration::from_secs(AUTHORITY_YEARS * 365 * 86_400);
        let certificate = params.self_signed(&key).map_err(AuthorityError::Sign)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Takes up what [`Self::certificate`] and [`Self::key`] gave.
    pub fn read(
        certificate: CertificateDer<'static>,
        key: &PrivatePkcs8KeyDer<'_>,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::try_from(key).map_err(AuthorityError::Read)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Read)?;
        Ok(Self { certificate, issuer })
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The cluster's greatest secret.
    pub fn key(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.issuer.key().serialize_der())
    }

    /// Gives a name to the key of a request. What the request itself wishes for is not looked at.
    ///
    /// `hosts` are for other programs, which look for them; ours look at the name. `made` says how far the cluster's
    /// log is: what revokes the name later knows the certificate by it.
    pub fn sign(
        &self,
        request: &[u8],
        identity: &Identity,
        life: Duration,
        hosts: &[String],
        made: u64,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let request = CertificateSigningRequestDer::from(request);
        let asked = CertificateSigningRequestParams::from_der(&request).map_err(AuthorityError::Request)?;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial::draw(made));
        params.distinguished_name = named(&identity.to_string());
        params.subject_alt_names = names(identity, hosts)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity {
            Identity::Member(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Identity::Agent(_) | Identity::User(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.not_before = epoch + seconds(now()) - BACKDATED.min(life / 10);
        params.not_after = epoch + seconds(now()) + life;
        let signed = params.signed_by(&asked.public_key, &self.issuer).map_err(AuthorityError::Sign)?;
        Ok(signed.der().clone())
    }

    /// A key and its certificate at once.
    pub fn issue(
        &self,
        identity: &Identity,
        life: Duration,
        hosts: &[String],
        made: u64,
    ) -> Result<Credential, AuthorityError> {
        let request = Request::make()?;
        let certificate = self.sign(&request.to_der()?, identity, life, hosts, made)?;
        Ok(request.answered(certificate.to_vec()))
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn names(identity: &Identity, hosts: &[String]) -> Result<Vec<SanType>, AuthorityError> {
    let text = |text: &str| text.try_into().map_err(|_| AuthorityError::Host(text.to_owned()));
    let mut names = vec![SanType::URI(text(&identity.uri())?)];
    for host in hosts {
        names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(text(host)?),
        });
    }
    Ok(names)
}

fn seconds(moment: i64) -> Duration {
    Duration::from_secs(u64::try_from(moment).unwrap_or_default())
}
