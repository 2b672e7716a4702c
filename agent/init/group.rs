//! The init of a task group: several processes, of which some decide about the end of all.
//!
//! They are there already and wait: the agent's side of the launch made them (`agent/src/sys/launch/together.rs`).
//! Here they are let go, signals are passed on to all of them, and how each ended is written down. When an essential
//! one ends, the others are asked to end, too; its end is the group's.

use crate::{call, close_standard_streams, descriptor, end_of, exit, number, record, text};

/// As `PROCESSES_MAX` of `core/model/src/limits.rs`.
const PROCESSES_MAX: usize = 16;

/// Its namespace is new and gives numbers out in order; who made them has checked it.
const FIRST_PID: isize = 2;

/// The record begins as that of one command: kind and value. Then stand whose end was decisive (from 1 on) and how
/// many processes there are, and then kind and value of each. Read by `agent/src/sys/group.rs`.
const PAIR_BYTES: usize = 8;
const HEAD_BYTES: usize = 16;

/// Added to the kind of an end that came after the group had begun to end.
const AFTER: u32 = 0x100;

const EAGAIN: isize = -11;
const CLOCK_BOOTTIME: usize = 7;

/// What the agent says of the group.
struct Group {
    kill_signal: usize,
    kill_grace_ms: u64,
    count: usize,
    is_essential: [bool; PROCESSES_MAX],
}

/// How far it is.
struct State {
    /// Wait statuses of those that have ended.
    ends: [Option<u32>; PROCESSES_MAX],
    /// Whose end was decisive.
    decisive: Option<usize>,
    /// Somebody else asked them to end by the same signal, and has a deadline of his own.
    is_asked: bool,
    deadline_ms: Option<u64>,
}

/// # Safety
/// `arguments` must be the rest of a program's: pointers to NUL-terminated strings, and a null.
pub unsafe fn watch(arguments: *const *const u8) -> ! {
    // SAFETY: the caller's promise.
    let Some(group) = (unsafe { read_arguments(arguments) }) else { exit(125) };
    write_head(record::BEGUN, 0, None, group.count);
    for place in 0..group.count {
        write_end(place, 0, 0);
    }
    // From here on commands may run.
    for _ in 0..group.count {
        call(number::WRITE, [descriptor::BEGIN, b"!".as_ptr() as usize, 1, 0, 0, 0]);
    }
    for descriptor in [descriptor::BEGIN, descriptor::STATUS] {
        call(number::CLOSE, [descriptor, 0, 0, 0, 0, 0]);
    }
    close_standard_streams();

    let mut state =
        State { ends: [None; PROCESSES_MAX], decisive: None, is_asked: false, deadline_ms: None };
    while state.ends.iter().take(group.count).any(Option::is_none) {
        match wait_for_signal(state.deadline_ms) {
            Waited::Late => break,
            Waited::Signal { number: crate::SIGCHLD, .. } => reap(&group, &mut state),
            Waited::Signal { number, is_from_outside } => {
                state.is_asked |= number == group.kill_signal && is_from_outside;
                pass_on(&group, &state, number);
            }
            Waited::Nothing => {}
        }
    }
    let (kind, value, code) = match state.decisive.and_then(|place| end_in_record(place, &state)) {
        Some(end) => end,
        // None of them was essential.
        None => (record::EXITED, 0, 0),
    };
    write_head(kind, value, state.decisive, group.count);
    exit(code as usize)
}

/// # Safety
/// As [`watch`].
unsafe fn read_arguments(arguments: *const *const u8) -> Option<Group> {
    let mut next = arguments;
    let mut take = || {
        // SAFETY: `next` walks the arguments and stops at the null that ends them.
        let argument = unsafe { *next };
        if argument.is_null() {
            return None;
        }
        // SAFETY: it was not the null, so the one after it is there.
        next = unsafe { next.add(1) };
        // SAFETY: the caller's promise.
        Some(unsafe { text(argument) })
    };
    let kill_signal = parse(take()?)? as usize;
    let kill_grace_ms = parse(take()?)?;
    let mut group = Group { kill_signal, kill_grace_ms, count: 0, is_essential: [false; PROCESSES_MAX] };
    while let Some(word) = take() {
        *group.is_essential.get_mut(group.count)? = word == b"e";
        group.count += 1;
    }
    Some(group)
}

