//! A disk that forgets what wasn't synced, tears what was being written, and is slow at times.
//!
//! It is fjall's contract and no more: a commit is whole or absent, but for a last one that is torn, and what
//! was synced stays. Snapshots are not here; they are files of this machine.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{
    super::super::log::{
        disk::{Change, Disk, Durability, MarkFile, Records, Store},
        writer::{Op, Writer},
    },
    planted::Bug,
};

/// One page of the file beside the store: what a torn write doesn't reach beyond.
const PAGE: usize = 4096;

/// One member's disk; clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    platter: Arc<Mutex<Platter>>,
    bug: Option<Bug>,
}

struct Platter {
    chance: SmallRng,
    /// The power goes out in one of so many writes.
    cut_one_in: Option<u32>,
    /// It went out: nothing is written any more.
    is_cut: bool,
    /// What a read gives.
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    synced: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Commits that are in no sync yet.
    unsynced: Vec<Vec<Change>>,
    mark: Pages,
    synced_mark: Pages,
    /// Writes of pages that are in no sync yet.
    unsynced_mark: Vec<(usize, Vec<u8>)>,
}

type Pages = [Vec<u8>; 2];

impl SimulatedDisk {
    pub fn new(seed: u64, bug: Option<Bug>) -> Self {
        let platter = Platter {
            chance: SmallRng::seed_from_u64(seed),
            cut_one_in: None,
            is_cut: false,
            store: BTreeMap::new(),
            synced: BTreeMap::new(),
            unsynced: Vec::new(),
            mark: Pages::default(),
            synced_mark: Pages::default(),
            unsynced_mark: Vec::new(),
        };
        Self { platter: Arc::new(Mutex::new(platter)), bug }
    }

    /// From now on the power goes out in the middle of one of so many writes.
    pub fn set_cut(&self, one_in: Option<u32>) {
        self.platter().cut_one_in = one_in;
    }

    /// Whether the power went out, which is followed by [`SimulatedDisk::lose_power`].
    pub fn is_cut(&self) -> bool {
        self.platter().is_cut
    }

    /// Forgets what the power's loss costs.
    pub fn lose_power(&self) {
        self.platter().lose_power();
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }

    fn pause(&self) -> Duration {
        let chance = &mut self.platter().chance;
        // Whoever doesn't wait for the disk is seen where it is slow.
        let one_in = if self.bug == Some(Bug::AcknowledgedBeforeDurable) { 4 } else { 200 };
        match chance.random_range(0..one_in) {
            0 => Duration::from_millis(chance.random_range(50..300)),
            _ => Duration::from_micros(chance.random_range(100..3000)),
        }
    }
}

impl Platter {
    /// Whether the power goes out now.
    fn draw_cut(&mut self) -> bool {
        let Some(one_in) = self.cut_one_in else { return false };
        self.is_cut = self.chance.random_ratio(1, one_in);
        self.is_cut
    }

    fn sync(&mut self) {
        self.synced = self.store.clone();
        self.unsynced.clear();
    }

    fn lose_power(&mut self) {
        self.is_cut = false;
        let mut kept = std::mem::take(&mut self.unsynced);
        let first_lost = self.chance.random_range(0..=kept.len());
        let torn = kept.get(first_lost).cloned();
        kept.truncate(first_lost);
        for changes in kept {
            change(&mut self.synced, changes);
        }
        if let Some(torn) = torn {
            self.tear(torn);
        }
        self.store = self.synced.clone();

        // Of each page any version since the last sync may lie there, and one page may be torn.
        let writes = std::mem::take(&mut self.unsynced_mark);
        let torn_page = self.chance.random_bool(0.3).then(|| self.chance.random_range(0..2));
        for page in 0..2 {
            let versions: Vec<_> = writes.iter().filter(|(of, _)| *of == page).collect();
            let kept = self.chance.random_range(0..=versions.len());
            let lies = &mut self.synced_mark[page];
            if let Some((_, bytes)) = kept.checked_sub(1).map(|last| versions[last]) {
                overwrite(lies, bytes);
            }
            if let Some((_, bytes)) = versions.get(kept)
                && torn_page == Some(page)
            {
                let length = self.chance.random_range(0..bytes.len());
                overwrite(lies, &bytes[..length]);
            }
        }
        self.mark = self.synced_mark.clone();
    }

    /// Keeps the first entries of a commit, and half of the next one. What removes is whole or absent.
    fn tear(&mut self, changes: Vec<Change>) {
        let is_entry = |change: &Change| matches!(change, Change::Put { key, .. } if key.len() == 8);
        let entries: Vec<_> = changes.iter().take_while(|change| is_entry(change)).cloned().collect();
        if entries.is_empty() || self.chance.random_bool(0.5) {
            return;
        }
        let whole = self.chance.random_range(0..entries.len());
        change(&mut self.synced, entries[..whole].to_vec());
        if let Change::Put { key, value } = &entries[whole] {
            let mut value = value.clone();
            if self.chance.random_bool(0.5) {
                value.truncate(self.chance.random_range(0..value.len()));
            } else {
                let at = self.chance.random_range(1..value.len());
                value[at] ^= 1 << self.chance.random_range(0..8);
            }
            self.synced.insert(key.clone(), value);
        }
    }
}

