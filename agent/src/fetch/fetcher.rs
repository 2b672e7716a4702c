//! The agent's half: one thread and one process for each task that fetches, a few at a time.
//!
//! The thread holds a conversation with the process; it never reads what the process reads. It ends the process
//! when the task is no longer wanted, and then removes what was brought so far.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    },
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use model::Fetch;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::oneshot;

use super::{
    cache::{Answer, Cache, CacheError, Turn},
    failure::{Failure, Kind},
    limits,
    messages::{self, Allowed, FromChild, Item, ToChild},
    url,
};
use crate::{
    execute::chain,
    metrics::{FetchKindLabel, FetchMetrics},
    sys::{CgroupName, Fetching, FetchingRequest, Identity, Killer, Sys},
};

/// What the operator decided about fetching.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Directories of this host from which tasks may fetch.
    pub directories: Vec<PathBuf>,
    /// What the files of a task may take that has no disk limit of its own.
    pub bytes_max: u64,
}

/// All files of one task.
#[derive(Debug)]
pub struct Job {
    /// Of the attempt; the job is known by it.
    pub cgroup: CgroupName,
    pub identity: Identity,
    pub files: Vec<Fetch>,
    pub sandbox: PathBuf,
    /// What is removed when it fails.
    pub directory: PathBuf,
    /// What the task may have on disk.
    pub disk_bytes: Option<u64>,
}

/// How it went; a failure is a message for people.
pub type Outcome = Result<(), String>;

/// Fetches for tasks. Dropping it ends what is under way.
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    sys: Arc<dyn Sys>,
    /// `None`: nothing is kept.
    cache: Option<Arc<Cache>>,
    settings: Settings,
    metrics: FetchMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Job, Arc<Control>, oneshot::Sender<Outcome>)>,
    /// Waiting and under way, by attempt.
    jobs: BTreeMap<String, Arc<Control>>,
    working: usize,
    threads: Vec<JoinHandle<()>>,
    is_over: bool,
}

/// How one job is ended from outside.
#[derive(Debug, Default)]
struct Control {
    is_over: AtomicBool,
    process: Mutex<Option<Killer>>,
}

impl Control {
    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            process.kill();
        }
    }

    /// Whoever calls `end` later finds the process; who called it before is heeded now.
    fn hold(&self, process: Killer) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.clone());
        if self.is_over() {
            process.kill();
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

impl Fetcher {
    pub fn new(
        sys: Arc<dyn Sys>,
        cache: Option<Arc<Cache>>,
        settings: Settings,
        metrics: FetchMetrics,
    ) -> Self {
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { sys, cache, settings, metrics, state }) }
    }

    /// Begins to fetch, now or when it is its turn. Never waits for a server or a disk.
    pub fn begin(&self, job: Job) -> io::Result<oneshot::Receiver<Outcome>> {
        let (done, outcome) = oneshot::channel();
        let control = Arc::new(Control::default());
        let mut state = self.shared.lock();
        if state.working < limits::FETCHING_MAX && !state.is_over {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().name("fetch".to_owned()).spawn(move || shared.work())?;
            state.threads.retain(|thread| !thread.is_finished());
            state.threads.push(thread);
            state.working += 1;
        }
        state.jobs.insert(job.cgroup.as_str().to_owned(), control.clone());
        state.waiting.push_back((job, control, done));
        self.shared.show(&state);
        Ok(outcome)
    }

    /// Ends a job; its outcome comes at once. One that isn't there is no error.
    pub fn cancel(&self, attempt: &str) {
        let waiting = {
            let mut state = self.shared.lock();
            if let Some(control) = state.jobs.get(attempt) {
                control.end();
            }
            let place = state.waiting.iter().position(|(job, _, _)| job.cgroup.as_str() == attempt);
            place.and_then(|place| state.waiting.remove(place))
        };
        if let Some((job, _, done)) = waiting {
            self.shared.conclude(&job, done, Err(("its files".to_owned(), cancelled())));
        }
    }

    /// Whether a job waits or is under way.
    pub fn is_fetching(&self, attempt: &str) -> bool {
        self.shared.lock().jobs.contains_key(attempt)
    }

    /// Ends everything and waits for it.
    pub fn stop(&self) {
        let threads = {
            let mut state = self.shared.lock();
            state.is_over = true;
            state.jobs.values().for_each(|control| control.end());
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread that fetches panicked");
            }
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, state: &State) {
        self.metrics.jobs.set(i64::try_from(state.jobs.len()).unwrap_or(i64::MAX));
    }

    /// One thread, until nothing waits any more.
    fn work(&self) {
        loop {
            let (job, control, done) = {
                let mut state = self.lock();
                match state.waiting.pop_front() {
                    Some(next) => next,
                    None => {
                        state.working -= 1;
                        return;
                    }
                }
            };
            let outcome = self.run(&job, &control);
            self.conclude(&job, done, outcome);
        }
    }

    /// Removes what a failed job brought, and answers.
    fn conclude(&self, job: &Job, done: oneshot::Sender<Outcome>, outcome: Result<(), (String, Failure)>) {
        let attempt = job.cgroup.as_str();
        if let Err((shown, failure)) = &outcome {
            let kind = failure.kind.as_str();
            tracing::info!(attempt, url = shown, kind, error = %failure, "fetching has ended without the file");
            self.metrics.failures.get_or_create(&FetchKindLabel { kind }).inc();
            if let Err(error) = crate::execute::remove_tree(&job.directory) {
                tracing::warn!(attempt, %error, "what was fetched stays until the next start");
            }
        }
        {
            let mut state = self.lock();
            state.jobs.remove(attempt);
            self.show(&state);
        }
        // Without a reader the agent is about to stop, and the next start prepares the task anew.
        let _ = done.send(outcome.map_err(|(shown, failure)| failure.message(&shown)));
    }

    fn run(&self, job: &Job, control: &Control) -> Result<(), (String, Failure)> {
        let names: Vec<String> = job.files.iter().map(|file| url::shown(&file.url)).collect();
        let first = names.first().cloned().unwrap_or_default();
        let mut talk = Talk::begin(self, job, control).map_err(|failure| (first, failure))?;
        for (file, shown) in job.files.iter().zip(names) {
            talk.fetch(file).map_err(|failure| (shown, failure))?;
        }
        talk.end().map_err(|failure| (String::from("its files"), failure))
    }
}

