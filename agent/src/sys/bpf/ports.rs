//! Which ports tasks may use, and news of those that they use undeclared.
use std::{fmt, str::FromStr};

use agent_ebpf_common::{PORT_RANGES_MAX, PortHow, PortRecord, PortRules};

use super::{BpfError, PORT_RULES, Programs, check_insert, check_remove, lock, stream::Record};
use crate::sys::CgroupId;

/// What is done about a port that a task uses and has not declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PortPolicy {
    Off,
    /// It is told.
    #[default]
    Report,
    /// It is told, and the bind fails.
    Refuse,
}

impl PortPolicy {
    const NAMES: [(Self, &'static str); 3] =
        [(Self::Off, "off"), (Self::Report, "report"), (Self::Refuse, "refuse")];
}

impl fmt::Display for PortPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(policy, _)| policy == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for PortPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(policy, _)| *policy).ok_or_else(|| format!("`{text}` is none of off, report, refuse"))
    }
}

/// A port that a task used and has not declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEvent {
    /// Its v2 cgroup.
    pub cgroup: CgroupId,
    pub port: u16,
    /// As in `/etc/protocols`.
    pub protocol: u8,
    pub how: PortHow,
}

impl fmt::Display for PortEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cgroup: _, port, protocol, how } = self;
        match protocol {
            6 => write!(f, "{port}/tcp")?,
            17 => write!(f, "{port}/udp")?,
            other => write!(f, "{port}/{other}")?,
        }
        match how {
            PortHow::Bound => Ok(()),
            PortHow::Refused => f.write_str(" (refused)"),
            PortHow::Listens => f.write_str(" (listens where the kernel put it)"),
        }
    }
}

impl Record for PortEvent {
    const BYTES: usize = size_of::<PortRecord>();

    fn decode(bytes: &[u8]) -> Option<Self> {
        let how = match *bytes.get(11)? {
            how if how == PortHow::Bound as u8 => PortHow::Bound,
            how if how == PortHow::Refused as u8 => PortHow::Refused,
            how if how == PortHow::Listens as u8 => PortHow::Listens,
            _ => return None,
        };
        Some(Self {
            cgroup: CgroupId(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?)),
            port: u16::from_ne_bytes(bytes.get(8..10)?.try_into().ok()?),
            protocol: *bytes.get(10)?,
            how,
        })
    }
}

impl Programs {
    /// Guards the ports of a cgroup: each that isn't `declared` (first and last of each range) is told once.
    ///
    /// Refuses more ranges than a rule holds, of which only one who declares every other port has any.
    pub fn guard_ports(
        &self,
        cgroup: CgroupId,
        declared: &[(u16, u16)],
        refuses: bool,
    ) -> Result<(), BpfError> {
        let mut rules = PortRules {
            refuses: refuses.into(),
            declared: [[0; 2]; PORT_RANGES_MAX],
            told: [0; PortRules::TOLD_WORDS],
        };
        if declared.len() > PORT_RANGES_MAX {
            return Err(BpfError::Full { map: PORT_RULES, capacity: PORT_RANGES_MAX as u32 });
        }
        for (slot, (first, last)) in rules.declared.iter_mut().zip(declared) {
            *slot = [*first, *last];
        }
        let inserted = lock(&self.port_rules).insert(cgroup.0, rules, 0);
        check_insert(PORT_RULES, self.options.limits.cgroups, inserted)
    }

    /// Lets a cgroup use any port from now on.
    pub fn unguard_ports(&self, cgroup: CgroupId) -> Result<(), BpfError> {
        check_remove(PORT_RULES, lock(&self.port_rules).remove(&cgroup.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_written_and_told_in_words() {
        let mut bytes = 7_u64.to_ne_bytes().to_vec();
        bytes.extend(8080_u16.to_ne_bytes());
        bytes.extend([6, PortHow::Refused as u8, 0, 0, 0, 0]);
        let event = PortEvent::decode(&bytes).unwrap();
        assert_eq!((event.cgroup, event.to_string()), (CgroupId(7), "8080/tcp (refused)".to_owned()));
        bytes[11] = 9;
        assert_eq!(PortEvent::decode(&bytes), None);
    }

    #[test]
    fn policies_are_written_as_they_are_read() {
        for policy in [PortPolicy::Off, PortPolicy::Report, PortPolicy::Refuse] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("maybe".parse::<PortPolicy>(), Err("`maybe` is none of off, report, refuse".to_owned()));
    }
}
