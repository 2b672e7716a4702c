//! The examples that show how to write a framework of one's own.

use std::{path::Path, process::Command};

use harness::program;
use muster_client::{Framework, FrameworkOptions, operator::ListFrameworksRequest, scheduler::FrameworkInfo};

use crate::cluster;

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_hears_each_fate_once() {
    let Some(python) = std::env::var_os("MUSTER_PYTHON") else {
        println!(
            "skipped: MUSTER_PYTHON names no interpreter with grpcio-tools (`cargo xtask test` makes one)"
        );
        return;
    };
    let cluster = cluster!();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cli/examples/python/framework.py");
    // An interpreter that doesn't end is a failure, not a wait.
    let mut command = Command::new("timeout");
    command
        .arg("180")
        .arg(python)
        .arg(example)
        .arg("--server")
        .arg(cluster.address())
        .arg("--token-file")
        .arg(cluster.token_file());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    assert!(complained.contains("the stream broke; resuming"), "it never lost its connection: {complained}");
    assert_eq!(said, "100 tasks finished, each heard of exactly once, over a dropped connection\n");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_example_runs_its_tasks() {
    let example = program("examples").join("framework");
    if !example.exists() {
        println!("skipped: {} is not built (`cargo xtask test` builds it)", example.display());
        return;
    }
    let cluster = cluster!();
    let mut command = Command::new(example);
    command.arg("10").env("MUSTER_SERVER", format!("http://{}", cluster.address()));
    command.env("MUSTER_TOKEN_FILE", cluster.token_file());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("10 tasks ended\n"), "{said}");
    cluster.finish().await;
}

/// What came with the restarted coordinator is a subscription that nobody knows any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_framework_is_torn_down_right_after_the_coordinator_came_back() {
    let mut cluster = cluster!();
    let options = |id: Option<String>| FrameworkOptions {
        info: FrameworkInfo {
            name: "short".to_owned(),
            role: "default".to_owned(),
            ..FrameworkInfo::default()
        },
        framework_id: id,
        cursor: None,
    };
    let framework = Framework::subscribe(&cluster.connection(), options(None)).await.unwrap();
    cluster.coordinator.kill();
    cluster.restart_coordinator().await;
    framework.teardown().await.unwrap();
    let answer = cluster.operator().list_frameworks(ListFrameworksRequest {}).await.unwrap().into_inner();
    assert!(answer.frameworks.iter().all(|framework| framework.is_built_in), "{answer:?}");

    // One that was replaced does not take its successor with it.
    let older = Framework::subscribe(&cluster.connection(), options(None)).await.unwrap();
    let id = older.id().to_owned();
    let newer = Framework::subscribe(&cluster.connection(), options(Some(id))).await.unwrap();
    assert_eq!(older.teardown().await.unwrap_err().code(), "subscription-replaced");
    newer.teardown().await.unwrap();
    cluster.finish().await;
}
