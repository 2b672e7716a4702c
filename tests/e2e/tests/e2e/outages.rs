//! What a cluster survives: links that are cut in one direction or both, or lose packets; members that stand
//! still or die; a full disk. Always under a load, of which nothing may be lost and nothing done twice.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use harness::{Cluster, ClusterOptions, Load, Network, Node, wait_until};
use muster_client::{operator::GetStatusRequest, types::TaskSpec};
use nix::sys::signal::Signal;

use crate::script;

/// Three members and three agents of one CPU each; an agent may be silent for four seconds.
fn three() -> ClusterOptions {
    ClusterOptions {
        agents: 3,
        members: 3,
        agent_flags: ["--cpus", "1", "--mem", "1GiB"].map(String::from).to_vec(),
        coordinator_flags: ["--agent-heartbeat", "1s", "--agent-timeout", "4s"].map(String::from).to_vec(),
        ..ClusterOptions::default()
    }
}

/// Tells a scenario on a cluster with a network of its own, from a place in that network.
fn on_a_network<S>(options: ClusterOptions, scenario: S)
where
    S: AsyncFnOnce(&mut Cluster, &Network) + Send,
{
    if !harness::is_privileged(module_path!()) {
        return;
    }
    if let Some(lack) = Network::lack() {
        println!("skipped: no network of one's own can be made here: {lack}");
        return;
    }
    let network = Arc::new(Network::make(options.members, options.agents));
    let options = ClusterOptions { network: Some(network.clone()), ..options };
    network.enter(Node::Client, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let mut cluster = Cluster::start(options).await;
            scenario(&mut cluster, &network).await;
            network.mend();
            cluster.finish().await;
        });
    });
}

/// Waits until a member other than `old` says that it leads; gives it.
async fn another_leader(cluster: &Cluster, old: usize) -> usize {
    let connections: Vec<_> = (1..=3)
        .filter(|member| *member != old)
        .map(|member| (member, cluster.connection_to_member(member)))
        .collect();
    let mut leader = 0;
    wait_until("another member leads", async || {
        for (member, connection) in &connections {
            let mut operator = connection.operator();
            let asked = operator.get_status(GetStatusRequest {});
            let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_millis(500), asked).await else {
                continue;
            };
            let status = answer.into_inner();
            if status.leader_id == status.member_id {
                leader = *member;
                return true;
            }
        }
        false
    })
    .await;
    leader
}

/// Says how long there was no leader, and how long it took until a command was agreed on again.
async fn tell_gap(cluster: &Cluster, what: &str, old: usize, since: Instant) {
    let leader = another_leader(cluster, old).await;
    let led = since.elapsed();
    let connection = cluster.connection_to_member(leader);
    let request = muster_client::operator::RunRequest {
        request_id: muster_client::new_request_id(),
        spec: Some(script("exit 0")),
        count: Some(1),
    };
    let answer = connection.call(async |mut operator| operator.run(request.clone()).await).await;
    assert!(answer.is_ok(), "{answer:?}");
    println!("{what}: {led:.2?} without a leader; a command was agreed on after {:.2?}", since.elapsed());
}

/// Waits until so many tasks of the load have begun.
async fn until_begun(load: &Load, count: usize) {
    wait_until("the load is under way", async || load.begun() >= count).await;
}

/// To whom the load's framework is attached when the leader goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Leader,
    Follower,
}

/// Loses the leader in some way under load, and gets it back.
fn lose_leader(
    what: &'static str,
    by: By,
    lose: impl FnOnce(&mut Cluster, &Network, usize) + Send,
    mend: impl FnOnce(&mut Cluster, &Network, usize) + Send,
) {
    on_a_network(three(), async |cluster, network| {
        let leader = cluster.until_members().await;
        let first = if by == By::Leader { leader } else { leader % 3 + 1 };
        let load = Load::start(cluster.connection_by(first), 120);
        until_begun(&load, 20).await;
        lose(cluster, network, leader);
        let lost = Instant::now();
        tell_gap(cluster, what, leader, lost).await;
        let begun = load.begun();
        wait_until("the load goes on", async || load.begun() > begun || load.is_over()).await;
        println!("{what}: the load went on {:.2?} after the fault", lost.elapsed());
        mend(cluster, network, leader);
        let mended = Instant::now();
        cluster.until_members().await;
        println!("{what}: all members agreed {:.2?} after it was mended", mended.elapsed());
        let heard = load.finish().await;
        heard.judge();
        println!("{what}: {} tasks were unreachable for a while", heard.unreachable());
        cluster.until_agents().await;
    });
}

