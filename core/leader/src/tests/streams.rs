//! What a framework hears, and how often.

use cluster::FrameworkState;
use expect_test::expect;

use super::{check, world::World};

#[test]
fn a_resumed_stream_misses_and_repeats_nothing() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=100s
         say a1 t1:running:1 t2:running:1
         lost f1
         say a1 t1:finished:2:released
         subscribe f1 after=6.0
         say a1 t2:finished:2:released",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=100s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > lost f1
              f1#1 closed
            > say a1 t1:finished:2:released
              a1#1 < acknowledge [t1 2]
            > subscribe f1 after=6.0
              f1#2 < subscribed
              f1#2 < 6.1 t2 running #1
              f1#2 < 8.0 t1 finished #2 released
              f1#2 < offers [1-2 of a1 cpus=3 mem=960MiB]
            > say a1 t2:finished:2:released
              a1#1 < acknowledge [t2 2]
              f1#2 < 10.0 t2 finished #2 released
              f1#2 < offers [1-3 of a1 cpus=1 mem=64MiB]
        "#]],
    );
}

#[test]
fn events_come_after_their_commit_and_offers_after_events() {
    check(
        "agent a1 cpus=1 mem=64
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64
         hold
         say a1 t1:running:1
         say a1 t1:finished:2:released
         commit",
        expect![[r#"
            > agent a1 cpus=1 mem=64
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=1 mem=64MiB]
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > hold
            > say a1 t1:running:1
            > say a1 t1:finished:2:released
            > commit
              a1#1 < acknowledge [t1 1]
              f1#1 < 6.0 t1 running #1
              a1#1 < acknowledge [t1 2]
              f1#1 < 7.0 t1 finished #2 released
              f1#1 < offers [1-2 of a1 cpus=1 mem=64MiB]
        "#]],
    );
}

#[test]
fn a_newer_subscription_replaces_the_older() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 as=f1#1
         accept f1 1-1 t1:cpus=1,mem=64
         accept f1 1-2 t1:cpus=1,mem=64",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > subscribe f1
              f1#1 < replaced
              f1#1 closed
              f1#2 < subscribed
              f1#2 < offers [1-2 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 as=f1#1
              f1 = subscription-replaced: subscription `1-2` of framework `c1-1.1` is over: it was lost, or another instance subscribed; subscribe again
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = offer-unknown: can't use offer `1-1`: it was rescinded: the subscription ended; wait for new offers
            > accept f1 1-2 t1:cpus=1,mem=64
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
        "#]],
    );
}

#[test]
fn a_cursor_older_than_the_history_gets_the_full_state() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=100s
         say a1 t1:running:1 t2:running:1
         acknowledge f1 9.0
         acknowledge f1 6.1
         lost f1
         subscribe f1 after=6.0
         lost f1
         subscribe f1 after=6.1
         lost f1
         subscribe f1 after=99.0",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=100s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 6.0 t1 running #1
              f1#1 < 6.1 t2 running #1
            > acknowledge f1 9.0
              f1 = invalid-argument: can't acknowledge event 9.0: this subscription was only sent events up to 6.1
            > acknowledge f1 6.1
              f1 = done
            > lost f1
              f1#1 closed
            > subscribe f1 after=6.0
              f1#2 < subscribed
              f1#2 < compacted to 6.1 [t1 running #1, t2 running #1]
              f1#2 < offers [1-2 of a1 cpus=2 mem=896MiB]
            > lost f1
              f1#2 closed
            > subscribe f1 after=6.1
              f1#3 < subscribed
              f1#3 < offers [1-3 of a1 cpus=2 mem=896MiB]
            > lost f1
              f1#3 closed
            > subscribe f1 after=99.0
              f1 = invalid-argument: can't resume after event 99.0: there is no such event yet; resume with the cursor of the last event that was handled
        "#]],
    );
}

#[test]
fn a_framework_that_does_not_read_is_sent_no_more() {
    let mut script = "agent a1 cpus=100 mem=100000
        subscribe f1
        unread\n"
        .to_owned();
    script += "accept f1 1-1 refuse=100s";
    for number in 0..130 {
        script += &format!(" t{number}:cpus=0.1,mem=4");
    }
    script += "\nsay a1";
    for number in 0..130 {
        script += &format!(" t{number}:running:1");
    }
    let mut world = super::world::World::new();
    let mut last = Vec::new();
    for line in script.lines() {
        last = world.play(line);
    }
    let events = |lines: &[String]| lines.iter().filter(|line| line.contains("running")).count();
    assert_eq!(events(&last), 128);
    assert!(world.play("revive f1").iter().all(|line| !line.contains("offers")));
    let rest = world.play("drain f1");
    assert_eq!(events(&rest), 2);
    assert!(rest.last().unwrap().contains("offers"));
}

