//! When a task wrote what: a small list of (time, length) beside each output, for `logs --since`.
//!
//! Output files hold no times, and a task writes them without us. So their length is noted while they grow, at
//! most once in a second, and what was written since a moment begins where the file ended at the last note
//! before it: exact to about a second. While no agent ran, it is exact only to the agent's return.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use model::{Duration, Timestamp};

/// How often a growing output is noted.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);
/// Notes of one output: an hour of steady growth by the second, and then ever coarser. 64 KiB.
const NOTES_MAX: u64 = 4096;
/// Two numbers of eight bytes.
const NOTE_BYTES: u64 = 16;

/// At this time the output was so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note {
    at_us: i64,
    length: u64,
}

/// What was noted of each output last.
#[derive(Debug, Default)]
pub struct Times {
    /// By the bytes of their paths: to compare those part by part takes ten times as long.
    last: BTreeMap<OsString, Last>,
    round: u64,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    note: Note,
    count: u64,
    /// When it was looked at.
    round: u64,
}

impl Times {
    /// Notes how long an output is, if that is news.
    pub fn note(&mut self, output: &Path, length: u64, now: Timestamp) -> io::Result<()> {
        self.note_every(NOTE_INTERVAL, output, length, now)
    }

    /// Notes how long it is at the end, so that an old output is not taken for a new one.
    pub fn note_last(output: &Path, length: u64, now: Timestamp) -> io::Result<()> {
        Self::default().note_every(Duration::ZERO, output, length, now)
    }

    fn note_every(
        &mut self,
        interval: Duration,
        output: &Path,
        length: u64,
        now: Timestamp,
    ) -> io::Result<()> {
        let round = self.round;
        if let Some(last) = self.last.get_mut(output.as_os_str()) {
            last.round = round;
            return last.go_on(interval, output, length, now);
        }
        let notes = read(&list_of(output))?;
        let note = notes.last().copied().unwrap_or(Note { at_us: i64::MIN, length: 0 });
        let mut last = Last { note, count: notes.len() as u64, round };
        let noted = last.go_on(interval, output, length, now);
        self.last.insert(output.as_os_str().to_owned(), last);
        noted
    }

    /// Forgets outputs that were not noted since the last call.
    pub fn forget_others(&mut self) {
        let round = self.round;
        self.last.retain(|_, last| last.round == round);
        self.round += 1;
    }
}

impl Last {
    /// Appends to the list of an output, unless there is no news or it is early.
    fn go_on(&mut self, interval: Duration, output: &Path, length: u64, now: Timestamp) -> io::Result<()> {
        let last = self.note;
        let is_early = now.0.saturating_sub(last.at_us) < micros(interval) && now.0 >= last.at_us;
        if length == last.length || is_early {
            return Ok(());
        }
        let note = Note { at_us: now.0, length };
        let list = list_of(output);
        if self.count >= NOTES_MAX {
            self.count = thin(&list)?;
        }
        File::options().append(true).create(true).open(&list)?.write_all(&bytes(note))?;
        self.note = note;
        self.count += 1;
        Ok(())
    }
}

/// Where what was written since a moment begins, or a little before.
pub fn offset_since(output: &Path, since: Timestamp) -> io::Result<u64> {
    let notes = read(&list_of(output))?;
    // The first note after it: one before that was noted at the moment or earlier, whatever a clock did since.
    let after = notes.iter().position(|note| note.at_us > since.0).unwrap_or(notes.len());
    Ok(notes.get(..after).and_then(<[Note]>::last).map_or(0, |note| note.length))
}

fn list_of(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".times");
    output.with_file_name(name)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn bytes(note: Note) -> [u8; NOTE_BYTES as usize] {
    let mut bytes = [0; NOTE_BYTES as usize];
    let (time, length) = bytes.split_at_mut(8);
    time.copy_from_slice(&note.at_us.to_le_bytes());
    length.copy_from_slice(&note.length.to_le_bytes());
    bytes
}

