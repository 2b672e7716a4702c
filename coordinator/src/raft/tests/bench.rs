//! Commits per second by the number of proposers: `cargo test --release -p coordinator --lib
//! raft::tests::bench -- --ignored --nocapture`. The floor printed beside it is what the same disk
//! does with a bare append and fdatasync.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use super::{Member, config};

const SECONDS: u64 = 4;
const COMMAND_BYTES: usize = 256;

#[test]
#[ignore = "a benchmark; run it in release"]
fn commits_per_second() {
    let folder = tempfile::tempdir_in(".").unwrap();
    println!("floor, one append and fdatasync at a time: {}/s", floor(folder.path()));
    for proposers in [1, 32, 256] {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(measure(&folder.path().join(proposers.to_string()), proposers));
    }
}

async fn measure(path: &std::path::Path, proposers: usize) {
    let member = Member::lead(config(path)).await;
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let tasks: Vec<_> = (0..proposers)
        .map(|_| {
            let handle = member.handle.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let started = Instant::now();
                    handle.propose(vec![7; COMMAND_BYTES]).await.unwrap();
                    latencies.push(started.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{proposers:>4} proposers: {:>7} commits/s, p50 {:?}, p99 {:?}, max {:?}",
        latencies.len() as u64 / SECONDS,
        at(0.5),
        at(0.99),
        at(1.0),
    );
    let figures = member.handle.metrics();
    member.stop().await;
    let started = Instant::now();
    let member = Member::lead(config(path)).await;
    println!(
        "     {} entries, {} MiB on disk, leads again after {:?}",
        figures.last_log_index,
        disk_bytes(path) >> 20,
        started.elapsed(),
    );
    member.stop().await;
}

/// What the files take, holes not counted.
fn disk_bytes(path: &std::path::Path) -> u64 {
    std::fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { disk_bytes(&entry.path()) } else { metadata.blocks() * 512 }
        })
        .sum()
}

fn floor(path: &std::path::Path) -> u64 {
    let mut file = File::create(path.join("floor")).unwrap();
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let mut count = 0;
    while Instant::now() < end {
        file.write_all(&[7; COMMAND_BYTES]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    count / SECONDS
}
