//! Every kind of question, to servers that answer well, badly or not at all.

use std::{collections::BTreeMap, path::Path};

use expect_test::expect;
use model::{FrameworkId, Resources, TaskId, TaskSpec, Timestamp};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};
use supervisor::{Phase, ProcessId};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::health::Checks;
use crate::{
    checkpoint::Checkpoint,
    execute::{Directories, Settings, chain},
    sys::{UserPolicy, fake::FakeSys},
};

/// Of nobody.example, by itself, for a hundred years; it guards nothing.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
    MIIBiDCCAS+gAwIBAgIUGnXGJqVsdqx6MhOLrowrmoad+wkwCgYIKoZIzj0EAwIw\n\
    GTEXMBUGA1UEAwwObm9ib2R5LmV4YW1wbGUwIBcNMjYxMTIzMDg1OTEwWhgPMjEy\n\
    NjEwMzAwODU5MTBaMBkxFzAVBgNVBAMMDm5vYm9keS5leGFtcGxlMFkwEwYHKoZI\n\
    zj0CAQYIKoZIzj0DAQcDQgAEDC/Z/8gtJsVig4G9TWti7pzeXhuWse2nf6qpDeuk\n\
    PLpEmEkOvTCBtZI5Cb0cNaU8A8oYcOgVswiuDhEVhTghIaNTMFEwHQYDVR0OBBYE\n\
    FJyfyGulBj6KxDIYKXqhqEFJdqGcMB8GA1UdIwQYMBaAFJyfyGulBj6KxDIYKXqh\n\
    qEFJdqGcMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgYnPom0rg\n\
    25iLUyYip5YkNpNJIFRB+w02UPsNPZXP/xoCIAfLlVb+Ec0cyFrmCq/1CunhAT8f\n\
    R/H/yob5B6eJeuNK\n\
    -----END CERTIFICATE-----";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQglL7x8epAQf7oTAxv\n\
    tGeQlOyscHgXzLX3FvzETk/G92ihRANCAAQML9n/yC0mxWKDgb1Na2LunN5eG5ax\n\
    7ad/qqkN66Q8ukSYSQ69MIG1kjkJvRw1pTwDyhhw6BWzCK4OERWFOCEh\n\
    -----END PRIVATE KEY-----";

