//! Who may do what: nothing without the credential, and nothing more for a task.

use muster_client::{Connection, Locator, operator::GetStatusRequest, types::TaskState};

use crate::{
    cluster,
    metrics::{get, request},
    running::find_folder,
    script,
};

#[tokio::test(flavor = "multi_thread")]
async fn only_health_and_metrics_answer_without_a_credential() {
    let cluster = cluster!();
    for path in ["/health", "/metrics"] {
        for address in [cluster.address(), cluster.agent_address(0)] {
            let (head, _) = get(address, path);
            assert!(head.starts_with("HTTP/1.1 200"), "{address}{path}: {head}");
        }
    }
    for path in ["/v1/tasks", "/api", "/muster.operator.v1.Operator/GetStatus", "/../token", "/debug"] {
        for address in [cluster.address(), cluster.agent_address(0)] {
            let (head, _) = get(address, path);
            let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
            assert!(
                ["401", "403", "404", "405", "415"].contains(&status.as_str()),
                "{address}{path}: {head}"
            );
        }
    }
    let wrong = cluster.directory().join("wrong-token");
    std::fs::write(&wrong, "0123456789abcdef").unwrap();
    let locator = Locator {
        address: Some(format!("http://{}", cluster.address())),
        token_file: Some(wrong),
        ..Locator::default()
    };
    let connection = Connection::open(&locator).unwrap();
    let refused = connection.operator().get_status(GetStatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused:?}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_of_another_origin_cannot_reach_the_api() {
    let cluster = cluster!();
    let token = std::fs::read_to_string(cluster.token_file()).unwrap();
    let (address, token) = (cluster.address(), token.trim());
    // A page elsewhere that got hold of the token still may not, and neither may a name that was rebound to us.
    for header in ["Origin: http://evil.example", "Origin: null"] {
        let (head, _) = request(
            address,
            &format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n{header}\r\nAuthorization: Bearer {token}"),
        );
        assert!(head.starts_with("HTTP/1.1 403"), "{header}: {head}");
    }
    let (head, _) = request(address, "GET /metrics HTTP/1.1\r\nHost: evil.example:5050");
    assert!(head.starts_with("HTTP/1.1 403") || head.starts_with("HTTP/1.1 421"), "{head}");
    let agent = cluster.agent_address(0);
    let (head, _) = request(agent, "GET /metrics HTTP/1.1\r\nHost: evil.example:5051");
    assert!(head.starts_with("HTTP/1.1 403") || head.starts_with("HTTP/1.1 421"), "{head}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_cannot_read_the_token_nor_become_root_nor_see_others() {
    let cluster = cluster!();
    let other = cluster.run(script("exec sleep 31415"), 1).await.remove(0);
    cluster.until_state(&other, TaskState::Running).await;
    let token = cluster.token_file();
    let neighbour = find_folder(&cluster, &other);
    let attack = format!(
        "id -u
         cat {token} 2>/dev/null && echo TOKEN
         ls {neighbour} >/dev/null 2>&1 && echo NEIGHBOUR
         grep -sl 314\"\"15 /proc/[0-9]*/cmdline && echo SEEN
         su -c id root </dev/null 2>/dev/null && echo ROOT
         kill -0 {agent} 2>/dev/null && echo AGENT
         grep NoNewPrivs /proc/self/status
         grep CapBnd /proc/self/status
         mount -t tmpfs none /mnt 2>/dev/null && echo MOUNT
         true",
        token = token.display(),
        neighbour = neighbour.display(),
        agent = cluster.agents[0].pid(),
    );
    let id = cluster.run(script(&attack), 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    let output = cluster.muster_output(&["task", "logs", &id]).await;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let uid: u32 = output.lines().next().unwrap().parse().unwrap();
    assert_ne!(uid, 0);
    for word in ["TOKEN", "NEIGHBOUR", "SEEN", "ROOT", "AGENT", "MOUNT"] {
        assert!(!output.contains(word), "{word}: {output}");
    }
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
    assert!(output.contains("CapBnd:\t0000000000000000"), "{output}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_refused_unless_the_operator_allows_it() {
    let cluster = cluster!();
    for user in ["root", "0"] {
        let output = cluster.muster_output(&["run", "--user", user, "--", "id"]).await;
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("root"), "{said}");
    }
    cluster.finish().await;
}

/// Numbers of include/uapi/linux/capability.h; the agent's own list has a reason for each.
const CAPABILITIES_OF_THE_AGENT: &[u32] = &[
    0, 1, 3, 4, 5, 6, 7, 8, // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP
    10, 12, // NET_BIND_SERVICE, NET_ADMIN
    18, 19, 21, 24, // SYS_CHROOT, SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE
    38, 39, // PERFMON, BPF
];

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_has_the_rights_on_its_list_and_no_others() {
    let cluster = cluster!();
    let field = |who: &str, name: &str| {
        let status = std::fs::read_to_string(format!("/proc/{who}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t"))).unwrap();
        u64::from_str_radix(line, 16).unwrap()
    };
    let listed = CAPABILITIES_OF_THE_AGENT.iter().fold(0, |set, number| set | 1_u64 << number);
    // A container may have given fewer to begin with.
    let here = field("self", "CapPrm");
    let agent = cluster.agents[0].pid().as_raw().to_string();
    for thread in std::fs::read_dir(format!("/proc/{agent}/task")).unwrap() {
        let thread = format!("{agent}/task/{}", thread.unwrap().file_name().to_string_lossy());
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(field(&thread, set), listed & here, "{set} of {thread}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(field(&thread, set), 0, "{set} of {thread}");
        }
        assert_eq!((field(&thread, "NoNewPrivs"), field(&thread, "Seccomp")), (1, 2), "{thread}");
    }
    cluster.finish().await;
}
