//! Where a daemon keeps its certificate and key, and whom it believes.
//!
//! Certificate and key lie in one file, so that no crash parts them; each file is replaced whole. A key that
//! others could read is refused: it is no secret any more.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustls::pki_types::CertificateDer;

use crate::{Authority, AuthorityError, Credential, Request, pem};

/// Whom it believes: the authority's certificate.
const AUTHORITY: &str = "ca.pem";
/// The authority's key: members have it.
const AUTHORITY_KEY: &str = "ca-key.pem";
/// The daemon's own certificate and key.
const CREDENTIAL: &str = "identity.pem";
/// The key of a request that has no answer yet.
const REQUEST: &str = "request-key.pem";
/// Which join token gave the credential.
const TOKEN: &str = "joined-with";
/// Nothing that is kept here is longer.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why something can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("can't make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("can't read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("can't write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("others than its owner can use {} (mode {mode:04o})", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} holds no certificate or key", path.display())]
    Damaged { path: PathBuf },
    #[error("can't use what is in {}", path.display())]
    Authority { path: PathBuf, source: AuthorityError },
}

impl FolderError {
    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::Make { path, .. } | Self::Read { path, .. } | Self::Write { path, .. } => {
                format!("check who owns {} and its directory", path.display())
            }
            Self::Open { path, .. } => {
                format!(
                    "if nobody read it, `chmod 600 {}`; else remove it, and join the cluster again",
                    path.display()
                )
            }
            Self::Damaged { path } | Self::Authority { path, .. } => {
                format!("restore {} from a backup, or remove it and join the cluster again", path.display())
            }
        }
    }
}

/// A certificate with its key from any file; refused where others could read it.
pub fn read_credential(path: &Path) -> Result<Credential, FolderError> {
    let missing = || FolderError::Read { path: path.to_owned(), source: io::ErrorKind::NotFound.into() };
    let text = read(path, true)?.ok_or_else(missing)?;
    Credential::from_pem(&text).ok_or_else(|| FolderError::Damaged { path: path.to_owned() })
}

/// The folder `tls` of a data directory.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("tls"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the authority's certificate is: what clients need to believe a coordinator.
    pub fn authority_path(&self) -> PathBuf {
        self.0.join(AUTHORITY)
    }

    /// The authority that is believed; `None`: TLS was never set up here.
    pub fn trust(&self) -> Result<Option<CertificateDer<'static>>, FolderError> {
        let path = self.authority_path();
        let Some(text) = read(&path, false)? else { return Ok(None) };
        pem::read_certificate(&text).map(Some).ok_or(FolderError::Damaged { path })
    }

    pub fn keep_trust(&self, authority: &[u8]) -> Result<(), FolderError> {
        self.write(AUTHORITY, &pem::certificate(authority))
    }

    /// The authority itself, where this is a member's folder.
    pub fn authority(&self) -> Result<Option<Authority>, FolderError> {
        let path = self.0.join(AUTHORITY_KEY);
        let (Some(certificate), Some(text)) = (self.trust()?, read(&path, true)?) else { return Ok(None) };
        let key = pem::read_key(&text).ok_or(FolderError::Damaged { path: path.clone() })?;
        Authority::read(certificate, &key).map(Some).map_err(|source| FolderError::Authority { path, source })
    }

    /// Key before certificate: without the certificate the folder counts as empty.
    pub fn keep_authority(&self, authority: &Authority) -> Result<(), FolderError> {
        self.write(AUTHORITY_KEY, &pem::key(authority.key().secret_pkcs8_der()))?;
        self.keep_trust(authority.certificate())
    }

    pub fn credential(&self) -> Result<Option<Credential>, FolderError> {
        let path = self.0.join(CREDENTIAL);
        let Some(text) = read(&path, true)? else { return Ok(None) };
        Credential::from_pem(&text).map(Some).ok_or(FolderError::Damaged { path })
    }

    pub fn keep_credential(&self, credential: &Credential) -> Result<(), FolderError> {
        self.write(CREDENTIAL, &credential.to_pem())
    }

    /// The request that is under way, or a new one. Kept, so that asking again after a crash is the same request.
    pub fn request(&self) -> Result<Request, FolderError> {
        let path = self.0.join(REQUEST);
        let failed = |source| FolderError::Authority { path: path.clone(), source };
        if let Some(text) = read(&path, true)? {
            let key = pem::read_key(&text).ok_or(FolderError::Damaged { path: path.clone() })?;
            return Request::from_key(&key).map_err(failed);
        }
        let request = Request::make().map_err(failed)?;
        self.write(REQUEST, &pem::key(request.key().secret_pkcs8_der()))?;
        Ok(request)
    }

    /// Forgets the request: it was answered.
    pub fn request_answered(&self) {
        // What remains is used for another request, which harms nobody.
        let _ = fs::remove_file(self.0.join(REQUEST));
    }

    /// The id of the join token that gave the credential.
    pub fn joined_with(&self) -> Result<Option<String>, FolderError> {
        Ok(read(&self.0.join(TOKEN), false)?.map(|text| text.trim().to_owned()))
    }

    pub fn keep_joined_with(&self, token: &str) -> Result<(), FolderError> {
        self.write(TOKEN, &format!("{token}\n"))
    }

    /// Writes beside the file and renames: a crash leaves the old one or the new one.
    fn write(&self, name: &str, text: &str) -> Result<(), FolderError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|source| FolderError::Make { path: self.0.clone(), source })?;
        let path = self.0.join(name);
        let fresh = self.0.join(format!("{name}.new"));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| {
                // One that an earlier start left may have another mode.
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&fresh, &path))
            .and_then(|()| fs::File::open(&self.0)?.sync_all());
        written.map_err(|source| FolderError::Write { path, source })
    }
}

/// Reads an authority's certificate, wherever it lies.
pub fn read_authority(path: &Path) -> Result<CertificateDer<'static>, FolderError> {
    let failed = |source| FolderError::Read { path: path.to_owned(), source };
    let text = read(path, false)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    pem::read_certificate(&text).ok_or_else(|| FolderError::Damaged { path: path.to_owned() })
}

/// A file's text; `None` where there is none.
fn read(path: &Path, is_secret: bool) -> Result<Option<String>, FolderError> {
    let failed = |source| FolderError::Read { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if is_secret && mode & 0o077 != 0 {
        return Err(FolderError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use std::time::Duration;

    #[test]
    fn what_was_kept_is_there_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        assert!(folder.trust().unwrap().is_none());
        assert!(folder.credential().unwrap().is_none());
        let authority = Authority::make().unwrap();
        folder.keep_authority(&authority).unwrap();
        let again = folder.authority().unwrap().unwrap();
        assert_eq!(again.certificate(), authority.certificate());
        let credential = again.issue(&Identity::Member(2), Duration::from_secs(60), &[], 7).unwrap();
        folder.keep_credential(&credential).unwrap();
        let read = folder.credential().unwrap().unwrap();
        assert_eq!(read.facts().unwrap().identity, Identity::Member(2));
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_key_that_others_could_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        folder.keep_authority(&Authority::make().unwrap()).unwrap();
        let path = folder.path().join(AUTHORITY_KEY);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(folder.authority(), Err(FolderError::Open { mode: 0o640, .. })));
    }

    #[test]
    fn a_request_is_the_same_until_it_was_answered() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        let first = folder.request().unwrap().key();
        assert_eq!(folder.request().unwrap().key(), first);
        folder.request_answered();
        assert_ne!(folder.request().unwrap().key(), first);
    }
}
