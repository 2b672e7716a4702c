//! Profiles: the function that burns the time has the samples, and nobody else's are in it.

use std::{future::pending, time::Duration};

use harness::{Cluster, wait_until};
use muster_client::{
    Channel, Said,
    channels::{Profile, open::Purpose},
    types::{TaskSpec, TaskState},
};

use crate::{attacks::Program, cluster, script};

const SPINS: &str = "spins_under_a_known_name";

async fn start(cluster: &Cluster, spec: TaskSpec) -> String {
    let id = cluster.run(spec, 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    id
}

async fn kill(cluster: &Cluster, id: &str) {
    let killed = cluster.muster_output(&["task", "kill", id, "--grace", "0s"]).await;
    assert!(killed.status.success(), "{killed:?}");
    cluster.until_released(id).await;
}

fn count(folded: &str, is_wanted: impl Fn(&str) -> bool) -> u64 {
    let lines = folded.lines().filter_map(|line| line.rsplit_once(' '));
    lines.filter(|(stack, _)| is_wanted(stack)).map(|(_, count)| count.parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_names_the_function_that_spins_and_knows_no_neighbour() {
    let cluster = cluster!();
    let program = Program::new();
    let command = [program.0.display().to_string(), "spin".to_owned()].to_vec();
    let spinner = start(&cluster, TaskSpec { command, cpu_limit_milli: Some(2000), ..script("") }).await;
    let neighbour = start(&cluster, script("while :; do :; done")).await;

    // Until enough of it was seen: a busy machine gives it little.
    let mut folded = String::new();
    wait_until("a hundred samples", async || {
        let taken =
            cluster.connection().profile(&spinner, Duration::from_secs(2), 499, pending()).await.unwrap();
        assert_eq!(taken.samples, count(&taken.folded, |_| true), "{}", taken.folded);
        folded.push_str(&taken.folded);
        count(&folded, |_| true) > 100
    })
    .await;
    let all = count(&folded, |_| true);
    let spins = count(&folded, |stack| stack.contains(SPINS));
    assert!(spins * 10 > all * 8, "{spins} of {all}:\n{folded}");
    let called = count(&folded, |stack| stack.contains(&format!("calls_what_spins;{SPINS}")));
    assert!(called * 10 > all * 8, "the caller is known: {called} of {all}:\n{folded}");
    assert!(folded.lines().all(|line| line.starts_with("muster-attacker")), "{folded}");
    let is_address = |part: &str| part.contains("ffffffff");
    assert!(!folded.split(';').any(is_address), "no address of the kernel is told:\n{folded}");

    // What people type: a picture.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flame.svg");
    let path = file.to_str().unwrap();
    let drawn = cluster
        .muster_output(&["task", "profile", &spinner, "--seconds", "2", "--frequency", "199", "-o", path])
        .await;
    assert!(drawn.status.success(), "{drawn:?}");
    assert!(String::from_utf8_lossy(&drawn.stderr).contains("samples, none lost"), "{drawn:?}");
    let picture = std::fs::read_to_string(&file).unwrap();
    assert!(picture.contains("<svg") && picture.trim_end().ends_with("</svg>"));
    assert!(picture.contains(SPINS) && picture.contains(&format!("CPU time of task {spinner}")));

    let sleeper = start(&cluster, script("exec sleep 1000")).await;
    // A shell that becomes `sleep` is seen for a moment.
    wait_until("a second without CPU", async || {
        let idle = cluster.muster_output(&["task", "profile", &sleeper, "--seconds", "1", "--folded"]).await;
        let is_idle = idle.status.code() == Some(1);
        assert_eq!(is_idle, String::from_utf8_lossy(&idle.stderr).contains("it used no CPU"), "{idle:?}");
        is_idle
    })
    .await;
    for id in [spinner, neighbour, sleeper] {
        kill(&cluster, &id).await;
    }
    let gone = cluster.muster_output(&["task", "profile", "no-such-task"]).await;
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_ends_early_and_one_task_has_one_at_a_time() {
    let cluster = cluster!();
    let id = start(&cluster, script("while :; do :; done")).await;
    let connection = cluster.connection();
    let long = || Purpose::Profile(Profile { duration_ms: 300_000, frequency: 99 });

    let mut first = connection.open_channel(&id, long()).await.unwrap();
    let refused = connection.profile(&id, Duration::from_secs(1), 99, pending()).await.unwrap_err();
    assert_eq!(refused.code(), "busy", "{refused}");
    assert!(refused.to_string().contains("is being profiled already"), "{refused}");
    first.sender().finish().await.unwrap();
    until_end(&mut first).await;

    // The end of the task ends it, too.
    let mut second = connection.open_channel(&id, long()).await.unwrap();
    kill(&cluster, &id).await;
    until_end(&mut second).await;
    cluster.finish().await;
}

/// Long before the five minutes that were asked for: the harness waits no longer for anything.
async fn until_end(channel: &mut Channel) {
    let heard = async { while !matches!(channel.next().await.unwrap(), Said::Ended(_)) {} };
    tokio::time::timeout(harness::patience(), heard).await.expect("the profile ends early");
}
