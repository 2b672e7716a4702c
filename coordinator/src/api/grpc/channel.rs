//! Channels: the caller's half and the agent's, paired by a random number, copied frame by frame.
//!
//! Knows what a channel is for only as far as the audit line and the limit of silence need it. Holds at most a
//! few frames of each direction: a reader that does not read stops the writer, through HTTP/2's own windows.
//! Start at [`open`]; [`join`] is the agent's side.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use model::{AgentId, Refusal, RefusalCode, TaskId, Verb, limits};
use proto::channel::v1::{self as wire, Frame, frame};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Answers, invalid, refused, stream_over};
use crate::{
    api::{Context, error::status, permit},
    convert::channel::{self as convert, OpenWish},
    leader::messages::ChannelId,
};

/// How long the agent may take to open its half.
const PAIRING_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to begin after that: a process has to start, on a slow disk.
const BEGIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long nobody may say anything where a person sits: a forgotten terminal ends with the working day.
const CONVERSATION_SILENCE_MAX: Duration = Duration::from_secs(8 * 3600);
/// The same where files are copied: longer than any profile, which says nothing until it is done.
const TRANSFER_SILENCE_MAX: Duration = Duration::from_secs(15 * 60);
/// Frames that stand between a sender and a receiver, of at most 64 KiB each.
const FRAMES_WAITING_MAX: usize = 4;

/// Every channel that is open or about to be.
#[derive(Debug, Default)]
pub struct Channels {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Those whose agent has not come yet.
    waiting: BTreeMap<ChannelId, oneshot::Sender<Half>>,
    by_task: BTreeMap<TaskId, usize>,
    by_agent: BTreeMap<AgentId, usize>,
    open: usize,
}

/// The agent's side of one channel.
#[derive(Debug)]
struct Half {
    incoming: Streaming<Frame>,
    outgoing: mpsc::Sender<Result<Frame, Status>>,
}

/// The right to one more channel; given back when dropped.
#[derive(Debug)]
struct Permit {
    channels: Arc<Channels>,
    task: TaskId,
    agent: AgentId,
}

impl Channels {
    /// Refuses with Busy when the task, its agent or this member has enough of them.
    fn permit(self: &Arc<Self>, task: &TaskId, agent: &AgentId) -> Result<Permit, Refusal> {
        let mut table = self.lock();
        let of_task = table.by_task.get(task).copied().unwrap_or(0);
        let of_agent = table.by_agent.get(agent).copied().unwrap_or(0);
        let full = |what: &str, max: usize| {
            let message = format!("{what} has {max} channels open, which is the most; end one of them");
            Err(Refusal::new(RefusalCode::Busy, message))
        };
        if of_task >= limits::CHANNELS_PER_TASK_MAX {
            return full(&format!("task `{task}`"), limits::CHANNELS_PER_TASK_MAX);
        }
        if of_agent >= limits::CHANNELS_PER_AGENT_MAX {
            return full(&format!("agent `{agent}`"), limits::CHANNELS_PER_AGENT_MAX);
        }
        if table.open >= limits::CHANNELS_MAX {
            return full("the coordinator", limits::CHANNELS_MAX);
        }
        table.by_task.insert(task.clone(), of_task + 1);
        table.by_agent.insert(agent.clone(), of_agent + 1);
        table.open += 1;
        Ok(Permit { channels: self.clone(), task: task.clone(), agent: agent.clone() })
    }

    fn expect(&self, channel: ChannelId) -> oneshot::Receiver<Half> {
        let (sender, receiver) = oneshot::channel();
        self.lock().waiting.insert(channel, sender);
        receiver
    }

    fn take(&self, channel: ChannelId) -> Option<oneshot::Sender<Half>> {
        self.lock().waiting.remove(&channel)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut table = self.channels.lock();
        let Table { waiting: _, by_task, by_agent, open } = &mut *table;
        give_back(by_task, &self.task);
        give_back(by_agent, &self.agent);
        *open -= 1;
    }
}

fn give_back<Id: Ord>(counts: &mut BTreeMap<Id, usize>, id: &Id) {
    match counts.get_mut(id) {
        Some(1) | None => drop(counts.remove(id)),
        Some(count) => *count -= 1,
    }
}

/// Takes a channel out of the table of those that wait, whatever comes.
struct Expected<'a> {
    channels: &'a Channels,
    channel: ChannelId,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.channels.take(self.channel);
    }
}

