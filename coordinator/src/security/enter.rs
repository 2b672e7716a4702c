//! How a new member gets the cluster's trust: from another one, with a join token.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use identity::{
    Authority, AuthorityError, Connector, Folder, FolderError, JoinToken, TlsError, TokenTextError,
    fingerprint, pinned,
};
use proto::join::v1::{JoinRequest, join_request, joining_client::JoiningClient};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tonic::{Code, Request, transport::Endpoint};

use super::read_line;
use crate::{
    auth::{Token, TokenError},
    config::Config,
};

/// How long the other member may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long one answer may take: it is an entry of the log, and there may be an election before it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// How long another member may be away or without a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the cluster does not let this member in.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    #[error("can't read the join token {}", path.display())]
    ReadToken { path: PathBuf, source: io::Error },
    #[error("there is no join token in {}", path.display())]
    NoToken { path: PathBuf },
    #[error("can't use the join token in {}", path.display())]
    Token { path: PathBuf, source: TokenTextError },
    #[error("can't keep certificates")]
    Folder(#[source] FolderError),
    #[error("can't make a request for a certificate")]
    Request(#[source] AuthorityError),
    #[error("can't set up TLS")]
    Tls(#[source] TlsError),
    #[error("`{address}` is no address of a coordinator")]
    Address { address: String, source: tonic::transport::Error },
    #[error("{message}")]
    Refused { message: String },
    #[error("member at {address} gave no answer: {why}")]
    Unanswered { address: String, why: String },
    #[error("member at {address} gave an answer that makes no sense")]
    Absurd { address: String },
    #[error("can't keep the operators' token")]
    Keep(#[source] TokenError),
}

impl EnterError {
    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::ReadToken { .. } | Self::NoToken { .. } | Self::Token { .. } | Self::Refused { .. } => {
                "make a token with `muster token create member`, and write it into the file of `join-token-file`"
                    .to_owned()
            }
            Self::Folder(error) => error.next(),
            Self::Keep(error) => error.next(),
            Self::Unanswered { .. } | Self::Absurd { .. } | Self::Address { .. } => {
                "check that a coordinator of the cluster runs at the address of `--join`".to_owned()
            }
            Self::Request(_) | Self::Tls(_) => "see the cause".to_owned(),
        }
    }
}

/// Gets the cluster's authority and the operators' token, and keeps them.
///
/// Asks until there is an answer, or too long.
pub async fn enter(
    config: &Config,
    join: &str,
    token_file: &std::path::Path,
    address: SocketAddr,
) -> Result<(), EnterError> {
    let read = read_line(token_file)
        .map_err(|source| EnterError::ReadToken { path: token_file.to_owned(), source })?;
    let text = read
        .filter(|text| !text.is_empty())
        .ok_or_else(|| EnterError::NoToken { path: token_file.to_owned() })?;
    let token: JoinToken =
        text.parse().map_err(|source| EnterError::Token { path: token_file.to_owned(), source })?;
    let folder = Folder::of(&config.data_dir);
    let request = folder.request().map_err(EnterError::Folder)?;
    let wish = JoinRequest {
        token: text,
        request: request.to_der().map_err(EnterError::Request)?.into(),
        who: Some(join_request::Who::Member(join_request::Member {
            member_id: config.member_id,
            address: address.to_string(),
        })),
    };
    let absurd = || EnterError::Absurd { address: join.to_owned() };
    let answer = ask(join, &token, wish).await?;
    let trust = answer.trust.ok_or_else(absurd)?;
    let key = PrivatePkcs8KeyDer::from(trust.authority_key.to_vec());
    // The key is for the authority that the token names, whatever else the answer says.
    if fingerprint(&answer.authority) != token.authority {
        return Err(absurd());
    }
    let authority = Authority::read(answer.authority.to_vec().into(), &key).map_err(|_| absurd())?;
    Token::keep(&config.token_path(), &trust.operator_token).map_err(EnterError::Keep)?;
    // Last: with it, this member is in.
    folder.keep_authority(&authority).map_err(EnterError::Folder)?;
    folder.request_answered();
    Ok(())
}

async fn ask(
    join: &str,
    token: &JoinToken,
    wish: JoinRequest,
) -> Result<proto::join::v1::JoinResponse, EnterError> {
    let connector = Connector::new(Some(pinned(token.authority).map_err(EnterError::Tls)?), CONNECT_PATIENCE);
    let channel = Endpoint::from_shared(format!("http://{join}"))
        .map_err(|source| EnterError::Address { address: join.to_owned(), source })?
        .connect_with_connector_lazy(connector);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut client = JoiningClient::new(channel.clone());
        let mut request = Request::new(wish.clone());
        request.set_timeout(ANSWER_PATIENCE);
        let status = match client.join(request).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let is_passing = matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled | Code::Unknown
        );
        if !is_passing {
            return Err(EnterError::Refused { message: status.message().to_owned() });
        }
        let why = super::chain(&status);
        if tokio::time::Instant::now() >= deadline {
            return Err(EnterError::Unanswered { address: join.to_owned(), why });
        }
        tracing::warn!(address = join, why, "no certificate yet");
        tokio::time::sleep(PAUSE).await;
    }
}
