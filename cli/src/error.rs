//! What can go wrong between a client and the cluster.

use std::{io, path::PathBuf};

use tonic::{Code, Status};

/// Metadata key of the stable code of a refusal.
const CODE_KEY: &str = "muster-code";

/// A call that did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address can't be understood.
    #[error(
        "`{address}` is no address of a coordinator: use https://HOST:PORT, http://HOST:PORT or unix:PATH"
    )]
    Address { address: String },
    /// The credential can't be read.
    #[error("can't read the credential in {path}: {source}")]
    Credential { path: PathBuf, source: io::Error },
    /// The certificate of the cluster's authority can't be used.
    #[error("can't use {path} as the certificate of the cluster's authority: {why}")]
    Authority { path: PathBuf, why: String },
    /// A user's certificate can't be used.
    #[error("can't use {path} as a certificate with its key: {why}")]
    Certificate { path: PathBuf, why: String },
    /// No credential was named, and none lies at the usual places.
    #[error("no credential was found; looked at {}", shown(.looked_at))]
    NoCredential { looked_at: Vec<PathBuf> },
    /// The cluster can't be reached.
    #[error("no coordinator answers at {address}: {message}")]
    Unreachable { address: String, message: String },
    /// The cluster said no.
    #[error("{message}")]
    Refused { code: String, message: String, kind: ErrorKind },
    /// The answer makes no sense: client and cluster don't fit.
    #[error("the coordinator's answer lacks {what}; client and coordinator may be of different versions")]
    Incomplete { what: &'static str },
    /// Another instance of this framework subscribed.
    #[error("{reason}")]
    Replaced { reason: String },
}

/// What a refusal means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing isn't there.
    NotFound,
    /// It may work later.
    Retry,
    /// It was done already or can't be done as asked.
    Refused,
    /// The caller showed no valid credential.
    Unauthenticated,
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl ClientError {
    /// Reads a gRPC status that came from `address`.
    pub fn from_status(status: &Status, address: &str) -> Self {
        let code = status.metadata().get(CODE_KEY).and_then(|value| value.to_str().ok());
        let Some(code) = code else {
            // Without our code the status was made on the way: there was no answer.
            let is_of_transport = match status.code() {
                Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => true,
                // A connection that is cut in the middle of an answer.
                Code::Internal => std::error::Error::source(status).is_some(),
                _ => false,
            };
            if is_of_transport {
                return Self::Unreachable { address: address.to_owned(), message: transport_message(status) };
            }
            let kind = match status.code() {
                Code::NotFound => ErrorKind::NotFound,
                Code::Unauthenticated | Code::PermissionDenied => ErrorKind::Unauthenticated,
                _ => ErrorKind::Refused,
            };
            let code = format!("{:?}", status.code()).to_lowercase();
            return Self::Refused { code, message: status.message().to_owned(), kind };
        };
        let kind = match status.code() {
            Code::NotFound => ErrorKind::NotFound,
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted => ErrorKind::Retry,
            Code::Unauthenticated | Code::PermissionDenied => ErrorKind::Unauthenticated,
            _ => ErrorKind::Refused,
        };
        Self::Refused { code: code.to_owned(), message: status.message().to_owned(), kind }
    }

    /// Whether the same call may work in a moment.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { kind, .. } => *kind == ErrorKind::Retry,
            Self::Address { .. }
            | Self::Credential { .. }
            | Self::Authority { .. }
            | Self::Certificate { .. }
            | Self::NoCredential { .. }
            | Self::Incomplete { .. }
            | Self::Replaced { .. } => false,
        }
    }

    /// The stable code that people may search for.
    pub fn code(&self) -> &str {
        match self {
            Self::Address { .. } => "address-invalid",
            Self::Credential { .. } | Self::NoCredential { .. } => "credential-missing",
            Self::Certificate { .. } => "certificate-unusable",
            Self::Authority { .. } => "authority-missing",
            Self::Unreachable { .. } => "cluster-unreachable",
            Self::Refused { code, .. } => code,
            Self::Incomplete { .. } => "answer-incomplete",
            Self::Replaced { .. } => "subscription-replaced",
        }
    }
}

/// The innermost cause says more than "transport error".
fn transport_message(status: &Status) -> String {
    let mut message = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        message = error.to_string();
        cause = error.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_answer_that_was_cut_off_may_pass_and_a_refusal_may_not() {
        let mut cut = Status::internal("h2 protocol error: error reading a body from connection");
        let refused = ClientError::from_status(&cut, "a:1");
        assert!(!refused.may_pass(), "{refused:?}");
        cut.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        let lost = ClientError::from_status(&cut, "a:1");
        assert!(lost.may_pass(), "{lost:?}");
    }
}
