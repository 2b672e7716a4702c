//! Agents that say by digests what they know. Of four buckets, t1 to t4 are in one each.

use super::check;
use expect_test::expect;

const TWO_RUN: &str = "agent a1 cpus=4 mem=1024
     subscribe f1
     accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
     say a1 t1:running:1 t2:running:1
     log
     ";

/// After two tasks run on an agent.
fn check_on(script: &str, expected: expect_test::Expect) {
    let script = TWO_RUN.to_owned() + script;
    check(&script, expected);
}

#[test]
fn what_the_leader_knows_is_neither_asked_for_nor_told() {
    check_on(
        "gone a1
         agent a1 cpus=4 mem=1024 digests=t1:running:1,t2:running:1
         log
         say a1 t1:finished:2:released
         counts",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 digests=t1:running:1,t2:running:1
              a1#2 < welcome 2 [], unchanged: 0 1 2 3
            > log
              a1 is registered with [t1:running:1, t2:running:1]
            > say a1 t1:finished:2:released
              a1#2 < acknowledge [t1 2]
              f1#1 < 8.0 t1 finished #2 released
              f1#1 < offers [1-2 of a1 cpus=3 mem=960MiB]
            > counts
              0 told, 2 spared
        "#]],
    );
}

#[test]
fn only_what_differs_is_asked_for_and_told() {
    check_on(
        "gone a1
         agent a1 cpus=4 mem=1024 digests=t1:finished:2,t2:running:1
         log
         tell a1 t1:finished:2
         log
         say a1 t1:finished:2:released
         counts",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 digests=t1:finished:2,t2:running:1
              a1#2 < read known [1]
            > log
            > tell a1 t1:finished:2
              a1#2 < welcome 2 [t1 after 1], unchanged: 0 2 3
            > log
              a1 is registered with [t1:finished:2, t2:running:1]
            > say a1 t1:finished:2:released
              a1#2 < acknowledge [t1 2]
              f1#1 < 8.0 t1 finished #2 released
              f1#1 < offers [1-2 of a1 cpus=3 mem=960MiB]
            > counts
              1 told, 1 spared
        "#]],
    );
}

#[test]
fn a_task_that_the_agent_lacks_is_gone_when_its_bucket_was_told_and_no_sooner() {
    check_on(
        "gone a1
         agent a1 cpus=4 mem=1024 digests=t2:running:1
         wait 1s
         tell a1
         log",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 digests=t2:running:1
              a1#2 < read known [1]
            > wait 1s
            > tell a1
              a1#2 < welcome 2 [], unchanged: 0 1 2 3
              f1#1 < 7.0 t1 gone #2 released
              f1#1 < offers [1-2 of a1 cpus=3 mem=960MiB]
            > log
              a1 is registered with [t2:running:1]
        "#]],
    );
}

#[test]
fn a_task_that_the_leader_does_not_know_is_not_in_the_welcome() {
    check_on(
        "gone a1
         agent a1 cpus=4 mem=1024 digests=t1:running:1,t2:running:1,t9:running:1
         tell a1 t9:running:1,t1:running:1,t2:running:1
         log",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 digests=t1:running:1,t2:running:1,t9:running:1
              a1#2 < read known [1]
            > tell a1 t9:running:1,t1:running:1,t2:running:1
              a1#2 < welcome 2 [t1 after 1], unchanged: 0 2 3
            > log
              a1 is registered with [t1:running:1, t2:running:1, t9:running:1]
        "#]],
    );
}

#[test]
fn an_agent_that_was_lost_comes_back_by_digest() {
    check_on(
        "wait 32s
         agent a1 cpus=4 mem=1024 digests=t1:running:1,t2:finished:2
         tell a1 t1:running:1,t2:finished:2
         say a1 t2:finished:3:released",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > wait 32s
              a1#1 < refused epoch-stale: epoch 1 of agent `a1` is over; attach again for a new one
              a1#1 closed
              f1#1 < 7.0 lost a1
              f1#1 < 7.1 t1 unreachable #2
              f1#1 < 7.2 t2 unreachable #2
            > agent a1 cpus=4 mem=1024 digests=t1:running:1,t2:finished:2
              a1#2 < read known [0, 1]
            > tell a1 t1:running:1,t2:finished:2
              a1#2 < welcome 2 [t2 after 1], unchanged: 1 2 3
              f1#1 < 8.0 back a1
              f1#1 < 8.1 t1 running #3
            > say a1 t2:finished:3:released
              a1#2 < acknowledge [t2 3]
              f1#1 < 9.0 t2 finished #3 released
              f1#1 < offers [1-2 of a1 cpus=3 mem=960MiB]
        "#]],
    );
}

