//! Builds the tasks' init, which is its own program without std: by the compiler that builds us.

use std::env;
use std::path::Path;
use std::process::Command;

/// Leaves `$OUT_DIR/muster-init` for `sys::launch` to take in.
pub fn build() {
    let source = "init/main.rs";
    for file in [source, "init/group.rs", "src/sys/raw.rs", "build/init.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let (Some(compiler), Some(target), Some(out)) =
        (env::var_os("RUSTC"), env::var("TARGET").ok(), env::var_os("OUT_DIR"))
    else {
        println!("cargo::error=cargo didn't say which compiler, target and directory to use");
        return;
    };
    let mut rustc = Command::new(compiler);
    rustc.arg(source).arg("-o").arg(Path::new(&out).join("muster-init")).args(["--target", &target]);
    rustc.args(["--crate-name", "muster_init", "--crate-type", "bin", "--edition", "2024"]);
    rustc.args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "strip=symbols", "-C", "debuginfo=0"]);
    // One fixed place in memory and no dynamic loader: nothing to relocate, nothing to look up.
    rustc.args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"]);
    rustc.args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"]);
    rustc.args(["-C", "link-arg=-Wl,--build-id=none", "-C", "link-arg=-Wl,-z,norelro"]);
    rustc.args(["-C", "link-arg=-Wl,-z,noseparate-code", "-C", "link-arg=-no-pie"]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    if !rustc.status().is_ok_and(|status| status.success()) {
        println!("cargo::error=can't build the tasks' init, agent/{source}; the command was {rustc:?}");
    }
}
