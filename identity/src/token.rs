//! Join tokens as text: a secret that lets one come in once, and the fingerprint of whom to believe.

use std::{fmt, str::FromStr};

use rand::Rng as _;
use sha2::{Digest as _, Sha256};

use crate::certificate::hex;

/// So that one sees what it is, and a later form can be told from this one.
const PREFIX: &str = "muster1";
/// It is chosen by nobody, so 16 bytes can't be guessed; the hash that is kept needs no salt.
const SECRET_BYTES: usize = 16;
/// Names a token among some thousand.
const ID_BYTES: usize = 4;

/// Why a text is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no join token: one looks like {PREFIX}-ID-SECRET-FINGERPRINT, in one line")]
pub struct TokenTextError;

/// What `muster token create` prints.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Says which one it is, without giving it away.
    pub id: String,
    secret: String,
    /// SHA-256 of the authority's certificate.
    pub authority: [u8; 32],
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "JoinToken({}, …)", self.id)
    }
}

impl JoinToken {
    /// Draws a new one, for a cluster whose authority has this fingerprint.
    pub fn draw(authority: [u8; 32]) -> Self {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        rand::rng().fill_bytes(&mut id);
        rand::rng().fill_bytes(&mut secret);
        Self { id: hex(&id), secret: hex(&secret), authority }
    }

    /// The token as whoever joins must have it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}-{}-{}-{}", self.id, self.secret, hex(&self.authority))
    }

    /// What the cluster keeps of the secret.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.secret).into()
    }
}

impl FromStr for JoinToken {
    type Err = TokenTextError;

    fn from_str(text: &str) -> Result<Self, TokenTextError> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let [PREFIX, id, secret, authority] = parts[..] else { return Err(TokenTextError) };
        let is_hex = |part: &str, bytes: usize| {
            part.len() == bytes * 2 && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !is_hex(id, ID_BYTES) || !is_hex(secret, SECRET_BYTES) || !is_hex(authority, 32) {
            return Err(TokenTextError);
        }
        let mut fingerprint = [0; 32];
        for (place, byte) in fingerprint.iter_mut().enumerate() {
            let digits = authority.get(place * 2..place * 2 + 2).ok_or(TokenTextError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| TokenTextError)?;
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned(), authority: fingerprint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_printed_can_be_read() {
        let token = JoinToken::draw([7; 32]);
        let read: JoinToken = format!("{}\n", token.reveal()).parse().unwrap();
        assert_eq!(read, token);
        assert_eq!(read.digest(), token.digest());
        assert!(!format!("{token:?}").contains(&token.secret), "a debug form gives no secret away");
        assert_ne!(JoinToken::draw([7; 32]).digest(), token.digest());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = JoinToken::draw([7; 32]).reveal();
        for bad in
            ["", "muster1", &good[1..], &good[..good.len() - 1], &good.to_uppercase(), &format!("{good}-0")]
        {
            assert_eq!(bad.parse::<JoinToken>(), Err(TokenTextError), "{bad}");
        }
    }
}
