//! The coordinators of the cluster, and a connection to one of them: any member passes on what only the
//! leader can answer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use identity::Connector;
use tokio::time::timeout;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{StreamError, passport::Passport, read_token};

/// How long one member may take to accept a connection, before the next one is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// A member from which nothing is heard for so long is asked whether it lives; it sends a heartbeat as often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and must answer within this, or another one is tried: a cut link tells nobody that it is cut.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A URL that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is no address of a coordinator")]
pub struct AddressError {
    url: String,
    source: tonic::transport::Error,
}

/// How the agent proves itself to coordinators.
#[derive(Debug, Clone)]
pub enum Proof {
    /// By a token in this file, in plain text on one machine.
    Token(PathBuf),
    /// By a certificate.
    Certificate(Arc<Passport>),
}

/// Where the members answer; at least one.
#[derive(Debug, Clone)]
pub struct Coordinators {
    endpoints: Vec<Endpoint>,
    proof: Proof,
}

impl Coordinators {
    /// Coordinators on this machine, in plain text. Refuses what is no URL.
    pub fn plain(urls: &[String], token_file: PathBuf) -> Result<Self, AddressError> {
        Ok(Self { endpoints: endpoints(urls)?, proof: Proof::Token(token_file) })
    }

    /// Coordinators that speak TLS. Refuses what is no URL.
    pub fn secured(
        urls: &[String],
        passport: impl FnOnce(Vec<Endpoint>) -> Passport,
    ) -> Result<Self, AddressError> {
        let endpoints = endpoints(urls)?;
        let proof = Proof::Certificate(Arc::new(passport(endpoints.clone())));
        Ok(Self { endpoints, proof })
    }

    /// Does what the proof needs while the agent runs; never ends.
    pub(super) async fn keep_fresh(&self) -> std::convert::Infallible {
        match &self.proof {
            Proof::Token(_) => std::future::pending().await,
            Proof::Certificate(passport) => passport.keep_fresh().await,
        }
    }

    /// What every call carries, beside the certificate.
    pub(crate) fn credential(&self) -> Result<Option<MetadataValue<Ascii>>, StreamError> {
        match &self.proof {
            Proof::Token(path) => read_token(path).map(Some),
            Proof::Certificate(_) => Ok(None),
        }
    }

    /// Connects to a member: the `first` one, or else the next that accepts.
    ///
    /// A member that accepts may still know no leader: then the caller gives another `first` next time.
    pub(crate) async fn connect(&self, first: u64) -> Result<Channel, StreamError> {
        let tls = match &self.proof {
            Proof::Token(_) => None,
            Proof::Certificate(passport) => Some(passport.client().await.map_err(StreamError::Passport)?),
        };
        let connector = Connector::new(tls, CONNECT_PATIENCE);
        let count = self.endpoints.len();
        let skipped = usize::try_from(first % count.max(1) as u64).unwrap_or_default();
        let mut failure = StreamError::Late;
        for endpoint in self.endpoints.iter().cycle().skip(skipped).take(count) {
            match timeout(CONNECT_PATIENCE, endpoint.connect_with_connector(connector.clone())).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => failure = StreamError::Connect(error),
                Err(_elapsed) => failure = StreamError::Late,
            }
        }
        Err(failure)
    }
}

fn endpoints(urls: &[String]) -> Result<Vec<Endpoint>, AddressError> {
    urls.iter().map(|url| endpoint(url)).collect()
}

fn endpoint(url: &str) -> Result<Endpoint, AddressError> {
    let failed = |source| AddressError { url: url.to_owned(), source };
    // Whether TLS is spoken is the connector's business, below this.
    let plain = url.replacen("https://", "http://", 1);
    let endpoint = Endpoint::from_shared(plain)
        .map_err(failed)?
        // Without these a broken path leaves a stream that never ends.
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")));
    endpoint.map_err(failed)
}
