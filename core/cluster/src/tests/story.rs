//! Stories: commands as text, one a line, and what came of each.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use expect_test::{Expect, expect};
use model::{
    AgentId, ClusterId, ClusterTime, Cursor, Duration, Exit, FrameworkEvent, FrameworkId, Health, PortRange,
    PortRanges, Reason, RequestId, Resources, RoleName, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp,
    limits,
};

use crate::*;

/// The words of one line: a verb, things, and `name=value` pairs.
struct Line<'a> {
    verb: &'a str,
    things: Vec<&'a str>,
    pairs: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn read(text: &'a str) -> Self {
        let (pairs, mut things): (Vec<&str>, Vec<&str>) =
            text.split_whitespace().partition(|word| word.contains('='));
        let verb = things.remove(0);
        Self { verb, things, pairs: pairs.into_iter().map(|pair| pair.split_once('=').unwrap()).collect() }
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.pairs.get(name).map_or(default, |text| text.parse().unwrap())
    }

    fn request(&self) -> Option<RequestId> {
        self.pairs.get("request").map(|text| RequestId::new(text).unwrap())
    }

    fn framework(&self) -> FrameworkId {
        FrameworkId::new(self.things[0]).unwrap()
    }

    fn agent(&self, place: usize) -> AgentId {
        AgentId::new(self.things[place]).unwrap()
    }

    fn role(&self) -> RoleName {
        RoleName::new(self.pairs.get("role").unwrap_or(&"default")).unwrap()
    }

    /// What stands for a hash here: each letter is another.
    fn hash(&self, name: &str) -> [u8; 32] {
        [self.pairs.get(name).map_or(0, |text| text.as_bytes()[0]); 32]
    }

    fn join_kind(&self) -> JoinKind {
        if self.things.contains(&"member") { JoinKind::Member } else { JoinKind::Agent }
    }

    fn info(&self) -> FrameworkInfo {
        FrameworkInfo {
            name: (*self.pairs.get("name").unwrap_or(&self.things[0])).to_owned(),
            role: self.role(),
            failover_timeout: Duration::from_secs(60),
        }
    }

    fn resources(&self) -> Resources {
        Resources {
            cpus_milli: self.number("cpus", 4) * 1000,
            mem_mib: self.number("mem", 1024),
            ports: PortRanges::new(vec![PortRange::new(31000, 31009).unwrap()]).unwrap(),
            ..Resources::default()
        }
    }

    /// `t1`, or `t1:2` for two cpus.
    fn specs(&self, from: usize) -> Vec<Arc<TaskSpec>> {
        self.things[from..].iter().map(|text| spec(text)).collect()
    }

    /// `t1:3:running` for the latest sequence and state.
    fn known(&self) -> Vec<KnownTask> {
        let known = self.things[1..].iter().map(|text| {
            let parts: Vec<&str> = text.split(':').collect();
            let task = TaskId::new(parts[0]).unwrap();
            KnownTask { task, sequence: parts[1].parse().unwrap(), state: state_named(parts[2]) }
        });
        known.collect()
    }
}

fn spec(text: &str) -> Arc<TaskSpec> {
    let (id, cpus) = text.split_once(':').unwrap_or((text, "1"));
    let resources =
        Resources { cpus_milli: cpus.parse::<u64>().unwrap() * 1000, mem_mib: 64, ..Resources::default() };
    Arc::new(TaskSpec {
        name: id.to_owned(),
        ..TaskSpec::new(TaskId::new(id).unwrap(), resources, vec!["true".to_owned()])
    })
}

fn state_named(name: &str) -> TaskState {
    *TaskState::ALL.iter().find(|state| state.as_str() == name).unwrap()
}

