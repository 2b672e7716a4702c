//! Arbitrary values of the model, for the property that what is written can be read.

use std::sync::Arc;

use cluster::{
    AgentFacts, AgentPart, Answer, AnswerPart, Asked, Availability, Command, DeactivatedTasks, EndedPart,
    Entry, FrameworkInfo, FrameworkPart, FrameworkState, GoneAgentPart, JoinKind, JoinToken, JoinTokenEnd,
    JoinTokenUse, KillBy, KnownTask, Parts, RolePart, Task, WaitingPart,
};
use codec::testing::{agent_id, at, framework_id, grace, resources, spec, state, status, task_id, texts};
use model::{
    ClusterId, ClusterTime, Cursor, Duration, FrameworkEvent, KillOrder, Refusal, RefusalCode, RequestId,
    RoleName, TaskSpec,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

fn request_id() -> impl Strategy<Value = RequestId> {
    "[a-z0-9][a-z0-9.-]{0,20}".prop_map(|text| RequestId::new(&text).unwrap())
}

fn role() -> impl Strategy<Value = RoleName> {
    "[a-z0-9][a-z0-9_-]{0,10}".prop_map(|text| RoleName::new(&text).unwrap())
}

fn cursor() -> impl Strategy<Value = Cursor> {
    (any::<u64>(), any::<u32>()).prop_map(|(index, ordinal)| Cursor { index, ordinal })
}

fn info() -> impl Strategy<Value = FrameworkInfo> {
    (".{0,12}", role(), 0u64..=u64::from(u32::MAX)).prop_map(|(name, role, us)| FrameworkInfo {
        name,
        role,
        failover_timeout: Duration::from_micros(us),
    })
}

fn facts() -> impl Strategy<Value = AgentFacts> {
    (".{0,8}", ".{1,8}", ".{0,8}", ".{0,8}", resources(), texts(), vec(".{0,8}", 0..3)).prop_map(
        |(hostname, boot_id, address, version, total, attributes, limitations)| AgentFacts {
            hostname,
            boot_id,
            address,
            version,
            total,
            attributes,
            limitations,
        },
    )
}

fn known_task() -> impl Strategy<Value = KnownTask> {
    (task_id(), any::<u64>(), state()).prop_map(|(task, sequence, state)| KnownTask { task, sequence, state })
}

fn specs() -> impl Strategy<Value = Vec<Arc<TaskSpec>>> {
    vec(spec().prop_map(Arc::new), 0..3)
}

fn request() -> impl Strategy<Value = Option<RequestId>> {
    option::of(request_id())
}

/// Every command; a new one must be added here, which the count in the test of `log.rs` notices.
pub fn command() -> impl Strategy<Value = Command> {
    let frameworks =
        prop_oneof![
            "[a-z0-9]{1,8}".prop_map(|id| Command::Initialize { cluster: ClusterId::new(&id).unwrap() }),
            (0..=cluster::VERSION_SUPPORTED).prop_map(|version| Command::RaiseVersion { version }),
            (framework_id(), info(), request()).prop_map(|(framework, info, request)| {
                Command::RegisterFramework { framework, info, request }
            }),
            (framework_id(), info(), request())
                .prop_map(|(framework, info, request)| Command::UpdateFramework { framework, info, request }),
            framework_id().prop_map(|framework| Command::ConnectFramework { framework }),
            framework_id().prop_map(|framework| Command::DisconnectFramework { framework }),
            (framework_id(), request())
                .prop_map(|(framework, request)| Command::TearDownFramework { framework, request }),
            (framework_id(), cursor())
                .prop_map(|(framework, cursor)| Command::AcknowledgeEvents { framework, cursor }),
        ];
    let by = prop_oneof![Just(KillBy::Operator), framework_id().prop_map(KillBy::Framework)];
    let launch = (framework_id(), request(), agent_id(), any::<u64>(), role(), resources(), specs());
    let tasks = prop_oneof![
        (agent_id(), facts(), vec(known_task(), 0..3))
            .prop_map(|(agent, facts, tasks)| Command::RegisterAgent { agent, facts, tasks }),
        (agent_id(), any::<u64>()).prop_map(|(agent, epoch)| Command::MarkAgentUnreachable { agent, epoch }),
        launch.prop_map(|(framework, request, agent, epoch, role, offered, tasks)| Command::Launch {
            framework,
            request,
            agent,
            epoch,
            role,
            offered,
            tasks,
        }),
        (by, task_id(), option::of(grace()), request())
            .prop_map(|(by, task, grace, request)| Command::Kill { by, task, grace, request }),
        (agent_id(), any::<u64>(), vec(status(), 0..3))
            .prop_map(|(agent, epoch, statuses)| Command::RecordStatuses { agent, epoch, statuses }),
        (request(), specs()).prop_map(|(request, tasks)| Command::SubmitRun { request, tasks }),
        (role(), any::<u64>(), request()).prop_map(|(role, weight_milli, request)| Command::SetRole {
            role,
            weight_milli,
            request
        }),
        (any::<u64>(), option::of(at()), option::of(counted()))
            .prop_map(|(keep, before, counted_before)| { Command::Prune { keep, before, counted_before } }),
        Just(Command::CountTime),
    ];
    let tokens = prop_oneof![
        (name(), any::<[u8; 32]>(), join_kind(), option::of(name()), at(), option::of(life())).prop_map(
            |(token, digest, kind, only_for, expires_at, life)| Command::CreateJoinToken {
                token,
                digest,
                kind,
                only_for,
                expires_at,
                life,
            }
        ),
        name().prop_map(|token| Command::RevokeJoinToken { token }),
        (name(), any::<[u8; 32]>(), join_kind(), name(), any::<[u8; 32]>()).prop_map(
            |(token, digest, kind, name, key)| Command::UseJoinToken { token, digest, kind, name, key }
        ),
    ];
    let ends = prop_oneof![
        Just(DeactivatedTasks::RunOn),
        option::of(grace()).prop_map(|grace| DeactivatedTasks::End { grace }),
    ];
    let care = prop_oneof![
        (agent_id(), ends, request()).prop_map(|(agent, tasks, request)| Command::DeactivateAgent {
            agent,
            tasks,
            request
        }),
        (agent_id(), request()).prop_map(|(agent, request)| Command::ActivateAgent { agent, request }),
        (agent_id(), request()).prop_map(|(agent, request)| Command::MarkAgentGone { agent, request }),
    ];
    let access = super::access::testing::change().prop_map(Command::Access);
    prop_oneof![frameworks, tasks, tokens, care, access]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,8}"
}

