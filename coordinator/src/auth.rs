//! The credential of callers: one random token in a file that only its owner can read.
//!
//! Made at the first start and kept. Compared in constant time, never logged and never shown.
//! Which request needs it is decided in `api/guard.rs`.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rand::Rng as _;
use subtle::ConstantTimeEq as _;
use tonic::metadata::{Ascii, MetadataValue};

/// Bytes of randomness; the file holds them as hexadecimal digits.
const TOKEN_BYTES: usize = 32;

/// What a caller must show.
#[derive(Clone)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// Why there is no credential to check callers by.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("can't read the token file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't make the token file {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("others than its owner can use the token file {} (mode {mode:04o})", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the token file {} does not hold {} hexadecimal digits", path.display(), TOKEN_BYTES * 2)]
    Damaged { path: PathBuf },
}

impl TokenError {
    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::Read { path, .. } | Self::Make { path, .. } => {
                format!("check who owns {} and its directory", path.display())
            }
            Self::Open { path, .. } => {
                format!(
                    "remove it, so that a new token is made (or `chmod 600 {}` if nobody read it)",
                    path.display()
                )
            }
            Self::Damaged { path } => {
                format!("remove {}; a new token is made at the next start", path.display())
            }
        }
    }
}

impl Token {
    /// Reads the token, and makes the file when there is none.
    ///
    /// Refuses a file that others can use: its content is no secret any more.
    pub fn load_or_make(path: &Path) -> Result<Self, TokenError> {
        match Self::load(path) {
            Err(TokenError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::make(path).map_err(|source| TokenError::Make { path: path.to_owned(), source })?;
                Self::load(path)
            }
            other => other,
        }
    }

    fn load(path: &Path) -> Result<Self, TokenError> {
        let read = |source| TokenError::Read { path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(read)?;
        let facts = file.metadata().map_err(read)?;
        let mode = facts.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Open { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        // A token is short; whatever is long isn't one.
        io::Read::read_to_string(&mut io::Read::take(file, 1024), &mut text).map_err(read)?;
        let text = text.trim_end();
        if text.len() != TOKEN_BYTES * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenError::Damaged { path: path.to_owned() });
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// Keeps the token that another member has; one that is there already stays.
    pub fn keep(path: &Path, text: &str) -> Result<(), TokenError> {
        match Self::write(path, text) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            written => written.map_err(|source| TokenError::Make { path: path.to_owned(), source })?,
        }
        Self::load(path).map(|_| ())
    }

    /// Draws a token.
    fn make(path: &Path) -> io::Result<()> {
        let mut bytes = [0; TOKEN_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::write(path, &digits)
    }

    /// Writes a token beside `path` and links it there: a crash leaves no file that is half written.
    fn write(path: &Path, digits: &str) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let fresh = PathBuf::from(name);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        let written = writeln!(file, "{digits}")
            .and_then(|()| file.sync_all())
            // Unlike a rename, a link never replaces a token that somebody made meanwhile.
            .and_then(|()| fs::hard_link(&fresh, path));
        let removed = fs::remove_file(&fresh);
        written.and(removed)
    }

    /// Whether a caller showed this token. The time that it takes does not depend on the content.
    pub fn is(&self, shown: &str) -> bool {
        self.0.as_bytes().ct_eq(shown.as_bytes()).into()
    }

    /// As this member shows it to the others.
    pub fn header(&self) -> Option<MetadataValue<Ascii>> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", self.0).parse().ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// For clients in the same process and for tests.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Who owns a file: the only user besides root that the Unix socket answers.
pub fn owner_of(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let first = Token::load_or_make(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(first.reveal().len(), 64);
        assert_eq!(Token::load_or_make(&path).unwrap().reveal(), first.reveal());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the token remains");
    }

    #[test]
    fn only_the_token_itself_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_make(&dir.path().join("token")).unwrap();
        assert!(token.is(token.reveal()));
        assert!(!token.is(""));
        assert!(!token.is(&token.reveal()[1..]));
        assert!(!token.is(&"0".repeat(64)));
        assert!(!format!("{token:?}").contains(token.reveal()));
    }

    #[test]
    fn a_token_that_others_could_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        Token::load_or_make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Token::load_or_make(&path).unwrap_err();
        assert!(matches!(error, TokenError::Open { mode: 0o644, .. }), "{error}");
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        Token::load_or_make(&path).unwrap();
        for damaged in ["", "abc", &"z".repeat(64)] {
            fs::write(&path, damaged).unwrap();
            assert!(
                matches!(Token::load_or_make(&path), Err(TokenError::Damaged { .. })),
                "{damaged:?} was taken"
            );
        }
    }
}
