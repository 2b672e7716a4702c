//! Arbitrary values of the model, for the property that what is written can be read.
#![allow(clippy::unwrap_used, reason = "built for tests alone")]

use std::collections::BTreeMap;

use model::{
    AgentId, Device, Duration, Exit, Fetch, Figure, FrameworkId, Health, HealthCheck, Histogram, IoLimits,
    Mount, Opened, PortRange, PortRanges, Probe, ProcessSpec, Reason, Resources, Rlimit, RlimitKind,
    ScalarName, Secret, SecretValue, Sha256, SharedNamespaces, StopSignal, Subject, TaskId, TaskSpec,
    TaskState, TaskStatus, Timestamp, Usage, UsageReport,
};
use proptest::{
    array::{uniform2, uniform4},
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    sample::select,
};

pub fn task_id() -> impl Strategy<Value = TaskId> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,20}".prop_map(|text| TaskId::new(&text).unwrap())
}

pub fn framework_id() -> impl Strategy<Value = FrameworkId> {
    "[a-z0-9][a-z0-9.-]{0,20}".prop_map(|text| FrameworkId::new(&text).unwrap())
}

pub fn agent_id() -> impl Strategy<Value = AgentId> {
    "[a-z0-9][a-z0-9.-]{0,20}".prop_map(|text| AgentId::new(&text).unwrap())
}

pub fn at() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp)
}

pub fn grace() -> impl Strategy<Value = Duration> {
    (0..=model::limits::KILL_GRACE_MS_MAX).prop_map(Duration::from_millis)
}

pub fn ports() -> impl Strategy<Value = PortRanges> {
    vec((1u32..60_000, 0u32..50), 0..4).prop_map(|ranges| {
        let mut ports = PortRanges::default();
        for (first, size) in ranges {
            let range = PortRange::new(first, first + size).unwrap();
            ports = ports.union(&PortRanges::new(vec![range]).unwrap());
        }
        ports
    })
}

pub fn resources() -> impl Strategy<Value = Resources> {
    let scalars = btree_map("[a-z0-9][a-z0-9_-]{0,8}", 1u64.., 0..3).prop_map(|scalars| {
        scalars.into_iter().map(|(name, amount)| (ScalarName::new(&name).unwrap(), amount)).collect()
    });
    (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), ports(), scalars).prop_map(
        |(cpus_milli, mem_mib, disk_mib, gpus, ports, scalars)| Resources {
            cpus_milli,
            mem_mib,
            disk_mib,
            gpus,
            ports,
            scalars,
        },
    )
}

pub fn texts() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(".{0,8}", ".{0,8}", 0..3)
}

pub fn spec() -> impl Strategy<Value = TaskSpec> {
    let names = (task_id(), ".{0,12}", resources(), vec(".{0,12}", 0..3), texts());
    let plain = (
        option::of(".{0,8}"),
        option::of(".{0,8}"),
        option::of(any::<u64>()),
        option::of(any::<u32>()),
        grace(),
        texts(),
        any::<(bool, bool)>(),
    );
    (names, plain, limited(), furnished()).prop_map(|(names, plain, limited, furnished)| {
        let (task_id, name, resources, command, env) = names;
        let (user, cwd, cpu_limit_milli, pids_limit, kill_grace, labels, (pid, ipc)) = plain;
        TaskSpec {
            task_id,
            name,
            resources,
            command,
            env,
            user,
            cwd,
            cpu_limit_milli,
            pids_limit,
            kill_grace,
            labels,
            shared_namespaces: SharedNamespaces { pid, ipc },
            processes: furnished.processes,
            devices: furnished.devices,
            mounts: furnished.mounts,
            secrets: furnished.secrets,
            fetches: furnished.fetches,
            health_check: furnished.health_check,
            ..limited
        }
    })
}

/// With arbitrary limits, and nothing else.
fn limited() -> impl Strategy<Value = TaskSpec> {
    let io = (uniform4(option::of(any::<u64>())), option::of(any::<u16>())).prop_map(
        |([read_bytes, write_bytes, reads, writes], weight)| IoLimits {
            read_bytes_per_second: read_bytes,
            write_bytes_per_second: write_bytes,
            read_operations_per_second: reads,
            write_operations_per_second: writes,
            weight,
        },
    );
    let rlimit = uniform2(option::of(any::<u64>())).prop_map(|[soft, hard]| Rlimit { soft, hard });
    let kernel = (
        option::of(any::<u64>()),
        btree_set(any::<u32>(), 0..4),
        io,
        btree_map(select(RlimitKind::ALL), rlimit, 0..3),
        option::of(any::<u16>()),
        option::of(grace()),
        select(StopSignal::ALL),
    );
    let rights =
        (vec(".{0,8}", 0..3), any::<(bool, bool)>(), btree_set("[a-z_]{1,8}", 0..3), option::of(".{0,8}"));
    (task_id(), kernel, rights).prop_map(|(task_id, kernel, rights)| {
        let (mem_limit_mib, cpuset, io, rlimits, oom_score_adjust, run_time_max, kill_signal) = kernel;
        let (groups, (has_private_network, has_input), capabilities, seccomp) = rights;
        TaskSpec {
            mem_limit_mib,
            cpuset,
            io,
            rlimits,
            oom_score_adjust,
            run_time_max,
            kill_signal,
            groups,
            has_private_network,
            has_input,
            capabilities,
            seccomp,
            ..TaskSpec::new(task_id, Resources::default(), Vec::new())
        }
    })
}

