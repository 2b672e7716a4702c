//! What was fetched with a digest, kept under it for the next task that asks.
//!
//! Only the agent can write here, and it keeps nothing that it has not hashed itself. A file is written under
//! another name and renamed when it is whole, so a crash leaves a name that the next start sweeps; what a disk
//! damages later is noticed by whoever uses it, because each use hashes. When it is full, the least recently used
//! go; their times of use are the files' own, and so outlive the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use model::Sha256;
use sha2::Digest as _;

use crate::metrics::FetchMetrics;

/// Names of what is not whole yet begin so.
const UNFINISHED: &str = "new-";
/// How often somebody who waits looks whether he still has to.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Why the cache can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("can't make {}", path.display())]
    MakeDirectory { path: PathBuf, source: io::Error },
    #[error("can't read what is in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("can't sweep {}", path.display())]
    Sweep { path: PathBuf, source: io::Error },
    #[error("can't write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("what was downloaded has another digest than the process that fetched it says")]
    Untrue,
    #[error("what was downloaded is no plain file of the sandbox's file system")]
    Foreign,
}

/// The cache. Shared by all threads that fetch.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
    changed: Condvar,
    metrics: FetchMetrics,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Sha256, Entry>,
    bytes: u64,
    /// Counts uses, so that two of the same moment have an order.
    clock: u64,
    downloading: BTreeSet<Sha256>,
    number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    used: u64,
}

/// What the cache says to who wants a file.
#[derive(Debug)]
pub enum Answer {
    Cached(File),
    /// It is the caller's to download; others wait until this is dropped.
    Download(Turn),
    /// The wait is over, because nobody wants it any more.
    Ended,
}

/// The right to download one digest.
#[derive(Debug)]
pub struct Turn {
    cache: Arc<Cache>,
    digest: Sha256,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.cache.lock().downloading.remove(&self.digest);
        self.cache.changed.notify_all();
    }
}