/// One process and what it was told.
struct Talk<'a> {
    shared: &'a Shared,
    job: &'a Job,
    control: &'a Control,
    socket: OwnedFd,
    process: Fetching,
    deadline: Instant,
    /// Of the file system that the sandbox is on.
    device: u64,
}

impl<'a> Talk<'a> {
    fn begin(shared: &'a Shared, job: &'a Job, control: &'a Control) -> Result<Self, Failure> {
        if control.is_over() {
            return Err(cancelled());
        }
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Failure::new(Kind::Process, format!("can't {what}: {error}"))
        };
        let sandbox = File::open(&job.sandbox).map_err(failed("open the sandbox"))?;
        let device = sandbox.metadata().map_err(failed("look at the sandbox"))?.dev();
        let kind = SocketType::SEQPACKET;
        let (socket, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed("make a socket")(error.into()))?;
        let request =
            FetchingRequest { cgroup: job.cgroup.clone(), identity: job.identity.clone(), socket: theirs };
        let process =
            shared.sys.spawn_fetching(request).map_err(|error| Failure::new(Kind::Process, chain(&error)))?;
        control.hold(process.killer());
        let bytes_max = job.disk_bytes.unwrap_or(shared.settings.bytes_max);
        let allowed = Allowed { directories: shared.settings.directories.clone(), bytes_max };
        let deadline = Instant::now() + limits::TASK_PATIENCE;
        let mut talk = Self { shared, job, control, socket, process, deadline, device };
        talk.say(&ToChild::Begin { allowed }, Some(&sandbox))?;
        Ok(talk)
    }

    /// One file, from the cache or into it where it has a digest.
    fn fetch(&mut self, file: &Fetch) -> Result<(), Failure> {
        let item = Item {
            url: file.url.clone(),
            target: file.target().to_owned(),
            sha256: file.sha256.map(|digest| digest.to_string()),
            is_unpacked: file.is_unpacked,
            is_executable: file.is_executable,
        };
        // A file of this host needs no second copy on it.
        let is_far = !file.url.starts_with("file:");
        let cached = file.sha256.zip(self.shared.cache.clone()).filter(|_| is_far);
        let Some((digest, cache)) = cached else { return self.download(item, None).map(drop) };
        loop {
            let control = self.control;
            match cache.claim(digest, &|| control.is_over()) {
                Answer::Ended => return Err(cancelled()),
                Answer::Cached(file) => {
                    self.say(&ToChild::Fetch { item: item.clone(), is_cached: true }, Some(&file))?;
                    match self.hear()?.0 {
                        FromChild::Done => return Ok(()),
                        FromChild::Damaged => {
                            tracing::warn!(%digest, "a cached file is damaged, and fetched anew");
                            self.shared.metrics.cache_damaged.inc();
                            cache.forget(digest);
                        }
                        FromChild::Failed(failure) => return Err(failure),
                        FromChild::Downloaded { .. } => return Err(confused()),
                    }
                }
                Answer::Download(turn) => return self.download(item, Some((&cache, turn))),
            }
        }
    }

    fn download(&mut self, item: Item, keep: Option<(&Cache, Turn)>) -> Result<(), Failure> {
        self.say(&ToChild::Fetch { item, is_cached: false }, None)?;
        let mut keep = keep;
        loop {
            match self.hear()? {
                (FromChild::Downloaded { bytes }, file) => {
                    self.shared.metrics.downloads.inc();
                    self.shared.metrics.downloaded_bytes.inc_by(bytes);
                    // Others who wait for it have it from here on.
                    if let (Some((cache, turn)), Some(file)) = (keep.take(), file) {
                        self.keep(cache, &turn, &File::from(file))?;
                    }
                }
                (FromChild::Done, _) => return Ok(()),
                (FromChild::Failed(failure), _) => return Err(failure),
                (FromChild::Damaged, _) => return Err(confused()),
            }
        }
    }

    fn keep(&self, cache: &Cache, turn: &Turn, file: &File) -> Result<(), Failure> {
        match cache.keep(turn, file, self.device) {
            Ok(()) => Ok(()),
            // Then its own task must not have it either.
            Err(error @ (CacheError::Untrue | CacheError::Foreign)) => {
                Err(Failure::new(Kind::Digest, error.to_string()))
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "a fetched file is not kept in the cache");
                Ok(())
            }
        }
    }

    fn say(&mut self, message: &ToChild, along: Option<&File>) -> Result<(), Failure> {
        let sent = messages::send(self.socket.as_fd(), message, along.map(|file| file.as_fd()));
        sent.map_err(|_| self.post_mortem())
    }

    fn hear(&mut self) -> Result<(FromChild, Option<OwnedFd>), Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match messages::await_message(&self.socket, left) {
            Ok(true) => {}
            Ok(false) => {
                let minutes = limits::TASK_PATIENCE.as_secs() / 60;
                return Err(Failure::new(Kind::Stalled, format!("it took more than {minutes} minutes")));
            }
            Err(error) => {
                return Err(Failure::new(
                    Kind::Process,
                    format!("can't wait for the process that fetches: {error}"),
                ));
            }
        }
        match messages::receive(self.socket.as_fd()) {
            Ok(Some(heard)) => Ok(heard),
            Ok(None) => Err(self.post_mortem()),
            Err(_) => Err(confused()),
        }
    }

    /// It closed its socket: why?
    fn post_mortem(&mut self) -> Failure {
        if self.control.is_over() {
            return cancelled();
        }
        // It may hang with its socket closed, if somebody else rules it.
        self.process.killer().kill();
        let status = self.process.wait();
        let oom_kills = self.shared.sys.figures(&self.job.cgroup).ok().and_then(|figures| figures.oom_kills);
        let what = match status {
            Ok(_) if oom_kills.is_some_and(|count| count > 0) => {
                "the task's memory is not enough to fetch and unpack it".to_owned()
            }
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("the process that fetches ended with code {code}"),
                (None, signal) => {
                    format!("the process that fetches was killed by signal {}", signal.unwrap_or(0))
                }
            },
            Err(error) => format!("the process that fetches is lost: {error}"),
        };
        Failure::new(Kind::Process, what)
    }

    /// The socket closes, so the process ends; nothing of it may be there when the command begins.
    fn end(self) -> Result<(), Failure> {
        let Self { socket, mut process, control, .. } = self;
        drop(socket);
        process.wait().map_err(|error| {
            Failure::new(Kind::Process, format!("the process that fetches is lost: {error}"))
        })?;
        if control.is_over() { Err(cancelled()) } else { Ok(()) }
    }
}

fn cancelled() -> Failure {
    Failure::new(Kind::Cancelled, "the task was ended meanwhile")
}

fn confused() -> Failure {
    Failure::new(Kind::Process, "the process that fetches said something that makes no sense")
}
