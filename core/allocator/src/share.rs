//! Shares as exact fractions.

use std::cmp::Ordering;

/// A weighted dominant share: the largest part of any kind that somebody has, divided by its weight.
///
/// Compared by cross-multiplication in u128, never as a float. `model::limits` proves that the products
/// fit: sums over a cluster have at most 53 bits, a weight has 20.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    part: u128,
    /// Total times weight, never zero.
    whole: u128,
}

impl Share {
    /// The dominant share of `allocated` in `total`; kinds that the cluster doesn't have don't count.
    pub fn dominant(allocated: &[u64], total: &[u64], weight_milli: u64) -> Self {
        let weight = u128::from(weight_milli.max(1));
        let mut dominant = Self { part: 0, whole: 1 };
        for (have, all) in allocated.iter().zip(total) {
            if *all == 0 {
                continue;
            }
            let share = Self { part: u128::from(*have), whole: u128::from(*all) * weight };
            if share > dominant {
                dominant = share;
            }
        }
        dominant
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        // Saturation is out of reach for what `limits` allows; it would only make equals of giants.
        self.part.saturating_mul(other.whole).cmp(&other.part.saturating_mul(self.whole))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}

#[cfg(test)]
mod tests {
    use super::*;
    use model::limits;

    #[test]
    fn the_scarcest_kind_counts() {
        let total = [9, 18];
        let a = Share::dominant(&[3, 1], &total, 1000);
        let b = Share::dominant(&[1, 7], &total, 1000);
        assert!(a < b, "3/9 is less than 7/18");
        assert_eq!(Share::dominant(&[3, 0], &total, 1000), Share::dominant(&[0, 6], &total, 1000));
    }

    #[test]
    fn twice_the_weight_is_half_the_share() {
        let total = [10];
        assert_eq!(Share::dominant(&[4], &total, 2000), Share::dominant(&[2], &total, 1000));
    }

    #[test]
    fn the_largest_cluster_compares_exactly() {
        let all = limits::MIB_MAX * limits::AGENTS_MAX;
        let weight = limits::WEIGHT_MILLI_MAX;
        let a = Share::dominant(&[all - 1], &[all], weight);
        let b = Share::dominant(&[all], &[all], weight);
        assert!(a < b);
        assert!(Share::dominant(&[all - 1], &[all], weight - 1) > a);
    }

    #[test]
    fn a_kind_that_is_nowhere_does_not_count() {
        assert_eq!(Share::dominant(&[5], &[0], 1000), Share::dominant(&[], &[], 1));
    }
}
