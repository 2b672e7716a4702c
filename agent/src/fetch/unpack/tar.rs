//! Tar archives: old ones, ustar, GNU and pax.
//!
//! Walks from header to header itself, because a header decides how much memory and disk it costs; only the fields
//! are read by the `tar` crate. Blocks of zeros between archives are skipped, so archives that were put one behind
//! the other are unpacked both.

use std::io::{self, Read};

use ::tar::{EntryType, Header};

use super::{
    super::{
        failure::{Failure, Kind},
        limits,
        tree::{Budget, Name, Tree, damaged},
    },
    NO_ARCHIVE, read_full,
};

const BLOCK: u64 = 512;

/// What extension headers say of the entry that follows them.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

pub fn unpack(reader: &mut dyn Read, tree: &mut Tree, budget: &mut Budget) -> Result<(), Failure> {
    let wrong = |what: &str| Failure::new(Kind::Archive, what);
    let mut extended = Extended::default();
    let mut is_first = true;
    let mut is_ended = false;
    let mut extensions = 0_u32;
    loop {
        let mut header = Header::new_old();
        let count = read_full(reader, header.as_mut_bytes()).map_err(|error| damaged(&error))?;
        if count == 0 && is_ended {
            return Ok(());
        }
        if count < BLOCK as usize {
            return Err(wrong(if is_first { NO_ARCHIVE } else { "the archive is cut off" }));
        }
        is_ended = header.as_bytes().iter().all(|byte| *byte == 0);
        if is_ended {
            is_first = false;
            continue;
        }
        if !has_checksum(&header) {
            let what =
                if is_first { NO_ARCHIVE } else { "the archive is damaged: a header's checksum is wrong" };
            return Err(wrong(what));
        }
        is_first = false;
        let kind = header.entry_type();
        let size = header.entry_size().map_err(|error| damaged(&error))?;
        match kind {
            EntryType::GNULongName => extended.path = Some(read_name(reader, size)?),
            EntryType::GNULongLink => extended.link = Some(read_name(reader, size)?),
            EntryType::XHeader => read_pax(&read_header(reader, size)?, &mut extended)?,
            EntryType::XGlobalHeader => drop(read_header(reader, size)?),
            _ => {
                let told = std::mem::take(&mut extended);
                entry(reader, &header, kind, told, tree, budget)?;
                extensions = 0;
                continue;
            }
        }
        extensions += 1;
        if extensions > 16 {
            return Err(wrong("the archive is damaged: headers without an end"));
        }
    }
}

fn entry(
    reader: &mut dyn Read,
    header: &Header,
    kind: EntryType,
    extended: Extended,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<(), Failure> {
    let size = match extended.size {
        Some(size) => size,
        None => header.entry_size().map_err(|error| damaged(&error))?,
    };
    let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extended.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
    let name = Name::parse(&path)?;
    let mode = header.mode().map_err(|error| damaged(&error))?;
    let modified = header.mtime().ok().and_then(|time| i64::try_from(time).ok());
    let refused = |what: &str| {
        let path = String::from_utf8_lossy(&path).chars().take(80).collect::<String>();
        Failure::new(Kind::Archive, format!("it holds {what}: `{}`", path.escape_debug()))
    };
    let linked = || link.clone().ok_or_else(|| refused("a link to nothing"));
    match kind {
        // Before ustar, a directory was a file whose name ends with a slash.
        EntryType::Regular | EntryType::Continuous if path.last() == Some(&b'/') => {
            tree.make_directory(&name, mode, budget)?;
            pass(reader, size)
        }
        EntryType::Regular | EntryType::Continuous => {
            if size > budget.bytes_left() {
                // Told before the disk is filled for nothing.
                budget.take_bytes(size)?;
            }
            let mut content = reader.take(size);
            let written = tree.write_file(&name, mode, modified, &mut content, budget)?;
            if written < size {
                return Err(Failure::new(Kind::Archive, "the archive is cut off"));
            }
            pad(reader, size)
        }
        EntryType::Directory => {
            tree.make_directory(&name, mode, budget)?;
            pass(reader, size)
        }
        EntryType::Symlink => {
            tree.make_symlink(&name, &linked()?, budget)?;
            pass(reader, size)
        }
        EntryType::Link => {
            tree.make_hard_link(&name, &Name::parse(&linked()?)?, budget)?;
            pass(reader, size)
        }
        EntryType::Char | EntryType::Block => Err(refused("a device")),
        EntryType::Fifo => Err(refused("a pipe")),
        EntryType::GNUSparse => Err(refused("a sparse file, which is not done here")),
        _ => Err(refused("an entry of a kind that is not done here")),
    }
}

/// Passes over what an entry brings that should bring nothing.
fn pass(reader: &mut dyn Read, size: u64) -> Result<(), Failure> {
    read_header(reader, size).map(drop)
}

/// Passes over what fills the last block. Some writers leave it out at the end.
fn pad(reader: &mut dyn Read, size: u64) -> Result<(), Failure> {
    let padding = (BLOCK - size % BLOCK) % BLOCK;
    io::copy(&mut reader.take(padding), &mut io::sink()).map_err(|error| damaged(&error))?;
    Ok(())
}

fn has_checksum(header: &Header) -> bool {
    let Ok(told) = header.cksum() else { return false };
    let bytes = header.as_bytes();
    // The field itself counts as blanks.
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    sum == told
}

fn read_header(reader: &mut dyn Read, size: u64) -> Result<Vec<u8>, Failure> {
    if size > limits::HEADER_BYTES_MAX {
        return Err(Failure::new(
            Kind::Archive,
            format!("it has a header of {size} bytes, which is too long"),
        ));
    }
    let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
    let count = read_full(reader, &mut content).map_err(|error| damaged(&error))?;
    if count < content.len() {
        return Err(Failure::new(Kind::Archive, "the archive is cut off"));
    }
    pad(reader, size)?;
    Ok(content)
}

fn read_name(reader: &mut dyn Read, size: u64) -> Result<Vec<u8>, Failure> {
    let mut name = read_header(reader, size)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// Records of the form `LENGTH KEY=VALUE\n`.
fn read_pax(content: &[u8], extended: &mut Extended) -> Result<(), Failure> {
    let wrong = || Failure::new(Kind::Archive, "the archive is damaged: an extended header is not valid");
    let mut rest = content;
    while !rest.is_empty() && rest.iter().any(|byte| *byte != 0) {
        let blank = rest.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let digits =
            rest.get(..blank).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(wrong)?;
        let length: usize = digits.parse().map_err(|_| wrong())?;
        let record = rest.get(blank + 1..length).ok_or_else(wrong)?;
        rest = rest.get(length..).unwrap_or_default();
        let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let (key, value) =
            (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let text = std::str::from_utf8(value).map_err(|_| wrong())?;
                extended.size = Some(text.parse().map_err(|_| wrong())?);
            }
            key if key.starts_with(b"GNU.sparse") => {
                return Err(Failure::new(Kind::Archive, "it holds a sparse file, which is not done here"));
            }
            // Times, owners and attributes: the task's user owns everything, and no attribute is taken over.
            _ => {}
        }
    }
    Ok(())
}
