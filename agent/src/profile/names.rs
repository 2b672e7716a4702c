//! Which names belong to which addresses: asks for each once, and knows what to say where there is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd as _,
    time::Instant,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{
    child::{Answer, Question},
    clean, kernel, limits,
    modules::{Modules, Place, Process},
};
use crate::{
    fetch::messages,
    sys::{bpf::Stack, spawn_naming},
};

/// Names of a profile's addresses.
#[derive(Debug, Default)]
pub struct Names {
    wanted: BTreeMap<usize, BTreeSet<u64>>,
    wanted_of_kernel: BTreeSet<u64>,
    found: BTreeMap<(usize, u64), String>,
    found_of_kernel: BTreeMap<u64, String>,
    /// Of programs, by their number.
    programs: Vec<String>,
}

impl Names {
    /// Notes the addresses of a stack.
    pub fn want(&mut self, stack: &Stack, process: Option<&Process>) {
        self.wanted_of_kernel.extend((0..stack.kernel.len()).filter_map(|at| call(&stack.kernel, at, true)));
        let Some(process) = process else { return };
        let is_inner = stack.kernel.is_empty();
        let addresses = (0..stack.user.len()).filter_map(|at| call(&stack.user, at, is_inner));
        for address in addresses {
            if let Some(Place::Module { module, offset }) = process.place(address) {
                self.wanted.entry(module).or_default().insert(offset);
            }
        }
    }

    /// Finds what can be found in time.
    pub fn find(&mut self, modules: &Modules) {
        self.programs = modules.files.iter().map(|module| module.name.clone()).collect();
        let addresses: Vec<u64> = std::mem::take(&mut self.wanted_of_kernel).into_iter().collect();
        let names = kernel::names(&addresses);
        self.found_of_kernel =
            addresses.into_iter().zip(names).filter_map(|(address, name)| Some((address, name?))).collect();
        if let Err(error) = self.ask(modules) {
            tracing::warn!(%error, "a profile has places without a name");
        }
    }

    /// Asks the process that may read programs.
    fn ask(&mut self, modules: &Modules) -> io::Result<()> {
        let wanted = std::mem::take(&mut self.wanted);
        let deadline = Instant::now() + limits::NAMING_PATIENCE;
        let mut asked = wanted.iter().filter_map(|(module, places)| {
            Some((*module, modules.files.get(*module)?.file.as_ref()?, places))
        });
        let Some(first) = asked.next() else { return Ok(()) };
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Killed and reaped when this ends.
        let _process = spawn_naming(theirs)?;
        for (module, file, places) in std::iter::once(first).chain(asked) {
            let places: Vec<u64> = places.iter().copied().collect();
            for places in places.chunks(limits::ADDRESSES_PER_QUESTION_MAX) {
                let question = Question { places: places.to_vec() };
                messages::send(ours.as_fd(), &question, Some(file.as_fd()))?;
                let left = deadline.saturating_duration_since(Instant::now());
                if !messages::await_message(&ours, left)? {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "naming takes too long"));
                }
                let answer = messages::receive(ours.as_fd())?;
                let ended = || io::Error::other("the process that names has ended");
                let (Answer { names }, _none) = answer.ok_or_else(ended)?;
                for (place, name) in places.iter().zip(names) {
                    if let Some(name) = name {
                        // It is not believed to have done so.
                        self.found.insert((module, *place), clean(&name));
                    }
                }
            }
        }
        Ok(())
    }

    /// What stands for a frame of the kernel's. Never its address.
    pub fn of_kernel(&self, stack: &Stack, at: usize) -> String {
        let address = call(&stack.kernel, at, true);
        let name = address.and_then(|address| self.found_of_kernel.get(&address));
        format!("{}_[k]", name.map_or("[kernel]", String::as_str))
    }

    /// What stands for a frame of the process's own.
    pub fn of_user(&self, stack: &Stack, at: usize, process: Option<&Process>) -> String {
        let address = call(&stack.user, at, stack.kernel.is_empty());
        let place = address.and_then(|address| process?.place(address));
        match place {
            Some(Place::Module { module, offset }) => match self.found.get(&(module, offset)) {
                Some(name) => name.clone(),
                None => {
                    let program = self.programs.get(module).map_or("[unknown]", String::as_str);
                    format!("{program}+{offset:#x}")
                }
            },
            Some(Place::Other(name)) => name.to_owned(),
            None => "[unknown]".to_owned(),
        }
    }
}

/// The address to look for: of the innermost where it is; of the others, which tell where they will go on, one before
/// it, where the call is. `is_inner`: the first is where a thread was, and not where it will go on.
fn call(addresses: &[u64], at: usize, is_inner: bool) -> Option<u64> {
    let address = *addresses.get(at)?;
    Some(if at == 0 && is_inner { address } else { address.saturating_sub(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_waits_for_a_call_is_named_by_the_call() {
        assert_eq!(call(&[100, 200], 0, true), Some(100));
        assert_eq!(call(&[100, 200], 1, true), Some(199));
        assert_eq!(call(&[100, 200], 0, false), Some(99));
        assert_eq!(call(&[100, 200], 2, true), None);
    }

    #[test]
    fn what_has_no_name_is_a_place_in_its_program_and_the_kernel_tells_no_address() {
        let names = Names::default();
        let stack = Stack { pid: 1, kernel: [0xffff_ffff_8100_0000].into(), user: [0x1000].into() };
        assert_eq!(names.of_kernel(&stack, 0), "[kernel]_[k]");
        assert_eq!(names.of_user(&stack, 0, None), "[unknown]");
    }
}