fn join_kind() -> impl Strategy<Value = JoinKind> {
    select(&[JoinKind::Agent, JoinKind::Member][..])
}

fn join_token() -> impl Strategy<Value = (String, JoinToken)> {
    let end = prop_oneof![
        (name(), any::<[u8; 32]>(), at()).prop_map(|(name, key, at)| JoinTokenEnd::Used(JoinTokenUse {
            name,
            key,
            at
        })),
        at().prop_map(|at| JoinTokenEnd::Revoked { at }),
    ];
    let times = (at(), at(), option::of(counted()));
    (name(), any::<[u8; 32]>(), join_kind(), option::of(name()), times, option::of(end)).prop_map(
        |(token, digest, kind, only_for, (created_at, expires_at, until), end)| {
            (token, JoinToken { digest, kind, only_for, created_at, expires_at, until, end })
        },
    )
}

pub(super) fn life() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_micros)
}

fn counted() -> impl Strategy<Value = ClusterTime> {
    any::<u64>().prop_map(ClusterTime)
}

pub fn entry() -> impl Strategy<Value = Entry> {
    (at(), counted(), command()).prop_map(|(at, counted, command)| Entry { at, counted, command })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    (select(RefusalCode::ALL), ".{0,20}").prop_map(|(code, message)| Refusal { code, message })
}

fn good_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Done),
        framework_id().prop_map(|framework| Answer::FrameworkRegistered { framework }),
        any::<u64>().prop_map(|epoch| Answer::AgentRegistered { epoch }),
        vec((task_id(), option::of(refusal())), 0..3).prop_map(Answer::Launched),
        vec((task_id(), any::<u64>()), 0..3).prop_map(Answer::Recorded),
        vec(task_id(), 0..3).prop_map(Answer::Submitted),
        any::<u64>().prop_map(|tasks| Answer::Pruned { tasks }),
    ]
}

pub fn answer() -> impl Strategy<Value = Result<Answer, Refusal>> {
    prop_oneof![good_answer().prop_map(Ok), refusal().prop_map(Err)]
}

