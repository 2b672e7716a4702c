//! TCP connections of registered cgroups: opened, accepted, failed, and segments sent again.
//!
//! Runs a few times in the life of a connection. A socket belongs to the cgroup of whoever made it, an accepted one
//! to that of its listener.
use agent_ebpf_common::{CgroupFigures, Stat};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{Pointer, Sock, retransmit_says_error},
    maps::{FIGURES, count},
};

// States of a TCP connection (`net/tcp_states.h`).
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn m_conn(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock(Pointer::new(ctx.arg(0)));
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let is_news = (old == SYN_SENT || old == SYN_RECV) && (new == ESTABLISHED || new == CLOSE);
    if !is_news {
        return 0;
    }
    let Some(figures) = FIGURES.get_ptr_mut(sock.cgroup().id()) else {
        count(Stat::ConnectionOther, 1);
        return 0;
    };
    // SAFETY: the value belongs to this CPU, and the kernel doesn't run this program inside itself there.
    let figures: &mut CgroupFigures = unsafe { &mut *figures };
    match (old, new) {
        (SYN_SENT, ESTABLISHED) => figures.connections_opened += 1,
        (SYN_RECV, ESTABLISHED) => figures.connections_accepted += 1,
        _ => figures.connections_failed += 1,
    }
    count(Stat::ConnectionCounted, 1);
    0
}

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn m_retrans(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock(Pointer::new(ctx.arg(0)));
    if retransmit_says_error() && ctx.arg::<i32>(2) != 0 {
        return 0;
    }
    let Some(figures) = FIGURES.get_ptr_mut(sock.cgroup().id()) else {
        count(Stat::RetransmitOther, 1);
        return 0;
    };
    // SAFETY: as above.
    unsafe { (*figures).retransmits += 1 };
    count(Stat::RetransmitCounted, 1);
    0
}
