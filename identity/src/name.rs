//! Names in certificates.

use std::{fmt, str::FromStr};

/// Before the name, in a certificate's URI.
const SCHEME: &str = "muster:";
/// As long as any id may be.
const NAME_BYTES_MAX: usize = 128;

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A coordinator, by its seat in Raft.
    Member(u64),
    Agent(String),
    /// A person or a framework.
    User(String),
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` names no member, agent or user", .0.escape_debug())]
pub struct NameError(String);

impl Identity {
    /// As it stands in a certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{self}")
    }

    /// Reads what [`Self::uri`] wrote.
    pub fn from_uri(uri: &str) -> Result<Self, NameError> {
        uri.strip_prefix(SCHEME).ok_or_else(|| NameError(uri.to_owned()))?.parse()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(id) => write!(formatter, "member/{id}"),
            Self::Agent(id) => write!(formatter, "agent/{id}"),
            Self::User(name) => write!(formatter, "user/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError(text.chars().take(NAME_BYTES_MAX).collect());
        let (kind, name) = text.split_once('/').ok_or_else(refuse)?;
        let is_name = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'%'));
        if !is_name {
            return Err(refuse());
        }
        match kind {
            "member" => name.parse().map(Self::Member).map_err(|_| refuse()),
            "agent" => Ok(Self::Agent(name.to_owned())),
            "user" => Ok(Self::User(name.to_owned())),
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_written_can_be_read() {
        for name in [Identity::Member(3), Identity::Agent("a-1".into()), Identity::User("ann@x".into())] {
            assert_eq!(Identity::from_uri(&name.uri()), Ok(name.clone()));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "member/", "member/x", "agent/a/b", "agent/a b", "root/1", "agent", "user/ä"] {
            assert!(bad.parse::<Identity>().is_err(), "{bad:?} was taken");
        }
        assert!(Identity::from_uri("spiffe://x/agent/1").is_err());
    }
}