#[test]
fn a_leader_that_is_cut_off_is_replaced() {
    let cut = |_: &mut Cluster, network: &Network, leader| network.isolate(Node::Member(leader));
    lose_leader("cut off", By::Leader, cut, |_, network, _| network.mend());
}

#[test]
fn a_leader_that_is_heard_and_hears_nobody_is_replaced() {
    let cut = |_: &mut Cluster, network: &Network, leader| network.deafen(Node::Member(leader));
    lose_leader("deaf", By::Follower, cut, |_, network, _| network.mend());
}

#[test]
fn a_leader_that_hears_and_is_heard_by_nobody_is_replaced() {
    let cut = |_: &mut Cluster, network: &Network, leader| network.silence(Node::Member(leader));
    lose_leader("mute", By::Follower, cut, |_, network, _| network.mend());
}

#[test]
fn a_framework_behind_a_follower_does_not_end_with_the_leader() {
    let kill = |cluster: &mut Cluster, _: &Network, leader| cluster.member(leader).kill();
    lose_leader("killed", By::Follower, kill, |cluster, _, leader| cluster.restart_member(leader));
}

#[test]
fn every_tenth_packet_may_be_lost() {
    on_a_network(three(), async |cluster, network| {
        let term = term(cluster).await;
        network.lose(10);
        let since = Instant::now();
        let load = Load::start(cluster.connection(), 100);
        let heard = load.finish().await;
        println!("lossy: 100 tasks took {:.1?} with every tenth packet lost", since.elapsed());
        network.mend();
        heard.judge();
        cluster.until_members().await;
        println!(
            "lossy: {} elections, {} tasks unreachable",
            self::term(cluster).await - term,
            heard.unreachable()
        );
        cluster.until_agents().await;
    });
}

/// The highest term that any member knows.
async fn term(cluster: &Cluster) -> u64 {
    let mut highest = 0;
    for member in 1..=3 {
        let answer = cluster.connection_to_member(member).operator().get_status(GetStatusRequest {}).await;
        highest = highest.max(answer.map_or(0, |answer| answer.into_inner().term));
    }
    highest
}

#[test]
fn a_leader_that_stood_still_promises_nothing_afterwards() {
    on_a_network(three(), async |cluster, _network| {
        let leader = cluster.until_members().await;
        let load = Load::start(cluster.connection(), 120);
        until_begun(&load, 20).await;
        cluster.member(leader).signal(Signal::SIGSTOP);
        let stopped = Instant::now();
        tell_gap(cluster, "stopped", leader, stopped).await;
        let begun = load.begun();
        wait_until("the load goes on", async || load.begun() > begun || load.is_over()).await;
        println!("stopped: the load went on {:.2?} after the stop", stopped.elapsed());
        tokio::time::sleep(Duration::from_secs(10).saturating_sub(stopped.elapsed())).await;
        cluster.member(leader).signal(Signal::SIGCONT);
        let went_on = Instant::now();
        // Not once does it say that it leads still.
        let connection = cluster.connection_to_member(leader);
        let mut said = Vec::new();
        wait_until("it follows", async || {
            let Ok(answer) = connection.operator().get_status(GetStatusRequest {}).await else {
                return false;
            };
            let status = answer.into_inner();
            said.push((went_on.elapsed(), status.leader_id));
            assert_ne!(status.leader_id, status.member_id, "it says that it leads still: {said:?}");
            status.leader_id != 0 && status.leader_id != status.member_id
        })
        .await;
        println!("stopped: it followed {:.2?} after it went on: {said:.2?}", went_on.elapsed());
        cluster.until_members().await;
        load.finish().await.judge();
    });
}

