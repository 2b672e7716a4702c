//! Conversations with one task: execute in it, list and copy its files, freeze it, profile it.
//!
//! [`Channel`] is the conversation as it is; [`Connection::exec`] and its sisters are what most callers want.
//! Nothing here is repeated by itself when it breaks: what was executed once may not be twice.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    time::Duration,
};

use proto::{
    channel::v1::{
        Data, Ended, Exec, FileFacts, Files, Finish, Frame, Freeze, ListFiles, Open, Profile, ReadFiles,
        Sampled, Signal, Stream, WindowSize, WriteFiles, WriteInput, frame, open::Purpose,
    },
    types::v1::exit,
};
use tokio::{
    sync::mpsc,
    task::{JoinError, spawn_blocking},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{ClientError, Connection};

/// What one frame may carry.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Frames that wait to be sent.
const FRAMES_WAITING_MAX: usize = 4;

/// An open conversation. Dropping it ends it, and what was begun in it.
pub struct Channel {
    connection: Connection,
    sender: Sender,
    frames: Streaming<Frame>,
    sampled: Option<Sampled>,
}

/// The speaking side; cheap to clone. The conversation goes on when all are dropped.
#[derive(Clone)]
pub struct Sender {
    frames: mpsc::Sender<Frame>,
}

/// What the task's agent says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Data {
        stream: Stream,
        data: Vec<u8>,
    },
    Files {
        files: Vec<FileFacts>,
        is_cut: bool,
    },
    /// Always the last; of what was executed, how it ended.
    Ended(Option<exit::How>),
}

/// The other side does not listen any more; [`Channel::next`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the conversation is over")]
pub struct Over;

/// What is to be executed in a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    pub command: Vec<String>,
    /// Added to the task's own.
    pub env: BTreeMap<String, String>,
    /// Relative to the task's own.
    pub cwd: Option<String>,
    /// Rows and columns; absent: without a terminal.
    pub terminal: Option<(u16, u16)>,
    pub has_input: bool,
}

/// How something that was executed ended, and what it wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecOutput {
    pub exit: Option<exit::How>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Where a task spent its CPU time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profiled {
    /// One line for each stack: frames from the outermost, with semicolons, and a count. A stack may come again.
    pub folded: String,
    pub samples: u64,
    /// Taken, but not kept.
    pub lost: u64,
}

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// On this side.
    #[error("can't use the files on this side")]
    Local(#[source] io::Error),
}

impl Sender {
    /// In pieces, where it is long.
    pub async fn data(&self, data: &[u8]) -> Result<(), Over> {
        for piece in data.chunks(FRAME_BYTES_MAX) {
            let data = Data { data: piece.to_vec().into(), stream: Stream::Unspecified.into() };
            self.send(frame::Frame::Data(data)).await?;
        }
        Ok(())
    }

    /// Nothing more comes from here.
    pub async fn finish(&self) -> Result<(), Over> {
        self.send(frame::Frame::Finish(Finish {})).await
    }

    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), Over> {
        self.send(frame::Frame::Resize(window(rows, columns))).await
    }

    pub async fn signal(&self, number: u32) -> Result<(), Over> {
        self.send(frame::Frame::Signal(Signal { number })).await
    }

    async fn send(&self, frame: frame::Frame) -> Result<(), Over> {
        self.frames.send(Frame { frame: Some(frame) }).await.map_err(|_| Over)
    }
}

impl Channel {
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// The next that the agent says; an error is its last word, too.
    pub async fn next(&mut self) -> Result<Said, ClientError> {
        let frame = match self.frames.message().await {
            Ok(Some(frame)) => frame.frame,
            Ok(None) => None,
            Err(status) => return Err(self.connection.error(&status)),
        };
        match frame {
            Some(frame::Frame::Data(Data { data, stream })) => {
                let stream = Stream::try_from(stream).unwrap_or(Stream::Unspecified);
                Ok(Said::Data { stream, data: data.to_vec() })
            }
            Some(frame::Frame::Files(Files { files, is_cut })) => Ok(Said::Files { files, is_cut }),
            Some(frame::Frame::Ended(Ended { exit, sampled })) => {
                self.sampled = sampled;
                Ok(Said::Ended(exit.and_then(|exit| exit.how)))
            }
            Some(
                frame::Frame::Open(_)
                | frame::Frame::Join(_)
                | frame::Frame::Opened(_)
                | frame::Frame::Finish(_)
                | frame::Frame::Resize(_)
                | frame::Frame::Signal(_)
                | frame::Frame::Failed(_),
            )
            | None => Err(ClientError::Incomplete { what: "its end" }),
        }
    }

