//! Takes the kernel programs into the agent.
//!
//! `cargo xtask ebpf` builds them, with another compiler for another target; this only copies the result
//! to where `sys::bpf` embeds it from.
use std::{env, fs, path::Path};

/// Copies the object to `OUT_DIR`, or says which command makes it.
pub fn embed() {
    let object = Path::new("../agent-ebpf/target/agent-ebpf.o");
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rerun-if-changed=build/ebpf.rs");
    let Some(out) = env::var_os("OUT_DIR") else {
        println!("cargo::error=cargo didn't say where build output goes");
        return;
    };
    if let Err(error) = fs::copy(object, Path::new(&out).join("agent-ebpf.o")) {
        println!("cargo::error=the kernel programs aren't built ({}: {error})", object.display());
        println!("cargo::error=next: run `cargo xtask ebpf`, and build again");
    }
}
