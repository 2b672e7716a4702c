//! Sockets that live in a task's network.
//!
//! A socket belongs to the network namespace of the thread that made it, whoever uses it later (network_namespaces(7)).
//! So a thread that lives for this alone enters the namespace, makes the socket and ends.

use std::{io, net::IpAddr, thread};

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpSocket;

use super::Process;

/// A TCP socket for an address of this kind: in the network of the process, or in ours.
///
/// With a process it blocks for as long as a thread takes to start and end.
pub fn tcp_socket(inside: Option<&Process>, address: IpAddr) -> io::Result<TcpSocket> {
    let make = || match address {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let Some(process) = inside else { return make() };
    let enter = || -> io::Result<TcpSocket> {
        // By the pidfd, so that no other process can be meant; Linux 5.8 has it.
        setns(process, CloneFlags::CLONE_NEWNET)?;
        make()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, enter)?;
        thread.join().unwrap_or_else(|_panic| Err(io::Error::other("a thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, net::SocketAddr, process::Command};

    use nix::sched::unshare;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use tokio::net::TcpListener;

    use super::*;
    use crate::sys::ProcessId;

    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "what is skipped says so")]
    async fn a_socket_is_of_the_network_of_the_process_and_the_thread_stays_in_ours() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: entering a network namespace needs root");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // A child of a thread that has another network, in which loopback is down.
        let child = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Command::new("sleep").arg("1000").spawn().unwrap()
        });
        let mut child = child.join().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let fd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let process = Process::new(ProcessId { pid: child.id(), start_ticks: 0 }, fd);

        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let theirs = tcp_socket(Some(&process), ip).unwrap().connect(address).await;
        let ours = tcp_socket(None, ip).unwrap().connect(address).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(theirs.unwrap_err().raw_os_error(), Some(libc::ENETUNREACH));
        assert_eq!(ours.unwrap().peer_addr().unwrap(), SocketAddr::new(ip, address.port()));
    }
}
