//! What the agent proves itself with where coordinators speak TLS: got with a join token, kept, and kept fresh.
//!
//! The first connection of all joins; every later one shows the certificate. A new certificate counts from the next
//! connection on. Start at [`Passport::client`] for what a connection needs, at [`Passport::keep_fresh`] for what
//! goes on beside.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use identity::{
    AuthorityError, CertificateError, Connector, Folder, FolderError, JoinToken, Request, Tls, TlsError,
    TokenTextError, fingerprint, now, pinned,
};
use proto::join::v1::{JoinRequest, RenewRequest, join_request::Who, joining_client::JoiningClient};
use rand::RngExt as _;
use rustls::ClientConfig;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::execute::chain;

/// How long one coordinator may take for the connection and the handshake.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer may take: it is an entry of the log.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// The clock is looked at so often: a host may sleep, and clocks may be set.
const LOOK: Duration = Duration::from_secs(10);
/// First and longest pause after a renewal that failed.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why there is nothing to prove oneself with.
#[derive(Debug, thiserror::Error)]
pub enum PassportError {
    #[error("this agent has no certificate yet, and `join-token-file` is not set")]
    NoTokenFile,
    #[error("can't read the join token in {}", path.display())]
    ReadToken { path: PathBuf, source: io::Error },
    #[error("can't use the join token in {}", path.display())]
    Token { path: PathBuf, source: TokenTextError },
    #[error("can't keep certificates")]
    Folder(#[source] FolderError),
    #[error("can't make a request for a certificate")]
    Request(#[source] AuthorityError),
    #[error("can't set up TLS")]
    Tls(#[source] TlsError),
    #[error("can't read this agent's certificate")]
    Certificate(#[source] CertificateError),
    #[error("the certificate in {} is that of {found}, and this is agent/{wanted}", path.display())]
    Other { path: PathBuf, found: String, wanted: String },
    #[error("no coordinator answers: {why}")]
    Unanswered { why: String },
    #[error("{message}")]
    Refused { code: String, message: String },
    #[error("the coordinator's answer makes no sense")]
    Absurd,
}

impl PassportError {
    /// The code and the sentence where trying again can't help.
    pub fn verdict(&self) -> Option<(String, String)> {
        let no_certificate = || {
            let next = "make a token with `muster token create agent`, and name the file that holds it with \
                        `--join-token-file`";
            Some(("join-token-refused".to_owned(), format!("{}; {next}", chain(self))))
        };
        match self {
            Self::NoTokenFile | Self::ReadToken { .. } | Self::Token { .. } => no_certificate(),
            Self::Other { .. } => Some((
                "certificate-refused".to_owned(),
                format!("{self}; remove that folder, and join with a token",),
            )),
            Self::Refused { code, message } => Some((code.clone(), message.clone())),
            Self::Folder(_)
            | Self::Request(_)
            | Self::Tls(_)
            | Self::Certificate(_)
            | Self::Unanswered { .. }
            | Self::Absurd => None,
        }
    }
}

/// The agent's certificate, and how to get it.
#[derive(Debug)]
pub struct Passport {
    agent_id: String,
    folder: Folder,
    join_token_file: Option<PathBuf>,
    /// For calls to any coordinator, without TLS: that is the connector's.
    endpoints: Vec<Endpoint>,
    current: Mutex<Option<Tls>>,
}

impl Passport {
    pub fn new(
        agent_id: &str,
        data_dir: &Path,
        join_token_file: Option<PathBuf>,
        endpoints: Vec<Endpoint>,
    ) -> Self {
        Self {
            agent_id: agent_id.to_owned(),
            folder: Folder::of(data_dir),
            join_token_file,
            endpoints,
            current: Mutex::new(None),
        }
    }

    /// What a connection shows; joins the cluster first where that was never done.
    pub async fn client(&self) -> Result<Arc<ClientConfig>, PassportError> {
        // Held while it joins: one agent joins once.
        let mut current = self.current.lock().await;
        if let Some(tls) = &*current {
            return Ok(tls.client());
        }
        let tls = self.obtain().await?;
        let client = tls.client();
        *current = Some(tls);
        Ok(client)
    }

    /// What is kept, unless a new token is there.
    async fn obtain(&self) -> Result<Tls, PassportError> {
        let kept = self.kept()?;
        match (kept, &self.join_token_file) {
            (Some(tls), None) => Ok(tls),
            (kept, Some(path)) => {
                let joined_with = self.folder.joined_with().map_err(PassportError::Folder)?;
                match (kept, self.token(path)) {
                    (Some(tls), Ok((token, _))) if joined_with.as_deref() == Some(&*token.id) => Ok(tls),
                    // A token that was used may be removed.
                    (Some(tls), Err(_)) => Ok(tls),
                    (_, token) => {
                        let (token, text) = token?;
                        self.join(&token, text).await
                    }
                }
            }
            (None, None) => Err(PassportError::NoTokenFile),
        }
    }

    fn kept(&self) -> Result<Option<Tls>, PassportError> {
        let trust = self.folder.trust().map_err(PassportError::Folder)?;
        let credential = self.folder.credential().map_err(PassportError::Folder)?;
        let (Some(trust), Some(credential)) = (trust, credential) else { return Ok(None) };
        let found = credential.facts().map_err(PassportError::Certificate)?.identity;
        if found != identity::Identity::Agent(self.agent_id.clone()) {
            return Err(PassportError::Other {
                path: self.folder.path().to_owned(),
                found: found.to_string(),
                wanted: self.agent_id.clone(),
            });
        }
        Tls::new(trust, &credential).map(Some).map_err(PassportError::Tls)
    }

    fn token(&self, path: &Path) -> Result<(JoinToken, String), PassportError> {
        let text = fs::read_to_string(path)
            .map_err(|source| PassportError::ReadToken { path: path.to_owned(), source })?;
        let token = text.parse().map_err(|source| PassportError::Token { path: path.to_owned(), source })?;
        Ok((token, text.trim().to_owned()))
    }

    async fn join(&self, token: &JoinToken, text: String) -> Result<Tls, PassportError> {
        let request = self.folder.request().map_err(PassportError::Folder)?;
        let wish = JoinRequest {
            token: text,
            request: request.to_der().map_err(PassportError::Request)?.into(),
            who: Some(Who::AgentId(self.agent_id.clone())),
        };
        let connector =
            Connector::new(Some(pinned(token.authority).map_err(PassportError::Tls)?), CONNECT_PATIENCE);
        let answer = self
            .ask(&connector, |mut client| {
                let wish = wish.clone();
                async move { client.join(wish).await.map(tonic::Response::into_inner) }
            })
            .await?;
        if fingerprint(&answer.authority) != token.authority {
            return Err(PassportError::Absurd);
        }
        let credential = request.answered(answer.certificate.to_vec());
        let tls = Tls::new(answer.authority.to_vec().into(), &credential).map_err(PassportError::Tls)?;
        let kept = self
            .folder
            .keep_trust(&answer.authority)
            .and_then(|()| self.folder.keep_credential(&credential))
            .and_then(|()| self.folder.keep_joined_with(&token.id));
        kept.map_err(PassportError::Folder)?;
        self.folder.request_answered();
        tracing::info!(token = token.id, "the cluster has let this agent in");
        Ok(tls)
    }

    /// Exchanges the certificate whenever two thirds of its life are over; at some moment of the next sixth, so
    /// that a thousand agents that came at once don't renew at once.
    pub async fn keep_fresh(&self) -> Infallible {
        loop {
            let spread = rand::rng().random_range(0.0..1.0 / 6.0);
            let mut pause = PAUSE_MIN;
            loop {
                let wait = self.due_in(spread).await;
                if !wait.is_zero() {
                    sleep(wait.min(LOOK)).await;
                    continue;
                }
                match self.renew().await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "can't renew this agent's certificate");
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
            tracing::info!("renewed this agent's certificate");
        }
    }

    /// How long the certificate is still good enough.
    async fn due_in(&self, spread: f64) -> Duration {
        let Some(facts) = self.current.lock().await.as_ref().map(Tls::facts) else { return PAUSE_MIN };
        let life = facts.life() as f64;
        let due = facts.not_after as f64 - life / 3.0 + life * spread;
        Duration::from_secs_f64((due - now() as f64).clamp(0.0, LOOK.as_secs_f64()))
    }

    async fn renew(&self) -> Result<(), PassportError> {
        let Some(tls) = self.current.lock().await.clone() else { return Ok(()) };
        let request = Request::make().map_err(PassportError::Request)?;
        let wish = RenewRequest { request: request.to_der().map_err(PassportError::Request)?.into() };
        let connector = Connector::new(Some(tls.client()), CONNECT_PATIENCE);
        let answer = self
            .ask(&connector, |mut client| {
                let wish = wish.clone();
                async move { client.renew(wish).await.map(tonic::Response::into_inner) }
            })
            .await?;
        let credential = request.answered(answer.certificate.to_vec());
        // First what can fail for a bad answer.
        tls.exchange(&credential).map_err(PassportError::Tls)?;
        self.folder.keep_credential(&credential).map_err(PassportError::Folder)
    }

    /// Asks one coordinator after the other, until one answers.
    async fn ask<T, F, Fut>(&self, connector: &Connector, call: F) -> Result<T, PassportError>
    where
        F: Fn(JoiningClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let mut failure = PassportError::Absurd;
        for endpoint in &self.endpoints {
            let attempt = async {
                let channel = endpoint.connect_with_connector(connector.clone()).await;
                let channel = channel.map_err(|error| PassportError::Unanswered { why: chain(&error) })?;
                call(JoiningClient::new(channel)).await.map_err(|status| refusal(&status))
            };
            failure = match timeout(ANSWER_PATIENCE, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(refused @ PassportError::Refused { .. })) => return Err(refused),
                Ok(Err(error)) => error,
                Err(_elapsed) => PassportError::Unanswered { why: "it took too long".to_owned() },
            };
        }
        Err(failure)
    }
}

/// What a status means: no for good, or no answer.
fn refusal(status: &Status) -> PassportError {
    let code = status.metadata().get("muster-code").and_then(|code| code.to_str().ok());
    let is_passing = matches!(
        status.code(),
        tonic::Code::Unavailable
            | tonic::Code::Aborted
            | tonic::Code::ResourceExhausted
            | tonic::Code::Internal
    );
    match code {
        // Members are just being upgraded, or the cluster has just begun.
        Some("cluster-version-too-old") | None => {
            PassportError::Unanswered { why: status.message().to_owned() }
        }
        Some(code) if !is_passing => {
            PassportError::Refused { code: code.to_owned(), message: status.message().to_owned() }
        }
        Some(_) => PassportError::Unanswered { why: status.message().to_owned() },
    }
}
