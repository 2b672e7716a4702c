//! Takes into the agent what other compilers built for it.

#[path = "build/ebpf.rs"]
mod ebpf;

fn main() {
    ebpf::embed();
}
