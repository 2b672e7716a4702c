//! One event for each line in, the actions that follow out.

use expect_test::{Expect, expect};
use model::{Duration, Exit, KillOrder, Reason, TaskId, Timestamp, Usage};

use super::{agent, assignment, task};
use crate::{Assignment, Event, Found, ProcessId, Row, Supervisor, limits};

/// Plays a story; every line is an event, or `+ SECONDS`, or `restart`/`reboot`.
fn check(story: &str, expected: Expect) {
    expected.assert_eq(&play(story));
}

fn play(story: &str) -> String {
    let mut out = String::new();
    let mut now = Timestamp(1_000_000);
    let mut supervisor = Supervisor::new(agent());
    let mut stored: std::collections::BTreeMap<TaskId, Row> = std::collections::BTreeMap::new();
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        out += &format!("> {line}\n");
        let words: Vec<&str> = line.split_whitespace().collect();
        let actions = match words.as_slice() {
            ["+", seconds] => {
                now = now + Duration::from_millis((seconds.parse::<f64>().unwrap() * 1000.0) as u64);
                match supervisor.next_wake() {
                    Some(at) if at <= now => supervisor.handle(Event::Tick, now),
                    _ => Vec::new(),
                }
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
                supervisor = next;
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
        ["welcomed", names @ ..] => Event::Welcomed { assignments: assignments(names) },
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
            let usage = how.contains(&"oom").then(|| Usage {
                memory_limit_bytes: Some(64 << 20),
                oom_kills: Some(1),
                ..Usage::default()
            });
            Event::Exited { task_id: task(name), exit, usage }
        }
        ["out-of-memory", name] => Event::OutOfMemory {
            task_id: task(name),
            usage: Usage { memory_bytes: Some((63 << 20) + (1 << 19)), ..Usage::default() },
        },
        ["emptied", name] => Event::Emptied { task_id: task(name), usage: None },
        ["sandbox-removed", name] => Event::SandboxRemoved { task_id: task(name) },
        ["never-begun", name] => Event::NeverBegun { task_id: task(name) },
        ["end-all"] => Event::EndAll,
        _ => panic!("{words:?}"),
    }
}

/// `name`, `name#3` with a recorded sequence, `name!` with a kill order.
fn assignments(names: &[&str]) -> Vec<Assignment> {
    let one = |text: &&str| {
        let (text, is_killed) = text.strip_suffix('!').map_or((*text, false), |text| (text, true));
        let (name, sequence) = text.split_once('#').unwrap_or((text, "0"));
        Assignment {
            kill: is_killed.then_some(KillOrder { grace: Duration::from_secs(3) }),
            recorded_sequence: sequence.parse().unwrap(),
            ..assignment(name)
        }
    };
    names.iter().map(one).collect()
}

#[test]
fn a_task_runs_and_ends() {
    check(
        "assigned t
         prepared t
         launched t
         exited t code 3
         emptied t
         acknowledged t 3",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > exited t code 3
              write record t: ending as failed, #1 starting, #2 running
              kill all task-t.lfls
            > emptied t
              write record t: ended, #1 starting, #2 running, #3 failed released
              report t #3 failed code 3 released (CommandExited: exited with code 3)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
            > acknowledged t 3
              write record t: ended
        "#]],
    );
}

#[test]
fn a_second_assignment_is_not_launched() {
    check(
        "assigned t
         assigned t
         prepared t
         launched t
         assigned t
         welcomed t#2",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > assigned t
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > assigned t
            > welcomed t#2
        "#]],
    );
}

#[test]
fn a_killed_task_gets_sigterm_then_sigkill() {
    check(
        "assigned t
         prepared t
         launched t
         kill t
         + 9
         + 2
         + 1
         exited t signal 9
         emptied t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > kill t
              write record t: running 70@9, kill ordered, #1 starting, #2 running, #3 killing
              report t #3 killing
              terminate 70@9 of t
            > + 9
            > + 2
              kill all task-t.lfls
            > + 1
              kill all task-t.lfls
            > exited t signal 9
              write record t: ending as killed, kill ordered, #1 starting, #2 running, #3 killing
              kill all task-t.lfls
            > emptied t
              write record t: ended, kill ordered, #1 starting, #2 running, #3 killing, #4 killed released
              report t #4 killed signal 9 released (KillRequested: ended because somebody asked for it)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
        "#]],
    );
}

