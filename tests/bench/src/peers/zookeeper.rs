//! ZooKeeper, by its own protocol: frames with a length before them, numbers big-endian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What it needs beside itself, as Debian names it.
const JARS: [&str; 14] = [
    "zookeeper.jar",
    "zookeeper-jute.jar",
    "slf4j-api",
    "slf4j-nop",
    "netty",
    "metrics-core",
    "snappy-java",
    "commons-",
    "jackson-",
    "log4j-1.2",
    "reload4j",
    "logback-",
    "audience-annotations",
    "zookeeper",
];
const JAR_DIRECTORY: &str = "/usr/share/java";
const LONGEST_ANSWER: usize = 1 << 20;

const CREATE: i32 = 1;
const SET_DATA: i32 = 5;
const NODE_EXISTS: i32 = -110;

pub(super) fn is_here() -> bool {
    let java = Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    java.is_ok_and(|status| status.success()) && Path::new(JAR_DIRECTORY).join("zookeeper.jar").exists()
}

fn class_path() -> Result<String> {
    let mut jars: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(JAR_DIRECTORY)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|kind| kind == "jar") && JARS.iter().any(|jar| name.starts_with(jar))
        {
            jars.push(path);
        }
    }
    jars.sort();
    let names: Vec<_> = jars.iter().map(|path| path.display().to_string()).collect();
    Ok(names.join(":"))
}

/// As it is shipped, but for where it listens.
pub(super) fn commands(directory: &Path, clients: &[u16], rest: &[u16]) -> Result<Vec<Vec<String>>> {
    let (peers, elections) = rest.split_at(clients.len());
    let class_path = class_path()?;
    let servers: Vec<String> = peers
        .iter()
        .zip(elections)
        .enumerate()
        .map(|(number, (peer, election))| format!("server.{}=127.0.0.1:{peer}:{election}", number + 1))
        .collect();
    let mut commands = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let data = directory.join(format!("data-{number}"));
        fs::create_dir_all(&data)?;
        fs::write(data.join("myid"), (number + 1).to_string())?;
        let config = directory.join(format!("config-{number}"));
        let text = format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={client}\n\
             clientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\n{}\n",
            data.display(),
            servers.join("\n")
        );
        fs::write(&config, text)?;
        let config = config.display().to_string();
        let words = [
            "java",
            "-Xmx512m",
            "-Dzookeeper.admin.enableServer=false",
            "-Dzookeeper.4lw.commands.whitelist=srvr",
            "-cp",
            &class_path,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            &config,
        ];
        commands.push(words.map(str::to_owned).to_vec());
    }
    Ok(commands)
}

pub(super) async fn leads(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"srvr").await?;
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(std::time::Duration::from_secs(1), read).await??;
    Ok(text.contains("Mode: leader"))
}

pub(crate) struct Writer {
    stream: TcpStream,
    set: Vec<u8>,
}

impl Writer {
    pub(super) async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        // Protocol, last seen transaction, session time, session, password; may not be read-only.
        let mut greeting = Vec::new();
        greeting.extend(0_i32.to_be_bytes());
        greeting.extend(0_i64.to_be_bytes());
        greeting.extend(20_000_i32.to_be_bytes());
        greeting.extend(0_i64.to_be_bytes());
        bytes(&mut greeting, &[0; 16])?;
        greeting.push(0);
        let mut set = head(SET_DATA)?;
        bytes(&mut set, &[b'v'; 256])?;
        set.extend((-1_i32).to_be_bytes());
        let mut writer = Self { stream, set };
        writer.call(&greeting).await?;
        let mut create = head(CREATE)?;
        bytes(&mut create, b"x")?;
        // One entry of access: anybody may do anything. The node stays.
        create.extend(1_i32.to_be_bytes());
        create.extend(31_i32.to_be_bytes());
        bytes(&mut create, b"world")?;
        bytes(&mut create, b"anyone")?;
        create.extend(0_i32.to_be_bytes());
        let code = error_code(&writer.call(&create).await?)?;
        ensure!(code == 0 || code == NODE_EXISTS, "ZooKeeper makes no node: error {code}");
        Ok(writer)
    }

    pub(super) async fn write(&mut self) -> Result<()> {
        let set = self.set.clone();
        let code = error_code(&self.call(&set).await?)?;
        ensure!(code == 0, "ZooKeeper takes no write: error {code}");
        Ok(())
    }

    async fn call(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        let mut frame = Vec::with_capacity(message.len() + 4);
        bytes(&mut frame, message)?;
        self.stream.write_all(&frame).await?;
        let length = usize::try_from(self.stream.read_i32().await?)?;
        ensure!(length < LONGEST_ANSWER, "ZooKeeper answers {length} bytes");
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}

/// Number of the request, what it is, and which node it is about.
fn head(what: i32) -> Result<Vec<u8>> {
    let mut request = Vec::new();
    request.extend(1_i32.to_be_bytes());
    request.extend(what.to_be_bytes());
    bytes(&mut request, b"/bench")?;
    Ok(request)
}

fn bytes(into: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    into.extend(i32::try_from(bytes.len())?.to_be_bytes());
    into.extend(bytes);
    Ok(())
}

/// Behind the number of the request and the transaction.
fn error_code(answer: &[u8]) -> Result<i32> {
    let code = answer.get(12..16).context("an answer has a head")?;
    Ok(i32::from_be_bytes(code.try_into()?))
}
