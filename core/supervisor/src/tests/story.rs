//! How a story is written: one event for each line in, the actions that follow out.

use expect_test::Expect;
use model::{
    Duration, Exit, Figure, KillOrder, ProcessSpec, Reason, StopSignal, TaskId, TaskState, Timestamp, Usage,
};

use super::{agent, assignment, check as health_check, task};
use crate::{
    Assignment, Event, Found, KillBudget, KnownTask, MemoryEnd, Now, ProcessEnd, ProcessId, Row, Supervisor,
    Uptime,
};

/// Plays a story; every line is an event, `+ SECONDS`, `clock SECONDS` (a step), or `restart`/`reboot`.
pub(super) fn check(story: &str, expected: Expect) {
    expected.assert_eq(&play(story));
}

pub(super) fn play(story: &str) -> String {
    let mut out = String::new();
    let mut now = Now { wall: Timestamp(1_000_000), uptime: Uptime(Duration::from_millis(90)) };
    let budget = || KillBudget::new(1, Duration::from_secs(60));
    let mut supervisor = Supervisor::new(agent()).with_kill_budget(budget());
    let mut stored: std::collections::BTreeMap<TaskId, Row> = std::collections::BTreeMap::new();
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        out += &format!("> {line}\n");
        let words: Vec<&str> = line.split_whitespace().collect();
        let actions = match words.as_slice() {
            ["+", seconds] => {
                now = now + Duration::from_millis((seconds.parse::<f64>().unwrap() * 1000.0) as u64);
                match supervisor.next_wake(now) {
                    Some(Duration::ZERO) => supervisor.handle(Event::Tick, now),
                    _ => Vec::new(),
                }
            }
            ["clock", seconds] => {
                now.wall = Timestamp(now.wall.0 + seconds.parse::<i64>().unwrap() * 1_000_000);
                Vec::new()
            }
            ["restart"] | ["reboot"] => {
                let attempts: std::collections::BTreeSet<String> =
                    stored.values().map(|row| row.attempt.clone()).collect();
                let found = Found {
                    is_same_boot: words == ["restart"],
                    damaged: Default::default(),
                    cgroups: if words == ["restart"] { attempts.clone() } else { Default::default() },
                    sandboxes: attempts,
                };
                let rows = stored.values().cloned().collect();
                let (next, actions) = Supervisor::restore(agent(), rows, found, now);
                supervisor = next.with_kill_budget(budget());
                actions
            }
            _ => supervisor.handle(parse(&words), now),
        };
        assert!(supervisor.indices_are_right());
        for action in actions {
            if let crate::Action::WriteRecord(row) = &action {
                stored.insert(row.task_id.clone(), (**row).clone());
            }
            out += &format!("  {action}\n");
        }
    }
    out
}

fn parse(words: &[&str]) -> Event {
    match words {
        ["assigned", names @ ..] => Event::Assigned { assignments: assignments(names) },
        ["welcomed", names @ ..] => {
            let (unchanged, listed): (Vec<&str>, Vec<&str>) =
                names.iter().partition(|name| name.starts_with('='));
            let unchanged = unchanged.into_iter().map(unchanged_task).collect();
            Event::Welcomed { assignments: assignments(&listed), unchanged }
        }
        ["kill", name] => Event::KillOrdered { task_id: task(name), grace: None },
        ["kill", name, seconds] => Event::KillOrdered {
            task_id: task(name),
            grace: Some(Duration::from_secs(seconds.parse().unwrap())),
        },
        ["acknowledged", name, sequence] => {
            Event::Acknowledged { task_id: task(name), sequence: sequence.parse().unwrap() }
        }
        ["prepared", name] => {
            Event::Prepared { task_id: task(name), process: ProcessId { pid: 70, start_ticks: 9 } }
        }
        ["fetched", name] => Event::Fetched { task_id: task(name) },
        ["fetch-failed", name] => Event::FetchFailed {
            task_id: task(name),
            message: "can't fetch http://127.0.0.1/a: it is not there".to_owned(),
        },
        ["never", "begun", name] => Event::NeverBegun { task_id: task(name) },
        ["launched", name] => Event::Launched { task_id: task(name) },
        ["launch-failed", name] => Event::LaunchFailed {
            task_id: task(name),
            reason: Reason::UserRefused,
            message: "this host has no user `bob`".to_owned(),
        },
        ["exec-failed", name] => Event::ExecFailed {
            task_id: task(name),
            message: "can't run `sleep`: No such file or directory".to_owned(),
        },
        ["exited", name, how @ ..] => {
            let exit = match how {
                ["unknown"] => None,
                ["code", code, ..] => Some(Exit::Code(code.parse().unwrap())),
                ["signal", signal, ..] => Some(Exit::Signal(signal.parse().unwrap())),
                _ => panic!("{how:?}"),
            };
            let usage = how
                .contains(&"oom")
                .then(|| Usage::default().with(Figure::MemoryLimitBytes, 64 << 20).with(Figure::OomKills, 1));
            Event::Exited { task_id: task(name), exit, usage, processes: processes(how) }
        }
        ["ended", name, how @ ..] => Event::ProcessesEnded { task_id: task(name), processes: processes(how) },
        ["out-of-memory", name] => Event::OutOfMemory {
            task_id: task(name),
            usage: Usage::default().with(Figure::MemoryBytes, (63 << 20) + (1 << 19)),
        },
        ["disk-outgrown", name] => Event::DiskOutgrown { task_id: task(name) },
        ["port", name, port] => Event::PortUsed { task_id: task(name), port: (*port).to_owned() },
        ["passed", name] => Event::Probed { task_id: task(name), failure: None },
        ["failed", name] => {
            Event::Probed { task_id: task(name), failure: Some("connection refused".to_owned()) }
        }
        ["emptied", name] => Event::Emptied { task_id: task(name), usage: None },
        ["sandbox-removed", name] => Event::SandboxRemoved { task_id: task(name) },
        ["never-begun", name] => Event::NeverBegun { task_id: task(name) },
        ["end-all"] => Event::EndAll,
        _ => panic!("{words:?}"),
    }
}