#[test]
fn the_status_is_the_second_word_of_the_first_line() {
    assert_eq!(status(b"HTTP/1.1 204 No Content\r"), Some(204));
    assert_eq!(status(b"HTTP/1.0 302"), Some(302));
    for wrong in ["", "HTTP/1.1", "HTTP/1.1 abc", "HTTP/1.1 99 x", "SSH-2.0-OpenSSH 200", "\u{1}\u{2} 200"] {
        assert_eq!(status(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn the_last_words_are_the_last_line_that_says_something() {
    assert_eq!(last_line(b"a\nb \x1b[1m\n\n"), ": b [1m");
    assert_eq!(last_line(b""), "");
}

/// Asks one question, and says what came of it.
async fn ask(probe: Probe) -> String {
    let folder = tempfile::tempdir().unwrap();
    let prober = Prober::new(executor(folder.path()));
    let check = HealthCheck {
        probe,
        start_period: Duration::ZERO,
        interval: Duration::from_secs(60),
        timeout: Duration::from_secs(2),
        failures_max: 3,
        successes_min: 1,
        is_killed_when_unhealthy: false,
    };
    match prober.ask(&row(), &check, &CancellationToken::new()).await {
        Ok(()) => "well".to_owned(),
        Err(error) => chain(&error),
    }
}

fn executor(folder: &Path) -> Arc<Executor> {
    let settings = Settings {
        default_user: "nobody".to_owned(),
        users: UserPolicy::default(),
        pids_limit: 100,
        hidden: Vec::new(),
        output_bytes_max: 1 << 20,
        memory_mib: 1000,
        rights: Default::default(),
        port_policy: Default::default(),
    };
    let checkpoint = Arc::new(Checkpoint::open(folder).unwrap());
    let sys = FakeSys::new();
    let fetcher = crate::execute::tests::fetcher(&sys);
    Arc::new(Executor::new(Arc::new(sys), None, checkpoint, Directories::new(folder), settings, fetcher))
}

fn row() -> Row {
    let task_id = TaskId::new("t").unwrap();
    Row {
        task_id: task_id.clone(),
        framework_id: FrameworkId::new("run").unwrap(),
        spec: Arc::new(TaskSpec::new(task_id, Resources::default(), Vec::new())),
        attempt: "task-t.1".to_owned(),
        phase: Phase::Running { process: ProcessId { pid: 1, start_ticks: 1 } },
        kill: None,
        statuses: Vec::new(),
        sequence: 0,
        acknowledged: 0,
        assigned_at: Timestamp(0),
        began: None,
        launches: 1,
    }
}

/// Answers every request with the same bytes, and then closes or doesn't.
async fn server(
    answer: &'static str,
    is_closed: bool,
    tls: Option<TlsAcceptor>,
) -> (u16, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        let mut open = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream: Box<dyn Stream> = match &tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => continue,
                },
                None => Box::new(stream),
            };
            let mut request = [0; 1024];
            // Whoever asks may have gone.
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
            if is_closed {
                let _ = stream.shutdown().await;
            } else {
                open.push(stream);
            }
        }
    };
    (port, AbortOnDropHandle::new(tokio::spawn(serve)))
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A port on which nobody listens: it was just given up.
async fn unused() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_is_judged_by_its_status() {
    let http = |port, is_tls| Probe::Http { port: Some(port), path: "/health".to_owned(), is_tls };
    let mut answers = BTreeMap::new();
    for (name, answer, is_closed) in [
        ("200", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        ("204 that stays", "HTTP/1.1 204 No Content\r\n\r\n", false),
        ("302", "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n", true),
        ("404", "HTTP/1.1 404 Not Found\r\n\r\n", true),
        ("503", "HTTP/1.0 503\n", true),
        ("garbage", "220 mail.example ESMTP\r\n", true),
        ("half a line", "HTTP/1.1 200", true),
        ("nothing", "", true),
        ("silence", "", false),
    ] {
        let (port, _server) = server(answer, is_closed, None).await;
        answers.insert(name, ask(http(port, false)).await);
    }
    let (port, _server) = server("HTTP/1.1 200 OK\r\n\r\n", true, Some(acceptor())).await;
    answers.insert("https, of nobody", ask(http(port, true)).await);
    assert_ne!(ask(http(port, false)).await, "well", "http to https");
    let (port, _server) = server("HTTP/1.1 200 OK\r\n\r\n", true, None).await;
    assert_ne!(ask(http(port, true)).await, "well", "https to http");
    let shown: Vec<String> = answers.iter().map(|(name, answer)| format!("{name}: {answer}")).collect();
    expect![[r#"
        200: well
        204 that stays: well
        302: well
        404: HTTP status 404
        503: HTTP status 503
        garbage: the answer is no HTTP
        half a line: the answer is no HTTP
        https, of nobody: well
        nothing: the answer is no HTTP
        silence: no answer within 2000 ms"#]]
    .assert_eq(&shown.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_is_judged_by_a_connection() {
    let tcp = |port| Probe::Tcp { port };
    let (port, _server) = server("", false, None).await;
    assert_eq!(ask(tcp(Some(port))).await, "well");
    let port = unused().await;
    let refused = ask(tcp(Some(port))).await;
    assert_eq!(refused, format!("can't connect to 127.0.0.1:{port}: Connection refused (os error 111)"));
    assert_eq!(ask(tcp(None)).await, "the spec names no port");
    if let Ok(listener) = TcpListener::bind("[::1]:0").await {
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(tcp(Some(port))).await, "well", "over the newer protocol");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_judged_by_the_health_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.Cart", tonic_health::ServingStatus::NotServing).await;
    let server = tonic::transport::Server::builder().add_service(service);
    let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
    let _server = AbortOnDropHandle::new(tokio::spawn(async { serving.await.unwrap() }));
    let grpc = |port, service: &str| Probe::Grpc { port: Some(port), service: service.to_owned() };
    assert_eq!(ask(grpc(port, "")).await, "well");
    assert_eq!(ask(grpc(port, "shop.Cart")).await, "it says NOT_SERVING");
    assert_eq!(ask(grpc(port, "shop.Bill")).await, "gRPC status NotFound: service not registered");
    let (port, _server) = self::server("HTTP/1.1 200 OK\r\n\r\n", true, None).await;
    assert_ne!(ask(grpc(port, "")).await, "well");
}

/// Against a server in this very process, so that its part is in the figure:
/// `cargo test --release -p agent --lib a_thousand_checks -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of half a minute"]
#[expect(clippy::print_stdout, reason = "figures are printed for whoever reads them")]
async fn a_thousand_checks() {
    use nix::sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike as _,
    };

    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        (usage.user_time() + usage.system_time()).num_microseconds()
    };
    let interval = Duration::from_secs(10);
    let (port, _server) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true, None).await;
    for (name, probe) in [
        ("tcp", Probe::Tcp { port: Some(port) }),
        ("http", Probe::Http { port: Some(port), path: "/".to_owned(), is_tls: false }),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (mut checks, mut answers) = Checks::new(executor(folder.path()));
        for number in 0..1000 {
            let task_id = TaskId::new(&format!("t{number}")).unwrap();
            let health_check = Some(HealthCheck {
                probe: probe.clone(),
                start_period: Duration::ZERO,
                interval,
                timeout: Duration::from_secs(5),
                failures_max: 3,
                successes_min: 1,
                is_killed_when_unhealthy: false,
            });
            let plain = TaskSpec::new(task_id.clone(), Resources::default(), Vec::new());
            let spec = Arc::new(TaskSpec { health_check, ..plain });
            checks.begin(&Row { task_id, spec, ..row() });
        }
        let (began, before) = (Instant::now(), cpu());
        let mut counts = vec![0_u32; 12];
        let mut failures = 0;
        while let Ok(Some(answer)) = timeout_at(began + interval, answers.recv()).await {
            failures += u32::from(answer.failure.is_some());
            if let Some(count) = counts.get_mut(usize::try_from(began.elapsed().as_secs()).unwrap()) {
                *count += 1;
            }
        }
        let used = cpu() - before;
        println!("{name}: {used} us of CPU in 10 s, {failures} failures, answers by second: {counts:?}");
        checks.stop().await;
    }
}