    /// Until the end, with whatever is said on the way.
    async fn until_end(
        &mut self,
        mut take: impl FnMut(Said) -> Result<(), CopyError>,
    ) -> Result<Option<exit::How>, CopyError> {
        loop {
            match self.next().await? {
                Said::Ended(exit) => return Ok(exit),
                said @ (Said::Data { .. } | Said::Files { .. }) => take(said)?,
            }
        }
    }
}

impl Connection {
    /// Opens a conversation, and waits until the task's agent has begun.
    pub async fn open_channel(&self, task_id: &str, purpose: Purpose) -> Result<Channel, ClientError> {
        let (frames, waiting) = mpsc::channel(FRAMES_WAITING_MAX);
        let open = Open { task_id: task_id.to_owned(), purpose: Some(purpose) };
        let first = Frame { frame: Some(frame::Frame::Open(open)) };
        // There is room: it is the first.
        let _ = frames.try_send(first);
        let answer = self.operator().open_channel(ReceiverStream::new(waiting)).await;
        let mut answers = answer.map_err(|status| self.error(&status))?.into_inner();
        match answers.message().await.map_err(|status| self.error(&status))?.and_then(|frame| frame.frame) {
            Some(frame::Frame::Opened(_)) => {}
            _ => return Err(ClientError::Incomplete { what: "the beginning of the conversation" }),
        }
        Ok(Channel { connection: self.clone(), sender: Sender { frames }, frames: answers, sampled: None })
    }

    /// Executes something in a running task.
    pub async fn exec(&self, task_id: &str, options: ExecOptions) -> Result<Channel, ClientError> {
        let ExecOptions { command, env, cwd, terminal, has_input } = options;
        let terminal = terminal.map(|(rows, columns)| window(rows, columns));
        let exec = Exec { command, env, cwd: cwd.unwrap_or_default(), terminal, has_input };
        self.open_channel(task_id, Purpose::Exec(exec)).await
    }

    /// Executes something that reads `input`, and waits for its end.
    pub async fn exec_output(
        &self,
        task_id: &str,
        options: ExecOptions,
        input: Vec<u8>,
    ) -> Result<ExecOutput, ClientError> {
        let mut channel = self.exec(task_id, options).await?;
        let sender = channel.sender();
        let speaking = tokio::spawn(async move {
            // Who does not read it all ends without it.
            let _ = sender.data(&input).await;
            let _ = sender.finish().await;
        });
        let mut output = ExecOutput { exit: None, stdout: Vec::new(), stderr: Vec::new() };
        loop {
            match channel.next().await? {
                Said::Data { stream: Stream::Stderr, data } => output.stderr.extend_from_slice(&data),
                Said::Data { stream: Stream::Stdout | Stream::Unspecified, data } => {
                    output.stdout.extend_from_slice(&data);
                }
                Said::Files { .. } => {}
                Said::Ended(exit) => {
                    speaking.abort();
                    output.exit = exit;
                    return Ok(output);
                }
            }
        }
    }

    /// Opens the input of a running task that asked for one. [`Sender::finish`] ends it for good; a channel that is
    /// dropped leaves it open.
    pub async fn write_input(&self, task_id: &str) -> Result<Channel, ClientError> {
        self.open_channel(task_id, Purpose::WriteInput(WriteInput {})).await
    }

    /// What is in a directory of a task's sandbox; whether there was more than is told.
    pub async fn list_files(&self, task_id: &str, path: &str) -> Result<(Vec<FileFacts>, bool), ClientError> {
        let purpose = Purpose::ListFiles(ListFiles { path: path.to_owned() });
        let mut channel = self.open_channel(task_id, purpose).await?;
        let (mut all, mut is_cut_off) = (Vec::new(), false);
        loop {
            match channel.next().await? {
                Said::Files { files, is_cut } => {
                    all.extend(files);
                    is_cut_off |= is_cut;
                }
                Said::Data { .. } => {}
                Said::Ended(_) => return Ok((all, is_cut_off)),
            }
        }
    }