#[test]
fn a_second_kill_can_only_hasten() {
    check(
        "assigned t
         prepared t
         launched t
         kill t 60
         kill t 100
         kill t 1
         + 2",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > kill t 60
              write record t: running 70@9, kill ordered, #1 starting, #2 running, #3 killing
              report t #3 killing
              terminate 70@9 of t
            > kill t 100
            > kill t 1
              write record t: running 70@9, kill ordered, #1 starting, #2 running, #3 killing
            > + 2
              kill all task-t.lfls
        "#]],
    );
}

#[test]
fn a_kill_without_grace_is_sigkill() {
    check(
        "assigned t
         prepared t
         launched t
         kill t 0",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > kill t 0
              write record t: running 70@9, kill ordered, #1 starting, #2 running, #3 killing
              report t #3 killing
              kill all task-t.lfls
        "#]],
    );
}

#[test]
fn a_kill_during_the_launch_lets_nothing_begin() {
    check(
        "assigned t
         kill t
         prepared t
         emptied t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > kill t
              write record t: preparing, kill ordered, #1 starting
            > prepared t
              write record t: ending as killed, kill ordered, #1 starting
              kill all task-t.lfls
            > emptied t
              write record t: ended, kill ordered, #1 starting, #2 killed released
              report t #2 killed released (KillRequested: ended because somebody asked for it)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
        "#]],
    );
}

#[test]
fn a_launch_that_fails_ends_with_its_reason() {
    check(
        "assigned t
         launch-failed t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > launch-failed t
              write record t: ended, #1 starting, #2 failed released
              report t #2 failed released (UserRefused: this host has no user `bob`)
        "#]],
    );
}

#[test]
fn a_command_that_is_not_there_leaves_nothing() {
    check(
        "assigned t
         prepared t
         exec-failed t
         emptied t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > exec-failed t
              write record t: ending as failed, #1 starting
              kill all task-t.lfls
            > emptied t
              write record t: ended, #1 starting, #2 failed released
              report t #2 failed released (CommandNotExecutable: can't run `sleep`: No such file or directory)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
        "#]],
    );
}

#[test]
fn the_memory_limit_is_named_with_the_figures_of_the_moment() {
    check(
        "assigned t
         prepared t
         launched t
         out-of-memory t
         exited t signal 9 oom
         emptied t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > out-of-memory t
            > exited t signal 9 oom
              write record t: ending as failed, #1 starting, #2 running
              kill all task-t.lfls
            > emptied t
              write record t: ended, #1 starting, #2 running, #3 failed released
              report t #3 failed signal 9 released (MemoryLimit: reached its memory limit of 64.0 MiB, 63.5 MiB in use; the kernel killed 1 process)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
        "#]],
    );
}

#[test]
fn a_success_with_a_killed_child_is_a_success() {
    check(
        "assigned t
         prepared t
         launched t
         exited t code 0 oom
         emptied t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > exited t code 0 oom
              write record t: ending as finished, #1 starting, #2 running
              kill all task-t.lfls
            > emptied t
              write record t: ended, #1 starting, #2 running, #3 finished released
              report t #3 finished code 0 released
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
        "#]],
    );
}

#[test]
fn an_exit_that_nobody_saw_is_a_failure() {
    check(
        "assigned t
         prepared t
         launched t
         restart
         exited t unknown
         emptied t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > restart
              adopt 70@9 of t
            > exited t unknown
              write record t: ending as failed, #1 starting, #2 running
              kill all task-t.lfls
            > emptied t
              write record t: ended, #1 starting, #2 running, #3 failed released
              report t #3 failed released (ExitStatusUnknown: ended while the agent was away, and this host kept no exit status)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
        "#]],
    );
}

