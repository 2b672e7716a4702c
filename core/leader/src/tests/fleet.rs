//! What becomes of agents: silent together, out of use, gone; and of a leader that is deposed.

use cluster::{Answer, Command, apply};
use expect_test::expect;
use model::{AgentId, Duration, RefusalCode};

use super::{check, world::World};
use crate::{Call, FromAgent};

#[test]
fn of_many_that_fall_silent_together_few_are_marked_until_an_operator_confirms() {
    let mut world = World::new();
    let mut play =
        |line: &str| world.play(line).into_iter().filter(|line| !line.contains('#')).collect::<Vec<_>>();
    for number in 1..=12 {
        play(&format!("agent a{number:02} cpus=4 mem=1024"));
    }
    // a12 goes on speaking.
    play("wait 31s a12");
    let unreachable = |world: &World| {
        let agents = world.state.agents().iter();
        agents.filter(|(_, agent)| !agent.is_reachable).map(|(id, _)| id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(unreachable(&world), ["a01", "a02", "a03", "a04", "a05"]);
    assert_eq!(world.leader.agents_held_back(), 6);
    assert_eq!(world.leader.silent_agents(world.now).len(), 6);
    // They get no offers all the same.
    let offers = world.play("subscribe f1").join(" ");
    assert!(offers.contains("of a12") && !offers.contains("of a06"), "{offers}");

    expect![[r#"user = invalid-argument: can't mark agent `a12` unreachable: it has spoken lately; deactivate it if it shall get no more tasks"#]]
        .assert_eq(&world.play("confirm a06 a12").join(" "));
    assert_eq!(unreachable(&world).len(), 5, "a refusal marks none");
    expect!["user = agent-unknown: can't mark agent `a99` unreachable: no agent has this id"]
        .assert_eq(&world.play("confirm a99").join(" "));
    let told = world.play("confirm a07 a01").join(" ");
    assert!(told.contains("user = marked [a07]"), "{told}");
    assert_eq!(unreachable(&world), ["a01", "a02", "a03", "a04", "a05", "a07"]);

    // One comes back by itself; the rest is confirmed at once.
    world.play("agent a08 cpus=4 mem=1024");
    let told = world.play("confirm").join(" ");
    assert!(told.contains("user = marked [a06, a09, a10, a11]"), "{told}");
    assert_eq!(unreachable(&world).len(), 10);
    world.play("wait 2s a08 a12");
    assert_eq!(world.leader.agents_held_back(), 0);
}

#[test]
fn those_that_were_held_back_have_their_turn_later() {
    let mut world = World::new();
    for number in 1..=12 {
        world.play(&format!("agent a{number:02} cpus=4 mem=1024"));
    }
    world.play("wait 640s a12");
    let unreachable = world.state.agents().values().filter(|agent| !agent.is_reachable).count();
    assert_eq!(unreachable, 10);
}

#[test]
fn while_the_leader_stood_still_nobody_was_silent() {
    let mut world = World::new();
    for number in 1..=2 {
        world.play(&format!("agent a{number:02} cpus=4 mem=1024"));
    }
    world.play("wait 10s a02");
    world.now = world.now + Duration::from_secs(300);
    assert_eq!(world.play("confirm"), ["user = marked []"]);
    assert_eq!(world.leader.silent_agents(world.now).len(), 0);
    // What was silence before counts on.
    world.play("wait 19s a02");
    assert!(world.state.agents().values().all(|agent| agent.is_reachable));
    world.play("wait 2s a02");
    assert!(world.state.agents().iter().all(|(id, agent)| agent.is_reachable == (id.as_str() == "a02")));
}

#[test]
fn who_speaks_as_an_operator_calls_it_silent_is_not_marked() {
    let mut world = World::new();
    world.play("agent a01 cpus=4 mem=1024");
    for number in 2..=12 {
        world.play(&format!("agent a{number:02} cpus=4 mem=1024"));
    }
    world.play("wait 31s");
    let held_back: Vec<AgentId> = world.leader.silent_agents(world.now).into_keys().collect();
    let spoke = &held_back[0];
    world.call("user", Call::ConfirmUnreachable { agents: Vec::new() });
    world.hear(spoke.as_str(), FromAgent::Heartbeat);
    world.settle();
    let reachable: Vec<_> = world.state.agents().iter().filter(|(_, agent)| agent.is_reachable).collect();
    assert_eq!(reachable.len(), 1);
    assert_eq!(reachable[0].0, spoke);
}

#[test]
fn a_deactivated_agent_is_offered_to_nobody_and_its_tasks_run_on() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 refuse=0s
         say a1 t1:running:1
         deactivate a1 d1
         deactivate a1 d1
         elect
         agent a1 cpus=4 mem=1024 knows=t1:running:1
         activate a1 u1
         deactivate a1 d2 end",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 refuse=0s
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
              f1#1 < offers [1-2 of a1 cpus=3 mem=960MiB]
            > say a1 t1:running:1
              a1#1 < acknowledge [t1 1]
              f1#1 < 6.0 t1 running #1
            > deactivate a1 d1
              user = done
              f1#1 < rescind 1-2: an operator took the agent out of use
            > deactivate a1 d1
              user = done
            > elect
              f1#1 < ended: no-leader
              f1#1 closed
              a1#1 < refused no-leader: this member doesn't lead any more; connect again to reach the new leader
              a1#1 closed
            > agent a1 cpus=4 mem=1024 knows=t1:running:1
              a1#2 < welcome 2 [t1 after 1]
            > activate a1 u1
              user = done
            > deactivate a1 d2 end
              user = done
              a1#2 < kill t1 10 s
        "#]],
    );
}

#[test]
fn an_offer_of_an_agent_that_was_just_deactivated_launches_nothing() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         hold
         deactivate a1 d1
         accept f1 1-1 t1:cpus=1,mem=64
         commit",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > hold
            > deactivate a1 d1
            > accept f1 1-1 t1:cpus=1,mem=64
            > commit
              user = done
              f1 = launched [t1 agent-deactivated]
        "#]],
    );
}

