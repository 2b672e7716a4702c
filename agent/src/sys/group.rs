//! How the processes of a task group ended, as its init writes it down.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use model::Exit;

use super::SysError;
use super::process::{exit_of, parse_pair};

/// What stands behind a group's exit record: first whose end was decisive, then one pair for each process.
const HEAD_BYTES: usize = 16;
const PAIR_BYTES: usize = 8;

/// Added to the kind of a process' end that came after the group had begun to end; as in `agent/init/main.rs`.
const AFTER: u32 = 0x100;

/// Which processes of a group have ended, in the order of its spec.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupRecord {
    /// Whose end was the end of the whole.
    pub decisive: Option<usize>,
    pub ends: Vec<Option<MemberEnd>>,
}

/// How one process of a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberEnd {
    pub exit: Exit,
    /// Before the group began to end.
    pub is_own: bool,
}

/// `None` where its init has written nothing yet.
pub fn read(path: &Path) -> Result<Option<GroupRecord>, SysError> {
    let failed = |source| SysError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let bytes_max = HEAD_BYTES + PAIR_BYTES * model::limits::PROCESSES_MAX;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64).read_to_end(&mut bytes).map_err(failed)?;
    parse(&bytes).ok_or_else(|| SysError::Parse { path: path.to_owned(), found: format!("{bytes:?}") })
}

pub(super) fn parse(bytes: &[u8]) -> Option<Option<GroupRecord>> {
    let Some((head, pairs)) = bytes.split_at_checked(HEAD_BYTES) else { return Some(None) };
    let (place, count) = parse_pair(head.get(PAIR_BYTES..)?)?;
    let decisive = usize::try_from(place).ok()?.checked_sub(1);
    let count = usize::try_from(count).ok()?;
    let mut ends = Vec::with_capacity(count.min(model::limits::PROCESSES_MAX));
    for pair in pairs.chunks_exact(PAIR_BYTES).take(count) {
        let (kind, value) = parse_pair(pair)?;
        let exit = if kind == 0 { None } else { Some(exit_of(kind & !AFTER, value)?) };
        ends.push(exit.map(|exit| MemberEnd { exit, is_own: kind & AFTER == 0 }));
    }
    Some(Some(GroupRecord { decisive, ends }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    #[test]
    fn a_groups_record_is_read_as_it_was_written() {
        assert_eq!(parse(&[]), Some(None));
        assert_eq!(parse(&bytes(&[4, 0])), Some(None));
        let running = GroupRecord { decisive: None, ends: vec![None, None] };
        assert_eq!(parse(&bytes(&[4, 0, 0, 2, 0, 0, 0, 0])), Some(Some(running)));
        let own = |exit| Some(MemberEnd { exit, is_own: true });
        let ends = vec![
            own(Exit::Code(3)),
            Some(MemberEnd { exit: Exit::Signal(15), is_own: false }),
            own(Exit::Code(127)),
            None,
        ];
        let record = [1, 3, 1, 4, 1, 3, 2 | AFTER, 15, 3, 2, 0, 0];
        assert_eq!(parse(&bytes(&record)), Some(Some(GroupRecord { decisive: Some(0), ends })));
        assert_eq!(parse(&bytes(&[1, 3, 1, 1, 77, 3])), None);
    }
}
