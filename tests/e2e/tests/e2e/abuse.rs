//! Members and agents that are not who they say, and clients that behave badly: each is told what to do, and the
//! others don't notice.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use harness::{Cluster, ClusterOptions, Daemon, Residue, patience, program, wait_until};
use muster_client::{operator::ListTasksRequest, types::TaskState};
use tonic::Code;

use crate::{cluster, metrics::get, script};

/// Runs a coordinator that should give up; gives what it said.
async fn gives_up(arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(program("muster-coordinator"));
    command.args(["--listen", "127.0.0.1:0"]).args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(patience(), command.output()).await.expect("it gives up").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it was content:\n{said}");
    println!("{said}");
    said
}

/// A data directory as `coordinator/fixtures` has it.
fn data_of(fixture: &str) -> tempfile::TempDir {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../coordinator/fixtures").join(fixture);
    let directory = tempfile::tempdir().unwrap();
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--gzip", "--file"]).arg(archive.join("data.tar.gz"));
    assert!(unpack.arg("--directory").arg(directory.path()).status().unwrap().success());
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_somebody_else_is_not_touched() {
    let ours = data_of("v4");
    let data_dir = ours.path().to_str().unwrap();
    for flags in [["--member-id", "2"], ["--cluster-id", "another"]] {
        let said = gives_up(&[&["--data-dir", data_dir][..], &flags].concat()).await;
        assert!(said.contains("code:  data-dir-foreign"), "{said}");
        assert!(said.contains("next:"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_of_one_id_is_refused() {
    let mut cluster = cluster!(ClusterOptions { members: 3, agents: 1, ..ClusterOptions::default() });
    let leader = cluster.until_members().await;
    let taken = (leader % 3 + 1).to_string();
    let directory = cluster.directory().join("double");
    let (data_dir, token) = (directory.to_str().unwrap(), cluster.token_file());
    let join = ["--join", cluster.member_address(leader), "--token-file", token.to_str().unwrap()];
    let flags = [&["--data-dir", data_dir, "--member-id", &taken][..], &join].concat();
    let said = gives_up(&flags).await;
    assert!(said.contains("code:  member-id-taken") && said.contains("choose another"), "{said}");
    assert_eq!(cluster.until_members().await, leader, "nobody stood for election");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_takes_anothers_name_does_not_get_in_with_its_own_certificate() {
    let cluster = cluster!(ClusterOptions { has_tls: true, agents: 1, ..ClusterOptions::default() });
    let task = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;
    let token = cluster.join_token("liar");
    cluster.make_token("agent", &token).await;
    let folder = cluster.directory().join("liar");
    let start = |cluster: &Cluster| {
        let text = |path: &Path| path.display().to_string();
        let mut command = Command::new(program("muster-agent"));
        command.args(["--coordinator", &cluster.servers(), "--join-token-file", &text(&token)]);
        command.args(["--data-dir", &text(&folder), "--listen", "127.0.0.1:0"]);
        command.args(["--cgroup-parent", &format!("{}-liar", cluster.cgroup_parent())]);
        Daemon::start("liar", command, &cluster.directory().join("liar.log"))
    };
    let mut honest = start(&cluster);
    wait_until("the other agent is in", async || honest.log().contains("the coordinator knows this agent"))
        .await;
    honest.kill();

    std::fs::remove_dir_all(folder.join("checkpoint")).unwrap();
    std::fs::copy(cluster.agent_dir(0).join("agent-id"), folder.join("agent-id")).unwrap();
    let mut liar = start(&cluster);
    wait_until("the liar is refused", async || liar.log().contains("certificate-refused")).await;
    assert!(liar.log().contains("remove that folder, and join with a token"), "{}", liar.log_tail());
    if liar.is_alive() {
        liar.kill();
    }
    Residue { cgroup_parent: format!("{}-liar", cluster.cgroup_parent()), directory: folder.clone() }.sweep();
    assert_eq!(cluster.task(&task).await.state(), TaskState::Running);
    cluster.finish().await;
}

/// What a connection may begin with and never end.
const HALVES: &[(&str, &[u8])] = &[
    ("half a request of HTTP/1.1", b"POST /muster.operator.v1.Operator/Run HTTP/1.1\r\nHost: x\r\n"),
    ("half a preface of HTTP/2", b"PRI * HTTP/2.0\r\n"),
    // A settings frame, and the head of a headers frame of 100 bytes with 3 of them.
    (
        "half a frame of HTTP/2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x64\x01\x04\0\0\0\x01abc",
    ),
    ("nothing", b""),
];

#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_holds_nobody_up_and_is_hung_up_on() {
    let mut cluster = cluster!();
    let address = cluster.address().to_owned();
    let mut sockets = Vec::new();
    for (what, half) in HALVES.iter().cycle().take(200) {
        let mut socket = TcpStream::connect(&address).unwrap();
        socket.write_all(half).unwrap();
        sockets.push((what, socket));
    }
    assert!(get(&address, "/health").0.starts_with("HTTP/1.1 200"));
    let task = cluster.run(script("exit 0"), 1).await.remove(0);
    assert_eq!(cluster.until_released(&task).await.state(), TaskState::Finished);
    // A request has 15 s to come; a connection that answers no ping for 40 s is over.
    let began = Instant::now();
    let hung_up = tokio::task::spawn_blocking(move || {
        for (what, mut socket) in sockets {
            socket.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
            let mut said = Vec::new();
            match socket.read_to_end(&mut said) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(error) => panic!("{what} is still waited for: {error}"),
            }
        }
    });
    hung_up.await.unwrap();
    println!("all 200 were hung up on within {:.0} s", began.elapsed().as_secs_f64());
    cluster.coordinator.assert_alive();
    cluster.finish().await;
}

/// Requests that are under way at once, and how many there are.
const FLOOD_WIDTH: usize = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_answered_or_refused_and_others_are_served() {
    let mut cluster = cluster!();
    let connections: Vec<_> = (0..8).map(|_| cluster.connection()).collect();
    let flood: Vec<_> = (0..FLOOD_WIDTH)
        .map(|number| {
            let mut operator = connections[number % connections.len()].operator();
            tokio::spawn(async move { operator.list_tasks(ListTasksRequest::default()).await.map(drop) })
        })
        .collect();
    // Another one, meanwhile.
    let task = cluster.run(script("exit 0"), 1).await.remove(0);
    assert_eq!(cluster.until_released(&task).await.state(), TaskState::Finished);
    let mut refused = 0;
    for request in flood {
        match tokio::time::timeout(patience(), request).await.expect("each is answered").unwrap() {
            Ok(()) => {}
            Err(status) if status.code() == Code::ResourceExhausted => refused += 1,
            Err(status) => panic!("{status:?}"),
        }
    }
    println!("{refused} of {FLOOD_WIDTH} requests were told to come again");
    cluster.coordinator.assert_alive();
    assert!(get(cluster.address(), "/health").0.starts_with("HTTP/1.1 200"));
    cluster.finish().await;
}
