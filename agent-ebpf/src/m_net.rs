//! Packets of registered cgroups' sockets, as the IP layer hands them over.
//!
//! Runs for every packet of a socket below the agent's cgroup. A packet that the card will cut into segments is
//! counted as so many, with the bytes that it has here: headers once. What belongs to no socket isn't seen: resets
//! of unknown connections, acknowledgements of closed ones, forwarded packets.
//! Always lets the packet pass.
use agent_ebpf_common::Stat;
use aya_ebpf::{helpers::generated::bpf_skb_cgroup_id, macros::cgroup_skb, programs::SkBuffContext};

use crate::maps::{FIGURES, add, count};

/// The verdict: let it pass.
const PASS: i32 = 1;

#[cgroup_skb(ingress)]
pub fn m_net_in(ctx: SkBuffContext) -> i32 {
    let Some(figures) = FIGURES.get_ptr_mut(cgroup_id(&ctx)) else {
        count(Stat::ReceivedOther, 1);
        return PASS;
    };
    // SAFETY: the map's value lives as long as this program runs.
    let (bytes, packets) =
        unsafe { (&raw mut (*figures).received_bytes, &raw mut (*figures).received_packets) };
    add(bytes, u64::from(ctx.len()));
    add(packets, segments(&ctx));
    count(Stat::ReceivedCounted, 1);
    PASS
}

#[cgroup_skb(egress)]
pub fn m_net_out(ctx: SkBuffContext) -> i32 {
    let Some(figures) = FIGURES.get_ptr_mut(cgroup_id(&ctx)) else {
        count(Stat::SentOther, 1);
        return PASS;
    };
    // SAFETY: as above.
    let (bytes, packets) = unsafe { (&raw mut (*figures).sent_bytes, &raw mut (*figures).sent_packets) };
    add(bytes, u64::from(ctx.len()));
    add(packets, segments(&ctx));
    count(Stat::SentCounted, 1);
    PASS
}

/// The cgroup of the socket that the packet is of.
#[inline(always)]
fn cgroup_id(ctx: &SkBuffContext) -> u64 {
    // SAFETY: the helper reads the packet that we were given.
    unsafe { bpf_skb_cgroup_id(ctx.skb.skb) }
}

#[inline(always)]
fn segments(ctx: &SkBuffContext) -> u64 {
    // SAFETY: a field of the context, which the verifier turns into the kernel's own.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    if segments == 0 { 1 } else { u64::from(segments) }
}
