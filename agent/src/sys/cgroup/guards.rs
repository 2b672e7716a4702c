//! The device programs of one agent: the one on its parent group, and those of tasks that were given devices.
//!
//! Somebody else may detach them, and then a task could open what its user may. [`Guards::mend`] notices and
//! puts them back. Of tasks of an earlier life of the agent it takes hold of what it finds.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    CgroupName,
    devices::{DeviceRule, Guard},
};

/// The programs, by the groups that they are on.
#[derive(Debug)]
pub struct Guards {
    /// Or why there is none.
    parent: Result<Guard, String>,
    of_tasks: Mutex<OfTasks>,
}

#[derive(Debug, Default)]
struct OfTasks {
    guards: BTreeMap<CgroupName, Guard>,
    /// Whether the groups of an earlier life of the agent were looked at.
    is_whole: bool,
}

/// A group whose device program somebody had detached, and that has it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MendedDevices {
    pub group: PathBuf,
    /// Why it doesn't after all.
    pub failed: Option<String>,
}

impl Guards {
    /// Puts the agent's parent group under its program.
    pub fn open(parent: BorrowedFd<'_>) -> Self {
        let parent = Guard::attach(parent, &[]).map_err(|error| error.to_string());
        Self { parent, of_tasks: Mutex::default() }
    }

    /// Why tasks can't be held to their devices, where they can't.
    pub fn absent(&self) -> Option<&str> {
        self.parent.as_ref().err().map(String::as_str)
    }

    /// Gives a task's group devices beyond the usual ones.
    pub fn give(&self, name: &CgroupName, group: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
        if self.absent().is_some() {
            return Ok(());
        }
        let guard = Guard::attach(group, rules)?;
        self.lock().guards.insert(name.clone(), guard);
        Ok(())
    }

    /// The group is gone, or going.
    pub fn forget(&self, name: &CgroupName) {
        self.lock().guards.remove(name);
    }

    /// Puts back what somebody detached. `names` are the groups that are there, asked for once.
    pub fn mend<E>(
        &self,
        parent: &Path,
        names: impl FnOnce() -> Result<Vec<CgroupName>, E>,
    ) -> Result<Vec<MendedDevices>, E> {
        let Ok(own) = &self.parent else { return Ok(Vec::new()) };
        let mut mended = Vec::new();
        mended.extend(mend(own, parent));
        let mut of_tasks = self.lock();
        if !of_tasks.is_whole {
            for name in names()? {
                // A group that goes meanwhile has nothing to be held to.
                let found =
                    File::open(parent.join(name.as_str())).and_then(|group| Guard::find(group.as_fd()));
                if let Ok(Some(guard)) = found {
                    of_tasks.guards.entry(name).or_insert(guard);
                }
            }
            of_tasks.is_whole = true;
        }
        mended.extend(
            of_tasks.guards.iter().filter_map(|(name, guard)| mend(guard, &parent.join(name.as_str()))),
        );
        Ok(mended)
    }

    /// A thread that panicked under the lock left the table whole.
    fn lock(&self) -> MutexGuard<'_, OfTasks> {
        self.of_tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mend(guard: &Guard, path: &Path) -> Option<MendedDevices> {
    let group = path.to_owned();
    match File::open(path).and_then(|file| guard.put_back(file.as_fd())) {
        Ok(false) => None,
        Ok(true) => Some(MendedDevices { group, failed: None }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(MendedDevices { group, failed: Some(error.to_string()) }),
    }
}