#[test]
fn an_order_to_end_is_told_whatever_the_digests_say() {
    check_on(
        "gone a1
         kill f1 t1
         agent a1 cpus=4 mem=1024 digests=t1:running:1,t2:running:1
         kill f1 t2",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > kill f1 t1
              f1 = done
            > agent a1 cpus=4 mem=1024 digests=t1:running:1,t2:running:1
              a1#2 < welcome 2 [t1 after 1 kill], unchanged: 0 1 2 3
            > kill f1 t2
              f1 = done
              a1#2 < kill t2 10 s
        "#]],
    );
}

#[test]
fn what_is_launched_while_the_agent_is_asked_or_registered_is_told() {
    check_on(
        "gone a1
         agent a1 cpus=4 mem=1024 digests=t1:running:1
         run t3:cpus=1,mem=64
         hold
         tell a1 t2:running:1
         commit
         log",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 digests=t1:running:1
              a1#2 < read known [0]
            > run t3:cpus=1,mem=64
              user = submitted [t3]
            > hold
            > tell a1 t2:running:1
            > commit
              a1#2 < welcome 2 [t2 after 1], unchanged: 1 2 3
              a1#2 < launch [t3 after 0]
            > log
              a1 is registered with [t1:running:1, t2:running:1]
        "#]],
    );
}

#[test]
fn a_status_that_was_on_its_way_in_the_older_session_makes_its_bucket_differ() {
    check_on(
        "hold
         say a1 t1:finished:2:released
         agent a1 cpus=4 mem=1024 digests=t1:finished:2,t2:running:1
         commit
         tell a1 t1:finished:2
         log",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > hold
            > say a1 t1:finished:2:released
            > agent a1 cpus=4 mem=1024 digests=t1:finished:2,t2:running:1
              a1#1 < refused epoch-stale: agent `a1` opened a newer session, so this one ends
              a1#1 closed
              a1#2 < read known [1]
            > commit
              f1#1 < 7.0 t1 finished #2 released
            > tell a1 t1:finished:2
              a1#2 < welcome 2 [], unchanged: 0 2 3
              f1#1 < offers [1-2 of a1 cpus=3 mem=960MiB]
            > log
              a1 is registered with [t1:finished:2, t2:running:1]
        "#]],
    );
}

#[test]
fn who_needs_a_word_gets_it() {
    check_on(
        "gone a1
         agent a1 cpus=4 mem=1024 digests=t1:running:1:word,t2:running:1
         tell a1 t1:running:1
         log",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 digests=t1:running:1:word,t2:running:1
              a1#2 < read known [1]
            > tell a1 t1:running:1
              a1#2 < welcome 2 [t1 after 1], unchanged: 0 2 3
            > log
              a1 is registered with [t1:running:1, t2:running:1]
        "#]],
    );
}

#[test]
fn an_answer_counts_once_and_only_for_what_was_asked() {
    check_on(
        "gone a1
         tell a1 t1:running:1
         agent a1 cpus=4 mem=1024 digests=t2:running:1
         tell a1 t2:killed:7
         tell a1 t1:running:1
         log",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > tell a1 t1:running:1
            > agent a1 cpus=4 mem=1024 digests=t2:running:1
              a1#2 < read known [1]
            > tell a1 t2:killed:7
              a1#2 < welcome 2 [], unchanged: 0 1 2 3
              f1#1 < 7.0 t1 gone #2 released
              f1#1 < offers [1-2 of a1 cpus=3 mem=960MiB]
            > tell a1 t1:running:1
            > log
              a1 is registered with [t2:running:1]
        "#]],
    );
}

#[test]
fn neither_a_broken_session_nor_another_leader_holds_anything_against_who_was_asked() {
    check_on(
        "gone a1
         agent a1 cpus=4 mem=1024 digests=t2:running:1
         gone a1
         elect
         agent a1 cpus=4 mem=1024 digests=t2:running:1,t1:running:1
         log",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 digests=t2:running:1
              a1#2 < read known [1]
            > gone a1
              a1#2 closed
            > elect
              f1#1 < ended: no-leader
              f1#1 closed
            > agent a1 cpus=4 mem=1024 digests=t2:running:1,t1:running:1
              a1#3 < welcome 2 [], unchanged: 0 1 2 3
            > log
              a1 is registered with [t1:running:1, t2:running:1]
        "#]],
    );
}

#[test]
fn a_host_that_rebooted_has_lost_its_tasks_whatever_the_digests_say() {
    check_on(
        "gone a1
         agent a1 cpus=4 mem=1024 boot=b2 digests=t1:running:1,t2:running:1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=1000s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > log
              a1 is registered with []
            > gone a1
              a1#1 closed
            > agent a1 cpus=4 mem=1024 boot=b2 digests=t1:running:1,t2:running:1
              a1#2 < welcome 2 [], unchanged: 2 3
              f1#1 < 7.0 t1 gone #2 released
              f1#1 < 7.1 t2 gone #2 released
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
        "#]],
    );
}
