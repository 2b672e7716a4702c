//! The sockets: one port and one Unix socket, HTTP/1.1 and HTTP/2 on both; the port with TLS where that is set up.
//!
//! Bounds every connection: how many there are, how large their heads may be, how many requests
//! each may have open, and how long one may say nothing. Who may ask is `guard.rs`'s business.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use identity::{Shown, Tls, now};

use super::{Api, Peer};
use crate::auth;

/// Every agent and framework has one; a cluster of this size has 5 000 agents and as many people.
const CONNECTIONS_MAX: usize = 10_000;
/// Requests that one connection may have open, streams included.
const REQUESTS_PER_CONNECTION_MAX: u32 = 256;
/// All headers of one request together.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Headers of one HTTP/1.1 request.
const HEADERS_MAX: usize = 64;
/// HTTP/1.1 reads a head of this size and no more; hyper asks for at least 8 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// What a reader that doesn't read may make us hold, for each of its requests.
const SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// A connection must make a request within this time, and send each head within it.
const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// A connection on which nothing was heard for so long is asked whether it lives …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// … and must answer within this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open requests may go on after the coordinator was told to stop: a part of its own limit, so
/// that one reader that doesn't read can't keep the log from being closed in order.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(3);
/// When the process has no file descriptor left, some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("can't listen on {address}")]
    Port {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("can't make the socket {}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the socket path {} has {} bytes, and the kernel takes at most 107", path.display(), path.as_os_str().len())]
    SocketPath { path: PathBuf },
}

impl BindError {
    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::Port { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                format!(
                    "stop what listens there (`ss -ltnp 'sport = :{}'`) or choose another `--listen`",
                    address.port()
                )
            }
            Self::Port { .. } => "choose another `--listen`".to_owned(),
            Self::Socket { .. } => {
                "check the directory and who owns it, or choose another `--socket`".to_owned()
            }
            Self::SocketPath { .. } => "choose a shorter path with `--socket`".to_owned(),
        }
    }
}

/// Both sockets, bound.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    unix: UnixListener,
    socket: SocketFile,
    /// Who besides root may use the socket.
    owner: u32,
}

/// Removes the socket when it is not used any more.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // What remains is replaced at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

impl Listeners {
    /// Binds the port. Nothing is accepted before [`Listeners::serve`].
    pub async fn bind_port(address: SocketAddr) -> Result<TcpListener, BindError> {
        TcpListener::bind(address).await.map_err(|source| BindError::Port { address, source })
    }

    /// Makes the socket anew: only its owner can open it, from its first moment on.
    ///
    /// Must not be called while another process uses the same path; the data directory's lock sees to that.
    pub fn with_socket(tcp: TcpListener, path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Socket { path: path.to_owned(), source };
        // sun_path has 108 bytes with its NUL: unix(7).
        if path.as_os_str().len() > 107 {
            return Err(BindError::SocketPath { path: path.to_owned() });
        }
        match fs::symlink_metadata(path) {
            Ok(old) if old.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
            Ok(_) => {
                return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "something else is there")));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let unix = UnixListener::bind(path).map_err(failed)?;
        let socket = SocketFile(path.to_owned());
        // Between bind and this, whoever comes is refused by the credential check in `serve`.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let owner = auth::owner_of(path).map_err(failed)?;
        Ok(Self { tcp, unix, socket, owner })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until told to stop, then lets open requests end.
    pub async fn serve(self, api: Api) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tls = api.context.security.as_ref().map(|security| security.tls().clone());
        let stop = api.context.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, from)) => {
                        // Without this, small messages wait for acknowledgements of earlier ones.
                        let is_ready = stream.set_nodelay(true);
                        let Some(permit) = permit(&api, &connections).filter(|_| is_ready.is_ok()) else {
                            continue;
                        };
                        let api = api.clone();
                        match tls.clone() {
                            Some(tls) => {
                                let secured = secure(api.clone(), tls, stream, from, permit);
                                api.context.tasks.spawn(secured);
                            }
                            None => {
                                let from = Origin { peer: Peer::Loopback, address: from.to_string() };
                                let arrived = Arrived { from, until: None };
                                api.context.tasks.spawn(serve_connection(api.clone(), arrived, stream, permit));
                            }
                        }
                    }
                    Err(error) => pause(&error).await,
                },
                accepted = self.unix.accept() => match accepted {
                    Ok((stream, _)) => {
                        let user = stream.peer_cred().map(|peer| peer.uid());
                        if let Ok(user) = user
                            && (user == 0 || user == self.owner)
                        {
                            let Some(permit) = permit(&api, &connections) else { continue };
                            let from = Origin { peer: Peer::Socket, address: format!("socket, user id {user}") };
                            let arrived = Arrived { from, until: None };
                            api.context.tasks.spawn(serve_connection(api.clone(), arrived, stream, permit));
                        }
                    }
                    Err(error) => pause(&error).await,
                },
            }
        }
        drop((self.tcp, self.unix, self.socket));
        api.context.tasks.close();
        api.context.tasks.wait().await;
    }
}

