//! Names of things, one type for each kind, valid once they exist.
//!
//! An id never holds a slash, a NUL or a leading dot, so that it may become part of a path.

use std::{fmt, str::FromStr, sync::Arc};

use crate::limits;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{shown}` is not valid: {why}")]
pub struct IdError {
    /// What the text should have named.
    pub kind: &'static str,
    /// The text, shortened and with odd characters escaped.
    pub shown: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

#[derive(Clone, Copy)]
struct Rule {
    kind: &'static str,
    max: usize,
    is_lower_only: bool,
}

fn checked(text: &str, rule: Rule) -> Result<Arc<str>, IdError> {
    let refuse = |why| {
        let shown = text.chars().take(64).flat_map(char::escape_debug).collect();
        Err(IdError { kind: rule.kind, shown, why })
    };
    let Some(first) = text.bytes().next() else { return refuse("it is empty") };
    if text.len() > rule.max {
        return refuse("it is too long");
    }
    if rule.is_lower_only {
        if !text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')) {
            return refuse("only a-z, 0-9, `_` and `-` are allowed");
        }
    } else if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        return refuse("only A-Z, a-z, 0-9, `.`, `_` and `-` are allowed");
    }
    if !first.is_ascii_alphanumeric() {
        return refuse("it must begin with a letter or a digit");
    }
    Ok(text.into())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr, lower: $lower:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Refuses what is empty, too long, or has characters that the kind doesn't allow.
            pub fn new(text: &str) -> Result<Self, IdError> {
                checked(text, Rule { kind: $kind, max: $max, is_lower_only: $lower }).map(Self)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

id! {
    /// An agent: made by the agent at its first start, and kept.
    AgentId, "agent id", limits::ID_BYTES_MAX, lower: false
}
id! {
    /// The cluster: made once, by the first member.
    ClusterId, "cluster id", limits::ID_BYTES_MAX, lower: false
}
id! {
    /// A framework: made by the leader at its first subscription.
    FrameworkId, "framework id", limits::ID_BYTES_MAX, lower: false
}
id! {
    /// An offer: holds the leader's term, so that an offer of an earlier leader is known as such.
    OfferId, "offer id", limits::ID_BYTES_MAX, lower: false
}
id! {
    /// One request that changes something: its repeat gets the first answer.
    RequestId, "request id", limits::REQUEST_ID_BYTES_MAX, lower: false
}
id! {
    /// One opened event stream of a framework.
    SubscriptionId, "subscription id", limits::ID_BYTES_MAX, lower: false
}
id! {
    /// A task: chosen by its framework, unique in the cluster while the task is known.
    TaskId, "task id", limits::ID_BYTES_MAX, lower: false
}
id! {
    /// A named share of the cluster.
    RoleName, "role", limits::NAME_BYTES_MAX, lower: true
}
id! {
    /// A person or a remote framework, with credentials of its own.
    UserName, "user name", limits::NAME_BYTES_MAX, lower: false
}
id! {
    /// A named set of grants.
    DutyName, "duty", limits::NAME_BYTES_MAX, lower: true
}
id! {
    /// A kind of resource that Muster only counts.
    ScalarName, "resource name", limits::NAME_BYTES_MAX, lower: true
}

/// A seat in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_can_always_be_part_of_a_path() {
        for bad in ["", ".", "..", "../x", "a/b", "a\0b", "-a", ".a", "ä", "a b", &"x".repeat(129)] {
            assert!(TaskId::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["a", "web-1", "hello.7f3c91ab", "A_b.c-1", &"x".repeat(128)] {
            assert_eq!(TaskId::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_role_is_lower_case() {
        assert!(RoleName::new("Web").is_err());
        assert!(RoleName::new("web_1-a").is_ok());
    }

    #[test]
    fn an_error_shows_no_control_characters() {
        let error = TaskId::new("a\x1b[31m").unwrap_err().to_string();
        assert_eq!(
            error,
            "task id `a\\u{1b}[31m` is not valid: only A-Z, a-z, 0-9, `.`, `_` and `-` are allowed"
        );
    }
}
