//! A disk with a cache of its own: what it hasn't flushed is gone after a power cut, wholly or in part.
//!
//! Keeps two images: what the machine reads, and what a power cut can't take. A flush makes them equal; a cut lets
//! [`Fate`] decide about every sector written since. Knows nothing of how a machine reaches it: that is `nbd.rs`.

use super::dice::Dice;

/// The smallest piece that a disk writes wholly or not at all.
const SECTOR_BYTES: usize = 512;

/// The disk, from before the first power cut until after the last.
#[derive(Debug)]
pub struct Disk {
    seen: Vec<u8>,
    stable: Vec<u8>,
    /// In order.
    unflushed: Vec<Write>,
    /// A disk that lies says that it flushed, and didn't.
    lies: bool,
    is_off: bool,
    /// So many more writes and flushes, and the power goes; `None`: it stays.
    left: Option<u64>,
    flushes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

impl Write {
    /// The place of each sector of it, or of the part of a sector.
    fn sectors(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (mut at, end) = (self.offset, self.offset + self.bytes.len());
        std::iter::from_fn(move || {
            let next = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let sector = at..next.min(end);
            at = next;
            (!sector.is_empty()).then_some(sector)
        })
    }
}

/// The power is off: nobody gets an answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Off;

/// What becomes of all that wasn't flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All of it was in the cache.
    AllLost,
    /// The cache was empty, by chance.
    AllKept,
    /// The disk wrote in the order in which it was told, and stopped in the middle of one.
    InOrder,
    /// Any of the writes, each whole.
    SomeWrites,
    /// Any of the sectors.
    SomeSectors,
}

const FATES: [Fate; 5] = [Fate::AllLost, Fate::AllKept, Fate::InOrder, Fate::SomeWrites, Fate::SomeSectors];

/// What a power cut took.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    pub fate: Fate,
    /// That weren't flushed.
    pub writes: usize,
    pub sectors: usize,
    /// Of these, how many were written all the same.
    pub kept: usize,
}

impl Disk {
    pub fn new(image: Vec<u8>, lies: bool) -> Self {
        let seen = image.clone();
        Self { seen, stable: image, unflushed: Vec::new(), lies, is_off: false, left: None, flushes: 0 }
    }

    pub fn bytes(&self) -> u64 {
        self.seen.len() as u64
    }

    /// What a machine would find now after a power cut that lost all that it could.
    pub fn stable(&self) -> &[u8] {
        &self.stable
    }

