//! Exact resources: integers only, so that sums are the same everywhere.

use std::{collections::BTreeMap, fmt};

use crate::{ScalarName, limits};

/// Thousandths of a CPU core.
pub type MilliCpus = u64;

/// What an agent has, an offer holds, or a task needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Resources {
    pub cpus_milli: MilliCpus,
    pub mem_mib: u64,
    pub disk_mib: u64,
    pub gpus: u32,
    pub ports: PortRanges,
    /// Named scalars in thousandths; a name with zero never stands here.
    pub scalars: BTreeMap<ScalarName, u64>,
}

/// Why a vector of resources can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourcesError {
    #[error("{what} of {value} is more than one agent can have ({max})")]
    TooMuch { what: String, value: u64, max: u64 },
    #[error("port range {first}-{last} is not valid: ports are 1 to 65535, and the first comes first")]
    PortRange { first: u32, last: u32 },
    #[error("port ranges overlap at {port}")]
    PortsOverlap { port: u16 },
    #[error("{count} {what} are more than the {max} that are allowed")]
    TooMany { what: &'static str, count: usize, max: usize },
}

impl Resources {
    /// Checks the bounds that keep every sum exact.
    pub fn check(&self) -> Result<(), ResourcesError> {
        let bounded = |what: &str, value: u64, max: u64| {
            if value > max {
                return Err(ResourcesError::TooMuch { what: what.to_owned(), value, max });
            }
            Ok(())
        };
        bounded("cpus (in thousandths)", self.cpus_milli, limits::CPUS_MILLI_MAX)?;
        bounded("mem (in MiB)", self.mem_mib, limits::MIB_MAX)?;
        bounded("disk (in MiB)", self.disk_mib, limits::MIB_MAX)?;
        bounded("gpus", self.gpus.into(), limits::GPUS_MAX.into())?;
        for (name, value) in &self.scalars {
            bounded(name.as_str(), *value, limits::SCALAR_MILLI_MAX)?;
        }
        let count = self.scalars.len();
        if count > limits::SCALARS_MAX {
            return Err(ResourcesError::TooMany { what: "named resources", count, max: limits::SCALARS_MAX });
        }
        let count = self.ports.ranges().len();
        if count > limits::PORT_RANGES_MAX {
            return Err(ResourcesError::TooMany { what: "port ranges", count, max: limits::PORT_RANGES_MAX });
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// Whether `other` fits into this.
    pub fn contains(&self, other: &Self) -> bool {
        self.cpus_milli >= other.cpus_milli
            && self.mem_mib >= other.mem_mib
            && self.disk_mib >= other.disk_mib
            && self.gpus >= other.gpus
            && self.ports.contains(&other.ports)
            && other
                .scalars
                .iter()
                .all(|(name, need)| self.scalars.get(name).is_some_and(|have| have >= need))
    }

    /// Both together. Amounts saturate, which `check`ed values never reach; ports are united.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut scalars = self.scalars.clone();
        for (name, amount) in &other.scalars {
            let sum = scalars.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
        Self {
            cpus_milli: self.cpus_milli.saturating_add(other.cpus_milli),
            mem_mib: self.mem_mib.saturating_add(other.mem_mib),
            disk_mib: self.disk_mib.saturating_add(other.disk_mib),
            gpus: self.gpus.saturating_add(other.gpus),
            ports: self.ports.union(&other.ports),
            scalars,
        }
    }

    /// What is left after taking `other` out, or `None` when it doesn't fit.
    pub fn minus(&self, other: &Self) -> Option<Self> {
        self.contains(other).then(|| self.minus_at_most(other))
    }

    /// What is left after taking out as much of `other` as is there.
    #[must_use]
    pub fn minus_at_most(&self, other: &Self) -> Self {
        let mut scalars = self.scalars.clone();
        for (name, amount) in &other.scalars {
            if let Some(have) = scalars.get_mut(name) {
                *have = have.saturating_sub(*amount);
            }
        }
        scalars.retain(|_, amount| *amount > 0);
        Self {
            cpus_milli: self.cpus_milli.saturating_sub(other.cpus_milli),
            mem_mib: self.mem_mib.saturating_sub(other.mem_mib),
            disk_mib: self.disk_mib.saturating_sub(other.disk_mib),
            gpus: self.gpus.saturating_sub(other.gpus),
            ports: self.ports.difference(&other.ports),
            scalars,
        }
    }
}

impl fmt::Display for Resources {
    /// Names only what is there: `cpus=0.5 mem=64MiB ports=31000-31001`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.cpus_milli > 0 {
            parts.push(format!("cpus={}", Thousandths(self.cpus_milli)));
        }
        if self.mem_mib > 0 {
            parts.push(format!("mem={}MiB", self.mem_mib));
        }
        if self.disk_mib > 0 {
            parts.push(format!("disk={}MiB", self.disk_mib));
        }
        if self.gpus > 0 {
            parts.push(format!("gpus={}", self.gpus));
        }
        if !self.ports.is_empty() {
            parts.push(format!("ports={}", self.ports));
        }
        for (name, amount) in &self.scalars {
            parts.push(format!("{name}={}", Thousandths(*amount)));
        }
        if parts.is_empty() {
            return formatter.write_str("nothing");
        }
        formatter.write_str(&parts.join(" "))
    }
}