fn command(state: &ClusterState, line: &Line<'_>) -> Command {
    let epoch = |place: usize| {
        let now = state.agent(&line.agent(place)).map_or(0, |agent| agent.epoch);
        line.number("epoch", now)
    };
    let request = line.request();
    match line.verb {
        "init" => Command::Initialize { cluster: ClusterId::new(line.things[0]).unwrap() },
        "version" => Command::RaiseVersion { version: line.things[0].parse().unwrap() },
        "framework" => Command::RegisterFramework { framework: line.framework(), info: line.info(), request },
        "update" => Command::UpdateFramework { framework: line.framework(), info: line.info(), request },
        "connect" => Command::ConnectFramework { framework: line.framework() },
        "disconnect" => Command::DisconnectFramework { framework: line.framework() },
        "teardown" => Command::TearDownFramework { framework: line.framework(), request },
        "acknowledge" => Command::AcknowledgeEvents {
            framework: line.framework(),
            cursor: Cursor { index: line.number("index", u64::MAX), ordinal: u32::MAX },
        },
        "agent" => Command::RegisterAgent {
            agent: line.agent(0),
            facts: AgentFacts {
                hostname: "host".to_owned(),
                boot_id: (*line.pairs.get("boot").unwrap_or(&"1")).to_owned(),
                address: "127.0.0.1:5051".to_owned(),
                version: "1".to_owned(),
                total: line.resources(),
                attributes: BTreeMap::new(),
                limitations: Vec::new(),
            },
            tasks: line.known(),
        },
        "deactivate" => Command::DeactivateAgent {
            agent: line.agent(0),
            tasks: match line.things.get(1) {
                Some(_) => DeactivatedTasks::End { grace: None },
                None => DeactivatedTasks::RunOn,
            },
            request,
        },
        "activate" => Command::ActivateAgent { agent: line.agent(0), request },
        "gone" => Command::MarkAgentGone { agent: line.agent(0), request },
        "lost" => Command::MarkAgentUnreachable { agent: line.agent(0), epoch: epoch(0) },
        "launch" => Command::Launch {
            framework: line.framework(),
            request,
            agent: line.agent(1),
            epoch: epoch(1),
            role: line.role(),
            offered: line.resources(),
            tasks: line.specs(2),
        },
        "kill" => Command::Kill {
            by: (line.pairs.get("by"))
                .map_or(KillBy::Operator, |by| KillBy::Framework(FrameworkId::new(by).unwrap())),
            task: TaskId::new(line.things[0]).unwrap(),
            grace: line.pairs.get("grace").map(|text| Duration::from_secs(text.parse().unwrap())),
            request,
        },
        "status" => Command::RecordStatuses {
            agent: line.agent(0),
            epoch: epoch(0),
            statuses: vec![TaskStatus {
                task_id: TaskId::new(line.things[1]).unwrap(),
                framework_id: FrameworkId::new("whoever").unwrap(),
                agent_id: None,
                state: state_named(line.things[2]),
                reason: if line.things[2] == "killed" { Reason::KillRequested } else { Reason::None },
                message: String::new(),
                exit: line.pairs.get("exit").map(|code| Exit::Code(code.parse().unwrap())),
                at: Timestamp(7),
                sequence: line.number("sequence", 1),
                is_released: line.things.contains(&"released"),
                usage: None,
                health: line.pairs.get("health").map(|name| health_named(name)),
            }],
        },
        "run" => Command::SubmitRun { request, tasks: line.specs(0) },
        "role" => Command::SetRole { role: line.role(), weight_milli: line.number("weight", 1000), request },
        "token" => Command::CreateJoinToken {
            token: line.things[0].to_owned(),
            digest: line.hash("secret"),
            kind: line.join_kind(),
            only_for: line.pairs.get("only").map(|name| (*name).to_owned()),
            expires_at: Timestamp(i64::try_from(line.number("until", 1000)).unwrap() * 1_000_000),
            life: line.pairs.contains_key("life").then(|| Duration::from_secs(line.number("life", 0))),
        },
        "revoke" => Command::RevokeJoinToken { token: line.things[0].to_owned() },
        "join" => Command::UseJoinToken {
            token: line.things[0].to_owned(),
            digest: line.hash("secret"),
            kind: line.join_kind(),
            name: line.things[1].to_owned(),
            key: line.hash("key"),
        },
        "prune" => Command::Prune { keep: line.number("keep", 0), before: None, counted_before: None },
        verb => panic!("no story knows the verb {verb}"),
    }
}

/// Plays a story from an initialised cluster, and shows what came of each line. `show` shows the records.
#[track_caller]
pub(super) fn check(story: &str, expected: Expect) {
    let mut told = String::new();
    let mut state = ClusterState::new();
    let entry = |index: u64, command| Entry {
        at: Timestamp(index as i64 * 1_000_000),
        counted: ClusterTime(index * 1_000_000),
        command,
    };
    let begin = command(&state, &Line::read("init c1"));
    assert_eq!(apply(&mut state, 1, &entry(1, begin)).answer, Ok(Answer::Done));
    for text in story.lines().map(str::trim) {
        if text == "show" {
            show(&state, &mut told);
            continue;
        }
        let index = state.applied() + 1;
        let command = command(&state, &Line::read(text));
        let outcome = apply(&mut state, index, &entry(index, command));
        tell(&state, text, &outcome, &mut told);
        let rebuilt = ClusterState::from_parts(state.parts()).unwrap();
        assert_eq!(rebuilt, state, "after {text}");
    }
    expected.assert_eq(&told);
}

fn health_named(name: &str) -> Health {
    *Health::ALL.iter().find(|health| health.as_str() == name).unwrap()
}

