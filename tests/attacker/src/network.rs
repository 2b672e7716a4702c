//! Attacks on other people's packets and sockets. Everything stays on loopback.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use crate::{Outcome, Target, all_must_fail, syscall};

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<usize> {
    syscall(libc::SYS_socket, [family as usize, kind as usize, protocol as usize, 0, 0, 0])
}

pub fn open_a_raw_socket(_: &Target) -> Outcome {
    all_must_fail([
        ("raw ICMP".to_owned(), socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).map(drop)),
        ("raw IP".to_owned(), socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW).map(drop)),
        ("raw IPv6".to_owned(), socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6).map(drop)),
    ])
}

pub fn open_a_packet_socket(_: &Target) -> Outcome {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    all_must_fail([
        ("packets".to_owned(), socket(libc::AF_PACKET, libc::SOCK_RAW, all).map(drop)),
        ("cooked packets".to_owned(), socket(libc::AF_PACKET, libc::SOCK_DGRAM, all).map(drop)),
    ])
}

/// SOCK_DESTROY of sock_diag(7): ends any connection of the network namespace. Tried on one of its own.
pub fn destroy_a_socket(_: &Target) -> Outcome {
    match try_to_destroy() {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Contained(format!("netlink: {error}")),
    }
}

fn try_to_destroy() -> io::Result<Outcome> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    let netlink = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG)?;
    // nlmsghdr and inet_diag_req_v2 (include/uapi/linux/inet_diag.h).
    let mut message = Vec::new();
    message.extend(72u32.to_ne_bytes());
    message.extend(21u16.to_ne_bytes()); // SOCK_DESTROY
    message.extend(5u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_ACK
    message.extend([0u8; 8]);
    message.extend([libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(near.local_addr()?.port().to_be_bytes());
    message.extend(near.peer_addr()?.port().to_be_bytes());
    for _ in 0..2 {
        message.extend([127, 0, 0, 1]);
        message.extend([0u8; 12]);
    }
    message.extend([0u8; 4]);
    message.extend(u64::MAX.to_ne_bytes());
    syscall(libc::SYS_sendto, [netlink, message.as_ptr() as usize, message.len(), 0, 0, 0])?;
    let mut answer = [0u8; 128];
    syscall(libc::SYS_recvfrom, [netlink, answer.as_mut_ptr() as usize, answer.len(), 0, 0, 0])?;
    let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    near.set_read_timeout(Some(Duration::from_secs(5)))?;
    let lives = far.write_all(b"x").and_then(|()| near.read_exact(&mut [0]));
    Ok(match (errno, lives) {
        (0, _) => Outcome::Escaped("the kernel obeyed".to_owned()),
        (_, Err(error)) => Outcome::Escaped(format!("the connection died: {error}")),
        (errno, Ok(())) => Outcome::Contained(io::Error::from_raw_os_error(-errno).to_string()),
    })
}

/// RTM_SETLINK of loopback to what it is already, and a rule for packets.
pub fn change_the_network(_: &Target) -> Outcome {
    let set_link = || -> io::Result<()> {
        let netlink = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        let mut message = Vec::new();
        message.extend(32u32.to_ne_bytes());
        message.extend(19u16.to_ne_bytes()); // RTM_SETLINK
        message.extend(5u16.to_ne_bytes());
        message.extend([0u8; 8]);
        message.extend([0u8; 4]);
        message.extend(1u32.to_ne_bytes()); // loopback
        message.extend([0u8; 8]); // no flag changes
        syscall(libc::SYS_sendto, [netlink, message.as_ptr() as usize, message.len(), 0, 0, 0])?;
        let mut answer = [0u8; 128];
        syscall(libc::SYS_recvfrom, [netlink, answer.as_mut_ptr() as usize, answer.len(), 0, 0, 0])?;
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        }
    };
    let filter = || -> io::Result<()> {
        let raw = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        // IPT_SO_GET_INFO
        syscall(libc::SYS_getsockopt, [raw, 0, 64, 0, 0, 0]).map(drop)
    };
    all_must_fail([("set loopback".to_owned(), set_link()), ("read packet rules".to_owned(), filter())])
}

pub fn bind_a_low_port(_: &Target) -> Outcome {
    // SAFETY: it only asks.
    if unsafe { libc::geteuid() } == 0 {
        return Outcome::Absent("root may".to_owned());
    }
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim() == "0" {
        return Outcome::Absent("this host lets everyone".to_owned());
    }
    all_must_fail([("port 7".to_owned(), TcpListener::bind("127.0.0.1:7").map(drop))])
}

/// Takes each port that is wished for, as `tcp=ADDRESS` or `udp=ADDRESS`; says of each what came of it, and stays
/// unless the last wish is `end`.
pub fn bind_and_stay(wishes: &[&str]) -> ! {
    let mut tcp = Vec::new();
    let mut udp = Vec::new();
    for wish in wishes {
        if *wish == "end" {
            std::process::exit(0);
        }
        let (kind, address) = wish.split_once('=').unwrap_or(("tcp", wish));
        let taken = match kind {
            "udp" => std::net::UdpSocket::bind(address).map(|socket| udp.push(socket)),
            _ => std::net::TcpListener::bind(address).map(|socket| tcp.push(socket)),
        };
        match taken {
            Ok(()) => println!("{wish} ok"),
            Err(error) => println!("{wish} {error}"),
        }
    }
    println!("all tried");
    loop {
        std::thread::park();
    }
}
