//! Names of functions in a program, by their place in its file.
//!
//! Reads 64-bit little-endian ELF in small pieces, whatever the file says of itself: memory grows with the number of
//! addresses alone, and the work with the file's length. Trusts nothing; what makes no sense has no names.
//!
//! ## Design
//!
//! Tables of functions (`.symtab`, `.dynsym`) are enough: names of inlined functions would need the debug
//! information, whose readers are large. The tables aren't sorted, so instead of keeping them, each entry is held
//! against the addresses that are asked for.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::limits;

/// Entries of a table that are read at a time.
const SYMBOLS_PER_READ: u64 = 2048;
const SYMBOL_BYTES: u64 = 24;

// System V ABI, chapter 4 and 5; `include/uapi/linux/elf.h` has the same numbers.
const PT_LOAD: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;

/// A part of the file that is in memory.
struct Segment {
    offset: u64,
    address: u64,
    length: u64,
}

/// A table of symbols, and where their names are.
struct Table {
    offset: u64,
    length: u64,
    names_offset: u64,
    names_length: u64,
}

/// The best that was found for one address.
#[derive(Clone, Copy)]
struct Best {
    start: u64,
    name: u64,
}

/// For each place in the file, the bytes of its function's name.
pub fn names(file: &File, places: &[u64]) -> Vec<Option<Vec<u8>>> {
    let mut names = vec![None; places.len()];
    // What is no program has none.
    let _ = find(file, places, &mut names);
    names
}

fn find(file: &File, places: &[u64], names: &mut [Option<Vec<u8>>]) -> Option<()> {
    let header = read(file, 0, 64)?;
    let is_ours = header.get(..6)? == b"\x7fELF\x02\x01";
    if !is_ours {
        return None;
    }
    let segments = segments(file, &header)?;
    let tables = tables(file, &header)?;
    // Sorted by address, each with its place in the question.
    let mut wanted: Vec<(u64, usize)> = places
        .iter()
        .enumerate()
        .filter_map(|(number, place)| {
            let segment = segments.iter().find(|segment| {
                place.checked_sub(segment.offset).is_some_and(|within| within < segment.length)
            })?;
            Some(((place - segment.offset).checked_add(segment.address)?, number))
        })
        .collect();
    wanted.sort_unstable();
    let mut left = limits::SYMBOLS_MAX;
    for table in &tables {
        let found = look(file, table, &wanted, &mut left);
        for ((_, number), best) in wanted.iter().zip(found) {
            let (Some(slot), Some(best)) = (names.get_mut(*number), best) else { continue };
            if slot.is_none() {
                *slot = name(file, table, best.name);
            }
        }
    }
    Some(())
}

fn segments(file: &File, header: &[u8]) -> Option<Vec<Segment>> {
    let (offset, size, count) = (long(header, 32)?, half(header, 54)?, half(header, 56)?);
    let headers = (0..u64::from(count)).take(limits::HEADERS_MAX).filter_map(|number| {
        let at = offset.checked_add(number.checked_mul(size.into())?)?;
        let entry = read(file, at, 56)?;
        (word(&entry, 0)? == PT_LOAD).then_some(())?;
        Some(Segment { offset: long(&entry, 8)?, address: long(&entry, 16)?, length: long(&entry, 32)? })
    });
    Some(headers.collect())
}

/// The fuller one first.
fn tables(file: &File, header: &[u8]) -> Option<Vec<Table>> {
    let (offset, size, count) = (long(header, 40)?, half(header, 58)?, half(header, 60)?);
    let section = |number: u64| {
        let at = offset.checked_add(number.checked_mul(size.into())?)?;
        read(file, at, 64)
    };
    let mut tables: Vec<(u32, Table)> = (0..u64::from(count))
        .take(limits::HEADERS_MAX)
        .filter_map(|number| {
            let entry = section(number)?;
            let kind = word(&entry, 4)?;
            matches!(kind, SHT_SYMTAB | SHT_DYNSYM).then_some(())?;
            let names = section(word(&entry, 40)?.into())?;
            let table = Table {
                offset: long(&entry, 24)?,
                length: long(&entry, 32)?,
                names_offset: long(&names, 24)?,
                names_length: long(&names, 32)?,
            };
            Some((kind, table))
        })
        .collect();
    tables.sort_by_key(|(kind, _)| *kind);
    tables.truncate(2);
    Some(tables.into_iter().map(|(_, table)| table).collect())
}

