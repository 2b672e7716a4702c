//! A member that is SIGKILLed again and again forgets nothing that it acknowledged.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use super::{Member, RaftConfig, config};

const DIRECTORY: &str = "MUSTER_RAFT_KILL_DIRECTORY";
const ROUND: &str = "MUSTER_RAFT_KILL_ROUND";
const PROPOSERS: usize = 16;

fn small(path: &std::path::Path) -> RaftConfig {
    // Small, so that snapshots and purges are under way when the signal comes.
    RaftConfig { snapshot_entries: 300, kept_entries: 50, ..config(path) }
}

/// Not a test of its own: the process that is killed. It prints what was acknowledged.
#[test]
#[ignore = "run by nothing_acknowledged_is_lost_to_sigkill"]
fn child() {
    let Some(path) = env::var_os(DIRECTORY) else { return };
    let round = env::var(ROUND).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let member = Member::lead(small(path.as_ref())).await;
        let proposers: Vec<_> = (0..PROPOSERS)
            .map(|proposer| {
                let (handle, round) = (member.handle.clone(), round.clone());
                tokio::spawn(async move {
                    for number in 0_u64.. {
                        let command = format!("{round}-{proposer}-{number}");
                        handle.propose(command.clone().into_bytes()).await.unwrap();
                        let line = format!("ACK {command}\n");
                        // One write, so that a line is whole or absent.
                        std::io::stdout().write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for proposer in proposers {
            proposer.await.unwrap();
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_to_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..8_u64 {
        let mut child = spawn(folder.path(), round);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Different moments in the life of the log.
        let wanted = acknowledged.len() + 37 + 211 * usize::try_from(round).unwrap();
        while acknowledged.len() < wanted {
            let line = lines.next().expect("the child lives").unwrap();
            note(&mut acknowledged, &line);
        }
        child.kill().unwrap();
        drain(&mut acknowledged, lines);
        child.wait().unwrap();
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let member = Member::lead(small(folder.path())).await;
        let commands = member.recorder.journal().commands;
        let applied: BTreeSet<_> =
            commands.iter().map(|(_, command)| String::from_utf8(command.clone()).unwrap()).collect();
        assert_eq!(applied.len(), commands.len(), "each command once");
        let missing: Vec<_> = acknowledged.difference(&applied).collect();
        assert!(missing.is_empty(), "acknowledged, but lost: {missing:?}");
        // At most what was under way at each kill was never acknowledged.
        assert!(applied.len() <= acknowledged.len() + 8 * PROPOSERS);
        println!("{} acknowledged, {} applied", acknowledged.len(), applied.len());
        member.stop().await;
    });
}

fn spawn(path: &std::path::Path, round: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["raft::tests::kill::child", "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn note(acknowledged: &mut BTreeSet<String>, line: &str) {
    // The harness may print its own words on the same line before the first one.
    if let Some((_, command)) = line.split_once("ACK ") {
        acknowledged.insert(command.to_owned());
    }
}

fn drain(acknowledged: &mut BTreeSet<String>, lines: std::io::Lines<BufReader<ChildStdout>>) {
    for line in lines {
        note(acknowledged, &line.unwrap());
    }
}

/// How long one start takes at most, whatever the kill left behind.
#[test]
fn a_start_after_a_kill_is_short() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = spawn(folder.path(), 0);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..100 {
        lines.next().expect("the child lives").unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let started = std::time::Instant::now();
        let member = Member::lead(small(folder.path())).await;
        println!("leads {:?} after the start", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(5));
        member.stop().await;
    });
}
