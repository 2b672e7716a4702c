//! openraft's own conformance suite for storage.

use std::{path::Path, sync::Arc};

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    super::{
        directory::Directory,
        log::{self, Disk, FileDisk, LogStore},
        observe::Instruments,
        snapshot::Snapshots,
        state::Applier,
        types::Types,
    },
    Recorder,
};

struct Builder;

/// What has to outlive a store in the suite.
struct Guard {
    _folder: TempDir,
    _directory: Directory,
}

impl StoreBuilder<Types, LogStore, Applier, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Applier), StorageError<Types>> {
        let folder = tempfile::tempdir().unwrap();
        let (directory, store, applier) = build(folder.path());
        Ok((Guard { _folder: folder, _directory: directory }, store, applier))
    }
}

fn build(path: &Path) -> (Directory, LogStore, Applier) {
    let directory = Directory::open(path).unwrap();
    let opened = log::open(&directory, &FileDisk, None, 0, Instruments::default()).unwrap();
    FileDisk.run(opened.writer).unwrap();
    let snapshots = Arc::new(Snapshots::open(directory.snapshot()).unwrap());
    let (term, _) = watch::channel(0);
    let applier = Applier::restore(Box::new(Recorder::default()), snapshots, term, Instruments::default());
    (directory, opened.store, applier.ok().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_storage_suite() {
    Suite::test_all(Builder).await.unwrap();
}
