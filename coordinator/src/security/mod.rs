//! This member's part in the cluster's trust: the authority that every member holds, and its own certificate.
//!
//! Makes certificates and keeps its own fresh. Never decides who gets one: that is `api/grpc/joining.rs`'s, by
//! tokens that the log knows. `init.rs` begins a cluster's trust, `enter.rs` gets it from another member.
//! Start at [`Security::load`].

mod enter;
mod init;

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use identity::{Authority, AuthorityError, Folder, FolderError, Identity, Tls, TlsError, fingerprint};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

pub use enter::{EnterError, enter};
pub use init::{InitError, init};

/// Before a renewal that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A member makes its own certificate before it knows how far the log is, and could say anything: so one whose name
/// is revoked is refused whatever it says.
const MEMBERS_MADE: u64 = 0;

/// Why this member can't prove itself.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("can't use the certificates in the data directory")]
    Folder(#[source] FolderError),
    #[error("{folder} holds the authority's certificate without its key, so it is no member's")]
    NoKey { folder: String },
    #[error("can't make this member's certificate")]
    Issue(#[source] AuthorityError),
    #[error("can't set up TLS")]
    Tls(#[source] TlsError),
}

impl SecurityError {
    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::Folder(error) => error.next(),
            Self::NoKey { folder } => {
                format!(
                    "restore {folder} from a backup, or remove it and join the cluster again with a token"
                )
            }
            Self::Issue(AuthorityError::Host(_)) => "correct `allowed-hosts`".to_owned(),
            Self::Issue(_) | Self::Tls(_) => "see the cause".to_owned(),
        }
    }
}

/// What this member has of the cluster's trust; shared.
#[derive(Debug)]
pub struct Security {
    authority: Authority,
    tls: Tls,
    member: Identity,
    hosts: Vec<String>,
    life: Duration,
}

impl Security {
    /// `None`: TLS was never set up here. Makes a certificate for this start; its key never touches the disk.
    pub fn load(config: &Config) -> Result<Option<Arc<Self>>, SecurityError> {
        let folder = Folder::of(&config.data_dir);
        if folder.trust().map_err(SecurityError::Folder)?.is_none() {
            return Ok(None);
        }
        let authority = folder
            .authority()
            .map_err(SecurityError::Folder)?
            .ok_or_else(|| SecurityError::NoKey { folder: folder.path().display().to_string() })?;
        let member = Identity::Member(config.member_id);
        let hosts = hosts(config);
        let life = config.certificate_life;
        let credential =
            authority.issue(&member, life, &hosts, MEMBERS_MADE).map_err(SecurityError::Issue)?;
        let tls = Tls::new(authority.certificate().clone(), &credential).map_err(SecurityError::Tls)?;
        Ok(Some(Arc::new(Self { authority, tls, member, hosts, life })))
    }

    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// What joiners know the authority by.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(self.authority.certificate())
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Gives a name to the key of a request; `made` is how far the log is. For as long as all certificates live,
    /// unless told otherwise.
    pub fn certify(
        &self,
        request: &[u8],
        identity: &Identity,
        life: Option<Duration>,
        made: u64,
    ) -> Result<Vec<u8>, AuthorityError> {
        let life = life.unwrap_or(self.life);
        self.authority.sign(request, identity, life, &[], made).map(|certificate| certificate.to_vec())
    }

    /// Exchanges this member's certificate whenever two thirds of its life are over; at some moment of the next
    /// sixth, so that members don't do it at once.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let due = self.life * 2 / 3 + self.life.mul_f64(rand::rng().random_range(0.0..1.0 / 6.0));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(due) => {}
            }
            while let Err(error) = self.renew() {
                tracing::error!(error = %chain(&error), "can't renew this member's certificate");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            tracing::info!("renewed this member's certificate");
        }
    }

    fn renew(&self) -> Result<(), SecurityError> {
        let issued = self.authority.issue(&self.member, self.life, &self.hosts, MEMBERS_MADE);
        self.tls.exchange(&issued.map_err(SecurityError::Issue)?).map_err(SecurityError::Tls)
    }
}

/// Where other programs, which look at names, may look for this member.
fn hosts(config: &Config) -> Vec<String> {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let address = config.listen.ip();
    if !address.is_unspecified() {
        hosts.push(address.to_string());
    }
    hosts.extend(config.advertise.iter().map(|address| address.ip().to_string()));
    hosts.extend(config.allowed_hosts.iter().filter(|host| !host.contains(['[', ':'])).cloned());
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// An error with its causes, for one line of the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// What one line of a file holds, such as a token; `None` where there is no file.
fn read_line(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
