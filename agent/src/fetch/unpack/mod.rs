//! Archives: what they are is told by their first bytes, and what is in them goes through [`Tree`].

mod tar;
mod zip;
mod zstd;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek as _},
};

use super::{
    failure::{Failure, Kind},
    limits,
    tree::{Budget, Tree, damaged},
};

/// What is said of bytes that are none of these.
const NO_ARCHIVE: &str = "it is no archive";

/// How the bytes are packed, by their beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
    Zip,
    /// Nothing else, so it should be a tar.
    Plain,
}

impl Format {
    fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or one that is to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            // With files in it, or empty.
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Self::Zip,
            _ => Self::Plain,
        }
    }

    /// What the name promises.
    fn promised(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if ends(&[".gz", ".tgz"]) {
            Some(Self::Gzip)
        } else if ends(&[".bz2", ".tbz2", ".tbz"]) {
            Some(Self::Bzip2)
        } else if ends(&[".xz", ".txz"]) {
            Some(Self::Xz)
        } else if ends(&[".zst", ".tzst"]) {
            Some(Self::Zstd)
        } else if ends(&[".zip", ".jar", ".whl"]) {
            Some(Self::Zip)
        } else if ends(&[".tar"]) {
            Some(Self::Plain)
        } else {
            None
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Zip => "zip",
            Self::Plain => "tar",
        }
    }
}

/// Unpacks a file into a directory. `name`: what it is called where it comes from.
pub fn unpack(mut file: File, name: &str, tree: &mut Tree, budget: &mut Budget) -> Result<(), Failure> {
    file.rewind().map_err(|error| damaged(&error))?;
    let mut reader = BufReader::with_capacity(128 << 10, file);
    let format = Format::of(reader.fill_buf().map_err(|error| damaged(&error))?);
    let window_kib = u32::try_from(limits::WINDOW_BYTES_MAX >> 10).unwrap_or(u32::MAX);
    let unpacked = match format {
        Format::Gzip => tar_in(flate2::bufread::MultiGzDecoder::new(reader), tree, budget),
        Format::Bzip2 => tar_in(bzip2::bufread::MultiBzDecoder::new(reader), tree, budget),
        // Its own figures take some of the bound, too.
        Format::Xz => tar_in(
            lzma_rust2::XzReader::new_mem_limit(reader, true, window_kib.saturating_add(1024)),
            tree,
            budget,
        ),
        Format::Zstd => tar_in(zstd::Frames::new(reader), tree, budget),
        Format::Zip => zip::unpack(reader, tree, budget),
        Format::Plain => tar_in(reader, tree, budget),
    };
    unpacked.map_err(|failure| match Format::promised(name) {
        Some(promised) if promised != format && failure.what == NO_ARCHIVE => {
            let what = format!("it is called {}, but that is not what it holds", promised.as_str());
            Failure::new(Kind::Archive, what)
        }
        _ => failure,
    })
}

fn tar_in(reader: impl Read, tree: &mut Tree, budget: &mut Budget) -> Result<(), Failure> {
    // Headers are read one by one.
    tar::unpack(&mut BufReader::with_capacity(128 << 10, reader), tree, budget)
}

/// Reads until the buffer is full or nothing comes any more.
fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