fn parse(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

enum Waited {
    Signal { number: usize, is_from_outside: bool },
    Late,
    Nothing,
}

fn wait_for_signal(deadline_ms: Option<u64>) -> Waited {
    let every: u64 = u64::MAX;
    // `siginfo_t`: who sent it is the fifth of its words, and 0 for a process of another namespace.
    let mut info = [0_u32; 32];
    let left = deadline_ms.map(|deadline| deadline.saturating_sub(now_ms()));
    let left = left.map(|ms| [ms / 1000, ms % 1000 * 1_000_000]);
    let timeout = left.as_ref().map_or(0, |left| left.as_ptr() as usize);
    let arguments =
        [&raw const every as usize, info.as_mut_ptr() as usize, timeout, crate::SIGNAL_SET_BYTES, 0, 0];
    match call(number::SIGTIMEDWAIT, arguments) {
        EAGAIN => Waited::Late,
        signal if signal > 0 => {
            let [_, _, _, _, sender, ..] = info;
            Waited::Signal { number: signal as usize, is_from_outside: sender == 0 }
        }
        _ => Waited::Nothing,
    }
}

/// Reaps all that have ended, and decides whether that is the end of the group.
fn reap(group: &Group, state: &mut State) {
    let is_ending = state.decisive.is_some();
    loop {
        let mut status: u32 = 0;
        let every = usize::MAX;
        let pid = call(number::WAIT4, [every, &raw mut status as usize, crate::WNOHANG, 0, 0, 0]);
        if pid == crate::EINTR {
            continue;
        }
        if pid <= 0 {
            break;
        }
        let place = (pid - FIRST_PID) as usize;
        if place >= group.count {
            continue; // An orphan.
        }
        let Some(end) = state.ends.get_mut(place) else { continue };
        *end = Some(status);
        note_end(place, status, is_ending || state.is_asked);
        let is_essential = group.is_essential.get(place).is_some_and(|essential| *essential);
        // Of several that ended at once, one that failed says more.
        let is_better = match state.decisive {
            None => true,
            Some(other) => !is_ending && state.ends.get(other).is_some_and(|other| *other == Some(0)),
        };
        if is_essential && is_better {
            state.decisive = Some(place);
        }
    }
    if !is_ending && state.decisive.is_some() && !state.is_asked {
        state.deadline_ms = Some(now_ms().saturating_add(group.kill_grace_ms));
        pass_on(group, state, group.kill_signal);
    }
}

fn pass_on(group: &Group, state: &State, signal: usize) {
    if signal == crate::SIGKILL || signal == crate::SIGSTOP {
        return;
    }
    for (pid, end) in (FIRST_PID..).zip(&state.ends).take(group.count) {
        if end.is_none() {
            call(number::KILL, [pid as usize, signal, 0, 0, 0, 0]);
        }
    }
}

/// One that could not become its command has written so itself.
fn note_end(place: usize, status: u32, is_after: bool) {
    if read_end(place).is_none_or(|(kind, _)| kind != record::EXEC_FAILED) {
        let (kind, value, _) = end_of(status);
        write_end(place, if is_after { kind | AFTER } else { kind }, value);
    }
}

fn end_in_record(place: usize, state: &State) -> Option<(u32, u32, u32)> {
    let (_, _, code) = end_of((*state.ends.get(place)?)?);
    let (kind, value) = read_end(place)?;
    Some((kind & !AFTER, value, code))
}

fn read_end(place: usize) -> Option<(u32, u32)> {
    let mut pair = [0_u32; 2];
    let offset = HEAD_BYTES + PAIR_BYTES * place;
    let answer =
        call(number::PREAD64, [descriptor::EXIT, pair.as_mut_ptr() as usize, PAIR_BYTES, offset, 0, 0]);
    let [kind, value] = pair;
    (answer == PAIR_BYTES as isize).then_some((kind, value))
}

fn write_end(place: usize, kind: u32, value: u32) {
    write_at(HEAD_BYTES + PAIR_BYTES * place, &[kind, value]);
}

fn write_head(kind: u32, value: u32, decisive: Option<usize>, count: usize) {
    let decisive = decisive.map_or(0, |place| place as u32 + 1);
    write_at(0, &[kind, value, decisive, count as u32]);
}

fn write_at(offset: usize, words: &[u32]) {
    let arguments = [descriptor::EXIT, words.as_ptr() as usize, size_of_val(words), offset, 0, 0];
    while call(number::PWRITE64, arguments) == crate::EINTR {}
}

fn now_ms() -> u64 {
    let mut time = [0_u64; 2];
    call(number::CLOCK_GETTIME, [CLOCK_BOOTTIME, time.as_mut_ptr() as usize, 0, 0, 0, 0]);
    let [seconds, nanoseconds] = time;
    seconds * 1000 + nanoseconds / 1_000_000
}