/// Goes through a table once, and keeps for each wanted address the function that holds it.
fn look(file: &File, table: &Table, wanted: &[(u64, usize)], left: &mut u64) -> Vec<Option<Best>> {
    let mut found: Vec<Option<Best>> = vec![None; wanted.len()];
    let mut offset = table.offset;
    let mut symbols = (table.length / SYMBOL_BYTES).min(*left);
    *left -= symbols;
    while symbols > 0 {
        let count = symbols.min(SYMBOLS_PER_READ);
        let Some(piece) = read(file, offset, count * SYMBOL_BYTES) else { break };
        for entry in piece.chunks_exact(SYMBOL_BYTES as usize) {
            consider(entry, wanted, &mut found);
        }
        symbols -= count;
        offset = offset.saturating_add(count * SYMBOL_BYTES);
    }
    found
}

fn consider(entry: &[u8], wanted: &[(u64, usize)], found: &mut [Option<Best>]) -> Option<()> {
    let (name, kind, section) = (word(entry, 0)?, entry.get(4)? & 0xf, half(entry, 6)?);
    let (start, length) = (long(entry, 8)?, long(entry, 16)?);
    // Functions that are somewhere and have a length: code written in assembly may have none.
    if !matches!(kind, STT_FUNC | STT_GNU_IFUNC) || section == 0 || name == 0 {
        return None;
    }
    let end = start.checked_add(length)?;
    let first = wanted.partition_point(|(address, _)| *address < start);
    let inside = wanted.iter().zip(found.iter_mut()).skip(first);
    for (_, best) in inside.take_while(|((address, _), _)| *address < end) {
        // The innermost; of several names for one function, the first.
        if best.is_none_or(|best| best.start < start) {
            *best = Some(Best { start, name: name.into() });
        }
    }
    Some(())
}

fn name(file: &File, table: &Table, offset: u64) -> Option<Vec<u8>> {
    let length = table.names_length.checked_sub(offset)?.min(limits::SYMBOL_BYTES_MAX as u64);
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    // The end of the file may come before the longest name does.
    let count = file.read_at(&mut bytes, table.names_offset.checked_add(offset)?).ok()?;
    bytes.truncate(count);
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.truncate(end);
    (!bytes.is_empty()).then_some(bytes)
}

fn read(file: &File, offset: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A place in this test's own program, which has its symbols.
    #[inline(never)]
    fn a_function_that_is_looked_for() -> u64 {
        let address = a_function_that_is_looked_for as *const () as u64;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let exe = std::env::current_exe().unwrap();
        for line in maps.lines().filter(|line| line.ends_with(exe.to_str().unwrap())) {
            let mut fields = line.split(' ');
            let (start, end) = fields.next().unwrap().split_once('-').unwrap();
            let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
            let offset = hex(fields.nth(1).unwrap());
            if (hex(start)..hex(end)).contains(&address) {
                return address - hex(start) + offset;
            }
        }
        panic!("not in {maps}");
    }

    #[test]
    fn a_function_is_found_by_its_place_in_the_file() {
        let place = a_function_that_is_looked_for();
        let file = File::open("/proc/self/exe").unwrap();
        let names = names(&file, &[place + 1, u64::MAX, 0]);
        let name = String::from_utf8(names[0].clone().unwrap()).unwrap();
        assert!(name.contains("a_function_that_is_looked_for"), "{name}");
        assert_eq!(names[1], None);
        assert_eq!(names[2], None);
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// A header that names `headers` of either kind at an offset.
    fn header(offset: u64, size: u16, count: u16) -> Vec<u8> {
        let mut header = vec![0; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        for (at, value) in [(32, offset), (40, offset)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [(54, size), (56, count), (58, size), (60, count)] {
            header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        header
    }

    #[test]
    fn what_makes_no_sense_has_no_names_and_does_no_harm() {
        let mut hostile = header(64, 0, u16::MAX);
        // Every header is the same one: a table of symbols as long as a number can say.
        let mut section = vec![0xff; 64];
        section[4..8].copy_from_slice(&SHT_SYMTAB.to_le_bytes());
        section[24..32].copy_from_slice(&0_u64.to_le_bytes());
        hostile.extend(&section);
        for bytes in [
            b"".to_vec(),
            b"\x7fELF".to_vec(),
            vec![0xff; 4096],
            header(u64::MAX, 64, 10),
            header(u64::MAX - 10, u16::MAX, u16::MAX),
            hostile,
        ] {
            assert_eq!(names(&file_of(&bytes), &[0, 1, u64::MAX]), [None, None, None]);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_damage_to_a_program_does_harm(places: Vec<u64>, damage: Vec<(u16, u8)>) {
            let mut bytes = header(64, 64, 40);
            bytes.resize(64 * 64, 2);
            for (at, value) in damage {
                let length = bytes.len();
                bytes[usize::from(at) % length] = value;
            }
            names(&file_of(&bytes), &places);
        }
    }
}
