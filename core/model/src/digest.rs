//! What an agent knows of its tasks, in so few bytes that it is said at every hello.
//!
//! Agent and leader sort the rows into the same buckets and digest each bucket: where digests are equal, so are the
//! rows, and nothing needs to be said of them. Both call [`Digests::of`], and nothing else makes a digest.
//!
//! ## Design
//!
//! A digest is the first half of a SHA-256: two different buckets have the same one with a chance of 2^-128, so
//! equal digests count as equal rows. It covers exactly what a row says. A version that lets it cover more differs from
//! all others in every bucket; then everything is said, as if there were no digests, and nothing goes wrong.

use sha2::{Digest as _, Sha256};

use crate::{TaskId, TaskState, limits};

/// What both sides may know of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRow<'a> {
    pub task_id: &'a TaskId,
    /// Of its latest status; 0 before the first.
    pub sequence: u64,
    pub state: TaskState,
    /// Whether its agent needs a word of the leader on it even if the rest is known. Never so at the leader's.
    pub awaits_word: bool,
}

/// The rows of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digest([u8; Digests::BYTES]);

/// The rows of all tasks of an agent, one digest for each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests(Vec<Digest>);

impl Digests {
    /// Of each digest.
    pub const BYTES: usize = 16;

    /// How many buckets so many tasks are sorted into: one that differs is told whole, so none should have many.
    pub fn buckets_for(tasks: usize) -> usize {
        tasks.div_ceil(limits::TASKS_PER_BUCKET).clamp(1, limits::BUCKETS_MAX)
    }

    /// Digests the rows, in whatever order they come.
    pub fn of<'a>(rows: impl IntoIterator<Item = KnownRow<'a>>, buckets: usize) -> Self {
        let mut rows: Vec<KnownRow<'a>> = rows.into_iter().collect();
        rows.sort_unstable_by_key(|row| row.task_id);
        let mut hashers = vec![Sha256::new(); buckets.clamp(1, limits::BUCKETS_MAX)];
        for KnownRow { task_id, sequence, state, awaits_word } in rows {
            let bucket = bucket_of(task_id, hashers.len());
            let Some(hasher) = hashers.get_mut(bucket) else { continue };
            // The end of each text is marked by a byte that UTF-8 never has.
            hasher.update(task_id.as_str());
            hasher.update([0xff]);
            hasher.update(sequence.to_le_bytes());
            hasher.update(state.as_str());
            hasher.update([0xff, u8::from(awaits_word)]);
        }
        let digest = |hasher: Sha256| {
            let mut digest = [0; Self::BYTES];
            digest.copy_from_slice(&hasher.finalize()[..Self::BYTES]);
            Digest(digest)
        };
        Self(hashers.into_iter().map(digest).collect())
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> usize {
        self.0.len()
    }

    /// In which of these buckets a task is.
    pub fn bucket_of(&self, task_id: &TaskId) -> u32 {
        // There are at most BUCKETS_MAX.
        u32::try_from(bucket_of(task_id, self.0.len())).unwrap_or(u32::MAX)
    }

    /// The buckets whose rows are others there, lowest first; all of them when they were sorted otherwise.
    pub fn differing(&self, there: &Self) -> Vec<u32> {
        let is_comparable = self.0.len() == there.0.len();
        let there = there.0.iter().map(Some).chain(std::iter::repeat(None));
        let pairs = (0..).zip(self.0.iter().zip(there));
        pairs
            .filter(|(_, (here, there))| !is_comparable || Some(*here) != *there)
            .map(|(bucket, _)| bucket)
            .collect()
    }

    /// One after the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|digest| digest.0).collect()
    }

    /// `None` where these can't be digests: no bucket, too many, or half of one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (digests, rest) = bytes.as_chunks::<{ Self::BYTES }>();
        let is_valid = rest.is_empty() && (1..=limits::BUCKETS_MAX).contains(&digests.len());
        is_valid.then(|| Self(digests.iter().copied().map(Digest).collect()))
    }
}

