//! Where the cluster is, how to prove who calls, and the connection itself.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use hyper_util::rt::TokioIo;
use identity::{Connector, Stream, Tls};
use proto::{
    operator::v1::operator_client::OperatorClient as RawOperator,
    scheduler::v1::scheduler_client::SchedulerClient as RawScheduler,
};
use rustls::ClientConfig;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::{ClientError, Consistency, Freshness, consistency::Reading};

/// Where a coordinator listens unless told otherwise.
const ADDRESS_DEFAULT: &str = "http://127.0.0.1:5050";
/// The same, where TLS was set up on this machine.
const ADDRESS_SECURED: &str = "https://127.0.0.1:5050";
/// Where an installed coordinator keeps the certificate of the cluster's authority.
const AUTHORITY_PATH: &str = "/var/lib/muster/coordinator/tls/ca.pem";
/// Where credentials lie that nobody named: an installed coordinator, then `muster dev`.
const TOKEN_PATHS: [&str; 2] = ["/var/lib/muster/coordinator/token", "/var/lib/muster-dev/coordinator/token"];
/// A whole answer may be so large: the coordinator sends no more, for example to a framework that was long away.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long one coordinator may take to accept a connection, before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A coordinator from which nothing is heard for so long is asked whether it lives …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// … and must answer within this, or another one is tried: a cut link tells nobody that it is cut.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A call that takes longer is lost; streams have no such bound.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The operator API over a [`Connection`].
pub type OperatorClient = RawOperator<InterceptedService<Channel, Head>>;
/// The scheduler API over a [`Connection`].
pub type SchedulerClient = RawScheduler<InterceptedService<Channel, Credential>>;

/// Where a coordinator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `http://host:port`, or several with commas between them: any coordinator will do.
    Http(Vec<Uri>),
    /// The same over TLS: `https://host:port`.
    Https(Vec<Uri>),
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
        let url = |part: &str| {
            let part = part.trim();
            let text = if part.contains("://") { part.to_owned() } else { format!("http://{part}") };
            let uri: Uri = text.parse().map_err(|_| refuse())?;
            let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
            if is_known && uri.port().is_some() { Ok(uri) } else { Err(refuse()) }
        };
        let urls: Vec<Uri> = text.split(',').map(url).collect::<Result<_, _>>()?;
        let secured = urls.iter().filter(|url| url.scheme_str() == Some("https")).count();
        match secured {
            0 => Ok(Self::Http(urls)),
            // Some of each would say the token in plain text after all.
            count if count == urls.len() => Ok(Self::Https(urls)),
            _ => Err(refuse()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(urls) | Self::Https(urls) => {
                let urls: Vec<_> =
                    urls.iter().map(|url| url.to_string().trim_end_matches('/').to_owned()).collect();
                formatter.write_str(&urls.join(","))
            }
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
    /// Else `MUSTER_CA_FILE`, else the usual place: whom to believe over TLS.
    pub authority_file: Option<PathBuf>,
    /// Else `MUSTER_CERTIFICATE_FILE`: a user's certificate and key, shown over TLS instead of a token.
    pub certificate_file: Option<PathBuf>,
}

impl Locator {
    fn certificate(&self) -> Option<PathBuf> {
        self.certificate_file.clone().or_else(|| env::var_os("MUSTER_CERTIFICATE_FILE").map(PathBuf::from))
    }
}

/// What every call of the operator API carries: who calls, and how fresh the answer must be.
#[derive(Clone)]
pub struct Head {
    credential: Credential,
    reading: Reading,
}

impl Interceptor for Head {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.reading.ask(&mut request);
        self.credential.call(request)
    }
}

/// A connection that heals by itself.
#[derive(Clone)]
pub struct Connection {
    address: String,
    channel: Channel,
    credential: Credential,
    reading: Reading,
}

impl Connection {
    /// Finds address and credential; the connection itself is made by the first call.
    ///
    /// Must be called within a tokio runtime.
    pub fn open(locator: &Locator) -> Result<Self, ClientError> {
        let named = locator.address.clone().or_else(|| env::var("MUSTER_SERVER").ok());
        let usual = if Path::new(AUTHORITY_PATH).exists() { ADDRESS_SECURED } else { ADDRESS_DEFAULT };
        let address: Address = named.as_deref().unwrap_or(usual).parse()?;
        let credential = match &address {
            Address::Unix(_) => Credential(None),
            Address::Https(_) if locator.certificate().is_some() => Credential(None),
            Address::Http(_) | Address::Https(_) => find_credential(locator)?,
        };
        let tls = match &address {
            Address::Unix(_) | Address::Http(_) => None,
            Address::Https(_) => Some(believed(locator)?),
        };
        let reading = Reading::default();
        Ok(Self { channel: channel(&address, tls)?, address: address.to_string(), credential, reading })
    }

