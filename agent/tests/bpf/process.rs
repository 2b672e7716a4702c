//! Processes that do what no shell can. The test program starts itself again, with the deed in its environment.
use std::{
    fs::{self, File},
    io::{Read as _, Write as _, stdin},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::{getpid, gettid},
};

const DEED: &str = "MUSTER_TEST_DEED";

/// A command that does one of the deeds below.
pub fn command(deed: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments()).env(DEED, deed).stdin(Stdio::piped()).stdout(Stdio::null());
    command
}

/// The same for a shell to run.
pub fn script(deed: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!("{DEED}={deed} exec {} {} > /dev/null", program.display(), arguments().join(" "))
}

/// A deed that says something.
pub fn script_that_speaks(deed: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!("{DEED}={deed} exec {} {}", program.display(), arguments().join(" "))
}

fn arguments() -> [&'static str; 3] {
    ["--exact", "process::deed", "--test-threads=1"]
}

/// Not a test: what the commands above run. Ends the process its own way.
#[test]
fn deed() {
    let Ok(deed) = std::env::var(DEED) else { return };
    match &*deed {
        "spin_in_real_time" => {
            become_real_time();
            let mut state = 1_u64;
            for step in 0..20_000_000 {
                state = std::hint::black_box(state ^ step);
            }
            std::process::exit(0);
        }
        "use_the_disk" => use_the_disk(),
        "take_turns" => take_turns(),
        "talk" => talk(),
        end => leave_and_let(end),
    }
}

/// What the deeds say on their standard output when a part is done; then they wait for a line.
pub const STAGE: &str = "muster-test-stage";

/// Says that a part is done, and waits until the test has looked.
fn stage() {
    let mut out = std::io::stdout();
    out.write_all(format!("\n{STAGE}\n").as_bytes()).unwrap();
    out.flush().unwrap();
    stdin().read_line(&mut String::new()).unwrap();
}

/// Where `use_the_disk` writes.
pub const FILE: &str = "MUSTER_TEST_FILE";
pub const FILE_BYTES: u64 = 4 << 20;

/// Writes a file and reads it back from the disk; cuts half of what it wrote a second time before it's on the disk.
fn use_the_disk() {
    stage();
    let path = PathBuf::from(std::env::var_os(FILE).unwrap());
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all(&vec![7; FILE_BYTES as usize]).unwrap();
    file.sync_all().unwrap();
    forget_cache(&file);
    let mut bytes = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, FILE_BYTES);
    drop(bytes);
    // The file system frees the blocks when the last descriptor is closed; that dirties blocks of its own.
    drop(file);
    fs::remove_file(path).unwrap();
    stage();
    std::process::exit(0);
}

#[expect(unsafe_code, reason = "no safe call drops a file's cache")]
pub fn forget_cache(file: &File) {
    // SAFETY: advice about an open file of our own; no memory is involved.
    let failed = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(failed, 0);
}

/// Threads that compute and sleep by turns, more than there are CPUs for them.
fn take_turns() {
    const THREADS: usize = 4;
    let barrier = Arc::new(Barrier::new(THREADS + 1));
    for _ in 0..THREADS {
        let barrier = barrier.clone();
        thread::spawn(move || {
            barrier.wait();
            for _ in 0..100 {
                let end = Instant::now() + Duration::from_millis(1);
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
                thread::sleep(Duration::from_micros(500));
            }
            barrier.wait();
            // Stays, so that its figures can be read.
            loop {
                thread::park();
            }
        });
    }
    on_one_cpu();
    stage();
    barrier.wait();
    barrier.wait();
    stage();
    std::process::exit(0);
}

/// Keeps all threads of this process on the CPU that it is on.
fn on_one_cpu() {
    let mut one = nix::sched::CpuSet::new();
    one.set(0).unwrap();
    for thread in fs::read_dir("/proc/self/task").unwrap() {
        let tid = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(tid), &one).unwrap();
    }
}

pub const CONNECTIONS: u64 = 5;
pub const REFUSED: u64 = 3;
/// An address that nobody answers at, behind a link whose other end is deaf.
const SILENT: &str = "10.77.0.2:9";

/// Talks to itself in a network of its own: first all goes well, then nobody listens, then nobody answers.
fn talk() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let ip = |line: &str| Command::new("ip").args(line.split(' ')).status().unwrap().success();
    assert!(ip("link set lo up"));
    stage();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut one = TcpStream::connect(address).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        one.write_all(&[1; 100_000]).unwrap();
        other.read_exact(&mut [0; 100_000]).unwrap();
        other.write_all(&[2; 3000]).unwrap();
        one.read_exact(&mut [0; 3000]).unwrap();
        open.push((one, other));
    }
    let (here, there) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    for _ in 0..10 {
        here.send_to(&[3; 500], there.local_addr().unwrap()).unwrap();
        there.recv(&mut [0; 500]).unwrap();
    }
    stage();

    drop(listener);
    for _ in 0..REFUSED {
        assert!(TcpStream::connect(address).is_err());
    }
    stage();

    let is_there = ip("link add muster-a type veth peer name muster-b")
        && ip("addr add 10.77.0.1/24 dev muster-a")
        && ip("link set muster-b up")
        && ip("link set muster-a up")
        && ip("neigh add 10.77.0.2 lladdr 02:00:00:00:00:02 dev muster-a");
    if is_there {
        thread::spawn(|| TcpStream::connect(SILENT));
    }
    stage();
    std::process::exit(if is_there { 0 } else { 3 });
}

/// The leader leaves alone; when it is gone, this thread ends the process in the given way.
fn leave_and_let(end: &str) {
    // The leader waits in the test harness for this thread, which is a test.
    assert_ne!(getpid(), gettid());
    stdin().read_line(&mut String::new()).unwrap();
    send_leader_away();
    let is_leader_gone = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('Z')
    };
    while !is_leader_gone() {
        std::thread::yield_now();
    }
    match end {
        "exit_group" => std::process::exit(8),
        "signal" => kill(getpid(), Signal::SIGKILL).unwrap(),
        "exit" => exit_thread(4),
        other => panic!("{other}"),
    }
}

/// Ends this thread alone, by the bare system call.
#[expect(unsafe_code, reason = "no safe call ends a thread without its process")]
fn exit_thread(status: i32) {
    // SAFETY: nothing of this thread's stack is used by another one that goes on.
    unsafe { libc::syscall(libc::SYS_exit, status) };
}

extern "C" fn on_signal(_signal: i32) {
    exit_thread(3);
}

/// Makes the leader end itself, alone, in a signal handler.
#[expect(unsafe_code, reason = "no safe call has another thread run something at once")]
fn send_leader_away() {
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler makes one system call, which is async-signal-safe, and never returns.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let leader = getpid().as_raw();
    // SAFETY: a signal to a thread of our own, by number; no memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, leader, leader, libc::SIGUSR1) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[expect(unsafe_code, reason = "no safe call sets the scheduling policy")]
fn become_real_time() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live value that the call only reads.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
