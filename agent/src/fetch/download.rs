//! http and https: one file, in as many attempts as it takes and as its server deserves.
//!
//! A connection that breaks is taken up where it broke, if the server can do that and says that the file is still
//! the same. Redirects are followed, a few, and never out of encryption. No proxy is used and no variable of the
//! environment is looked at but those that name trusted certificates. Runs in the fetching process alone.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    failure::{Failure, Kind},
    limits,
    url::HttpUrl,
};

/// How patient to be.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub connect: Duration,
    pub silence: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: limits::CONNECT_PATIENCE,
            silence: limits::SILENCE_MAX,
            retry_min: limits::RETRY_DELAY_MIN,
            retry_max: limits::RETRY_DELAY_MAX,
        }
    }
}

/// What is wanted.
#[derive(Debug)]
pub struct Wish<'a> {
    pub url: &'a HttpUrl,
    pub bytes_max: u64,
    pub sha256: Option<[u8; 32]>,
    pub patience: Patience,
}

/// What one attempt led to that brought no end.
enum Broken {
    /// May go better the next time.
    Again(Failure),
    Never(Failure),
}

/// What is there so far.
struct Partial<'a> {
    file: &'a mut File,
    hasher: Sha256,
    bytes: u64,
    /// What the server calls this version of the file (ETag), where it is a strong one.
    version: Option<String>,
    was_resumed: bool,
}

/// Downloads into an empty file, and answers how much it was. A digest is checked.
pub async fn download(wish: &Wish<'_>, file: &mut File) -> Result<u64, Failure> {
    let mut partial = Partial { file, hasher: Sha256::new(), bytes: 0, version: None, was_resumed: false };
    let delays = ExponentialBuilder::default()
        .with_min_delay(wish.patience.retry_min)
        .with_max_delay(wish.patience.retry_max)
        .with_max_times(limits::IDLE_ATTEMPTS_MAX)
        .with_jitter();
    let mut left = delays.build();
    let mut last = Failure::new(Kind::Broken, "nothing was tried");
    for _ in 0..limits::ATTEMPTS_MAX {
        let before = partial.bytes;
        last = match attempt(wish, &mut partial).await {
            Ok(()) => match judge(wish, &mut partial)? {
                true => return Ok(partial.bytes),
                // It may have been put together of two.
                false => continue,
            },
            Err(Broken::Never(failure)) => return Err(failure),
            Err(Broken::Again(failure)) => failure,
        };
        // A few bytes are no progress, or a server could hold its place for ever.
        if partial.bytes >= before.saturating_add(limits::BYTES_PER_SILENCE_MIN) {
            left = delays.build();
        }
        let Some(delay) = left.next() else { break };
        tokio::time::sleep(delay).await;
    }
    Err(last)
}

/// Whether it is what it should be; one that was resumed gets a second chance.
fn judge(wish: &Wish<'_>, partial: &mut Partial<'_>) -> Result<bool, Failure> {
    let Some(wanted) = wish.sha256 else { return Ok(true) };
    let found: [u8; 32] = partial.hasher.clone().finalize().into();
    if found == wanted {
        return Ok(true);
    }
    if partial.was_resumed {
        partial.begin_anew()?;
        return Ok(false);
    }
    let hex = |digest: [u8; 32]| model::Sha256(digest).to_string();
    let what = format!("its sha256 is {}, not {}", hex(found), hex(wanted));
    Err(Failure::new(Kind::Digest, what))
}

impl Partial<'_> {
    fn begin_anew(&mut self) -> Result<(), Failure> {
        let failed = |error| Failure::disk("write the file", &error);
        self.file.set_len(0).map_err(failed)?;
        self.file.rewind().map_err(failed)?;
        self.hasher = Sha256::new();
        self.bytes = 0;
        self.version = None;
        self.was_resumed = false;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| Failure::disk("write the file", &error))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// One request, and the redirects that it leads to.
