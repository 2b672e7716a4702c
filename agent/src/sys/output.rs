//! Task output: files that grow at the end and are freed at the head.
//!
//! The task appends through its own descriptor and never notices: offsets stay what they were, and
//! the freed head is a hole. Where the data begins is asked from the filesystem, not remembered.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom};

use super::SysError;

/// A piece of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSlice {
    /// Where `data` really begins: later than asked for if the head was freed.
    pub offset: u64,
    pub data: Vec<u8>,
    /// Where the file ends now.
    pub end: u64,
}

/// Filesystems free whole blocks only; a wish for finer cuts would leave zeros in front.
const BLOCK_BYTES_MIN: u64 = 4096;
const BLOCK_BYTES_MAX: u64 = 1 << 20;

/// See [`super::Sys::trim_output`].
pub(super) fn trim(path: &Path, keep_bytes: u64) -> Result<u64, SysError> {
    let open = |source| SysError::Open { path: path.to_owned(), source };
    let file = File::options().write(true).open(path).map_err(open)?;
    let metadata = file.metadata().map_err(|source| SysError::Read { path: path.to_owned(), source })?;
    let start = data_start(path, &file, metadata.len())?;
    let cut = cut_at(metadata.len(), keep_bytes, metadata.blksize());
    if cut <= start {
        return Ok(start);
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = rustix::fs::fallocate(&file, flags, 0, cut);
    punched.map_err(|error| SysError::Punch { path: path.to_owned(), bytes: cut, source: error.into() })?;
    Ok(cut)
}

/// See [`super::Sys::read_output`].
pub(super) fn read(path: &Path, offset: u64, limit: usize) -> Result<OutputSlice, SysError> {
    let failed = |source| SysError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(OutputSlice { offset: 0, data: Vec::new(), end: 0 });
        }
        Err(error) => return Err(failed(error)),
    };
    let end = file.metadata().map_err(failed)?.len();
    let mut offset = offset.min(end);
    if offset < end {
        offset = offset.max(data_start(path, &file, end)?);
    }
    let size = usize::try_from(end - offset).unwrap_or(usize::MAX).min(limit);
    let mut data = vec![0; size];
    let mut filled = 0;
    while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    data.truncate(filled);
    // Freed while we read: what came from before the new start are zeros, not output.
    let start = data_start(path, &file, end)?;
    if start > offset {
        let stale = usize::try_from(start - offset).unwrap_or(usize::MAX).min(data.len());
        data.drain(..stale);
        offset = start;
    }
    Ok(OutputSlice { offset, data, end })
}

/// Whether the filesystem of a directory can free the head of a file.
pub(super) fn can_trim(directory: &Path) -> Result<bool, SysError> {
    let path = directory.join(format!(".can-trim.{}", std::process::id()));
    let write = |source| SysError::Write { path: path.clone(), value: "a test".to_owned(), source };
    let outcome = fs::write(&path, vec![b'x'; 3 * 4096]).map_err(write).and_then(|()| trim(&path, 4096));
    // A test file that stays behind is two blocks; the next start writes over it or makes its own.
    let _ = fs::remove_file(&path);
    match outcome {
        Ok(start) => Ok(start > 0),
        Err(SysError::Punch { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        // A full disk can't be asked; most can.
        Err(SysError::Write { source, .. }) if source.kind() == io::ErrorKind::StorageFull => Ok(true),
        Err(error) => Err(error),
    }
}

/// Offset of the first byte that is not in the hole at the head.
fn data_start(path: &Path, file: &File, end: u64) -> Result<u64, SysError> {
    match rustix::fs::seek(file, SeekFrom::Data(0)) {
        Ok(start) => Ok(start),
        // No data at all.
        Err(rustix::io::Errno::NXIO) => Ok(end),
        // A filesystem without holes has nothing freed.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(0),
        Err(error) => Err(SysError::Read { path: path.to_owned(), source: error.into() }),
    }
}

/// Where to cut so that at most `keep` bytes remain, in whole blocks.
fn cut_at(size: u64, keep: u64, block: u64) -> u64 {
    let block = block.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
    let surplus = size.saturating_sub(keep);
    let cut = surplus.next_multiple_of(block);
    if cut > size { size - size % block } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_keep_at_most_what_was_asked_and_end_at_blocks() {
        assert_eq!(cut_at(10_000, 20_000, 4096), 0);
        assert_eq!(cut_at(20_000, 10_000, 4096), 12_288);
        assert_eq!(cut_at(20_000, 0, 4096), 16_384);
        assert_eq!(cut_at(8192, 0, 4096), 8192);
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn a_trimmed_file_keeps_its_offsets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let content: Vec<u8> = (0..100_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
        fs::write(&path, &content).unwrap();
        if !can_trim(directory.path()).unwrap() {
            println!("skipped: {} can't punch holes", directory.path().display());
            return;
        }
        let start = trim(&path, 30_000).unwrap();
        assert!((70_000..70_000 + 4096).contains(&start));
        assert_eq!(trim(&path, 30_000).unwrap(), start);
        let slice = read(&path, 0, 50).unwrap();
        assert_eq!((slice.offset, slice.end), (start, 100_000));
        assert_eq!(slice.data, content[start as usize..start as usize + 50]);
        let slice = read(&path, 99_990, 50).unwrap();
        assert_eq!((slice.offset, slice.data.as_slice()), (99_990, &content[99_990..]));
        assert_eq!(
            read(&path, 200_000, 50).unwrap(),
            OutputSlice { offset: 100_000, data: vec![], end: 100_000 }
        );
        assert_eq!(trim(&path, 0).unwrap(), 98_304);
    }

    #[test]
    fn a_file_that_is_not_there_is_empty() {
        let slice = read(Path::new("/nonexistent/out"), 5, 5).unwrap();
        assert_eq!(slice, OutputSlice { offset: 0, data: vec![], end: 0 });
    }
}