/// The right to one more connection.
fn permit(api: &Api, connections: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let permit = connections.clone().try_acquire_owned().ok();
    if permit.is_none() {
        api.context.metrics.connections_refused.inc();
    }
    permit
}

/// Where a connection is from.
#[derive(Debug)]
pub(super) struct Origin {
    pub peer: Peer,
    /// For the audit log: host:port, or who used the socket.
    pub address: String,
}

/// How a connection came, and how long it may last.
struct Arrived {
    from: Origin,
    /// The end of the caller's certificate: who can't renew it is out then.
    until: Option<tokio::time::Instant>,
}

/// The first byte of a TLS connection: a record of the handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// The handshake, and then everything as ever. Plain text is heard, to be told that it isn't spoken here.
async fn secure(api: Api, tls: Tls, stream: TcpStream, from: SocketAddr, permit: OwnedSemaphorePermit) {
    let first = async {
        let mut first = [0];
        let read = stream.peek(&mut first).await?;
        Ok::<_, io::Error>(first.first().copied().filter(|_| read > 0))
    };
    let first = match tokio::time::timeout(HEAD_TIME_MAX, first).await {
        Ok(Ok(Some(first))) => first,
        // It said nothing.
        Ok(Ok(None) | Err(_)) | Err(_) => return,
    };
    if first != TLS_HANDSHAKE {
        let from = Origin { peer: Peer::Plain, address: from.to_string() };
        let arrived = Arrived { from, until: None };
        return serve_connection(api, arrived, stream, permit).await;
    }
    let (stream, shown) = match tokio::time::timeout(HEAD_TIME_MAX, tls.accept(stream)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "a TLS handshake failed");
            return;
        }
        Err(_elapsed) => return,
    };
    let until = match &shown {
        Shown::Valid { identity: _, not_after, made: _ } => {
            let left = u64::try_from(not_after.saturating_sub(now())).unwrap_or_default();
            // Further off than anything lasts, it is no end.
            tokio::time::Instant::now().checked_add(Duration::from_secs(left))
        }
        Shown::Nothing | Shown::Expired { .. } | Shown::Refused(_) => None,
    };
    let peer = Peer::Tls { shown, is_loopback: from.ip().is_loopback() };
    let arrived = Arrived { from: Origin { peer, address: from.to_string() }, until };
    serve_connection(api, arrived, stream, permit).await;
}

async fn pause(error: &io::Error) {
    tracing::warn!(error = %error, "can't accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn serve_connection<S>(api: Api, arrived: Arrived, stream: S, permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Arrived { from, until } = arrived;
    let from = Arc::new(from);
    let metrics = api.context.metrics.clone();
    let stop = api.context.stop.clone();
    metrics.connections_open.inc();
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = has_asked.clone();
    let service = service_fn(move |request| {
        asked.store(true, Ordering::Relaxed);
        let (api, from) = (api.clone(), from.clone());
        async move { Ok::<_, Infallible>(api.answer(&from, request).await) }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut is_stopping = false;
    let mut drained_at = tokio::time::Instant::now();
    let first_request = tokio::time::sleep(HEAD_TIME_MAX);
    tokio::pin!(first_request);
    let mut is_watched = true;
    let overdue = async {
        match until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(overdue);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    // A peer that speaks no HTTP, or went away: its business.
                    tracing::debug!(error = %error, "a connection ended early");
                }
                break;
            }
            () = first_request.as_mut(), if is_watched => {
                if !has_asked.load(Ordering::Relaxed) {
                    break;
                }
                is_watched = false;
            }
            () = tokio::time::sleep_until(drained_at), if is_stopping => break,
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                drained_at = tokio::time::Instant::now() + DRAIN_TIME_MAX;
                connection.as_mut().graceful_shutdown();
            }
            () = overdue.as_mut(), if !is_stopping => {
                tracing::debug!("a connection ends with the certificate of its caller");
                is_stopping = true;
                drained_at = tokio::time::Instant::now() + DRAIN_TIME_MAX;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    metrics.connections_open.dec();
    drop(permit);
}

/// Every option that we rely on, written out.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .keep_alive(true)
        .half_close(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(REQUESTS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_frame_size(16 * 1024)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}
