//! Coordinators and agents, each with everything of its own.

use std::{
    env, fs,
    net::TcpListener,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use muster_client::{
    Connection, Locator, OperatorClient, is_final, new_request_id,
    operator::{
        GetTaskRequest, ListAgentsRequest, ListMembersRequest, ListTasksRequest, RunRequest, TaskView,
    },
    types::{Resources, TaskSpec, TaskState},
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{Daemon, Network, Node, Residue, disk::SmallDisk, page, patience, wait_until};

/// What differs between clusters.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    pub agents: usize,
    /// Coordinators; the others join the first.
    pub members: usize,
    /// More flags for every agent.
    pub agent_flags: Vec<String>,
    /// More variables in every agent's environment.
    pub agent_env: Vec<(String, String)>,
    /// More flags for every coordinator.
    pub coordinator_flags: Vec<String>,
    /// Gives the first agent's data directory a file system of its own of so many MiB.
    pub agent_disk_mib: Option<u64>,
    /// The same for one of the members.
    pub member_disk_mib: Option<(usize, u64)>,
    /// More variables in the environment of one daemon.
    pub node_env: Vec<(Node, String, String)>,
    /// A network whose links can be cut; else everyone is on the host's loopback.
    pub network: Option<Arc<Network>>,
    /// Everybody speaks TLS, and members and agents join with tokens.
    pub has_tls: bool,
}

impl ClusterOptions {
    /// Where a node listens, `host:port`.
    fn address(&self, node: Node) -> String {
        match &self.network {
            Some(_) => format!("{}:{PORT}", node.address()),
            None => free_address(),
        }
    }

    /// Starts a node's daemon where its machine is.
    fn start(&self, node: Node, name: &str, mut command: Command, log: &Path) -> Daemon {
        let own = self.node_env.iter().filter(|(of, _, _)| *of == node);
        command.envs(own.map(|(_, name, value)| (name, value)));
        match &self.network {
            Some(network) => network.enter(node, || Daemon::start(name, command, log)),
            None => Daemon::start(name, command, log),
        }
    }
}

/// Where daemons listen that have a machine of their own.
const PORT: u16 = 5050;

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            agents: 1,
            members: 1,
            agent_flags: Vec::new(),
            agent_env: Vec::new(),
            coordinator_flags: Vec::new(),
            agent_disk_mib: None,
            member_disk_mib: None,
            node_env: Vec::new(),
            network: None,
            has_tls: false,
        }
    }
}

/// Where a binary of ours is: in `MUSTER_BIN_DIR`, or beside the running test's folder.
pub fn program(name: &str) -> PathBuf {
    if let Some(directory) = env::var_os("MUSTER_BIN_DIR") {
        return Path::new(&directory).join(name);
    }
    // target/PROFILE/deps/e2e-HASH
    let test = env::current_exe().expect("a test knows its path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    folder.join(name)
}

/// Enough CPU, in thousandths of a core, for a launch to be quick: an emulated one needs seventeen times more.
pub fn little_cpu() -> u64 {
    if crate::is_guest() { 200 } else { 10 }
}

/// A spec with little of everything.
pub fn run_spec(command: &[&str]) -> TaskSpec {
    TaskSpec {
        name: "test".to_owned(),
        resources: Some(Resources { cpus_milli: little_cpu(), mem_mib: 32, ..Resources::default() }),
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        ..TaskSpec::default()
    }
}

/// A running cluster.
pub struct Cluster {
    directory: TempDir,
    options: ClusterOptions,
    cgroup_parent: String,
    address: String,
    pub coordinator: Daemon,
    /// Members from the second on, with their addresses.
    pub others: Vec<(Daemon, String)>,
    pub agents: Vec<Daemon>,
    agent_addresses: Vec<String>,
    disk: Option<SmallDisk>,
    member_disk: Option<SmallDisk>,
    is_finished: bool,
}

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Ports for daemons: below those that the kernel gives out by itself (ip_local_port_range), so that no connection
/// takes one between its choice and its use.
const PORTS: Range<u16> = 10_000..30_000;

/// Gives each port once, so that of two daemons which are to start none gets the other's.
fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other test programs begin elsewhere.
    let start = std::process::id() * 64;
    let free = (0..PORTS.len()).find_map(|_| {
        let place = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(place).expect("it is below their number");
        TcpListener::bind(("127.0.0.1", port)).ok().map(|_listener| port)
    });
    format!("127.0.0.1:{}", free.expect("loopback has free ports"))
}

