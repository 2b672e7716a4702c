//! The coordinator as callers see it: a real port, a real log, a single member in a directory of its own.
//!
//! Agents are played by the tests over the agent API. What real agents do is told in `tests/e2e`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says what it skips"
)]

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use coordinator::{
    config::Config,
    daemon::{Daemon, RunError},
};
use proto::{
    agent::v1::{self as agent, agent_session_client::AgentSessionClient},
    operator::v1::{self as operator, operator_client::OperatorClient},
    scheduler::v1::{self as scheduler, scheduler_client::SchedulerClient},
    types::v1::{self as types, TaskState},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::Channel,
};

#[path = "api/resync.rs"]
mod resync;

/// One patience for the whole suite.
const PATIENCE: Duration = Duration::from_secs(30);

struct Coordinator {
    address: SocketAddr,
    token: String,
    socket: PathBuf,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    config: Config,
    _dir: Option<tempfile::TempDir>,
}

type Shown = InterceptedService<Channel, ShowToken>;

#[derive(Clone)]
struct ShowToken(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for ShowToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Coordinator {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: dir.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        Self::start_with(config, Some(dir)).await
    }

    async fn start_with(config: Config, dir: Option<tempfile::TempDir>) -> Self {
        let daemon = Daemon::start(&config).await.unwrap();
        let stop = CancellationToken::new();
        let coordinator = Self {
            address: daemon.address(),
            token: daemon.token().reveal().to_owned(),
            socket: daemon.socket().to_owned(),
            stop: stop.clone(),
            running: tokio::spawn(daemon.run(stop)),
            config,
            _dir: dir,
        };
        coordinator
            .until("the member leads", async || {
                coordinator
                    .operator()
                    .get_status(operator::GetStatusRequest {})
                    .await
                    .unwrap()
                    .into_inner()
                    .leader_id
                    != 0
            })
            .await;
        coordinator
    }

    /// Stops it, and gives what a second start needs.
    async fn stop(self) -> (Config, Option<tempfile::TempDir>) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap();
        (self.config, self._dir)
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let all = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "waited in vain until {what}");
    }

    fn shown(&self, token: Option<&str>) -> Shown {
        let channel = Channel::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        let token = token.map(|token| format!("Bearer {token}").parse().unwrap());
        InterceptedService::new(channel, ShowToken(token))
    }

    fn operator(&self) -> OperatorClient<Shown> {
        OperatorClient::new(self.shown(Some(&self.token)))
    }

    fn scheduler(&self) -> SchedulerClient<Shown> {
        SchedulerClient::new(self.shown(Some(&self.token)))
    }

    async fn status(&self) -> operator::GetStatusResponse {
        self.operator().get_status(operator::GetStatusRequest {}).await.unwrap().into_inner()
    }

    /// Whether anything was left behind by calls that should leave nothing.
    async fn assert_untouched(&self, before: &operator::GetStatusResponse) {
        let now = self.status().await;
        assert_eq!(now.tasks, before.tasks);
        assert_eq!(now.frameworks, before.frameworks);
        assert_eq!(now.agents_total, before.agents_total);
    }

    fn http(&self, request: &str) -> String {
        exchange(TcpStream::connect(self.address).unwrap(), request.as_bytes())
    }

    async fn subscribe(
        &self,
        info: scheduler::SubscribeRequest,
    ) -> (String, String, Streaming<scheduler::Event>) {
        let mut events = self.scheduler().subscribe(info).await.unwrap().into_inner();
        let first = events.message().await.unwrap().unwrap();
        match first.event.unwrap() {
            scheduler::event::Event::Subscribed(subscribed) => {
                (subscribed.framework_id, subscribed.subscription_id, events)
            }
            other => panic!("the first event is {other:?}"),
        }
    }
}

fn exchange(mut stream: impl std::io::Read + std::io::Write, request: &[u8]) -> String {
    // The other side may refuse before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn code(status: &Status) -> String {
    match status.metadata().get("muster-code") {
        Some(code) => code.to_str().unwrap().to_owned(),
        None => panic!("no code: {status:?}"),
    }
}

fn spec(id: &str) -> types::TaskSpec {
    types::TaskSpec {
        task_id: id.to_owned(),
        resources: Some(types::Resources { cpus_milli: 100, mem_mib: 64, ..types::Resources::default() }),
        command: vec!["true".to_owned()],
        ..types::TaskSpec::default()
    }
}

