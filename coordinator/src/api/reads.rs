//! Reads that say how fresh they must be, and answers that say how fresh they are.
//!
//! Without a word a read is answered by the leader from what it has applied; one that was deposed a moment ago may
//! not know it yet. With `muster-consistency: linearizable` the leader first asks a majority whether it leads, so the
//! answer holds everything that anybody was promised before the call. With `local` any member answers from its own
//! state, also while nobody leads. Both kinds of answers carry in their head who answered, what it had applied, and
//! how long ago it had word of the leader (a leader: of a majority).

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use model::{Refusal, RefusalCode};

use crate::raft::{Freshness, RaftHandle, ReadError};

/// What a caller asks for.
const CONSISTENCY_KEY: &str = "muster-consistency";
/// What it is told.
const MEMBER_KEY: &str = "muster-member-id";
const APPLIED_KEY: &str = "muster-applied-index";
const COMMITTED_KEY: &str = "muster-committed-index";
const HEARD_KEY: &str = "muster-heard-ms";

/// What is answered from the agreed state alone.
const READS: [&str; 7] = [
    "/muster.operator.v1.Operator/ListTasks",
    "/muster.operator.v1.Operator/GetTask",
    "/muster.operator.v1.Operator/ListAgents",
    "/muster.operator.v1.Operator/GetAgent",
    "/muster.operator.v1.Operator/ListFrameworks",
    "/muster.operator.v1.Operator/ListRoles",
    "/muster.operator.v1.Operator/ListJoinTokens",
];

/// A majority that is there answers in milliseconds.
const QUORUM_PATIENCE: Duration = Duration::from_secs(2);

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consistency {
    /// What the leader has applied.
    Leader,
    /// What the answering member has applied.
    Local,
    /// At least everything that was acknowledged before the call.
    Linearizable,
}

/// Reads what a caller asks for. Refuses words that nobody knows, and a change that asks not to be led:
/// InvalidArgument.
pub(super) fn wanted<B>(request: &Request<B>) -> Result<Consistency, Refusal> {
    let Some(word) = request.headers().get(CONSISTENCY_KEY) else { return Ok(Consistency::Leader) };
    let path = request.uri().path();
    match word.to_str().unwrap_or_default() {
        "leader" => Ok(Consistency::Leader),
        "linearizable" => Ok(Consistency::Linearizable),
        "local" if READS.contains(&path) => Ok(Consistency::Local),
        "local" => Err(Refusal::new(
            RefusalCode::InvalidArgument,
            format!(
                "{path} is not a read of the agreed state, so no member can answer it by itself; leave out `local`"
            ),
        )),
        other => Err(Refusal::new(
            RefusalCode::InvalidArgument,
            format!("`{CONSISTENCY_KEY}: {other}` is unknown; it can be `leader`, `local` or `linearizable`"),
        )),
    }
}

/// Returns once the leader's state holds all that was acknowledged before. Refuses with NoLeader.
pub(super) async fn until_linearizable(raft: &RaftHandle) -> Result<(), Refusal> {
    let why = match tokio::time::timeout(QUORUM_PATIENCE, raft.ensure_linearizable()).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(ReadError::NotLeader { leader: _ })) => "the lead has just gone to another member",
        Ok(Err(ReadError::NoQuorum)) | Err(_) => "no majority of the members confirms that this one leads",
        Ok(Err(ReadError::Stopped)) => "this member stops",
    };
    Err(Refusal::new(RefusalCode::NoLeader, format!("{why}; try again in a moment, or read with `local`")))
}

/// Writes into an answer's head how fresh it is.
pub(super) fn state_freshness<B>(raft: &RaftHandle, freshness: Freshness, answer: &mut Response<B>) {
    let Freshness { applied, committed, heard } = freshness;
    let head: &mut HeaderMap = answer.headers_mut();
    head.insert(MEMBER_KEY, HeaderValue::from(raft.member_id()));
    head.insert(APPLIED_KEY, HeaderValue::from(applied));
    head.insert(COMMITTED_KEY, HeaderValue::from(committed));
    if let Some(heard) = heard {
        head.insert(HEARD_KEY, HeaderValue::from(u64::try_from(heard.as_millis()).unwrap_or(u64::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, word: &str) -> Result<Consistency, Refusal> {
        wanted(&Request::builder().uri(path).header(CONSISTENCY_KEY, word).body(()).unwrap())
    }

    #[test]
    fn a_change_is_never_local() {
        assert_eq!(asked(READS[0], "local"), Ok(Consistency::Local));
        assert_eq!(asked(READS[0], "linearizable"), Ok(Consistency::Linearizable));
        let run = "/muster.operator.v1.Operator/Run";
        assert_eq!(asked(run, "linearizable"), Ok(Consistency::Linearizable));
        for (path, word) in [(run, "local"), (READS[0], "fresh"), (READS[0], "")] {
            assert_eq!(asked(path, word).unwrap_err().code, RefusalCode::InvalidArgument, "{word}");
        }
        assert_eq!(wanted(&Request::builder().uri(run).body(()).unwrap()), Ok(Consistency::Leader));
    }
}