/// `by:web` is the process whose end was the end of the whole, by the exit before it; `log=3` exited by itself,
/// `log+15` was killed by a signal after that; `~64` behind it: the kernel killed it at its limit.
fn processes(how: &[&str]) -> Vec<ProcessEnd> {
    let one = |word: &&str| {
        let (word, memory) = word.split_once('~').map_or((*word, None), |(word, limit)| (word, Some(limit)));
        let memory = memory.map(|limit| MemoryEnd { oom_kills: 1, limit_mib: limit.parse().ok() });
        let end = |name: &str, exit, is_decisive, is_own| {
            Some(ProcessEnd { name: name.to_owned(), exit, is_decisive, is_own, memory })
        };
        if let Some(name) = word.strip_prefix("by:") {
            let number = how[1].parse().unwrap();
            let exit = if how[0] == "signal" { Exit::Signal(number) } else { Exit::Code(number) };
            return end(name, exit, true, true);
        }
        if let Some((name, code)) = word.split_once('=') {
            return end(name, Exit::Code(code.parse().unwrap()), false, true);
        }
        let (name, signal) = word.split_once('+')?;
        end(name, Exit::Signal(signal.parse().unwrap()), false, false)
    };
    how.iter().filter_map(one).collect()
}

/// `=name#3`: the leader knows of it what the hello said.
fn unchanged_task(word: &str) -> KnownTask {
    let (name, sequence) = word.trim_start_matches('=').split_once('#').unwrap();
    let sequence = sequence.parse().unwrap();
    KnownTask { task_id: task(name), sequence, state: TaskState::Running, awaits_word: false }
}

/// `name`, `name#3` with a recorded sequence, `name!` with a kill order, `name~5` that may run for 5 s and is
/// asked to end by SIGINT, `name?` with a health check, `name$` with a secret, `name%` with processes.
fn assignments(names: &[&str]) -> Vec<Assignment> {
    let one = |text: &&str| {
        let (text, is_killed) = text.strip_suffix('!').map_or((*text, false), |text| (text, true));
        let (text, is_checked) = text.strip_suffix('?').map_or((text, false), |text| (text, true));
        let (text, longest) =
            text.split_once('~').map_or((text, None), |(text, longest)| (text, Some(longest)));
        let (name, sequence) = text.split_once('#').unwrap_or((text, "0"));
        let (name, has_secret) = name.strip_suffix('$').map_or((name, false), |name| (name, true));
        let (name, is_group) = name.strip_suffix('%').map_or((name, false), |name| (name, true));
        let plain = assignment(name);
        let mut spec = (*plain.spec).clone();
        if let Some(longest) = longest {
            spec.run_time_max = Some(Duration::from_secs(longest.parse().unwrap()));
            spec.kill_signal = StopSignal::Int;
        }
        if has_secret {
            let value = model::SecretValue(b"hush".to_vec());
            spec.secrets = vec![model::Secret { name: "key".to_owned(), value }];
        }
        if is_group {
            let process = |name: &str| ProcessSpec::new(name, vec!["run".to_owned()]);
            let log = ProcessSpec { is_essential: false, ..process("log") };
            spec.processes = vec![process("web"), log];
            spec.command.clear();
        }
        spec.health_check = is_checked.then(health_check);
        Assignment {
            kill: is_killed.then_some(KillOrder { grace: Duration::from_secs(3) }),
            recorded_sequence: sequence.parse().unwrap(),
            spec: spec.into(),
            ..plain
        }
    };
    names.iter().map(one).collect()
}
