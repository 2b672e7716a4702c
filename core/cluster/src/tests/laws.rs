//! Laws that hold after every entry, whatever was proposed: random commands, sensible and not.
//!
//! The checkers stand outside and keep their own history; they read only what any reader can see.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{
    AgentId, ClusterId, ClusterTime, Cursor, Duration, DutyName, FrameworkEvent, FrameworkId, Health,
    PortRange, PortRanges, Reason, RequestId, Resources, RoleName, TaskId, TaskSpec, TaskState, TaskStatus,
    Timestamp, UserName, limits,
};
use proptest::prelude::*;

use crate::*;

/// A command in outline; what depends on the state is filled in when its turn comes.
#[derive(Debug, Clone)]
enum Op {
    Register { framework: u8, request: Option<u8> },
    Update { framework: u8, role: u8, request: Option<u8> },
    Connect { framework: u8 },
    Disconnect { framework: u8 },
    TearDown { framework: u8, request: Option<u8> },
    Acknowledge { framework: u8, back: u32 },
    Agent { agent: u8, boot: u8, forgets: u8, skew: u8 },
    Unreachable { agent: u8, is_stale: bool },
    Deactivate { agent: u8, ends: bool, request: Option<u8> },
    Activate { agent: u8, request: Option<u8> },
    Gone { agent: u8, request: Option<u8> },
    Launch { framework: u8, agent: u8, is_stale: bool, offered: u8, tasks: Vec<Draft>, request: Option<u8> },
    Kill { by: Option<u8>, task: u8, grace: Option<u8>, request: Option<u8> },
    Statuses { agent: u8, is_stale: bool, statuses: Vec<Report> },
    Run { tasks: Vec<Draft>, request: Option<u8> },
    Role { role: u8, weight: u64, request: Option<u8> },
    Prune { keep: u8, is_by_age: bool },
    Token { token: u8, only_for: Option<u8>, life: u8 },
    Revoke { token: u8 },
    Join { token: u8, agent: u8, key: u8 },
    Access { what: u8, user: u8, token: u8, life: u8 },
}

#[derive(Debug, Clone)]
struct Draft {
    task: u8,
    cpus: u8,
    port: Option<u8>,
}

#[derive(Debug, Clone)]
struct Report {
    task: u8,
    state: TaskState,
    ahead: u64,
    is_released: bool,
    health: Option<Health>,
}

fn draft() -> impl Strategy<Value = Draft> {
    (0..10u8, 0..5u8, prop::option::weighted(0.3, 0..4u8)).prop_map(|(task, cpus, port)| Draft {
        task,
        cpus,
        port,
    })
}