impl Cluster {
    /// Starts everything and waits until every agent is registered.
    pub async fn start(options: ClusterOptions) -> Self {
        let directory =
            tempfile::Builder::new().prefix("muster-test-").tempdir().expect("a directory can be made");
        // Tasks of other users walk through it to their sandboxes.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("it is ours");
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let cgroup_parent = format!("muster-test-{}-{number}", std::process::id());
        let address = options.address(Node::Member(1));
        let member_disk = options
            .member_disk_mib
            .map(|(member, mib)| SmallDisk::mount(&member_dir(directory.path(), member), mib));
        if options.has_tls {
            let mut init = Command::new(program("muster-coordinator"));
            init.args(["init", "--data-dir"]).arg(directory.path().join("coordinator"));
            let output = init.output().expect("the coordinator's program starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let coordinator = start_coordinator(directory.path(), 1, &address, None, &options);
        let mut cluster = Self {
            agent_addresses: (0..options.agents).map(|number| options.address(Node::Agent(number))).collect(),
            directory,
            cgroup_parent,
            address,
            coordinator,
            others: Vec::new(),
            agents: Vec::new(),
            options,
            disk: None,
            member_disk,
            is_finished: false,
        };
        cluster.disk = cluster.options.agent_disk_mib.map(|mib| SmallDisk::mount(&cluster.agent_dir(0), mib));
        cluster.until_coordinator().await;
        for member in 2..=cluster.options.members {
            let address = cluster.options.address(Node::Member(member));
            if cluster.options.has_tls {
                cluster.make_token("member", &cluster.join_token(&format!("member-{member}"))).await;
            }
            let other = cluster.spawn_member(member, &address);
            cluster.others.push((other, address));
        }
        cluster.until_members().await;
        for number in 0..cluster.options.agents {
            if cluster.options.has_tls {
                cluster.make_token("agent", &cluster.join_token(&format!("agent-{number}"))).await;
            }
            let agent = cluster.spawn_agent(number);
            cluster.agents.push(agent);
        }
        cluster.until_agents().await;
        cluster
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the join token of `member-2` or `agent-0` lies.
    pub fn join_token(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.token"))
    }

    /// Has `muster` make a join token, into a file.
    pub async fn make_token(&self, kind: &str, into: &Path) {
        let mut made = None;
        // A cluster that has just begun has its first version for a moment.
        wait_until("a join token is made", async || {
            let output = self.muster_output(&["token", "create", kind]).await;
            let is_made = output.status.success();
            made = is_made.then_some(output);
            is_made
        })
        .await;
        let output = made.expect("it was waited for");
        fs::write(into, &output.stdout).expect("the directory is ours");
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.options.has_tls { "https" } else { "http" }
    }

    /// The certificate of the cluster's authority, where it has one.
    pub fn authority_file(&self) -> PathBuf {
        self.directory.path().join("coordinator/tls/ca.pem")
    }

    /// `host:port` of the coordinator.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `host:port` of a member, from 1 on.
    pub fn member_address(&self, member: usize) -> &str {
        match member {
            1 => &self.address,
            other => &self.others[other - 2].1,
        }
    }

    pub fn member(&mut self, member: usize) -> &mut Daemon {
        match member {
            1 => &mut self.coordinator,
            other => &mut self.others[other - 2].0,
        }
    }

    /// What is set for all nodes from their next start on.
    pub fn set_node_env(&mut self, node_env: Vec<(Node, String, String)>) {
        self.options.node_env = node_env;
    }

    /// Starts a member again, after it was killed or ended.
    pub fn restart_member(&mut self, member: usize) {
        let address = self.member_address(member).to_owned();
        *self.member(member) = self.spawn_member(member, &address);
    }

    fn spawn_member(&self, member: usize, address: &str) -> Daemon {
        let join = (member > 1).then_some(self.address.as_str());
        start_coordinator(self.directory.path(), member, address, join, &self.options)
    }

    /// Every member's URL, with commas between them.
    pub fn servers(&self) -> String {
        // While it starts, not all of them are there.
        let urls: Vec<_> = (1..=self.others.len() + 1)
            .map(|member| format!("{}://{}", self.scheme(), self.member_address(member)))
            .collect();
        urls.join(",")
    }

    /// Waits until every member votes and knows the leader; gives that.
    pub async fn until_members(&mut self) -> usize {
        let wanted = self.options.members;
        let mut leader = 0;
        wait_until("every member votes", async || {
            self.coordinator.assert_alive();
            self.others.iter_mut().for_each(|(other, _)| other.assert_alive());
            let mut leaders = Vec::new();
            for member in 1..=wanted {
                let connection = self.connection_to_member(member);
                let Ok(answer) = connection.operator().list_members(ListMembersRequest {}).await else {
                    return false;
                };
                let members = answer.into_inner().members;
                if members.iter().filter(|member| member.is_voter).count() != wanted {
                    return false;
                }
                leaders.extend(members.iter().find(|member| member.is_leader).map(|member| member.member_id));
            }
            leader = leaders.first().copied().unwrap_or(0);
            leaders.len() == wanted && leaders.iter().all(|known| *known == leader)
        })
        .await;
        usize::try_from(leader).expect("ids are small")
    }

    /// A connection that knows of one member only.
    pub fn connection_to_member(&self, member: usize) -> Connection {
        self.connection_to(&format!("{}://{}", self.scheme(), self.member_address(member)))
    }

    /// A connection that tries this member first, and knows of all.
    pub fn connection_by(&self, member: usize) -> Connection {
        let others = (1..=self.options.members).filter(|other| *other != member);
        let urls: Vec<_> = std::iter::once(member)
            .chain(others)
            .map(|member| format!("{}://{}", self.scheme(), self.member_address(member)))
            .collect();
        self.connection_to(&urls.join(","))
    }

    fn connection_to(&self, servers: &str) -> Connection {
        let locator = Locator {
            address: Some(servers.to_owned()),
            token_file: Some(self.token_file()),
            authority_file: Some(self.authority_file()),
            certificate_file: None,
        };
        Connection::open(&locator).expect("the token is there")
    }

    /// `host:port` of an agent's metrics.
    pub fn agent_address(&self, number: usize) -> &str {
        &self.agent_addresses[number]
    }

    pub fn token_file(&self) -> PathBuf {
        self.directory.path().join("coordinator/token")
    }

    pub fn member_dir(&self, member: usize) -> PathBuf {
        member_dir(self.directory.path(), member)
    }

    pub fn agent_dir(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("agent-{number}"))
    }

    pub fn connection(&self) -> Connection {
        self.connection_to(&self.servers())
    }

    pub fn operator(&self) -> OperatorClient {
        self.connection().operator()
    }

    /// The `muster` command, told where this cluster is.
    pub fn muster(&self) -> Command {
        let mut command = Command::new(program("muster"));
        command.env("MUSTER_SERVER", self.servers());
        command.env("MUSTER_TOKEN_FILE", self.token_file());
        command.env("MUSTER_CA_FILE", self.authority_file());
        command
    }

    /// Runs `muster` to its end, off the runtime's threads.
    pub async fn muster_output(&self, arguments: &[&str]) -> Output {
        let mut command = self.muster();
        command.args(arguments);
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("muster starts")
    }

    /// Hands tasks to the `run` framework.
    pub async fn run(&self, spec: TaskSpec, count: u32) -> Vec<String> {
        let request = RunRequest { request_id: new_request_id(), spec: Some(spec), count: Some(count) };
        let deadline = Instant::now() + patience();
        loop {
            let connection = self.connection();
            match connection.call(async |mut operator| operator.run(request.clone()).await).await {
                Ok(answer) => return answer.task_ids,
                // In an emulated machine an election outlasts the client's own patience.
                Err(error) if crate::is_guest() && error.may_pass() && Instant::now() < deadline => {}
                Err(error) => panic!("the run is not taken: {error:?}"),
            }
        }
    }

    pub async fn task(&self, id: &str) -> TaskView {
        let request = GetTaskRequest { task_id: id.to_owned() };
        let answer =
            self.connection().call(async |mut operator| operator.get_task(request.clone()).await).await;
        answer.expect("the task is known")
    }

    pub async fn tasks(&self, only_live: bool) -> Vec<TaskView> {
        let mut request = ListTasksRequest { page_size: 1000, only_live, ..ListTasksRequest::default() };
        let mut tasks = Vec::new();
        loop {
            let page =
                self.connection().call(async |mut operator| operator.list_tasks(request.clone()).await).await;
            let page = page.expect("tasks can be listed");
            tasks.extend(page.tasks);
            if page.next_page_token.is_empty() {
                return tasks;
            }
            request.page_token = page.next_page_token;
        }
    }

    pub async fn until_state(&self, id: &str, state: TaskState) {
        wait_until(&format!("task {id} is {state:?}"), async || {
            let view = self.task(id).await;
            assert!(
                view.state() == state || !is_final(view.state()),
                "task {id} became {:?}, not {state:?}: {:?}",
                view.state(),
                view.status
            );
            view.state() == state
        })
        .await;
    }

    /// Waits for the end and the release of a task; gives its last view.
    pub async fn until_released(&self, id: &str) -> TaskView {
        wait_until(&format!("task {id} is over"), async || {
            let view = self.task(id).await;
            is_final(view.state()) && view.is_released
        })
        .await;
        self.task(id).await
    }

    /// Starts the coordinator again, after it was killed or ended.
    pub async fn restart_coordinator(&mut self) {
        self.restart_member(1);
        self.until_coordinator().await;
    }

    /// Starts an agent again, after it was killed or ended.
    pub fn restart_agent(&mut self, number: usize) {
        self.agents[number] = self.spawn_agent(number);
    }

    /// Waits until every agent is registered and reachable.
    pub async fn until_agents(&mut self) {
        let count = self.agents.len();
        let connection = self.connection();
        let agents = &mut self.agents;
        let addresses = &self.agent_addresses;
        wait_until("every agent is registered", async || {
            agents.iter_mut().for_each(Daemon::assert_alive);
            // The leader may still think of an agent that was killed: this one must have heard its welcome.
            let is_welcome = |address: &String| {
                page::figure(address, "muster_agent_sessions_welcomed_total").is_some_and(|count| count > 0.0)
            };
            if !addresses.iter().all(is_welcome) {
                return false;
            }
            let answer = connection.operator().list_agents(ListAgentsRequest {}).await;
            answer.is_ok_and(|answer| {
                answer.into_inner().agents.iter().filter(|agent| agent.is_reachable).count() == count
            })
        })
        .await;
    }

    /// Ends tasks, agents and coordinator, and panics about anything that is left.
    pub async fn finish(mut self) {
        for agent in &mut self.agents {
            // SIGINT: the agent ends its tasks and leaves nothing behind.
            let status = agent.end(Signal::SIGINT).await;
            assert!(status.success(), "the agent ended with {status}:\n{}", agent.log_tail());
        }
        drop(self.disk.take());
        for member in (1..=self.options.members).rev() {
            let daemon = self.member(member);
            let status = daemon.end(Signal::SIGTERM).await;
            assert!(status.success(), "member {member} ended with {status}:\n{}", daemon.log_tail());
        }
        drop(self.member_disk.take());
        let left = self.residue().find();
        assert!(left.is_empty(), "the cluster left behind:\n{}", left.join("\n"));
        self.is_finished = true;
    }

    /// The first agent's own file system, where it was given one.
    pub fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("the options give the agent a disk")
    }

    /// One member's own file system, where it was given one.
    pub fn member_disk(&self) -> &SmallDisk {
        self.member_disk.as_ref().expect("the options give a member a disk")
    }

    pub fn residue(&self) -> Residue {
        Residue { cgroup_parent: self.cgroup_parent.clone(), directory: self.directory.path().to_owned() }
    }

    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    async fn until_coordinator(&mut self) {
        let locator = Locator {
            address: Some(format!("{}://{}", self.scheme(), self.address)),
            token_file: Some(self.token_file()),
            authority_file: Some(self.authority_file()),
            certificate_file: None,
        };
        let coordinator = &mut self.coordinator;
        wait_until("the coordinator leads", async || {
            coordinator.assert_alive();
            let Ok(connection) = Connection::open(&locator) else { return false };
            let answer = connection.operator().get_status(muster_client::operator::GetStatusRequest {}).await;
            answer.is_ok_and(|status| status.into_inner().leader_id != 0)
        })
        .await;
    }

    fn spawn_agent(&self, number: usize) -> Daemon {
        let directory = self.agent_dir(number);
        let parent =
            if number == 0 { self.cgroup_parent.clone() } else { format!("{}-{number}", self.cgroup_parent) };
        let mut arguments = vec![
            "--coordinator".to_owned(),
            self.servers(),
            "--token-file".to_owned(),
            self.token_file().display().to_string(),
            "--data-dir".to_owned(),
            directory.display().to_string(),
            "--listen".to_owned(),
            self.agent_addresses[number].clone(),
            "--cgroup-parent".to_owned(),
            parent,
            "--bpf-dir".to_owned(),
            self.directory.path().join(format!("bpf-{number}")).display().to_string(),
        ];
        if self.options.has_tls {
            let token = self.join_token(&format!("agent-{number}")).display().to_string();
            arguments.extend(["--join-token-file".to_owned(), token]);
        }
        arguments.extend(self.options.agent_flags.iter().cloned());
        let log = self.directory.path().join(format!("agent-{number}.log"));
        let mut command = Command::new(program("muster-agent"));
        command.args(arguments).envs(self.options.agent_env.iter().cloned());
        self.options.start(Node::Agent(number), &format!("agent {number}"), command, &log)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // The test failed: show what the daemons said, then clean up after them.
        eprintln!("---- coordinator\n{}", self.coordinator.log_tail());
        for (other, address) in &self.others {
            eprintln!("---- coordinator at {address}\n{}", other.log_tail());
        }
        for (number, agent) in self.agents.iter().enumerate() {
            eprintln!("---- agent {number}\n{}", agent.log_tail());
        }
        self.agents.clear();
        self.residue().sweep();
    }
}

fn start_coordinator(
    directory: &Path,
    member: usize,
    address: &str,
    join: Option<&str>,
    options: &ClusterOptions,
) -> Daemon {
    let name = member_name(member);
    let mut arguments = vec![
        "--listen".to_owned(),
        address.to_owned(),
        "--data-dir".to_owned(),
        member_dir(directory, member).display().to_string(),
        "--member-id".to_owned(),
        member.to_string(),
    ];
    if let Some(join) = join {
        let (flag, token) = match options.has_tls {
            true => ("--join-token-file", format!("member-{member}.token")),
            false => ("--token-file", "coordinator/token".to_owned()),
        };
        let token = directory.join(token).display().to_string();
        arguments.extend(["--join".to_owned(), join.to_owned(), flag.to_owned(), token]);
    }
    if crate::is_guest() && options.members > 1 {
        // Heartbeats of members that share one emulated processor come late.
        arguments.extend(["--election-timeout", "8s"].map(String::from));
    }
    arguments.extend(options.coordinator_flags.iter().cloned());
    let mut command = Command::new(program("muster-coordinator"));
    command.args(arguments);
    options.start(Node::Member(member), &name, command, &directory.join(format!("{name}.log")))
}

fn member_name(member: usize) -> String {
    if member == 1 { "coordinator".to_owned() } else { format!("coordinator-{member}") }
}

fn member_dir(directory: &Path, member: usize) -> PathBuf {
    directory.join(member_name(member))
}
