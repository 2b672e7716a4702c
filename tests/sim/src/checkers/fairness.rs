//! Fairness in the calm: whoever is hungry gets the half of a fair share at least, over a while.
//!
//! Of what all of them have together he gets three quarters of it: what nobody used in time is nobody's fault.

use std::collections::BTreeMap;

use cluster::ClusterState;
use model::RoleName;

/// Adds up what each role has, second by second, while all of them want more than there is.
#[derive(Default)]
pub struct Fairness {
    seconds: u64,
    /// Thousandths of a core, summed over the seconds.
    had: BTreeMap<RoleName, u64>,
}

impl Fairness {
    pub fn look(&mut self, roles: &[RoleName], state: &ClusterState) {
        self.seconds += 1;
        for role in roles {
            let mut sum = 0;
            for task in state.tasks().values().filter(|task| task.role == *role && !task.is_over()) {
                sum += task.spec.resources.cpus_milli;
            }
            *self.had.entry(role.clone()).or_default() += sum;
        }
    }

    /// Says who got too little of `cpus_milli`.
    pub fn judge(&self, state: &ClusterState, cpus_milli: u64, slice_milli: u64) -> Result<(), String> {
        let weights: u64 = self.had.keys().map(|role| state.weight_milli(role)).sum();
        if self.seconds == 0 || weights == 0 {
            return Ok(());
        }
        let used: u64 = self.had.values().sum();
        for (role, had) in &self.had {
            let fair = cpus_milli * state.weight_milli(role) / weights;
            let average = had / self.seconds;
            let fair_of_used = used / self.seconds * state.weight_milli(role) / weights;
            if (average + slice_milli) * 2 < fair || (average + slice_milli) * 4 < fair_of_used * 3 {
                return Err(format!(
                    "role {role} had {average} of {cpus_milli} thousandths on average, and {fair} were its share; \
                     all: {:?}",
                    self.had
                ));
            }
        }
        Ok(())
    }
}