#[test]
fn everything_dies_at_once_and_comes_back() {
    on_a_network(three(), async |cluster, _network| {
        let load = Load::start(cluster.connection(), 200);
        until_begun(&load, 60).await;
        for member in 1..=3 {
            cluster.member(member).kill();
        }
        for agent in &mut cluster.agents {
            agent.kill();
        }
        let killed = Instant::now();
        for member in 1..=3 {
            cluster.restart_member(member);
        }
        for agent in 0..3 {
            cluster.restart_agent(agent);
        }
        tell_gap(cluster, "all killed", 0, killed).await;
        load.finish().await.judge();
        println!("all killed: the load was over {:.1?} after that", killed.elapsed());
        cluster.until_members().await;
        cluster.until_agents().await;
    });
}

#[test]
fn members_and_agents_are_restarted_one_by_one_under_load() {
    on_a_network(three(), async |cluster, _network| {
        let load = Load::start(cluster.connection(), 200);
        until_begun(&load, 20).await;
        for member in 1..=3 {
            let leader = cluster.until_members().await;
            let begun = Instant::now();
            let status = cluster.member(member).end(Signal::SIGTERM).await;
            assert!(status.success(), "{status}: {}", cluster.member(member).log_tail());
            if member == leader {
                tell_gap(cluster, "rolling", leader, begun).await;
            }
            cluster.restart_member(member);
        }
        cluster.until_members().await;
        for agent in 0..3 {
            let status = cluster.agents[agent].end(Signal::SIGTERM).await;
            assert!(status.success(), "{status}: {}", cluster.agents[agent].log_tail());
            cluster.restart_agent(agent);
            cluster.until_agents().await;
        }
        println!("rolling: everything was restarted; the load was over already: {}", load.is_over());
        load.finish().await.judge();
    });
}

/// Hands the lead over to the first member, unless it has it.
async fn until_first_leads(cluster: &mut Cluster) {
    wait_until("the first member leads", async || {
        let leader = cluster.until_members().await;
        if leader != 1 {
            cluster.muster_output(&["member", "transfer", "1"]).await;
        }
        leader == 1
    })
    .await;
}

#[test]
fn a_member_whose_disk_is_full_steps_down_and_comes_back() {
    let options = ClusterOptions { member_disk_mib: Some((1, 256)), ..three() };
    on_a_network(options, async |cluster, _network| {
        until_first_leads(cluster).await;
        let load = Load::start(cluster.connection(), 120);
        until_begun(&load, 20).await;
        let filler = cluster.member_dir(1).join("filler");
        fill(&filler);
        let full = Instant::now();
        tell_gap(cluster, "full disk", 1, full).await;
        wait_until("it says so and ends", async || !cluster.member(1).is_alive()).await;
        let log = cluster.member(1).log();
        let why = log.lines().find(|line| line.starts_with("why:")).unwrap_or_default();
        assert!(why.contains("No space left on device"), "{log}");
        assert!(log.contains("next:"), "{log}");
        println!("full disk: {why}");
        // As long as there is no room it ends again, at the latest when it must write, and damages nothing.
        cluster.restart_member(1);
        let again = Instant::now();
        cluster.run(script("exit 0"), 1).await;
        wait_until("it ends again", async || !cluster.member(1).is_alive()).await;
        let said = cluster.member(1).log();
        let last = said[log.len()..].lines().find(|line| line.starts_with("why:")).unwrap_or_default();
        println!("full disk: started again, it ended after {:.1?}: {last}", again.elapsed());
        assert!(last.contains("No space left on device"), "{said}");
        std::fs::remove_file(&filler).unwrap();
        cluster.restart_member(1);
        cluster.until_members().await;
        load.finish().await.judge();
    });
}