#[test]
fn what_will_not_die_is_reported_after_a_second_and_released_later() {
    check(
        "assigned t
         prepared t
         launched t
         exited t code 0
         + 0.5
         + 0.5
         + 1
         emptied t
         acknowledged t 3
         acknowledged t 4",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > exited t code 0
              write record t: ending as finished, #1 starting, #2 running
              kill all task-t.lfls
            > + 0.5
            > + 0.5
              write record t: lingering, #1 starting, #2 running, #3 finished
              report t #3 finished code 0
              kill all task-t.lfls
            > + 1
              kill all task-t.lfls
            > emptied t
              write record t: ended, #1 starting, #2 running, #3 finished, #4 finished released
              report t #4 finished code 0 released
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
            > acknowledged t 3
            > acknowledged t 4
              write record t: ended
        "#]],
    );
}

#[test]
fn a_restart_adopts_what_runs_and_prepares_anew_what_never_began() {
    check(
        "assigned prepares releases runs
         prepared releases
         prepared runs
         launched runs
         restart
         launched releases
         prepared prepares",
        expect![[r#"
            > assigned prepares releases runs
              write record prepares: preparing, #1 starting
              report prepares #1 starting
              make sandbox task-prepares.lfls
              make cgroups task-prepares.lfls cpus=0.5 mem=64MiB
              register meter task-prepares.lfls
              spawn task-prepares.lfls ["sleep", "60"]
              write record releases: preparing, #1 starting
              report releases #1 starting
              make sandbox task-releases.lfls
              make cgroups task-releases.lfls cpus=0.5 mem=64MiB
              register meter task-releases.lfls
              spawn task-releases.lfls ["sleep", "60"]
              write record runs: preparing, #1 starting
              report runs #1 starting
              make sandbox task-runs.lfls
              make cgroups task-runs.lfls cpus=0.5 mem=64MiB
              register meter task-runs.lfls
              spawn task-runs.lfls ["sleep", "60"]
            > prepared releases
              write record releases: releasing 70@9, #1 starting
              register process 70@9 of releases
              release releases
            > prepared runs
              write record runs: releasing 70@9, #1 starting
              register process 70@9 of runs
              release runs
            > launched runs
              write record runs: running 70@9, #1 starting, #2 running
              report runs #2 running
            > restart
              write record prepares: preparing, #1 starting
              remove stray cgroups task-prepares.lfls
              remove stray sandbox task-prepares.lfls
              make sandbox task-prepares.lfls
              make cgroups task-prepares.lfls cpus=0.5 mem=64MiB
              register meter task-prepares.lfls
              spawn task-prepares.lfls ["sleep", "60"]
              adopt 70@9 of releases
              adopt 70@9 of runs
            > launched releases
              write record releases: running 70@9, #1 starting, #2 running
              report releases #2 running
            > prepared prepares
              write record prepares: releasing 70@9, #1 starting
              register process 70@9 of prepares
              release prepares
        "#]],
    );
}

#[test]
fn a_process_that_ended_before_its_command_began_is_replaced() {
    check(
        "assigned t
         prepared t
         restart
         never-begun t
         prepared t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > restart
              adopt 70@9 of t
            > never-begun t
              unregister process 70@9 of t
              write record t: preparing, #1 starting
              remove stray cgroups task-t.lfls
              remove stray sandbox task-t.lfls
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
        "#]],
    );
}

#[test]
fn a_launch_that_never_gets_further_is_given_up() {
    let story = format!("assigned t\n{}", "restart\n".repeat(limits::LAUNCHES_MAX as usize));
    let shown = play(&story);
    let last = shown.lines().rev().take(2).collect::<Vec<_>>().join("\n");
    expect![[r#"
          kill all task-t.lfls
          write record t: ending as dropped, #1 starting"#]].assert_eq(&last);
}

#[test]
fn a_restart_during_a_kill_sends_the_signal_again() {
    check(
        "assigned t
         prepared t
         launched t
         kill t
         + 4
         restart
         + 6",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > kill t
              write record t: running 70@9, kill ordered, #1 starting, #2 running, #3 killing
              report t #3 killing
              terminate 70@9 of t
            > + 4
            > restart
              adopt 70@9 of t
              terminate 70@9 of t
            > + 6
              kill all task-t.lfls
        "#]],
    );
}

#[test]
fn a_reboot_leaves_no_process_to_adopt() {
    check(
        "assigned runs ended
         prepared runs
         launched runs
         prepared ended
         launched ended
         exited ended code 0
         reboot
         welcomed",
        expect![[r#"
            > assigned runs ended
              write record runs: preparing, #1 starting
              report runs #1 starting
              make sandbox task-runs.lfls
              make cgroups task-runs.lfls cpus=0.5 mem=64MiB
              register meter task-runs.lfls
              spawn task-runs.lfls ["sleep", "60"]
              write record ended: preparing, #1 starting
              report ended #1 starting
              make sandbox task-ended.lfls
              make cgroups task-ended.lfls cpus=0.5 mem=64MiB
              register meter task-ended.lfls
              spawn task-ended.lfls ["sleep", "60"]
            > prepared runs
              write record runs: releasing 70@9, #1 starting
              register process 70@9 of runs
              release runs
            > launched runs
              write record runs: running 70@9, #1 starting, #2 running
              report runs #2 running
            > prepared ended
              write record ended: releasing 70@9, #1 starting
              register process 70@9 of ended
              release ended
            > launched ended
              write record ended: running 70@9, #1 starting, #2 running
              report ended #2 running
            > exited ended code 0
              write record ended: ending as finished, #1 starting, #2 running
              kill all task-ended.lfls
            > reboot
              write record ended: ended, #1 starting, #2 running, #3 finished released
              report ended #3 finished code 0 released
              write record runs: ended, #1 starting, #2 running, #3 gone released
              report runs #3 gone released (AgentRebooted: the agent's host was restarted)
            > welcomed
              report ended #1 starting
              report ended #2 running
              report ended #3 finished code 0 released
              report runs #1 starting
              report runs #2 running
              report runs #3 gone released (AgentRebooted: the agent's host was restarted)
        "#]],
    );
}

#[test]
fn a_task_that_the_leader_does_not_know_is_ended() {
    check(
        "assigned t u
         prepared t
         launched t
         prepared u
         launched u
         welcomed u#2",
        expect![[r#"
            > assigned t u
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
              write record u: preparing, #1 starting
              report u #1 starting
              make sandbox task-u.lfls
              make cgroups task-u.lfls cpus=0.5 mem=64MiB
              register meter task-u.lfls
              spawn task-u.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > prepared u
              write record u: releasing 70@9, #1 starting
              register process 70@9 of u
              release u
            > launched u
              write record u: running 70@9, #1 starting, #2 running
              report u #2 running
            > welcomed u#2
              report t #1 starting
              report t #2 running
              write record t: running 70@9, kill not assigned, #1 starting, #2 running, #3 killing
              report t #3 killing
              terminate 70@9 of t
        "#]],
    );
}

#[test]
fn a_welcome_brings_what_was_lost() {
    check(
        "assigned t
         prepared t
         launched t
         exited t code 0
         emptied t
         welcomed t#1
         acknowledged t 3",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > exited t code 0
              write record t: ending as finished, #1 starting, #2 running
              kill all task-t.lfls
            > emptied t
              write record t: ended, #1 starting, #2 running, #3 finished released
              report t #3 finished code 0 released
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
            > welcomed t#1
              report t #2 running
              report t #3 finished code 0 released
            > acknowledged t 3
              write record t: ended
        "#]],
    );
}

#[test]
fn a_log_that_lost_the_end_hears_it_again() {
    check(
        "assigned t
         prepared t
         launched t
         exited t code 0
         emptied t
         acknowledged t 3
         welcomed t#2",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > exited t code 0
              write record t: ending as finished, #1 starting, #2 running
              kill all task-t.lfls
            > emptied t
              write record t: ended, #1 starting, #2 running, #3 finished released
              report t #3 finished code 0 released
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
            > acknowledged t 3
              write record t: ended
            > welcomed t#2
              report t #3 finished code 0 released
        "#]],
    );
}

#[test]
fn an_ended_id_is_not_launched_again() {
    check(
        "assigned t
         launch-failed t
         acknowledged t 2
         assigned t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > launch-failed t
              write record t: ended, #1 starting, #2 failed released
              report t #2 failed released (UserRefused: this host has no user `bob`)
            > acknowledged t 2
              write record t: ended
            > assigned t
              write record t: ended, #3 dropped released
              report t #3 dropped released (LaunchFailed: this agent still keeps the output of an ended task with the same id; choose another)
        "#]],
    );
}

#[test]
fn what_began_here_once_and_has_no_record_is_gone() {
    check(
        "welcomed t#2",
        expect![[r#"
        > welcomed t#2
          write record t: ended, #3 gone released
          report t #3 gone released (AgentLostTask: the agent has no record of it any more)
    "#]],
    );
}

#[test]
fn what_was_killed_before_it_came_never_begins() {
    check(
        "welcomed t!",
        expect![[r#"
        > welcomed t!
          write record t: ended, #1 killed released
          report t #1 killed released (KillRequested: ended because somebody asked for it)
    "#]],
    );
}

#[test]
fn the_end_of_the_agent_takes_the_tasks_along() {
    check(
        "assigned t u
         prepared t
         launched t
         end-all
         assigned v
         exited t signal 15
         emptied t",
        expect![[r#"
            > assigned t u
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
              write record u: preparing, #1 starting
              report u #1 starting
              make sandbox task-u.lfls
              make cgroups task-u.lfls cpus=0.5 mem=64MiB
              register meter task-u.lfls
              spawn task-u.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > end-all
              write record t: running 70@9, kill agent ends, #1 starting, #2 running, #3 killing
              report t #3 killing
              terminate 70@9 of t
              write record u: preparing, kill agent ends, #1 starting
            > assigned v
              write record v: ended, #1 dropped released
              report v #1 dropped released (LaunchFailed: the agent is being stopped together with its tasks)
            > exited t signal 15
              write record t: ending as killed, kill agent ends, #1 starting, #2 running, #3 killing
              kill all task-t.lfls
            > emptied t
              write record t: ended, kill agent ends, #1 starting, #2 running, #3 killing, #4 killed released
              report t #4 killed signal 15 released (KillRequested: ended because its agent was stopped together with its tasks)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
        "#]],
    );
}

#[test]
fn an_ended_task_is_let_go_after_a_day() {
    check(
        "assigned t
         launch-failed t
         + 90000
         acknowledged t 2
         sandbox-removed t",
        expect![[r#"
            > assigned t
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > launch-failed t
              write record t: ended, #1 starting, #2 failed released
              report t #2 failed released (UserRefused: this host has no user `bob`)
            > + 90000
            > acknowledged t 2
              write record t: ended
              remove sandbox task-t.lfls
            > sandbox-removed t
              forget t
        "#]],
    );
}

#[test]
fn a_damaged_record_is_told_and_never_launched() {
    let damaged = [task("t"), task("old")].into();
    let found =
        Found { is_same_boot: true, damaged, cgroups: ["task-t.1".to_owned()].into(), ..Found::default() };
    let (mut supervisor, mut actions) = Supervisor::restore(agent(), Vec::new(), found, Timestamp(1_000_000));
    actions.extend(
        supervisor.handle(Event::Welcomed { assignments: vec![assignment("t")] }, Timestamp(2_000_000)),
    );
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    expect![[r#"
        remove stray cgroups task-t.1
        forget old
        write record t: ended, #1 gone released
        report t #1 gone released (AgentLostTask: the agent's record of it can't be read; whatever was left of it was ended)"#]].assert_eq(&lines.join("\n"));
}
