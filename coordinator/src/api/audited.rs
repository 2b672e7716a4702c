//! What the audit log says of a call: who, and what its message named.
//!
//! Reads a copy of the message, of which it names single fields and nothing else: specs hold secrets. Never
//! changes a call, nor holds it up.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::body::{Body, HttpBody};
use http::{HeaderMap, Request};
use hyper::body::{Bytes, Frame, SizeHint};
use identity::Shown;
use model::Refusal;
use prost::Message;
use proto::{channel::v1 as channel, join::v1 as join, operator::v1 as operator, scheduler::v1 as scheduler};
use serde_json::{Value, json};

use super::{Caller, Peer, error::CODE_KEY, serve::Origin};
use crate::audit::Line;

/// What is looked at of a message; one that is longer is told of without what it named.
const COPY_BYTES_MAX: usize = 256 * 1024;
/// Before each message of gRPC: a flag and its length.
const PREFIX_BYTES: usize = 5;
/// Names that are listed of one message.
const NAMES_MAX: usize = 32;
/// As much of a text as a line shows.
const TEXT_CHARS_MAX: usize = 256;

/// What a caller sends, copied as it passes.
struct Copied {
    body: Body,
    copy: Arc<Mutex<Vec<u8>>>,
}

/// The beginning of what a caller sent.
pub(super) struct Copy(Arc<Mutex<Vec<u8>>>);

pub(super) fn copied(request: Request<Body>) -> (Request<Body>, Copy) {
    let copy = Arc::new(Mutex::new(Vec::new()));
    let request = request.map(|body| Body::new(Copied { body, copy: copy.clone() }));
    (request, Copy(copy))
}

impl Copy {
    /// The first message, as far as it was copied.
    pub(super) fn message(&self) -> Vec<u8> {
        let copy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((prefix, rest)) = copy.split_at_checked(PREFIX_BYTES) else { return Vec::new() };
        let length = prefix.last_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length));
        usize::try_from(length).ok().and_then(|length| rest.get(..length)).unwrap_or_default().to_vec()
    }
}

