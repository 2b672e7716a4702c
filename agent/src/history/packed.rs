//! Points of usage as bytes: each says what changed since the one before.
//!
//! A point of a busy task takes some 150 bytes, one of an idle task 5. The bytes never leave this process.

use model::{Figure, Histogram, Timestamp, Usage};

/// One bit for each histogram in the byte that says what follows.
const RUN_QUEUE: u64 = 1;
const BLOCK: u64 = 2;
/// The histogram is there now, and changed buckets follow.
const RUN_QUEUE_GONE: u64 = 4;
const BLOCK_GONE: u64 = 8;

/// Appends what is new in `now`.
pub(super) fn pack(before: &Usage, now: &Usage, bytes: &mut Vec<u8>) {
    put_signed(bytes, now.at.0.wrapping_sub(before.at.0));
    let (mut changed, mut gone) = (0_u64, 0_u64);
    for figure in Figure::ALL {
        match (before.get(figure), now.get(figure)) {
            (Some(_), None) => gone |= 1 << figure.number(),
            (before, now) if before != now => changed |= 1 << figure.number(),
            (_, _) => {}
        }
    }
    put(bytes, changed);
    put(bytes, gone);
    for (figure, value) in now.figures().filter(|(figure, _)| changed & (1 << figure.number()) != 0) {
        put_signed(bytes, value.wrapping_sub(before.get(figure).unwrap_or(0)).cast_signed());
    }
    let what = |before: &Option<Histogram>, now: &Option<Histogram>, there, gone| match (before, now) {
        (Some(_), None) => gone,
        (before, now) if before != now => there,
        (_, _) => 0,
    };
    put(
        bytes,
        what(&before.run_queue_latency, &now.run_queue_latency, RUN_QUEUE, RUN_QUEUE_GONE)
            | what(&before.block_latency, &now.block_latency, BLOCK, BLOCK_GONE),
    );
    pack_histogram(&before.run_queue_latency, &now.run_queue_latency, bytes);
    pack_histogram(&before.block_latency, &now.block_latency, bytes);
}

/// Turns `usage` into the next point. `None`: there is none, or the bytes are not what [`pack`] wrote.
pub(super) fn unpack(usage: &mut Usage, bytes: &mut &[u8]) -> Option<()> {
    usage.at = Timestamp(usage.at.0.wrapping_add(take_signed(bytes)?));
    let (changed, gone) = (take(bytes)?, take(bytes)?);
    for figure in Figure::ALL {
        if gone & (1 << figure.number()) != 0 {
            usage.set(figure, None);
        } else if changed & (1 << figure.number()) != 0 {
            usage.add(figure, take_signed(bytes)?);
        }
    }
    let what = take(bytes)?;
    unpack_histogram(&mut usage.run_queue_latency, what & RUN_QUEUE != 0, what & RUN_QUEUE_GONE != 0, bytes)?;
    unpack_histogram(&mut usage.block_latency, what & BLOCK != 0, what & BLOCK_GONE != 0, bytes)
}

fn pack_histogram(before: &Option<Histogram>, now: &Option<Histogram>, bytes: &mut Vec<u8>) {
    let Some(now) = now.as_ref().filter(|now| before.as_ref() != Some(now)) else { return };
    let none = Histogram::default();
    let before = before.as_ref().unwrap_or(&none);
    let count = |histogram: &Histogram, bucket| histogram.counts().get(bucket).copied().unwrap_or(0);
    let differs = |bucket: &usize| count(now, *bucket) != count(before, *bucket);
    let buckets: Vec<usize> = (0..Histogram::BUCKETS).filter(differs).collect();
    put(bytes, buckets.iter().fold(0, |changed, bucket| changed | 1 << bucket));
    for bucket in buckets {
        put_signed(bytes, count(now, bucket).wrapping_sub(count(before, bucket)).cast_signed());
    }
}

fn unpack_histogram(
    histogram: &mut Option<Histogram>,
    is_changed: bool,
    is_gone: bool,
    bytes: &mut &[u8],
) -> Option<()> {
    if is_gone {
        *histogram = None;
    }
    if !is_changed {
        return Some(());
    }
    let changed = take(bytes)?;
    let before = histogram.take().unwrap_or_default();
    let mut counts = Vec::with_capacity(Histogram::BUCKETS);
    for bucket in 0..Histogram::BUCKETS {
        let count = before.counts().get(bucket).copied().unwrap_or(0);
        let by = if changed & (1 << bucket) == 0 { 0 } else { take_signed(bytes)? };
        counts.push(count.wrapping_add_signed(by));
    }
    *histogram = Some(Histogram::of_counts(counts));
    Some(())
}

/// Seven bits in each byte, the lowest first; the eighth says that more follow.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The sign in the lowest bit, so that small numbers of both signs are short.
fn put_signed(bytes: &mut Vec<u8>, value: i64) {
    put(bytes, (value << 1 ^ value >> 63).cast_unsigned());
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let value = take(bytes)?;
    Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_packed_can_be_unpacked(points in proptest::collection::vec(codec::testing::usage(), 1..6)) {
            let mut bytes = Vec::new();
            let mut before = Usage::default();
            for point in &points {
                pack(&before, point, &mut bytes);
                before = point.clone();
            }
            let (mut usage, mut left) = (Usage::default(), bytes.as_slice());
            for point in &points {
                unpack(&mut usage, &mut left).unwrap();
                prop_assert_eq!(&usage, point);
            }
            prop_assert!(left.is_empty());
            prop_assert_eq!(unpack(&mut usage, &mut left), None);
        }

        #[test]
        fn other_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut left = bytes.as_slice();
            let mut usage = Usage::default();
            while unpack(&mut usage, &mut left).is_some() {}
        }
    }

    #[test]
    fn an_idle_point_is_small() {
        let before = Usage::new(Timestamp(0)).with(Figure::CpuNs, 7);
        let mut bytes = Vec::new();
        pack(&before, &Usage::new(Timestamp(10_000_000)).with(Figure::CpuNs, 7), &mut bytes);
        assert!(bytes.len() <= 7, "{bytes:?}");
    }
}
