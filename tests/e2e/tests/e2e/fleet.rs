//! What operators say of agents: out of use, into use again, drained, gone for good.

use harness::{Cluster, ClusterOptions, wait_until};
use muster_client::{
    operator::{AgentView, ListAgentsRequest},
    types::TaskState,
};

use crate::{cluster, script};

/// The view of the agent that the harness counts so.
async fn agent(cluster: &Cluster, number: usize) -> AgentView {
    let answer = cluster.operator().list_agents(ListAgentsRequest {}).await.unwrap().into_inner();
    let address = cluster.agent_address(number);
    answer.agents.into_iter().find(|agent| agent.address == address).unwrap()
}

async fn say(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String) {
    let output = cluster.muster_output(arguments).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_taken_out_of_use_and_into_use_again() {
    let mut cluster = cluster!(ClusterOptions { agents: 2, ..ClusterOptions::default() });
    let first = agent(&cluster, 0).await.agent_id;
    let second = agent(&cluster, 1).await.agent_id;
    assert_eq!(say(&cluster, &["agent", "deactivate", &second]).await, (Some(0), String::new()));
    let long = cluster.run(script("sleep 600"), 1).await.remove(0);
    cluster.until_state(&long, TaskState::Running).await;
    assert_eq!(cluster.task(&long).await.agent_id, first, "the other one is out of use");

    // Out of use, too: what runs goes on, and what comes waits; a new session changes nothing.
    assert_eq!(say(&cluster, &["agent", "deactivate", &first]).await.0, Some(0));
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let waiting = cluster.run(script("sleep 600"), 1).await.remove(0);
    wait_until("it is said why the task waits", async || {
        !cluster.task(&waiting).await.waiting_because.is_empty()
    })
    .await;
    assert_eq!(cluster.task(&long).await.state(), TaskState::Running);
    let (_, list) = say(&cluster, &["agent", "list"]).await;
    assert_eq!(list.matches("reachable, deactivated").count(), 2, "{list}");

    assert_eq!(say(&cluster, &["agent", "activate", &second]).await.0, Some(0));
    cluster.until_state(&waiting, TaskState::Running).await;
    assert_eq!(cluster.task(&waiting).await.agent_id, second);

    // Nobody can be asked here, so it wants to be told.
    let (code, why) = say(&cluster, &["agent", "drain", &second]).await;
    assert!(code == Some(2) && why.contains("--yes"), "{code:?}: {why}");
    assert_eq!(say(&cluster, &["agent", "drain", &second, "--grace", "1s", "--yes"]).await.0, Some(0));
    assert_eq!(cluster.until_released(&waiting).await.state(), TaskState::Killed);
    assert!(agent(&cluster, 1).await.is_deactivated);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_gone_ends_its_tasks_and_never_comes_back_under_its_id() {
    let mut cluster = cluster!(ClusterOptions { agents: 2, ..ClusterOptions::default() });
    let lost = agent(&cluster, 1).await.agent_id;
    let first = agent(&cluster, 0).await.agent_id;
    say(&cluster, &["agent", "deactivate", &first]).await;
    let heir = "muster-gone-agents-task";
    let task = cluster.run(script(&format!(": {heir}; sleep 600; :")), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;

    // Nobody hears of the agent, and an operator calls it lost; its task runs on meanwhile.
    cluster.agents[1].kill();
    let (code, why) = say(&cluster, &["agent", "gone", &lost]).await;
    assert!(code == Some(2) && why.contains("1 live tasks would be GONE"), "{code:?}: {why}");
    assert_eq!(say(&cluster, &["agent", "gone", &lost, "--yes"]).await, (Some(0), String::new()));
    let view = cluster.task(&task).await;
    assert!(view.state() == TaskState::Gone && view.is_released, "{view:?}");
    let (code, why) = say(&cluster, &["agent", "show", &lost]).await;
    assert!(code != Some(0) && why.contains("agent-gone"), "{code:?}: {why}");

    // It comes back all the same: its task ends, and so does it.
    cluster.restart_agent(1);
    // What systemd does not start again.
    assert_eq!(cluster.agents[1].until_ended().await.code(), Some(3));
    let log = cluster.agents[1].log();
    assert!(log.contains("agent-gone") && log.contains("move its data directory away"), "{log}");
    let groups = std::process::Command::new("pgrep").args(["-f", heir]).output().unwrap();
    assert!(groups.stdout.is_empty(), "the task outlived its agent");

    // With an empty data directory the host serves again, under another id.
    std::fs::remove_dir_all(cluster.agent_dir(1)).unwrap();
    cluster.restart_agent(1);
    cluster.until_agents().await;
    assert_ne!(agent(&cluster, 1).await.agent_id, lost);
    let task = cluster.run(script("exit 0"), 1).await.remove(0);
    assert_eq!(cluster.until_released(&task).await.state(), TaskState::Finished);
    cluster.finish().await;
}
