//! The kernel programs by name, and the measures that they make up.
use std::{fmt, str::FromStr};

/// One of the kernel programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// Charges CPU time to registered cgroups.
    Cpu,
    /// Keeps the exit status of registered processes, and what ended threads had used.
    Exit,
    /// Walks threads for the memory of their cgroup and for what they have used.
    Snap,
    /// Reports victims of the OOM killer.
    Oom,
    /// Begins a wait for a CPU: a thread was woken, or made.
    Wakeup,
    WakeupNew,
    /// Ends a wait for a CPU, and counts how threads leave it.
    Switch,
    /// Counts packets that come, and packets that go.
    NetIn,
    NetOut,
    /// Counts connections.
    Connect,
    /// Counts segments sent again.
    Retransmit,
    /// Counts and times requests of block devices.
    Block,
    Fork,
    Exec,
    /// Begins and ends a stall in which a thread frees memory of the machine, or of its own cgroup.
    DirectIn,
    DirectOut,
    MemcgIn,
    MemcgOut,
    /// Judges the ports that are bound, of either family.
    Bind4,
    Bind6,
    /// Sees the ports that are listened on.
    Listen,
}

/// How a program is loaded and attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To a tracepoint, with typed arguments.
    Tracepoint(&'static str),
    /// To a walk over all threads.
    TaskIterator,
    /// To the packets of a cgroup.
    Ingress,
    Egress,
    /// To the binds of a cgroup.
    Bind,
}

impl Program {
    pub const ALL: [Self; 21] = [
        Self::Cpu,
        Self::Exit,
        Self::Snap,
        Self::Oom,
        Self::Wakeup,
        Self::WakeupNew,
        Self::Switch,
        Self::NetIn,
        Self::NetOut,
        Self::Connect,
        Self::Retransmit,
        Self::Block,
        Self::Fork,
        Self::Exec,
        Self::DirectIn,
        Self::DirectOut,
        Self::MemcgIn,
        Self::MemcgOut,
        Self::Bind4,
        Self::Bind6,
        Self::Listen,
    ];

    /// Its name in the kernel, in the object and on bpffs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "m_cpu",
            Self::Exit => "m_exit",
            Self::Snap => "m_snap",
            Self::Oom => "m_oom",
            Self::Wakeup => "m_wakeup",
            Self::WakeupNew => "m_wakeup_new",
            Self::Switch => "m_switch",
            Self::NetIn => "m_net_in",
            Self::NetOut => "m_net_out",
            Self::Connect => "m_conn",
            Self::Retransmit => "m_retrans",
            Self::Block => "m_block",
            Self::Fork => "m_fork",
            Self::Exec => "m_exec",
            Self::DirectIn => "m_direct_in",
            Self::DirectOut => "m_direct_out",
            Self::MemcgIn => "m_memcg_in",
            Self::MemcgOut => "m_memcg_out",
            Self::Bind4 => "g_bind4",
            Self::Bind6 => "g_bind6",
            Self::Listen => "g_listen",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Cpu => Kind::Tracepoint("sched_stat_runtime"),
            Self::Exit => Kind::Tracepoint("sched_process_exit"),
            Self::Snap => Kind::TaskIterator,
            Self::Oom => Kind::Tracepoint("mark_victim"),
            Self::Wakeup => Kind::Tracepoint("sched_wakeup"),
            Self::WakeupNew => Kind::Tracepoint("sched_wakeup_new"),
            Self::Switch => Kind::Tracepoint("sched_switch"),
            Self::NetIn => Kind::Ingress,
            Self::NetOut => Kind::Egress,
            Self::Connect => Kind::Tracepoint("inet_sock_set_state"),
            Self::Retransmit => Kind::Tracepoint("tcp_retransmit_skb"),
            Self::Block => Kind::Tracepoint("block_rq_complete"),
            Self::Fork => Kind::Tracepoint("sched_process_fork"),
            Self::Exec => Kind::Tracepoint("sched_process_exec"),
            Self::DirectIn => Kind::Tracepoint("mm_vmscan_direct_reclaim_begin"),
            Self::DirectOut => Kind::Tracepoint("mm_vmscan_direct_reclaim_end"),
            Self::MemcgIn => Kind::Tracepoint("mm_vmscan_memcg_reclaim_begin"),
            Self::MemcgOut => Kind::Tracepoint("mm_vmscan_memcg_reclaim_end"),
            Self::Bind4 | Self::Bind6 => Kind::Bind,
            Self::Listen => Kind::Tracepoint("inet_sock_set_state"),
        }
    }

    /// Whether it guards ports; those that do run where the operator has a policy for them.
    pub fn guards_ports(self) -> bool {
        matches!(self, Self::Bind4 | Self::Bind6 | Self::Listen)
    }

    /// The measure that it serves; `None` for what isn't measuring.
    pub fn measure(self) -> Option<Measure> {
        Some(match self {
            Self::Exit | Self::Bind4 | Self::Bind6 | Self::Listen => return None,
            Self::Cpu => Measure::Cpu,
            Self::Snap => Measure::Threads,
            Self::Oom => Measure::Oom,
            Self::Wakeup | Self::WakeupNew | Self::Switch => Measure::RunQueue,
            Self::NetIn | Self::NetOut => Measure::Network,
            Self::Connect | Self::Retransmit => Measure::Connections,
            Self::Block => Measure::Block,
            Self::Fork | Self::Exec => Measure::Forks,
            Self::DirectIn | Self::DirectOut | Self::MemcgIn | Self::MemcgOut => Measure::Reclaim,
        })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What can be measured, or not, as the operator chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// CPU time, exact; without it the cgroup files' figure is taken.
    Cpu,
    /// The walk over threads: processes, threads, page faults, bytes of block I/O.
    Threads,
    /// The figures of the moment in which memory ran out.
    Oom,
    /// Waits for a CPU and context switches.
    RunQueue,
    /// Bytes and packets.
    Network,
    /// TCP connections and segments sent again.
    Connections,
    /// Operations of block devices and how long they take.
    Block,
    /// Processes made and programs started.
    Forks,
    /// Stalls to free memory.
    Reclaim,
    /// The kernel's pressure figures.
    Pressure,
}

