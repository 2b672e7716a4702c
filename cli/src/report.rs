//! What a person reads when something was not done: error, why, next, code.

use std::{fmt, io, process::ExitCode};

use muster_client::{ClientError, ErrorKind};

/// A failure in four parts, ready to print.
#[derive(Debug)]
pub struct Failure {
    attempted: String,
    why: String,
    next: Option<String>,
    code: String,
    exit: u8,
}

impl Failure {
    /// `attempted` completes "can't …".
    pub fn new(attempted: &str, why: impl Into<String>) -> Self {
        Self {
            attempted: attempted.to_owned(),
            why: why.into(),
            next: None,
            code: "failed".to_owned(),
            exit: 1,
        }
    }

    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.why = format!("{}: {}", self.why, cause.into());
        self
    }

    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        self.code = code.to_owned();
        self
    }

    /// Misused rather than refused.
    #[must_use]
    pub fn misused(mut self) -> Self {
        self.exit = 2;
        "misused".clone_into(&mut self.code);
        self
    }

    pub fn from_client(attempted: &str, error: &ClientError) -> Self {
        let (exit, next) = match error {
            ClientError::Unreachable { .. } => (
                4,
                Some("is it running? Start one with `muster dev`, or name it with --server or MUSTER_SERVER"),
            ),
            ClientError::Credential { .. } | ClientError::NoCredential { .. } => (
                4,
                Some(
                    "run as root (the token is root's alone), or name a token with --token-file or MUSTER_TOKEN_FILE",
                ),
            ),
            ClientError::Certificate { .. } => (
                4,
                Some(
                    "make one with `muster user certificate NAME FILE`, and keep its file readable by you alone",
                ),
            ),
            ClientError::Authority { .. } => (
                4,
                Some(
                    "copy ca.pem from the folder tls of a coordinator's data directory, and name it with --ca-file or \
                     MUSTER_CA_FILE",
                ),
            ),
            ClientError::Address { .. } => (2, None),
            ClientError::Refused { kind: ErrorKind::NotFound, .. } => (3, None),
            ClientError::Refused { kind: ErrorKind::Unauthenticated, .. } => {
                (1, Some("check --token-file: the token may be of another cluster"))
            }
            ClientError::Refused { kind: ErrorKind::Retry, .. } => (4, Some("try again in a moment")),
            ClientError::Refused { .. } | ClientError::Incomplete { .. } | ClientError::Replaced { .. } => {
                (1, None)
            }
        };
        Self {
            attempted: attempted.to_owned(),
            why: error.to_string(),
            next: next.map(str::to_owned),
            code: error.code().to_owned(),
            exit,
        }
    }

    /// One sentence, for where four parts have no room.
    pub fn has_code(&self, code: &str) -> bool {
        self.code == code
    }

    pub fn why(&self) -> &str {
        &self.why
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "error: can't {}", self.attempted)?;
        writeln!(formatter, "why:   {}", self.why)?;
        if let Some(next) = &self.next {
            writeln!(formatter, "next:  {next}")?;
        }
        writeln!(formatter, "code:  {}", self.code)
    }
}

/// Says what a client error stopped.
pub trait Attempted<T> {
    /// `what` completes "can't …".
    fn attempted(self, what: &str) -> Result<T, Failure>;
}

impl<T> Attempted<T> for Result<T, ClientError> {
    fn attempted(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::from_client(what, &error))
    }
}

impl<T> Attempted<T> for io::Result<T> {
    fn attempted(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(what, error.to_string()))
    }
}
