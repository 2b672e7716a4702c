//! Stories of frameworks, agents and their tasks.

use expect_test::expect;
use model::{ClusterTime, Cursor, FrameworkId, TaskId, Timestamp, limits};

use super::script::{asked, check};
use crate::*;

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
    let command = asked(&state, "framework f");
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
        let command = asked(state, text);
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