    /// How often it was asked to flush.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    pub fn is_off(&self) -> bool {
        self.is_off
    }

    /// Lets the power go when so many more writes and flushes have come in, or before.
    pub fn cut_after(&mut self, requests: u64) {
        self.left = Some(requests.min(self.left.unwrap_or(u64::MAX)));
    }

    /// What lies there; `None` behind the end.
    pub fn read(&self, offset: u64, length: usize) -> Option<&[u8]> {
        self.seen.get(place(offset, length)?)
    }

    /// Writes; with `is_forced` the answer means that it can't be lost. `None` behind the end.
    pub fn write(&mut self, offset: u64, bytes: &[u8], is_forced: bool) -> Option<Result<(), Off>> {
        let place = place(offset, bytes.len())?;
        self.seen.get(place.clone())?;
        if self.is_off {
            return Some(Err(Off));
        }
        self.seen[place.clone()].copy_from_slice(bytes);
        self.unflushed.push(Write { offset: place.start, bytes: bytes.to_vec() });
        // It may have reached the disk when the power goes, but nobody is told.
        if self.count() == Err(Off) {
            return Some(Err(Off));
        }
        if is_forced {
            self.make_stable();
        }
        Some(Ok(()))
    }

    /// After this nothing that was written before is lost.
    pub fn flush(&mut self) -> Result<(), Off> {
        if self.is_off {
            return Err(Off);
        }
        self.count()?;
        self.flushes += 1;
        self.make_stable();
        Ok(())
    }

    fn make_stable(&mut self) {
        if self.lies {
            return;
        }
        for Write { offset, bytes } in self.unflushed.drain(..) {
            self.stable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn count(&mut self) -> Result<(), Off> {
        match &mut self.left {
            Some(0) => {
                self.is_off = true;
                return Err(Off);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// Cuts the power, if it isn't off yet, and decides what the disk has when it comes back.
    pub fn cut(&mut self, dice: &mut Dice) -> Loss {
        let fate = FATES[dice.below(FATES.len() as u64) as usize];
        self.cut_with(fate, dice)
    }

    fn cut_with(&mut self, fate: Fate, dice: &mut Dice) -> Loss {
        (self.is_off, self.left) = (true, None);
        let unflushed = std::mem::take(&mut self.unflushed);
        let sectors = unflushed.iter().map(|write| write.sectors().count()).sum();
        let in_order = dice.below(sectors as u64 + 1) as usize;
        let (mut number, mut kept) = (0, 0);
        for write in &unflushed {
            let is_write_kept = dice.flip();
            for sector in write.sectors() {
                let is_kept = match fate {
                    Fate::AllLost => false,
                    Fate::AllKept => true,
                    Fate::InOrder => number < in_order,
                    Fate::SomeWrites => is_write_kept,
                    Fate::SomeSectors => dice.flip(),
                };
                if is_kept {
                    let bytes = &write.bytes[sector.start - write.offset..sector.end - write.offset];
                    self.stable[sector].copy_from_slice(bytes);
                    kept += 1;
                }
                number += 1;
            }
        }
        for Write { offset, bytes } in &unflushed {
            let place = *offset..offset + bytes.len();
            self.seen[place.clone()].copy_from_slice(&self.stable[place]);
        }
        Loss { fate, writes: unflushed.len(), sectors, kept }
    }

    /// The power is back.
    pub fn turn_on(&mut self) {
        self.is_off = false;
    }
}

fn place(offset: u64, length: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 4 * SECTOR_BYTES;

    fn disk() -> Disk {
        Disk::new(vec![0; 8 * SECTOR_BYTES], false)
    }

    fn write(disk: &mut Disk, sector: usize, bytes: &[u8]) {
        disk.write((sector * SECTOR_BYTES) as u64, bytes, false).unwrap().unwrap();
    }

    /// The first byte of each sector.
    fn told(disk: &Disk) -> Vec<u8> {
        disk.read(0, 8 * SECTOR_BYTES).unwrap().chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
    }

    #[test]
    fn what_was_flushed_stays_whatever_becomes_of_the_rest() {
        for fate in FATES {
            let (mut disk, mut dice) = (disk(), Dice::new(1));
            write(&mut disk, 0, &[1; LONG]);
            disk.flush().unwrap();
            write(&mut disk, 4, &[2; LONG]);
            assert_eq!(told(&disk), [1, 1, 1, 1, 2, 2, 2, 2]);
            let loss = disk.cut_with(fate, &mut dice);
            assert_eq!((loss.writes, loss.sectors), (1, 4), "{fate:?}");
            assert_eq!(told(&disk)[..4], [1; 4], "{fate:?}");
            assert_eq!(told(&disk)[4..].iter().filter(|byte| **byte == 2).count(), loss.kept, "{fate:?}");
            assert_eq!(disk.stable(), disk.read(0, 8 * SECTOR_BYTES).unwrap());
        }
    }

    #[test]
    fn what_was_not_flushed_may_be_lost_kept_or_torn() {
        let kept = |fate| {
            let (mut disk, mut dice) = (disk(), Dice::new(7));
            write(&mut disk, 0, &[1; LONG]);
            write(&mut disk, 4, &[2; LONG]);
            disk.cut_with(fate, &mut dice);
            told(&disk)
        };
        assert_eq!(kept(Fate::AllLost), [0; 8]);
        assert_eq!(kept(Fate::AllKept), [1, 1, 1, 1, 2, 2, 2, 2]);
        let in_order = kept(Fate::InOrder);
        assert!(in_order.is_sorted_by_key(|byte| *byte == 0), "{in_order:?}");
        let writes = kept(Fate::SomeWrites);
        assert!(writes[..4].iter().all(|byte| *byte == writes[0]), "{writes:?}");
        let torn = (0..20).any(|seed| {
            let (mut disk, mut dice) = (disk(), Dice::new(seed));
            write(&mut disk, 0, &[1; LONG]);
            disk.cut_with(Fate::SomeSectors, &mut dice);
            told(&disk)[..4].contains(&0) && told(&disk)[..4].contains(&1)
        });
        assert!(torn);
    }

    #[test]
    fn after_the_power_went_nobody_gets_an_answer() {
        let mut disk = disk();
        disk.cut_after(1);
        write(&mut disk, 0, &[1; LONG]);
        assert_eq!(disk.flush(), Err(Off));
        assert!(disk.is_off());
        assert_eq!(disk.write(0, &[1], false), Some(Err(Off)));
        disk.cut_with(Fate::AllLost, &mut Dice::new(1));
        disk.turn_on();
        assert_eq!(disk.flush(), Ok(()));
        assert_eq!(told(&disk), [0; 8]);
    }

    #[test]
    fn a_forced_write_is_stable_and_a_lie_is_not() {
        for (lies, found) in [(false, 1), (true, 0)] {
            let mut disk = Disk::new(vec![0; 8 * SECTOR_BYTES], lies);
            disk.write(0, &[1; SECTOR_BYTES], true).unwrap().unwrap();
            disk.flush().unwrap();
            disk.cut_with(Fate::AllLost, &mut Dice::new(1));
            assert_eq!(told(&disk)[0], found);
        }
    }

    #[test]
    fn nothing_lies_behind_the_end() {
        let mut disk = disk();
        assert_eq!(disk.read(8 * SECTOR_BYTES as u64, 1), None);
        assert_eq!(disk.write(u64::MAX, &[1], false), None);
        assert_eq!(disk.write(8 * SECTOR_BYTES as u64 - 1, &[1, 1], false), None);
    }
}