fn report() -> impl Strategy<Value = Report> {
    let state = prop::sample::select(TaskState::ALL);
    let health = prop::option::of(prop::sample::select(Health::ALL));
    (0..10u8, state, 0..3u64, any::<bool>(), health).prop_map(|(task, state, ahead, is_released, health)| {
        Report { task, state, ahead, is_released, health }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let framework = || 0..4u8;
    let agent = || 0..3u8;
    let request = || prop::option::weighted(0.3, 0..6u8);
    prop_oneof![
        2 => (framework(), request()).prop_map(|(framework, request)| Op::Register { framework, request }),
        1 => (framework(), 0..2u8, request())
            .prop_map(|(framework, role, request)| Op::Update { framework, role, request }),
        1 => framework().prop_map(|framework| Op::Connect { framework }),
        1 => framework().prop_map(|framework| Op::Disconnect { framework }),
        1 => (framework(), request()).prop_map(|(framework, request)| Op::TearDown { framework, request }),
        3 => (framework(), 0..3u32).prop_map(|(framework, back)| Op::Acknowledge { framework, back }),
        3 => (agent(), 0..2u8, any::<u8>(), 0..3u8)
            .prop_map(|(agent, boot, forgets, skew)| Op::Agent { agent, boot, forgets, skew }),
        2 => (agent(), any::<bool>()).prop_map(|(agent, is_stale)| Op::Unreachable { agent, is_stale }),
        1 => (agent(), any::<bool>(), request())
            .prop_map(|(agent, ends, request)| Op::Deactivate { agent, ends, request }),
        1 => (agent(), request()).prop_map(|(agent, request)| Op::Activate { agent, request }),
        1 => (0..12u8, request()).prop_map(|(agent, request)| Op::Gone { agent, request }),
        8 => (
            framework(),
            agent(),
            prop::bool::weighted(0.1),
            0..9u8,
            prop::collection::vec(draft(), 0..4),
            request(),
        )
            .prop_map(|(framework, agent, is_stale, offered, tasks, request)| {
                Op::Launch { framework, agent, is_stale, offered, tasks, request }
            }),
        3 => (prop::option::of(framework()), 0..10u8, prop::option::of(0..3u8), request())
            .prop_map(|(by, task, grace, request)| Op::Kill { by, task, grace, request }),
        10 => (agent(), prop::bool::weighted(0.1), prop::collection::vec(report(), 1..5))
            .prop_map(|(agent, is_stale, statuses)| Op::Statuses { agent, is_stale, statuses }),
        2 => (prop::collection::vec(draft(), 0..3), request()).prop_map(|(tasks, request)| Op::Run { tasks, request }),
        1 => (0..2u8, 0..3u64, request()).prop_map(|(role, weight, request)| Op::Role { role, weight, request }),
        2 => (0..4u8, any::<bool>()).prop_map(|(keep, is_by_age)| Op::Prune { keep, is_by_age }),
        1 => (0..3u8, prop::option::of(agent()), 0..60u8)
            .prop_map(|(token, only_for, life)| Op::Token { token, only_for, life }),
        1 => (0..3u8).prop_map(|token| Op::Revoke { token }),
        2 => (0..3u8, 0..5u8, 0..2u8).prop_map(|(token, agent, key)| Op::Join { token, agent, key }),
    ]
}

/// Beside the others, so that they reach the corners that they always reached.
fn access_ops() -> impl Strategy<Value = Vec<Op>> {
    let access = (0..7u8, 0..3u8, 0..12u8, 0..60u8).prop_map(|(what, user, token, life)| Op::Access {
        what,
        user,
        token,
        life,
    });
    prop::collection::vec(prop_oneof![3 => access, 1 => op()], 1..120)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..120)
}

fn framework_id(number: u8) -> FrameworkId {
    if number == 3 {
        FrameworkId::new(RUN_FRAMEWORK).unwrap()
    } else {
        FrameworkId::new(&format!("f{number}")).unwrap()
    }
}

fn agent_id(number: u8) -> AgentId {
    AgentId::new(&format!("a{number}")).unwrap()
}

fn task_id(number: u8) -> TaskId {
    TaskId::new(&format!("t{number}")).unwrap()
}

fn role(number: u8) -> RoleName {
    RoleName::new(&format!("r{number}")).unwrap()
}

fn request_id(number: Option<u8>) -> Option<RequestId> {
    Some(RequestId::new(&format!("q{}", number?)).unwrap())
}

fn ports(first: u32, last: u32) -> PortRanges {
    PortRanges::new(vec![PortRange::new(first, last).unwrap()]).unwrap()
}

fn spec(draft: &Draft) -> Arc<TaskSpec> {
    // With 0 cpus the spec is not valid, on purpose.
    let resources = Resources {
        cpus_milli: u64::from(draft.cpus) * 500,
        mem_mib: 64,
        ports: draft.port.map(|port| ports(100 + u32::from(port), 100 + u32::from(port))).unwrap_or_default(),
        ..Resources::default()
    };
    Arc::new(TaskSpec {
        name: "law".to_owned(),
        ..TaskSpec::new(task_id(draft.task), resources, vec!["true".to_owned()])
    })
}

fn command(state: &ClusterState, op: &Op) -> Command {
    let info = |number: u8, role_number: u8| FrameworkInfo {
        name: format!("framework {number}"),
        role: role(role_number),
        failover_timeout: Duration::from_secs(60),
    };
    let epoch = |agent: u8, is_stale: bool| {
        let now = state.agent(&agent_id(agent)).map_or(0, |agent| agent.epoch);
        if is_stale { now.wrapping_sub(1) } else { now }
    };
    match op {
        Op::Register { framework, request } => Command::RegisterFramework {
            framework: framework_id(*framework),
            info: info(*framework, *framework % 2),
            request: request_id(*request),
        },
        Op::Update { framework, role, request } => Command::UpdateFramework {
            framework: framework_id(*framework),
            info: info(*framework, *role),
            request: request_id(*request),
        },
        Op::Connect { framework } => Command::ConnectFramework { framework: framework_id(*framework) },
        Op::Disconnect { framework } => Command::DisconnectFramework { framework: framework_id(*framework) },
        Op::TearDown { framework, request } => {
            Command::TearDownFramework { framework: framework_id(*framework), request: request_id(*request) }
        }
        Op::Acknowledge { framework, back } => {
            let id = framework_id(*framework);
            let events = state.framework(&id).map(|framework| framework.events.clone()).unwrap_or_default();
            let cursor = events.keys().rev().nth(*back as usize).copied().unwrap_or(Cursor::START);
            Command::AcknowledgeEvents { framework: id, cursor }
        }
        Op::Agent { agent, boot, forgets, skew } => {
            let id = agent_id(*agent);
            let tasks = state.agent(&id).map(|agent| agent.tasks.clone()).unwrap_or_default();
            let known = tasks.iter().enumerate().filter(|(place, _)| forgets & (1 << (place % 8)) == 0);
            let known = known.map(|(_, task)| {
                let record = state.task(task).unwrap();
                let now =
                    if record.state == TaskState::Unreachable { TaskState::Running } else { record.state };
                let state = if *skew == 2 { TaskState::Finished } else { now };
                KnownTask { task: task.clone(), sequence: record.recorded_sequence + u64::from(*skew), state }
            });
            Command::RegisterAgent {
                agent: id,
                facts: AgentFacts {
                    hostname: "host".to_owned(),
                    boot_id: format!("boot {boot}"),
                    address: "127.0.0.1:5051".to_owned(),
                    version: "1".to_owned(),
                    total: Resources {
                        cpus_milli: 4000,
                        mem_mib: 512,
                        ports: ports(100, 102),
                        ..Resources::default()
                    },
                    attributes: BTreeMap::new(),
                    limitations: Vec::new(),
                },
                tasks: known.collect(),
            }
        }
        Op::Unreachable { agent, is_stale } => {
            Command::MarkAgentUnreachable { agent: agent_id(*agent), epoch: epoch(*agent, *is_stale) }
        }
        Op::Deactivate { agent, ends, request } => Command::DeactivateAgent {
            agent: agent_id(*agent),
            tasks: if *ends { DeactivatedTasks::End { grace: None } } else { DeactivatedTasks::RunOn },
            request: request_id(*request),
        },
        Op::Activate { agent, request } => {
            Command::ActivateAgent { agent: agent_id(*agent), request: request_id(*request) }
        }
        Op::Gone { agent, request } => {
            Command::MarkAgentGone { agent: agent_id(*agent), request: request_id(*request) }
        }
        Op::Launch { framework, agent, is_stale, offered, tasks, request } => Command::Launch {
            framework: framework_id(*framework),
            request: request_id(*request),
            agent: agent_id(*agent),
            epoch: epoch(*agent, *is_stale),
            role: role(*framework % 2),
            // Sometimes more than there is: the log judges, not the offer.
            offered: Resources {
                cpus_milli: u64::from(*offered) * 1000,
                mem_mib: 1024,
                ports: ports(100, 103),
                ..Resources::default()
            },
            tasks: tasks.iter().map(spec).collect(),
        },
        Op::Kill { by, task, grace, request } => Command::Kill {
            by: by.map_or(KillBy::Operator, |framework| KillBy::Framework(framework_id(framework))),
            task: task_id(*task),
            grace: grace.map(|grace| Duration::from_secs(grace.into())),
            request: request_id(*request),
        },
        Op::Statuses { agent, is_stale, statuses } => {
            let status = |report: &Report| {
                let id = task_id(report.task);
                TaskStatus {
                    framework_id: FrameworkId::new("whoever").unwrap(),
                    agent_id: None,
                    state: report.state,
                    reason: Reason::None,
                    message: String::new(),
                    exit: None,
                    at: Timestamp::EPOCH,
                    sequence: state.task(&id).map_or(0, |task| task.recorded_sequence) + report.ahead,
                    is_released: report.is_released,
                    usage: None,
                    task_id: id,
                    health: report.health,
                }
            };
            Command::RecordStatuses {
                agent: agent_id(*agent),
                epoch: epoch(*agent, *is_stale),
                statuses: statuses.iter().map(status).collect(),
            }
        }
        Op::Run { tasks, request } => {
            Command::SubmitRun { request: request_id(*request), tasks: tasks.iter().map(spec).collect() }
        }
        Op::Role { role: number, weight, request } => Command::SetRole {
            role: role(*number),
            weight_milli: weight * 500,
            request: request_id(*request),
        },
        Op::Prune { keep, is_by_age } => Command::Prune {
            keep: (*keep).into(),
            before: is_by_age.then(|| Timestamp(i64::try_from(state.applied()).unwrap() * 1_000_000 / 2)),
            counted_before: (*is_by_age && state.version() >= CLUSTER_TIME_SINCE)
                .then(|| ClusterTime(state.applied() * 500_000)),
        },
        Op::Token { token, only_for, life } => Command::CreateJoinToken {
            token: format!("j{token}"),
            digest: [*token; 32],
            kind: JoinKind::Agent,
            only_for: only_for.map(|agent| agent_id(agent).to_string()),
            expires_at: Timestamp(
                (i64::try_from(state.applied()).unwrap() / 2 + i64::from(*life)) * 1_000_000,
            ),
            life: (state.version() >= JOIN_LIFE_SINCE).then(|| Duration::from_secs(u64::from(*life))),
        },
        Op::Revoke { token } => Command::RevokeJoinToken { token: format!("j{token}") },
        Op::Join { token, agent, key } => Command::UseJoinToken {
            token: format!("j{token}"),
            digest: [*token; 32],
            kind: JoinKind::Agent,
            name: agent_id(*agent).to_string(),
            key: [*key; 32],
        },
        Op::Access { what, user, token, life } => Command::Access(access_change(*what, *user, *token, *life)),
    }
}

fn access_change(what: u8, user: u8, token: u8, life: u8) -> AccessChange {
    let user_name = UserName::new(&format!("u{user}")).unwrap();
    let duty = DutyName::new(&format!("d{}", token % 3)).unwrap();
    let id = format!("k{token}");
    match what {
        0 => AccessChange::SetUser { user: user_name, duties: vec![DutyName::new("viewer").unwrap()] },
        1 => AccessChange::SetUser { user: user_name, duties: vec![duty] },
        2 => AccessChange::RemoveUser { user: user_name },
        3 => AccessChange::RevokeToken { token: id },
        4 if life.is_multiple_of(3) => AccessChange::SetDuty { duty, grants: Vec::new() },
        4 => AccessChange::SetDuty { duty, grants: vec!["kill:role=web".parse().unwrap()] },
        5 => AccessChange::RevokeCertificates { name: format!("agent/a{user}") },
        _ => AccessChange::AddToken {
            user: user_name,
            token: id,
            digest: [token; 32],
            life: Duration::from_secs(u64::from(life)),
        },
    }
}

/// One entry, and the state around it.
struct Scene<'a> {
    before: &'a ClusterState,
    entry: &'a Entry,
    outcome: &'a Outcome,
    after: &'a ClusterState,
}

