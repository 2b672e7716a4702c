//! The programs that run in the kernel, one module each.
//!
//! `m_cpu` charges CPU time, `m_exit` keeps exit statuses and what ended threads used, `m_snap` walks living threads,
//! `m_oom` reports victims of the OOM killer; `m_rq`, `m_net`, `m_conn`, `m_block`, `m_fork` and `m_reclaim` count
//! what their names say; `m_stack` takes stacks of one task while somebody asks for its profile. They only count.
//! `g_ports` guards ports, and is the only one that changes what the kernel does.
//! Start at [`kernel`] for how they read its structs, and at [`maps`] for what they leave to the agent.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod g_ports;
mod kernel;
mod m_block;
mod m_conn;
mod m_cpu;
mod m_exit;
mod m_fork;
mod m_net;
mod m_oom;
mod m_reclaim;
mod m_rq;
mod m_snap;
mod m_stack;
mod maps;

/// The kernel reads this section to decide which helpers the programs may call.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Never reached: nothing here panics, and the verifier would refuse the loop if something did.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
