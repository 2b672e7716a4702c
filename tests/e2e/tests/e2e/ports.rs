//! Ports that tasks use and have not declared: refused, told or nobody's business, as the operator chose.

use harness::{Cluster, ClusterOptions, wait_until};
use muster_client::types::{PortRange, Reason, Resources, TaskSpec, TaskState};

use crate::{attacks::Program, cluster, script};

/// Two that are offered, below those that other tests' agents have, and one that nobody offers.
struct Ports {
    declared: u32,
    undeclared: u32,
}

impl Ports {
    fn new() -> Self {
        let first = 22_000 + std::process::id() % 1000 * 2;
        Self { declared: first, undeclared: first + 1 }
    }

    fn options(&self, more: &[&str]) -> ClusterOptions {
        let offered = format!("{}-{}", self.declared, self.declared);
        let flags = ["--ports", &offered].into_iter().chain(more.iter().copied());
        ClusterOptions { agent_flags: flags.map(String::from).collect(), ..ClusterOptions::default() }
    }

    /// A task that takes what it may, and what it may not, and stays.
    fn spec(&self, program: &Program) -> TaskSpec {
        let (declared, undeclared) = (self.declared, self.undeclared);
        let plain = script("");
        let resources = Resources {
            ports: vec![PortRange { first: declared, last: declared }],
            ..plain.resources.clone().unwrap_or_default()
        };
        let command = [
            program.0.display().to_string(),
            "bind".to_owned(),
            format!("tcp=127.0.0.1:{declared}"),
            format!("tcp=127.0.0.1:{undeclared}"),
            format!("udp=[::1]:{undeclared}"),
            "udp=127.0.0.1:0".to_owned(),
        ];
        TaskSpec { command: command.to_vec(), resources: Some(resources), ..plain }
    }
}

async fn start(cluster: &Cluster, spec: TaskSpec) -> (String, String) {
    let id = cluster.run(spec, 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    let mut said = String::new();
    wait_until("the task has tried its ports", async || {
        let output = cluster.muster_output(&["task", "logs", &id]).await;
        said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains("all tried")
    })
    .await;
    (id, said)
}

async fn end(cluster: Cluster, ids: &[String]) {
    for id in ids {
        let killed = cluster.muster_output(&["task", "kill", id, "--grace", "0s"]).await;
        assert!(killed.status.success(), "{killed:?}");
        cluster.until_released(id).await;
    }
    cluster.finish().await;
}

/// What `task show` says of it, once it says what is wanted.
async fn until_told(cluster: &Cluster, id: &str, wanted: &str) {
    let mut task = cluster.task(id).await;
    wait_until("the ports are told", async || {
        task = cluster.task(id).await;
        task.status.as_ref().is_some_and(|status| status.message.contains(wanted))
    })
    .await;
    assert_eq!(task.state(), TaskState::Running);
    assert_eq!(task.status.unwrap_or_default().reason(), Reason::PortNotDeclared);
    let shown = cluster.muster_output(&["task", "show", id]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains(wanted), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_not_declared_is_refused_where_the_operator_says_so() {
    let ports = Ports::new();
    let mut cluster = cluster!(ports.options(&["--port-policy", "refuse"]));
    let program = Program::new();
    let (id, said) = start(&cluster, ports.spec(&program)).await;
    let undeclared = ports.undeclared;
    assert!(said.contains(&format!("tcp=127.0.0.1:{} ok", ports.declared)), "{said}");
    assert!(said.contains(&format!("tcp=127.0.0.1:{undeclared} Operation not permitted")), "{said}");
    assert!(said.contains(&format!("udp=[::1]:{undeclared} Operation not permitted")), "{said}");
    assert!(said.contains("udp=127.0.0.1:0 ok"), "clients choose no port: {said}");
    until_told(&cluster, &id, &format!("uses ports that it has not declared: {undeclared}/tcp (refused)"))
        .await;

    // In a network of its own, ports are the task's own business.
    let private = TaskSpec { private_network: true, ..script("") };
    let command = [program.0.display().to_string(), "bind".to_owned(), format!("tcp=127.0.0.1:{undeclared}")];
    let (alone, said) = start(&cluster, TaskSpec { command: command.to_vec(), ..private }).await;
    assert!(said.contains(&format!("tcp=127.0.0.1:{undeclared} ok")), "{said}");

    // The guard outlives the agent, and the next one sets it anew.
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let (path, wish) = (program.0.display().to_string(), format!("tcp=127.0.0.1:{undeclared}"));
    let output = cluster.muster_output(&["task", "exec", &id, "--", &path, "bind", &wish, "end"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("tcp=127.0.0.1:{undeclared} Operation not permitted")), "{output:?}");
    end(cluster, &[id, alone]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_port_that_was_not_declared_is_told_and_works() {
    let ports = Ports::new();
    let cluster = cluster!(ports.options(&[]));
    let program = Program::new();
    let (id, said) = start(&cluster, ports.spec(&program)).await;
    assert_eq!(said.matches(" ok").count(), 4, "{said}");
    until_told(&cluster, &id, &format!("uses ports that it has not declared: {}/tcp", ports.undeclared))
        .await;
    end(cluster, &[id]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_nobody_looks_at_ports() {
    let ports = Ports::new();
    let cluster = cluster!(ports.options(&["--port-policy", "off"]));
    let program = Program::new();
    let (id, said) = start(&cluster, ports.spec(&program)).await;
    assert_eq!(said.matches(" ok").count(), 4, "{said}");
    assert_eq!(cluster.task(&id).await.status.unwrap_or_default().reason(), Reason::Unspecified);
    end(cluster, &[id]).await;
}
