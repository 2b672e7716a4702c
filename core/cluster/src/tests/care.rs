//! What operators say of agents.

use expect_test::expect;

use super::script::check;

#[test]
fn a_deactivated_agent_gets_nothing_until_it_is_activated() {
    check(
        "framework f
         agent a
         deactivate a
         version 5
         launch f a t1
         deactivate a request=d1
         launch f a t2
         agent a t1:0:staging
         launch f a t2
         show
         activate a request=a1
         deactivate a request=d1
         launch f a t2
         deactivate nowhere",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            deactivate: cluster-version-too-old: The request was not carried out: it needs cluster version 5, and the cluster is at 1. Upgrade every member and raise the version.
            launch: t1
            launch: agent-deactivated: Task `t2` was not launched: an operator took agent `a` out of use. Wait for another offer.
            agent: AgentRegistered { epoch: 2 }
            launch: agent-deactivated: Task `t2` was not launched: an operator took agent `a` out of use. Wait for another offer.
              framework f role=default Connected events=0
              agent a epoch=2 deactivated allocated: cpus=1 mem=64MiB
              task t1 of f staging recorded=0
            launch: t2
            deactivate: agent-unknown: Agent `nowhere` was not deactivated: no agent has the id `nowhere`. Look at the list of agents.
        "#]],
    );
}

#[test]
fn a_drained_agent_is_told_to_end_its_tasks() {
    check(
        "version 5
         framework f
         agent a
         launch f a t1 t2
         status a t1 finished sequence=1
         deactivate a end
         show
         activate a
         launch f a t3",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            launch: t2
            status: Recorded([(TaskId(t1), 1)])
              f hears 6.0: t1 finished #1 None
              framework f role=default Connected events=1
              agent a epoch=1 deactivated allocated: cpus=2 mem=128MiB
              task t1 of f finished recorded=1
              task t2 of f staging kill in 10s recorded=0
            launch: t3
        "#]],
    );
}

#[test]
fn a_gone_agent_takes_its_tasks_and_its_id_with_it() {
    check(
        "version 5
         framework f
         agent a
         agent b
         launch f a t1 t2
         launch f b t3
         status a t1 running sequence=1
         status a t2 finished sequence=1
         gone a request=g1
         show
         gone a request=g1
         gone a
         gone nowhere
         agent a t1:1:running
         status a t1 finished sequence=2 released
         launch f a t4
         lost b
         gone b
         show",
        expect![[r#"
            framework: FrameworkRegistered { framework: FrameworkId(f) }
            agent: AgentRegistered { epoch: 1 }
            agent: AgentRegistered { epoch: 1 }
            launch: t1
            launch: t2
            launch: t3
            status: Recorded([(TaskId(t1), 1)])
              f hears 8.0: t1 running #1 None
            status: Recorded([(TaskId(t2), 1)])
              f hears 9.0: t2 finished #1 None
              f hears 10.0: agent a lost
              f hears 10.1: t1 gone #2 AgentGone released
              framework f role=default Connected events=4
              agent b epoch=1 allocated: cpus=1 mem=64MiB
              task t1 of f gone released recorded=1
              task t2 of f finished released recorded=1
              task t3 of f staging recorded=0
            gone: agent-unknown: Agent `nowhere` was not marked as gone: no agent has the id `nowhere`. Look at the list of agents.
            agent: agent-gone: Agent `a` was not registered: an operator said that agent `a` is gone, and its id is never used again. Give the host's agent an empty data directory, so that it comes back under a new id.
            status: agent-gone: The statuses were not recorded: an operator said that agent `a` is gone, and its id is never used again. Give the host's agent an empty data directory, so that it comes back under a new id.
            launch: agent-gone: Task `t4` was not launched: an operator said that agent `a` is gone, and its id is never used again. Give the host's agent an empty data directory, so that it comes back under a new id.
              f hears 17.0: agent b lost
              f hears 17.1: t3 unreachable #1 AgentUnreachable
              f hears 18.0: t3 gone #2 AgentGone released
              framework f role=default Connected events=7
              task t1 of f gone released recorded=1
              task t2 of f finished released recorded=1
              task t3 of f gone released recorded=0
        "#]],
    );
}
