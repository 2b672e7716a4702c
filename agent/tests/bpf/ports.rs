//! The guard over ports, with real sockets. Needs root; skips loudly without.

use std::{
    io::{self, ErrorKind::PermissionDenied},
    net::{TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

use agent::sys::bpf::{Options, PortEvent, PortHow, Program, Programs};

use super::{
    LIMITS, Pins,
    group::{Group, wait_for},
    is_root,
};

/// The first of two ports that no other test here uses, below those that the kernel gives to clients.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % 300) as u16 * 16;
    20_000 + offset + NEXT.fetch_add(2, Ordering::Relaxed)
}

fn start(group: &Group) -> Option<(Pins, Programs)> {
    let pins = Pins::new()?;
    let options = Options {
        limits: LIMITS,
        cgroup: Some(group.path().to_owned()),
        guards_ports: true,
        ..Options::default()
    };
    let programs = pins.open(&[Program::Bind4, Program::Bind6, Program::Listen], options)?;
    Some((pins, programs))
}

const WISHES: &str = "MUSTER_TEST_PORTS";

/// Executed by the tests below in a group of theirs: binds what it is told, and says what came of it.
#[test]
#[ignore = "binds what another test tells it"]
#[expect(clippy::print_stdout, reason = "the test that started it reads this")]
fn a_process_that_binds() {
    let Ok(wishes) = std::env::var(WISHES) else { return };
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    let mut bind = |wish: &str| -> io::Result<String> {
        let (kind, address) = wish.split_once('=').unwrap();
        if kind == "tcp" {
            let socket = TcpListener::bind(address)?;
            let port = socket.local_addr()?.port();
            held.push(Box::new(socket));
            return Ok(port.to_string());
        }
        held.push(Box::new(UdpSocket::bind(address)?));
        Ok("ok".to_owned())
    };
    if wishes == "all" {
        for port in (1..=u16::MAX).chain(1..=u16::MAX) {
            assert_eq!(
                bind(&format!("udp=127.0.0.1:{port}")).unwrap_err().kind(),
                PermissionDenied,
                "{port}"
            );
        }
        return println!("> done");
    }
    for wish in wishes.split(' ') {
        match bind(wish) {
            Ok(said) => println!("> {said}"),
            Err(error) => println!("> {}", error.raw_os_error().unwrap()),
        }
    }
}

/// What such a process says: a port that it listens on, `ok`, or an errno, for each wish.
fn bind(group: &Group, wishes: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let test = "ports::a_process_that_binds";
    let script = format!("exec '{}' --ignored --exact --nocapture {test}", program.display());
    let output = group.command(&script).env(WISHES, wishes).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.strip_prefix("> ")).collect::<Vec<_>>().join(" ")
}

fn events(programs: &Programs, count: usize) -> Vec<(u16, u8, PortHow)> {
    let mut events = programs.port_events().unwrap();
    let mut seen = Vec::new();
    wait_for("events", || {
        while let Some(PortEvent { cgroup: _, port, protocol, how }) = events.take() {
            seen.push((port, protocol, how));
        }
        seen.len() >= count
    });
    seen
}

const TCP: u8 = 6;
const UDP: u8 = 17;

#[test]
fn a_port_that_was_not_declared_is_refused_and_told_once() {
    if !is_root() {
        return;
    }
    let group = Group::new();
    let Some((_pins, programs)) = start(&group) else { return };
    let (ours, other, beyond) = (free_port(), free_port(), free_port());
    programs.guard_ports(group.id(), &[(ours, ours)], true).unwrap();
    let wishes = [
        format!("tcp=127.0.0.1:{ours} udp=[::1]:{ours}"),
        format!("tcp=127.0.0.1:{other} tcp=0.0.0.0:{other}"),
        format!("udp=[::1]:{beyond} tcp=[::ffff:127.0.0.1]:{beyond}"),
        "tcp=127.0.0.1:80 udp=127.0.0.1:0".to_owned(),
    ];
    assert_eq!(bind(&group, &wishes.join(" ")), format!("{ours} ok 1 1 1 1 1 ok"));
    assert_eq!(
        events(&programs, 3),
        [(other, TCP, PortHow::Refused), (beyond, UDP, PortHow::Refused), (80, TCP, PortHow::Refused)]
    );
    // Others on this host, and the group itself when nobody guards it, do as they like.
    assert!(TcpListener::bind(("127.0.0.1", other)).is_ok());
    programs.unguard_ports(group.id()).unwrap();
    assert_eq!(bind(&group, &format!("tcp=127.0.0.1:{other}")), other.to_string());
}

#[test]
fn where_ports_are_only_reported_nothing_is_refused() {
    if !is_root() {
        return;
    }
    let group = Group::new();
    let Some((_pins, programs)) = start(&group) else { return };
    let (ours, other) = (free_port(), free_port());
    programs.guard_ports(group.id(), &[(ours, ours + 1)], false).unwrap();
    let said = bind(&group, &format!("tcp=127.0.0.1:{other} tcp=127.0.0.1:0 udp=127.0.0.1:0"));
    let chosen: u16 = said.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(said, format!("{other} {chosen} ok"));
    assert_eq!(events(&programs, 2), [(other, TCP, PortHow::Bound), (chosen, TCP, PortHow::Listens)]);
    // A guard that is set anew tells anew.
    programs.guard_ports(group.id(), &[], true).unwrap();
    assert_eq!(bind(&group, &format!("tcp=127.0.0.1:{ours}")), "1");
    assert_eq!(events(&programs, 1), [(ours, TCP, PortHow::Refused)]);
}

#[test]
fn a_task_that_tries_every_port_fills_nothing() {
    if !is_root() {
        return;
    }
    let group = Group::new();
    let Some((_pins, programs)) = start(&group) else { return };
    programs.guard_ports(group.id(), &[], true).unwrap();
    assert_eq!(bind(&group, "all"), "done");
    let judged = programs.count(agent_ebpf_common::Stat::PortJudged).unwrap();
    let lost = programs.count(agent_ebpf_common::Stat::PortLost).unwrap();
    assert_eq!(judged, 2 * 65_535);
    let mut events = programs.port_events().unwrap();
    let told = std::iter::from_fn(|| events.take()).count() as u64;
    assert_eq!(told + lost, 4096, "one for each bit: {told} told, {lost} lost");
    assert!(told > 100);
}
