//! The process that fetches: `muster-agent fetch`, started by the agent alone.
//!
//! Runs with the task's user and in the task's cgroup, without capabilities and with a list of system calls that
//! it may never make. It has one socket, on which the agent says what to do, and the sandbox. What it answers is
//! not believed: see [`super::fetcher`].

use std::{
    fs::File,
    io::{self, Read, Seek as _},
    os::fd::{AsFd, OwnedFd},
};

use super::{
    download::{self, Patience, Wish},
    failure::{Failure, Kind},
    limits, local,
    messages::{self, Allowed, FromChild, Item, ToChild},
    tree::{self, Budget, Name, Tree},
    unpack,
    url::Source,
};

/// Does what the agent says until it says no more.
pub fn run() -> io::Result<()> {
    let socket = io::stdin();
    let socket = socket.as_fd();
    let first = messages::receive(socket)?;
    let Some((ToChild::Begin { allowed }, Some(sandbox))) = first else {
        return Err(io::Error::other("this verb is the agent's own; it is not for people"));
    };
    // Other tasks of the same user can't look into it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    crate::sys::confine_fetching()?;
    let mut work = Work::new(allowed, sandbox);
    while let Some((message, along)) = messages::receive(socket)? {
        let ToChild::Fetch { item, is_cached } = message else {
            return Err(io::Error::other("the agent begins twice"));
        };
        let cached = if is_cached { along.map(File::from) } else { None };
        let tell = |file: &File, bytes: u64| {
            let along = item.sha256.is_some().then(|| file.as_fd());
            messages::send(socket, &FromChild::Downloaded { bytes }, along)
        };
        let answer = match work.fetch(&item, cached, &tell) {
            Ok(true) => FromChild::Done,
            Ok(false) => FromChild::Damaged,
            Err(failure) => FromChild::Failed(failure),
        };
        messages::send(socket, &answer, None)?;
    }
    Ok(())
}

/// What is left to take, and where it goes.
pub struct Work {
    allowed: Allowed,
    tree: Tree,
    budget: Budget,
    pub patience: Patience,
}

impl Work {
    pub fn new(allowed: Allowed, sandbox: OwnedFd) -> Self {
        let budget = Budget::new(allowed.bytes_max, limits::ENTRIES_MAX);
        Self { allowed, tree: Tree::new(sandbox), budget, patience: Patience::default() }
    }

    /// Brings one file to its place; false when the cached one is damaged. `tell` hears of what was downloaded.
    pub fn fetch(
        &mut self,
        item: &Item,
        cached: Option<File>,
        tell: &dyn Fn(&File, u64) -> io::Result<()>,
    ) -> Result<bool, Failure> {
        let target = Name::parse(item.target.as_bytes())?;
        let sha256 = item.sha256.as_deref().and_then(model::Sha256::of_hex).map(|digest| digest.0);
        if item.sha256.is_some() != sha256.is_some() {
            return Err(Failure::new(Kind::Digest, "its digest is no sha256"));
        }
        if let Some(mut file) = cached {
            let found = download::digest(&mut file);
            if found.ok() != sha256 {
                return Ok(false);
            }
            self.put(item, &target, file)?;
            return Ok(true);
        }
        match Source::parse(&item.url)? {
            Source::File(path) => {
                let mut file = local::open(&path, &self.allowed.directories)?;
                if sha256.is_some() {
                    // A copy first, or it might be another file when it is unpacked.
                    file = self.copied(file)?;
                    let found = download::digest(&mut file)
                        .map_err(|error| Failure::disk("read it again", &error))?;
                    if Some(found) != sha256 {
                        let what = format!("its sha256 is {}", model::Sha256(found));
                        return Err(Failure::new(Kind::Digest, what));
                    }
                }
                self.put(item, &target, file)?;
            }
            Source::Http(url) => {
                let mut file = match item.is_unpacked {
                    true => self.tree.make_nameless(&mut self.budget.clone())?,
                    false => self.tree.make_file(&target, &mut self.budget)?,
                };
                let wish =
                    Wish { url: &url, bytes_max: self.budget.bytes_left(), sha256, patience: self.patience };
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| {
                    Failure::new(Kind::Process, format!("can't begin to download: {error}"))
                })?;
                let bytes = runtime.block_on(download::download(&wish, &mut file))?;
                tell(&file, bytes)
                    .map_err(|error| Failure::new(Kind::Process, format!("can't tell the agent: {error}")))?;
                if item.is_unpacked {
                    self.unpack(item, &target, file)?;
                } else {
                    self.budget.take_bytes(bytes)?;
                    tree::finish(&file, mode(item), None)
                        .map_err(|error| Failure::disk("set its mode", &error))?;
                }
            }
        }
        Ok(true)
    }

    fn copied(&mut self, mut from: File) -> Result<File, Failure> {
        let mut to = self.tree.make_nameless(&mut self.budget.clone())?;
        let left = self.budget.bytes_left();
        let copied = io::copy(&mut (&mut from).take(left.saturating_add(1)), &mut to);
        let copied = copied.map_err(|error| Failure::disk("copy it", &error))?;
        if copied > left {
            self.budget.clone().take_bytes(copied)?;
        }
        to.rewind().map_err(|error| Failure::disk("copy it", &error))?;
        Ok(to)
    }

    /// A file that is on this host already.
    fn put(&mut self, item: &Item, target: &Name, mut file: File) -> Result<(), Failure> {
        match item.is_unpacked {
            true => self.unpack(item, target, file),
            false => self.tree.write_file(target, mode(item), None, &mut file, &mut self.budget).map(drop),
        }
    }

    fn unpack(&mut self, item: &Item, target: &Name, file: File) -> Result<(), Failure> {
        let name = item.url.split(['?', '#']).next().unwrap_or_default();
        let mut below = self.tree.below(target, &mut self.budget)?;
        unpack::unpack(file, name, &mut below, &mut self.budget)
    }
}

fn mode(item: &Item) -> u32 {
    if item.is_executable { 0o755 } else { 0o644 }
}
