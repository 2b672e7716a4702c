//! Dials a coordinator, in plain text or with TLS, for every client that we use.
//!
//! A handshake that fails says what to do about it: its reader sees nothing else of the other side.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{CertificateError, ClientConfig, Error, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower::Service;

/// Makes connections; cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    tls: Option<Arc<ClientConfig>>,
    patience: Duration,
}

impl Connector {
    /// `patience` bounds the connection and the handshake together. Without `tls` it is plain text.
    pub fn new(tls: Option<Arc<ClientConfig>>, patience: Duration) -> Self {
        Self { tls, patience }
    }

    /// Dials host:port.
    pub async fn dial(&self, address: &str) -> io::Result<Stream> {
        match timeout(self.patience, self.try_dial(address)).await {
            Ok(dialled) => dialled,
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn try_dial(&self, address: &str) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        // Without this, small messages wait for acknowledgements of earlier ones.
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Stream(TokioIo::new(Box::new(stream)))) };
        // Sent to nobody: it is an address, and names are not what is checked.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        match TlsConnector::from(tls.clone()).connect(name, stream).await {
            Ok(stream) => Ok(Stream(TokioIo::new(Box::new(stream)))),
            Err(error) => Err(explained(error)),
        }
    }
}

/// What a failed handshake means for whoever wanted it.
fn explained(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let why = match cause {
        // All authorities have the same name, so the signature of another one is looked at, and is wrong.
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "what answers there is of another cluster; check the address, or join its cluster with a token of it"
                .to_owned()
        }
        Some(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => "the coordinator's certificate does not count at this time; set the clocks of both right, and look \
               whether the coordinator renews its certificate"
            .to_owned(),
        Some(Error::InvalidMessage(_)) => "what answers there speaks no TLS; use http:// on loopback, or set TLS up \
                                           there (`muster-coordinator init`)"
            .to_owned(),
        Some(Error::General(why)) => why.clone(),
        Some(other) => format!("the TLS handshake failed: {other}"),
        None => format!("the TLS handshake failed: {error}"),
    };
    io::Error::other(why)
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// A connection that was made.
pub struct Stream(TokioIo<Box<dyn Both>>);

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        // Nothing but HTTP/2 is spoken to coordinators.
        Connected::new().negotiated_h2()
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let address = uri.authority().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "the address names no host and port")
            })?;
            connector.dial(address.as_str()).await
        })
    }
}