fn change(store: &mut BTreeMap<Vec<u8>, Vec<u8>>, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Put { key, value } => store.insert(key, value),
            Change::Remove { key } => store.remove(&key),
        };
    }
}

fn overwrite(page: &mut Vec<u8>, bytes: &[u8]) {
    if page.len() < bytes.len() {
        page.resize(bytes.len(), 0);
    }
    page[..bytes.len()].copy_from_slice(bytes);
}

fn power_is_out() -> io::Error {
    io::Error::other("the simulated power is out")
}

impl Disk for SimulatedDisk {
    fn store(&self, _path: &Path) -> io::Result<Arc<dyn Store>> {
        Ok(Arc::new(self.clone()))
    }

    fn file(&self, _path: &Path) -> io::Result<Box<dyn MarkFile>> {
        Ok(Box::new(self.clone()))
    }

    /// A task instead of a thread, which takes the time that a disk takes.
    fn run(&self, mut writer: Writer) -> io::Result<oneshot::Receiver<()>> {
        let (ended, end) = oneshot::channel();
        if let Some(bug) = self.bug {
            let (forward, operations) = mpsc::channel(1 << 10);
            let asked = std::mem::replace(&mut writer.operations, operations);
            tokio::spawn(misbehave(bug, asked, forward));
        }
        let disk = self.clone();
        tokio::spawn(async move {
            while let Some(operation) = writer.operations.recv().await {
                sleep(disk.pause()).await;
                writer.round(Some(operation));
                while writer.purging.is_some() {
                    writer.round(None);
                }
            }
            writer.close();
            let _ = ended.send(());
        });
        Ok(end)
    }
}

/// Stands between Raft and the writer, and does what a careless store would do.
async fn misbehave(bug: Bug, mut asked: mpsc::Receiver<Op>, forward: mpsc::Sender<Op>) {
    while let Some(operation) = asked.recv().await {
        let operation = match (bug, operation) {
            (Bug::AcknowledgedBeforeDurable, Op::Append { entries, done }) => {
                done.io_completed(Ok(()));
                Op::Append { entries, done: openraft::storage::IOFlushed::noop() }
            }
            (Bug::VoteForgotten, Op::Vote { vote: _, done }) => {
                let _ = done.send(Ok(()));
                continue;
            }
            (_, operation) => operation,
        };
        if forward.send(operation).await.is_err() {
            return;
        }
    }
}

impl Store for SimulatedDisk {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.platter().store.get(key).cloned())
    }

    fn entries(&self, indices: Range<u64>) -> Records<'_> {
        let keys = indices.start.to_be_bytes().to_vec()..indices.end.to_be_bytes().to_vec();
        let platter = self.platter();
        let found: Vec<_> =
            platter.store.range(keys).map(|(key, value)| Ok((key.clone(), value.clone()))).collect();
        Box::new(found.into_iter())
    }

    fn is_empty(&self) -> bool {
        self.platter().store.is_empty()
    }

    fn commit(&self, changes: Vec<Change>, durability: Durability) -> io::Result<()> {
        let platter = &mut *self.platter();
        if platter.is_cut {
            return Err(power_is_out());
        }
        change(&mut platter.store, changes.clone());
        platter.unsynced.push(changes);
        let is_cut = platter.draw_cut();
        // The power may go out after the last byte, before anyone heard of it.
        let is_synced = durability == Durability::Synced && (!is_cut || platter.chance.random_bool(0.3));
        if is_synced && self.bug != Some(Bug::NeverSynced) {
            platter.sync();
        }
        if is_cut { Err(power_is_out()) } else { Ok(()) }
    }
}

impl MarkFile for SimulatedDisk {
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let offset = usize::try_from(offset).unwrap();
        let page = &self.platter().mark[offset / PAGE];
        let start = (offset % PAGE).min(page.len());
        let end = (start + length).min(page.len());
        Ok(page[start..end].to_vec())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let page = usize::try_from(offset).unwrap() / PAGE;
        let platter = &mut *self.platter();
        if platter.is_cut {
            return Err(power_is_out());
        }
        overwrite(&mut platter.mark[page], bytes);
        platter.unsynced_mark.push((page, bytes.to_vec()));
        if platter.draw_cut() { Err(power_is_out()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let platter = &mut *self.platter();
        if platter.is_cut {
            return Err(power_is_out());
        }
        platter.synced_mark = platter.mark.clone();
        platter.unsynced_mark.clear();
        Ok(())
    }
}