#[test]
fn an_agent_that_is_gone_is_told_so_and_never_comes_back() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64
         say a1 t1:running:1
         gone-for-good a1 g1
         agent a1 cpus=4 mem=1024 knows=t1:running:1
         elect
         agent a1 cpus=4 mem=1024 knows=t1:running:1
         agent a1 cpus=4 mem=1024 boot=b2
         gone-for-good a1 g2
         gone-for-good a9 g3",
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
            > gone-for-good a1 g1
              user = done
              a1#1 < refused for good agent-gone: agent `a1` is gone, as an operator said: its tasks end, and its id is never used again; to use the host again, give its agent an empty data directory
              a1#1 closed
              f1#1 < 7.0 lost a1
              f1#1 < 7.1 t1 gone #2 released
            > agent a1 cpus=4 mem=1024 knows=t1:running:1
              a1#2 < refused for good agent-gone: agent `a1` is gone, as an operator said: its tasks end, and its id is never used again; to use the host again, give its agent an empty data directory
              a1#2 closed
            > elect
              f1#1 < ended: no-leader
              f1#1 closed
            > agent a1 cpus=4 mem=1024 knows=t1:running:1
              a1#3 < refused for good agent-gone: agent `a1` is gone, as an operator said: its tasks end, and its id is never used again; to use the host again, give its agent an empty data directory
              a1#3 closed
            > agent a1 cpus=4 mem=1024 boot=b2
              a1#4 < refused for good agent-gone: agent `a1` is gone, as an operator said: its tasks end, and its id is never used again; to use the host again, give its agent an empty data directory
              a1#4 closed
            > gone-for-good a1 g2
              user = done
            > gone-for-good a9 g3
              user = agent-unknown: Agent `a9` was not marked as gone: no agent has the id `a9`. Look at the list of agents.
        "#]],
    );
}

#[test]
fn an_agent_is_gone_while_it_registers() {
    check(
        "agent a1 cpus=4 mem=1024
         gone a1
         hold
         gone-for-good a1 g1
         agent a1 cpus=4 mem=1024
         commit",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > gone a1
              a1#1 closed
            > hold
            > gone-for-good a1 g1
            > agent a1 cpus=4 mem=1024
            > commit
              user = done
              a1#2 < refused for good agent-gone: Agent `a1` was not registered: an operator said that agent `a1` is gone, and its id is never used again. Give the host's agent an empty data directory, so that it comes back under a new id.
              a1#2 closed
        "#]],
    );
}

/// By epoch; that nothing of an older term gets into the log at all is consensus' own, and tested there.
#[test]
fn what_a_deposed_leader_proposed_is_refused_once_the_agent_has_met_its_successor() {
    let mut world = World::new();
    for line in
        ["agent a1 cpus=4 mem=1024", "subscribe f1", "accept f1 1-1 t1:cpus=1,mem=64 refuse=0s", "wait 1s a1"]
    {
        world.play(line);
    }
    world.play("hold");
    world.play("say a1 t1:running:1");
    world.play("accept f1 1-2 t2:cpus=1,mem=64");
    world.play("wait 31s");
    let late = std::mem::take(&mut world.held);
    world.play("elect");
    world.play("commit");
    world.play("agent a1 cpus=4 mem=1024 knows=t1:running:1");
    let mut seen = Vec::new();
    for (_, entry) in late {
        let mut state = world.state.clone();
        let index = state.applied() + 1;
        let outcome = apply(&mut state, index, &entry);
        let code = match (&entry.command, outcome.answer) {
            (Command::Launch { .. }, Ok(Answer::Launched(results))) => {
                ("launch", results.into_iter().find_map(|(_, refusal)| refusal).map(|refusal| refusal.code))
            }
            (Command::RecordStatuses { .. }, answer) => ("record", answer.err().map(|refusal| refusal.code)),
            (Command::MarkAgentUnreachable { .. }, answer) => {
                ("mark", answer.err().map(|refusal| refusal.code))
            }
            _ => continue,
        };
        seen.push(code);
    }
    let stale = Some(RefusalCode::EpochStale);
    assert_eq!(seen, [("record", stale), ("launch", stale), ("mark", stale)]);
}
