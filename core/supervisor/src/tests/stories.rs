//! Tasks from their assignment to their end.

use expect_test::expect;

use super::story::check;

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
              terminate 70@9 of t by TERM
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
              terminate 70@9 of t by TERM
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
              terminate 70@9 of t by TERM
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
fn a_task_that_runs_too_long_is_ended_and_has_failed() {
    check(
        "assigned t~5
         prepared t
         + 60
         launched t
         + 4
         + 2
         + 9
         kill t 0
         + 1
         exited t code 0
         emptied t",
        expect![[r#"
            > assigned t~5
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
            > + 60
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running
            > + 4
            > + 2
              write record t: running 70@9, kill run time limit, #1 starting, #2 running, #3 killing
              report t #3 killing
              terminate 70@9 of t by INT
            > + 9
            > kill t 0
              write record t: running 70@9, kill run time limit, #1 starting, #2 running, #3 killing
            > + 1
              kill all task-t.lfls
            > exited t code 0
              write record t: ending as failed, kill run time limit, #1 starting, #2 running, #3 killing
              kill all task-t.lfls
            > emptied t
              write record t: ended, kill run time limit, #1 starting, #2 running, #3 killing, #4 failed released
              report t #4 failed code 0 released (RunTimeLimit: ended because it ran for 5 s, the longest that its spec allows)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
        "#]],
    );
}

#[test]
fn the_run_time_goes_on_while_no_agent_is_there_and_whatever_the_clock_says() {
    check(
        "assigned t~100
         prepared t
         launched t
         + 60
         clock 1000
         + 1
         clock -9000
         restart
         + 10
         launched t
         + 20
         + 10
         kill t 60
         restart
         launched t",
        expect![[r#"
            > assigned t~100
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
            > + 60
            > clock 1000
            > + 1
            > clock -9000
            > restart
              adopt 70@9 of t
            > + 10
            > launched t
            > + 20
            > + 10
              write record t: running 70@9, kill run time limit, #1 starting, #2 running, #3 killing
              report t #3 killing
              terminate 70@9 of t by INT
            > kill t 60
            > restart
              adopt 70@9 of t
              terminate 70@9 of t by INT
            > launched t
        "#]],
    );
}

#[test]
fn a_task_that_ended_while_no_agent_was_there_is_not_blamed_for_the_time() {
    check(
        "assigned t~5
         prepared t
         launched t
         restart
         + 10
         exited t code 0
         emptied t",
        expect![[r#"
            > assigned t~5
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
            > + 10
            > exited t code 0
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
fn a_step_of_the_clock_neither_hastens_nor_delays_a_kill() {
    check(
        "assigned t
         prepared t
         launched t
         kill t
         clock 100
         + 9
         clock -9000
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
            > kill t
              write record t: running 70@9, kill ordered, #1 starting, #2 running, #3 killing
              report t #3 killing
              terminate 70@9 of t by TERM
            > clock 100
            > + 9
            > clock -9000
            > + 2
              kill all task-t.lfls
        "#]],
    );
}

#[test]
fn a_task_that_outgrew_its_disk_ends_at_once() {
    check(
        "assigned t
         prepared t
         launched t
         disk-outgrown t
         disk-outgrown t
         exited t signal 9
         emptied t
         disk-outgrown t",
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
            > disk-outgrown t
              write record t: running 70@9, kill disk limit, #1 starting, #2 running, #3 killing
              report t #3 killing
              kill all task-t.lfls
            > disk-outgrown t
            > exited t signal 9
              write record t: ending as failed, kill disk limit, #1 starting, #2 running, #3 killing
              kill all task-t.lfls
            > emptied t
              write record t: ended, kill disk limit, #1 starting, #2 running, #3 killing, #4 failed released
              report t #4 failed signal 9 released (DiskLimit: ended because its sandbox and /tmp outgrew the 0 MiB of disk that it asked for)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
            > disk-outgrown t
        "#]],
    );
}

#[test]
fn ports_that_were_not_declared_are_told_once_each_while_the_task_runs() {
    check(
        "assigned t
         prepared t
         port t 80/tcp
         launched t
         port t 80/tcp
         port t 53/udp
         kill t
         port t 99/tcp
         exited t signal 15",
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
            > port t 80/tcp
            > launched t
              write record t: running 70@9, #1 starting, #2 running
              report t #2 running (PortNotDeclared: uses ports that it has not declared: 80/tcp)
            > port t 80/tcp
            > port t 53/udp
              write record t: running 70@9, #1 starting, #2 running, #3 running
              report t #3 running (PortNotDeclared: uses ports that it has not declared: 80/tcp, 53/udp)
            > kill t
              write record t: running 70@9, kill ordered, #1 starting, #2 running, #3 running, #4 killing
              report t #4 killing
              terminate 70@9 of t by TERM
            > port t 99/tcp
            > exited t signal 15
              write record t: ending as killed, kill ordered, #1 starting, #2 running, #3 running, #4 killing
              kill all task-t.lfls
        "#]],
    );
}