/// A note that was half written when the host lost power is none.
fn read(list: &Path) -> io::Result<Vec<Note>> {
    let bytes = match fs::read(list) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (notes, _half) = bytes.as_chunks::<{ NOTE_BYTES as usize }>();
    let note = |bytes: &[u8; NOTE_BYTES as usize]| {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
        Note {
            at_us: i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            length: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
        }
    };
    Ok(notes.iter().map(note).collect())
}

/// Drops every second note of the older three quarters; answers how many are left.
fn thin(list: &Path) -> io::Result<u64> {
    let notes = read(list)?;
    let older = notes.len() / 4 * 3;
    let kept = notes.iter().enumerate().filter(|(place, _)| *place >= older || place % 2 == 0);
    let kept: Vec<u8> = kept.flat_map(|(_, note)| bytes(*note)).collect();
    // Whole or not at all: who reads it meanwhile sees the old one.
    let new = list.with_extension("times-new");
    fs::write(&new, &kept)?;
    fs::rename(&new, list)?;
    Ok(kept.len() as u64 / NOTE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: i64) -> Timestamp {
        Timestamp(number * 1_000_000)
    }

    #[test]
    fn output_since_a_moment_begins_at_the_note_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("stdout");
        let mut times = Times::default();
        assert_eq!(offset_since(&output, second(0)).unwrap(), 0);
        // Ten bytes a second for five seconds, an hour of silence, and one line more.
        for at in 1..=5 {
            times.note(&output, u64::try_from(at).unwrap() * 10, second(at)).unwrap();
            times.note(&output, u64::try_from(at).unwrap() * 10, second(at)).unwrap();
        }
        times.note(&output, 50, second(1000)).unwrap();
        times.note(&output, 60, second(3600)).unwrap();
        for (since, offset) in [(0, 0), (1, 10), (3, 30), (5, 50), (2000, 50), (3600, 60), (9999, 60)] {
            assert_eq!(offset_since(&output, second(since)).unwrap(), offset, "since {since}");
        }
        // Within a second nothing is noted twice, and another agent goes on from the list.
        times.note(&output, 70, Timestamp(3600 * 1_000_000 + 1)).unwrap();
        let mut times = Times::default();
        times.note(&output, 60, second(3700)).unwrap();
        times.note(&output, 80, second(3701)).unwrap();
        assert_eq!(fs::metadata(list_of(&output)).unwrap().len(), 7 * NOTE_BYTES);
        assert_eq!(offset_since(&output, second(3700)).unwrap(), 60);
    }

    #[test]
    fn the_last_word_of_a_task_is_noted_however_soon() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("stdout");
        let mut times = Times::default();
        times.note(&output, 10, second(1)).unwrap();
        Times::note_last(&output, 20, Timestamp(1_200_000)).unwrap();
        assert_eq!(offset_since(&output, second(2)).unwrap(), 20);
    }

    #[test]
    fn the_list_stays_small_and_gets_coarser_from_the_front() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("stdout");
        let mut times = Times::default();
        for at in 1..=20_000 {
            times.note(&output, u64::try_from(at).unwrap(), second(at)).unwrap();
        }
        assert!(fs::metadata(list_of(&output)).unwrap().len() <= NOTES_MAX * NOTE_BYTES);
        assert_eq!(offset_since(&output, second(19_990)).unwrap(), 19_990);
        let early = offset_since(&output, second(5_000)).unwrap();
        assert!((4_000..=5_000).contains(&early), "{early}");
    }

    #[test]
    fn a_clock_that_steps_back_shows_more_and_never_less() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("stdout");
        let mut times = Times::default();
        for (at, length) in [(100, 10), (200, 20), (50, 30), (60, 40)] {
            times.note(&output, length, second(at)).unwrap();
        }
        assert_eq!(offset_since(&output, second(55)).unwrap(), 0);
        assert_eq!(offset_since(&output, second(150)).unwrap(), 10);
    }
}
