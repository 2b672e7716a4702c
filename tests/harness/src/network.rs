//! A network for one cluster: every daemon in a network namespace of its own, all on one bridge, with links that
//! can be cut in either direction and lose packets.
//!
//! Nothing of it is in the host's namespace, and nothing has a name: a namespace ends with the last descriptor or
//! process that holds it, so even a test that is killed leaves nothing. Start at [`Network::make`].
//!
//! ## Design
//!
//! Without mTLS daemons listen on loopback only, and the tests shall not need a switch that lets them do otherwise.
//! So the bridge carries a part of the loopback addresses: inside these namespaces only 127.0.0.1 stays on `lo`,
//! and `route_localnet` lets the others leave the machine that each namespace stands for.

use std::{
    fmt,
    fs::File,
    io::Write as _,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

/// One who has an address on the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// The test itself: its clients and its commands.
    Client,
    /// From 1 on.
    Member(usize),
    /// From 0 on.
    Agent(usize),
}

impl Node {
    pub fn address(self) -> Ipv4Addr {
        let last = match self {
            Self::Member(number) => number,
            Self::Agent(number) => 101 + number,
            Self::Client => 254,
        };
        Ipv4Addr::new(127, 77, 0, u8::try_from(last).expect("a cluster under test is small"))
    }
}

/// A network namespace, held by a descriptor.
struct Namespace(File);

impl Namespace {
    /// Makes one, and lets `set_up` run in it.
    fn make<T: Send>(set_up: impl FnOnce() -> T + Send) -> (Self, T) {
        in_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root makes network namespaces");
            let file = File::open("/proc/thread-self/ns/net").expect("a namespace can be held");
            (Self(file), set_up())
        })
    }

    /// Runs `work` on a thread that is in this namespace, as whatever it starts will be.
    fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_a_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root enters network namespaces");
            work()
        })
    }

    /// How another process finds it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Namespaces belong to threads, so each change of one has a thread that ends with it.
fn in_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let done = thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What is wrong with the links now.
#[derive(Debug, Default)]
struct Faults {
    /// The second does not hear the first.
    cut: Vec<(Node, Node)>,
    /// Of all packets, in hundredths.
    lost: u32,
}

/// A bridge and everyone on it.
pub struct Network {
    hub: Namespace,
    nodes: Vec<(Node, Namespace)>,
    faults: Mutex<Faults>,
}

impl fmt::Debug for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(|(node, _)| *node).collect();
        formatter.debug_struct("Network").field("nodes", &nodes).finish_non_exhaustive()
    }
}

impl Network {
    /// Why this machine can't have one; `None` when it can.
    pub fn lack() -> Option<String> {
        let lacking = |name: &str| {
            let found = Command::new(name).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.is_err()
        };
        if let Some(name) = ["ip", "nft"].into_iter().find(|name| lacking(name)) {
            return Some(format!("there is no `{name}` (`cargo xtask setup test` installs it)"));
        }
        // The kernel may lack what the two programs ask of it.
        let tries = [
            ("ip", &["link", "add", "name", "bridge", "type", "bridge"][..], ""),
            ("ip", &["link", "add", "name", "one", "type", "veth", "peer", "name", "other"], ""),
            (
                "nft",
                &["-f", "-"],
                "table bridge faults {\nchain links {\ntype filter hook forward priority 0\nnumgen random mod 100 < 10 drop\n}\n}\n",
            ),
        ];
        let attempt = || tries.iter().find_map(|(name, arguments, input)| run(name, arguments, input).err());
        Namespace::make(attempt).1
    }

    /// A bridge with the client, and so many members and agents, on it.
    pub fn make(members: usize, agents: usize) -> Self {
        let (hub, ()) = Namespace::make(|| {
            must("ip", &["link", "add", "name", "bridge", "type", "bridge"]);
            must("ip", &["link", "set", "dev", "bridge", "up"]);
        });
        let members = (1..=members).map(Node::Member);
        let agents = (0..agents).map(Node::Agent);
        let nodes = std::iter::once(Node::Client).chain(members).chain(agents);
        let nodes = nodes.enumerate().map(|(place, node)| (node, join(&hub, place, node))).collect();
        Self { hub, nodes, faults: Mutex::default() }
    }

    /// Runs `work` as if on the machine of a node: what it starts is there, too.
    pub fn enter<T: Send>(&self, node: Node, work: impl FnOnce() -> T + Send) -> T {
        let found = self.nodes.iter().find(|(known, _)| *known == node);
        found.expect("the node is on the network").1.enter(work)
    }

    /// From now on `to` hears nothing of what `from` says.
    pub fn cut(&self, from: Node, to: Node) {
        self.change(|faults| faults.cut.push((from, to)));
    }

    /// From now on nobody hears the node, and it hears nobody.
    pub fn isolate(&self, node: Node) {
        self.silence(node);
        self.deafen(node);
    }

    /// From now on nobody hears the node.
    pub fn silence(&self, node: Node) {
        let others = self.others(node);
        self.change(|faults| faults.cut.extend(others.map(|other| (node, other))));
    }

    /// From now on the node hears nobody.
    pub fn deafen(&self, node: Node) {
        let others = self.others(node);
        self.change(|faults| faults.cut.extend(others.map(|other| (other, node))));
    }

    /// From now on so many of a hundred packets are lost, on every link.
    pub fn lose(&self, hundredths: u32) {
        self.change(|faults| faults.lost = hundredths);
    }

    /// All links work again.
    pub fn mend(&self) {
        self.change(|faults| *faults = Faults::default());
    }

    fn others(&self, node: Node) -> impl Iterator<Item = Node> {
        self.nodes.iter().map(|(other, _)| *other).filter(move |other| *other != node)
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut faults);
        let mut rules = String::from("flush ruleset\ntable bridge faults {\nchain links {\n");
        rules += "type filter hook forward priority 0\n";
        for (from, to) in &faults.cut {
            rules += &format!("ip saddr {} ip daddr {} drop\n", from.address(), to.address());
        }
        if faults.lost > 0 {
            rules += &format!("numgen random mod 100 < {} drop\n", faults.lost);
        }
        rules += "}\n}\n";
        let done = self.hub.enter(|| run("nft", &["-f", "-"], &rules));
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A namespace for the node, with a cable to the bridge.
fn join(hub: &Namespace, place: usize, node: Node) -> Namespace {
    let (own, ()) = Namespace::make(|| {});
    let plug = format!("plug{place}");
    hub.enter(|| {
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &own.path()];
        must("ip", &[&["link", "add", "name", &plug], &peer[..]].concat());
        must("ip", &["link", "set", "dev", &plug, "master", "bridge", "up"]);
    });
    own.enter(|| {
        must("ip", &["link", "set", "dev", "lo", "up"]);
        must("ip", &["route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"]);
        // By the thread's own path: each namespace has settings of its own.
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").expect("root sets it");
        let address = format!("{}/24", node.address());
        must("ip", &["address", "add", &address, "dev", "eth0", "scope", "global"]);
        must("ip", &["link", "set", "dev", "eth0", "up"]);
    });
    own
}

fn must(name: &str, arguments: &[&str]) {
    run(name, arguments, "").unwrap_or_else(|error| panic!("{error}"));
}

/// Runs a command to its end; answers what it complained about.
fn run(name: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let failed = |why: String| format!("`{name} {}` failed: {why}", arguments.join(" "));
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that doesn't read says why when it ends.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
