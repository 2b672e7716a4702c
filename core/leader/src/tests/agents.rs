//! Sessions of agents.

use super::check;
use expect_test::expect;

#[test]
fn an_agent_lost_and_back_keeps_its_tasks() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 refuse=1000s
         say a1 t1:running:1
         wait 29s
         wait 3s
         say a1 t1:running:2
         agent a1 cpus=4 mem=1024 knows=t1:running:1
         say a1 t1:finished:2:released",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > say a1 t1:running:1
              a1#1 < acknowledge [t1 1]
              f1#1 < 6.0 t1 running #1
            > wait 29s
            > wait 3s
              a1#1 < refused epoch-stale: epoch 1 of agent `a1` is over; attach again for a new one
              a1#1 closed
              f1#1 < 7.0 lost a1
              f1#1 < 7.1 t1 unreachable #2
            > say a1 t1:running:2
            > agent a1 cpus=4 mem=1024 knows=t1:running:1
              a1#2 < welcome 2 [t1 after 1]
              f1#1 < 8.0 back a1
              f1#1 < 8.1 t1 running #3
            > say a1 t1:finished:2:released
              a1#2 < acknowledge [t1 2]
              f1#1 < 9.0 t1 finished #4 released
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
        "#]],
    );
}

#[test]
fn a_kill_order_reaches_an_agent_that_was_away() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64
         kill f1 t1
         gone a1
         kill f1 t2
         agent a1 cpus=4 mem=1024 knows=t1:running:1,t2:running:1
         kill f1 t2",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > kill f1 t1
              f1 = done
              a1#1 < kill t1 10 s
            > gone a1
              a1#1 closed
            > kill f1 t2
              f1 = done
            > agent a1 cpus=4 mem=1024 knows=t1:running:1,t2:running:1
              a1#2 < welcome 2 [t1 after 0 kill, t2 after 0 kill]
            > kill f1 t2
              f1 = done
        "#]],
    );
}

#[test]
fn the_newest_session_wins() {
    check(
        "agent a1 cpus=4 mem=1024
         agent a1 cpus=4 mem=1024
         agent a1 cpus=4 mem=1024 boot=b2
         wait 10s
         agent a1 cpus=4 mem=1024 boot=b2
         agent a2 cpus=4 mem=1024 cluster=c2",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > agent a1 cpus=4 mem=1024
              a1#1 < refused epoch-stale: agent `a1` opened a newer session, so this one ends
              a1#1 closed
              a1#2 < welcome 2 []
            > agent a1 cpus=4 mem=1024 boot=b2
              a1#3 < refused agent-id-taken: can't attach agent `a1` from host `a1`: an agent with this id is attached from host `a1` now; if its data directory was copied, give the copy an empty one
              a1#3 closed
            > wait 10s
            > agent a1 cpus=4 mem=1024 boot=b2
              a1#2 < refused epoch-stale: agent `a1` opened a newer session, so this one ends
              a1#2 closed
              a1#4 < welcome 3 []
            > agent a2 cpus=4 mem=1024 cluster=c2
              a2#1 < refused for good cluster-foreign: can't attach agent `a2`: it belongs to cluster `c2`, and this is `c1`; give it the right coordinator, or an empty data directory
              a2#1 closed
        "#]],
    );
}

#[test]
fn an_order_that_was_not_delivered_is_given_again() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         hold
         accept f1 1-1 t1:cpus=1,mem=64
         gone a1
         commit
         agent a1 cpus=4 mem=1024",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > hold
            > accept f1 1-1 t1:cpus=1,mem=64
            > gone a1
              a1#1 closed
            > commit
              f1 = launched [t1 launched]
            > agent a1 cpus=4 mem=1024
              a1#2 < welcome 2 [t1 after 0]
        "#]],
    );
}

#[test]
fn statuses_of_one_turn_become_one_entry_and_are_acknowledged_once() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64
         hold
         say a1 t1:running:1
         say a1 t2:running:1 t1:finished:2:released
         commit
         say a1 t1:finished:2:released
         say a1 t9:running:4",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > hold
            > say a1 t1:running:1
            > say a1 t2:running:1 t1:finished:2:released
            > commit
              a1#1 < acknowledge [t1 1]
              f1#1 < 6.0 t1 running #1
              a1#1 < acknowledge [t2 1, t1 2]
              f1#1 < 7.0 t2 running #1
              f1#1 < 7.1 t1 finished #2 released
              f1#1 < offers [1-2 of a1 cpus=3 mem=960MiB]
            > say a1 t1:finished:2:released
              a1#1 < acknowledge [t1 2]
            > say a1 t9:running:4
              a1#1 < acknowledge [t9 4]
        "#]],
    );
}

