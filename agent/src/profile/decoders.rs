//! What a task names and maps, for the fuzzers: see [`crate::decoders`].

use std::fs::File;

use super::{child, elf, kernel, limits, modules};

/// Names in a program that a task made, at places all over it.
pub fn program(file: File) {
    let places: Vec<u64> = (0..64).map(|place| place * 61).chain([u64::MAX, 1 << 40]).collect();
    for name in elf::names(&file, &places).into_iter().flatten() {
        symbol(&name);
    }
}

pub fn symbol(bytes: &[u8]) {
    assert!(child::readable(bytes).chars().count() <= limits::NAME_LETTERS_MAX, "a name is too long");
    drop(kernel::find(bytes, &[0x1000, 0xffff_ffff_8100_0000]));
}

pub fn process_maps(bytes: &[u8]) {
    assert!(modules::mappings(bytes, |_| Some(0)).len() <= limits::MAPPINGS_MAX, "too many mappings");
}
