//! Files that a task's spec names, from servers and from the agent's host.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use harness::{Cluster, ClusterOptions, page, wait_until};
use muster_client::types::{Fetch, Reason, TaskSpec, TaskState};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{cluster, running::find_folder, script};

/// An authority whose key is lost, and what it signed for 127.0.0.1 until 2120; it guards nothing.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
    MIIBcjCCARmgAwIBAgIBATAKBggqhkjOPQQDAjAgMR4wHAYDVQQDDBVtdXN0ZXIg\n\
    dGVzdCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBa\n\
    MCAxHjAcBgNVBAMMFW11c3RlciB0ZXN0IGF1dGhvcml0eTBZMBMGByqGSM49AgEG\n\
    CCqGSM49AwEHA0IABEFJwWXPNH6vU8Qe1wgMvKTjDtbJ+GDGJRnNYd8y0WyHiWGs\n\
    R1pQ/FfbF9Bp67YhA8wO8Cza7GSFgfcKUFl9lZCjQjBAMA8GA1UdEwEB/wQFMAMB\n\
    Af8wDgYDVR0PAQH/BAQDAgIEMB0GA1UdDgQWBBRmf3u6Wrmg0WmAXA02dl6kdNMA\n\
    wTAKBggqhkjOPQQDAgNHADBEAiAv2g4b8CwCL1bfm9J8SWodwtDjr711JxJSVPgA\n\
    tXQn5gIgZlPrrU5WrO2DC+uq0xPMmPsWzBGs48d98ony7qtMBFA=\n\
    -----END CERTIFICATE-----\n";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
    MIIBpTCCAUqgAwIBAgIBAjAKBggqhkjOPQQDAjAgMR4wHAYDVQQDDBVtdXN0ZXIg\n\
    dGVzdCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBa\n\
    MB0xGzAZBgNVBAMMEm11c3RlciB0ZXN0IHNlcnZlcjBZMBMGByqGSM49AgEGCCqG\n\
    SM49AwEHA0IABKiYfRxeJw3zmb+quV84lDxqsYWzt0w8Tz88NhbcEc8AS+UFd0x0\n\
    iDqZclWWB9/YalKHlP8FUyyK1V+YCd5QbT+jdjB0MAwGA1UdEwEB/wQCMAAwDwYD\n\
    VR0RBAgwBocEfwAAATATBgNVHSUEDDAKBggrBgEFBQcDATAdBgNVHQ4EFgQUGcVa\n\
    zg5kLSLa/+rgKhC0Br5TF1QwHwYDVR0jBBgwFoAUZn97ulq5oNFpgFwNNnZepHTT\n\
    AMEwCgYIKoZIzj0EAwIDSQAwRgIhANfhz4B6DCmKNmlWFGjUMGCZ5oWclCbUHNb4\n\
    h04G50xdAiEAkAhAUqGGCVlje1BbURdm5Z1haXbIqb0UBhxlisYxWDE=\n\
    -----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgfC2Z8XjigRGkcrjT\n\
    RcMqphyQC7v0Rb6doV0a5E+bGFmhRANCAASomH0cXicN85m/qrlfOJQ8arGFs7dM\n\
    PE8/PDYW3BHPAEvlBXdMdIg6mXJVlgff2GpSh5T/BVMsitVfmAneUG0/\n\
    -----END PRIVATE KEY-----\n";

/// What there is to serve, by path.
type Files = Mutex<Vec<(String, Vec<u8>)>>;

/// What one server on loopback serves, by path; `/stall` begins an answer and goes on when it is let go.
struct Server {
    port: u16,
    hits: Arc<AtomicUsize>,
    is_let_go: Arc<AtomicBool>,
    files: Arc<Files>,
}

impl Server {
    fn start() -> Self {
        Self::start_with(Some)
    }

    /// With an encrypted connection to whoever trusts [`AUTHORITY`].
    fn start_with_tls() -> Self {
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key);
        let config = Arc::new(config.unwrap());
        Self::start_with(move |stream| {
            let connection = ServerConnection::new(config.clone()).ok()?;
            Some(StreamOwned::new(connection, stream))
        })
    }

    fn start_with<S: Read + Write>(open: impl Fn(TcpStream) -> Option<S> + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            hits: Arc::default(),
            is_let_go: Arc::default(),
            files: Arc::default(),
        };
        let (hits, is_let_go, files) = (server.hits.clone(), server.is_let_go.clone(), server.files.clone());
        // Ends with the test's process; each connection has its own thread, because some never end.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hits, is_let_go, files) = (hits.clone(), is_let_go.clone(), files.clone());
                let open = open.clone();
                thread::spawn(move || answer(open(stream)?, &hits, &is_let_go, &files));
            }
        });
        server
    }

    fn serve(&self, path: &str, content: &[u8]) -> String {
        self.files.lock().unwrap().push((path.to_owned(), content.to_vec()));
        self.url(path)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

fn answer(
    mut stream: impl Read + Write,
    hits: &AtomicUsize,
    is_let_go: &AtomicBool,
    files: &Files,
) -> Option<()> {
    let reader = BufReader::new(&mut stream);
    let lines: Vec<String> =
        reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let path = lines.first()?.split(' ').nth(1)?.split('?').next()?.to_owned();
    hits.fetch_add(1, Ordering::SeqCst);
    let content =
        files.lock().unwrap().iter().find(|(name, _)| *name == path).map(|(_, bytes)| bytes.clone());
    let Some(content) = content else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok();
    };
    stream
        .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).as_bytes())
        .ok()?;
    if path == "/stall" {
        stream.write_all(content.get(..1)?).ok()?;
        while !is_let_go.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(20));
        }
        return stream.write_all(content.get(1..)?).ok();
    }
    stream.write_all(&content).ok()
}