#[test]
fn who_comes_back_before_the_log_knows_of_the_absence_is_connected_after_it() {
    let mut world = World::new();
    world.play("subscribe f1");
    world.play("hold");
    world.play("lost f1");
    assert_eq!(world.held.len(), 1, "the disconnection waits for the log");
    world.play("subscribe f1");
    assert_eq!(world.held.len(), 2, "and so does the connection");
    world.play("commit");
    let framework = world.state.frameworks().values().find(|framework| !framework.is_built_in).unwrap();
    assert_eq!(framework.state, FrameworkState::Connected);
}

#[test]
fn a_framework_that_stays_away_is_torn_down() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1 timeout=60s
         accept f1 1-1 t1:cpus=1,mem=64
         lost f1
         wait 59s a1
         wait 3s a1
         subscribe f1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1 timeout=60s
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > lost f1
              f1#1 closed
            > wait 59s a1
            > wait 3s a1
              a1#1 < kill t1 10 s
            > subscribe f1
              f1 = framework-ended: framework `c1-1.1` was torn down; subscribe without an id to become a new one
        "#]],
    );
}

#[test]
fn a_new_leader_whose_clock_is_a_year_ahead_tears_nothing_down_early() {
    check(
        "subscribe f1 timeout=600s
         lost f1
         wait 590s
         elect 31536000s
         wait 20s
         subscribe f1 timeout=600s
         lost f1
         elect 31536000s
         wait 599s
         wait 2s
         subscribe f1",
        expect![[r#"
            > subscribe f1 timeout=600s
              f1#1 < subscribed
            > lost f1
              f1#1 closed
            > wait 590s
            > elect 31536000s
            > wait 20s
            > subscribe f1 timeout=600s
              f1#2 < subscribed
            > lost f1
              f1#2 closed
            > elect 31536000s
            > wait 599s
            > wait 2s
            > subscribe f1
              f1 = framework-ended: framework `c1-1.1` was torn down; subscribe without an id to become a new one
        "#]],
    );
}

#[test]
fn a_new_leader_gives_frameworks_and_agents_time_to_find_it() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1 timeout=0s
         accept f1 1-1 t1:cpus=1,mem=64
         elect
         wait 9s
         subscribe f1
         wait 20s
         wait 2s",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1 timeout=0s
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > elect
              f1#1 < ended: no-leader
              f1#1 closed
              a1#1 < refused no-leader: this member doesn't lead any more; connect again to reach the new leader
              a1#1 closed
            > wait 9s
            > subscribe f1
              f1#2 < subscribed
            > wait 20s
            > wait 2s
              f1#2 < 7.0 lost a1
              f1#2 < 7.1 t1 unreachable #1
        "#]],
    );
}

#[test]
fn reconciliation_is_always_answered() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         subscribe f2
         accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64
         say a1 t1:running:1 t2:finished:1:released
         reconcile f1
         reconcile f1 t2 t9
         reconcile f2 t1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > subscribe f2
              f2#1 < subscribed
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=1,mem=64
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
              f2#1 < offers [1-2 of a1 cpus=2 mem=896MiB]
            > say a1 t1:running:1 t2:finished:1:released
              a1#1 < acknowledge [t1 1, t2 1]
              f1#1 < 7.0 t1 running #1
              f1#1 < 7.1 t2 finished #1 released
              f2#1 < offers [1-3 of a1 cpus=1 mem=64MiB]
            > reconcile f1
              f1 = statuses [t1 running #0]
            > reconcile f1 t2 t9
              f1 = statuses [t2 finished #0 released, t9 gone #0 released]
            > reconcile f2 t1
              f2 = statuses [t1 gone #0 released]
        "#]],
    );
}

#[test]
fn a_torn_down_framework_hears_so_last() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64
         teardown f1
         kill f1 t1
         say a1 t1:killed:1:released",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > teardown f1
              f1 = done
              a1#1 < kill t1 10 s
              f1#1 < ended: framework-ended
              f1#1 closed
            > kill f1 t1
              f1 = framework-ended: framework `c1-1.1` was torn down; subscribe without an id to become a new one
            > say a1 t1:killed:1:released
              a1#1 < acknowledge [t1 1]
        "#]],
    );
}

/// The log had no room for an acknowledgement, and the framework had nothing newer to acknowledge.
#[test]
fn an_acknowledgement_survives_a_busy_log() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64
         say a1 t1:running:1
         hold
         acknowledge f1 6.0
         busy
         commit
         pending
         wait 1s a1
         pending",
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
            > hold
            > acknowledge f1 6.0
              f1 = done
            > busy
            > commit
            > pending
              c1-1.1 has 1 events pending
              run has 0 events pending
            > wait 1s a1
            > pending
              c1-1.1 has 0 events pending
              run has 0 events pending
        "#]],
    );
}