/// The caller's side: answers when the agent has begun.
pub(super) async fn open(
    context: &Context,
    caller: &permit::Permit,
    mut incoming: Streaming<Frame>,
) -> Result<Answers<Frame>, Status> {
    let refuse = invalid("open the channel");
    let first = incoming.message().await?.ok_or_else(|| refuse(codec::Invalid::missing("open")))?;
    let wish = convert::open(first).map_err(&refuse)?;
    let OpenWish { task, purpose, shown, is_conversation, is_done_when_silent, open } = wish;
    caller.task(&context.leader, Verb::Exec, &task).map_err(refused)?;

    let agent = context.leader.state().task(&task).and_then(|task| task.agent.clone());
    // Without an agent the leader has the better words.
    let permit = agent.map(|agent| context.channels.permit(&task, &agent)).transpose().map_err(refused)?;
    let channel = ChannelId(*uuid::Uuid::new_v4().as_bytes());
    let paired = context.channels.expect(channel);
    let expected = Expected { channels: &context.channels, channel };
    let agent = context.leader.open_channel(channel, task.clone()).await.map_err(refused)?;
    let half = match timeout(PAIRING_PATIENCE, paired).await {
        Ok(Ok(half)) => half,
        Ok(Err(_)) | Err(_) => {
            let message = format!("agent `{agent}` did not answer within {} s", PAIRING_PATIENCE.as_secs());
            return Err(status(&Refusal::new(RefusalCode::AgentUnreachable, message)));
        }
    };
    drop(expected);

    let mut agent_half = half;
    // A half whose other end is gone answers with its end, below.
    let _ = agent_half.outgoing.send(Ok(Frame { frame: Some(frame::Frame::Open(open)) })).await;
    let answer = timeout(BEGIN_PATIENCE, agent_half.incoming.message()).await;
    match answer.map(|answer| answer.map(|frame| frame.and_then(|frame| frame.frame))) {
        Ok(Ok(Some(frame::Frame::Opened(_)))) => {}
        Ok(Ok(Some(frame::Frame::Failed(failed)))) => return Err(failure(failed)),
        Ok(Ok(_) | Err(_)) => return Err(broken(&agent)),
        Err(_elapsed) => {
            let message = format!("agent `{agent}` did not begin within {} s", BEGIN_PATIENCE.as_secs());
            return Err(status(&Refusal::new(RefusalCode::AgentUnreachable, message)));
        }
    }
    tracing::info!(task_id = %task, agent_id = %agent, purpose, what = shown, "a channel to a task was opened");
    let (outgoing, answers) = mpsc::channel(FRAMES_WAITING_MAX);
    let opened = outgoing.send(Ok(Frame { frame: Some(frame::Frame::Opened(wire::Opened {})) })).await;
    // The receiver is below; it can't be gone.
    let _ = opened;
    let relay = Relay {
        began: Instant::now(),
        silence_max: if is_conversation { CONVERSATION_SILENCE_MAX } else { TRANSFER_SILENCE_MAX },
        is_done_when_silent,
        last_ms: AtomicU64::new(0),
        up_bytes: AtomicU64::new(0),
        down_bytes: AtomicU64::new(0),
    };
    let counted = context.metrics.stream_opened("channel");
    let stop = context.stop.clone();
    context.tasks.spawn(async move {
        let _held = (permit, counted);
        let end = tokio::select! {
            end = relay.run(&agent, incoming, &outgoing, agent_half) => end,
            () = stop.cancelled() => Some(stream_over()),
        };
        let error = end.as_ref().map(|status| status.message().to_owned()).unwrap_or_default();
        if let Some(end) = end {
            // Where it is full nobody reads, and where it is closed nobody hears.
            let _ = outgoing.try_send(Err(end));
        }
        tracing::info!(
            task_id = %task,
            agent_id = %agent,
            purpose,
            elapsed_ms = u64::try_from(relay.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            up_bytes = relay.up_bytes.load(Ordering::Relaxed),
            down_bytes = relay.down_bytes.load(Ordering::Relaxed),
            error,
            "a channel to a task has ended"
        );
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

/// The agent's side: its first frame says which channel it answers.
pub(super) async fn join(
    context: &Context,
    mut incoming: Streaming<Frame>,
) -> Result<Answers<Frame>, Status> {
    let first = incoming.message().await?.and_then(|frame| frame.frame);
    let Some(frame::Frame::Join(wire::Join { channel_id })) = first else {
        return Err(invalid("join the channel")(codec::Invalid::new("frame", "must be `join` at first")));
    };
    let waiting = <[u8; 16]>::try_from(&channel_id[..]).ok();
    let Some(waiting) = waiting.and_then(|bytes| context.channels.take(ChannelId(bytes))) else {
        let message = "nobody waits for this channel (any more)";
        return Err(status(&Refusal::new(RefusalCode::ChannelBroken, message)));
    };
    let (outgoing, answers) = mpsc::channel(FRAMES_WAITING_MAX);
    if waiting.send(Half { incoming, outgoing }).is_err() {
        let message = "the caller of this channel has just gone";
        return Err(status(&Refusal::new(RefusalCode::ChannelBroken, message)));
    }
    Ok(Box::pin(ReceiverStream::new(answers)))
}

/// One channel under way.
struct Relay {
    began: Instant,
    silence_max: Duration,
    is_done_when_silent: bool,
    /// When a frame was last seen, in milliseconds since it began.
    last_ms: AtomicU64,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
}

impl Relay {
    /// Until either side ends; answers what the caller must hear of it.
    async fn run(
        &self,
        agent: &AgentId,
        caller: Streaming<Frame>,
        to_caller: &mpsc::Sender<Result<Frame, Status>>,
        half: Half,
    ) -> Option<Status> {
        let Half { incoming, outgoing } = half;
        tokio::select! {
            end = self.up(caller, &outgoing) => end,
            end = self.down(agent, incoming, to_caller) => end,
            () = to_caller.closed() => None,
            () = self.silence() => {
                let message = format!("nothing was said for {} s", self.silence_max.as_secs());
                Some(status(&Refusal::new(RefusalCode::ChannelBroken, message)))
            }
        }
    }

    /// From the caller to the agent, for as long as there is a caller.
    async fn up(
        &self,
        mut caller: Streaming<Frame>,
        agent: &mpsc::Sender<Result<Frame, Status>>,
    ) -> Option<Status> {
        loop {
            let (frame, is_silent) = match caller.message().await {
                Ok(Some(frame)) => (frame, false),
                // The agent hears of its end when it listens no more, either.
                Ok(None) if !self.is_done_when_silent => return std::future::pending().await,
                // It has nothing more to say, and listens on.
                Ok(None) => (Frame { frame: Some(frame::Frame::Finish(wire::Finish {})) }, true),
                Err(_gone) => return None,
            };
            if let Err(error) = convert::check_frame(&frame) {
                return Some(invalid("pass the frame on")(error));
            }
            self.seen(&frame, &self.up_bytes);
            if agent.send(Ok(frame)).await.is_err() || is_silent {
                // The other direction knows why, or says when it is over.
                return std::future::pending().await;
            }
        }
    }

    /// From the agent to the caller, until the agent's last word.
    async fn down(
        &self,
        agent: &AgentId,
        mut incoming: Streaming<Frame>,
        caller: &mpsc::Sender<Result<Frame, Status>>,
    ) -> Option<Status> {
        loop {
            let Ok(Some(Frame { frame: Some(frame) })) = incoming.message().await else {
                return Some(broken(agent));
            };
            let (frame, is_last) = match frame {
                frame::Frame::Data(data) if convert::check_data(data.data.len()).is_ok() => {
                    (frame::Frame::Data(data), false)
                }
                frame::Frame::Files(files) => (frame::Frame::Files(files), false),
                frame::Frame::Ended(ended) => (frame::Frame::Ended(ended), true),
                frame::Frame::Failed(failed) => return Some(failure(failed)),
                _out_of_turn => return Some(broken(agent)),
            };
            let frame = Frame { frame: Some(frame) };
            self.seen(&frame, &self.down_bytes);
            if caller.send(Ok(frame)).await.is_err() || is_last {
                return None;
            }
        }
    }

    fn seen(&self, frame: &Frame, bytes: &AtomicU64) {
        if let Some(frame::Frame::Data(data)) = &frame.frame {
            bytes.fetch_add(data.data.len() as u64, Ordering::Relaxed);
        }
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    async fn silence(&self) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let until = self.began + last + self.silence_max;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

fn failure(failed: wire::Failed) -> Status {
    let wire::Failed { code, message } = failed;
    let known = RefusalCode::ALL.iter().find(|known| known.as_str() == code);
    let message: String = message.chars().filter(|letter| !letter.is_control()).take(MESSAGE_MAX).collect();
    status(&Refusal::new(known.copied().unwrap_or(RefusalCode::Internal), message))
}

/// Letters of an agent's sentence.
const MESSAGE_MAX: usize = limits::MESSAGE_BYTES_MAX;

fn broken(agent: &AgentId) -> Status {
    let message = format!("agent `{agent}` left in the middle, without a word");
    status(&Refusal::new(RefusalCode::ChannelBroken, message))
}