fn run(request: &str, spec: types::TaskSpec) -> operator::RunRequest {
    operator::RunRequest { request_id: request.to_owned(), spec: Some(spec), count: None }
}

fn framework(name: &str) -> scheduler::SubscribeRequest {
    scheduler::SubscribeRequest {
        info: Some(scheduler::FrameworkInfo {
            name: name.to_owned(),
            role: String::new(),
            failover_timeout_ms: None,
        }),
        framework_id: String::new(),
        cursor: None,
        request_id: format!("subscribe-{name}"),
    }
}

/// An agent played by a test.
struct PlayedAgent {
    say: mpsc::Sender<agent::FromAgent>,
    hear: Streaming<agent::ToAgent>,
    epoch: u64,
}

impl PlayedAgent {
    async fn attach(coordinator: &Coordinator, id: &str) -> Self {
        let (say, said) = mpsc::channel(16);
        say.send(from_agent(agent::from_agent::Message::Hello(hello(id)))).await.unwrap();
        let mut client = AgentSessionClient::new(coordinator.shown(Some(&coordinator.token)));
        let mut hear = client.attach(ReceiverStream::new(said)).await.unwrap().into_inner();
        let first = hear.message().await.unwrap().unwrap();
        let Some(agent::to_agent::Message::Welcome(welcome)) = first.message else {
            panic!("the first message is {first:?}")
        };
        Self { say, hear, epoch: welcome.epoch }
    }

    async fn next(&mut self) -> agent::to_agent::Message {
        let message = tokio::time::timeout(PATIENCE, self.hear.message()).await.unwrap();
        message.unwrap().unwrap().message.unwrap()
    }

    async fn launched(&mut self) -> agent::Assignment {
        loop {
            if let agent::to_agent::Message::Launch(mut launch) = self.next().await {
                return launch.assignments.remove(0);
            }
        }
    }

    async fn report(
        &self,
        assignment: &agent::Assignment,
        state: TaskState,
        sequence: u64,
        is_released: bool,
    ) {
        let spec = assignment.spec.clone().unwrap();
        let status = types::TaskStatus {
            task_id: spec.task_id,
            framework_id: assignment.framework_id.clone(),
            agent_id: "a1".to_owned(),
            state: state.into(),
            at_us: 1,
            sequence,
            is_released,
            ..types::TaskStatus::default()
        };
        let updates = agent::StatusUpdates { statuses: vec![status] };
        self.say.send(from_agent(agent::from_agent::Message::Updates(updates))).await.unwrap();
    }
}

fn from_agent(message: agent::from_agent::Message) -> agent::FromAgent {
    agent::FromAgent { message: Some(message) }
}

