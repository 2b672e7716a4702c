//! Reading what a task wrote, and waiting for more.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use model::{TaskId, Timestamp};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::Request;
use crate::{
    clock,
    execute::{Executor, chain, offset_since},
    session::{Chunk, OutputAnswer, OutputRequest, Stream, ToLeader},
    sys::SysError,
};

/// The most that one answer carries.
const CHUNK_BYTES_MAX: u32 = 64 * 1024;
/// How long a reader may wait for something to be written.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often it looks; a file can't be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where a task's output is.
#[derive(Debug)]
pub(crate) struct Place {
    pub attempt: String,
    /// Nothing will be written any more.
    pub is_over: bool,
}

/// Where the first reading begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    Offset,
    /// So many bytes before the end.
    Tail(u64),
    /// What is not older than this, and a little more.
    Newer(Duration),
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Answers one request.
pub(super) struct Reader {
    pub requests: mpsc::Sender<Request>,
    pub executor: Arc<Executor>,
    pub link: mpsc::Sender<ToLeader>,
}

impl Reader {
    pub(super) fn refuse(&self, request: u64, why: &str) {
        let answer = OutputAnswer { request, result: Err(why.to_owned()) };
        // A leader that does not keep up asks again after its own patience.
        let _ = self.link.try_send(ToLeader::Output(answer));
    }

    pub(super) async fn read(self, wish: OutputRequest) {
        let request = wish.request;
        let result = self.wait_for_data(wish).await;
        // The session may be over; whoever reads asks again.
        let _ = self.link.send(ToLeader::Output(OutputAnswer { request, result })).await;
    }

    async fn wait_for_data(&self, wish: OutputRequest) -> Result<Chunk, String> {
        let OutputRequest { request: _, task_id, stream, offset, tail, newer_than, limit, wait, process } =
            wish;
        let limit = limit.min(CHUNK_BYTES_MAX);
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        let mut offset = offset;
        let mut start = match (newer_than, tail) {
            (Some(age), _) => Start::Newer(age),
            (None, Some(tail)) => Start::Tail(tail),
            (None, None) => Start::Offset,
        };
        loop {
            // Whether it is over is asked before it is read: what is written in between is read, too.
            let place = self.place(&task_id).await?;
            let file = self.file(&place, stream, process.as_deref())?;
            let read = self.read_now(file, offset, start, limit).await?;
            let is_end = place.is_over && read.offset + read.data.len() as u64 >= read.end;
            offset = read.offset;
            start = Start::Offset;
            if !read.data.is_empty() || is_end || Instant::now() >= deadline {
                return Ok(Chunk { offset, data: Bytes::from(read.data), is_end });
            }
            sleep(LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn place(&self, task_id: &TaskId) -> Result<Place, String> {
        let (answer, place) = oneshot::channel();
        let asked = self.requests.send(Request::Output { task_id: task_id.clone(), answer }).await;
        asked.map_err(|_| "the agent stops".to_owned())?;
        let place = place.await.map_err(|_| "the agent stops".to_owned())?;
        place.ok_or_else(|| "the agent keeps no output of this task".to_owned())
    }

    /// A group's outputs are those of its processes, and it has no other.
    fn file(&self, place: &Place, stream: Stream, process: Option<&str>) -> Result<PathBuf, String> {
        let directories = self.executor.directories();
        let attempt = &place.attempt;
        let file = match (stream, process) {
            (Stream::Stdout, None) => directories.stdout(attempt),
            (Stream::Stderr, None) => directories.stderr(attempt),
            (Stream::Stdout, Some(process)) => directories.stdout_of(attempt, process),
            (Stream::Stderr, Some(process)) => directories.stderr_of(attempt, process),
        };
        if file.exists() {
            return Ok(file);
        }
        let known = directories.processes(attempt);
        match process {
            None if known.is_empty() => Ok(file),
            None => Err(format!("it is a group; name one of its processes: {}", known.join(", "))),
            Some(process) if known.is_empty() => {
                Err(format!("it has no process `{process}`: it is no group"))
            }
            Some(process) => Err(format!("it has no process `{process}`; it has {}", known.join(", "))),
        }
    }

    async fn read_now(
        &self,
        file: PathBuf,
        offset: u64,
        start: Start,
        limit: u32,
    ) -> Result<crate::sys::OutputSlice, String> {
        let executor = self.executor.clone();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let read = move || {
            let offset = match start {
                Start::Offset => offset,
                Start::Tail(tail) => executor.sys.read_output(&file, u64::MAX, 0)?.end.saturating_sub(tail),
                Start::Newer(age) => {
                    let since = Timestamp(clock::now().0.saturating_sub(micros(age)));
                    let path = &file;
                    offset_since(path, since)
                        .map_err(|source| SysError::Read { path: path.clone(), source })?
                }
            };
            executor.sys.read_output(&file, offset, limit)
        };
        match spawn_blocking(read).await {
            Ok(Ok(slice)) => Ok(slice),
            Ok(Err(error)) => Err(chain(&error)),
            Err(error) => Err(chain(&error)),
        }
    }
}
