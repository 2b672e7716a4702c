//! Zip archives. Sizes and modes that they promise are not believed; what comes out is counted.

use std::io::{Read, Seek};

use super::{
    super::{
        failure::{Failure, Kind},
        limits,
        tree::{Budget, Name, Tree, damaged},
    },
    read_full,
};

/// Kinds of files, of inode(7).
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

pub fn unpack(reader: impl Read + Seek, tree: &mut Tree, budget: &mut Budget) -> Result<(), Failure> {
    let broken = |error: &dyn std::error::Error| {
        Failure::new(Kind::Archive, format!("the archive is damaged or cut off: {error}"))
    };
    let mut archive = zip::ZipArchive::new(reader).map_err(|error| broken(&error))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| broken(&error))?;
        let name = Name::parse(entry.name_raw())?;
        let mode = entry.unix_mode();
        let kind = mode.map_or(0, |mode| mode & KIND);
        let is_directory = entry.is_dir() || kind == DIRECTORY;
        match kind {
            _ if is_directory => tree.make_directory(&name, mode.unwrap_or(0o755), budget)?,
            0 | REGULAR => {
                let mode = mode.map_or(0o644, |mode| mode & 0o777);
                // Made where no modes are known: as if it had none.
                let mode = if mode == 0 { 0o644 } else { mode };
                tree.write_file(&name, mode, None, &mut entry, budget)?;
            }
            LINK => {
                let mut target = vec![0; limits::PATH_BYTES_MAX];
                let size = read_full(&mut entry, &mut target).map_err(|error| damaged(&error))?;
                target.truncate(size);
                tree.make_symlink(&name, &target, budget)?;
            }
            _ => return Err(Failure::new(Kind::Archive, "it holds a device, a pipe or a socket")),
        }
    }
    Ok(())
}
