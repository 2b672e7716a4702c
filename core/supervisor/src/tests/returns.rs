//! What happens when the agent, the host or the leader comes back.

use std::sync::Arc;

use expect_test::expect;

use super::{
    agent, assignment, now,
    story::{check, play},
    task,
};
use crate::{Assignment, Event, Found, Known, Supervisor, limits};

fn welcomed(assignments: Vec<Assignment>) -> Event {
    Event::Welcomed { assignments, unchanged: Vec::new() }
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
    let last = shown.lines().rev().take(2).map(str::trim).collect::<Vec<_>>().join("\n");
    assert_eq!(last, "kill all task-t.lfls\nwrite record t: ending as dropped, #1 starting");
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
              terminate 70@9 of t by TERM
            > + 4
            > restart
              adopt 70@9 of t
              terminate 70@9 of t by TERM
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
              terminate 70@9 of t by TERM
        "#]],
    );
}

#[test]
fn what_the_leader_knows_as_it_was_told_goes_on_and_counts_as_heard() {
    check(
        "assigned t u
         prepared t
         launched t
         welcomed =t#1 =u#1
         welcomed =t#2 =u#1 u#1!
         exited t code 0
         emptied t
         welcomed =t#2
         acknowledged t 3
         welcomed",
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
            > welcomed =t#1 =u#1
              report t #2 running
            > welcomed =t#2 =u#1 u#1!
              write record u: preparing, kill ordered
            > exited t code 0
              write record t: ending as finished
              kill all task-t.lfls
            > emptied t
              write record t: ended, #3 finished released
              report t #3 finished code 0 released
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
            > welcomed =t#2
              report t #3 finished code 0 released
            > acknowledged t 3
              write record t: ended
            > welcomed
        "#]],
    );
}

#[test]
fn hello_says_who_needs_a_word_whatever_the_leader_knows() {
    let mut first = Supervisor::new(agent());
    let mut assigned = assignment("s");
    let value = model::SecretValue(b"hush".to_vec());
    Arc::make_mut(&mut assigned.spec).secrets = vec![model::Secret { name: "key".to_owned(), value }];
    let assignments = vec![assigned, assignment("t"), assignment("u")];
    first.handle(Event::Assigned { assignments }, now());
    let rows = first.rows().cloned().collect();
    let found = Found { is_same_boot: true, ..Found::default() };
    let (mut supervisor, _) = Supervisor::restore(agent(), rows, found, now());
    let failed = |message: &str| Event::LaunchFailed {
        task_id: task("u"),
        reason: model::Reason::LaunchFailed,
        message: message.to_owned(),
    };
    supervisor.handle(failed("no space left"), now());
    supervisor.handle(Event::Emptied { task_id: task("u"), usage: None }, now());
    let needs: Vec<_> =
        supervisor.known().into_iter().map(|known| (known.task_id, known.awaits_word)).collect();
    assert_eq!(needs, [(task("s"), true), (task("t"), false), (task("u"), true)]);
}

#[test]
fn what_was_asked_for_is_told_as_the_hello_had_it() {
    let mut supervisor = Supervisor::new(agent());
    let names: Vec<String> = (0..40).map(|number| format!("t{number}")).collect();
    let assignments = names.iter().map(|name| assignment(name)).collect();
    supervisor.handle(Event::Assigned { assignments }, now());
    let known = Known::new(supervisor.known());
    assert_eq!(known.digests().buckets(), 3);
    let parts: Vec<usize> = (0..3).map(|bucket| known.of_buckets(&[bucket]).len()).collect();
    assert_eq!(parts.iter().sum::<usize>(), 40);
    let mut of_two = known.of_buckets(&[0, 1]);
    of_two.extend(known.of_buckets(&[2]));
    of_two.sort_by(|one, other| one.task_id.cmp(&other.task_id));
    assert_eq!(of_two, known.tasks());
    assert_eq!(known.of_buckets(&[3]), []);
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
fn a_damaged_record_is_told_and_never_launched() {
    let damaged = [task("t"), task("old")].into();
    let found =
        Found { is_same_boot: true, damaged, cgroups: ["task-t.1".to_owned()].into(), ..Found::default() };
    let (mut supervisor, mut actions) = Supervisor::restore(agent(), Vec::new(), found, now());
    actions.extend(supervisor.handle(welcomed(vec![assignment("t")]), now()));
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    expect![[r#"
        remove stray cgroups task-t.1
        forget old
        write record t: ended, #1 gone released
        report t #1 gone released (AgentLostTask: the agent's record of it can't be read; whatever was left of it was ended)"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn a_task_with_secrets_waits_for_them_after_a_restart() {
    check(
        "assigned t$ u$
         restart
         kill u
         welcomed t$#1 u$#1
         prepared t
         welcomed t$#1",
        expect![[r#"
            > assigned t$ u$
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
            > restart
            > kill u
              write record u: ending as killed, kill ordered, #1 starting
              kill all task-u.lfls
            > welcomed t$#1 u$#1
              write record t: preparing
              remove stray cgroups task-t.lfls
              remove stray sandbox task-t.lfls
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9
              register process 70@9 of t
              release t
            > welcomed t$#1
        "#]],
    );
}

/// A checkpoint that was deleted while tasks ran: their processes are ended, and nobody takes them for new.
#[test]
fn what_lies_here_without_a_record_is_never_begun_again() {
    let mut first = Supervisor::new(agent());
    first.handle(Event::Assigned { assignments: vec![assignment("t.1"), assignment("u")] }, now());
    let attempts: Vec<String> = first.rows().map(|row| row.attempt.clone()).collect();
    let found = Found {
        is_same_boot: true,
        cgroups: [attempts[0].clone(), "task-.x".to_owned(), "other".to_owned()].into(),
        sandboxes: [attempts[1].clone()].into(),
        ..Found::default()
    };
    let (mut supervisor, _) = Supervisor::restore(agent(), Vec::new(), found, now());
    // The log knows of no status yet: the agent may have lost them with the record.
    let assignments = vec![assignment("t.1"), assignment("u"), assignment("v")];
    supervisor.handle(welcomed(assignments), now());
    let states: Vec<String> = supervisor
        .rows()
        .map(|row| format!("{} {}", row.task_id, row.statuses.last().unwrap().state.as_str()))
        .collect();
    assert_eq!(states, ["t.1 gone", "u gone", "v starting"]);
}
