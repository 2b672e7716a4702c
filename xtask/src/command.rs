//! Other programs: how they are found, started and heard.
//!
//! Every child of ours starts through [`program`], so that what cargo set for xtask itself
//! (library path, manifest variables) doesn't leak into it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The checkout's top folder.
pub fn root() -> PathBuf {
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest_dir.parent().expect("xtask lies one folder below the top").to_path_buf()
}

/// Where cargo builds, and where our downloads and logs go.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where the tools live that setup unpacks without installing them.
pub fn tools_dir() -> PathBuf {
    target_dir().join("tools")
}

/// A command that starts in the checkout's top folder and finds our own tools first.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root()).env("PATH", search_path());
    for (key, _) in std::env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        let from_cargo = name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_BIN_")
            || matches!(name, "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH" | "LD_LIBRARY_PATH" | "OUT_DIR");
        if from_cargo {
            command.env_remove(&key);
        }
    }
    command
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What is built once gains nothing from being prepared for the next build.
    if std::env::var_os("CI").is_some() && std::env::var_os("CARGO_INCREMENTAL").is_none() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// The search path of our children: our tools, cargo's, what the caller has, and the system's.
pub fn search_path() -> std::ffi::OsString {
    let mut folders = vec![tools_dir().join("bin"), cargo_home().join("bin")];
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    // A user's path often lacks these, and qemu, depmod and ip live there.
    for folder in ["/usr/sbin", "/sbin"] {
        if !folders.iter().any(|known| known == Path::new(folder)) {
            folders.push(folder.into());
        }
    }
    std::env::join_paths(folders).unwrap_or_else(|_| std::env::var_os("PATH").unwrap_or_default())
}

/// Cargo's own folder, where `cargo install` puts programs.
pub fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".cargo"),
        PathBuf::from,
    )
}

/// The first program of this name on our search path.
pub fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Runs to the end, with our own stdout and stderr; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("can't start `{}`", spelled(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", spelled(command));
    }
    Ok(())
}

/// Runs to the end with its output in `log`, for programs that talk a lot; on failure the end of it is shown.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    const LINES_SHOWN: usize = 30;
    let file = std::fs::File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("can't share a log file")?)
        .stderr(file)
        .status()
        .with_context(|| format!("can't start `{}`", spelled(command)))?;
    if !status.success() {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
            eprintln!("  {line}");
        }
        bail!("`{}` ended with {status}; all that it said: {}", spelled(command), log.display());
    }
    Ok(())
}

/// Runs to the end and returns its stdout; anything but success is an error that carries stderr.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't start `{}`", spelled(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` ended with {}: {}", spelled(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub fn spelled(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Whether we run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Turns a command into one that runs as root: itself when we are root, else through sudo.
///
/// Refuses when there is no sudo, or when sudo wants a password and nobody is there to type it.
pub fn as_root(command: Command) -> Result<Command> {
    if is_root() {
        return Ok(command);
    }
    if find("sudo").is_none() {
        bail!("`{}` needs root, and there is no sudo here: run it as root yourself", spelled(&command));
    }
    let asks_nothing = program("sudo").args(["-n", "true"]).output().is_ok_and(|o| o.status.success());
    let someone_is_there = std::io::IsTerminal::is_terminal(&std::io::stdin());
    if !asks_nothing && !someone_is_there {
        bail!(
            "`{}` needs root, sudo wants a password, and nobody is at the keyboard: run it as root yourself",
            spelled(&command)
        );
    }
    let mut sudo = Command::new("sudo");
    if let Some(folder) = command.get_current_dir() {
        sudo.current_dir(folder);
    }
    // sudo forgets most of the environment; `env` behind it says again what this command needs.
    sudo.arg("env").arg({
        let mut path = std::ffi::OsString::from("PATH=");
        path.push(search_path());
        path
    });
    for (key, value) in command.get_envs() {
        let (Some(value), false) = (value, key == "PATH") else { continue };
        let mut pair = key.to_os_string();
        pair.push("=");
        pair.push(value);
        sudo.arg(pair);
    }
    sudo.arg(command.get_program()).args(command.get_args());
    Ok(sudo)
}
