//! Names of the kernel's functions.
//!
//! The kernel shows their addresses to who has SYSLOG when he opens the list (`kallsyms_show_value`,
//! kernel/ksyms_common.c), which the agent gives up at its start. So the list is opened before, and stays open.

use std::{
    fs::File,
    io::{BufRead, BufReader, Seek as _},
    sync::{Mutex, OnceLock, PoisonError},
};

use super::clean;

static KEPT: OnceLock<Mutex<File>> = OnceLock::new();

/// Opens the list. For `main`, before rights are given up; without it, kernel functions may have no names.
pub fn keep_kernel_symbols() {
    if let Ok(file) = File::open("/proc/kallsyms") {
        // A second time changes nothing.
        let _ = KEPT.set(Mutex::new(file));
    }
}

/// For each address, the function that holds it. `addresses` are sorted.
pub fn names(addresses: &[u64]) -> Vec<Option<String>> {
    let none = || vec![None; addresses.len()];
    if addresses.is_empty() {
        return none();
    }
    match KEPT.get() {
        Some(kept) => {
            let mut list = kept.lock().unwrap_or_else(PoisonError::into_inner);
            list.rewind().map_or_else(|_| none(), |()| find(BufReader::new(&mut *list), addresses))
        }
        // In tests, and where it could not be opened then.
        None => {
            File::open("/proc/kallsyms").map_or_else(|_| none(), |list| find(BufReader::new(list), addresses))
        }
    }
}

pub(super) fn find(list: impl BufRead, addresses: &[u64]) -> Vec<Option<String>> {
    // For each, the function that begins last of those that begin up to it and after the one before it.
    let mut best: Vec<Option<(u64, String)>> = vec![None; addresses.len()];
    for line in list.lines() {
        let Ok(line) = line else { break };
        let mut fields = line.split_ascii_whitespace();
        let (Some(start), Some(kind), Some(name)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let start = u64::from_str_radix(start, 16).unwrap_or(0);
        // Zero: they are hidden.
        if start == 0 || !matches!(kind, "t" | "T" | "w" | "W") {
            continue;
        }
        let place = addresses.partition_point(|address| *address < start);
        if let Some(slot) = best.get_mut(place)
            && slot.as_ref().is_none_or(|(known, _)| *known < start)
        {
            *slot = Some((start, clean(name)));
        }
    }
    let mut last = None;
    let carried = best.into_iter().map(|found| {
        if found.is_some() {
            last = found;
        }
        last.clone().map(|(_, name)| name)
    });
    carried.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_the_function_that_begins_before_it() {
        let list = "ffffffff81000000 T _text\nffffffff81000300 t later\nffffffff81000100 t middle\n\
                    ffffffff81000120 d data\nffffffff81000200 t next\t[module]\n";
        let at = |low: u64| 0xffff_ffff_8100_0000 | low;
        let names = find(list.as_bytes(), &[1, at(0), at(0x150), at(0x160), at(0x210), at(0x900)]);
        let names: Vec<_> = names.iter().map(|name| name.as_deref().unwrap_or("-")).collect();
        assert_eq!(names, ["-", "_text", "middle", "middle", "next", "later"]);
    }

    #[test]
    fn hidden_addresses_are_no_names() {
        assert_eq!(find("0000000000000000 T _text\n".as_bytes(), &[5, 6]), [None, None]);
    }
}
