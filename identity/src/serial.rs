//! Serial numbers of certificates, which say how far the cluster's log was when they were made.
//!
//! So a name is revoked by one entry of the log, whatever clocks say and however many certificates it has: those
//! from before the entry count no more.

use rand::Rng as _;
use rcgen::SerialNumber;

/// The first byte; it keeps the number positive, too.
const FORM: u8 = 0x4d;
/// So that no two certificates have one number.
const RANDOM_BYTES: usize = 8;
const BYTES: usize = 1 + size_of::<u64>() + RANDOM_BYTES;

/// A serial number for a certificate that is made when the log is at `made`.
pub(crate) fn draw(made: u64) -> SerialNumber {
    let mut bytes = [FORM; BYTES];
    let (_, rest) = bytes.split_at_mut(1);
    let (place, random) = rest.split_at_mut(size_of::<u64>());
    place.copy_from_slice(&made.to_be_bytes());
    rand::rng().fill_bytes(random);
    SerialNumber::from_slice(&bytes)
}

/// How far the log was; the beginning for certificates of programs that didn't say.
pub(crate) fn made(serial: &[u8]) -> u64 {
    let place = serial.strip_prefix(&[FORM]).filter(|rest| rest.len() == BYTES - 1);
    let place = place.and_then(|rest| rest.first_chunk::<{ size_of::<u64>() }>());
    place.map_or(0, |place| u64::from_be_bytes(*place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_says_how_far_the_log_was() {
        for index in [0, 1, 255, u64::MAX] {
            let serial = draw(index);
            assert_eq!(made(serial.as_ref()), index);
            assert_ne!(draw(index).as_ref(), serial.as_ref());
        }
        for foreign in [&[][..], &[FORM], &[0x2a; 20], &[FORM; 20]] {
            assert_eq!(made(foreign), 0);
        }
    }
}
