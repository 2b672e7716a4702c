//! Which compiler and linker build the kernel programs.
//!
//! The compiler needs the source of `core` beside it, and an LLVM that isn't newer than bpf-linker's.
//! A rustup tool chain with rust-src has the source; Debian's `rustc-web` with `rust-web-src` is the way
//! on a machine without one. Start at [`kernel_rustc`].

use std::path::{Path, PathBuf};

use crate::command::{capture, find, program};

/// Debian's own compiler, which lies beside rustup's without getting in its way.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build `core` for the kernel's target.
#[derive(Debug, Clone)]
pub struct KernelRustc {
    /// What to set `RUSTC` to.
    pub rustc: PathBuf,
    /// Where the source of the standard library lies, below `lib/rustlib/src/rust`.
    pub sysroot: PathBuf,
    /// How people call it.
    pub name: String,
    /// LLVM's major version inside it; bpf-linker's must not be older.
    pub llvm_major: u32,
}

/// The compiler for the kernel programs: one that the present bpf-linker can follow, else one whose LLVM
/// can be had here.
///
/// `None` when there is neither; `cargo xtask setup` then installs Debian's.
pub fn kernel_rustc() -> Option<KernelRustc> {
    let candidates = candidates();
    let linked = bpf_linker().and_then(|linker| linked_llvm(&linker));
    let ready = candidates.iter().find(|candidate| linked.is_some_and(|own| own >= candidate.llvm_major));
    let possible = || candidates.iter().find(|candidate| can_have_llvm(candidate.llvm_major));
    ready.or_else(possible).cloned()
}

/// The linker that turns LLVM bitcode into a BPF object.
pub fn bpf_linker() -> Option<PathBuf> {
    find("bpf-linker")
}

/// The major version of the LLVM library that this program is linked with.
pub fn linked_llvm(linker: &Path) -> Option<u32> {
    parse_linked_llvm(&capture(program("ldd").arg(linker)).ok()?)
}

/// Where Debian puts an LLVM.
pub fn llvm_prefix(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

/// Whether this LLVM is here to link with.
pub fn has_llvm(major: u32) -> bool {
    llvm_prefix(major).join("lib/libLLVM.so").exists()
}

fn can_have_llvm(major: u32) -> bool {
    has_llvm(major) || capture(program("apt-cache").args(["show", &format!("llvm-{major}-dev")])).is_ok()
}

/// Every compiler here that has the source, nightlies first, Debian's last.
fn candidates() -> Vec<KernelRustc> {
    let listing = capture(program("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let mut names: Vec<&str> = listing.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_by_key(|name| !name.starts_with("nightly"));
    let rustups = names.into_iter().filter_map(|name| {
        let rustc = capture(program("rustup").args(["which", "--toolchain", name, "rustc"])).ok()?;
        with_source(Path::new(rustc.trim()), format!("rustup's {name}"))
    });
    let debian = with_source(Path::new(DEBIAN_RUSTC), "Debian's rustc-web".to_owned());
    rustups.chain(debian).collect()
}

/// `None` unless that compiler is there and has the source of `core` beside it.
fn with_source(rustc: &Path, name: String) -> Option<KernelRustc> {
    if !rustc.is_file() {
        return None;
    }
    let sysroot = PathBuf::from(capture(program(rustc).args(["--print", "sysroot"])).ok()?.trim());
    if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        return None;
    }
    let llvm_major = parse_llvm_major(&capture(program(rustc).arg("-vV")).ok()?)?;
    Some(KernelRustc { rustc: rustc.to_path_buf(), sysroot, name, llvm_major })
}

fn parse_llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// The major version in a line such as `libLLVM.so.22.1 => /usr/lib/...` of ldd.
fn parse_linked_llvm(ldd: &str) -> Option<u32> {
    let name = ldd.split_whitespace().find(|word| word.starts_with("libLLVM"))?;
    name.split(['.', '-']).find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_not_assumed() {
        assert_eq!(parse_llvm_major("rustc 1.96.0\nhost: x\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(parse_llvm_major("rustc 1.96.0\nhost: x\n"), None);
    }

    #[test]
    fn the_linked_llvm_is_read_from_both_ways_of_naming_it() {
        assert_eq!(parse_linked_llvm("\tlibLLVM.so.22.1 => /usr/lib/x (0x0)\n"), Some(22));
        assert_eq!(parse_linked_llvm("\tlibLLVM-19.so.1 => /usr/lib/x (0x0)\n"), Some(19));
        assert_eq!(parse_linked_llvm("\tlibc.so.6 => /usr/lib/x (0x0)\n"), None);
    }
}
