//! Tokens of users as text: an opaque secret that people and frameworks show with each call.

use std::{fmt, str::FromStr};

use rand::Rng as _;
use sha2::{Digest as _, Sha256};

use crate::certificate::hex;

/// So that one sees what it is, and scanners for lost secrets can look for it.
const PREFIX: &str = "musteruser1";
/// It is chosen by nobody and shown again and again, so it is as long as any key.
const SECRET_BYTES: usize = 32;
/// Names a token among some ten thousand.
const ID_BYTES: usize = 8;

/// Why a text is no token of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no token of a user: one looks like {PREFIX}-ID-SECRET, in one line")]
pub struct UserTokenError;

/// What `muster user token` prints.
#[derive(Clone)]
pub struct UserToken {
    /// Says which one it is, without giving it away.
    pub id: String,
    secret: String,
}

impl fmt::Debug for UserToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UserToken({}, …)", self.id)
    }
}

impl UserToken {
    /// Draws a new one.
    pub fn draw() -> Self {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        rand::rng().fill_bytes(&mut id);
        rand::rng().fill_bytes(&mut secret);
        Self { id: hex(&id), secret: hex(&secret) }
    }

    /// The token as the user must have it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}-{}-{}", self.id, self.secret)
    }

    /// What the cluster keeps of the secret.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.secret).into()
    }
}

impl FromStr for UserToken {
    type Err = UserTokenError;

    fn from_str(text: &str) -> Result<Self, UserTokenError> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let [PREFIX, id, secret] = parts[..] else { return Err(UserTokenError) };
        let is_hex = |part: &str, bytes: usize| {
            part.len() == bytes * 2 && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !is_hex(id, ID_BYTES) || !is_hex(secret, SECRET_BYTES) {
            return Err(UserTokenError);
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_token_that_was_printed_can_be_read() {
        let token = UserToken::draw();
        let read: UserToken = format!("{}\n", token.reveal()).parse().unwrap();
        assert_eq!((&read.id, read.digest()), (&token.id, token.digest()));
        assert!(!format!("{token:?}").contains(&token.secret), "a debug form gives no secret away");
        assert_ne!(UserToken::draw().digest(), token.digest());
    }

    #[test]
    fn what_is_no_user_token_is_refused() {
        let good = UserToken::draw().reveal();
        let bad = ["", "musteruser1", &good[1..], &good[..good.len() - 1], &good.to_uppercase()];
        for bad in bad.into_iter().chain([format!("{good}-0").as_str()]) {
            assert!(bad.parse::<UserToken>().is_err(), "{bad}");
        }
    }
}
