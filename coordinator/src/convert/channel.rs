//! `muster.channel.v1`: what a channel is for, checked before the agent hears of it.
//!
//! The frames themselves pass through as they are; only their kind and size are looked at.

use model::{TaskId, limits};
use proto::channel::v1::{self as wire, frame, open::Purpose};

use codec::{Invalid, at_most, id, required};

/// How long one sampling of stacks may take: longer ones say no more.
const PROFILE_MS_MAX: u64 = 5 * 60 * 1000;
/// Samples per second and CPU: the kernel's own bound is 100 000 by default, and ten times fewer say as much.
const PROFILE_FREQUENCY_MAX: u32 = 999;
/// SIGSTOP, on every architecture that agents run on.
const STOP: u32 = 19;
/// What the audit line shows of a command.
const SHOWN_BYTES_MAX: usize = 256;

/// A channel that may be opened.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenWish {
    pub task: TaskId,
    /// What kind, in one word.
    pub purpose: &'static str,
    /// What exactly, for the audit line.
    pub shown: String,
    /// Whether a person sits there, who may take his time.
    pub is_conversation: bool,
    /// Whether a caller who says nothing more has said that he is done; otherwise only his word for it counts,
    /// because he may just have gone.
    pub is_done_when_silent: bool,
    /// To be passed on.
    pub open: wire::Open,
}

/// Reads the caller's first frame.
pub fn open(first: wire::Frame) -> Result<OpenWish, Invalid> {
    let Some(frame::Frame::Open(open)) = first.frame else {
        return Err(Invalid::new("frame", "must be `open` in the first message"));
    };
    let task = id("open.task_id", &open.task_id)?;
    let (purpose, shown) = match required("open.purpose", open.purpose.as_ref())? {
        Purpose::Exec(exec) => ("exec", check_exec(exec)?),
        Purpose::ListFiles(wire::ListFiles { path }) => ("list-files", checked_path(path)?),
        Purpose::ReadFiles(wire::ReadFiles { path }) => ("read-files", checked_path(path)?),
        Purpose::WriteFiles(wire::WriteFiles { path }) => ("write-files", checked_path(path)?),
        Purpose::Freeze(wire::Freeze { is_frozen: true }) => ("freeze", String::new()),
        Purpose::Freeze(wire::Freeze { is_frozen: false }) => ("thaw", String::new()),
        Purpose::WriteInput(wire::WriteInput {}) => ("write-input", String::new()),
        Purpose::Profile(wire::Profile { duration_ms, frequency }) => {
            if !(1..=PROFILE_MS_MAX).contains(duration_ms) {
                let rule = format_args!("of {duration_ms} is not 1 to {PROFILE_MS_MAX}");
                return Err(Invalid::new("open.profile.duration_ms", rule));
            }
            if !(1..=PROFILE_FREQUENCY_MAX).contains(frequency) {
                let rule = format_args!("of {frequency} is not 1 to {PROFILE_FREQUENCY_MAX}");
                return Err(Invalid::new("open.profile.frequency", rule));
            }
            ("profile", format!("{duration_ms} ms"))
        }
        Purpose::SendSignal(wire::Signal { number: STOP }) => {
            let rule = "of STOP would stop the task's init, too; freeze the task instead";
            return Err(Invalid::new("open.send_signal.number", rule));
        }
        Purpose::SendSignal(signal) => ("signal", check_signal("open.send_signal.number", signal)?),
    };
    let is_conversation = matches!(purpose, "exec" | "write-input");
    let is_done_when_silent = purpose != "write-input";
    Ok(OpenWish { task, purpose, shown, is_conversation, is_done_when_silent, open })
}

fn check_exec(exec: &wire::Exec) -> Result<String, Invalid> {
    let wire::Exec { command, env, cwd, terminal, has_input: _either } = exec;
    if command.first().is_none_or(String::is_empty) {
        return Err(Invalid::missing("open.exec.command"));
    }
    at_most("open.exec.command", command.len(), limits::ARGUMENTS_MAX)?;
    at_most("open.exec.env", env.len(), limits::ARGUMENTS_MAX)?;
    let bytes = |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| text.len() + 1).sum::<usize>();
    for (field, length) in [
        ("open.exec.command", bytes(&mut command.iter())),
        ("open.exec.env", bytes(&mut env.iter().flat_map(|(name, value)| [name, value]))),
    ] {
        if length > limits::ARGUMENT_BYTES_MAX {
            let max = limits::ARGUMENT_BYTES_MAX;
            return Err(Invalid::new(field, format_args!("has {length} bytes; at most {max} are allowed")));
        }
    }
    if command.iter().chain(env.keys()).chain(env.values()).any(|text| text.contains('\0')) {
        return Err(Invalid::new("open.exec", "holds a NUL byte"));
    }
    if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(Invalid::new("open.exec.env", format_args!("has no variable called `{name}`")));
    }
    checked_path(cwd)?;
    if let Some(size) = terminal {
        check_size(size)?;
    }
    let mut shown = command.join(" ").replace(char::is_control, " ");
    shown.truncate(shown.floor_char_boundary(SHOWN_BYTES_MAX));
    Ok(shown)
}

