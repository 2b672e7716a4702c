//! One question to one task: over a connection inside its network, or by a command inside its namespaces.
//!
//! Certificates are not checked: the question is whether the task answers, and the agent asks over loopback,
//! where no name fits. Answers are read up to a bound and not kept.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use model::{Exit, HealthCheck, Probe};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use supervisor::Row;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest},
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    execute::{EnterError, EnterWish, Entered, Executor, Streams},
    sys::{ByteStream, network},
};

/// A first line that is longer is no answer.
const STATUS_LINE_BYTES_MAX: usize = 1024;
/// So much of an answer is read, so that the task sees its end; whoever has more to say is cut off.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// For so long at most.
const BODY_PATIENCE: Duration = Duration::from_millis(200);
/// The last words of a command that are kept for people.
const WORDS_BYTES_MAX: usize = 256;

/// Why a task is not well, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("no answer within {} ms", within.as_millis())]
    TimedOut { within: Duration },
    #[error("can't make a socket in the task's network")]
    Socket(#[source] io::Error),
    #[error("can't connect to {address}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("can't agree on TLS")]
    Tls(#[source] io::Error),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("the answer is no HTTP")]
    NotHttp,
    #[error("HTTP status {status}")]
    Status { status: u16 },
    #[error("can't speak gRPC")]
    Grpc(#[source] tonic::transport::Error),
    #[error("gRPC status {code}: {message}")]
    GrpcStatus { code: String, message: String },
    #[error("it says {says}")]
    NotServing { says: &'static str },
    #[error("can't run the command in the task")]
    Enter(#[source] EnterError),
    #[error("the command {how}{words}")]
    Command { how: String, words: String },
    #[error("a part of the agent panicked")]
    Panicked(#[source] tokio::task::JoinError),
    #[error("the spec names no port")]
    NoPort,
    #[error("the check was ended")]
    Stopped,
}

/// Asks.
pub struct Prober {
    executor: Arc<Executor>,
    tls: Option<TlsConnector>,
}

impl Prober {
    pub fn new(executor: Arc<Executor>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map(|builder| {
                let verifier = Arc::new(AnyCertificate { provider });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            })
            .inspect_err(|error| tracing::error!(%error, "no health check over https will succeed"));
        Self { executor, tls: config.ok().map(|config| TlsConnector::from(Arc::new(config))) }
    }

    /// One question; any error but `Stopped` is a failure of the task.
    pub async fn ask(
        &self,
        row: &Row,
        check: &HealthCheck,
        stop: &CancellationToken,
    ) -> Result<(), ProbeError> {
        let deadline = Instant::now() + check.timeout;
        let late = || ProbeError::TimedOut { within: check.timeout };
        let first = || row.spec.resources.ports.ranges().first().map(|range| range.first());
        let port = |port: &Option<u16>| port.or_else(first).ok_or(ProbeError::NoPort);
        let asked = async {
            match &check.probe {
                Probe::Tcp { port: number } => self.connect(row, port(number)?).await.map(drop),
                Probe::Http { port: number, path, is_tls } => {
                    let number = port(number)?;
                    let stream = self.connect(row, number).await?;
                    match (is_tls, &self.tls) {
                        (false, _) => get(stream, number, path).await,
                        (true, Some(tls)) => {
                            let name = ServerName::try_from("localhost").map_err(|_| ProbeError::NotHttp)?;
                            get(tls.connect(name, stream).await.map_err(ProbeError::Tls)?, number, path).await
                        }
                        (true, None) => Err(ProbeError::Tls(io::ErrorKind::Unsupported.into())),
                    }
                }
                Probe::Grpc { port: number, service } => {
                    serves(self.connect(row, port(number)?).await?, service).await
                }
                Probe::Command { command } => self.command(row, command, deadline, stop).await,
            }
        };
        match check.probe {
            // It keeps to the deadline by itself, because it has something to clean up.
            Probe::Command { .. } => match asked.await {
                Err(ProbeError::TimedOut { .. }) => Err(late()),
                other => other,
            },
            _ => timeout_at(deadline, asked).await.unwrap_or_else(|_elapsed| Err(late())),
        }
    }

    /// To the task's loopback, where every server listens that doesn't name an address; by the older protocol first.
    async fn connect(&self, row: &Row, port: u16) -> Result<TcpStream, ProbeError> {
        let older = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let newer = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
        match self.connect_to(row, older).await {
            Err(ProbeError::Connect { address, source })
                if source.kind() == io::ErrorKind::ConnectionRefused =>
            {
                self.connect_to(row, newer).await.map_err(|_| ProbeError::Connect { address, source })
            }
            other => other,
        }
    }

    async fn connect_to(&self, row: &Row, address: SocketAddr) -> Result<TcpStream, ProbeError> {
        let socket = match row.spec.has_private_network {
            false => network::tcp_socket(None, address.ip()),
            true => {
                let process = self.executor.process(&row.task_id).ok_or(ProbeError::Stopped)?;
                spawn_blocking(move || network::tcp_socket(Some(&process), address.ip()))
                    .await
                    .map_err(ProbeError::Panicked)?
            }
        };
        let socket = socket.map_err(ProbeError::Socket)?;
        socket.connect(address).await.map_err(|source| ProbeError::Connect { address, source })
    }

    async fn command(
        &self,
        row: &Row,
        command: &[String],
        deadline: Instant,
        stop: &CancellationToken,
    ) -> Result<(), ProbeError> {
        let wish = EnterWish {
            argv: command.iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            terminal: None,
            has_input: false,
        };
        let late = || ProbeError::TimedOut { within: Duration::ZERO };
        let (executor, task) = (self.executor.clone(), row.clone());
        let entering = spawn_blocking(move || executor.enter(&task, wish));
        // When it enters after that, it is dropped by the thread that let it in, and so ended.
        let entered = timeout_at(deadline, entering).await.map_err(|_elapsed| late())?;
        let Entered { session, streams } =
            entered.map_err(ProbeError::Panicked)?.map_err(|error| match error {
                EnterError::NotRunning => ProbeError::Stopped,
                error => ProbeError::Enter(error),
            })?;
        let Streams::Pipes { stdin: _, stdout, stderr } = streams else { return Err(ProbeError::Stopped) };
        let open = |fd| ByteStream::new(fd, Interest::READABLE).map_err(ProbeError::Broken);
        let (stdout, stderr) = (open(stdout)?, open(stderr)?);
        let mut words = Vec::new();
        let is_over = {
            let listening = listen(&stdout, &stderr, &mut words);
            tokio::select! {
                () = session.ended() => Ok(()),
                () = listening => Ok(()), // Never.
                () = sleep_until(deadline) => Err(late()),
                () = stop.cancelled() => Err(ProbeError::Stopped),
            }
        };
        if is_over.is_ok() {
            // What it said last may still be in the pipes.
            let _ = timeout(Duration::from_millis(1), listen(&stdout, &stderr, &mut words)).await;
        }
        let exit = session.close(Duration::ZERO).await;
        is_over?;
        let how = match exit {
            Some(Exit::Code(0)) => return Ok(()),
            Some(Exit::Code(code)) => format!("ended with code {code}"),
            Some(Exit::Signal(signal)) => format!("was ended by signal {signal}"),
            None => "ended, and nobody knows how".to_owned(),
        };
        Err(ProbeError::Command { how, words: last_line(&words) })
    }
}

/// Keeps the last of what a command says. Goes on for ever: a command may close its streams and work on.
async fn listen(stdout: &ByteStream, stderr: &ByteStream, words: &mut Vec<u8>) {
    let (mut of_stdout, mut of_stderr) = ([0; 1024], [0; 1024]);
    let (mut is_stdout_open, mut is_stderr_open) = (true, true);
    loop {
        let said = tokio::select! {
            count = stdout.read(&mut of_stdout), if is_stdout_open => {
                let count = count.unwrap_or(0);
                is_stdout_open = count > 0;
                of_stdout.get(..count)
            }
            count = stderr.read(&mut of_stderr), if is_stderr_open => {
                let count = count.unwrap_or(0);
                is_stderr_open = count > 0;
                of_stderr.get(..count)
            }
            else => std::future::pending().await,
        };
        words.extend_from_slice(said.unwrap_or_default());
        let surplus = words.len().saturating_sub(WORDS_BYTES_MAX);
        words.drain(..surplus);
    }
}

pub(crate) fn last_line(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map(|line| format!(": {}", line.chars().filter(|c| !c.is_control()).collect::<String>()))
        .unwrap_or_default()
}

async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    port: u16,
    path: &str,
) -> Result<(), ProbeError> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: muster-agent/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    stream.write_all(request.as_bytes()).await.map_err(ProbeError::Broken)?;
    let mut line = Vec::new();
    let mut buffer = [0; 512];
    let status = loop {
        let count = stream.read(&mut buffer).await.map_err(ProbeError::Broken)?;
        line.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            break status(line.get(..end).unwrap_or_default()).ok_or(ProbeError::NotHttp)?;
        }
        if count == 0 || line.len() > STATUS_LINE_BYTES_MAX {
            return Err(ProbeError::NotHttp);
        }
    };
    // Who is cut off in the middle may complain; what follows the first line says nothing to us.
    let mut rest = stream.take(BODY_BYTES_MAX);
    let _ = timeout(BODY_PATIENCE, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    if (200..400).contains(&status) { Ok(()) } else { Err(ProbeError::Status { status }) }
}

/// Of a line like `HTTP/1.1 200 OK`.
pub(crate) fn status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.strip_prefix("HTTP/")?.split_ascii_whitespace();
    let _version = words.next()?;
    let status = words.next()?.parse().ok()?;
    (100..600).contains(&status).then_some(status)
}

async fn serves(stream: TcpStream, service: &str) -> Result<(), ProbeError> {
    let mut stream = Some(TokioIo::new(stream));
    let connect = move |_| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    };
    let endpoint = Endpoint::from_static("http://localhost");
    let channel =
        endpoint.connect_with_connector(tower::service_fn(connect)).await.map_err(ProbeError::Grpc)?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|status| {
        ProbeError::GrpcStatus { code: format!("{:?}", status.code()), message: status.message().to_owned() }
    })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(ProbeError::NotServing { says: other.as_str_name() }),
    }
}

/// Takes every certificate.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