/// Plays the commands and shows each to the checker. Answers the log.
fn play(ops: &[Op], mut look: impl FnMut(&Scene<'_>)) -> Vec<(u64, Entry)> {
    let mut state = ClusterState::new();
    let mut log = Vec::new();
    let cluster = ClusterId::new("c").unwrap();
    let mut commands = vec![Command::Initialize { cluster }];
    // What a version brings must change nothing of what was there before.
    if ops.len().is_multiple_of(2) {
        commands.push(Command::RaiseVersion { version: VERSION_SUPPORTED });
    }
    // So that most sequences get somewhere.
    for op in [
        Op::Register { framework: 0, request: None },
        Op::Register { framework: 1, request: None },
        Op::Agent { agent: 0, boot: 0, forgets: 0, skew: 0 },
        Op::Agent { agent: 1, boot: 0, forgets: 0, skew: 0 },
    ] {
        commands.push(command(&state, &op));
    }
    let mut ops = ops.iter();
    let mut commands = commands.into_iter();
    loop {
        let next = commands.next().or_else(|| ops.next().map(|op| command(&state, op)));
        let Some(command) = next else { return log };
        // Indices may have holes, times may repeat.
        let index = state.applied() + 1 + u64::try_from(log.len()).unwrap() % 2;
        let at = Timestamp(i64::try_from(index / 2).unwrap() * 1_000_000);
        let entry = Entry { at, counted: ClusterTime(index / 3 * 1_000_000), command };
        let before = state.clone();
        let outcome = apply(&mut state, index, &entry);
        look(&Scene { before: &before, entry: &entry, outcome: &outcome, after: &state });
        log.push((index, entry));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// An agent's allocations never add up to more than its total, and no port is given twice.
    #[test]
    fn resources_conserved(ops in ops()) {
        play(&ops, |scene| {
            for (id, agent) in scene.after.agents() {
                let (mut sum, mut port_count) = (Resources::default(), 0);
                for task in scene.after.tasks().values().filter(|task| task.agent.as_ref() == Some(id) && !task.is_released) {
                    sum = sum.plus(&task.spec.resources);
                    port_count += task.spec.resources.ports.count();
                }
                assert!(agent.facts.total.contains(&sum), "{id} has {sum} allocated after {:?}", scene.entry);
                assert_eq!(sum.ports.count(), port_count, "a port was given twice after {:?}", scene.entry);
                assert_eq!(agent.allocated, sum);
            }
        });
    }

    /// A task id is launched at most once, as long as it is known.
    #[test]
    fn launch_once(ops in ops()) {
        let mut launched: BTreeMap<TaskId, (FrameworkId, Option<AgentId>)> = BTreeMap::new();
        play(&ops, |scene| {
            launched.retain(|id, _| scene.before.task(id).is_some());
            let is_repeat = scene.outcome.changes.is_empty();
            if let (Ok(Answer::Launched(results)), false) = (&scene.outcome.answer, is_repeat) {
                for (id, _) in results.iter().filter(|(_, refusal)| refusal.is_none()) {
                    let task = scene.after.task(id).unwrap();
                    assert_eq!(task.state, TaskState::Staging);
                    let place = (task.framework.clone(), task.agent.clone());
                    assert!(launched.insert(id.clone(), place).is_none(), "{id} was launched twice");
                    assert!(scene.after.waiting(id).is_none(), "{id} is launched and waits");
                }
            }
            for (id, task) in scene.after.tasks() {
                if let Some(place) = launched.get(id) {
                    assert_eq!(place, &(task.framework.clone(), task.agent.clone()), "{id} moved");
                }
            }
        });
    }

    /// The same entries make the identical state, and so does a snapshot in between.
    #[test]
    fn replay_is_identical(ops in ops(), at in 0..120usize) {
        let mut last = ClusterState::new();
        let mut outcomes = Vec::new();
        let log = play(&ops, |scene| {
            last = scene.after.clone();
            outcomes.push(scene.outcome.clone());
        });
        let mut replayed = ClusterState::new();
        for (place, ((index, entry), first)) in log.iter().zip(&outcomes).enumerate() {
            if place == at {
                replayed = ClusterState::from_parts(replayed.parts()).unwrap();
            }
            assert_eq!(&apply(&mut replayed, *index, entry), first);
        }
        prop_assert_eq!(&replayed, &last);
        prop_assert_eq!(replayed.parts(), last.parts());
    }

    /// What is derived is always what would be derived anew.
    #[test]
    fn index_is_rebuild(ops in ops()) {
        play(&ops, |scene| {
            let mut rebuilt = scene.after.clone();
            rebuilt.rebuild_index();
            assert_eq!(&rebuilt, scene.after, "after {:?}", scene.entry);
        });
    }

    /// A final state never changes, nor does what was said of it; and resources are never taken back.
    #[test]
    fn final_states_stay(ops in ops()) {
        play(&ops, |scene| {
            for (id, before) in scene.before.tasks() {
                let Some(after) = scene.after.task(id) else {
                    assert!(before.is_over(), "{id} was dropped before it was over");
                    continue;
                };
                if before.state.is_final() {
                    assert_eq!(after.state, before.state);
                    assert_eq!(after.status, before.status);
                    assert!(after.is_released >= before.is_released);
                } else if after.state != before.state {
                    let is_step = before.state.can_become(after.state);
                    let is_end_after_all = after.state == TaskState::Failed;
                    assert!(is_step || is_end_after_all || reached(scene, id), "{id}: {before:?} {after:?}");
                }
            }
        });

        /// Several statuses in one entry may pass through states that stand in neither record.
        fn reached(scene: &Scene<'_>, id: &TaskId) -> bool {
            match &scene.entry.command {
                Command::RecordStatuses { statuses, .. } => {
                    statuses.iter().filter(|status| status.task_id == *id).count() > 1
                }
                _ => false,
            }
        }
    }

    /// A join token lets one key in, under one name, and never after its end.
    #[test]
    fn a_gone_agent_never_comes_back_and_a_deactivated_one_gets_nothing(ops in ops()) {
        let mut gone: BTreeSet<AgentId> = BTreeSet::new();
        let mut idle: BTreeSet<AgentId> = BTreeSet::new();
        let availability =
            |state: &ClusterState, agent: &AgentId| state.agent(agent).map(|agent| agent.availability);
        play(&ops, |scene| match (&scene.entry.command, &scene.outcome.answer) {
            (Command::MarkAgentGone { agent, .. }, Ok(_)) if scene.after.agent_gone_at(agent).is_some() => {
                gone.insert(agent.clone());
                idle.remove(agent);
                for task in scene.after.tasks().values().filter(|task| task.agent.as_ref() == Some(agent)) {
                    assert!(task.is_over(), "{} outlives its agent", task.spec.task_id);
                }
                assert!(scene.after.agent(agent).is_none());
            }
            (Command::DeactivateAgent { agent, .. }, Ok(_))
                if availability(scene.after, agent) == Some(Availability::Deactivated) =>
            {
                idle.insert(agent.clone());
            }
            (Command::ActivateAgent { agent, .. }, Ok(_))
                if availability(scene.after, agent) == Some(Availability::Active) =>
            {
                idle.remove(agent);
            }
            (Command::RegisterAgent { agent, .. }, Ok(_)) => {
                assert!(!gone.contains(agent), "{agent} came back");
            }
            (Command::Launch { agent, .. }, Ok(Answer::Launched(_))) if idle.contains(agent) || gone.contains(agent) => {
                let is_new = |id: &&TaskId| scene.before.task(id).is_none();
                let launched = scene.after.tasks().keys().find(is_new);
                assert_eq!(launched, None, "was launched on {agent}");
            }
            _ => {}
        });
    }

    #[test]
    fn a_join_token_is_used_once(ops in ops()) {
        let mut used: BTreeMap<String, (String, [u8; 32])> = BTreeMap::new();
        let mut over: BTreeSet<String> = BTreeSet::new();
        let mut until: BTreeMap<String, ClusterTime> = BTreeMap::new();
        play(&ops, |scene| match (&scene.entry.command, &scene.outcome.answer) {
            (Command::CreateJoinToken { token, life: Some(life), .. }, Ok(_))
                if !scene.before.join_tokens().contains_key(token) =>
            {
                until.insert(token.clone(), scene.after.counted() + *life);
            }
            (Command::RevokeJoinToken { token }, Ok(_)) if !used.contains_key(token) => {
                over.insert(token.clone());
            }
            (Command::UseJoinToken { token, name, key, .. }, Ok(_)) => {
                assert!(!over.contains(token), "{token} was revoked");
                let is_over = match until.get(token) {
                    Some(until) => *until <= scene.after.counted(),
                    None => scene.before.join_tokens()[token].expires_at <= scene.entry.at,
                };
                assert!(!is_over, "{token} had expired");
                let first = used.entry(token.clone()).or_insert_with(|| (name.clone(), *key));
                assert_eq!(*first, (name.clone(), *key), "{token} was used twice");
            }
            _ => {}
        });
    }

    /// Tokens are of users who are there, and duties of users exist; a token that was revoked or whose user was
    /// removed is gone, and a name whose certificates were revoked has none that counts.
    #[test]
    fn who_was_taken_the_right_has_it_no_more(ops in access_ops()) {
        play(&ops, |scene| {
            let access = scene.after.access();
            for (id, token) in &access.tokens {
                assert!(access.users.contains_key(&token.user), "{id} is of nobody");
            }
            for (name, user) in &access.users {
                assert!(user.duties.iter().all(|duty| access.duty(duty).is_some()), "{name} has no such duty");
                assert!(access.tokens_of(name).count() <= limits::TOKENS_PER_USER_MAX);
            }
            let index = scene.after.applied();
            match (&scene.entry.command, &scene.outcome.answer) {
                (Command::Access(AccessChange::RevokeToken { token }), Ok(_)) => {
                    assert!(!access.tokens.contains_key(token));
                }
                (Command::Access(AccessChange::RemoveUser { user }), Ok(_)) => {
                    assert_eq!(access.tokens_of(user).count(), 0);
                    assert!(access.grants(user).is_empty());
                    assert!(access.is_revoked(&format!("user/{user}"), index - 1));
                }
                (Command::Access(AccessChange::RevokeCertificates { name }), Ok(_)) => {
                    assert!(access.is_revoked(name, index - 1) && !access.is_revoked(name, index));
                }
                _ => {}
            }
        });
    }

    /// A refusal changes nothing but how far the log and the cluster's time got, and a repeat of a request gets the
    /// first answer.
    #[test]
    fn refusals_change_nothing(ops in ops()) {
        play(&ops, |scene| {
            if scene.outcome.answer.is_err() {
                assert!(scene.outcome.changes.is_empty());
                let (applied, counted) = (scene.after.applied(), scene.after.counted());
                let before = Parts { applied, counted, ..scene.before.parts() };
                assert_eq!(before, scene.after.parts(), "after {:?}", scene.entry);
            }
            let has_request = match &scene.entry.command {
                Command::UpdateFramework { request, .. }
                | Command::TearDownFramework { request, .. }
                | Command::Launch { request, .. }
                | Command::Kill { request, .. }
                | Command::SubmitRun { request, .. }
                | Command::SetRole { request, .. }
                | Command::RegisterFramework { request, .. } => request.is_some(),
                _ => false,
            };
            if has_request && scene.outcome.answer.is_ok() {
                let mut again = scene.after.clone();
                let repeat = apply(&mut again, scene.after.applied() + 1, scene.entry);
                assert_eq!(repeat.answer, scene.outcome.answer, "repeated {:?}", scene.entry);
                assert_eq!(repeat.changes, []);
                assert_eq!(Parts { applied: again.applied(), ..scene.after.parts() }, again.parts());
            }
        });
    }

    /// A framework hears of every change of state of its tasks, once, in order, until it acknowledges.
    #[test]
    fn events_are_complete_and_in_order(ops in ops()) {
        let mut heard: BTreeMap<TaskId, (u64, TaskState)> = BTreeMap::new();
        let mut last: BTreeMap<FrameworkId, Cursor> = BTreeMap::new();
        let mut unheard_finals: BTreeSet<TaskId> = BTreeSet::new();
        play(&ops, |scene| {
            heard.retain(|id, _| scene.before.task(id).is_some());
            for change in &scene.outcome.changes {
                let Change::Event { framework, cursor } = change else { continue };
                let newest = last.insert(framework.clone(), *cursor);
                assert!(newest < Some(*cursor), "events are out of order");
                assert_eq!(cursor.index, scene.after.applied());
                let record = scene.after.framework(framework).unwrap();
                assert!(!record.is_built_in);
                let FrameworkEvent::Status(status) = record.events[cursor].as_ref() else { continue };
                assert_eq!(&status.framework_id, framework);
                let before = heard.insert(status.task_id.clone(), (status.sequence, status.state));
                assert_eq!(status.sequence, before.map_or(0, |(sequence, _)| sequence) + 1);
                assert!(before.is_none_or(|(_, state)| state != status.state));
                if status.state.is_final() {
                    unheard_finals.insert(status.task_id.clone());
                }
            }
            for (id, task) in scene.after.tasks() {
                let Some(framework) = scene.after.framework(&task.framework).filter(|framework| !framework.is_built_in) else {
                    unheard_finals.remove(id);
                    continue;
                };
                let told = heard.get(id).map_or(TaskState::Staging, |(_, state)| *state);
                assert_eq!(told, task.state, "{id} changed and nobody was told");
                let is_pending = framework.events.values().any(|event| {
                    matches!(event.as_ref(), FrameworkEvent::Status(status) if status.task_id == *id && status.state.is_final())
                });
                if !is_pending && unheard_finals.remove(id) {
                    assert!(matches!(scene.entry.command, Command::AcknowledgeEvents { .. }), "a final status was lost");
                }
            }
            for id in &unheard_finals {
                assert!(scene.after.task(id).is_some(), "{id} was pruned before its framework knew its end");
            }
        });
    }
}

/// The laws are worth as much as what the random commands reach.
#[test]
fn the_commands_reach_every_corner() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for _ in 0..200 {
        let ops = ops().new_tree(&mut runner).unwrap().current();
        play(&ops, |scene| {
            match &scene.outcome.answer {
                Err(refusal) => {
                    seen.insert(format!("refused {}", refusal.code));
                }
                Ok(Answer::Launched(results)) => {
                    for (_, refusal) in results {
                        let what = refusal.as_ref().map_or("launched", |refusal| refusal.code.as_str());
                        seen.insert(format!("launch: {what}"));
                    }
                }
                Ok(Answer::Pruned { tasks: 1.. }) => {
                    seen.insert("pruned".to_owned());
                }
                Ok(_) => {}
            }
            for (id, after) in scene.after.tasks() {
                let Some(before) = scene.before.task(id) else { continue };
                if before.state != after.state {
                    let reason = after.status.as_ref().map_or(Reason::None, |status| status.reason);
                    seen.insert(format!("{} to {} {reason:?}", before.state.as_str(), after.state.as_str()));
                } else if before.is_released != after.is_released {
                    seen.insert("released later".to_owned());
                }
            }
            for change in &scene.outcome.changes {
                let Change::Event { framework, cursor } = change else { continue };
                match scene.after.framework(framework).unwrap().events[cursor].as_ref() {
                    FrameworkEvent::AgentLost(_) => seen.insert("agent lost".to_owned()),
                    FrameworkEvent::AgentBack(_) => seen.insert("agent back".to_owned()),
                    FrameworkEvent::Status(_) => false,
                };
            }
        });
    }
    let seen: Vec<String> = seen.into_iter().collect();
    expect_test::expect![[r#"
        agent back
        agent lost
        killing to failed None
        killing to gone AgentRebooted
        launch: agent-deactivated
        launch: agent-gone
        launch: agent-lacks-resources
        launch: agent-unknown
        launch: agent-unreachable
        launch: epoch-stale
        launch: exceeds-offer
        launch: invalid-argument
        launch: launched
        launch: task-id-taken
        launch: task-unknown
        pruned
        refused agent-gone
        refused agent-unknown
        refused agent-unreachable
        refused cluster-version-too-old
        refused epoch-stale
        refused framework-built-in
        refused framework-ended
        refused framework-unknown
        refused invalid-argument
        refused join-token-refused
        refused task-id-taken
        refused task-not-yours
        refused task-unknown
        released later
        running to gone AgentLostTask
        running to gone AgentRebooted
        running to killing None
        running to unreachable AgentUnreachable
        staging to dropped None
        staging to error None
        staging to failed None
        staging to finished None
        staging to gone AgentGone
        staging to gone AgentLostTask
        staging to gone AgentRebooted
        staging to gone None
        staging to killed None
        staging to killing None
        staging to running None
        staging to starting None
        staging to unreachable AgentUnreachable
        starting to failed None
        starting to gone AgentRebooted
        starting to unreachable AgentUnreachable
        unreachable to finished None
        unreachable to gone AgentRebooted
        unreachable to running None"#]]
    .assert_eq(&seen.join("\n"));
}