    /// The same connection, for reads that must be so fresh. A change is refused with `Local`.
    pub fn reading(&self, consistency: Consistency) -> Self {
        Self { reading: Reading::new(consistency), ..self.clone() }
    }

    /// How fresh the last answer was of those that [`Self::call`] got, where that was asked for.
    pub fn freshness(&self) -> Option<Freshness> {
        self.reading.told()
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The operator API.
    pub fn operator(&self) -> OperatorClient {
        let head = Head { credential: self.credential.clone(), reading: self.reading.clone() };
        RawOperator::with_interceptor(self.channel.clone(), head).max_decoding_message_size(MESSAGE_BYTES_MAX)
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
                Ok(Ok(answer)) => {
                    self.reading.hear(answer.metadata());
                    Ok(answer.into_inner())
                }
                Ok(Err(status)) => Err(self.error(&status)),
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

/// Believes the authority whose certificate lies where the locator says, or at the usual place.
fn believed(locator: &Locator) -> Result<Arc<ClientConfig>, ClientError> {
    let named = locator.authority_file.clone().or_else(|| env::var_os("MUSTER_CA_FILE").map(PathBuf::from));
    let path = named.unwrap_or_else(|| AUTHORITY_PATH.into());
    let failed = |why: String| ClientError::Authority { path: path.clone(), why };
    let authority = identity::read_authority(&path).map_err(|error| failed(error.to_string()))?;
    match locator.certificate() {
        None => identity::trusting(authority).map_err(|error| failed(error.to_string())),
        Some(path) => {
            let failed = |why: String| ClientError::Certificate { path: path.clone(), why };
            let credential = identity::read_credential(&path).map_err(|error| failed(chain(&error)))?;
            let tls = Tls::new(authority, &credential).map_err(|error| failed(chain(&error)))?;
            Ok(tls.client())
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

fn channel(address: &Address, tls: Option<Arc<ClientConfig>>) -> Result<Channel, ClientError> {
    let url = match address {
        // Whether TLS is spoken is the connector's business, below this.
        Address::Http(urls) | Address::Https(urls) => {
            urls.first().map(|url| url.to_string().replacen("https://", "http://", 1)).unwrap_or_default()
        }
        // The name is only shown to the server; the connector below ignores it.
        Address::Unix(_) => "http://localhost".to_owned(),
    };
    let endpoint = Endpoint::from_shared(url)
        .map_err(|_| ClientError::Address { address: address.to_string() })?
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(match address {
        Address::Http(urls) | Address::Https(urls) => {
            let urls = Arc::new(urls.clone());
            let next = Arc::new(AtomicUsize::new(0));
            let connector = Connector::new(tls, CONNECT_TIMEOUT);
            endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
                let (urls, next, connector) = (urls.clone(), next.clone(), connector.clone());
                async move { connect_to_any(&urls, &next, &connector).await }
            }))
        }
        Address::Unix(path) => {
            let path = path.clone();
            endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            }))
        }
    })
}

/// Connects to a coordinator: the one after the last that was tried, or else the next that accepts. So a
/// connection that has just broken is not tried first again.
async fn connect_to_any(urls: &[Uri], next: &AtomicUsize, connector: &Connector) -> io::Result<Stream> {
    let mut failure = io::Error::from(io::ErrorKind::NotConnected);
    for _attempt in 0..urls.len() {
        let place = next.fetch_add(1, Ordering::Relaxed) % urls.len();
        let Some(authority) = urls.get(place).and_then(Uri::authority) else { continue };
        match connector.dial(authority.as_str()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_or_a_socket() {
        let parse = |text: &str| text.parse::<Address>().map(|address| address.to_string()).ok();
        assert_eq!(parse("127.0.0.1:5050").as_deref(), Some("http://127.0.0.1:5050"));
        assert_eq!(parse("http://[::1]:5050").as_deref(), Some("http://[::1]:5050"));
        assert_eq!(parse("https://10.0.0.1:5050").as_deref(), Some("https://10.0.0.1:5050"));
        assert_eq!(parse("unix:/run/muster/api.sock").as_deref(), Some("unix:/run/muster/api.sock"));
        assert_eq!(parse("a:1, http://b:2").as_deref(), Some("http://a:1,http://b:2"));
        for bad in
            ["", "a:1,", "unix:", "https://x", "https://x:1,http://y:1", "http://x", "ftp://x:1", "a b:1"]
        {
            assert_eq!(parse(bad), None, "{bad:?} was taken");
        }
    }
}
