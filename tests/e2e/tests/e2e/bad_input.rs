//! Garbage in, a clear no out, and nothing changed.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use harness::{Cluster, program};
use muster_client::{
    Event, Framework, FrameworkOptions, new_request_id,
    operator::{GetTaskRequest, RunRequest},
    scheduler::{
        AcceptRequest, AcknowledgeRequest, Caller, Cursor, DeclineRequest, Demand, FrameworkInfo,
        KillRequest, Launch, Operation, SubscribeRequest, operation,
    },
    types::{PortRange, Reason, Resources, TaskSpec, TaskState},
};
use tonic::{Code, Status};

use crate::{cluster, metrics::get, script};

/// The stable code of a refusal.
fn code(status: &Status) -> String {
    let code = status.metadata().get("muster-code").map(|code| code.to_str().unwrap().to_owned());
    code.unwrap_or_else(|| panic!("no muster-code: {status:?}"))
}

async fn refused_run(cluster: &Cluster, spec: TaskSpec) -> Status {
    let request = RunRequest { request_id: new_request_id(), spec: Some(spec), count: Some(1) };
    cluster.operator().run(request).await.expect_err("it should be refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_specs_are_refused_and_leave_nothing() {
    let cluster = cluster!();
    let good = script("true");
    let with = |resources: Resources| TaskSpec { resources: Some(resources), ..good.clone() };
    let small = Resources { cpus_milli: 10, mem_mib: 16, ..Resources::default() };
    let bad = [
        ("no resources", TaskSpec { resources: None, ..good.clone() }),
        ("no cpus", with(Resources { cpus_milli: 0, ..small.clone() })),
        ("absurd cpus", with(Resources { cpus_milli: u64::MAX, ..small.clone() })),
        ("absurd memory", with(Resources { mem_mib: u64::MAX, ..small.clone() })),
        ("port 0", with(Resources { ports: vec![PortRange { first: 0, last: 1 }], ..small.clone() })),
        (
            "a range backwards",
            with(Resources { ports: vec![PortRange { first: 9, last: 1 }], ..small.clone() }),
        ),
        (
            "port 70000",
            with(Resources { ports: vec![PortRange { first: 70_000, last: 70_000 }], ..small.clone() }),
        ),
        ("no command", TaskSpec { command: vec![], ..good.clone() }),
        ("an empty command", TaskSpec { command: vec![String::new()], ..good.clone() }),
        ("a NUL in the command", TaskSpec { command: vec!["a\0b".to_owned()], ..good.clone() }),
        ("a variable with =", TaskSpec { env: [("A=B".to_owned(), "c".to_owned())].into(), ..good.clone() }),
        ("an over-long name", TaskSpec { name: "x".repeat(10_000), ..good.clone() }),
        ("an over-long argument", TaskSpec { command: vec!["x".repeat(1 << 20)], ..good.clone() }),
        ("a path in the id", TaskSpec { task_id: "../../etc/passwd".to_owned(), ..good.clone() }),
        ("a slash in the id", TaskSpec { task_id: "a/b".to_owned(), ..good.clone() }),
        ("an over-long id", TaskSpec { task_id: "x".repeat(300), ..good.clone() }),
        ("a limit below the request", TaskSpec { cpu_limit_milli: Some(1), ..good.clone() }),
        ("a pids limit of 0", TaskSpec { pids_limit: Some(0), ..good.clone() }),
        ("an endless grace", TaskSpec { kill_grace_ms: Some(u64::MAX), ..good.clone() }),
    ];
    for (what, spec) in bad {
        let status = refused_run(&cluster, spec).await;
        println!("{what}: {}", status.message());
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        assert_eq!(code(&status), "invalid-argument", "{what}");
        assert!(status.message().len() > 20, "{what}: {status:?}");
    }
    assert!(cluster.tasks(false).await.is_empty(), "something was left");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_100_mb_is_refused() {
    let cluster = cluster!();
    let huge = TaskSpec { name: "x".repeat(100_000_000), ..script("true") };
    let request = RunRequest { request_id: new_request_id(), spec: Some(huge), count: Some(1) };
    let status = cluster.operator().run(request).await.expect_err("it should be refused");
    println!("100 MB: {status:?}");
    // The connection may be closed before the whole message was sent; either way nothing happened.
    assert!(cluster.tasks(false).await.is_empty());
    assert!(get(cluster.address(), "/health").0.starts_with("HTTP/1.1 200"));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_bytes_disturb_nobody() {
    let mut cluster = cluster!();
    let token = fs::read_to_string(cluster.token_file()).unwrap();
    let long_header = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let bad_grpc = format!(
        "POST /muster.operator.v1.Operator/Run HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/grpc\r\nContent-Length: 9\r\n\r\n\u{1}\u{1}\u{1}\u{1}\u{1}abcd",
        cluster.address(),
        token.trim()
    );
    let pieces: [&[u8]; 5] = [
        b"\0\0\0\0\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        long_header.as_bytes(),
        bad_grpc.as_bytes(),
    ];
    for address in [cluster.address().to_owned(), cluster.agent_address(0).to_owned()] {
        for piece in pieces {
            let mut socket = TcpStream::connect(&address).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            // The other side may close at any byte; that it lives on is what counts.
            let _ = socket.write_all(piece);
            let _ = socket.read_to_end(&mut Vec::new());
        }
        assert!(get(&address, "/health").0.starts_with("HTTP/1.1 200"), "{address}");
    }
    cluster.coordinator.assert_alive();
    cluster.agents[0].assert_alive();
    cluster.finish().await;
}

async fn framework(cluster: &Cluster, name: &str) -> Framework {
    let info = FrameworkInfo { name: name.to_owned(), ..FrameworkInfo::default() };
    let options = FrameworkOptions { info, ..FrameworkOptions::default() };
    Framework::subscribe(&cluster.connection(), options).await.unwrap()
}

async fn offer(framework: &mut Framework, shape: Resources) -> muster_client::scheduler::Offer {
    framework.set_demand(vec![Demand { shape: Some(shape), count: 1, constraints: vec![] }]).await.unwrap();
    loop {
        if let Event::Offers(mut offers) = framework.next().await.unwrap() {
            return offers.remove(0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_are_for_one_framework_once() {
    let cluster = cluster!();
    let shape = Resources {
        cpus_milli: 100,
        mem_mib: 32,
        ports: vec![PortRange { first: 1, last: 2 }],
        ..Resources::default()
    };
    let mut ours = framework(&cluster, "ours").await;
    let mut theirs = framework(&cluster, "theirs").await;
    let offer = offer(&mut ours, shape.clone()).await;
    let id = vec![offer.offer_id.clone()];
    let held = offer.resources.clone().unwrap();
    let task = |id: &str, resources: Resources| TaskSpec {
        task_id: id.to_owned(),
        resources: Some(resources),
        ..script("true")
    };
    let refusal = |error: muster_client::ClientError| match error {
        muster_client::ClientError::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    };

    let stolen = theirs.accept(id.clone(), vec![task("stolen", held.clone())], None).await.unwrap_err();
    assert_eq!(refusal(stolen), "offer-not-yours");
    let invented =
        ours.accept(vec!["o-1-99999".to_owned()], vec![task("x", held.clone())], None).await.unwrap_err();
    assert_eq!(refusal(invented), "offer-unknown");

    let first = held.ports[0].first;
    let outside = Resources { ports: vec![PortRange { first: 80, last: 80 }], ..held.clone() };
    let more = Resources { cpus_milli: held.cpus_milli + 1, ports: vec![], ..held.clone() };
    let fits = Resources {
        ports: vec![PortRange { first, last: first }],
        cpus_milli: 50,
        mem_mib: 16,
        ..Resources::default()
    };
    let tasks = vec![
        task("outside", outside),
        task("more", more),
        task("fits", fits.clone()),
        task("fits", fits.clone()),
    ];
    let results = ours.accept(id.clone(), tasks, None).await.unwrap();
    let codes: Vec<_> =
        results.iter().map(|result| result.refusal.as_ref().map(|refusal| refusal.code.as_str())).collect();
    assert_eq!(codes, [Some("exceeds-offer"), Some("exceeds-offer"), None, Some("task-id-taken")]);

    let again = ours.accept(id, vec![task("again", fits)], None).await.unwrap_err();
    assert_eq!(refusal(again), "offer-unknown");
    let others = theirs.kill("fits").await.unwrap_err();
    assert_eq!(refusal(others), "task-not-yours");
    assert_eq!(cluster.until_released("fits").await.state(), TaskState::Finished);
    ours.teardown().await.unwrap();
    theirs.teardown().await.unwrap();
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_expired_is_void() {
    let mut options = harness::ClusterOptions::default();
    options.coordinator_flags.extend(["--offer-lease".to_owned(), "300ms".to_owned()]);
    let cluster = cluster!(options);
    let mut framework = framework(&cluster, "slow").await;
    let shape = Resources { cpus_milli: 100, mem_mib: 32, ..Resources::default() };
    let offer = offer(&mut framework, shape.clone()).await;
    loop {
        match framework.next().await.unwrap() {
            Event::Rescinded { offer_id, .. } if offer_id == offer.offer_id => break,
            _ => {}
        }
    }
    let spec = TaskSpec { task_id: "late".to_owned(), resources: Some(shape), ..script("true") };
    let late = framework.accept(vec![offer.offer_id], vec![spec], None).await.unwrap_err();
    assert_eq!(late.code(), "offer-unknown");
    framework.teardown().await.unwrap();
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_stale_callers_are_refused_by_name() {
    let cluster = cluster!();
    let mut scheduler = cluster.connection().scheduler();
    let caller = |framework: &str, subscription: &str| {
        Some(Caller {
            framework_id: framework.to_owned(),
            subscription_id: subscription.to_owned(),
            request_id: new_request_id(),
        })
    };
    let kill = KillRequest { caller: caller("nobody", "nothing"), task_id: "x".to_owned(), grace_ms: None };
    assert_eq!(code(&scheduler.kill(kill).await.unwrap_err()), "framework-unknown");
    let resume = SubscribeRequest {
        info: Some(FrameworkInfo { name: "x".to_owned(), ..FrameworkInfo::default() }),
        framework_id: "never-was".to_owned(),
        cursor: None,
        request_id: new_request_id(),
    };
    assert_eq!(code(&scheduler.subscribe(resume).await.unwrap_err()), "framework-unknown");
    let traversal = KillRequest { caller: caller("../../x", "y"), task_id: "x".to_owned(), grace_ms: None };
    assert_eq!(code(&scheduler.kill(traversal).await.unwrap_err()), "invalid-argument");
    let none = DeclineRequest { caller: None, offer_ids: vec![], refuse_ms: None };
    assert_eq!(code(&scheduler.decline(none).await.unwrap_err()), "invalid-argument");

    // The same id again: the older instance is told and fenced.
    let mut older = framework(&cluster, "twice").await;
    let options = FrameworkOptions {
        info: FrameworkInfo { name: "twice".to_owned(), ..FrameworkInfo::default() },
        framework_id: Some(older.id().to_owned()),
        cursor: None,
    };
    let newer = Framework::subscribe(&cluster.connection(), options).await.unwrap();
    let told = loop {
        match older.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(told.code(), "subscription-replaced");
    assert_eq!(older.kill("x").await.unwrap_err().code(), "subscription-replaced");
    newer.teardown().await.unwrap();

    let future = AcknowledgeRequest {
        caller: caller("run", "x"),
        cursor: Some(Cursor { index: u64::MAX, ordinal: 0 }),
    };
    assert!(scheduler.acknowledge(future).await.is_err());
    let launch =
        Operation { operation: Some(operation::Operation::Launch(Launch { tasks: vec![script("true")] })) };
    let accept = AcceptRequest {
        caller: caller("run", "x"),
        offer_ids: vec!["x".to_owned()],
        operations: vec![launch],
        refuse_ms: None,
    };
    assert!(scheduler.accept(accept).await.is_err(), "nobody may speak for a built-in framework");
    let unknown =
        cluster.operator().get_task(GetTaskRequest { task_id: "nope".to_owned() }).await.unwrap_err();
    assert_eq!((unknown.code(), code(&unknown).as_str()), (Code::NotFound, "task-unknown"));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_or_command_that_is_not_there_fails_with_its_reason() {
    let cluster = cluster!();
    let stranger = TaskSpec { user: Some("no-such-user".to_owned()), ..script("true") };
    let id = cluster.run(stranger, 1).await.remove(0);
    let status = cluster.until_released(&id).await.status.unwrap();
    assert_eq!((status.state(), status.reason()), (TaskState::Failed, Reason::UserRefused), "{status:?}");
    assert!(status.message.contains("no-such-user"), "{status:?}");
    for command in ["no-such-command", "/etc/passwd", "/"] {
        let id = cluster.run(harness::run_spec(&[command]), 1).await.remove(0);
        let status = cluster.until_released(&id).await.status.unwrap();
        assert_eq!(
            (status.state(), status.reason()),
            (TaskState::Failed, Reason::CommandNotExecutable),
            "{status:?}"
        );
        assert!(status.message.contains(command), "{status:?}");
    }
    cluster.finish().await;
}

/// Runs a daemon that should refuse to start; gives what it said.
async fn refuses_to_start(name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program(name));
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it started");
    println!("{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_cannot_start_say_why() {
    let cluster = cluster!();
    let elsewhere = cluster.directory().join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    let said =
        refuses_to_start("muster-coordinator", &["--listen", cluster.address(), "--data-dir", elsewhere])
            .await;
    assert!(said.contains(cluster.address()) && said.contains("in use"), "{said}");
    let data = cluster.directory().join("coordinator");
    let said = refuses_to_start(
        "muster-coordinator",
        &["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()],
    )
    .await;
    assert!(said.contains("in use"), "{said}");
    let said =
        refuses_to_start("muster-coordinator", &["--listen", "192.0.2.1:5050", "--data-dir", elsewhere])
            .await;
    assert!(said.contains("nothing is served there without TLS"), "{said}");
    let said =
        refuses_to_start("muster-coordinator", &["--listen", "0.0.0.0:5050", "--data-dir", elsewhere]).await;
    assert!(said.contains("the others must know one that reaches it"), "{said}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_cluster_is_refused_for_good() {
    let mut first = cluster!();
    let second = Cluster::start(harness::ClusterOptions::default()).await;
    first.agents[0].kill();
    let log = first.directory().join("stray.log");
    let arguments = [
        "--coordinator".to_owned(),
        format!("http://{}", second.address()),
        "--token-file".to_owned(),
        second.token_file().display().to_string(),
        "--data-dir".to_owned(),
        first.agent_dir(0).display().to_string(),
        "--listen".to_owned(),
        first.agent_address(0).to_owned(),
        "--cgroup-parent".to_owned(),
        first.cgroup_parent().to_owned(),
        "--bpf-dir".to_owned(),
        first.directory().join("bpf-0").display().to_string(),
    ];
    let mut command = Command::new(program("muster-agent"));
    command.args(arguments);
    let mut stray = harness::Daemon::start("stray agent", command, &log);
    harness::wait_until("the stray agent is refused", async || stray.log().contains("cluster-foreign")).await;
    assert!(second.tasks(false).await.is_empty());
    if stray.is_alive() {
        stray.kill();
    }
    first.restart_agent(0);
    first.until_agents().await;
    first.finish().await;
    second.finish().await;
}
