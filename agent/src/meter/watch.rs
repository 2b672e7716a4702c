//! Looks after the kernel programs: puts back what somebody detached, and measures now and then what they cost.
//!
//! Never counts anything of tasks. [`Watch::mend`] and the windows are called in turns by the one who has a clock
//! and a thread.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    execute::chain,
    sys::{
        Kernel,
        bpf::{self, Program, Programs},
        cgroup::{DEVICE_PROGRAM, MendedDevices},
    },
};

/// What a program cost while it was last measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Of one run; absent when it didn't run in that time.
    pub per_run: Option<Duration>,
    pub runs_per_second: f64,
    /// Part of one CPU.
    pub share: f64,
}

/// The programs, and what was found out about them.
#[derive(Debug)]
pub struct Watch {
    /// Absent where none that counts can run.
    programs: Option<Arc<Programs>>,
    kernel: Arc<Kernel>,
    found: Mutex<Found>,
}

/// What was found out so far.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub costs: BTreeMap<Program, Cost>,
    /// How often each program was put back, by its name.
    pub mended: BTreeMap<&'static str, u64>,
}

/// A time in which the kernel measures every program's runs. Ends when it is dropped, or is read by [`Watch::end_window`].
#[derive(Debug)]
pub struct Window {
    _measuring: bpf::Measuring,
    began: Instant,
    before: BTreeMap<Program, (u64, Duration)>,
}

impl Watch {
    /// How soon a detached program is noticed.
    pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);
    /// Runs are measured for one part in sixty of the time, because measuring costs each run some 20 ns itself.
    pub const COST_INTERVAL: Duration = Duration::from_secs(60);
    pub const COST_WINDOW: Duration = Duration::from_secs(1);

    pub fn new(programs: Option<Arc<Programs>>, kernel: Arc<Kernel>) -> Self {
        Self { programs, kernel, found: Mutex::default() }
    }

    pub fn found(&self) -> Found {
        self.lock().clone()
    }

    /// Puts back what somebody detached or unpinned, and says so.
    pub fn mend(&self) {
        match self.programs.as_ref().map_or_else(|| Ok(Vec::new()), |programs| programs.mend()) {
            Ok(mended) => {
                for bpf::Mended { program, damage, failed } in mended {
                    self.tell(program.name(), damage, failed);
                }
            }
            Err(error) => tracing::error!(error = chain(&error), "can't put kernel programs back"),
        }
        match self.kernel.cgroups().mend_devices() {
            Ok(mended) => {
                for MendedDevices { group, failed } in mended {
                    self.tell(DEVICE_PROGRAM, &format!("it wasn't attached to {}", group.display()), failed);
                }
            }
            Err(error) => tracing::error!(error = chain(&error), "can't look for the tasks' device programs"),
        }
    }

    fn tell(&self, program: &'static str, damage: &str, failed: Option<String>) {
        *self.lock().mended.entry(program).or_default() += 1;
        match failed {
            None => tracing::warn!(program, damage, "a kernel program was meddled with, and is put back"),
            Some(error) => tracing::error!(program, damage, error, "a kernel program can't be put back"),
        }
    }

    /// Takes up block devices that came, and begins to measure what the programs cost.
    pub fn begin_window(&self) -> Option<Window> {
        let programs = self.programs.as_ref()?;
        if let Err(error) = programs.look_for_devices() {
            tracing::warn!(error = chain(&error), "can't look for block devices");
        }
        let before = self.runs();
        match bpf::measure_runs() {
            Ok(measuring) => Some(Window { _measuring: measuring, began: Instant::now(), before }),
            // Costs stay as they were told last.
            Err(error) => {
                tracing::debug!(%error, "the kernel doesn't measure its programs");
                None
            }
        }
    }

    /// Ends the measuring and keeps what it gave.
    pub fn end_window(&self, window: Window) {
        let after = self.runs();
        let seconds = window.began.elapsed().as_secs_f64();
        drop(window._measuring);
        let cost = |(program, (runs, time)): (Program, (u64, Duration))| {
            let (runs_before, time_before) = window.before.get(&program).copied().unwrap_or_default();
            let runs = runs.checked_sub(runs_before)?;
            let time = time.checked_sub(time_before)?;
            let per_run = (runs > 0).then(|| time.div_f64(runs as f64));
            let cost =
                Cost { per_run, runs_per_second: runs as f64 / seconds, share: time.as_secs_f64() / seconds };
            Some((program, cost))
        };
        self.lock().costs = after.into_iter().filter_map(cost).collect();
    }

    fn runs(&self) -> BTreeMap<Program, (u64, Duration)> {
        // A program of which the kernel tells nothing has no cost to be told.
        let health = self.programs.as_ref().and_then(|programs| programs.health().ok());
        health
            .map(|health| health.programs)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|health| Some((health.program, (health.runs?, health.run_time?))))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