fn tell(state: &ClusterState, text: &str, outcome: &Outcome, told: &mut String) {
    let verb = text.split_whitespace().next().unwrap();
    match &outcome.answer {
        Ok(Answer::Done) => {}
        Ok(Answer::Launched(results)) => {
            for (task, refusal) in results {
                match refusal {
                    None => writeln!(told, "{verb}: {task}").unwrap(),
                    Some(refusal) => writeln!(told, "{verb}: {}: {refusal}", refusal.code).unwrap(),
                }
            }
        }
        Ok(answer) => writeln!(told, "{verb}: {answer:?}").unwrap(),
        Err(refusal) => writeln!(told, "{verb}: {}: {refusal}", refusal.code).unwrap(),
    }
    for change in &outcome.changes {
        let Change::Event { framework, cursor } = change else { continue };
        write!(told, "  {framework} hears {}.{}: ", cursor.index, cursor.ordinal).unwrap();
        match state.framework(framework).unwrap().events[cursor].as_ref() {
            FrameworkEvent::Status(status) => writeln!(
                told,
                "{} {}{} #{} {:?}{}",
                status.task_id,
                status.state.as_str(),
                status.health.map(|health| format!(" {}", health.as_str())).unwrap_or_default(),
                status.sequence,
                status.reason,
                if status.is_released { " released" } else { "" }
            ),
            FrameworkEvent::AgentLost(agent) => writeln!(told, "agent {agent} lost"),
            FrameworkEvent::AgentBack(agent) => writeln!(told, "agent {agent} back"),
        }
        .unwrap();
    }
}

fn show(state: &ClusterState, told: &mut String) {
    for (id, framework) in state.frameworks().iter().filter(|(_, framework)| !framework.is_built_in) {
        let events = framework.events.len();
        writeln!(told, "  framework {id} role={} {:?} events={events}", framework.info.role, framework.state)
            .unwrap();
    }
    for (id, agent) in state.agents() {
        let reach = if agent.is_reachable { "" } else { " unreachable" };
        let idle = if agent.availability == Availability::Active { "" } else { " deactivated" };
        writeln!(told, "  agent {id} epoch={}{reach}{idle} allocated: {}", agent.epoch, agent.allocated)
            .unwrap();
    }
    for (id, task) in state.tasks() {
        let released = if task.is_released { " released" } else { "" };
        let kill = task.kill.map(|order| format!(" kill in {:?}", order.grace)).unwrap_or_default();
        writeln!(
            told,
            "  task {id} of {} {}{released}{kill} recorded={}",
            task.framework,
            task.state.as_str(),
            task.recorded_sequence
        )
        .unwrap();
    }
    for waiting in state.queue().values() {
        writeln!(told, "  task {} waits", waiting.spec.task_id).unwrap();
    }
}

