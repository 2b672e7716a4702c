//! Sums of resources over several agents.

use std::{collections::BTreeMap, fmt};

use crate::{MilliCpus, Resources, ScalarName, resources::Thousandths};

/// How much there is in all, over several agents; ports have no sum, since each agent has its own.
///
/// `limits` proves that sums of checked resources over a whole cluster fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amounts {
    pub cpus_milli: MilliCpus,
    pub mem_mib: u64,
    pub disk_mib: u64,
    pub gpus: u64,
    /// Named scalars in thousandths; a name with zero never stands here.
    pub scalars: BTreeMap<ScalarName, u64>,
}

impl Amounts {
    /// The amounts of one vector.
    pub fn of(resources: &Resources) -> Self {
        let mut amounts = Self::default();
        amounts.add(resources);
        amounts
    }

    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    pub fn add(&mut self, more: &Resources) {
        self.cpus_milli = self.cpus_milli.saturating_add(more.cpus_milli);
        self.mem_mib = self.mem_mib.saturating_add(more.mem_mib);
        self.disk_mib = self.disk_mib.saturating_add(more.disk_mib);
        self.gpus = self.gpus.saturating_add(more.gpus.into());
        for (name, amount) in more.scalars.iter().filter(|(_, amount)| **amount > 0) {
            let sum = self.scalars.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Takes out what was added before; what isn't there can't be taken.
    pub fn take(&mut self, less: &Resources) {
        self.cpus_milli = self.cpus_milli.saturating_sub(less.cpus_milli);
        self.mem_mib = self.mem_mib.saturating_sub(less.mem_mib);
        self.disk_mib = self.disk_mib.saturating_sub(less.disk_mib);
        self.gpus = self.gpus.saturating_sub(less.gpus.into());
        for (name, amount) in &less.scalars {
            if let Some(have) = self.scalars.get_mut(name) {
                *have = have.saturating_sub(*amount);
            }
        }
        self.scalars.retain(|_, amount| *amount > 0);
    }
}

impl fmt::Display for Amounts {
    /// Names only what is there: `cpus=0.5 mem=64MiB`.
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
        for (name, amount) in &self.scalars {
            parts.push(format!("{name}={}", Thousandths(*amount)));
        }
        if parts.is_empty() {
            return formatter.write_str("nothing");
        }
        formatter.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_can_be_taken_out() {
        let scalars = BTreeMap::from([(ScalarName::new("licences").unwrap(), 1500)]);
        let one = Resources { cpus_milli: 500, mem_mib: 64, scalars, ..Resources::default() };
        let mut sum = Amounts::of(&one);
        sum.add(&one);
        assert_eq!(sum.to_string(), "cpus=1 mem=128MiB licences=3");
        sum.take(&one);
        assert_eq!(sum, Amounts::of(&one));
        sum.take(&one);
        assert!(sum.is_empty());
    }

    #[test]
    fn devices_of_a_whole_cluster_can_be_summed() {
        let one = Resources { gpus: u32::MAX, ..Resources::default() };
        let mut sum = Amounts::of(&one);
        sum.add(&one);
        assert_eq!(sum.gpus, 2 * u64::from(u32::MAX));
    }
}
