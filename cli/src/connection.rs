//! Where the cluster is, how to prove who calls, and the connection itself.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use hyper_util::rt::TokioIo;
use proto::{
    operator::v1::operator_client::OperatorClient as RawOperator,
    scheduler::v1::scheduler_client::SchedulerClient as RawScheduler,
};
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::ClientError;

/// Where a coordinator listens unless told otherwise.
const ADDRESS_DEFAULT: &str = "http://127.0.0.1:5050";
/// Where credentials lie that nobody named: an installed coordinator, then `muster dev`.
const TOKEN_PATHS: [&str; 2] = ["/var/lib/muster/coordinator/token", "/var/lib/muster-dev/coordinator/token"];
/// A whole answer may be so large: the coordinator sends no more, for example to a framework that was long away.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A call that takes longer is lost; streams have no such bound.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The operator API over a [`Connection`].
pub type OperatorClient = RawOperator<InterceptedService<Channel, Credential>>;
/// The scheduler API over a [`Connection`].
pub type SchedulerClient = RawScheduler<InterceptedService<Channel, Credential>>;

/// Where a coordinator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `http://host:port`.
    Http(String),
    /// `unix:path`: needs no token, because only root can open it.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let refuse = || ClientError::Address { address: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(refuse()) } else { Ok(Self::Unix(path.into())) };
        }
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = text.parse().map_err(|_| refuse())?;
        if uri.scheme_str() != Some("http") || uri.port().is_none() {
            return Err(refuse());
        }
        Ok(Self::Http(text))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(url) => formatter.write_str(url),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Shows the token on every call.
#[derive(Clone)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl Credential {
    fn read(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Credential { path: path.to_owned(), source };
        let token = fs::read_to_string(path).map_err(failed)?;
        let bad = || failed(io::Error::new(io::ErrorKind::InvalidData, "it holds no token"));
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| bad())?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// What a caller was told about where the cluster is; the rest is found.
#[derive(Debug, Clone, Default)]
pub struct Locator {
    /// Else `MUSTER_SERVER`, else `http://127.0.0.1:5050`.
    pub address: Option<String>,
    /// Else `MUSTER_TOKEN_FILE`, else the usual places.
    pub token_file: Option<PathBuf>,
}

/// A connection that heals by itself.
#[derive(Clone)]
pub struct Connection {
    address: String,
    channel: Channel,
    credential: Credential,
}

impl Connection {
    /// Finds address and credential; the connection itself is made by the first call.
    ///
    /// Must be called within a tokio runtime.
    pub fn open(locator: &Locator) -> Result<Self, ClientError> {
        let named = locator.address.clone().or_else(|| env::var("MUSTER_SERVER").ok());
        let address: Address = named.as_deref().unwrap_or(ADDRESS_DEFAULT).parse()?;
        let credential = match &address {
            Address::Unix(_) => Credential(None),
            Address::Http(_) => find_credential(locator)?,
        };
        Ok(Self { channel: channel(&address)?, address: address.to_string(), credential })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The operator API.
    pub fn operator(&self) -> OperatorClient {
        RawOperator::with_interceptor(self.channel.clone(), self.credential.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The scheduler API, call by call; [`crate::Framework`] is the way that heals by itself.
    pub fn scheduler(&self) -> SchedulerClient {
        RawScheduler::with_interceptor(self.channel.clone(), self.credential.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Turns a status of this connection into an error.
    pub fn error(&self, status: &Status) -> ClientError {
        ClientError::from_status(status, &self.address)
    }

    /// Makes one call, again while it may pass, for some seconds.
    ///
    /// `call` must be safe to repeat: a read, or a change that carries a request id.
    pub async fn call<T, F, Fut>(&self, call: F) -> Result<T, ClientError>
    where
        F: Fn(OperatorClient) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let attempt = || async {
            match tokio::time::timeout(CALL_TIMEOUT, call(self.operator())).await {
                Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| self.error(&status)),
                Err(_) => Err(ClientError::Unreachable {
                    address: self.address.clone(),
                    message: format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
                }),
            }
        };
        attempt.retry(retries()).when(ClientError::may_pass).await
    }
}

/// How calls are repeated: at once, then slower, about four seconds in all.
pub(crate) fn retries() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(7)
        .with_jitter()
}

/// A new id for a request that changes something.
pub fn new_request_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

fn find_credential(locator: &Locator) -> Result<Credential, ClientError> {
    let named = locator.token_file.clone().or_else(|| env::var_os("MUSTER_TOKEN_FILE").map(PathBuf::from));
    if let Some(path) = named {
        return Credential::read(&path);
    }
    let mut unreadable = None;
    for path in TOKEN_PATHS.map(Path::new) {
        match Credential::read(path) {
            Ok(credential) => return Ok(credential),
            Err(ClientError::Credential { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => unreadable = Some(error),
        }
    }
    Err(unreadable
        .unwrap_or_else(|| ClientError::NoCredential { looked_at: TOKEN_PATHS.map(PathBuf::from).to_vec() }))
}

fn channel(address: &Address) -> Result<Channel, ClientError> {
    let url = match address {
        Address::Http(url) => url.clone(),
        // The name is only shown to the server; the connector below ignores it.
        Address::Unix(_) => "http://localhost".to_owned(),
    };
    let endpoint = Endpoint::from_shared(url)
        .map_err(|_| ClientError::Address { address: address.to_string() })?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(match address {
        Address::Http(_) => endpoint.connect_lazy(),
        Address::Unix(path) => {
            let path = path.clone();
            endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_or_a_socket() {
        let parse = |text: &str| text.parse::<Address>().map(|address| address.to_string()).ok();
        assert_eq!(parse("127.0.0.1:5050").as_deref(), Some("http://127.0.0.1:5050"));
        assert_eq!(parse("http://[::1]:5050").as_deref(), Some("http://[::1]:5050"));
        assert_eq!(parse("unix:/run/muster/api.sock").as_deref(), Some("unix:/run/muster/api.sock"));
        for bad in ["", "unix:", "https://x:1", "http://x", "ftp://x:1", "a b:1"] {
            assert_eq!(parse(bad), None, "{bad:?} was taken");
        }
    }
}