impl Measure {
    pub const ALL: [Self; 10] = [
        Self::Cpu,
        Self::Threads,
        Self::Oom,
        Self::RunQueue,
        Self::Network,
        Self::Connections,
        Self::Block,
        Self::Forks,
        Self::Reclaim,
        Self::Pressure,
    ];

    /// As it stands in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Threads => "threads",
            Self::Oom => "oom",
            Self::RunQueue => "run-queue",
            Self::Network => "network",
            Self::Connections => "connections",
            Self::Block => "block",
            Self::Forks => "forks",
            Self::Reclaim => "reclaim",
            Self::Pressure => "pressure",
        }
    }
}

/// A choice of measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measures(u16);

impl Measures {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self((1 << Measure::ALL.len()) - 1);

    pub fn has(self, measure: Measure) -> bool {
        self.0 & 1 << measure as u16 != 0
    }

    #[must_use]
    pub fn with(self, measure: Measure) -> Self {
        Self(self.0 | 1 << measure as u16)
    }

    #[must_use]
    pub fn without(self, measure: Measure) -> Self {
        Self(self.0 & !(1 << measure as u16))
    }

    /// Whether a program is to run.
    pub fn want(self, program: Program) -> bool {
        program.measure().is_none_or(|measure| self.has(measure))
    }
}

impl FromIterator<Measure> for Measures {
    fn from_iter<I: IntoIterator<Item = Measure>>(measures: I) -> Self {
        measures.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for Measures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("all"),
            Self::NONE => f.write_str("none"),
            some => {
                let names: Vec<_> =
                    Measure::ALL.iter().filter(|measure| some.has(**measure)).map(|it| it.name()).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl FromStr for Measures {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let measures: Result<Self, String> = words
            .map(|word| {
                let found = Measure::ALL.into_iter().find(|measure| measure.name() == word);
                found.ok_or_else(|| {
                    let known: Vec<_> = Measure::ALL.iter().map(|measure| measure.name()).collect();
                    format!("`{word}` is no measure; take `all`, `none`, or some of {}", known.join(","))
                })
            })
            .collect();
        measures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_written_as_they_are_read() {
        for text in ["all", "none", "cpu", "cpu,run-queue,pressure"] {
            assert_eq!(text.parse::<Measures>().unwrap().to_string(), text);
        }
        assert_eq!(Measures::ALL.without(Measure::Cpu).with(Measure::Cpu), Measures::ALL);
        let refused = "cpu,tea".parse::<Measures>().unwrap_err();
        assert!(refused.starts_with("`tea` is no measure"), "{refused}");
    }

    #[test]
    fn only_the_record_of_exits_is_always_on() {
        let measuring = Program::ALL.into_iter().filter(|program| !program.guards_ports());
        let always: Vec<_> = measuring.filter(|program| Measures::NONE.want(*program)).collect();
        assert_eq!(always, [Program::Exit]);
        assert!(Program::ALL.into_iter().all(|program| Measures::ALL.want(program)));
    }
}
