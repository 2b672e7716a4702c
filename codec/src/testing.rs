//! Arbitrary values of the model, for the property that what is written can be read.
#![allow(clippy::unwrap_used, reason = "built for tests alone")]

use std::collections::BTreeMap;

use model::{
    AgentId, Duration, Exit, Figure, FrameworkId, Histogram, PortRange, PortRanges, Reason, Resources,
    ScalarName, SharedNamespaces, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp, Usage,
};
use proptest::{collection::btree_map, collection::vec, option, prelude::*, sample::select};

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
    let rest = (
        option::of(".{0,8}"),
        option::of(".{0,8}"),
        option::of(any::<u64>()),
        option::of(any::<u32>()),
        grace(),
        texts(),
        any::<(bool, bool)>(),
    );
    (names, rest).prop_map(|((task_id, name, resources, command, env), rest)| {
        let (user, cwd, cpu_limit_milli, pids_limit, kill_grace, labels, (pid, ipc)) = rest;
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
        }
    })
}

pub fn state() -> impl Strategy<Value = TaskState> {
    select(TaskState::ALL)
}

pub fn reason() -> impl Strategy<Value = Reason> {
    select(&[
        Reason::None,
        Reason::CommandExited,
        Reason::CommandSignaled,
        Reason::KillRequested,
        Reason::MemoryLimit,
        Reason::CommandNotExecutable,
        Reason::UserRefused,
        Reason::LaunchFailed,
        Reason::ExitStatusUnknown,
        Reason::AgentRebooted,
        Reason::AgentUnreachable,
        Reason::AgentGone,
        Reason::AgentLostTask,
        Reason::FrameworkTornDown,
        Reason::Reconciliation,
        Reason::TaskUnknown,
    ])
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

pub fn status() -> impl Strategy<Value = TaskStatus> {
    let who = (task_id(), framework_id(), option::of(agent_id()), state(), reason());
    let what = (".{0,20}", option::of(exit()), at(), any::<u64>(), any::<bool>(), option::of(usage()));
    (who, what).prop_map(|((task_id, framework_id, agent_id, state, reason), what)| {
        let (message, exit, at, sequence, is_released, usage) = what;
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
        }
    })
}
