//! The same launches by OCI runtimes: `run` of a container with the same limits, to its removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Round, in_parallel};

/// A runtime, and how it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    Crun,
    /// Without namespaces but that of mounts, which the root file system needs.
    CrunHost,
    Runc,
}

/// One round of a peer, in a mount namespace that suits it. Internal: `bench launch` starts it.
#[derive(Debug, clap::Args)]
pub struct PeerArgs {
    peer: Peer,
    directory: PathBuf,
    launches: usize,
    workers: usize,
}

impl Peer {
    pub const ALL: &[Self] = &[Self::Crun, Self::CrunHost, Self::Runc];

    pub fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::CrunHost => "crun, host namespaces",
            Self::Runc => "runc",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Crun | Self::CrunHost => "crun",
            Self::Runc => "runc",
        }
    }

    fn namespaces(self) -> &'static [&'static str] {
        match self {
            Self::Crun | Self::Runc => &["pid", "ipc", "uts", "mount"],
            Self::CrunHost => &["mount"],
        }
    }

    pub fn is_installed(self) -> bool {
        let version = Command::new(self.program()).arg("--version").stdout(Stdio::null()).status();
        version.is_ok_and(|status| status.success()) && Path::new("/bin/busybox").exists()
    }

    /// crun refuses a hybrid layout: it sees none where the v2 hierarchy is covered, in a mount namespace
    /// that ends with the round.
    pub fn round(self, directory: &Path, launches: usize, workers: usize) -> Result<Round> {
        let script = "if mountpoint -q /sys/fs/cgroup/unified; then \
                      mount -t tmpfs none /sys/fs/cgroup/unified; fi; exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(std::env::current_exe()?);
        command.args(["launch-peer", self.argument()]).arg(directory);
        command.args([launches.to_string(), workers.to_string()]);
        let output = command.output().context("can't start unshare")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} failed: {said}", self.name());
        Round::parse(&String::from_utf8(output.stdout)?)
    }

    fn argument(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::CrunHost => "crun-host",
            Self::Runc => "runc",
        }
    }

    /// As our own tasks have it: the same limits, no new privileges, a read-only root of one program.
    fn config(self, root: &Path, group: &str) -> serde_json::Value {
        let namespaces: Vec<_> =
            self.namespaces().iter().map(|kind| serde_json::json!({ "type": kind })).collect();
        serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 65534, "gid": 65534 },
                "args": ["/bin/busybox", "true"],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": { "path": root, "readonly": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": {
                "cgroupsPath": format!("/{group}"),
                "resources": {
                    "memory": { "limit": 64 << 20 },
                    "cpu": { "quota": 100_000, "period": 100_000, "shares": 1024 },
                    "pids": { "limit": 64 },
                },
                "namespaces": namespaces,
            },
        })
    }

    fn launch(self, bundle: &Path, state: &Path, id: &str) -> Result<()> {
        let mut command = Command::new(self.program());
        if self.program() == "crun" {
            command.arg("--cgroup-manager=cgroupfs");
        }
        command.arg("--root").arg(state).args(["run", "--bundle"]).arg(bundle).arg(id);
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} of {id} failed: {said}", self.name());
        Ok(())
    }
}

/// Measures one round and prints nanoseconds: of everything, then of each launch.
pub fn run_peer(args: &PeerArgs) -> Result<()> {
    let PeerArgs { peer, directory, launches, workers } = args;
    let place = directory.join(format!("peer-{}", std::process::id()));
    let share = launches / workers;
    let id = |worker: usize, turn: usize| format!("muster-bench-{}-{worker}-{turn}", std::process::id());
    for worker in 0..*workers {
        // runc makes links in /dev of the root, and fails where another container just did.
        let root = place.join(format!("rootfs-{worker}"));
        for folder in ["bin", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        for turn in 0..share {
            let bundle = place.join(id(worker, turn));
            fs::create_dir(&bundle)?;
            let config = peer.config(&root, &id(worker, turn));
            fs::write(bundle.join("config.json"), config.to_string())?;
        }
    }
    let state = place.join("state");
    let began = Instant::now();
    let each = in_parallel(*workers, |worker| {
        let mut each: Vec<Duration> = Vec::with_capacity(share);
        for turn in 0..share {
            let began = Instant::now();
            let id = id(worker, turn);
            peer.launch(&place.join(&id), &state, &id)?;
            each.push(began.elapsed());
        }
        Ok(each)
    })?;
    println!("{}", began.elapsed().as_nanos());
    for time in each {
        println!("{}", time.as_nanos());
    }
    fs::remove_dir_all(&place)?;
    Ok(())
}