fn hello(id: &str) -> agent::Hello {
    agent::Hello {
        agent_id: id.to_owned(),
        hostname: "played".to_owned(),
        boot_id: "boot-1".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        version: "0".to_owned(),
        total: Some(types::Resources {
            cpus_milli: 2000,
            mem_mib: 4096,
            ports: vec![types::PortRange { first: 31000, last: 31010 }],
            ..types::Resources::default()
        }),
        ..agent::Hello::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_health_and_metrics_answers_without_the_credential() {
    let coordinator = Coordinator::start().await;
    for token in [None, Some("00"), Some("")] {
        let refused = OperatorClient::new(coordinator.shown(token))
            .get_status(operator::GetStatusRequest {})
            .await
            .unwrap_err();
        assert_eq!((refused.code(), code(&refused).as_str()), (Code::Unauthenticated, "unauthenticated"));
    }
    let mut client = AgentSessionClient::new(coordinator.shown(None));
    let refused = client.attach(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Reflection and health over gRPC are no exceptions.
    for path in ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.health.v1.Health/Check"]
    {
        let answer = coordinator.http(&format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        ));
        assert!(answer.contains("grpc-status: 16"), "{path}: {answer}");
    }
    for (path, status) in
        [("/health", 200), ("/metrics", 200), ("/", 401), ("/token", 401), ("/../token", 401)]
    {
        let answer =
            coordinator.http(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_and_rebound_names_are_refused_even_with_the_credential() {
    let coordinator = Coordinator::start().await;
    let (token, port) = (&coordinator.token, coordinator.address.port());
    let get = |headers: &str| {
        coordinator.http(&format!(
            "GET / HTTP/1.1\r\n{headers}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        ))
    };
    let fine = get(&format!("Host: localhost:{port}"));
    assert!(fine.starts_with("HTTP/1.1 200") && fine.contains("Muster coordinator"), "{fine}");
    for headers in [
        "Host: evil.example".to_owned(),
        format!("Host: 127.0.0.1:{port}\r\nOrigin: http://evil.example"),
        format!("Host: 127.0.0.1:{port}\r\nOrigin: null"),
        format!("Host: 127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site"),
    ] {
        let answer = get(&headers);
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("origin-refused"),
            "{headers}: {answer}"
        );
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_answers_its_owner_without_a_token() {
    let coordinator = Coordinator::start().await;
    let stream = UnixStream::connect(&coordinator.socket).unwrap();
    let answer = exchange(stream, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let socket = coordinator.socket.clone();
    coordinator.stop().await;
    assert!(!socket.exists(), "the socket is removed at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_in_the_format_that_was_asked_for() {
    let coordinator = Coordinator::start().await;
    let get = |accept: &str| {
        coordinator.http(&format!(
            "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        ))
    };
    let openmetrics = get("application/openmetrics-text; version=1.0.0");
    assert!(
        openmetrics.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{openmetrics}"
    );
    assert!(openmetrics.ends_with("# EOF\n"), "{openmetrics}");
    assert!(openmetrics.contains("# TYPE muster_coordinator_offers_made counter"), "{openmetrics}");
    let classic = get("*/*");
    assert!(classic.contains("content-type: text/plain; version=0.0.4"), "{classic}");
    assert!(classic.contains("# TYPE muster_coordinator_offers_made_total counter"), "{classic}");
    assert!(classic.contains("muster_coordinator_is_leader 1"), "{classic}");
    assert!(classic.contains("muster_coordinator_tasks{state=\"running\"} 0"), "{classic}");
    let page = classic.split_once("\r\n\r\n").unwrap().1.to_owned();
    let checked = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    match checked {
        Err(_) => println!("skipped: promtool is not installed"),
        Ok(mut promtool) => {
            promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
            let output = promtool.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{said}\n{page}");
        }
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_names_the_field_and_changes_nothing() {
    let coordinator = Coordinator::start().await;
    let before = coordinator.status().await;
    let with = |change: &dyn Fn(&mut types::TaskSpec)| {
        let mut spec = spec("a");
        change(&mut spec);
        run("r1", spec)
    };
    let resources =
        |change: &dyn Fn(&mut types::Resources)| with(&|spec| change(spec.resources.as_mut().unwrap()));
    let cases = [
        ("task_id", with(&|spec| spec.task_id = "../../etc/passwd".to_owned())),
        ("task_id", with(&|spec| spec.task_id = "x".repeat(300))),
        ("request_id", run("", spec("a"))),
        ("request_id", run("a/b", spec("a"))),
        ("spec", operator::RunRequest { spec: None, ..run("r1", spec("a")) }),
        ("count", operator::RunRequest { count: Some(0), ..run("r1", spec("a")) }),
        ("cpus", resources(&|resources| resources.cpus_milli = u64::MAX)),
        ("mem", resources(&|resources| resources.mem_mib = u64::MAX)),
        ("gpus", resources(&|resources| resources.gpus = u32::MAX)),
        ("ports[0]", resources(&|resources| resources.ports = vec![types::PortRange { first: 9, last: 1 }])),
        ("scalars", resources(&|resources| resources.scalars = BTreeMap::from([("../x".to_owned(), 1)]))),
        ("command", with(&|spec| spec.command = Vec::new())),
        ("kill_grace_ms", with(&|spec| spec.kill_grace_ms = Some(u64::MAX))),
        ("name", with(&|spec| spec.name = "x".repeat(10_000))),
    ];
    for (field, request) in cases {
        let refused = coordinator.operator().run(request).await.unwrap_err();
        assert_eq!((refused.code(), code(&refused).as_str()), (Code::InvalidArgument, "invalid-argument"));
        assert!(refused.message().contains(field), "{field}: {}", refused.message());
        assert!(refused.message().starts_with("can't run tasks: "), "{}", refused.message());
    }
    coordinator.assert_untouched(&before).await;
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_100_mb_is_refused_and_the_port_lives_on() {
    let coordinator = Coordinator::start().await;
    let before = coordinator.status().await;
    let mut huge = spec("a");
    huge.name = "x".repeat(100_000_000);
    let refused = coordinator.operator().run(run("r1", huge)).await.unwrap_err();
    // The connection may end before all of it was sent; then the library made the status.
    if refused.metadata().contains_key("muster-code") {
        assert_eq!(code(&refused), "invalid-argument");
        assert!(refused.message().contains("too large"), "{refused:?}");
    }
    coordinator.assert_untouched(&before).await;
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_and_the_port_lives_on() {
    let coordinator = Coordinator::start().await;
    let before = coordinator.status().await;
    let (token, address) = (&coordinator.token, coordinator.address);
    let grpc = |path: &str, body: &[u8]| {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/grpc\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        exchange(TcpStream::connect(address).unwrap(), &request)
    };
    let run = "/muster.operator.v1.Operator/Run";
    let framed = |message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0u8], &length[..], message].concat()
    };
    for (what, answer) in [
        ("no protobuf", grpc(run, &framed(b"\xff\xff\xff\xff"))),
        // Field 1, two bytes that are no UTF-8.
        ("invalid UTF-8", grpc(run, &framed(b"\x0a\x02\xff\xfe"))),
        ("a length that lies", grpc(run, b"\0\xff\xff\xff\xff")),
        ("a compression flag", grpc(run, b"\x01\0\0\0\x01x")),
    ] {
        assert!(answer.contains("muster-code: invalid-argument"), "{what}: {answer}");
        assert!(answer.contains("grpc-status: 3"), "{what}: {answer}");
    }
    let answer = grpc("/muster.operator.v1.Operator/Nothing", &framed(b""));
    assert!(answer.contains("grpc-status: 12") && answer.contains("muster-code"), "{answer}");
    for garbage in [
        b"\0\0\0\0\0\0\0\0".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'y'; 1 << 20], b"\r\n\r\n"].concat(),
    ] {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        exchange(stream, garbage);
    }
    coordinator.assert_untouched(&before).await;
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_replaced_subscriptions_are_refused_by_name() {
    let coordinator = Coordinator::start().await;
    let mut scheduler = coordinator.scheduler();
    let caller = |framework: &str, subscription: &str| {
        Some(scheduler::Caller {
            framework_id: framework.to_owned(),
            subscription_id: subscription.to_owned(),
            request_id: String::new(),
        })
    };
    let suppress = |framework: &str, subscription: &str| scheduler::SuppressRequest {
        caller: caller(framework, subscription),
    };
    let unknown = scheduler.suppress(suppress("nobody", "s1")).await.unwrap_err();
    assert_eq!((unknown.code(), code(&unknown).as_str()), (Code::NotFound, "framework-unknown"));
    let none = scheduler.suppress(scheduler::SuppressRequest { caller: None }).await.unwrap_err();
    assert_eq!(code(&none), "invalid-argument");

    let (id, older, mut events) = coordinator.subscribe(framework("twice")).await;
    scheduler.suppress(suppress(&id, &older)).await.unwrap();
    let again = scheduler::SubscribeRequest { framework_id: id.clone(), ..framework("twice") };
    let (same, newer, _events) = coordinator.subscribe(again).await;
    assert_eq!(same, id);
    let stale = scheduler.suppress(suppress(&id, &older)).await.unwrap_err();
    assert_eq!(code(&stale), "subscription-replaced");
    scheduler.suppress(suppress(&id, &newer)).await.unwrap();
    loop {
        match tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap() {
            Some(event) => match event.event.unwrap() {
                scheduler::event::Event::Replaced(_) => break,
                scheduler::event::Event::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            },
            None => panic!("the older stream ended without a word"),
        }
    }
    assert!(events.message().await.unwrap().is_none(), "nothing comes after Replaced");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_run_watched_read_and_remembered() {
    let coordinator = Coordinator::start().await;
    let mut agent = PlayedAgent::attach(&coordinator, "a1").await;
    assert!(agent.epoch > 0);
    let mut operator = coordinator.operator();
    let ids = operator.run(run("r1", spec("hello"))).await.unwrap().into_inner().task_ids;
    assert_eq!(ids, ["hello"]);
    let again = operator.run(run("r1", spec("hello"))).await.unwrap().into_inner().task_ids;
    assert_eq!(again, ids, "a repeat gets the first answer");
    let taken = operator.run(run("r2", spec("hello"))).await.unwrap_err();
    assert_eq!((taken.code(), code(&taken).as_str()), (Code::AlreadyExists, "task-id-taken"));

    let watch = operator::WatchTasksRequest { task_ids: ids.clone() };
    let mut views = operator.watch_tasks(watch).await.unwrap().into_inner();
    let assignment = agent.launched().await;
    agent.report(&assignment, TaskState::Running, 1, false).await;
    let read = operator::ReadOutputRequest {
        task_id: "hello".to_owned(),
        stream: operator::OutputStream::Stdout.into(),
        offset: 0,
        follow: true,
        tail_bytes: None,
        newer_than_ms: None,
        process: "web".to_owned(),
    };
    let mut output = operator.read_output(read).await.unwrap().into_inner();
    let mut read = Vec::new();
    let answers = [("hi ", false), ("there", true)];
    let reading = async {
        while let Some(chunk) = output.message().await.unwrap() {
            assert_eq!(chunk.offset, read.len() as u64);
            read.extend_from_slice(&chunk.data);
        }
    };
    let answering = async {
        let mut offset = 0;
        for (data, is_end) in answers {
            let asked = loop {
                if let agent::to_agent::Message::ReadOutput(asked) = agent.next().await {
                    break asked;
                }
            };
            assert_eq!((asked.task_id.as_str(), asked.stream, asked.offset), ("hello", 1, offset));
            assert_eq!(asked.process, "web");
            let answer = agent::OutputAnswer {
                request: asked.request,
                offset,
                data: data.as_bytes().to_vec().into(),
                is_end,
                error: String::new(),
            };
            offset += data.len() as u64;
            agent.say.send(from_agent(agent::from_agent::Message::Output(answer))).await.unwrap();
        }
    };
    tokio::join!(reading, answering);
    assert_eq!(read, b"hi there");

    agent.report(&assignment, TaskState::Finished, 2, true).await;
    let mut last = None;
    while let Some(view) = tokio::time::timeout(PATIENCE, views.message()).await.unwrap().unwrap() {
        last = Some(view);
    }
    let last = last.unwrap();
    assert_eq!((last.state(), last.is_released), (TaskState::Finished, true), "the watch ends with the task");

    let page = operator::ListTasksRequest { page_size: 1, ..operator::ListTasksRequest::default() };
    let page = operator.list_tasks(page).await.unwrap().into_inner();
    assert_eq!((page.tasks.len(), page.next_page_token.as_str()), (1, ""));

    // Everything is there after a restart.
    let (config, dir) = coordinator.stop().await;
    let coordinator = Coordinator::start_with(config, dir).await;
    let task = operator::GetTaskRequest { task_id: "hello".to_owned() };
    let view = coordinator.operator().get_task(task).await.unwrap().into_inner();
    assert_eq!(view.state(), TaskState::Finished);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_speaks_nonsense_loses_its_session() {
    let coordinator = Coordinator::start().await;
    let mut agent = PlayedAgent::attach(&coordinator, "a1").await;
    let again = agent::from_agent::Message::Hello(hello("a1"));
    agent.say.send(from_agent(again)).await.unwrap();
    let error = loop {
        match tokio::time::timeout(PATIENCE, agent.hear.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the session ended without a word"),
            Err(error) => break error,
        }
    };
    assert_eq!(code(&error), "invalid-argument");
    let stranger = agent::Hello { cluster_id: "another".to_owned(), ..hello("a2") };
    let (say, said) = mpsc::channel(1);
    say.send(from_agent(agent::from_agent::Message::Hello(stranger))).await.unwrap();
    let mut client = AgentSessionClient::new(coordinator.shown(Some(&coordinator.token)));
    let refused = match client.attach(ReceiverStream::new(said)).await {
        Err(status) => code(&status),
        Ok(stream) => match stream.into_inner().message().await.unwrap().unwrap().message.unwrap() {
            agent::to_agent::Message::Refused(refused) => refused.code,
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(refused, "cluster-foreign");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_or_reading_a_task_that_is_not_there_is_refused() {
    let coordinator = Coordinator::start().await;
    let mut operator = coordinator.operator();
    let watch = operator::WatchTasksRequest { task_ids: vec!["nope".to_owned()] };
    let refused = operator.watch_tasks(watch).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::NotFound, "task-unknown"));
    let read = operator::ReadOutputRequest {
        task_id: "nope".to_owned(),
        stream: 1,
        ..operator::ReadOutputRequest::default()
    };
    assert_eq!(code(&operator.read_output(read).await.unwrap_err()), "task-unknown");
    let show = operator::GetAgentRequest { agent_id: "nope".to_owned() };
    assert_eq!(code(&operator.get_agent(show).await.unwrap_err()), "agent-unknown");
    let teardown =
        operator::TeardownFrameworkRequest { request_id: "r".to_owned(), framework_id: "run".to_owned() };
    assert_eq!(code(&operator.teardown_framework(teardown).await.unwrap_err()), "framework-built-in");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_task_says_why_and_can_be_killed() {
    let coordinator = Coordinator::start().await;
    let mut operator = coordinator.operator();
    operator.run(run("r1", spec("waits"))).await.unwrap();
    let task = operator::GetTaskRequest { task_id: "waits".to_owned() };
    coordinator
        .until("the reason is known", async || {
            let view = coordinator.operator().get_task(task.clone()).await.unwrap().into_inner();
            assert_eq!(view.state(), TaskState::Waiting);
            !view.waiting_because.is_empty()
        })
        .await;
    let watch = operator::WatchTasksRequest { task_ids: vec!["waits".to_owned()] };
    let mut views = operator.watch_tasks(watch).await.unwrap().into_inner();
    assert_eq!(views.message().await.unwrap().unwrap().state(), TaskState::Waiting);
    let kill = operator::KillTaskRequest {
        request_id: "r2".to_owned(),
        task_id: "waits".to_owned(),
        grace_ms: None,
    };
    operator.kill_task(kill).await.unwrap();
    let mut last = None;
    while let Some(view) = tokio::time::timeout(PATIENCE, views.message()).await.unwrap().unwrap() {
        last = Some(view.state());
    }
    assert_eq!(last, Some(TaskState::Killed));
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_a_word_when_the_coordinator_stops() {
    let coordinator = Coordinator::start().await;
    let (_, _, mut events) = coordinator.subscribe(framework("f")).await;
    coordinator.stop().await;
    let error = loop {
        match tokio::time::timeout(PATIENCE, events.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(error) => break error,
        }
    };
    assert_eq!((error.code(), code(&error).as_str()), (Code::Unavailable, "no-leader"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why() {
    let coordinator = Coordinator::start().await;
    let refused = async |config: Config| {
        let error = Daemon::start(&config).await.err().expect("it started");
        (error.code().as_str(), error.next())
    };
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = Config { data_dir: dir.path().join("other"), ..coordinator.config.clone() };
    let taken = Config { listen: coordinator.address, ..elsewhere.clone() };
    assert_eq!(refused(taken).await.0, "port-taken");
    assert_eq!(refused(coordinator.config.clone()).await.0, "data-dir-in-use");
    let deep = Config { socket: Some(dir.path().join("x".repeat(120))), ..elsewhere.clone() };
    assert_eq!(refused(deep).await.0, "socket-unusable");
    let (config, kept) = coordinator.stop().await;
    let foreign = Config { cluster_id: Some("another".parse().unwrap()), ..config.clone() };
    assert_eq!(refused(foreign).await.0, "data-dir-foreign");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(config.token_path(), mode).unwrap();
    assert_eq!(refused(config).await.0, "token-unusable");
    drop(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    let coordinator = Coordinator::start().await;
    let mut agent = PlayedAgent::attach(&coordinator, "a1").await;
    coordinator.operator().run(run("r1", spec("loud"))).await.unwrap();
    let assignment = agent.launched().await;
    agent.report(&assignment, TaskState::Running, 1, false).await;
    let read = operator::ReadOutputRequest {
        task_id: "loud".to_owned(),
        stream: 1,
        follow: true,
        ..operator::ReadOutputRequest::default()
    };
    let output = coordinator.operator().read_output(read).await.unwrap().into_inner();
    // As long as it is asked, the agent has more; the asking must end, because nobody takes what came.
    let mut offset = 0;
    let asked_in_vain = async {
        loop {
            if let agent::to_agent::Message::ReadOutput(asked) = agent.next().await {
                let data = vec![b'x'; asked.limit as usize];
                let answer = agent::OutputAnswer {
                    request: asked.request,
                    offset: asked.offset,
                    data: data.into(),
                    ..agent::OutputAnswer::default()
                };
                offset = asked.offset + u64::from(asked.limit);
                agent.say.send(from_agent(agent::from_agent::Message::Output(answer))).await.unwrap();
            }
        }
    };
    // The windows and buffers of both sides hold a few MiB; this is time for a hundred times that.
    let _in_vain = tokio::time::timeout(Duration::from_secs(2), asked_in_vain).await;
    assert!(offset > 0, "nothing was asked for");
    assert!(offset < 64 << 20, "{offset} bytes were read for a reader that takes none");
    assert_eq!(coordinator.status().await.tasks.len(), 1, "others are served");
    let began = std::time::Instant::now();
    coordinator.stop().await;
    assert!(began.elapsed() < Duration::from_secs(8), "the reader held up the end: {:?}", began.elapsed());
    drop(output);
}