async fn attempt(wish: &Wish<'_>, partial: &mut Partial<'_>) -> Result<(), Broken> {
    // Without a name for the version, what follows might be of another one; then only a digest would tell.
    let can_resume = partial.bytes > 0 && (partial.version.is_some() || wish.sha256.is_some());
    if partial.bytes > 0 && !can_resume {
        partial.begin_anew().map_err(Broken::Never)?;
    }
    let mut url = wish.url.clone();
    for _ in 0..=limits::REDIRECTS_MAX {
        let response = ask(&url, wish, partial).await?;
        let status = response.status();
        match status {
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                let location = text(response.headers(), header::LOCATION).unwrap_or_default();
                if location.is_empty() {
                    let what = format!("the server answered {status} without saying where it is");
                    return Err(Broken::Never(Failure::new(Kind::Redirect, what)));
                }
                url = url.redirected(location).map_err(Broken::Never)?;
            }
            StatusCode::OK => {
                if partial.bytes > 0 {
                    partial.begin_anew().map_err(Broken::Never)?;
                }
                partial.version = text(response.headers(), header::ETAG)
                    .filter(|etag| etag.starts_with('"'))
                    .map(str::to_owned);
                return take(response, wish, partial).await;
            }
            StatusCode::PARTIAL_CONTENT if partial.bytes > 0 => {
                let range = text(response.headers(), header::CONTENT_RANGE).unwrap_or_default();
                let begin = format!("bytes {}-", partial.bytes);
                if !range.starts_with(&begin) {
                    partial.begin_anew().map_err(Broken::Never)?;
                    let what = "the server answered with another part of the file than was asked for";
                    return Err(Broken::Again(Failure::new(Kind::Broken, what)));
                }
                partial.was_resumed = true;
                return take(response, wish, partial).await;
            }
            StatusCode::RANGE_NOT_SATISFIABLE if partial.bytes > 0 => {
                partial.begin_anew().map_err(Broken::Never)?;
                let what = "the server's file has changed meanwhile";
                return Err(Broken::Again(Failure::new(Kind::Broken, what)));
            }
            _ => {
                let failure = Failure::new(Kind::Status, format!("the server answered {status}"));
                let may_pass = status.is_server_error()
                    || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
                return Err(if may_pass { Broken::Again(failure) } else { Broken::Never(failure) });
            }
        }
    }
    let what = format!("it is redirected more than {} times", limits::REDIRECTS_MAX);
    Err(Broken::Never(Failure::new(Kind::Redirect, what)))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Connects, asks, and waits for the head of the answer.
async fn ask(url: &HttpUrl, wish: &Wish<'_>, partial: &Partial<'_>) -> Result<Response<Incoming>, Broken> {
    let mut request = Request::get(&url.path_and_query)
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        // What is counted and hashed is the file itself.
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close");
    if let Some(authorization) = url.authorization() {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    if partial.bytes > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", partial.bytes));
        if let Some(version) = &partial.version {
            request = request.header(header::IF_RANGE, version);
        }
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| {
        Broken::Never(Failure::new(Kind::Refused, format!("the URL is not valid: {error}")))
    })?;
    let stream = connect(url, wish.patience.connect).await?;
    if !url.is_tls {
        return converse(stream, request, wish).await;
    }
    let connector = TlsConnector::from(tls().map_err(Broken::Never)?);
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| Broken::Never(Failure::new(Kind::Refused, "its host is no name of a server")))?;
    match timeout(wish.patience.connect, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => converse(stream, request, wish).await,
        Ok(Err(error)) => {
            let failure =
                Failure::new(Kind::Tls, format!("no encrypted connection to {}: {error}", url.host));
            // rustls' own verdict comes as InvalidData; the rest is the network's.
            Err(if error.kind() == std::io::ErrorKind::InvalidData {
                Broken::Never(failure)
            } else {
                Broken::Again(failure)
            })
        }
        Err(_) => Err(Broken::Again(Failure::new(Kind::Stalled, format!("{} is silent", url.host)))),
    }
}

