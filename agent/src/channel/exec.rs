//! A process of the caller's inside a task: its input, its output, its terminal and its end.
//!
//! Whatever ends the channel ends the process and its session: SIGHUP, then SIGKILL. Who wants to stay must
//! leave the session, and ends with the task.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use model::RefusalCode;
use proto::channel::v1::{self as wire, Stream, frame};
use tokio::{
    io::Interest,
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use super::{Failure, Talk, frames};
use crate::{
    execute::{EnterError, EnterWish, Entered, EnteredSession, Streams, chain},
    sys::{ByteStream, terminal},
};

/// What one frame carries; a read of a pipe gives no more by default.
const CHUNK_BYTES_MAX: usize = 32 * 1024;
/// How long what was executed may take to end after SIGHUP.
const HANGUP_PATIENCE: Duration = Duration::from_secs(2);
/// How long output is read on after the end, where somebody still holds it open and says nothing.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);
/// Pieces of input that wait for the process.
const INPUT_WAITING_MAX: usize = 4;

/// Our ends of the process's streams.
struct Ends {
    input: Option<Arc<ByteStream>>,
    outputs: Vec<(Stream, Arc<ByteStream>)>,
    terminal: Option<Arc<ByteStream>>,
}

impl Talk<'_> {
    pub(super) async fn exec(self, wish: wire::Exec) -> Result<wire::Ended, Failure> {
        self.check_running()?;
        let wire::Exec { command, env, cwd, terminal, has_input } = wish;
        let size = terminal.as_ref().map(frames::size);
        let wish = EnterWish {
            argv: command.into_iter().map(OsString::from).collect(),
            env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: (!cwd.is_empty()).then(|| cwd.into()),
            terminal: size,
            has_input,
        };
        let (executor, task) = (self.executor.clone(), self.task.clone());
        let entered = spawn_blocking(move || executor.enter(&task, wish)).await;
        let entered = match entered {
            Ok(Ok(entered)) => entered,
            Ok(Err(error)) => return Err(refusal(&error)),
            Err(error) => return Err(Failure::new(RefusalCode::Internal, chain(&error))),
        };
        let Entered { session, streams } = entered;
        let ends = ends(streams).map_err(|error| {
            Failure::new(RefusalCode::ChannelBroken, format!("can't wait for its streams: {error}"))
        })?;
        self.say_opened().await?;
        let Self { incoming, outgoing, .. } = self;

        let (ended, is_ended) = watch::channel(false);
        let (input, pieces) = mpsc::channel::<Vec<u8>>(INPUT_WAITING_MAX);
        let mut input = Some(input);
        let mut copying = JoinSet::new();
        let mut writing = JoinSet::new();
        for (stream, end) in ends.outputs {
            copying.spawn(copy_out(stream, end, outgoing.clone(), is_ended.clone()));
        }
        if let Some(end) = ends.input {
            writing.spawn(copy_in(pieces, end));
        }
        // Its end, and then the end of all it had to say; or the end of the caller.
        let waiting = async {
            session.ended().await;
            let exit = session.close(HANGUP_PATIENCE).await;
            ended.send_replace(true);
            while copying.join_next().await.is_some() {}
            exit
        };
        tokio::pin!(waiting);
        let exit = loop {
            let frame = tokio::select! {
                exit = &mut waiting => break exit,
                frame = incoming.message() => frame,
                () = outgoing.closed() => return Err(hang_up(&session).await),
            };
            let Ok(Some(frame)) = frame else { return Err(hang_up(&session).await) };
            match frame.frame {
                Some(frame::Frame::Data(data)) => {
                    if let Some(sender) = &input {
                        let sent = tokio::select! {
                            sent = sender.send(data.data.to_vec()) => sent.is_ok(),
                            exit = &mut waiting => break exit,
                            () = outgoing.closed() => return Err(hang_up(&session).await),
                        };
                        if !sent {
                            // Nobody reads any more, as `yes | head` knows it.
                            input = None;
                        }
                    }
                }
                Some(frame::Frame::Finish(wire::Finish {})) => input = None,
                Some(frame::Frame::Resize(size)) => {
                    if let Some(end) = &ends.terminal
                        && let Err(error) = terminal::set_size(end.as_fd(), frames::size(&size))
                    {
                        tracing::debug!(%error, "can't set the size of a terminal");
                    }
                }
                Some(frame::Frame::Signal(wire::Signal { number })) => session.signal(number),
                Some(
                    frame::Frame::Open(_)
                    | frame::Frame::Join(_)
                    | frame::Frame::Opened(_)
                    | frame::Frame::Files(_)
                    | frame::Frame::Ended(_)
                    | frame::Frame::Failed(_),
                )
                | None => {}
            }
        };
        match exit {
            Some(exit) => Ok(wire::Ended { exit: Some(frames::exit(exit)), sampled: None }),
            None => Err(Failure::new(RefusalCode::ChannelBroken, "how the command ended can't be told")),
        }
    }
}

async fn hang_up(session: &EnteredSession) -> Failure {
    session.close(HANGUP_PATIENCE).await;
    Failure::CallerGone
}

fn refusal(error: &EnterError) -> Failure {
    let code = match error {
        EnterError::NotRunning | EnterError::Frozen => RefusalCode::TaskNotRunning,
        EnterError::Release(_) => RefusalCode::ExecFailed,
        EnterError::Request(_)
        | EnterError::Terminal(_)
        | EnterError::Spawn(_)
        | EnterError::Record { .. } => RefusalCode::ExecFailed,
    };
    Failure::new(code, chain(error))
}

fn ends(streams: Streams) -> io::Result<Ends> {
    let open = |fd: OwnedFd, interest| ByteStream::new(fd, interest).map(Arc::new);
    match streams {
        Streams::Terminal { near, has_input } => {
            let near = open(near, Interest::READABLE | Interest::WRITABLE)?;
            Ok(Ends {
                input: has_input.then(|| near.clone()),
                outputs: vec![(Stream::Stdout, near.clone())],
                terminal: Some(near),
            })
        }
        Streams::Pipes { stdin, stdout, stderr } => Ok(Ends {
            input: stdin.map(|stdin| open(stdin, Interest::WRITABLE)).transpose()?,
            outputs: vec![
                (Stream::Stdout, open(stdout, Interest::READABLE)?),
                (Stream::Stderr, open(stderr, Interest::READABLE)?),
            ],
            terminal: None,
        }),
    }
}

/// Until the end of the stream, or until it is silent after the end of the process.
async fn copy_out(
    stream: Stream,
    from: Arc<ByteStream>,
    to: mpsc::Sender<wire::Frame>,
    mut is_ended: watch::Receiver<bool>,
) {
    loop {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let silence = async {
            // The sender lives as long as this is awaited.
            let _ = is_ended.wait_for(|is_ended| *is_ended).await;
            sleep(LAST_WORDS_PATIENCE).await;
        };
        let count = tokio::select! {
            count = from.read(&mut buffer) => count,
            () = silence => return,
        };
        // EIO: nobody has the terminal open any more.
        let Ok(count @ 1..) = count else { return };
        buffer.truncate(count);
        if to.send(frames::framed(frames::data(stream, buffer))).await.is_err() {
            return;
        }
    }
}

/// Until there is no more input, or nobody who reads it. Dropping the last end of a pipe is the end of input.
async fn copy_in(mut pieces: mpsc::Receiver<Vec<u8>>, to: Arc<ByteStream>) {
    while let Some(piece) = pieces.recv().await {
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
