//! Which task has which GPU: whole devices, one task each.
//!
//! A file beside the sandbox names a task's devices before anything else of it is made; after a restart those
//! files, and whether their cgroup is still there, are all that is asked.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::sys::{CgroupName, Sys};

use super::Directories;

/// Devices by the attempt that has them.
type Taken = BTreeMap<String, Vec<PathBuf>>;

/// Who has what; `None` until somebody asks.
#[derive(Default)]
pub struct Gpus {
    taken: Mutex<Option<Taken>>,
}

/// Why a task gets none.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    #[error("can't tell which GPUs are taken")]
    Read(#[source] io::Error),
    #[error("can't note which GPUs the task has")]
    Write(#[source] io::Error),
    #[error("only {free} of this host's GPUs are free, and {wanted} were asked for")]
    TooFew { free: usize, wanted: usize },
}

impl Gpus {
    /// Gives devices to an attempt whose directory is there, and notes them.
    pub fn take(
        &self,
        attempt: &str,
        wanted: usize,
        all: &[PathBuf],
        directories: &Directories,
        sys: &dyn Sys,
    ) -> Result<(), GpuError> {
        let mut taken = self.lock(directories, sys).map_err(GpuError::Read)?;
        let map = taken.get_or_insert_default();
        let free: Vec<PathBuf> =
            all.iter().filter(|path| !map.values().flatten().any(|other| other == *path)).cloned().collect();
        if free.len() < wanted {
            return Err(GpuError::TooFew { free: free.len(), wanted });
        }
        let given: Vec<PathBuf> = free.into_iter().take(wanted).collect();
        fs::write(directories.gpus(attempt), show(&given, "\n")).map_err(GpuError::Write)?;
        map.insert(attempt.to_owned(), given);
        Ok(())
    }

    /// What an attempt has; empty for one that has none.
    pub fn of(&self, attempt: &str, directories: &Directories, sys: &dyn Sys) -> io::Result<Vec<PathBuf>> {
        let taken = self.lock(directories, sys)?;
        Ok(taken.as_ref().and_then(|map| map.get(attempt)).cloned().unwrap_or_default())
    }

    /// Its devices are free again.
    pub fn give_back(&self, attempt: &str) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = taken.as_mut() {
            map.remove(attempt);
        }
    }

    fn lock(&self, directories: &Directories, sys: &dyn Sys) -> io::Result<MutexGuard<'_, Option<Taken>>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_none() {
            *taken = Some(read(directories, sys)?);
        }
        Ok(taken)
    }
}

/// Paths in one text.
pub fn show(paths: &[PathBuf], between: &str) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(between)
}

/// What earlier starts of the agent have noted for tasks whose cgroup is still there.
fn read(directories: &Directories, sys: &dyn Sys) -> io::Result<Taken> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directories.tasks())? {
        let Ok(attempt) = entry?.file_name().into_string() else { continue };
        let lives =
            CgroupName::new(&attempt).is_ok_and(|name| sys.cgroup_id(&name).is_ok_and(|id| id.is_some()));
        if !lives {
            continue;
        }
        match fs::read_to_string(directories.gpus(&attempt)) {
            Ok(text) => {
                let paths = text.lines().map(|line| Path::new(line).to_owned()).collect();
                found.insert(attempt, paths);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Limits, fake::FakeSys};

    #[test]
    fn a_gpu_is_one_tasks_until_its_cgroup_is_gone_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let directories = Directories::new(folder.path());
        let sys = FakeSys::new();
        let all = ["/dev/gpu0", "/dev/gpu1", "/dev/gpu2"].map(PathBuf::from);
        let name = |attempt: &str| CgroupName::new(attempt).unwrap();
        let begin = |gpus: &Gpus, attempt: &str, wanted| {
            fs::create_dir_all(directories.attempt(attempt)).unwrap();
            gpus.take(attempt, wanted, &all, &directories, &sys)?;
            sys.create_cgroup(&name(attempt), &Limits::new(100, 100, 1 << 20, 10)).unwrap();
            gpus.of(attempt, &directories, &sys).map_err(GpuError::Read)
        };
        let gpus = Gpus::default();
        assert_eq!(begin(&gpus, "a.1", 2).unwrap(), &all[..2]);
        assert_eq!(begin(&gpus, "b.1", 1).unwrap(), &all[2..]);
        assert!(matches!(begin(&gpus, "c.1", 1), Err(GpuError::TooFew { free: 0, wanted: 1 })));

        // Another life of the agent finds what is still taken.
        let gpus = Gpus::default();
        sys.remove_cgroup(&name("b.1")).unwrap();
        assert_eq!(gpus.of("a.1", &directories, &sys).unwrap(), &all[..2]);
        assert_eq!(begin(&gpus, "d.1", 1).unwrap(), &all[2..]);
        gpus.give_back("a.1");
        assert_eq!(begin(&gpus, "e.1", 2).unwrap(), &all[..2]);
    }
}
