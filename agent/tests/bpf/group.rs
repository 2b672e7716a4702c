//! A cgroup for one test, in whatever hierarchies this host has, and everything removed at the end.
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use agent::sys::CgroupId;

/// Ends a test that hangs. An emulated machine beside other work may take minutes for what is done in seconds here.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits for a condition.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A name that no other test, run or program uses.
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("muster-test-bpf-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A group in the v2 hierarchy, and in the v1 hierarchies of the controllers that aren't there.
pub struct Group {
    v2: PathBuf,
    cpu: PathBuf,
    memory: PathBuf,
}

impl Group {
    pub fn new() -> Self {
        let name = unique_name();
        let v2_root = v2_root();
        let v2 = v2_root.join(&name);
        fs::create_dir(&v2).unwrap();
        let folder = |controller: &str| {
            let v1 = Path::new("/sys/fs/cgroup").join(controller);
            if v1_has(controller) {
                fs::create_dir(v1.join(&name)).unwrap();
                return v1.join(&name);
            }
            fs::write(v2_root.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
            v2.clone()
        };
        let (cpu, memory) = (folder("cpu"), folder("memory"));
        Self { v2, cpu, memory }
    }

    /// The number by which kernel programs know it.
    pub fn id(&self) -> CgroupId {
        CgroupId(fs::metadata(&self.v2).unwrap().ino())
    }

    pub fn memory_id(&self) -> u64 {
        fs::metadata(&self.memory).unwrap().ino()
    }

    /// A command that joins the group, its limits included, before it becomes what `script` says.
    pub fn command(&self, script: &str) -> Command {
        let mut folders = vec![self.v2.clone(), self.cpu.clone(), self.memory.clone()];
        folders.dedup();
        self.joining(&folders, script)
    }

    /// The same in the v2 group alone: a v1 cpu group gives no real-time budget.
    pub fn command_v2_only(&self, script: &str) -> Command {
        self.joining(std::slice::from_ref(&self.v2), script)
    }

    fn joining(&self, folders: &[PathBuf], script: &str) -> Command {
        let joins: String =
            folders.iter().map(|folder| format!("echo $$ > {}/cgroup.procs && ", folder.display())).collect();
        let mut command = Command::new("sh");
        // The outer shell's own work before it joins is charged elsewhere, by the kernel as by us.
        command.args(["-c", &format!("{joins} exec sh -c \"$0\""), script]);
        command.stdin(Stdio::null());
        command
    }

    pub fn limit_cpu(&self, percent: u32) {
        if self.cpu == self.v2 {
            fs::write(self.cpu.join("cpu.max"), format!("{} 100000", percent * 1000)).unwrap();
        } else {
            fs::write(self.cpu.join("cpu.cfs_period_us"), "100000").unwrap();
            fs::write(self.cpu.join("cpu.cfs_quota_us"), (percent * 1000).to_string()).unwrap();
        }
    }

    pub fn limit_memory(&self, bytes: u64) {
        let (limit, with_swap, swap) = if self.memory == self.v2 {
            ("memory.max", "memory.swap.max", 0)
        } else {
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes)
        };
        fs::write(self.memory.join(limit), bytes.to_string()).unwrap();
        // Absent where swap isn't accounted; then there is none to escape to, or the test will say so.
        let _ = fs::write(self.memory.join(with_swap), swap.to_string());
    }

    /// What the kernel itself charged.
    pub fn kernel_cpu_ns(&self) -> u64 {
        field(&fs::read_to_string(self.v2.join("cpu.stat")).unwrap(), "usage_usec").unwrap() * 1000
    }

    pub fn kernel_throttled(&self) -> u64 {
        field(&fs::read_to_string(self.cpu.join("cpu.stat")).unwrap(), "nr_throttled").unwrap()
    }

    pub fn kernel_memory_bytes(&self) -> u64 {
        let file = if self.memory == self.v2 { "memory.current" } else { "memory.usage_in_bytes" };
        fs::read_to_string(self.memory.join(file)).unwrap().trim().parse().unwrap()
    }

    /// Time in which some thread of the group waited for memory, by the kernel's pressure figures.
    pub fn kernel_memory_pressure_us(&self) -> u64 {
        let text = fs::read_to_string(self.v2.join("memory.pressure")).unwrap();
        let some = text.lines().find(|line| line.starts_with("some ")).unwrap();
        some.rsplit_once("total=").unwrap().1.trim().parse().unwrap()
    }

    pub fn path(&self) -> &Path {
        &self.v2
    }

    pub fn freeze(&self, frozen: bool) {
        fs::write(self.v2.join("cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
        wait_for("the freezer", || self.event("frozen") == u64::from(frozen));
    }

    pub fn wait_empty(&self) {
        wait_for("an empty cgroup", || self.event("populated") == 0);
    }

    fn event(&self, name: &str) -> u64 {
        field(&fs::read_to_string(self.v2.join("cgroup.events")).unwrap(), name).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.v2.join("cgroup.freeze"), "0");
        let _ = fs::write(self.v2.join("cgroup.kill"), "1");
        let deadline = Instant::now() + PATIENCE;
        for folder in [&self.cpu, &self.memory, &self.v2] {
            // Busy until the last process is gone for good.
            while folder.exists() && fs::remove_dir(folder).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if folder.exists() {
                eprintln!("left behind: {}", folder.display());
            }
        }
    }
}

/// A child that is killed and reaped when the test is done with it.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap()
}

fn v2_root() -> PathBuf {
    let mounts = mounts();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    mount.and_then(|line| line.split(' ').nth(1)).expect("a cgroup2 mount").into()
}

fn v1_has(controller: &str) -> bool {
    let folder = format!("/sys/fs/cgroup/{controller}");
    mounts().lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(&folder) && fields.next() == Some("cgroup")
    })
}