#[test]
fn a_follower_whose_disk_is_full_harms_nobody_and_comes_back() {
    let options = ClusterOptions { member_disk_mib: Some((2, 256)), ..three() };
    on_a_network(options, async |cluster, _network| {
        until_first_leads(cluster).await;
        let term = term(cluster).await;
        let load = Load::start(cluster.connection_by(1), 120);
        until_begun(&load, 20).await;
        let filler = cluster.member_dir(2).join("filler");
        fill(&filler);
        let full = Instant::now();
        wait_until("it says so and ends", async || !cluster.member(2).is_alive()).await;
        let log = cluster.member(2).log();
        let why = log.lines().find(|line| line.starts_with("why:")).unwrap_or_default();
        assert!(why.contains("No space left on device"), "{log}");
        assert!(log.contains("next:"), "{log}");
        println!("full disk of a follower: it ended after {:.1?}: {why}", full.elapsed());
        let begun = load.begun();
        wait_until("the load goes on", async || load.begun() > begun || load.is_over()).await;
        std::fs::remove_file(&filler).unwrap();
        cluster.restart_member(2);
        let back = Instant::now();
        assert_eq!(cluster.until_members().await, 1, "the lead has changed hands");
        println!("full disk of a follower: with room again it had caught up after {:.1?}", back.elapsed());
        load.finish().await.judge();
        assert_eq!(self::term(cluster).await, term, "there was an election");
    });
}

#[test]
fn a_leader_whose_disk_stands_still_is_replaced_and_says_so() {
    let options = ClusterOptions { member_disk_mib: Some((1, 256)), ..three() };
    on_a_network(options, async |cluster, _network| {
        until_first_leads(cluster).await;
        let load = Load::start(cluster.connection_by(2), 200);
        until_begun(&load, 20).await;
        let Some(frozen) = cluster.member_disk().freeze() else {
            load.finish().await.judge();
            return println!("skipped: no file system can be frozen here");
        };
        let stood = Instant::now();
        tell_gap(cluster, "disk stands still", 1, stood).await;
        let begun = load.begun();
        wait_until("the load goes on", async || load.begun() > begun || load.is_over()).await;
        wait_until("it says so", async || cluster.member(1).log().contains("the disk does not take")).await;
        drop(frozen);
        let went_on = Instant::now();
        cluster.until_members().await;
        println!("disk stands still: all agreed {:.1?} after it went on", went_on.elapsed());
        wait_until("it says that too", async || cluster.member(1).log().contains("writes again")).await;
        load.finish().await.judge();
    });
}

/// Writes a file until the file system it is on is full.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    let mut piece = vec![0; 1 << 20];
    while !piece.is_empty() {
        if file.write_all(&piece).is_err() {
            piece.truncate(piece.len() / 2);
        }
    }
    // What is only promised may yet fail.
    let _ = file.sync_all();
}

#[test]
fn an_agent_that_was_cut_off_for_too_long_comes_back_with_its_tasks() {
    use muster_client::types::TaskState;
    on_a_network(three(), async |cluster, network| {
        let load = Load::start(cluster.connection(), 100);
        until_begun(&load, 20).await;
        let long = cluster.run(script("exec sleep 100000"), 1).await.remove(0);
        cluster.until_state(&long, TaskState::Running).await;
        let agent = cluster.task(&long).await.agent_id;
        let is_it = |number: &usize| {
            let file = cluster.agent_dir(*number).join("agent-id");
            std::fs::read_to_string(file).unwrap().trim() == agent
        };
        network.isolate(Node::Agent((0..3).find(is_it).unwrap()));
        let cut = Instant::now();
        cluster.until_state(&long, TaskState::Unreachable).await;
        println!("agent cut off: its tasks were called unreachable after {:.1?}", cut.elapsed());
        network.mend();
        let mended = Instant::now();
        cluster.until_agents().await;
        println!("agent cut off: it was back {:.1?} after the link was mended", mended.elapsed());
        cluster.until_state(&long, TaskState::Running).await;
        let heard = load.finish().await;
        heard.judge();
        println!("agent cut off: {} tasks of the load were unreachable and came back", heard.unreachable());
    });
}