/// Shows thousandths as a decimal without trailing zeros.
pub(crate) struct Thousandths(pub(crate) u64);

impl fmt::Display for Thousandths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1000, self.0 % 1000);
        if part == 0 {
            return write!(formatter, "{whole}");
        }
        let digits = format!("{part:03}");
        write!(formatter, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// First and last port, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Refuses port 0 and a range that ends before it begins.
    pub fn new(first: u32, last: u32) -> Result<Self, ResourcesError> {
        match (u16::try_from(first), u16::try_from(last)) {
            (Ok(low), Ok(high)) if low >= 1 && low <= high => Ok(Self { first: low, last: high }),
            _ => Err(ResourcesError::PortRange { first, last }),
        }
    }

    pub fn first(self) -> u16 {
        self.first
    }

    pub fn last(self) -> u16 {
        self.last
    }
}

/// Ports as sorted ranges that neither overlap nor touch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortRanges(Vec<PortRange>);

impl PortRanges {
    /// Sorts and joins; refuses ranges that overlap, because they would be counted once.
    pub fn new(mut ranges: Vec<PortRange>) -> Result<Self, ResourcesError> {
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if pair[1].first <= pair[0].last {
                return Err(ResourcesError::PortsOverlap { port: pair[1].first });
            }
        }
        Ok(Self::joined(ranges))
    }

    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ports there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.last - range.first) + 1).sum()
    }

    /// The lowest `count` ports, or `None` when there are fewer.
    pub fn lowest(&self, count: u64) -> Option<Self> {
        let mut taken = Vec::new();
        let mut wanted = count;
        for range in &self.0 {
            if wanted == 0 {
                break;
            }
            let size = u64::from(range.last - range.first) + 1;
            let step = size.min(wanted);
            // `step` is at most the size of a range of u16, so it fits.
            let last = range.first + u16::try_from(step - 1).unwrap_or(u16::MAX);
            taken.push(PortRange { first: range.first, last });
            wanted -= step;
        }
        (wanted == 0).then_some(Self(taken))
    }

    pub fn contains(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|need| self.0.iter().any(|have| have.first <= need.first && need.last <= have.last))
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut ranges = [self.0.as_slice(), other.0.as_slice()].concat();
        ranges.sort_unstable();
        Self::joined(ranges)
    }

    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for range in &self.0 {
            let mut from = u32::from(range.first);
            for hole in other.0.iter().filter(|hole| hole.first <= range.last && hole.last >= range.first) {
                if u32::from(hole.first) > from {
                    left.extend(PortRange::new(from, u32::from(hole.first) - 1));
                }
                from = from.max(u32::from(hole.last) + 1);
            }
            if from <= u32::from(range.last) {
                left.extend(PortRange::new(from, range.last.into()));
            }
        }
        Self(left)
    }

    /// Joins sorted ranges that overlap or touch.
    fn joined(ranges: Vec<PortRange>) -> Self {
        let mut joined: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(before) if u32::from(range.first) <= u32::from(before.last) + 1 => {
                    before.last = before.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, range) in self.0.iter().enumerate() {
            if place > 0 {
                formatter.write_str(",")?;
            }
            if range.first == range.last {
                write!(formatter, "{}", range.first)?;
            } else {
                write!(formatter, "{}-{}", range.first, range.last)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(text: &str) -> PortRanges {
        let ranges = text.split_whitespace().map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            PortRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
        });
        PortRanges::new(ranges.collect()).unwrap()
    }

    #[test]
    fn ranges_are_sorted_and_joined() {
        assert_eq!(ports("5-9 1-2 3-4").to_string(), "1-9");
        assert_eq!(ports("10 1-2").to_string(), "1-2,10");
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        let range = |first, last| PortRange::new(first, last).unwrap();
        assert_eq!(
            PortRanges::new(vec![range(1, 5), range(5, 6)]),
            Err(ResourcesError::PortsOverlap { port: 5 })
        );
    }

    #[test]
    fn absurd_port_ranges_are_refused() {
        for (first, last) in [(0, 1), (5, 4), (1, 65_536), (70_000, 70_001)] {
            assert_eq!(PortRange::new(first, last), Err(ResourcesError::PortRange { first, last }));
        }
    }

    #[test]
    fn a_display_names_only_what_is_there() {
        let resources =
            Resources { cpus_milli: 1250, mem_mib: 64, ports: ports("80"), ..Resources::default() };
        assert_eq!(resources.to_string(), "cpus=1.25 mem=64MiB ports=80");
        assert_eq!(Resources::default().to_string(), "nothing");
    }

    fn any_ports() -> impl Strategy<Value = PortRanges> {
        proptest::collection::btree_set(1u32..64, 0..24).prop_map(|set| {
            PortRanges::new(set.into_iter().map(|port| PortRange::new(port, port).unwrap()).collect())
                .unwrap()
        })
    }

    fn any_resources() -> impl Strategy<Value = Resources> {
        (0u64..8, 0u64..8, 0u64..8, 0u32..4, any_ports(), 0u64..4).prop_map(
            |(cpus_milli, mem_mib, disk_mib, gpus, ports, licences)| {
                let mut scalars = BTreeMap::new();
                if licences > 0 {
                    scalars.insert(ScalarName::new("licences").unwrap(), licences);
                }
                Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_taken_out_and_put_back_is_the_same(have in any_resources(), need in any_resources()) {
            match have.minus(&need) {
                Some(left) => {
                    prop_assert_eq!(&left.plus(&need), &have);
                    prop_assert!(have.contains(&left));
                }
                None => prop_assert!(!have.contains(&need)),
            }
        }

        #[test]
        fn ports_behave_like_sets(a in any_ports(), b in any_ports()) {
            let both = a.union(&b);
            prop_assert!(both.contains(&a) && both.contains(&b));
            let left = a.difference(&b);
            prop_assert_eq!(left.union(&b).count(), both.count());
            prop_assert!(a.contains(&left));
        }

        #[test]
        fn the_lowest_ports_are_part_of_all(a in any_ports(), count in 0u64..30) {
            match a.lowest(count) {
                Some(some) => { prop_assert_eq!(some.count(), count); prop_assert!(a.contains(&some)); }
                None => prop_assert!(a.count() < count),
            }
        }
    }
}