/// FNV-1a: it only has to spread, and to be the same everywhere.
fn bucket_of(task_id: &TaskId, buckets: usize) -> usize {
    let hash = task_id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of neighbours' names are much alike.
    let buckets = u64::try_from(buckets).unwrap_or(1).max(1);
    usize::try_from((hash ^ (hash >> 32)) % buckets).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(task_id: &TaskId, sequence: u64) -> KnownRow<'_> {
        KnownRow { task_id, sequence, state: TaskState::Running, awaits_word: false }
    }

    fn ids(count: usize) -> Vec<TaskId> {
        (0..count).map(|number| TaskId::new(&format!("web-{number}")).unwrap()).collect()
    }

    #[test]
    fn every_field_counts_and_only_its_own_bucket_differs() {
        let ids = ids(100);
        let before = Digests::of(ids.iter().map(|id| row(id, 2)), 32);
        let change = |what: &dyn Fn(&mut KnownRow<'_>)| {
            let rows = ids.iter().map(|id| {
                let mut row = row(id, 2);
                if id == &ids[7] {
                    what(&mut row);
                }
                row
            });
            before.differing(&Digests::of(rows, 32))
        };
        let bucket = before.bucket_of(&ids[7]);
        assert_eq!(change(&|_| {}), []);
        assert_eq!(change(&|row| row.sequence = 3), [bucket]);
        assert_eq!(change(&|row| row.sequence = 2 << 32), [bucket]);
        assert_eq!(change(&|row| row.state = TaskState::Killing), [bucket]);
        assert_eq!(change(&|row| row.awaits_word = true), [bucket]);
        let other = TaskId::new("web-7a").unwrap();
        let renamed = Digests::of(ids.iter().map(|id| row(if id == &ids[7] { &other } else { id }, 2)), 32);
        assert!(before.differing(&renamed).contains(&bucket));
        let without = Digests::of(ids.iter().filter(|id| *id != &ids[7]).map(|id| row(id, 2)), 32);
        assert_eq!(before.differing(&without), [bucket]);
    }

    #[test]
    fn what_is_sorted_otherwise_differs_everywhere() {
        let ids = ids(10);
        let four = Digests::of(ids.iter().map(|id| row(id, 1)), 4);
        let eight = Digests::of(ids.iter().map(|id| row(id, 1)), 8);
        assert_eq!(four.differing(&eight), [0, 1, 2, 3]);
        assert_eq!(eight.differing(&four), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    /// Another build must make the same of it, or nobody who is upgraded is spared anything. A change here is allowed,
    /// and is worth a thought.
    #[test]
    fn digests_are_the_same_in_every_build() {
        let ids = ids(3);
        let digests = Digests::of(ids.iter().map(|id| row(id, 2)), 1);
        let hex: String = digests.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect!["abe9f62b2cf6b497d8daec44d20ff176"].assert_eq(&hex);
    }

    #[test]
    fn tasks_are_spread() {
        for count in [1000, 8000] {
            let mut sizes = [0_usize; 32];
            ids(count).iter().for_each(|id| sizes[bucket_of(id, 32)] += 1);
            let fair = count / 32;
            assert!(sizes.iter().all(|size| (fair / 2..fair * 2).contains(size)), "{sizes:?}");
        }
        assert_eq!([0, 1, 16, 17, 1000, 8192].map(Digests::buckets_for), [1, 1, 1, 2, 32, 32]);
    }

    #[test]
    fn what_can_not_be_digests_is_none() {
        let one = Digests::of([], 1).to_bytes();
        assert_eq!(Digests::from_bytes(&one), Some(Digests::of([], 1)));
        assert_eq!(Digests::from_bytes(&[]), None);
        assert_eq!(Digests::from_bytes(&one[1..]), None);
        assert_eq!(Digests::from_bytes(&one.repeat(limits::BUCKETS_MAX + 1)), None);
    }

    proptest! {
        #[test]
        fn order_does_not_matter(seed in any::<u64>(), count in 0_usize..60, buckets in 1_usize..40) {
            let ids = ids(count);
            let mut rows: Vec<_> = ids.iter().zip(1..).map(|(id, sequence)| row(id, sequence)).collect();
            let before = Digests::of(rows.iter().copied(), buckets);
            rows.sort_by_key(|row| row.sequence.wrapping_mul(seed | 1));
            prop_assert_eq!(&before, &Digests::of(rows, buckets));
            prop_assert_eq!(Digests::from_bytes(&before.to_bytes()), Some(before));
        }
    }
}