/// What makes a daemon believe another date; absent where Debian's package `faketime` is not installed.
fn believing(node: Node, date: &str) -> Option<Vec<(Node, String, String)>> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let library =
        folders.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|path| path.exists())?;
    let library = library.display().to_string();
    // What counts time shall count on as it does: a clock that is set is not one that runs wrong.
    let settings =
        [("LD_PRELOAD", library.as_str()), ("FAKETIME", date), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    Some(settings.map(|(name, value)| (node, name.to_owned(), value.to_owned())).to_vec())
}

#[test]
fn clocks_that_are_a_year_off_end_nothing() {
    use muster_client::{
        Event, Framework, FrameworkOptions,
        operator::ListFrameworksRequest,
        scheduler::{Demand, FrameworkInfo},
        types::TaskState,
    };
    let Some(mut node_env) = believing(Node::Member(2), "+365d") else {
        return println!("skipped: no libfaketime is here (`cargo xtask setup test` installs it)");
    };
    node_env.extend(believing(Node::Agent(1), "-365d").unwrap_or_default());
    on_a_network(ClusterOptions { node_env, ..three() }, async |cluster, _network| {
        let to = async |cluster: &mut Cluster, member: usize| {
            let number = member.to_string();
            wait_until("the lead is handed over", async || {
                cluster.muster_output(&["member", "transfer", &number]).await;
                cluster.until_members().await == member
            })
            .await;
        };
        to(cluster, 1).await;
        let year = |log: String| log.lines().last().and_then(|line| line.get(..4)?.parse::<u32>().ok());
        let (right, ahead) = (year(cluster.member(1).log()), year(cluster.member(2).log()));
        assert_eq!(right.map(|year| year + 1), ahead, "the second member is not a year ahead");
        // It will be away, for less than it may.
        let info = FrameworkInfo {
            name: "absent".to_owned(),
            failover_timeout_ms: Some(300_000),
            ..FrameworkInfo::default()
        };
        let options = FrameworkOptions { info: info.clone(), ..FrameworkOptions::default() };
        let mut framework = Framework::subscribe(&cluster.connection(), options).await.unwrap();
        let long = TaskSpec { task_id: "long".to_owned(), ..script("exec sleep 100000") };
        let demand = Demand { shape: long.resources.clone(), count: 1, constraints: Vec::new() };
        framework.set_demand(vec![demand]).await.unwrap();
        let offer = loop {
            if let Event::Offers(mut offers) = framework.next().await.unwrap() {
                break offers.remove(0).offer_id;
            }
        };
        framework.accept(vec![offer], vec![long], None).await.unwrap();
        cluster.until_state("long", TaskState::Running).await;
        let (id, cursor) = (framework.id().to_owned(), framework.cursor());
        drop(framework);
        let is_away = async |cluster: &Cluster| {
            let mut operator = cluster.operator();
            let listed = operator.list_frameworks(ListFrameworksRequest {}).await.ok()?.into_inner();
            let found = listed.frameworks.into_iter().find(|framework| framework.framework_id == id)?;
            Some(!found.is_connected)
        };
        wait_until("it is away", async || is_away(cluster).await == Some(true)).await;
        // To one that is a year ahead, and back.
        let load = Load::start(cluster.connection(), 100);
        to(cluster, 2).await;
        let led = Instant::now();
        // A new leader is patient for ten seconds; then it would end whom it takes for overdue.
        wait_until("the new leader has had time to end it", async || {
            assert!(is_away(cluster).await.unwrap_or(true), "it was torn down");
            led.elapsed() > Duration::from_secs(13)
        })
        .await;
        assert_eq!(cluster.task("long").await.state(), TaskState::Running);
        to(cluster, 1).await;
        let options = FrameworkOptions { info, framework_id: Some(id.clone()), cursor };
        let back = Framework::subscribe(&cluster.connection(), options).await;
        back.expect("it is as it was").teardown().await.unwrap();
        cluster.until_released("long").await;
        load.finish().await.judge();
    });
}