/// With arbitrary files and a health check, and nothing else.
fn furnished() -> impl Strategy<Value = TaskSpec> {
    let device = (".{0,8}", any::<bool>()).prop_map(|(path, is_writable)| Device { path, is_writable });
    let mount = (".{0,8}", ".{0,8}", any::<bool>()).prop_map(|(host_path, path, is_writable)| Mount {
        host_path,
        path,
        is_writable,
    });
    let secret = (".{0,8}", vec(any::<u8>(), 0..8))
        .prop_map(|(name, value)| Secret { name, value: SecretValue(value) });
    let digest = option::of(any::<[u8; 32]>().prop_map(Sha256));
    let fetch = (".{0,8}", option::of(".{0,8}"), digest, any::<(bool, bool)>()).prop_map(
        |(url, path, sha256, (is_unpacked, is_executable))| Fetch {
            url,
            path,
            sha256,
            is_unpacked,
            is_executable,
        },
    );
    let files = (vec(device, 0..3), vec(mount, 0..3), vec(secret, 0..3), vec(fetch, 0..3));
    let check = option::of(health_check());
    (task_id(), files, check, vec(process(), 0..3)).prop_map(|(task_id, files, health_check, processes)| {
        let (devices, mounts, secrets, fetches) = files;
        TaskSpec {
            processes,
            devices,
            mounts,
            secrets,
            fetches,
            health_check,
            ..TaskSpec::new(task_id, Resources::default(), Vec::new())
        }
    })
}

fn process() -> impl Strategy<Value = ProcessSpec> {
    let limits = (option::of(any::<u64>()), option::of(any::<u64>()));
    (".{0,8}", vec(".{0,8}", 0..3), texts(), limits, any::<bool>()).prop_map(
        |(name, command, env, (cpu_limit_milli, mem_limit_mib), is_essential)| ProcessSpec {
            name,
            command,
            env,
            cpu_limit_milli,
            mem_limit_mib,
            is_essential,
        },
    )
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let port = || option::of(any::<u16>());
    let probe = prop_oneof![
        (port(), "/.{0,8}", any::<bool>()).prop_map(|(port, path, is_tls)| Probe::Http {
            port,
            path,
            is_tls
        }),
        port().prop_map(|port| Probe::Tcp { port }),
        (port(), ".{0,8}").prop_map(|(port, service)| Probe::Grpc { port, service }),
        vec(".{0,8}", 0..3).prop_map(|command| Probe::Command { command }),
    ];
    (probe, grace(), grace(), grace(), any::<(u32, u32, bool)>()).prop_map(
        |(probe, start_period, interval, timeout, rest)| {
            let (failures_max, successes_min, is_killed_when_unhealthy) = rest;
            HealthCheck {
                probe,
                start_period,
                interval,
                timeout,
                failures_max,
                successes_min,
                is_killed_when_unhealthy,
            }
        },
    )
}

pub fn state() -> impl Strategy<Value = TaskState> {
    select(TaskState::ALL)
}

pub fn reason() -> impl Strategy<Value = Reason> {
    select(Reason::ALL)
}

pub fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![any::<u8>().prop_map(Exit::Code), any::<u8>().prop_map(Exit::Signal)]
}

pub fn histogram() -> impl Strategy<Value = Histogram> {
    vec(0_u64..5000, 0..Histogram::BUCKETS).prop_map(Histogram::of_counts)
}

pub fn usage() -> impl Strategy<Value = Usage> {
    let figures = vec(option::of(any::<u64>()), Figure::ALL.len());
    (at(), figures, option::of(histogram()), option::of(histogram())).prop_map(
        |(at, figures, run_queue, block)| {
            let mut usage = Usage::new(at);
            usage.run_queue_latency = run_queue;
            usage.block_latency = block;
            for (figure, value) in Figure::ALL.into_iter().zip(figures) {
                usage.set(figure, value);
            }
            usage
        },
    )
}

pub fn usage_report() -> impl Strategy<Value = UsageReport> {
    let subject = option::of(task_id()).prop_map(|task| task.map_or(Subject::Host, Subject::Task));
    let opened = (any::<u32>(), subject, usage()).prop_map(|(key, subject, usage)| Opened {
        key,
        subject,
        usage: usage.only(|_| true),
    });
    let columns = (vec(any::<u32>(), 0..9), vec(any::<u64>(), 0..9), vec(any::<i64>(), 0..9));
    (at(), vec(any::<u32>(), 0..4), vec(opened, 0..4), columns).prop_map(
        |(at, ended, opened, (keys, changed, by))| UsageReport { at, ended, opened, keys, changed, by },
    )
}

pub fn status() -> impl Strategy<Value = TaskStatus> {
    let who = (task_id(), framework_id(), option::of(agent_id()), state(), reason());
    let health = option::of(select(Health::ALL));
    let what =
        (".{0,20}", option::of(exit()), at(), any::<u64>(), any::<bool>(), option::of(usage()), health);
    (who, what).prop_map(|((task_id, framework_id, agent_id, state, reason), what)| {
        let (message, exit, at, sequence, is_released, usage, health) = what;
        TaskStatus {
            task_id,
            framework_id,
            agent_id,
            state,
            reason,
            message,
            exit,
            at,
            sequence,
            is_released,
            usage,
            health,
        }
    })
}
