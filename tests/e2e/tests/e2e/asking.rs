//! What a task may ask for, as people ask for it: flags in, the kernel's answer out.

use std::{fs, process::Output};

use harness::ClusterOptions;

use crate::cluster;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `muster run FLAGS -- sh -c SCRIPT`.
async fn run(cluster: &harness::Cluster, flags: &[&str], script: &str) -> Output {
    let cpus = (harness::little_cpu() as f64 / 1000.0).to_string();
    let start = ["run", "--cpus", &cpus, "--mem", "32MiB"];
    let arguments = [&start, flags, &["--", "sh", "-c", script]].concat();
    cluster.muster_output(&arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_had_or_refused_with_the_reason() {
    let folder = tempfile::Builder::new().prefix("muster-test-asked-").tempdir_in("/var/tmp").unwrap();
    fs::write(folder.path().join("file"), "of the host\n").unwrap();
    fs::write(folder.path().join("secret"), "hush\n").unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let host_path = folder.path().to_str().unwrap();
    let flags = [format!("--allow-mounts={host_path}"), "--allow-capabilities=net_raw".to_owned()];
    let cluster = cluster!(ClusterOptions { agent_flags: flags.to_vec(), ..ClusterOptions::default() });

    let secret = format!("key=@{host_path}/secret");
    let mount = format!("{host_path}:shown");
    let asked = [
        "--mem-limit",
        "48MiB",
        "--ulimit",
        "nofile=77:78",
        "--oom-score",
        "300",
        "--secret",
        &secret,
        "--mount",
        &mount,
        "--cap-add",
        "CAP_NET_RAW",
        "--private-network",
        "--cpuset",
        "0",
    ];
    let script = "cat $MUSTER_SECRETS/key shown/file /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn; \
        grep -E '^(CapEff|Seccomp|Cpus_allowed_list):' /proc/self/status; \
        tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '";
    let output = run(&cluster, &asked, script).await;
    let expected = "hush\nof the host\n300\n77\n78\nCapEff:\t0000000000002000\nSeccomp:\t2\n\
        Cpus_allowed_list:\t0\nlo\n";
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout) == expected,
        "{}",
        text(&output)
    );

    let other_mount = format!("{host_path}:shown:rw");
    for (flags, why) in [
        (vec!["--cap-add", "sys_admin"], "allow-capabilities"),
        (vec!["--seccomp", "unconfined"], "allow-unconfined"),
        (vec!["--seccomp", "nobodys"], "no seccomp profile"),
        (vec!["--device", "/dev/null"], "allow-devices"),
        (vec!["--mount", &other_mount], "allow-mounts"),
        (vec!["--mount", "/etc:etc"], "allow-mounts"),
        (vec!["--cpuset", "8191"], "no core 8191"),
        (vec!["--group", "0"], "may not have the group"),
    ] {
        let output = run(&cluster, &flags, "true").await;
        assert!(!output.status.success() && text(&output).contains(why), "{flags:?}: {}", text(&output));
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_outgrows_its_disk_is_ended() {
    let cluster = cluster!();
    let script = "head -c 3000000 /dev/zero > a; head -c 9000000 /dev/zero > /tmp/b; sleep 1000";
    let output = run(&cluster, &["--disk", "8MiB"], script).await;
    assert!(!output.status.success() && text(&output).contains("8 MiB of disk"), "{}", text(&output));
    // As much without a limit, or within it, is nobody's business.
    assert!(
        run(&cluster, &["--disk", "64MiB"], "head -c 9000000 /dev/zero > a; sleep 5").await.status.success()
    );
    cluster.finish().await;
}
