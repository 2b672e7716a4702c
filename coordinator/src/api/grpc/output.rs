//! Reading a task's output: pulled from its agent through the leader, a bounded chunk at a time.
//!
//! Nothing is fetched before the reader took what came before, so a slow reader costs nothing.

use std::time::Duration;

use futures::stream;
use model::RefusalCode;
use proto::operator::v1 as wire;
use tokio::time::Instant;
use tonic::Status;

use super::{Answers, refused, stream_over};
use crate::{
    api::Context,
    convert::operator::{OutputWish, to_output_chunk},
    leader::messages::OutputRequest,
    metrics::OpenStream,
};

/// One chunk: what the wire format promises.
const CHUNK_BYTES_MAX: u32 = 64 * 1024;
/// How long the agent waits for output before it answers with none.
const FOLLOW_WAIT: Duration = Duration::from_secs(20);
/// How long a follower puts up with an agent that restarts or a leader that changes.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

struct Reader {
    context: Context,
    wish: OutputWish,
    failing_since: Option<Instant>,
    is_over: bool,
    _counted: OpenStream,
}

pub(super) fn read(context: Context, wish: OutputWish) -> Answers<wire::OutputChunk> {
    let counted = context.metrics.stream_opened("output");
    let reader = Reader { context, wish, failing_since: None, is_over: false, _counted: counted };
    Box::pin(stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await? {
            Ok(chunk) => Some((Ok(chunk), Some(reader))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl Reader {
    /// `None` when all was read that there is, or, with `follow`, that there will be.
    async fn next(&mut self) -> Option<Result<wire::OutputChunk, Status>> {
        let stop = self.context.stop.clone();
        while !self.is_over {
            let OutputWish { task, stream, offset, follow, tail, newer_than, process } = self.wish.clone();
            let wait = if follow { FOLLOW_WAIT } else { Duration::ZERO };
            let request = OutputRequest {
                task,
                stream,
                offset,
                tail,
                newer_than,
                limit: CHUNK_BYTES_MAX,
                wait,
                process,
            };
            let answer = tokio::select! {
                () = stop.cancelled() => return Some(Err(stream_over())),
                answer = self.context.leader.read_output(request) => answer,
            };
            let chunk = match answer {
                Ok(chunk) => chunk,
                Err(refusal) if follow && self.may_pass(refusal.code) => {
                    tokio::select! {
                        () = stop.cancelled() => return Some(Err(stream_over())),
                        () = tokio::time::sleep(RETRY_PAUSE) => continue,
                    }
                }
                Err(refusal) => return Some(Err(refused(refusal))),
            };
            self.failing_since = None;
            self.wish.offset = chunk.offset.saturating_add(chunk.data.len() as u64);
            // From now on the place is known.
            self.wish.tail = None;
            self.wish.newer_than = None;
            self.is_over = chunk.is_end || (!follow && chunk.data.is_empty());
            if !chunk.data.is_empty() {
                return Some(Ok(to_output_chunk(chunk)));
            }
        }
        None
    }

    /// Whether it is worth while to try again.
    fn may_pass(&mut self, code: RefusalCode) -> bool {
        let is_passing = match code {
            RefusalCode::AgentUnreachable
            | RefusalCode::Busy
            | RefusalCode::NoLeader
            | RefusalCode::OutcomeUnknown => true,
            RefusalCode::InvalidArgument
            | RefusalCode::FrameworkUnknown
            | RefusalCode::FrameworkEnded
            | RefusalCode::SubscriptionReplaced
            | RefusalCode::FrameworkBuiltIn
            | RefusalCode::TaskUnknown
            | RefusalCode::TaskNotYours
            | RefusalCode::TaskIdTaken
            | RefusalCode::OfferUnknown
            | RefusalCode::OfferNotYours
            | RefusalCode::OffersMixed
            | RefusalCode::ExceedsOffer
            | RefusalCode::AgentLacksResources
            | RefusalCode::AgentUnknown
            | RefusalCode::AgentDeactivated
            | RefusalCode::AgentGone
            | RefusalCode::EpochStale
            | RefusalCode::ClusterForeign
            | RefusalCode::AgentIdTaken
            | RefusalCode::MemberUnknown
            | RefusalCode::MemberIdTaken
            | RefusalCode::MemberBehind
            | RefusalCode::MemberTooOld
            | RefusalCode::MemberLast
            | RefusalCode::Unauthenticated
            | RefusalCode::TlsNeeded
            | RefusalCode::CertificateRefused
            | RefusalCode::JoinTokenRefused
            | RefusalCode::NotPermitted
            | RefusalCode::UserUnknown
            | RefusalCode::OriginRefused
            | RefusalCode::ClusterVersionTooOld
            | RefusalCode::OutputGone
            | RefusalCode::HistoryGone
            | RefusalCode::TaskNotRunning
            | RefusalCode::SandboxGone
            | RefusalCode::FileUnknown
            | RefusalCode::FileRefused
            | RefusalCode::ExecFailed
            | RefusalCode::InputRefused
            | RefusalCode::ChannelBroken
            | RefusalCode::Internal => false,
        };
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        is_passing && since.elapsed() < FOLLOW_PATIENCE
    }
}