fn with_files(command: &str, fetches: Vec<Fetch>) -> TaskSpec {
    let mut spec = TaskSpec { fetches, ..script(command) };
    // Starting a program of this size takes more than a hundredth of a core.
    let resources = spec.resources.as_mut().unwrap();
    resources.cpus_milli = 300;
    resources.mem_mib = 64;
    spec
}

fn fetch(url: String) -> Fetch {
    Fetch { url, ..Fetch::default() }
}

/// As `sha256sum` says.
fn digest(directory: &Path, content: &[u8]) -> String {
    let path = directory.join("to-be-hashed");
    fs::write(&path, content).unwrap();
    let output = Command::new("sha256sum").arg(&path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// A tar.gz with `bin/tool`, which says hello.
fn packed(directory: &Path) -> Vec<u8> {
    let from = directory.join("to-be-packed/bin");
    fs::create_dir_all(&from).unwrap();
    fs::write(from.join("tool"), "#!/bin/sh\necho hello from the archive\n").unwrap();
    fs::set_permissions(from.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let archive = directory.join("packed.tar.gz");
    let status = Command::new("tar")
        .args(["--create", "--gzip", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(directory.join("to-be-packed"))
        .arg("bin")
        .status();
    assert!(status.unwrap().success());
    fs::read(archive).unwrap()
}

async fn output(cluster: &Cluster, id: &str) -> String {
    let output = cluster.muster_output(&["task", "logs", id]).await;
    String::from_utf8(output.stdout).unwrap()
}

fn processes_that_fetch(cluster: &Cluster) -> Vec<String> {
    cluster.residue().find().into_iter().filter(|line| line.starts_with("process:")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_there_when_the_command_begins() {
    let allowed = tempfile::Builder::new().prefix("muster-test-fetch-").tempdir().unwrap();
    fs::set_permissions(allowed.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(allowed.path().join("motto"), "from the host\n").unwrap();
    fs::write(allowed.path().join("private"), "root's\n").unwrap();
    fs::set_permissions(allowed.path().join("private"), fs::Permissions::from_mode(0o600)).unwrap();
    let flags = vec!["--allow-fetch-from".to_owned(), allowed.path().display().to_string()];
    let cluster = cluster!(ClusterOptions { agent_flags: flags, ..ClusterOptions::default() });
    let server = Server::start();
    let archive = server.serve("/tool.tar.gz", &packed(cluster.directory()));
    let run = server.serve("/run", b"#!/bin/sh\necho executable\n");
    let command = "tools/bin/tool && ./run && cat motto && stat --format %U%a run && ls -A";
    let spec = with_files(
        command,
        vec![
            Fetch {
                unpack: true,
                path: Some("tools".to_owned()),
                ..fetch(format!("{archive}?token=secret"))
            },
            Fetch { executable: true, ..fetch(run) },
            fetch(format!("file://{}/motto", allowed.path().display())),
        ],
    );
    let id = cluster.run(spec, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    assert_eq!(
        output(&cluster, &id).await,
        "hello from the archive\nexecutable\nfrom the host\nnobody755\nmotto\nrun\ntools\n"
    );
    // What fails says why, without what may be secret, and leaves nothing.
    let there = allowed.path().display();
    for (file, why) in [
        (
            fetch(server.url("/none?token=secret")),
            "/none?…: the server answered 404 Not Found; check the URL",
        ),
        (fetch("file:///etc/hostname".to_owned()), "file:///etc/hostname: the operator of this agent allows"),
        (fetch(format!("file://{there}/private")), "the task's user may not read it"),
        (fetch(format!("file://{there}/%2e%2e/x")), "its path leads upwards"),
        (Fetch { unpack: true, ..fetch(server.url("/run")) }, "it is no archive"),
        (Fetch { sha256: Some("0".repeat(64)), ..fetch(server.url("/run")) }, "its sha256 is "),
        (Fetch { sha256: Some("0".repeat(64)), ..fetch(format!("file://{there}/motto")) }, "its sha256 is "),
    ] {
        let id = cluster.run(with_files("true", vec![file]), 1).await.remove(0);
        let task = cluster.until_released(&id).await;
        let status = task.status.unwrap();
        assert_eq!((status.state(), status.reason()), (TaskState::Failed, Reason::FetchFailed), "{status:?}");
        assert!(status.message.contains(why) && !status.message.contains("secret"), "{}", status.message);
        let left = fs::read_dir(cluster.agent_dir(0).join("tasks")).unwrap().flatten();
        let left: Vec<_> =
            left.map(|entry| entry.path()).filter(|path| path.display().to_string().contains(&id)).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
    assert_eq!(
        page::figure(cluster.agent_address(0), "muster_agent_fetch_failures_total{kind=\"digest\"}"),
        Some(2.0)
    );
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_server_is_asked_if_its_authority_is_trusted() {
    let trusted = tempfile::Builder::new().prefix("muster-test-trusted-").tempdir().unwrap();
    fs::set_permissions(trusted.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = trusted.path().join("authority.pem");
    fs::write(&file, AUTHORITY).unwrap();
    let agent_env = vec![("SSL_CERT_FILE".to_owned(), file.display().to_string())];
    let cluster = cluster!(ClusterOptions { agent_env, ..ClusterOptions::default() });
    let server = Server::start_with_tls();
    server.serve("/secret", b"for your eyes only\n");
    let url = |host: &str| format!("https://{host}:{}/secret", server.port);
    let id = cluster.run(with_files("cat secret", vec![fetch(url("127.0.0.1"))]), 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    assert_eq!(output(&cluster, &id).await, "for your eyes only\n");
    assert_eq!(server.hits(), 1);
    // The same server by a name that its certificate doesn't have.
    let id = cluster.run(with_files("cat secret", vec![fetch(url("localhost"))]), 1).await.remove(0);
    let status = cluster.until_released(&id).await.status.unwrap();
    assert_eq!((status.state(), status.reason()), (TaskState::Failed, Reason::FetchFailed), "{status:?}");
    assert!(status.message.contains("no encrypted connection to localhost"), "{}", status.message);
    assert_eq!(server.hits(), 1);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_digest_is_downloaded_once() {
    let mut cluster = cluster!();
    let server = Server::start();
    let archive = packed(cluster.directory());
    let sha256 = digest(cluster.directory(), &archive);
    let url = server.serve("/tool.tar.gz", &archive);
    let file = Fetch { unpack: true, sha256: Some(sha256.clone()), ..fetch(url.clone()) };
    let spec = with_files("bin/tool", vec![file]);
    let ids = cluster.run(spec.clone(), 3).await;
    for id in &ids {
        let task = cluster.until_released(id).await;
        assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
        assert_eq!(output(&cluster, id).await, "hello from the archive\n");
    }
    assert_eq!(server.hits(), 1);
    // Also after a restart of the agent, and not when the disk has lost what it was.
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let cached = cluster.agent_dir(0).join("cache").join(&sha256);
    let run = async |hits| {
        let id = cluster.run(spec.clone(), 1).await.remove(0);
        let task = cluster.until_released(&id).await;
        assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
        assert_eq!(server.hits(), hits);
    };
    run(1).await;
    let mut damaged = fs::read(&cached).unwrap();
    damaged[20] ^= 1;
    fs::write(&cached, &damaged).unwrap();
    run(2).await;
    assert_eq!(fs::read(&cached).unwrap(), archive);
    let figure = |name: &str| page::figure(cluster.agent_address(0), name).unwrap();
    assert_eq!(figure("muster_agent_fetch_cache_damaged_total"), 1.0);
    assert_eq!(figure("muster_agent_fetch_cache_bytes"), archive.len() as f64);
    // Without a digest nothing is kept.
    let plain = with_files("bin/tool", vec![Fetch { unpack: true, ..fetch(url) }]);
    for hits in [3, 4] {
        let id = cluster.run(plain.clone(), 1).await.remove(0);
        cluster.until_released(&id).await;
        assert_eq!(server.hits(), hits);
    }
    cluster.finish().await;
}

/// Runs a task that waits for its file, and answers when the server has been asked.
async fn stalled(cluster: &Cluster, server: &Server, sha256: Option<String>) -> String {
    let before = server.hits();
    let file = Fetch { sha256, ..fetch(server.url("/stall")) };
    let id = cluster.run(with_files("cat stall; echo", vec![file]), 1).await.remove(0);
    wait_until("the file is being fetched", async || server.hits() > before).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_the_fetching_and_others_go_on() {
    let cluster = cluster!();
    let server = Server::start();
    server.serve("/stall", b"slow but steady");
    let sha256 = digest(cluster.directory(), b"slow but steady");
    let id = stalled(&cluster, &server, Some(sha256.clone())).await;
    let task = cluster.task(&id).await;
    assert_eq!(task.state(), TaskState::Starting);
    assert_eq!(task.status.unwrap().message, "fetching its files (1)");
    // Who reads what the server sends has no rights.
    let process = processes_that_fetch(&cluster).remove(0);
    let pid = process.split(' ').nth(1).unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).split_whitespace().next().unwrap().to_owned()
    };
    for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (field("Uid").as_str(), field("NoNewPrivs").as_str(), field("Seccomp").as_str()),
        ("65534", "1", "2")
    );
    // A slow server keeps nobody from being launched.
    let quick = cluster.run(script("echo quick"), 12).await;
    for id in &quick {
        assert_eq!(cluster.until_released(id).await.state(), TaskState::Finished);
    }
    // Somebody waits for the same file, and takes over when the first one is killed.
    let file = Fetch { sha256: Some(sha256), ..fetch(server.url("/stall")) };
    let second = cluster.run(with_files("cat stall", vec![file]), 1).await.remove(0);
    cluster.until_state(&second, TaskState::Starting).await;
    let output = cluster.muster_output(&["task", "kill", &id]).await;
    assert!(output.status.success());
    let task = cluster.until_released(&id).await;
    let status = task.status.unwrap();
    assert_eq!((status.state(), status.reason()), (TaskState::Killed, Reason::KillRequested), "{status:?}");
    wait_until("the other one has taken over", async || server.hits() == 2).await;
    assert_eq!(processes_that_fetch(&cluster).len(), 1, "{:?}", processes_that_fetch(&cluster));
    server.is_let_go.store(true, Ordering::SeqCst);
    assert_eq!(cluster.until_released(&second).await.state(), TaskState::Finished);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_while_it_fetches_begins_anew() {
    let mut cluster = cluster!();
    let server = Server::start();
    server.serve("/stall", b"slow but steady");
    let id = stalled(&cluster, &server, None).await;
    cluster.agents[0].kill();
    // With the agent goes the process that fetches for it.
    wait_until("nobody fetches any more", async || processes_that_fetch(&cluster).is_empty()).await;
    server.is_let_go.store(true, Ordering::SeqCst);
    cluster.restart_agent(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    assert_eq!(output(&cluster, &id).await, "slow but steady\n");
    assert_eq!(server.hits(), 2);
    // One that is told to leave does not wait for servers.
    server.is_let_go.store(false, Ordering::SeqCst);
    let id = stalled(&cluster, &server, None).await;
    let status = cluster.agents[0].end(nix::sys::signal::Signal::SIGTERM).await;
    assert!(status.success());
    assert_eq!(processes_that_fetch(&cluster), Vec::<String>::new());
    server.is_let_go.store(true, Ordering::SeqCst);
    cluster.restart_agent(0);
    assert_eq!(cluster.until_released(&id).await.state(), TaskState::Finished);
    cluster.finish().await;
}

/// A small file system, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: PathBuf, options: &str) -> Self {
        mount(Some("muster-test"), &path, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_to_be_full_and_nothing_stays_on_it() {
    let cluster = cluster!();
    let server = Server::start();
    let large = server.serve("/large", &vec![b'x'; 8 << 20]);
    let small = server.serve("/small", b"fits");
    let tasks = cluster.agent_dir(0).join("tasks");
    let disk = Mounted::tmpfs(tasks.clone(), "size=4m,mode=0711");
    let id = cluster.run(with_files("true", vec![fetch(large.clone())]), 1).await.remove(0);
    let status = cluster.until_released(&id).await.status.unwrap();
    assert_eq!((status.state(), status.reason()), (TaskState::Failed, Reason::FetchFailed), "{status:?}");
    assert!(
        status.message.contains("no space is left on the agent's disk; free space"),
        "{}",
        status.message
    );
    assert_eq!(fs::read_dir(&tasks).unwrap().count(), 0);
    let id = cluster.run(with_files("cat small", vec![fetch(small)]), 1).await.remove(0);
    assert_eq!(cluster.until_released(&id).await.state(), TaskState::Finished);
    assert!(find_folder(&cluster, &id).join("sandbox/small").exists());
    drop(disk);
    // What the task itself may have is a bound, too.
    let mut spec = with_files("true", vec![fetch(large)]);
    spec.resources.as_mut().unwrap().disk_mib = 2;
    let id = cluster.run(spec, 1).await.remove(0);
    let status = cluster.until_released(&id).await.status.unwrap();
    assert!(status.message.contains("larger than the 2 MiB that the task may have"), "{}", status.message);
    cluster.finish().await;
}
