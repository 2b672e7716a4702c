//! The beginning of a cluster's trust.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
};

use identity::{Authority, AuthorityError, Folder, FolderError, fingerprint, hex};

use crate::{
    config::Config,
    raft::{self, OpenError},
};

/// Why the trust of a cluster can't begin here.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("can't make the data directory")]
    Directory(#[source] OpenError),
    #[error("{folder} holds the authority of a cluster already")]
    There { folder: String },
    #[error("can't make the authority")]
    Make(#[source] AuthorityError),
    #[error("can't keep the authority")]
    Keep(#[source] FolderError),
    #[error("can't give the authority to the owner of the data directory")]
    Give(#[source] io::Error),
}

impl InitError {
    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::There { .. } => {
                "start the coordinator; or, for another cluster, choose another `--data-dir`".to_owned()
            }
            Self::Keep(error) => error.next(),
            Self::Directory(_) | Self::Give(_) => "check who owns the data directory".to_owned(),
            Self::Make(_) => "see the cause".to_owned(),
        }
    }
}

/// Makes the authority of a cluster in the data directory, and says what to do next.
///
/// Refuses to replace one: everybody who joined would be locked out.
pub fn init(config: &Config) -> Result<String, InitError> {
    raft::make_directory(&config.data_dir).map_err(InitError::Directory)?;
    let folder = Folder::of(&config.data_dir);
    if folder.trust().map_err(InitError::Keep)?.is_some() {
        return Err(InitError::There { folder: folder.path().display().to_string() });
    }
    let authority = Authority::make().map_err(InitError::Make)?;
    folder.keep_authority(&authority).map_err(InitError::Keep)?;
    give_to_owner(&config.data_dir, &folder).map_err(InitError::Give)?;
    let data_dir = config.data_dir.display();
    Ok(format!(
        "made the cluster's authority in {}\n\
         fingerprint {}\n\n\
         Start this coordinator where the others can reach it:\n  \
         muster-coordinator --data-dir {data_dir} --listen ADDRESS:5050\n\
         On it, make a token for each further coordinator and agent:\n  \
         muster token create member\n  \
         muster token create agent\n\
         Write each into a file of mode 0600 where it is used:\n  \
         muster-coordinator --member-id 2 --listen ADDRESS:5050 --join ADDRESS:5050 --join-token-file FILE\n  \
         muster-agent --coordinator https://ADDRESS:5050 --join-token-file FILE\n",
        folder.path().display(),
        hex(&fingerprint(authority.certificate())),
    ))
}

/// Root begins what the coordinator's own user goes on with.
fn give_to_owner(data_dir: &Path, folder: &Folder) -> io::Result<()> {
    let owner = fs::metadata(data_dir)?;
    if fs::metadata(folder.path())?.uid() == owner.uid() {
        return Ok(());
    }
    for entry in fs::read_dir(folder.path())? {
        chown(entry?.path(), Some(owner.uid()), Some(owner.gid()))?;
    }
    chown(folder.path(), Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().join("c"), ..Config::default() };
        let said = init(&config).unwrap();
        assert!(said.contains("muster token create agent"), "{said}");
        let authority = Folder::of(&config.data_dir).authority().unwrap().unwrap();
        let error = init(&config).unwrap_err();
        assert!(matches!(error, InitError::There { .. }), "{error}");
        let again = Folder::of(&config.data_dir).authority().unwrap().unwrap();
        assert_eq!(again.certificate(), authority.certificate());
    }
}
