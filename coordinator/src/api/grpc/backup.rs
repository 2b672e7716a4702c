//! The whole state as a file, sent piece by piece as fast as it is taken.

use std::sync::Arc;

use futures::stream;
use model::{Refusal, RefusalCode};
use proto::operator::v1 as wire;
use tonic::Status;

use super::{Answers, refused};
use crate::{
    api::Context,
    raft::{BackupError, ReadError},
};

/// A client takes messages of 4 MiB.
const PIECE_BYTES: usize = 1 << 20;

/// Asks for all that was acknowledged, and begins to send it. The file that is read stays what it is when a newer
/// snapshot takes its name.
pub(super) async fn send(context: &Context) -> Result<Answers<wire::BackupPiece>, Status> {
    let backup = context.raft.backup().await.map_err(|error| refused(refusal(&error)))?;
    tracing::info!(last_index = backup.last_index, bytes = backup.bytes(), "gives a backup");
    let counted = context.metrics.stream_opened("backup");
    let begin = (Arc::new(backup), 0, counted);
    Ok(Box::pin(stream::try_unfold(begin, |(backup, at, counted)| async move {
        if at >= backup.bytes() {
            return Ok(None);
        }
        let reading = backup.clone();
        let piece = tokio::task::spawn_blocking(move || reading.piece(at, PIECE_BYTES))
            .await
            .map_err(|_panic| unreadable("its reader has ended"))?
            .map_err(|error| unreadable(&error.to_string()))?;
        let next = at + piece.len() as u64;
        let piece = wire::BackupPiece {
            bytes: piece.into(),
            bytes_total: backup.bytes(),
            last_entry: backup.last_index,
        };
        Ok(Some((piece, (backup, next, counted))))
    })))
}

fn unreadable(why: &str) -> Status {
    refused(Refusal::new(
        RefusalCode::Internal,
        format!("can't go on with the backup: {why}; look at the coordinator's log and its disk"),
    ))
}

fn refusal(error: &BackupError) -> Refusal {
    let attempted = "can't make a backup";
    match error {
        BackupError::Read(
            source @ (ReadError::NotLeader { .. } | ReadError::NoQuorum | ReadError::Stopped),
        ) => Refusal::new(RefusalCode::NoLeader, format!("{attempted}: {source}; try again in a moment")),
        BackupError::Late => {
            Refusal::new(RefusalCode::Busy, format!("{attempted}: {error}; look at the coordinator's disk"))
        }
        other => Refusal::new(
            RefusalCode::Internal,
            format!("{attempted}: {other}; look at the coordinator's log and its disk"),
        ),
    }
}