#[test]
fn run_is_there_from_the_start() {
    check(
        "framework run
         teardown run
         disconnect run
         update run
         init c2
         init c1
         version 1
         version 5",
        expect![[r#"
            framework: invalid-argument: Framework `run` was not begun: the id `run` is in use. Subscribe without an id to get a new one.
            teardown: framework-built-in: Framework `run` was not torn down: it is built in and always there. To end what it runs, kill its tasks.
            disconnect: framework-built-in: Framework `run` was not disconnected: it is built in and always there. To end what it runs, kill its tasks.
            update: framework-built-in: Framework `run` was not updated: it is built in and always there. To end what it runs, kill its tasks.
            init: cluster-foreign: Cluster `c2` was not begun here: this log is that of cluster `c1`. Start the member with another data directory.
        "#]],
    );
}

#[test]
fn nothing_is_done_before_the_cluster_is_initialised() {
    let mut state = ClusterState::new();
    let command = command(&state, &Line::read("framework f"));
    let refusal = apply(&mut state, 1, &Entry { at: Timestamp::EPOCH, counted: ClusterTime::ZERO, command })
        .answer
        .unwrap_err();
    expect![
        "The request was not carried out: the cluster is not initialised yet. Try again when it has a leader."
    ]
    .assert_eq(&refusal.message);
}

#[test]
fn a_running_task_changes_its_health_and_nothing_else() {
    check(
        "framework f
         agent a
         launch f a t1
         status a t1 running sequence=2 health=unknown
         status a t1 running sequence=4 health=healthy
         status a t1 running sequence=5 health=healthy
         status a t1 running sequence=6
         status a t1 running sequence=5 health=unhealthy
         status a t1 running sequence=7 health=unhealthy
         status a t1 killing sequence=8
         status a t1 running sequence=9 health=healthy
         status a t1 failed sequence=10
         status a t1 running sequence=11 health=healthy
         status a t1 failed sequence=12 health=healthy
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            status: cluster-version-too-old: The request was not carried out: it needs cluster version 2, and the cluster is at 1. Upgrade every member and raise the version.
            status: cluster-version-too-old: The request was not carried out: it needs cluster version 2, and the cluster is at 1. Upgrade every member and raise the version.
            status: cluster-version-too-old: The request was not carried out: it needs cluster version 2, and the cluster is at 1. Upgrade every member and raise the version.
            status: Recorded([(TaskId(t1), 6)])
              f hears 8.0: t1 running #1 None
            status: cluster-version-too-old: The request was not carried out: it needs cluster version 2, and the cluster is at 1. Upgrade every member and raise the version.
            status: cluster-version-too-old: The request was not carried out: it needs cluster version 2, and the cluster is at 1. Upgrade every member and raise the version.
            status: Recorded([(TaskId(t1), 8)])
              f hears 11.0: t1 killing #2 None
            status: cluster-version-too-old: The request was not carried out: it needs cluster version 2, and the cluster is at 1. Upgrade every member and raise the version.
            status: Recorded([(TaskId(t1), 10)])
              f hears 13.0: t1 failed #3 None
            status: cluster-version-too-old: The request was not carried out: it needs cluster version 2, and the cluster is at 1. Upgrade every member and raise the version.
            status: cluster-version-too-old: The request was not carried out: it needs cluster version 2, and the cluster is at 1. Upgrade every member and raise the version.
              framework f role=default Connected events=3
              agent a epoch=1 allocated: cpus=1 mem=64MiB
              task t1 of f failed recorded=10
        "#]],
    );
}

#[test]
fn a_task_lives_and_its_framework_hears_of_it() {
    check(
        "framework f
         agent a
         launch f a t1
         status a t1 starting sequence=1
         status a t1 running sequence=2
         show
         status a t1 running sequence=2
         status a t1 starting sequence=3
         status a t1 finished sequence=4 exit=0
         show
         status a t1 finished sequence=5 released
         status a t1 failed sequence=6
         show
         prune
         acknowledge f index=7
         prune
         acknowledge f
         prune
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            status: Recorded([(TaskId(t1), 1)])
              f hears 5.0: t1 starting #1 None
            status: Recorded([(TaskId(t1), 2)])
              f hears 6.0: t1 running #2 None
              framework f role=default Connected events=2
              agent a epoch=1 allocated: cpus=1 mem=64MiB
              task t1 of f running recorded=2
            status: Recorded([(TaskId(t1), 2)])
            status: Recorded([(TaskId(t1), 3)])
            status: Recorded([(TaskId(t1), 4)])
              f hears 9.0: t1 finished #3 None
              framework f role=default Connected events=3
              agent a epoch=1 allocated: cpus=1 mem=64MiB
              task t1 of f finished recorded=4
            status: Recorded([(TaskId(t1), 5)])
            status: Recorded([(TaskId(t1), 6)])
              framework f role=default Connected events=3
              agent a epoch=1 allocated: nothing
              task t1 of f finished released recorded=6
            prune: Pruned { tasks: 0 }
            prune: Pruned { tasks: 0 }
            prune: Pruned { tasks: 1 }
              framework f role=default Connected events=0
              agent a epoch=1 allocated: nothing
        "#]],
    );
}

#[test]
fn a_launch_is_judged_task_by_task() {
    check(
        "framework f
         framework g
         agent a cpus=4
         launch g a used:2
         launch f a t1:1 t2:3 t3:0 used t1:1 t4:1 t5:1 cpus=3
         launch f nowhere t6
         launch f a t6 epoch=0
         launch unknown a t6
         lost a
         launch f a t6
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            framework: FrameworkRegistered { framework: FrameworkId(g) }
            agent: AgentRegistered { epoch: 1 }
            launch: used
            launch: t1
            launch: exceeds-offer: Task `t2` was not launched: it needs cpus=3 mem=64MiB, and the offers have cpus=2 mem=960MiB ports=31000-31009 left. Ask for no more than was offered, or use more offers of this agent.
            launch: invalid-argument: Task `t3` was not launched: a task needs at least 0.01 cpus; 0 thousandths were asked for. Correct its spec.
            launch: task-id-taken: Task `used` was not launched: a task with the id `used` is known already. Choose another id.
            launch: task-id-taken: Task `t1` was not launched: a task with the id `t1` is known already. Choose another id.
            launch: t4
            launch: agent-lacks-resources: Task `t5` was not launched: it needs cpus=1 mem=64MiB, and agent `a` has mem=832MiB ports=31000-31009 left. Wait for another offer.
            launch: agent-unknown: Task `t6` was not launched: no agent has the id `nowhere`. Look at the list of agents.
            launch: epoch-stale: Task `t6` was not launched: agent `a` is in epoch 1, and this was made for epoch 0. Try again with what the agent has now.
            launch: framework-unknown: No task was launched: no framework has the id `unknown`. Look at the list of frameworks, or subscribe without an id to begin a new one.
              f hears 10.0: agent a lost
              g hears 10.1: agent a lost
              f hears 10.2: t1 unreachable #1 AgentUnreachable
              f hears 10.3: t4 unreachable #1 AgentUnreachable
              g hears 10.4: used unreachable #1 AgentUnreachable
            launch: agent-unreachable: Task `t6` was not launched: agent `a` does not answer. Wait until it registers anew, or use another.
              framework f role=default Connected events=3
              framework g role=default Connected events=2
              agent a epoch=1 unreachable allocated: cpus=4 mem=192MiB
              task t1 of f unreachable recorded=0
              task t4 of f unreachable recorded=0
              task used of g unreachable recorded=0
        "#]],
    );
}

#[test]
fn a_repeat_gets_the_first_answer() {
    check(
        "framework f request=q1
         framework g request=q1
         framework other name=f request=q1
         agent a
         launch f a t1 t2:9 request=q2
         launch f a t1 t2:9 request=q2
         kill t1 by=f request=q2
         teardown f request=q3
         teardown f request=q3
         teardown f request=q4
         framework other name=f request=q1
         framework f",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            framework: invalid-argument: The request was not carried out: its request id `q1` was used before for something else. Choose a new request id for each request.
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            launch: exceeds-offer: Task `t2` was not launched: it needs cpus=9 mem=64MiB, and the offers have cpus=3 mem=960MiB ports=31000-31009 left. Ask for no more than was offered, or use more offers of this agent.
            launch: t1
            launch: exceeds-offer: Task `t2` was not launched: it needs cpus=9 mem=64MiB, and the offers have cpus=3 mem=960MiB ports=31000-31009 left. Ask for no more than was offered, or use more offers of this agent.
            kill: invalid-argument: The request was not carried out: its request id `q2` was used before for something else. Choose a new request id for each request.
            teardown: framework-ended: The framework was not torn down: framework `f` was torn down, and its id is never used again. Subscribe without an id to begin a new framework.
            framework: FrameworkRegistered { framework: FrameworkId(other) }
            framework: framework-ended: Framework `f` was not begun: framework `f` was torn down, and its id is never used again. Subscribe without an id to begin a new framework.
        "#]],
    );
}

#[test]
fn an_unreachable_agent_returns_with_its_tasks() {
    check(
        "framework f
         agent a
         launch f a t1 t2 t3 t4
         status a t1 running sequence=1
         status a t2 running sequence=1
         status a t3 running sequence=1
         lost a epoch=7
         lost a
         lost a
         show
         status a t1 finished sequence=2 epoch=1
         agent a t1:1:running t2:2:finished
         status a t2 finished sequence=2 released
         status a t4 starting sequence=1
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            launch: t2
            launch: t3
            launch: t4
            status: Recorded([(TaskId(t1), 1)])
              f hears 5.0: t1 running #1 None
            status: Recorded([(TaskId(t2), 1)])
              f hears 6.0: t2 running #1 None
            status: Recorded([(TaskId(t3), 1)])
              f hears 7.0: t3 running #1 None
            lost: epoch-stale: Agent `a` was not marked unreachable: agent `a` is in epoch 1, and this was made for epoch 7. Try again with what the agent has now.
              f hears 9.0: agent a lost
              f hears 9.1: t1 unreachable #2 AgentUnreachable
              f hears 9.2: t2 unreachable #2 AgentUnreachable
              f hears 9.3: t3 unreachable #2 AgentUnreachable
              f hears 9.4: t4 unreachable #1 AgentUnreachable
              framework f role=default Connected events=8
              agent a epoch=1 unreachable allocated: cpus=4 mem=256MiB
              task t1 of f unreachable recorded=1
              task t2 of f unreachable recorded=1
              task t3 of f unreachable recorded=1
              task t4 of f unreachable recorded=0
            status: agent-unreachable: The statuses were not recorded: agent `a` does not answer. Wait until it registers anew, or use another.
            agent: AgentRegistered { epoch: 2 }
              f hears 12.0: agent a back
              f hears 12.1: t1 running #3 None
              f hears 12.2: t3 gone #3 AgentLostTask released
            status: Recorded([(TaskId(t2), 2)])
              f hears 13.0: t2 finished #3 None released
            status: Recorded([(TaskId(t4), 1)])
              f hears 14.0: t4 starting #2 None
              framework f role=default Connected events=13
              agent a epoch=2 allocated: cpus=2 mem=128MiB
              task t1 of f running recorded=1
              task t2 of f finished released recorded=2
              task t3 of f gone released recorded=1
              task t4 of f starting recorded=1
        "#]],
    );
}

#[test]
fn a_reboot_ends_what_ran_but_keeps_what_had_ended() {
    check(
        "framework f
         agent a boot=1
         launch f a t1 t2 t3
         status a t1 running sequence=1
         status a t2 running sequence=1
         status a t3 failed sequence=1
         agent a boot=2 t1:1:running t2:2:finished t3:1:failed
         status a t2 finished sequence=2 released
         status a t1 failed sequence=3 released
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            launch: t2
            launch: t3
            status: Recorded([(TaskId(t1), 1)])
              f hears 5.0: t1 running #1 None
            status: Recorded([(TaskId(t2), 1)])
              f hears 6.0: t2 running #1 None
            status: Recorded([(TaskId(t3), 1)])
              f hears 7.0: t3 failed #1 None
            agent: AgentRegistered { epoch: 2 }
              f hears 8.0: t1 gone #2 AgentRebooted released
            status: Recorded([(TaskId(t2), 2)])
              f hears 9.0: t2 finished #2 None released
            status: Recorded([(TaskId(t1), 3)])
              framework f role=default Connected events=5
              agent a epoch=2 allocated: nothing
              task t1 of f gone released recorded=3
              task t2 of f finished released recorded=2
              task t3 of f failed released recorded=1
        "#]],
    );
}

#[test]
fn what_an_agent_lost_is_gone_and_what_it_never_heard_of_is_not() {
    check(
        "framework f
         agent a
         launch f a heard unheard
         status a heard running sequence=1
         agent a
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: heard
            launch: unheard
            status: Recorded([(TaskId(heard), 1)])
              f hears 5.0: heard running #1 None
            agent: AgentRegistered { epoch: 2 }
              f hears 6.0: heard gone #2 AgentLostTask released
              framework f role=default Connected events=2
              agent a epoch=2 allocated: cpus=1 mem=64MiB
              task heard of f gone released recorded=1
              task unheard of f staging recorded=0
        "#]],
    );
}

#[test]
fn an_old_epoch_is_refused_by_name() {
    check(
        "framework f
         agent a
         launch f a t1
         agent a
         status a t1 running epoch=1
         status nowhere t1 running
         lost a epoch=1
         status a unknown running sequence=9
         agent b
         status b t1 finished sequence=9 released
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            agent: AgentRegistered { epoch: 2 }
            status: epoch-stale: The statuses were not recorded: agent `a` is in epoch 2, and this was made for epoch 1. Try again with what the agent has now.
            status: agent-unknown: The statuses were not recorded: no agent has the id `nowhere`. Look at the list of agents.
            lost: epoch-stale: Agent `a` was not marked unreachable: agent `a` is in epoch 2, and this was made for epoch 1. Try again with what the agent has now.
            status: Recorded([(TaskId(unknown), 9)])
            agent: AgentRegistered { epoch: 1 }
            status: Recorded([(TaskId(t1), 9)])
              framework f role=default Connected events=0
              agent a epoch=2 allocated: cpus=1 mem=64MiB
              agent b epoch=1 allocated: nothing
              task t1 of f staging recorded=0
        "#]],
    );
}

#[test]
fn a_kill_order_may_hurry_but_never_slow_down() {
    check(
        "framework f
         framework g
         agent a
         launch f a t1
         kill t1 by=f
         show
         kill t1 grace=1
         kill t1 grace=60
         kill t1 by=g
         kill t2
         kill t1 grace=100000
         show
         status a t1 killed sequence=1 released
         kill t1
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            framework: FrameworkRegistered { framework: FrameworkId(g) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
              framework f role=default Connected events=0
              framework g role=default Connected events=0
              agent a epoch=1 allocated: cpus=1 mem=64MiB
              task t1 of f staging kill in 10s recorded=0
            kill: task-not-yours: Task `t1` was not killed: it belongs to framework `f`, not to `g`. A framework can kill its own tasks only.
            kill: task-unknown: Task `t2` was not killed: no task has this id. Look at the list of tasks.
            kill: invalid-argument: Task `t1` was not killed: its grace is longer than a day. Ask for a shorter one.
              framework f role=default Connected events=0
              framework g role=default Connected events=0
              agent a epoch=1 allocated: cpus=1 mem=64MiB
              task t1 of f staging kill in 1s recorded=0
            status: Recorded([(TaskId(t1), 1)])
              f hears 12.0: t1 killed #1 KillRequested released
              framework f role=default Connected events=1
              framework g role=default Connected events=0
              agent a epoch=1 allocated: nothing
              task t1 of f killed released kill in 1s recorded=1
        "#]],
    );
}

#[test]
fn a_run_waits_for_an_offer_or_is_killed() {
    check(
        "agent a
         framework f
         run t1 t2 t3 request=q1
         run t1 t2 t3 request=q1
         run t4 t1
         run t4 t4
         run t4:0
         show
         launch f a t1
         kill t2
         launch run a t1 t2 t9
         status a t1 finished released
         show
         prune keep=1
         show",
        expect![[r#"
            agent: AgentRegistered { epoch: 1 }
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            run: Submitted([TaskId(t1), TaskId(t2), TaskId(t3)])
            run: Submitted([TaskId(t1), TaskId(t2), TaskId(t3)])
            run: task-id-taken: Task `t1` was not submitted: a task with the id `t1` is known already. Choose another id.
            run: task-id-taken: Task `t4` was not submitted: a task with the id `t4` is known already. Choose another id.
            run: invalid-argument: Task `t4` was not submitted: a task needs at least 0.01 cpus; 0 thousandths were asked for. Correct its spec.
              framework f role=default Connected events=0
              agent a epoch=1 allocated: nothing
              task t1 waits
              task t2 waits
              task t3 waits
            launch: task-id-taken: Task `t1` was not launched: a task with the id `t1` is known already. Choose another id.
            launch: t1
            launch: task-id-taken: Task `t2` was not launched: a task with the id `t2` is known already. Choose another id.
            launch: task-unknown: Task `t9` was not launched: it does not wait any more. Submit it again under another id if it is wanted.
            status: Recorded([(TaskId(t1), 1)])
              framework f role=default Connected events=0
              agent a epoch=1 allocated: nothing
              task t1 of run finished released recorded=1
              task t2 of run killed released recorded=0
              task t3 waits
            prune: Pruned { tasks: 1 }
              framework f role=default Connected events=0
              agent a epoch=1 allocated: nothing
              task t1 of run finished released recorded=1
              task t3 waits
        "#]],
    );
}

#[test]
fn a_torn_down_framework_leaves_nothing_but_orders_to_end() {
    check(
        "framework f
         agent a
         launch f a t1 t2
         status a t1 finished sequence=1 released
         status a t2 running sequence=1
         disconnect f
         show
         teardown f
         show
         connect f
         launch f a t3
         prune
         status a t2 killed sequence=2 released
         prune
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            launch: t2
            status: Recorded([(TaskId(t1), 1)])
              f hears 5.0: t1 finished #1 None released
            status: Recorded([(TaskId(t2), 1)])
              f hears 6.0: t2 running #1 None
              framework f role=default Disconnected { at: Timestamp(7000000), counted: ClusterTime(0) } events=2
              agent a epoch=1 allocated: cpus=1 mem=64MiB
              task t1 of f finished released recorded=1
              task t2 of f running recorded=1
              agent a epoch=1 allocated: cpus=1 mem=64MiB
              task t1 of f finished released recorded=1
              task t2 of f running kill in 10s recorded=1
            connect: framework-ended: The framework was not connected: framework `f` was torn down, and its id is never used again. Subscribe without an id to begin a new framework.
            launch: framework-ended: No task was launched: framework `f` was torn down, and its id is never used again. Subscribe without an id to begin a new framework.
            prune: Pruned { tasks: 1 }
            status: Recorded([(TaskId(t2), 2)])
            prune: Pruned { tasks: 1 }
              agent a epoch=1 allocated: nothing
        "#]],
    );
}

#[test]
fn an_agent_that_shrank_gets_nothing_more() {
    check(
        "framework f
         agent a cpus=4
         launch f a t1:4
         agent a cpus=2 t1:0:staging
         launch f a t2:1
         status a t1 finished released
         launch f a t2:1
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            agent: AgentRegistered { epoch: 2 }
            launch: agent-lacks-resources: Task `t2` was not launched: it needs cpus=1 mem=64MiB, and agent `a` has mem=960MiB ports=31000-31009 left. Wait for another offer.
            status: Recorded([(TaskId(t1), 1)])
              f hears 7.0: t1 finished #1 None released
            launch: t2
              framework f role=default Connected events=1
              agent a epoch=2 allocated: cpus=1 mem=64MiB
              task t1 of f finished released recorded=1
              task t2 of f staging recorded=0
        "#]],
    );
}

#[test]
fn a_role_has_a_weight() {
    check(
        "role role=web weight=2000 request=q1
         role role=web weight=3000 request=q1
         role role=web weight=0
         role role=web weight=1000001",
        expect![[r#"
            role: invalid-argument: The weight of role `web` was not set to 0 thousandths: choose one from 1 to 1000000 thousandths.
            role: invalid-argument: The weight of role `web` was not set to 1000001 thousandths: choose one from 1 to 1000000 thousandths.
        "#]],
    );
}

#[test]
fn dropped_after_it_ran_is_failed() {
    check(
        "framework f
         agent a
         launch f a t1 t2
         status a t1 running sequence=1
         status a t1 unreachable sequence=2
         status a t1 dropped sequence=3 released
         status a t2 dropped sequence=1 released",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            launch: t2
            status: Recorded([(TaskId(t1), 1)])
              f hears 5.0: t1 running #1 None
            status: Recorded([(TaskId(t1), 2)])
            status: Recorded([(TaskId(t1), 3)])
              f hears 7.0: t1 failed #2 None released
            status: Recorded([(TaskId(t2), 1)])
              f hears 8.0: t2 dropped #1 None released
        "#]],
    );
}

#[test]
#[should_panic(expected = "log entry 1 came after entry 1")]
fn the_log_has_one_order() {
    let mut state = ClusterState::new();
    let command = Command::Prune { keep: 0, before: None, counted_before: None };
    let entry = Entry { at: Timestamp::EPOCH, counted: ClusterTime::ZERO, command };
    drop(apply(&mut state, 1, &entry));
    drop(apply(&mut state, 1, &entry));
}

#[test]
fn events_are_bounded_but_never_a_final_status() {
    let mut state = ClusterState::new();
    let mut index = 0;
    let mut tell = |state: &mut ClusterState, text: &str| {
        index += 1;
        let command = command(state, &Line::read(text));
        apply(state, index, &Entry { at: Timestamp::EPOCH, counted: ClusterTime::ZERO, command })
            .answer
            .unwrap()
    };
    for text in ["init c", "framework f", "agent a", "launch f a t1 t2", "status a t2 finished released"] {
        tell(&mut state, text);
    }
    // Each round makes four events: lost, unreachable, back, running again.
    for _ in 0..=limits::EVENTS_KEPT_MAX / 4 {
        tell(&mut state, "lost a");
        tell(&mut state, "agent a t1:0:running");
    }
    let framework = state.framework(&FrameworkId::new("f").unwrap()).unwrap();
    assert_eq!(framework.events.len(), limits::EVENTS_KEPT_MAX + 1);
    assert_eq!(framework.finals_pending(), 1);
    let compacted = framework.compacted_to.unwrap();
    assert_eq!(
        framework.events_after(Cursor::START, 1),
        EventsAfter::Compacted { resume: framework.last_event() }
    );
    let EventsAfter::Kept(events) = framework.events_after(compacted, 2) else { panic!("compacted") };
    assert_eq!(events.len(), 2);
    assert_eq!(ClusterState::from_parts(state.parts()).unwrap(), state);
    tell(&mut state, "prune");
    assert!(state.task(&TaskId::new("t2").unwrap()).is_some(), "its final status was not acknowledged");
}

#[test]
fn a_join_token_lets_one_in_once() {
    check(
        "token j1 secret=a
         version 4
         token j1 secret=a
         token j1 secret=a
         token j1 secret=b
         join j1 a1 secret=b key=x
         join j2 a1 secret=a key=x
         join j1 1 member secret=a key=x
         join j1 a1 secret=a key=x
         join j1 a1 secret=a key=x
         join j1 a1 secret=a key=y
         join j1 a2 secret=a key=x
         token m1 member secret=c
         join m1 a1 secret=c key=x
         revoke m1
         join m1 2 member secret=c key=x
         revoke m2
         token j3 secret=d until=21
         join j3 a3 secret=d key=x
         join j3 a3 secret=d key=x
         join j3 a3 secret=d key=x",
        expect![[r#"
            token: cluster-version-too-old: The request was not carried out: it needs cluster version 4, and the cluster is at 1. Upgrade every member and raise the version.
            token: invalid-argument: The join token was not made: there is one of the id `j1` already. Make another.
            join: join-token-refused: The agent `a1` did not join: the token is not known here; make another with `muster token create agent`.
            join: join-token-refused: The agent `a1` did not join: the token is not known here; make another with `muster token create agent`.
            join: join-token-refused: The member `1` did not join: the token is for an agent; make another with `muster token create member`.
            join: join-token-refused: The agent `a1` did not join: agent `a1` has used the token already; make another with `muster token create agent`.
            join: join-token-refused: The agent `a2` did not join: agent `a1` has used the token already; make another with `muster token create agent`.
            join: join-token-refused: The agent `a1` did not join: the token is for a member; make another with `muster token create agent`.
            join: join-token-refused: The member `2` did not join: the token was revoked; make another with `muster token create member`.
            revoke: join-token-refused: Join token `m2` was not revoked: there is none of this id. See `muster token list`.
            join: join-token-refused: The agent `a3` did not join: the token has expired; make another with `muster token create agent`, and use it before its end.
            join: join-token-refused: The agent `a3` did not join: the token has expired; make another with `muster token create agent`, and use it before its end.
        "#]],
    );
}

#[test]
fn a_join_token_ends_by_the_clusters_time_whatever_the_wall_clocks_say() {
    check(
        "version 6
         token j1 secret=a until=1 life=100
         version 7
         token j1 secret=a until=1 life=3
         join j1 a1 secret=a key=x
         token j2 secret=b until=1000 life=2
         join j2 a2 secret=b key=x
         join j2 a2 secret=b key=x
         token j3 secret=c until=1000 life=1
         join j3 a3 secret=c key=x",
        expect![[r#"
            token: cluster-version-too-old: The request was not carried out: it needs cluster version 7, and the cluster is at 6. Upgrade every member and raise the version.
            join: join-token-refused: The agent `a2` did not join: the token has expired; make another with `muster token create agent`, and use it before its end.
            join: join-token-refused: The agent `a3` did not join: the token has expired; make another with `muster token create agent`, and use it before its end.
        "#]],
    );
}

#[test]
fn an_id_that_is_there_needs_a_token_of_its_own() {
    check(
        "version 4
         agent a1
         token j1 secret=a
         join j1 a1 secret=a key=x
         token j2 secret=b only=a1
         join j2 a2 secret=b key=x
         join j2 a1 secret=b key=x",
        expect![[r#"
            agent: AgentRegistered { epoch: 1 }
            join: join-token-refused: The agent `a1` did not join: an agent of this id is there already; make a token for it with `muster token create agent --only-for a1`, or give this one a data directory of its own.
            join: join-token-refused: The agent `a2` did not join: the token is for `a1` alone; make another with `muster token create agent`.
        "#]],
    );
}