impl HttpBody for Copied {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
            let room = COPY_BYTES_MAX.saturating_sub(copy.len()).min(data.len());
            copy.extend_from_slice(data.get(..room).unwrap_or_default());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The line of a call that was refused before its message was read.
pub(super) fn refused(who: Option<&Caller>, arrived: &Origin, path: &str, refusal: &Refusal) -> Line {
    let who = match (who, &arrived.peer) {
        (Some(caller), _) => caller.shown(),
        (None, Peer::Tls { shown: Shown::Valid { identity, .. } | Shown::Expired { identity, .. }, .. }) => {
            identity.to_string()
        }
        (None, Peer::Tls { .. } | Peer::Loopback | Peer::Plain | Peer::Socket) => "nobody".to_owned(),
    };
    Line {
        who,
        credential: None,
        from: arrived.address.clone(),
        method: shown(path),
        what: Value::Null,
        refused: Some(refusal.code.as_str().to_owned()),
    }
}

/// The line of a call that was answered; a stream's when it began.
pub(super) fn answered(caller: &Caller, from: &str, path: &str, message: &[u8], answer: &HeaderMap) -> Line {
    let credential = match caller {
        Caller::Token { user: _, token } => Some(token.clone()),
        Caller::Owner | Caller::Operator | Caller::Known(_) | Caller::Late(_) | Caller::Nobody => None,
    };
    // An answer that is only a status has it in its head; one that was carried out, after its message.
    let status =
        answer.get("grpc-status").and_then(|status| status.to_str().ok()).filter(|status| *status != "0");
    let code = answer.get(CODE_KEY).and_then(|code| code.to_str().ok());
    Line {
        who: caller.shown(),
        credential,
        from: from.to_owned(),
        method: shown(path),
        what: what(path, message).unwrap_or(Value::Null),
        refused: status.map(|status| code.map_or_else(|| format!("status-{status}"), ToOwned::to_owned)),
    }
}

fn shown(path: &str) -> String {
    path.trim_start_matches('/').trim_start_matches("muster.").chars().take(TEXT_CHARS_MAX).collect()
}

/// What a message names; `None` where nothing is known of it, or it can't be read.
fn what(path: &str, message: &[u8]) -> Option<Value> {
    let (service, method) = path.strip_prefix("/muster.")?.split_once('/')?;
    Some(match (service, method) {
        ("join.v1.Joining", "Join") => {
            let join::JoinRequest { token, request: _, who } = read(message)?;
            use join::join_request::Who;
            let who = match who {
                Some(Who::AgentId(id)) => format!("agent/{id}"),
                Some(Who::Member(member)) => format!("member/{}", member.member_id),
                None => String::new(),
            };
            // The second part of a token is its id; the third is its secret.
            json!({ "who": text(&who), "token_id": text(token.split('-').nth(1).unwrap_or_default()) })
        }
        ("join.v1.Joining", "Renew") => json!({}),
        ("operator.v1.Operator", method) => of_operator(method, message)?,
        ("scheduler.v1.Scheduler", method) => of_scheduler(method, message)?,
        _ => return None,
    })
}

fn of_operator(method: &str, message: &[u8]) -> Option<Value> {
    Some(match method {
        "Run" => {
            let operator::RunRequest { request_id, spec, count } = read(message)?;
            let spec = spec.unwrap_or_default();
            json!({
                "name": text(&spec.name),
                "task_id": text(&spec.task_id),
                "count": count.unwrap_or(1),
                "request_id": text(&request_id),
            })
        }
        "KillTask" => {
            let operator::KillTaskRequest { request_id, task_id, grace_ms: _ } = read(message)?;
            json!({ "task_id": text(&task_id), "request_id": text(&request_id) })
        }
        "OpenChannel" => of_channel(message)?,
        "TeardownFramework" => {
            let operator::TeardownFrameworkRequest { request_id, framework_id } = read(message)?;
            json!({ "framework_id": text(&framework_id), "request_id": text(&request_id) })
        }
        "Backup" => json!({}),
        "SetRole" => {
            let operator::SetRoleRequest { request_id, role, weight_milli } = read(message)?;
            json!({ "role": text(&role), "weight_milli": weight_milli, "request_id": text(&request_id) })
        }
        "AddMember" => {
            let operator::AddMemberRequest { member_id, address } = read(message)?;
            json!({ "member_id": member_id, "address": text(&address) })
        }
        "RemoveMember" => {
            let operator::RemoveMemberRequest { member_id } = read(message)?;
            json!({ "member_id": member_id })
        }
        "TransferLeadership" => {
            let operator::TransferLeadershipRequest { member_id } = read(message)?;
            json!({ "member_id": member_id })
        }
        "DeactivateAgent" => {
            let operator::DeactivateAgentRequest { request_id, agent_id, ends_tasks, grace_ms: _ } =
                read(message)?;
            json!({
                "agent_id": text(&agent_id),
                "ends_tasks": ends_tasks,
                "request_id": text(&request_id),
            })
        }
        "ActivateAgent" => {
            let operator::ActivateAgentRequest { request_id, agent_id } = read(message)?;
            json!({ "agent_id": text(&agent_id), "request_id": text(&request_id) })
        }
        "MarkAgentGone" => {
            let operator::MarkAgentGoneRequest { request_id, agent_id } = read(message)?;
            json!({ "agent_id": text(&agent_id), "request_id": text(&request_id) })
        }
        "MarkAgentsUnreachable" => {
            let operator::MarkAgentsUnreachableRequest { agent_ids } = read(message)?;
            json!({ "agent_ids": texts(&agent_ids) })
        }
        "CreateJoinToken" => {
            let asked: operator::CreateJoinTokenRequest = read(message)?;
            json!({ "kind": asked.kind().as_str_name(), "only_for": text(&asked.only_for), "ttl_ms": asked.ttl_ms })
        }
        "RevokeJoinToken" => {
            let operator::RevokeJoinTokenRequest { token_id } = read(message)?;
            json!({ "token_id": text(&token_id) })
        }
        "SetUser" => {
            let operator::SetUserRequest { user, duties } = read(message)?;
            json!({ "user": text(&user), "duties": texts(&duties) })
        }
        "RemoveUser" => {
            let operator::RemoveUserRequest { user } = read(message)?;
            json!({ "user": text(&user) })
        }
        "CreateUserToken" => {
            let operator::CreateUserTokenRequest { user, ttl_ms } = read(message)?;
            json!({ "user": text(&user), "ttl_ms": ttl_ms })
        }
        "RevokeUserToken" => {
            let operator::RevokeUserTokenRequest { token_id } = read(message)?;
            json!({ "token_id": text(&token_id) })
        }
        "CertifyUser" => {
            let operator::CertifyUserRequest { user, request: _, ttl_ms } = read(message)?;
            json!({ "user": text(&user), "ttl_ms": ttl_ms })
        }
        "SetDuty" => {
            let operator::SetDutyRequest { duty, grants } = read(message)?;
            json!({ "duty": text(&duty), "grants": texts(&grants) })
        }
        "RevokeCertificates" => {
            let operator::RevokeCertificatesRequest { name } = read(message)?;
            json!({ "name": text(&name) })
        }
        _ => return None,
    })
}

fn of_channel(message: &[u8]) -> Option<Value> {
    use channel::{frame::Frame, open::Purpose};
    let channel::Frame { frame } = read(message)?;
    let Some(Frame::Open(open)) = frame else { return Some(json!({})) };
    let purpose = open.purpose.map(|purpose| match purpose {
        Purpose::Exec(_) => "exec",
        Purpose::ListFiles(_) => "list-files",
        Purpose::ReadFiles(_) => "read-files",
        Purpose::WriteFiles(_) => "write-files",
        Purpose::Freeze(_) => "freeze",
        Purpose::Profile(_) => "profile",
        Purpose::SendSignal(_) => "signal",
        Purpose::WriteInput(_) => "write-input",
    });
    // What is executed may hold secrets in its arguments.
    Some(json!({ "task_id": text(&open.task_id), "purpose": purpose }))
}

fn of_scheduler(method: &str, message: &[u8]) -> Option<Value> {
    let named = |caller: Option<scheduler::Caller>| {
        let scheduler::Caller { framework_id, subscription_id: _, request_id } = caller.unwrap_or_default();
        json!({ "framework_id": text(&framework_id), "request_id": text(&request_id) })
    };
    let of_info = |info: Option<scheduler::FrameworkInfo>| {
        let info = info.unwrap_or_default();
        (text(&info.name), text(&info.role))
    };
    Some(match method {
        "Subscribe" => {
            let scheduler::SubscribeRequest { info, framework_id, cursor: _, request_id } = read(message)?;
            let (name, role) = of_info(info);
            json!({
                "framework_id": text(&framework_id),
                "name": name,
                "role": role,
                "request_id": text(&request_id),
            })
        }
        "Accept" => {
            let scheduler::AcceptRequest { caller, offer_ids, operations: _, refuse_ms: _ } = read(message)?;
            let mut what = named(caller);
            what["offer_ids"] = texts(&offer_ids);
            what
        }
        "Kill" => {
            let scheduler::KillRequest { caller, task_id, grace_ms: _ } = read(message)?;
            let mut what = named(caller);
            what["task_id"] = text(&task_id);
            what
        }
        "UpdateFramework" => {
            let scheduler::UpdateFrameworkRequest { caller, info } = read(message)?;
            let mut what = named(caller);
            let (name, role) = of_info(info);
            what["name"] = name;
            what["role"] = role;
            what
        }
        "Teardown" => {
            let scheduler::TeardownRequest { caller } = read(message)?;
            named(caller)
        }
        _ => return None,
    })
}

fn read<M: Message + Default>(message: &[u8]) -> Option<M> {
    M::decode(message).ok()
}

fn text(text: &str) -> Value {
    text.chars().take(TEXT_CHARS_MAX).collect::<String>().into()
}

fn texts(texts: &[String]) -> Value {
    texts.iter().take(NAMES_MAX).map(|name| text(name)).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::methods::{method, tests::paths};
    use expect_test::expect;

    #[test]
    fn of_every_change_it_is_known_what_it_names() {
        for path in paths().into_iter().filter(|path| method(path).is_change) {
            assert!(what(&path, b"").is_some(), "the audit log doesn't know what {path} names");
        }
    }

    #[test]
    fn a_line_names_things_and_no_secrets() {
        let spec = proto::types::v1::TaskSpec {
            name: "web".to_owned(),
            env: [("PASSWORD".to_owned(), "hunter2".to_owned())].into_iter().collect(),
            ..Default::default()
        };
        let run = operator::RunRequest { request_id: "r1".to_owned(), spec: Some(spec), count: Some(3) };
        let joined = join::JoinRequest {
            token: "muster1-ab12-hunter2-ff".to_owned(),
            request: Vec::new().into(),
            who: Some(join::join_request::Who::AgentId("a1".to_owned())),
        };
        let exec = channel::Exec { command: vec!["hunter2".to_owned()], ..Default::default() };
        let open =
            channel::Open { task_id: "t1".to_owned(), purpose: Some(channel::open::Purpose::Exec(exec)) };
        let opened = channel::Frame { frame: Some(channel::frame::Frame::Open(open)) };
        let mut lines = String::new();
        for (path, message) in [
            ("/muster.operator.v1.Operator/Run", run.encode_to_vec()),
            ("/muster.join.v1.Joining/Join", joined.encode_to_vec()),
            ("/muster.operator.v1.Operator/OpenChannel", opened.encode_to_vec()),
        ] {
            lines += &format!("{}\n", what(path, &message).unwrap());
        }
        assert!(!lines.contains("hunter2"), "{lines}");
        expect![[r#"
            {"count":3,"name":"web","request_id":"r1","task_id":""}
            {"token_id":"ab12","who":"agent/a1"}
            {"purpose":"exec","task_id":"t1"}
        "#]]
        .assert_eq(&lines);
    }

    #[tokio::test]
    async fn what_passes_is_what_was_sent() {
        use http_body_util::BodyExt as _;
        let sent: Vec<u8> = [&[0, 0, 0, 0, 3][..], b"abcmore"].concat();
        let (request, copy) = copied(Request::new(Body::from(sent.clone())));
        assert_eq!(copy.message(), b"");
        let passed = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(passed, sent);
        assert_eq!(copy.message(), b"abc");
        let long = vec![0xff; COPY_BYTES_MAX + 10];
        let (request, copy) = copied(Request::new(Body::from(long.clone())));
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), long);
        assert_eq!(copy.message(), b"", "one that is longer than what is copied is not read");
    }
}
