//! The language of stories: commands as text, one a line, and what came of each.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use expect_test::Expect;
use model::{
    AgentId, ClusterId, ClusterTime, Cursor, Duration, Exit, FrameworkEvent, FrameworkId, Health, PortRange,
    PortRanges, Reason, RequestId, Resources, RoleName, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp,
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

/// What one line asks for.
pub fn asked(state: &ClusterState, text: &str) -> Command {
    command(state, &Line::read(text))
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
