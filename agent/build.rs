//! Takes into the agent what other compilers built for it.

#[path = "build/ebpf.rs"]
mod ebpf;
#[path = "build/init.rs"]
mod init;

fn main() {
    ebpf::embed();
    init::build();
}
