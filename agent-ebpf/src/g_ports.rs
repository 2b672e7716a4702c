//! Ports that tasks bind or listen on without having declared them: told, and refused where the agent wants that.
//!
//! The one place that changes what the kernel does. A bind to a port is judged by the cgroup of whoever calls;
//! a socket that listens, by the cgroup of whoever made it. Cgroups without rules (tasks with a network of their own,
//! processes that aren't tasks) do as they like. Port 0 lets the kernel choose, as every client does, and is allowed;
//! that somebody then listens there can't be refused any more, only told.
//! Runs once for each bind and for each change of a TCP socket's state.
use agent_ebpf_common::{PortHow, PortRecord, PortRules, Stat};
use aya_ebpf::{
    helpers::bpf_get_current_task_btf,
    macros::{btf_tracepoint, cgroup_sock_addr},
    programs::{BtfTracePointContext, SockAddrContext},
};

use crate::{
    kernel::{Pointer, Sock, Task},
    maps::{PORT_EVENTS, PORT_RULES, count},
};

// Verdicts of such a program (`include/linux/bpf-cgroup.h`).
const REFUSE: i32 = 0;
const ALLOW: i32 = 1;

// `include/net/tcp_states.h`, `include/uapi/linux/in.h`.
const LISTEN: i32 = 10;
const TCP: u8 = 6;

#[cgroup_sock_addr(bind4)]
pub fn g_bind4(ctx: SockAddrContext) -> i32 {
    bind(&ctx)
}

#[cgroup_sock_addr(bind6)]
pub fn g_bind6(ctx: SockAddrContext) -> i32 {
    bind(&ctx)
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn g_listen(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock(Pointer::new(ctx.arg(0)));
    if ctx.arg::<i32>(2) != LISTEN {
        return 0;
    }
    judge(sock.cgroup().id(), sock.port(), TCP, true);
    0
}

#[inline(always)]
fn bind(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context is the kernel's, and these are its fields; the port is in network byte order.
    let (port, protocol) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).protocol) };
    let port = u16::from_be(port as u16);
    if port == 0 {
        return ALLOW;
    }
    // SAFETY: the helper takes nothing, and its answer is a task that lives as long as this runs.
    let task = Task(Pointer::new(unsafe { bpf_get_current_task_btf() }.cast()));
    if judge(task.cgroup().id(), port, protocol as u8, false) { ALLOW } else { REFUSE }
}

/// Whether it may go on.
#[inline(always)]
fn judge(cgroup: u64, port: u16, protocol: u8, is_listening: bool) -> bool {
    let Some(rules) = PORT_RULES.get_ptr_mut(&cgroup) else {
        count(Stat::PortOther, 1);
        return true;
    };
    // SAFETY: the value outlives this run. The agent replaces it as a whole, and of what is written here each word
    // stands for itself: two CPUs at the same time may tell one port twice.
    let rules: &mut PortRules = unsafe { &mut *rules };
    count(Stat::PortJudged, 1);
    if is_declared(rules, port) {
        return true;
    }
    let is_refused = rules.refuses != 0 && !is_listening;
    // A task that tries every port fills no buffer: one event for each, and none for those that share its bit.
    let (word, bit) = (usize::from(port) / 64 % PortRules::TOLD_WORDS, 1_u64 << (port % 64));
    if let Some(told) = rules.told.get_mut(word)
        && *told & bit == 0
    {
        *told |= bit;
        tell(cgroup, port, protocol, is_refused, is_listening);
    }
    !is_refused
}

#[inline(always)]
fn is_declared(rules: &PortRules, port: u16) -> bool {
    for [first, last] in &rules.declared {
        // No range begins with zero: these are the ones that aren't used.
        if *first == 0 {
            return false;
        }
        if (*first..=*last).contains(&port) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn tell(cgroup: u64, port: u16, protocol: u8, is_refused: bool, is_listening: bool) {
    let how = if is_refused {
        PortHow::Refused
    } else if is_listening {
        PortHow::Listens
    } else {
        PortHow::Bound
    };
    let record = PortRecord { cgroup_id: cgroup, port, protocol, how: how as u8, reserved: 0 };
    if PORT_EVENTS.output::<PortRecord>(record, 0).is_err() {
        count(Stat::PortLost, 1);
    }
}