fn answer_part() -> impl Strategy<Value = AnswerPart> {
    let asked = prop_oneof![
        ".{0,8}".prop_map(|name| Asked::RegisterFramework { name }),
        Just(Asked::UpdateFramework),
        framework_id().prop_map(Asked::TearDownFramework),
        Just(Asked::Launch),
        task_id().prop_map(Asked::Kill),
        Just(Asked::SubmitRun),
        role().prop_map(Asked::SetRole),
        agent_id().prop_map(Asked::DeactivateAgent),
        agent_id().prop_map(Asked::ActivateAgent),
        agent_id().prop_map(Asked::MarkAgentGone),
    ];
    (any::<u64>(), request_id(), asked, good_answer())
        .prop_map(|(index, request, asked, answer)| AnswerPart { index, request, asked, answer })
}

fn event() -> impl Strategy<Value = (Cursor, Arc<FrameworkEvent>)> {
    let event = prop_oneof![
        status().prop_map(FrameworkEvent::Status),
        agent_id().prop_map(FrameworkEvent::AgentLost),
        agent_id().prop_map(FrameworkEvent::AgentBack),
    ];
    (cursor(), event.prop_map(Arc::new))
}

fn framework_part() -> impl Strategy<Value = FrameworkPart> {
    let away = (at(), counted()).prop_map(|(at, counted)| FrameworkState::Disconnected { at, counted });
    let state = prop_oneof![Just(FrameworkState::Connected), away];
    let known = (framework_id(), info(), state, any::<bool>());
    let heard = (vec(event(), 0..3), cursor(), option::of(cursor()), vec(answer_part(), 0..2));
    (known, heard).prop_map(|((framework, info, state, is_built_in), heard)| {
        let (events, acknowledged, compacted_to, answers) = heard;
        FrameworkPart { framework, info, state, is_built_in, events, acknowledged, compacted_to, answers }
    })
}

fn agent_part() -> impl Strategy<Value = AgentPart> {
    let availability = select(&[Availability::Active, Availability::Deactivated][..]);
    (agent_id(), facts(), any::<u64>(), any::<bool>(), availability, at(), at()).prop_map(
        |(agent, facts, epoch, is_reachable, availability, registered_at, changed_at)| AgentPart {
            agent,
            facts,
            epoch,
            is_reachable,
            availability,
            registered_at,
            changed_at,
        },
    )
}

fn task() -> impl Strategy<Value = Task> {
    let who = (spec(), framework_id(), role(), option::of(agent_id()), any::<u64>(), state());
    let what = (
        option::of(grace().prop_map(|grace| KillOrder { grace })),
        any::<bool>(),
        option::of(status()),
        any::<u64>(),
        at(),
        at(),
        counted(),
    );
    (who, what).prop_map(|((spec, framework, role, agent, epoch, state), what)| {
        let (kill, is_released, status, recorded_sequence, created_at, changed_at, changed_counted) = what;
        Task {
            spec: Arc::new(spec),
            framework,
            role,
            agent,
            epoch,
            state,
            kill,
            is_released,
            status,
            recorded_sequence,
            created_at,
            changed_at,
            changed_counted,
        }
    })
}

pub fn parts() -> impl Strategy<Value = Parts> {
    let ended = (framework_id(), any::<u64>(), at()).prop_map(|(framework, index, at)| EndedPart {
        framework,
        index,
        at,
    });
    let role_part = (role(), any::<u64>()).prop_map(|(role, weight_milli)| RolePart { role, weight_milli });
    let waiting = (cursor(), spec(), at()).prop_map(|(place, spec, submitted_at)| WaitingPart {
        place,
        spec: Arc::new(spec),
        submitted_at,
    });
    let cluster = option::of("[a-z0-9]{1,8}".prop_map(|id| ClusterId::new(&id).unwrap()));
    let head = (cluster, 0..=cluster::VERSION_SUPPORTED, any::<u64>(), counted());
    let gone =
        (agent_id(), any::<u64>(), at()).prop_map(|(agent, index, at)| GoneAgentPart { agent, index, at });
    let records = (
        vec(framework_part(), 0..2),
        vec(ended, 0..2),
        vec(agent_part(), 0..2),
        vec(task().prop_map(Arc::new), 0..4),
        vec(role_part, 0..2),
        vec(waiting, 0..2),
        vec(answer_part(), 0..2),
        vec(join_token(), 0..2),
        vec(gone, 0..2),
        super::access::testing::access(),
    );
    (head, records).prop_map(|((cluster, version, applied, counted), records)| {
        let (frameworks, ended, agents, tasks, roles, queue, answers, join_tokens, gone_agents, access) =
            records;
        Parts {
            cluster,
            version,
            applied,
            counted,
            frameworks,
            ended,
            agents,
            gone_agents,
            tasks,
            roles,
            queue,
            answers,
            join_tokens,
            access,
        }
    })
}
