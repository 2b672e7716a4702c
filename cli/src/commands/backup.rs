//! All that the cluster agreed on, into one file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use muster_client::operator::{BackupPiece, BackupRequest};

use super::Context;
use crate::{
    report::{Attempted, Failure},
    units::show_bytes,
};

const ATTEMPTED: &str = "save the cluster's state";

/// Makes the file, whole and durable, or leaves nothing.
pub async fn save(context: &Context, path: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(ATTEMPTED, format!("can't write {}", path.display()))
            .because(error.to_string())
            .next("name a file that isn't there yet, in a directory with space left")
    };
    if path.exists() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let aside = beside(path);
    let mut pieces = context
        .connection
        .call(async |mut operator| operator.backup(BackupRequest {}).await)
        .await
        .attempted(ATTEMPTED)?;
    let mut file = create(&aside).map_err(failed)?;
    let mut last = BackupPiece::default();
    let mut written = 0;
    let copied = loop {
        match pieces.message().await {
            Ok(Some(piece)) => {
                if let Err(error) = file.write_all(&piece.bytes) {
                    break Err(failed(error));
                }
                written += piece.bytes.len() as u64;
                last = BackupPiece { bytes: Vec::new().into(), ..piece };
            }
            Ok(None) if written == last.bytes_total && written > 0 => break Ok(()),
            Ok(None) => break Err(cut(written, last.bytes_total)),
            Err(status) => break Err(context.connection.error(&status)).attempted(ATTEMPTED),
        }
    };
    let kept = copied.and_then(|()| keep(&file, &aside, path).map_err(failed));
    if kept.is_err() {
        // What is half written helps nobody; the first failure is the one to tell.
        let _ = fs::remove_file(&aside);
    }
    kept?;
    eprintln!(
        "saved everything up to entry {}: {} in {}",
        last.last_entry,
        show_bytes(written),
        path.display()
    );
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// What an earlier attempt left half written is written anew.
fn create(aside: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(aside)
}

/// Gives it its name, unless somebody else took that meanwhile.
fn keep(file: &File, aside: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::hard_link(aside, path)?;
    fs::remove_file(aside)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn cut(written: u64, total: u64) -> Failure {
    Failure::new(ATTEMPTED, format!("it ended after {written} of {total} bytes"))
        .next("try again in a moment")
}
