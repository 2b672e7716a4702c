//! Task groups: whose end is the end of the whole, and how it is told.

use expect_test::{Expect, expect};

use model::{Exit, Figure, Reason, Usage};

use super::{assignment, story::play};
use crate::{MemoryEnd, ProcessEnd, Verdict};

/// The last line about the end that follows.
fn check_end(how: &str, expected: Expect) {
    let told = play(&format!("assigned t%\nprepared t\nlaunched t\nexited t {how}\nemptied t"));
    let end = told.lines().rfind(|line| line.contains("report")).unwrap();
    expected.assert_eq(end.trim());
}

#[test]
fn the_end_of_a_group_is_that_of_the_process_that_ended_it() {
    check_end("code 0 by:web log+15", expect!["report t #3 finished code 0 released"]);
    check_end(
        "code 3 by:web log+15",
        expect!["report t #3 failed code 3 released (CommandExited: the process `web` exited with code 3)"],
    );
    check_end(
        "signal 11 by:web",
        expect![
            "report t #3 failed signal 11 released (CommandSignaled: the process `web` was killed by signal 11)"
        ],
    );
    check_end("code 0", expect!["report t #3 finished code 0 released"]);
}

#[test]
fn what_failed_before_is_told_with_the_end() {
    check_end("code 0 log=0 by:web", expect!["report t #3 finished code 0 released"]);
    check_end(
        "code 0 log=4 by:web",
        expect!["report t #3 finished code 0 released (CommandExited: the process `log` exited with code 4)"],
    );
    check_end(
        "code 3 log=4 by:web",
        expect![
            "report t #3 failed code 3 released (CommandExited: the process `web` exited with code 3; the process `log` exited with code 4)"
        ],
    );
}

#[test]
fn a_process_that_reached_its_memory_limit_is_named_with_the_limit() {
    check_end(
        "signal 9 by:web~32",
        expect![
            "report t #3 failed signal 9 released (MemoryLimit: the process `web` reached its memory limit of 32 MiB; the kernel killed 1 process)"
        ],
    );
    check_end(
        "signal 9 by:web~whole",
        expect![
            "report t #3 failed signal 9 released (MemoryLimit: the group reached its memory limit of 64 MiB; the kernel killed 1 process of `web`)"
        ],
    );
}

#[test]
fn a_process_killed_while_the_group_was_far_from_its_limit_is_not_blamed() {
    let usage =
        Usage::default().with(Figure::MemoryPeakBytes, 1 << 20).with(Figure::MemoryLimitBytes, 64 << 20);
    let memory = Some(MemoryEnd { oom_kills: 1, limit_mib: None });
    let name = "web".to_owned();
    let end = ProcessEnd { name, exit: Exit::Signal(9), is_decisive: true, is_own: true, memory };
    let verdict = Verdict::of_group(Some(Exit::Signal(9)), Some(usage), &[end], &assignment("t").spec);
    assert_eq!(verdict.reason, Reason::CommandSignaled);
    assert_eq!(verdict.message, "for want of memory, the kernel killed 1 process of `web`");
}

#[test]
fn a_group_whose_init_was_ended_is_told_as_any_task() {
    check_end(
        "signal 9",
        expect!["report t #3 failed signal 9 released (CommandSignaled: killed by signal 9)"],
    );
    check_end(
        "unknown",
        expect![
            "report t #3 failed released (ExitStatusUnknown: ended while the agent was away, and this host kept no exit status)"
        ],
    );
}

#[test]
fn a_process_that_fails_is_told_once_and_the_group_goes_on() {
    let told = play(
        "assigned t%?
         prepared t
         launched t
         ended t log=0
         ended t log=4
         ended t log=4
         passed t
         kill t
         ended t log=4 web=1
         exited t code 1 by:web log=4
         emptied t",
    );
    let told: Vec<&str> = told.lines().filter(|line| line.contains("report") || line.contains('>')).collect();
    expect![[r#"
        > assigned t%?
          report t #1 starting
        > prepared t
        > launched t
          report t #2 running unknown
        > ended t log=0
        > ended t log=4
          report t #3 running unknown (None: the process `log` exited with code 4)
        > ended t log=4
        > passed t
        > kill t
          report t #4 killing
        > ended t log=4 web=1
        > exited t code 1 by:web log=4
        > emptied t
          report t #5 killed code 1 released (KillRequested: ended because somebody asked for it)"#]]
    .assert_eq(&told.join("\n"));
}
