//! The only source of chance: one seed in, the same numbers on every machine.
//!
//! Written out here, so that no update of a library changes what a seed means.

use model::Duration;

/// xoshiro256++, as its authors published it.
#[derive(Debug, Clone)]
pub struct Chance {
    state: [u64; 4],
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        let mut mixed = seed;
        // splitmix64 spreads seeds that differ in one bit.
        let mut next = || {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = mixed;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    pub fn number(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// Below `end`; zero when that is zero.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias is below one in 2^40 for what is asked here.
        u64::try_from((u128::from(self.number()) * u128::from(end)) >> 64).unwrap_or(0)
    }

    /// From `first` to `last`, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    pub fn place(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap_or(0)
    }

    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let place = self.place(choices.len());
        choices.get(place)
    }

    /// True so often in a thousand.
    pub fn happens(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }

    /// Evenly between both, to a microsecond.
    pub fn span(&mut self, least: Duration, most: Duration) -> Duration {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.between(micros(least), micros(most)))
    }

    /// Mostly short and now and then long: each power of two between both is as likely.
    pub fn uneven_span(&mut self, least: Duration, most: Duration) -> Duration {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        let (low, high) = (micros(least).ilog2(), micros(most).ilog2());
        let power = self.between(low.into(), high.into());
        let from = 1_u64 << power;
        Duration::from_micros(self.between(from, from * 2)).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut chance = Chance::new(7);
        let numbers: Vec<u64> = (0..4).map(|_| chance.below(1000)).collect();
        assert_eq!(numbers, [55, 172, 717, 427]);
    }

    #[test]
    fn bounds_are_kept() {
        let mut chance = Chance::new(1);
        let (least, most) = (Duration::from_millis(3), Duration::from_secs(9));
        for _ in 0..1000 {
            assert!((3..=5).contains(&chance.between(3, 5)));
            assert!((least..=most).contains(&chance.span(least, most)));
            assert!((least..=most).contains(&chance.uneven_span(least, most)));
        }
        assert_eq!(chance.below(0), 0);
    }
}