impl Cache {
    /// Takes up what an earlier agent left; what is unfinished or no file of ours is removed.
    pub fn open(directory: &Path, bytes_max: u64, metrics: FetchMetrics) -> Result<Arc<Self>, CacheError> {
        let path = || directory.to_owned();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| CacheError::MakeDirectory { path: path(), source })?;
        let mut found: Vec<(SystemTime, Sha256, u64)> = Vec::new();
        let read = |source| CacheError::Read { path: path(), source };
        for entry in directory.read_dir().map_err(read)? {
            let entry = entry.map_err(read)?;
            let facts = entry.metadata().map_err(read)?;
            let digest = entry.file_name().to_str().and_then(Sha256::of_hex);
            match digest {
                Some(digest) if facts.is_file() => {
                    found.push((facts.modified().unwrap_or(SystemTime::UNIX_EPOCH), digest, facts.len()));
                }
                _ => {
                    let swept = if facts.is_dir() {
                        crate::execute::remove_tree(&entry.path())
                    } else {
                        fs::remove_file(entry.path())
                    };
                    swept.map_err(|source| CacheError::Sweep { path: entry.path(), source })?;
                }
            }
        }
        found.sort_unstable();
        let mut state = State::default();
        for (_, digest, bytes) in found {
            state.clock += 1;
            state.bytes += bytes;
            state.entries.insert(digest, Entry { bytes, used: state.clock });
        }
        let cache = Self {
            directory: directory.to_owned(),
            bytes_max,
            state: Mutex::new(state),
            changed: Condvar::new(),
            metrics,
        };
        cache.make_room(&mut cache.lock(), 0);
        Ok(Arc::new(cache))
    }

    /// A file, or the right to download it. Waits while another downloads the same, until `is_over` says so.
    pub fn claim(self: &Arc<Self>, digest: Sha256, is_over: &dyn Fn() -> bool) -> Answer {
        let mut state = self.lock();
        loop {
            if is_over() {
                return Answer::Ended;
            }
            if state.entries.contains_key(&digest) {
                match File::open(self.path(digest)) {
                    Ok(file) => {
                        state.clock += 1;
                        let used = state.clock;
                        if let Some(entry) = state.entries.get_mut(&digest) {
                            entry.used = used;
                        }
                        // Its place in the order, for the next start; without it, it goes earlier.
                        let _ = touch(&self.path(digest));
                        self.metrics.cache_hits.inc();
                        return Answer::Cached(file);
                    }
                    // Somebody else has removed it.
                    Err(_) => self.drop_entry(&mut state, digest),
                }
            }
            if state.downloading.insert(digest) {
                self.metrics.cache_misses.inc();
                return Answer::Download(Turn { cache: self.clone(), digest });
            }
            let waited = self.changed.wait_timeout(state, LOOK_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Forgets a file that is not what its digest says.
    pub fn forget(&self, digest: Sha256) {
        self.drop_entry(&mut self.lock(), digest);
    }

    /// Keeps a copy of what was downloaded, if there is room and it is what it should be. `file` comes from a
    /// process that is not trusted, so it is read by position, hashed again, and copied.
    pub fn keep(&self, turn: &Turn, file: &File, device: u64) -> Result<(), CacheError> {
        let digest = turn.digest;
        let facts = file.metadata().map_err(|_| CacheError::Foreign)?;
        // A file of another file system, one in user space say, could keep us waiting for ever.
        if !facts.is_file() || facts.dev() != device {
            return Err(CacheError::Foreign);
        }
        if facts.len() > self.bytes_max {
            return Ok(());
        }
        let unfinished = {
            let mut state = self.lock();
            state.number += 1;
            self.make_room(&mut state, facts.len());
            self.directory.join(format!("{UNFINISHED}{}", state.number))
        };
        let kept = self.copy(file, facts.len(), &unfinished, digest);
        if kept.is_err() {
            // What is left is swept at the next start.
            let _ = fs::remove_file(&unfinished);
        }
        let bytes = kept?;
        let mut state = self.lock();
        self.make_room(&mut state, bytes);
        let path = self.path(digest);
        let renamed = fs::rename(&unfinished, &path);
        renamed.map_err(|source| {
            let _ = fs::remove_file(&unfinished);
            CacheError::Write { path, source }
        })?;
        state.clock += 1;
        let used = state.clock;
        if let Some(before) = state.entries.insert(digest, Entry { bytes, used }) {
            state.bytes = state.bytes.saturating_sub(before.bytes);
        }
        state.bytes += bytes;
        self.show(&state);
        Ok(())
    }

    fn copy(&self, from: &File, size: u64, path: &Path, digest: Sha256) -> Result<u64, CacheError> {
        let failed = |source| CacheError::Write { path: path.to_owned(), source };
        let mut to = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        while offset < size {
            let count = from.read_at(&mut buffer, offset).map_err(|_| CacheError::Untrue)?;
            let bytes = buffer.get(..count).filter(|bytes| !bytes.is_empty()).ok_or(CacheError::Untrue)?;
            hasher.update(bytes);
            to.write_all(bytes).map_err(failed)?;
            offset += count as u64;
        }
        let found: [u8; 32] = hasher.finalize().into();
        if Sha256(found) != digest {
            return Err(CacheError::Untrue);
        }
        Ok(offset)
    }

    /// Lets the least recently used go until `bytes` more have room.
    fn make_room(&self, state: &mut State, bytes: u64) {
        while state.bytes.saturating_add(bytes) > self.bytes_max {
            let oldest = state.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(digest, _)| *digest);
            let Some(oldest) = oldest else { break };
            self.drop_entry(state, oldest);
            self.metrics.cache_evictions.inc();
        }
        self.show(state);
    }

    fn drop_entry(&self, state: &mut State, digest: Sha256) {
        let path = self.path(digest);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "can't remove a cached file");
        }
        if let Some(entry) = state.entries.remove(&digest) {
            state.bytes = state.bytes.saturating_sub(entry.bytes);
        }
        self.show(state);
    }

    fn show(&self, state: &State) {
        self.metrics.cache_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
    }

    fn path(&self, digest: Sha256) -> PathBuf {
        self.directory.join(digest.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the kernel's clock.
fn touch(path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn digest(content: &[u8]) -> Sha256 {
        Sha256(sha2::Sha256::digest(content).into())
    }

    fn open(directory: &Path, bytes_max: u64) -> Arc<Cache> {
        Cache::open(&directory.join("cache"), bytes_max, FetchMetrics::default()).unwrap()
    }

    fn put(cache: &Arc<Cache>, directory: &Path, content: &[u8]) -> Result<(), CacheError> {
        let path = directory.join("download");
        fs::write(&path, content).unwrap();
        let file = File::open(&path).unwrap();
        let device = file.metadata().unwrap().dev();
        match cache.claim(digest(content), &|| false) {
            Answer::Download(turn) => cache.keep(&turn, &file, device),
            other => panic!("{other:?}"),
        }
    }

    fn has(cache: &Arc<Cache>, content: &[u8]) -> bool {
        matches!(cache.claim(digest(content), &|| false), Answer::Cached(_))
    }

    fn names(directory: &Path) -> usize {
        fs::read_dir(directory.join("cache")).unwrap().count()
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_order_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let cache = open(at, 30);
        put(&cache, at, &[b'a'; 10]).unwrap();
        put(&cache, at, &[b'b'; 10]).unwrap();
        put(&cache, at, &[b'c'; 10]).unwrap();
        assert!(has(&cache, &[b'a'; 10]));
        let path = |content: &[u8]| at.join("cache").join(digest(content).to_string());
        // File systems with coarse times could not tell.
        for (age, content) in [(30, [b'b'; 10]), (20, [b'c'; 10]), (10, [b'a'; 10])] {
            let file = File::options().write(true).open(path(&content)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age)).unwrap();
        }
        drop(cache);
        fs::write(at.join("cache/new-7"), "half").unwrap();
        fs::create_dir_all(at.join("cache/what/ever")).unwrap();
        let cache = open(at, 30);
        assert_eq!(names(at), 3, "leftovers were swept");
        put(&cache, at, &[b'd'; 10]).unwrap();
        assert!(!path(&[b'b'; 10]).exists());
        assert!(has(&cache, &[b'a'; 10]) && has(&cache, &[b'c'; 10]) && has(&cache, &[b'd'; 10]));
        // A smaller cache than before lets go at once.
        drop(cache);
        open(at, 10);
        assert_eq!(names(at), 1);
    }

    #[test]
    fn nothing_is_kept_that_is_not_what_it_should_be() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let cache = open(at, 100);
        fs::write(at.join("evil"), "evil").unwrap();
        let file = File::open(at.join("evil")).unwrap();
        let device = file.metadata().unwrap().dev();
        let Answer::Download(turn) = cache.claim(digest(b"good"), &|| false) else { panic!() };
        assert!(matches!(cache.keep(&turn, &file, device), Err(CacheError::Untrue)));
        assert!(matches!(cache.keep(&turn, &file, device + 1), Err(CacheError::Foreign)));
        let pipe = File::open("/dev/null").unwrap();
        assert!(matches!(cache.keep(&turn, &pipe, device), Err(CacheError::Foreign)));
        assert_eq!(names(at), 0);
        // What is larger than the whole cache is not kept, and nothing goes for it.
        drop(turn);
        put(&cache, at, b"small").unwrap();
        put(&cache, at, &[b'x'; 101]).unwrap();
        assert!(has(&cache, b"small") && !has(&cache, &[b'x'; 101]));
    }

    #[test]
    fn who_wants_the_same_waits_and_one_downloads() {
        let directory = tempfile::tempdir().unwrap();
        let cache = open(directory.path(), 100);
        let downloads = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (cache, downloads) = (&cache, &downloads);
                let at = directory.path();
                scope.spawn(move || {
                    let Answer::Download(turn) = cache.claim(digest(b"x"), &|| false) else { return };
                    downloads.fetch_add(1, Ordering::SeqCst);
                    let path = at.join(format!("download-{number}"));
                    fs::write(&path, "x").unwrap();
                    let file = File::open(&path).unwrap();
                    cache.keep(&turn, &file, file.metadata().unwrap().dev()).unwrap();
                });
            }
        });
        assert_eq!(downloads.load(Ordering::SeqCst), 1);
        // One who gives up lets the next one try.
        let Answer::Download(turn) = cache.claim(digest(b"y"), &|| false) else { panic!() };
        let is_over = AtomicU32::new(0);
        let over = || is_over.fetch_add(1, Ordering::SeqCst) > 0;
        assert!(matches!(cache.claim(digest(b"y"), &over), Answer::Ended));
        drop(turn);
        assert!(matches!(cache.claim(digest(b"y"), &|| false), Answer::Download(_)));
    }

    #[test]
    fn a_file_that_somebody_removed_is_downloaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let cache = open(directory.path(), 100);
        put(&cache, directory.path(), b"x").unwrap();
        fs::remove_file(directory.path().join("cache").join(digest(b"x").to_string())).unwrap();
        assert!(!has(&cache, b"x"));
        put(&cache, directory.path(), b"x").unwrap();
        cache.forget(digest(b"x"));
        assert!(!has(&cache, b"x"));
    }
}