#[test]
fn a_host_that_rebooted_has_lost_its_tasks() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64
         say a1 t1:running:1
         gone a1
         agent a1 cpus=4 mem=1024 boot=b2",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > say a1 t1:running:1
              a1#1 < acknowledge [t1 1]
              f1#1 < 6.0 t1 running #1
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 boot=b2
              a1#2 < welcome 2 []
              f1#1 < 7.0 t1 gone #2 released
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
        "#]],
    );
}

#[test]
fn output_is_read_from_the_agent() {
    check(
        "agent a1 cpus=4 mem=1024
         run t1:cpus=1,mem=64
         read t1
         output a1 1 hello
         output a1 1 again
         read t9
         read t1
         gone a1
         read t1
         run t2:cpus=1,mem=64
         read t2
         wait 3s
         read t2
         agent a1 cpus=4 mem=1024 knows=t1:running:1
         output a1 5 late",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > run t1:cpus=1,mem=64
              user = submitted [t1]
              a1#1 < launch [t1 after 0]
            > read t1
              a1#1 < read 1 t1
            > output a1 1 hello
              user = output `hello`
            > output a1 1 again
            > read t9
              user = task-unknown: no task has the id `t9`; it was never there, or was forgotten after its end
            > read t1
              a1#1 < read 2 t1
            > gone a1
              a1#1 closed
              user = agent-unreachable: can't read the output of task `t1`: its agent has just lost its connection; try again
            > read t1
              user = agent-unreachable: can't read the output of task `t1`: its agent `a1` isn't connected now; try again later
            > run t2:cpus=1,mem=64
              user = submitted [t2]
            > read t2
            > wait 3s
              user = output ``
            > read t2
            > agent a1 cpus=4 mem=1024 knows=t1:running:1
              a1#2 < welcome 2 [t1 after 0]
              a1#2 < launch [t2 after 0]
              a1#2 < read 5 t2
            > output a1 5 late
              user = output `late`
        "#]],
    );
}

#[test]
fn a_channel_goes_to_the_agent_of_its_task_while_that_is_connected() {
    check(
        "channel t1
         run t1:cpus=1,mem=64
         channel t1
         agent a1 cpus=4 mem=1024
         channel t1
         say a1 t1:finished:1:released
         channel t1
         gone a1
         channel t1",
        expect![[r#"
            > channel t1
              user = task-unknown: no task has the id `t1`; it was never there, or was forgotten after its end
            > run t1:cpus=1,mem=64
              user = submitted [t1]
            > channel t1
              user = task-not-running: task `t1` waits for an agent, so there is nothing to reach yet
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
              a1#1 < launch [t1 after 0]
            > channel t1
              a1#1 < open a channel to t1
              user = told a1
            > say a1 t1:finished:1:released
              a1#1 < acknowledge [t1 1]
            > channel t1
              a1#1 < open a channel to t1
              user = told a1
            > gone a1
              a1#1 closed
            > channel t1
              user = agent-unreachable: can't reach task `t1`: its agent `a1` isn't connected now; try again later
        "#]],
    );
}

#[test]
fn who_stands_still_is_known_while_the_agent_is_connected() {
    check(
        "agent a1 cpus=4 mem=1024
         run t1:cpus=1,mem=64
         is-frozen t1
         frozen a1 t1
         is-frozen t1
         frozen a1
         is-frozen t1
         frozen a1 t1
         gone a1
         is-frozen t1
         agent a1 cpus=4 mem=1024 knows=t1:running:1
         is-frozen t1
         is-frozen t9",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > run t1:cpus=1,mem=64
              user = submitted [t1]
              a1#1 < launch [t1 after 0]
            > is-frozen t1
              user = frozen: Some(false)
            > frozen a1 t1
            > is-frozen t1
              user = frozen: Some(true)
            > frozen a1
            > is-frozen t1
              user = frozen: Some(false)
            > frozen a1 t1
            > gone a1
              a1#1 closed
            > is-frozen t1
              user = frozen: None
            > agent a1 cpus=4 mem=1024 knows=t1:running:1
              a1#2 < welcome 2 [t1 after 0]
            > is-frozen t1
              user = frozen: Some(false)
            > is-frozen t9
              user = frozen: None
        "#]],
    );
}

#[test]
fn statuses_survive_a_busy_log() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64
         hold
         say a1 t1:running:1
         busy
         say a1 t1:finished:2:released
         commit
         wait 1s a1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > hold
            > say a1 t1:running:1
            > busy
            > say a1 t1:finished:2:released
            > commit
            > wait 1s a1
              a1#1 < acknowledge [t1 1, t1 2]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t1 finished #2 released
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
        "#]],
    );
}
