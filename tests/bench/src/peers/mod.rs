//! Other systems that agree on a log among three members, on loopback, with their data beside ours.
//!
//! Only what was started here is ended, and everything is ended when a [`Peer`] is dropped.

mod etcd;
mod zookeeper;

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Members of each.
pub(crate) const MEMBERS: usize = 3;
/// How long any of them may take to begin, or to find a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Etcd,
    Zookeeper,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Etcd, Self::Zookeeper];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Zookeeper => "ZooKeeper",
        }
    }

    /// Whether it can be started here; else says loudly what to do.
    pub(crate) fn is_here(self) -> bool {
        let (is_here, packages) = match self {
            Self::Etcd => (etcd::is_here(), "etcd-server"),
            Self::Zookeeper => (zookeeper::is_here(), "zookeeper default-jre-headless"),
        };
        if !is_here {
            println!(
                "SKIPPED: {}, because it is not installed: apt-get install --no-install-recommends {packages}",
                self.name()
            );
        }
        is_here
    }

    /// A connection that writes to one member.
    pub(crate) async fn connect(self, port: u16) -> Result<Writer> {
        Ok(match self {
            Self::Etcd => Writer::Etcd(etcd::Writer::connect(port).await?),
            Self::Zookeeper => Writer::Zookeeper(zookeeper::Writer::connect(port).await?),
        })
    }

    async fn leads(self, port: u16) -> Result<bool> {
        match self {
            Self::Etcd => etcd::leads(port).await,
            Self::Zookeeper => zookeeper::leads(port).await,
        }
    }
}

/// Three members of another system.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    commands: Vec<Vec<String>>,
    members: Vec<Option<Child>>,
    /// For clients.
    pub(crate) ports: Vec<u16>,
    directory: std::path::PathBuf,
}

impl Peer {
    /// Starts all members, with their data in a folder of `directory`, and waits for a leader.
    pub(crate) async fn start(kind: Kind, directory: &Path) -> Result<Self> {
        let directory = directory.join(kind.name());
        std::fs::create_dir_all(&directory)?;
        let ports: Vec<u16> = free_ports(3 * MEMBERS)?;
        let (clients, rest) = ports.split_at(MEMBERS);
        let commands = match kind {
            Kind::Etcd => etcd::commands(&directory, clients, rest),
            Kind::Zookeeper => zookeeper::commands(&directory, clients, rest)?,
        };
        let members = (0..MEMBERS).map(|_| None).collect();
        let mut peer = Self { kind, commands, members, ports: clients.to_vec(), directory };
        for member in 0..MEMBERS {
            peer.start_member(member)?;
        }
        peer.until_leader().await?;
        peer.until_writable().await?;
        Ok(peer)
    }

    pub(crate) fn start_member(&mut self, member: usize) -> Result<()> {
        let [program, arguments @ ..] = self.commands[member].as_slice() else { bail!("no command") };
        let log = self.directory.join(format!("log-{member}"));
        let file = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let started = command.spawn().with_context(|| format!("can't start {}", self.kind.name()))?;
        self.members[member] = Some(started);
        Ok(())
    }

    pub(crate) fn process(&self, member: usize) -> Result<Pid> {
        let child = self.members[member].as_ref().context("the member runs")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// Which member leads, once one does.
    pub(crate) async fn until_leader(&self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for (member, port) in self.ports.iter().enumerate() {
                if self.members[member].is_some() && self.kind.leads(*port).await.unwrap_or(false) {
                    return Ok(member);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("{} has no leader after {PATIENCE:?}; see {}", self.kind.name(), self.directory.display())
    }

    /// Waits until every member takes writes.
    pub(crate) async fn until_writable(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for port in &self.ports {
            while write_once(self.kind, *port, Duration::from_secs(2)).await.is_err() {
                if Instant::now() > deadline {
                    bail!("a member of {} takes no write after {PATIENCE:?}", self.kind.name());
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Ends a member by a signal, and tells how long it took until another one acknowledged a write.
    pub(crate) async fn fail_over(&mut self, member: usize, signal: Signal) -> Result<Duration> {
        let kind = self.kind;
        let others: Vec<u16> =
            (0..MEMBERS).filter(|other| *other != member).map(|other| self.ports[other]).collect();
        kill(self.process(member)?, signal)?;
        let began = Instant::now();
        let probes = others.into_iter().map(|port| {
            Box::pin(async move {
                // A new attempt as soon as the last one failed, as the clients of a queue would.
                while write_once(kind, port, Duration::from_millis(200)).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            })
        });
        let all = futures::future::select_all(probes);
        tokio::time::timeout(PATIENCE, all).await.context("no write is acknowledged after the kill")?;
        let took = began.elapsed();
        if let Some(mut child) = self.members[member].take() {
            tokio::task::spawn_blocking(move || child.wait()).await??;
        }
        self.start_member(member)?;
        Ok(took)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn write_once(kind: Kind, port: u16, patience: Duration) -> Result<()> {
    let write = async { kind.connect(port).await?.write().await };
    tokio::time::timeout(patience, write).await?
}

/// One connection that writes 256 bytes at a time, always under the same key.
pub(crate) enum Writer {
    Etcd(etcd::Writer),
    Zookeeper(zookeeper::Writer),
}

impl Writer {
    /// Returns when the write was acknowledged.
    pub(crate) async fn write(&mut self) -> Result<()> {
        match self {
            Self::Etcd(writer) => writer.write().await,
            Self::Zookeeper(writer) => writer.write().await,
        }
    }
}

/// Ports that were free a moment ago, below those that the kernel gives out by itself.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let begin = 30_000 + u16::try_from(std::process::id() % 1000)?;
    let free = (begin..32_700).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let ports: Vec<u16> = free.take(count).collect();
    if ports.len() < count { bail!("loopback has no free ports") } else { Ok(ports) }
}
