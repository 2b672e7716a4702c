//! The coordinators of the cluster, and a connection to one of them: any member passes on what only the
//! leader can answer.

use std::time::Duration;

use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::StreamError;

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

/// Where the members answer; at least one.
#[derive(Debug, Clone)]
pub struct Coordinators(Vec<Endpoint>);

impl Coordinators {
    /// Refuses what is no URL.
    pub fn new(urls: &[String]) -> Result<Self, AddressError> {
        urls.iter().map(|url| endpoint(url)).collect::<Result<_, _>>().map(Self)
    }

    /// Connects to a member: the `first` one, or else the next that accepts.
    ///
    /// A member that accepts may still know no leader: then the caller gives another `first` next time.
    pub(crate) async fn connect(&self, first: u64) -> Result<Channel, StreamError> {
        let count = self.0.len();
        let skipped = usize::try_from(first % count.max(1) as u64).unwrap_or_default();
        let mut failure = StreamError::Late;
        for endpoint in self.0.iter().cycle().skip(skipped).take(count) {
            match timeout(CONNECT_PATIENCE, endpoint.connect()).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => failure = StreamError::Connect(error),
                Err(_elapsed) => failure = StreamError::Late,
            }
        }
        Err(failure)
    }
}

fn endpoint(url: &str) -> Result<Endpoint, AddressError> {
    let failed = |source| AddressError { url: url.to_owned(), source };
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(failed)?
        .connect_timeout(CONNECT_PATIENCE)
        .tcp_nodelay(true)
        // Without these a broken path leaves a stream that never ends.
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")));
    endpoint.map_err(failed)
}