fn check_signal(field: &'static str, signal: &wire::Signal) -> Result<String, Invalid> {
    let wire::Signal { number } = signal;
    if !(1..=64).contains(number) {
        return Err(Invalid::new(field, format_args!("of {number} is not 1 to 64")));
    }
    Ok(number.to_string())
}

fn check_size(size: &wire::WindowSize) -> Result<(), Invalid> {
    let wire::WindowSize { rows, columns } = size;
    if [rows, columns].iter().any(|side| !(1..=u32::from(u16::MAX)).contains(side)) {
        return Err(Invalid::new("terminal", format_args!("of {rows} x {columns} is no size")));
    }
    Ok(())
}

fn checked_path(path: &str) -> Result<String, Invalid> {
    if path.len() > limits::PATH_BYTES_MAX || path.contains('\0') {
        return Err(Invalid::new("path", "is longer than a path may be, or holds a NUL byte"));
    }
    Ok(path.replace(char::is_control, " "))
}

/// What may follow from the caller.
pub fn check_frame(frame: &wire::Frame) -> Result<(), Invalid> {
    match required("frame", frame.frame.as_ref())? {
        frame::Frame::Data(wire::Data { data, stream: _the_agents }) => check_data(data.len()),
        frame::Frame::Finish(wire::Finish {}) => Ok(()),
        frame::Frame::Resize(size) => check_size(size),
        frame::Frame::Signal(signal) => check_signal("signal.number", signal).map(drop),
        frame::Frame::Open(_) => Err(Invalid::new("open", "may come only once")),
        frame::Frame::Join(_)
        | frame::Frame::Opened(_)
        | frame::Frame::Files(_)
        | frame::Frame::Ended(_)
        | frame::Frame::Failed(_) => Err(Invalid::new("frame", "is one that only agents send")),
    }
}

/// Of a piece of input, output or archive.
pub fn check_data(length: usize) -> Result<(), Invalid> {
    let max = limits::CHANNEL_FRAME_BYTES_MAX;
    if length > max {
        return Err(Invalid::new("data", format_args!("has {length} bytes; at most {max} are allowed")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(purpose: Purpose) -> wire::Frame {
        let open = wire::Open { task_id: "t1".to_owned(), purpose: Some(purpose) };
        wire::Frame { frame: Some(frame::Frame::Open(open)) }
    }

    fn exec(command: &[&str]) -> wire::Exec {
        wire::Exec { command: command.iter().map(|part| (*part).to_owned()).collect(), ..Default::default() }
    }

    #[test]
    fn what_is_audited_fits_on_a_line() {
        let long = "x".repeat(1000);
        let wish = open(first(Purpose::Exec(exec(&["sh", "-c", "a\nb", &long])))).unwrap();
        assert!(wish.shown.starts_with("sh -c a b xxx") && wish.shown.len() == SHOWN_BYTES_MAX);
        assert!(wish.is_conversation);
    }

    #[test]
    fn an_input_ends_by_word_alone() {
        let done = |purpose| open(first(purpose)).unwrap().is_done_when_silent;
        assert!(!done(Purpose::WriteInput(wire::WriteInput {})));
        assert!(done(Purpose::Exec(exec(&["cat"]))));
    }

    #[test]
    fn each_rule_is_named() {
        let size = |rows| wire::WindowSize { rows, columns: 80 };
        let env = |name: &str| [(name.to_owned(), String::new())].into();
        for (purpose, field) in [
            (Purpose::Exec(exec(&[])), "open.exec.command"),
            (Purpose::Exec(exec(&[""])), "open.exec.command"),
            (Purpose::Exec(exec(&["a\0b"])), "open.exec"),
            (Purpose::Exec(exec(&["x"; 1025])), "open.exec.command"),
            (Purpose::Exec(wire::Exec { env: env("a=b"), ..exec(&["x"]) }), "open.exec.env"),
            (Purpose::Exec(wire::Exec { terminal: Some(size(0)), ..exec(&["x"]) }), "terminal"),
            (Purpose::Exec(wire::Exec { terminal: Some(size(70_000)), ..exec(&["x"]) }), "terminal"),
            (Purpose::ReadFiles(wire::ReadFiles { path: "x".repeat(5000) }), "path"),
            (Purpose::Profile(wire::Profile { duration_ms: 0, frequency: 99 }), "open.profile.duration_ms"),
            (Purpose::Profile(wire::Profile { duration_ms: 1, frequency: 0 }), "open.profile.frequency"),
            (Purpose::SendSignal(wire::Signal { number: 0 }), "open.send_signal.number"),
        ] {
            let error = open(first(purpose)).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
        assert!(open(wire::Frame::default()).is_err());
    }

    #[test]
    fn a_caller_may_not_speak_for_the_agent() {
        let frame = |frame| wire::Frame { frame: Some(frame) };
        assert!(check_frame(&frame(frame::Frame::Finish(wire::Finish {}))).is_ok());
        for wrong in [
            frame::Frame::Ended(wire::Ended::default()),
            frame::Frame::Opened(wire::Opened {}),
            frame::Frame::Signal(wire::Signal { number: 65 }),
            frame::Frame::Data(wire::Data { data: vec![0; 64 * 1024 + 1].into(), stream: 0 }),
        ] {
            assert!(check_frame(&frame(wrong.clone())).is_err(), "{wrong:?}");
        }
    }
}
