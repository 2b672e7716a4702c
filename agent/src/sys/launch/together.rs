//! The processes of a task group: born of the task's first process, and begun together.
//!
//! The first process still has the agent's rights and is not yet the init. It forks the others; each goes into its
//! own control groups, gives up its rights and waits. When all wait, the first becomes the init, which writes down
//! that it began, lets them go, and reaps them. So no command begins before every one could.
//! As in `child`, everything here is raw system calls on what was prepared. The first process is in the agent's
//! memory; those that it forks have copies, in which they may wait while it has become the init.

use std::ffi::CString;
use std::os::fd::RawFd;

use super::LaunchStep;
use super::child::{self, Child, call, close, exit, place, pointer, write};

/// One process of a group, in the form in which the kernel takes it.
pub struct Member {
    pub stdout: RawFd,
    pub stderr: RawFd,
    /// `tasks` and `cgroup.procs` files.
    pub join: Vec<RawFd>,
    /// Where the command may be.
    pub places: Vec<CString>,
    /// As in [`child::Plan`].
    pub argv: Vec<usize>,
    pub envp: Vec<usize>,
    pub _strings: Vec<CString>,
}

impl Member {
    /// In the order in which the child puts them side by side.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [self.stdout, self.stderr].into_iter().chain(self.join.iter().copied())
    }
}

/// What the init calls the first of them: its namespace is new, and gives numbers out in order.
const FIRST_PID: isize = 2;

/// Where a group's exit record has the pairs of its processes; as in `agent/init/main.rs`.
const HEAD_BYTES: usize = 16;
const PAIR_BYTES: usize = 8;
const EXEC_FAILED: u32 = 3;

impl Child<'_> {
    /// Starts the others and waits until each of them waits.
    pub(super) fn start_members(&self) {
        let plan = self.plan;
        if plan.members.is_empty() {
            return;
        }
        let step = LaunchStep::Fork;
        let [ready, tell_ready] = self.pipe();
        let [begin, tell_begin] = self.pipe();
        let first = place::JOIN + plan.join.len() + plan.scene.descriptors();
        let mut next = first;
        for (member, (number, pid)) in plan.members.iter().zip((1..).zip(FIRST_PID..)) {
            let answer = call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]);
            if answer == 0 {
                close(ready);
                close(tell_begin);
                Child { plan, member: number }.run_member(member, first, next, [tell_ready, begin]);
            }
            if self.must(step, answer) != pid {
                self.fail(step, -(libc::EAGAIN as isize));
            }
            next += member.descriptors().count();
        }
        close(tell_ready);
        close(begin);
        let mut word = 0_u8;
        for _ in &plan.members {
            if call(libc::SYS_read, [ready, &raw mut word as usize, 1, 0, 0, 0]) != 1 {
                // One of them has told why.
                exit(126);
            }
        }
        close(ready);
        self.must_place(tell_begin, place::BEGIN);
        // Theirs, and the first copy of what was just placed.
        self.must(step, call(libc::SYS_close_range, [place::BEGIN + 1, usize::MAX >> 32, 0, 0, 0, 0]));
    }

    /// Becomes the command when all are ready.
    fn run_member(&self, member: &Member, first: usize, own: usize, [tell_ready, begin]: [usize; 2]) -> ! {
        let step = LaunchStep::Descriptors;
        // From here on others of the group may see this process, which is still full of the agent's memory.
        self.must(step, call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 0, 0, 0, 0, 0]));
        self.must(LaunchStep::Session, call(libc::SYS_setsid, [0; 6]));
        self.must_place(own, 1);
        self.must_place(own + 1, 2);
        for index in 0..member.join.len() {
            self.must(LaunchStep::JoinCgroup, write(own + 2 + index, b"0"));
        }
        let count: usize = self.plan.members.iter().map(|member| member.descriptors().count()).sum();
        (first..first + count).for_each(close);
        close(place::INIT);
        for descriptor in [place::STATUS, place::EXIT] {
            let set = [descriptor, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize, 0, 0, 0];
            self.must(step, call(libc::SYS_fcntl, set));
        }
        let (mask, set) = (0_u64, libc::SIG_SETMASK as usize);
        let arguments = [set, &raw const mask as usize, 0, child::SIGNAL_SET_BYTES, 0, 0];
        self.must(LaunchStep::Session, call(libc::SYS_rt_sigprocmask, arguments));

        self.give_up_rights();
        // What can be known before anything begins is told before.
        let found = child::first_of(&member.places, |path| {
            let arguments = [child::AT_FDCWD, pointer(path), libc::X_OK as usize, 0, 0, 0];
            call(libc::SYS_faccessat, arguments)
        });
        if [libc::ENOENT, libc::ENOTDIR, libc::EACCES].map(|errno| -(errno as isize)).contains(&found) {
            self.fail(LaunchStep::Exec, found);
        }
        self.install_filter();
        self.must(LaunchStep::Fork, write(tell_ready, b"!"));
        close(tell_ready);
        let mut word = 0_u8;
        if call(libc::SYS_read, [begin, &raw mut word as usize, 1, 0, 0, 0]) != 1 {
            exit(0);
        }
        let (argv, envp) = (member.argv.as_ptr() as usize, member.envp.as_ptr() as usize);
        let answer = child::first_of(&member.places, |path| {
            call(libc::SYS_execve, [pointer(path), argv, envp, 0, 0, 0])
        });
        // The record before the word: who hears the word may read the record.
        let pair = [EXEC_FAILED, u32::try_from(-answer).unwrap_or(0)];
        let offset = HEAD_BYTES + PAIR_BYTES * (self.member as usize - 1);
        call(libc::SYS_pwrite64, [place::EXIT, pair.as_ptr() as usize, PAIR_BYTES, offset, 0, 0]);
        self.fail(LaunchStep::Exec, answer)
    }

    fn must_place(&self, from: usize, to: usize) {
        self.must(LaunchStep::Descriptors, call(libc::SYS_dup3, [from, to, 0, 0, 0, 0]));
    }

    /// Both ends close when a command begins.
    fn pipe(&self) -> [usize; 2] {
        let mut ends = [0_i32; 2];
        let arguments = [ends.as_mut_ptr() as usize, libc::O_CLOEXEC as usize, 0, 0, 0, 0];
        self.must(LaunchStep::Fork, call(libc::SYS_pipe2, arguments));
        ends.map(|end| end.cast_unsigned() as usize)
    }
}