async fn connect(url: &HttpUrl, patience: Duration) -> Result<TcpStream, Broken> {
    let unreachable = |what: String| Broken::Again(Failure::new(Kind::Unreachable, what));
    // The resolver has its own patience, and nothing else runs in this process meanwhile.
    let addresses: Vec<SocketAddr> = (url.host.as_str(), url.port)
        .to_socket_addrs()
        .map_err(|error| unreachable(format!("can't find the address of {}: {error}", url.host)))?
        .collect();
    let mut last = unreachable(format!("{} has no address", url.host));
    for address in addresses {
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = unreachable(format!("can't connect to {address}: {error}")),
            Err(_) => {
                let seconds = patience.as_secs();
                last = unreachable(format!("{address} did not accept a connection within {seconds} s"));
            }
        }
    }
    Err(last)
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
    wish: &Wish<'_>,
) -> Result<Response<Incoming>, Broken> {
    let broken = |error: hyper::Error| {
        Broken::Again(Failure::new(Kind::Broken, format!("the server broke off: {}", causes(&error))))
    };
    let asked = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the response, which is dropped before the runtime is.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(broken)
    };
    let silent = |_| Broken::Again(Failure::new(Kind::Stalled, "the server does not answer"));
    timeout(wish.patience.silence, asked).await.map_err(silent)?
}

fn tls() -> Result<Arc<ClientConfig>, Failure> {
    let failed = |what: String| Failure::new(Kind::Tls, what);
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(failed(
            "this host has no trusted certificates (Debian's package is ca-certificates)".to_owned(),
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(format!("can't use TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes the body, as long as it comes fast enough and doesn't become too much.
async fn take(
    response: Response<Incoming>,
    wish: &Wish<'_>,
    partial: &mut Partial<'_>,
) -> Result<(), Broken> {
    let promised = text(response.headers(), header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    let begin = partial.bytes;
    let too_large = || {
        let what =
            format!("it is larger than the {} MiB that the task may have", wish.bytes_max.div_ceil(1 << 20));
        Broken::Never(Failure::new(Kind::TooLarge, what))
    };
    if promised.is_some_and(|promised| begin.saturating_add(promised) > wish.bytes_max) {
        return Err(too_large());
    }
    let mut body = response.into_body();
    let mut looked_at = Instant::now();
    let mut since_look = 0_u64;
    loop {
        let frame = match timeout(wish.patience.silence, body.frame()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                let so_far = partial.bytes;
                let of = promised
                    .map_or(String::new(), |promised| format!(" of {}", begin.saturating_add(promised)));
                let what = format!("the server broke off after {so_far}{of} bytes: {}", causes(&error));
                return Err(Broken::Again(Failure::new(Kind::Broken, what)));
            }
            Err(_) => {
                let what = format!("the server fell silent after {} bytes", partial.bytes);
                return Err(Broken::Again(Failure::new(Kind::Stalled, what)));
            }
        };
        let Ok(bytes) = frame.into_data() else { continue };
        if partial.bytes.saturating_add(bytes.len() as u64) > wish.bytes_max {
            return Err(too_large());
        }
        partial.append(&bytes).map_err(Broken::Never)?;
        since_look += bytes.len() as u64;
        if looked_at.elapsed() >= wish.patience.silence {
            if since_look < limits::BYTES_PER_SILENCE_MIN {
                let what = format!(
                    "the server is too slow: {since_look} bytes in {} s",
                    looked_at.elapsed().as_secs()
                );
                return Err(Broken::Again(Failure::new(Kind::Stalled, what)));
            }
            (looked_at, since_look) = (Instant::now(), 0);
        }
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    crate::execute::chain(error)
}

/// The digest of what is in a file, from its beginning.
pub fn digest(file: &mut File) -> std::io::Result<[u8; 32]> {
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
    file.rewind()?;
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests;