    /// Hands a file or directory of a task's sandbox to `take`, which reads it as a tar archive on a thread of
    /// its own. All of the archive is below one name.
    pub async fn read_files<T: Send + 'static>(
        &self,
        task_id: &str,
        path: &str,
        take: impl FnOnce(&mut dyn Read) -> io::Result<T> + Send + 'static,
    ) -> Result<T, CopyError> {
        let purpose = Purpose::ReadFiles(ReadFiles { path: path.to_owned() });
        let mut channel = self.open_channel(task_id, purpose).await?;
        let (pieces, waiting) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut taking = spawn_blocking(move || {
            let mut pieces = Pieces { waiting, piece: io::Cursor::new(Vec::new()) };
            let taken = take(&mut pieces)?;
            // What follows the archive's end is padding.
            io::copy(&mut pieces, &mut io::sink())?;
            Ok(taken)
        });
        loop {
            let said = tokio::select! {
                taken = &mut taking => return local(taken),
                said = channel.next() => said?,
            };
            match said {
                Said::Data { data, .. } => {
                    if pieces.send(data).await.is_err() {
                        return local(taking.await);
                    }
                }
                Said::Files { .. } => {}
                Said::Ended(_) => break,
            }
        }
        drop(pieces);
        local(taking.await)
    }

    /// Puts a tar archive, which `give` writes on a thread of its own, into a task's sandbox. All of it must be
    /// below one name; it becomes `path`, or goes into it where that is a directory.
    pub async fn write_files(
        &self,
        task_id: &str,
        path: &str,
        give: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Result<(), CopyError> {
        let purpose = Purpose::WriteFiles(WriteFiles { path: path.to_owned() });
        let mut channel = self.open_channel(task_id, purpose).await?;
        let (pieces, mut waiting) = mpsc::channel::<Vec<u8>>(FRAMES_WAITING_MAX);
        let giving = spawn_blocking(move || {
            let mut writer = io::BufWriter::with_capacity(FRAME_BYTES_MAX, Giver { pieces });
            give(&mut writer)?;
            writer.flush()
        });
        let sender = channel.sender();
        let speaking = async {
            while let Some(piece) = waiting.recv().await {
                if sender.data(&piece).await.is_err() {
                    return Ok(());
                }
            }
            drop(waiting);
            let given = local(giving.await);
            if given.is_ok() {
                // Where nobody listens any more, the other side says why.
                let _ = sender.finish().await;
            }
            given
        };
        let (heard, said) = (channel.until_end(|_| Ok(())), speaking);
        tokio::pin!(heard, said);
        tokio::select! {
            end = &mut heard => end.map(drop),
            given = &mut said => {
                // An archive that could not be made ends the conversation without its end.
                given?;
                heard.await.map(drop)
            }
        }
    }

    /// Stops every process of a task where it stands, or lets them go on.
    pub async fn set_frozen(&self, task_id: &str, is_frozen: bool) -> Result<(), ClientError> {
        let mut channel = self.open_channel(task_id, Purpose::Freeze(Freeze { is_frozen })).await?;
        while !matches!(channel.next().await?, Said::Ended(_)) {}
        Ok(())
    }

    /// Sends a signal to a task's command, by its number.
    pub async fn send_signal(&self, task_id: &str, number: u32) -> Result<(), ClientError> {
        let mut channel = self.open_channel(task_id, Purpose::SendSignal(Signal { number })).await?;
        while !matches!(channel.next().await?, Said::Ended(_)) {}
        Ok(())
    }

    /// Samples where a task's threads spend their time, until it is over or `stop` is.
    pub async fn profile(
        &self,
        task_id: &str,
        duration: Duration,
        frequency: u32,
        stop: impl Future<Output = ()>,
    ) -> Result<Profiled, ClientError> {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let purpose = Purpose::Profile(Profile { duration_ms, frequency });
        let mut channel = self.open_channel(task_id, purpose).await?;
        let sender = channel.sender();
        let mut folded = Vec::new();
        let mut stop = std::pin::pin!(stop);
        let mut is_stopped = false;
        loop {
            let said = tokio::select! {
                said = channel.next() => said?,
                () = &mut stop, if !is_stopped => {
                    is_stopped = true;
                    // Where it is over already, what it says comes anyway.
                    let _ = sender.finish().await;
                    continue;
                }
            };
            match said {
                Said::Data { data, .. } => folded.extend_from_slice(&data),
                Said::Files { .. } => {}
                Said::Ended(_) => break,
            }
        }
        let Sampled { samples, lost } = channel.sampled.unwrap_or_default();
        Ok(Profiled { folded: String::from_utf8_lossy(&folded).into_owned(), samples, lost })
    }
}

fn window(rows: u16, columns: u16) -> WindowSize {
    WindowSize { rows: rows.into(), columns: columns.into() }
}

fn local<T>(done: Result<io::Result<T>, JoinError>) -> Result<T, CopyError> {
    match done {
        Ok(done) => done.map_err(CopyError::Local),
        Err(error) => Err(CopyError::Local(io::Error::other(error))),
    }
}

/// An archive on its way in.
struct Pieces {
    waiting: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.waiting.blocking_recv() {
                Some(piece) => self.piece = io::Cursor::new(piece),
                None => return Ok(0),
            }
        }
    }
}

/// An archive on its way out.
struct Giver {
    pieces: mpsc::Sender<Vec<u8>>,
}

impl Write for Giver {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.pieces.blocking_send(bytes.to_vec());
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
