//! `muster task exec`: a command inside a task, as if it ran here.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
    thread,
};

use muster_client::{ExecOptions, Said, Sender, channels::Stream, types::exit};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::Context;
use crate::{
    arguments::Exec,
    output::write_all,
    report::{Attempted, Failure},
};

/// Pieces of input that wait to be sent.
const INPUT_WAITING_MAX: usize = 4;
/// A size that every program knows, where the terminal has none.
const SIZE_DEFAULT: (u16, u16) = (24, 80);
/// How one ends who hung up.
const HUNG_UP: u8 = 130;

pub async fn exec(context: &Context, wish: Exec) -> Result<ExitCode, Failure> {
    let Exec { id, interactive, terminal, env, cwd, command } = wish;
    let attempted = format!("execute in task `{id}`");
    if terminal && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(Failure::new(&attempted, "-t needs a terminal here, and stdin or stdout is none")
            .next("leave -t out; -i alone passes stdin on")
            .misused());
    }
    let mut env: std::collections::BTreeMap<_, _> = env.into_iter().collect();
    if terminal && let Ok(kind) = std::env::var("TERM") {
        env.entry("TERM".to_owned()).or_insert(kind);
    }
    let options =
        ExecOptions { command, env, cwd, terminal: terminal.then(window_size), has_input: interactive };
    let mut channel = context.connection.exec(&id, options).await.attempted(&attempted)?;
    let raw = terminal.then(RawMode::enter).transpose().attempted("use the terminal")?;
    let mut keys = interactive.then(|| read_input(terminal)).transpose().attempted("read stdin")?;
    let sender = channel.sender();
    let mut news = News::listen(terminal).attempted("wait for signals")?;
    let mut is_over = false;
    let ended = loop {
        tokio::select! {
            said = channel.next() => match said {
                Ok(Said::Data { stream: Stream::Stderr, data }) => write_all(&mut io::stderr().lock(), &data)?,
                Ok(Said::Data { stream: Stream::Stdout | Stream::Unspecified, data }) => {
                    let mut stdout = io::stdout().lock();
                    write_all(&mut stdout, &data)?;
                    stdout.flush().attempted("write to stdout")?;
                }
                Ok(Said::Files { .. }) => {}
                Ok(Said::Ended(how)) => break Ok(how),
                Err(error) => break Err(Failure::from_client(&attempted, &error)),
            },
            input = next_input(&mut keys), if !is_over => match input {
                Some(Input::Bytes(bytes)) => is_over = sender.data(&bytes).await.is_err(),
                Some(Input::HangUp) => {
                    drop(raw);
                    eprintln!("\nhung up");
                    return Ok(ExitCode::from(HUNG_UP));
                }
                None => {
                    keys = None;
                    is_over = sender.finish().await.is_err();
                }
            },
            event = news.next() => is_over = tell(&sender, event).await.is_err(),
        }
    };
    drop(raw);
    Ok(match ended? {
        Some(exit::How::Code(code)) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Some(exit::How::Signal(signal)) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
        None => ExitCode::FAILURE,
    })
}

/// Passes stdin on to a task, until it ends here or there; a task that ends doesn't need it any more.
pub async fn pass_input(context: &Context, id: &str) -> Result<(), Failure> {
    let attempted = format!("pass stdin on to task `{id}`");
    let mut channel = context.connection.write_input(id).await.attempted(&attempted)?;
    let mut keys = Some(read_input(false).attempted("read stdin")?);
    let sender = channel.sender();
    let mut is_over = false;
    loop {
        tokio::select! {
            said = channel.next() => match said {
                Ok(Said::Data { .. } | Said::Files { .. }) => {}
                Ok(Said::Ended(_)) => return Ok(()),
                Err(error) => return Err(Failure::from_client(&attempted, &error)),
            },
            input = next_input(&mut keys), if !is_over => match input {
                Some(Input::Bytes(bytes)) => is_over = sender.data(&bytes).await.is_err(),
                // Without a terminal no key hangs up.
                Some(Input::HangUp) | None => {
                    keys = None;
                    is_over = sender.finish().await.is_err();
                }
            },
        }
    }
}

/// Without input it never comes, rather than ending.
async fn next_input(keys: &mut Option<mpsc::Receiver<Input>>) -> Option<Input> {
    match keys {
        Some(keys) => keys.recv().await,
        None => std::future::pending().await,
    }
}

async fn tell(sender: &Sender, event: Event) -> Result<(), muster_client::Over> {
    match event {
        Event::Resized => {
            let (rows, columns) = window_size();
            sender.resize(rows, columns).await
        }
        Event::Signal(number) => sender.signal(number).await,
    }
}

enum Event {
    Resized,
    Signal(u32),
}

/// What happens to us and is the command's business.
struct News {
    is_terminal: bool,
    resized: tokio::signal::unix::Signal,
    interrupted: tokio::signal::unix::Signal,
    terminated: tokio::signal::unix::Signal,
}

impl News {
    fn listen(is_terminal: bool) -> io::Result<Self> {
        Ok(Self {
            is_terminal,
            resized: signal(SignalKind::window_change())?,
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            Some(()) = self.resized.recv(), if self.is_terminal => Event::Resized,
            Some(()) = self.interrupted.recv() => Event::Signal(2),
            Some(()) = self.terminated.recv() => Event::Signal(15),
        }
    }
}

fn window_size() -> (u16, u16) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        Ok(_) | Err(_) => SIZE_DEFAULT,
    }
}

/// The terminal passes every key on, until this is dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no manners.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

enum Input {
    Bytes(Vec<u8>),
    /// The keys that end the conversation.
    HangUp,
}

/// Reads on a thread that nobody waits for: a read of a terminal can't be called off.
fn read_input(has_escape: bool) -> io::Result<mpsc::Receiver<Input>> {
    let (sender, receiver) = mpsc::channel(INPUT_WAITING_MAX);
    let mut escape = has_escape.then(Escape::default);
    let read = move || {
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            let input = match &mut escape {
                Some(escape) => escape.filter(bytes),
                None => Some(bytes.to_vec()),
            };
            let is_over = input.is_none();
            if sender.blocking_send(input.map_or(Input::HangUp, Input::Bytes)).is_err() || is_over {
                return;
            }
        }
    };
    thread::Builder::new().name("stdin".to_owned()).spawn(read)?;
    Ok(receiver)
}

/// `~.` at the beginning of a line hangs up, and `~~` is one `~`: as with ssh.
struct Escape {
    is_line_start: bool,
    is_escaped: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Self { is_line_start: true, is_escaped: false }
    }
}

impl Escape {
    /// What is to be sent; `None`: hang up.
    fn filter(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut sent = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            if std::mem::take(&mut self.is_escaped) {
                match byte {
                    b'.' => return None,
                    b'~' => {}
                    _ => sent.push(b'~'),
                }
            } else if self.is_line_start && *byte == b'~' {
                self.is_escaped = true;
                continue;
            }
            sent.push(*byte);
            self.is_line_start = matches!(byte, b'\r' | b'\n');
        }
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_and_a_dot_hang_up_at_the_beginning_of_a_line_only() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ls ~.\r").as_deref(), Some(&b"ls ~.\r"[..]));
        assert_eq!(escape.filter(b"~").as_deref(), Some(&b""[..]));
        assert_eq!(escape.filter(b"~x\r").as_deref(), Some(&b"~x\r"[..]));
        assert_eq!(escape.filter(b"~/a\r").as_deref(), Some(&b"~/a\r"[..]));
        assert_eq!(escape.filter(b"~.more"), None);
    }
}
