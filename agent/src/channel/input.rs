//! The input of a task that asked for one: what comes is written, and the caller may end it.
//!
//! The pipe is the task's: its init keeps it open, so that neither the end of a channel nor that of the agent is
//! an end of input. Only the caller's word is. One channel at a time has it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use model::{RefusalCode, TaskId};
use proto::channel::v1::{self as wire, frame};
use tokio::io::Interest;

use super::{Failure, Talk};
use crate::{execute::chain, sys::ByteStream};

/// Whose input a channel has.
#[derive(Debug, Clone, Default)]
pub(super) struct Inputs {
    taken: Arc<Mutex<BTreeSet<TaskId>>>,
}

impl Inputs {
    /// `None`: another has it.
    fn take(&self, id: &TaskId) -> Option<Taken> {
        let is_new = self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        is_new.then(|| Taken { id: id.clone(), inputs: self.clone() })
    }
}

/// Gives the input free when it goes.
struct Taken {
    id: TaskId,
    inputs: Inputs,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.inputs.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Talk<'_> {
    pub(super) async fn write_input(self, inputs: &Inputs) -> Result<wire::Ended, Failure> {
        self.check_running()?;
        let id = &self.task.task_id;
        let refused = |why: &str| Failure::new(RefusalCode::InputRefused, format!("task `{id}` {why}"));
        if !self.task.spec.has_input {
            return Err(refused("was run without an input"));
        }
        let _taken = inputs.take(id).ok_or_else(|| refused("gets its input from somebody else already"))?;
        let path = self.executor.directories().stdin(&self.task.attempt);
        let broken = |error: &io::Error| {
            Failure::new(RefusalCode::ChannelBroken, format!("can't write the input of task `{id}`: {error}"))
        };
        let pipe = match open(&path) {
            Ok(pipe) => ByteStream::new(pipe.into(), Interest::WRITABLE | Interest::ERROR),
            // Removed when the input ended; or nobody has its other end.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => {
                return Err(refused("reads no input any more"));
            }
            Err(error) => Err(error),
        };
        let pipe = pipe.map_err(|error| broken(&error))?;
        self.say_opened().await?;
        loop {
            let frame = tokio::select! {
                frame = self.incoming.message() => frame,
                // It reads no more, or is over: that is the end of what was asked.
                () = pipe.closed() => return Ok(wire::Ended::default()),
                () = self.outgoing.closed() => return Err(Failure::CallerGone),
            };
            let Ok(Some(frame)) = frame else { return Err(Failure::CallerGone) };
            match frame.frame {
                Some(frame::Frame::Data(data)) => {
                    // A pipe that nobody empties is the task's way to say: not now.
                    let written = tokio::select! {
                        written = pipe.write_all(&data.data) => written,
                        () = self.outgoing.closed() => return Err(Failure::CallerGone),
                    };
                    match written {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                            return Ok(wire::Ended::default());
                        }
                        Err(error) => return Err(broken(&error)),
                    }
                }
                Some(frame::Frame::Finish(wire::Finish {})) => {
                    let ended = self.executor.end_input(id, &path);
                    ended.map_err(|error| Failure::new(RefusalCode::ChannelBroken, chain(&error)))?;
                    return Ok(wire::Ended::default());
                }
                Some(
                    frame::Frame::Open(_)
                    | frame::Frame::Join(_)
                    | frame::Frame::Opened(_)
                    | frame::Frame::Resize(_)
                    | frame::Frame::Signal(_)
                    | frame::Frame::Files(_)
                    | frame::Frame::Ended(_)
                    | frame::Frame::Failed(_),
                )
                | None => {}
            }
        }
    }
}

/// Without waiting for a reader: where there is none, there will be none.
fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_one_channels_until_that_ends() {
        let inputs = Inputs::default();
        let id = TaskId::new("t").unwrap();
        let taken = inputs.take(&id);
        assert!(taken.is_some() && inputs.take(&id).is_none());
        assert!(inputs.take(&TaskId::new("other").unwrap()).is_some());
        drop(taken);
        assert!(inputs.take(&id).is_some());
    }
}
