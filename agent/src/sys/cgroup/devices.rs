//! Which devices tasks may open: a kernel program on the agent's parent group refuses all but the usual ones.
//!
//! A task that was given devices has a program of its own on its group, in whose favour the parent's yields
//! (BPF_F_ALLOW_OVERRIDE, `include/uapi/linux/bpf.h`, since Linux 4.15). So a task that asks for none costs
//! nothing at its launch, and both programs hold while no agent runs. The v2 group decides on every layout.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::sys::bpf::numbers_of;

/// The program's name in the kernel.
pub const DEVICE_PROGRAM: &str = "muster_devices";

/// A device that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceRule {
    pub is_block: bool,
    pub major: u32,
    /// Absent: every one of the major number's.
    pub minor: Option<u32>,
    pub is_writable: bool,
}

/// What every task may use, of Documentation/admin-guide/devices.txt.
const USUAL: &[DeviceRule] = &[
    usual(1, Some(3)), // null
    usual(1, Some(5)), // zero
    usual(1, Some(7)), // full
    usual(1, Some(8)), // random
    usual(1, Some(9)), // urandom
    usual(5, Some(0)), // tty
    usual(5, Some(2)), // ptmx
    usual(136, None),  // pts
];

const fn usual(major: u32, minor: Option<u32>) -> DeviceRule {
    DeviceRule { is_block: false, major, minor, is_writable: true }
}

impl DeviceRule {
    /// Of the device that a path names; refuses what is none.
    pub fn of_path(path: &Path, is_writable: bool) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let kind = found.file_type();
        if !kind.is_char_device() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no device"));
        }
        let number = found.rdev();
        Ok(Self {
            is_block: kind.is_block_device(),
            major: rustix::fs::major(number),
            minor: Some(rustix::fs::minor(number)),
            is_writable,
        })
    }
}

/// A program that holds a group to its devices. Whoever has it can attach it again.
#[derive(Debug)]
pub struct Guard {
    program: OwnedFd,
    id: u32,
}

impl Guard {
    /// Holds a group, and those below it that have no program of their own, to the usual devices and these.
    /// What was attached before is replaced.
    pub fn attach(group: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<Self> {
        let program = load(&program(rules))?;
        attach(group, &program)?;
        let numbers = numbers_of(&program);
        let id = numbers.get("prog_id").and_then(|id| u32::try_from(*id).ok());
        Ok(Self { program, id: id.ok_or(io::ErrorKind::Unsupported)? })
    }

    /// The one that is attached to a group, if any is.
    pub fn find(group: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let Some(id) = attached(group)? else { return Ok(None) };
        let attributes = ById { id, next_id: 0, flags: 0 };
        Ok(Some(Self { program: descriptor(PROG_GET_FD_BY_ID, &attributes)?, id }))
    }

    /// Attaches it again unless it still is, and answers whether it had to be.
    pub fn put_back(&self, group: BorrowedFd<'_>) -> io::Result<bool> {
        if attached(group)? == Some(self.id) {
            return Ok(false);
        }
        attach(group, &self.program)?;
        Ok(true)
    }
}

fn attach(group: BorrowedFd<'_>, program: &OwnedFd) -> io::Result<()> {
    let attributes = Attach {
        target: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_OVERRIDE,
    };
    call(PROG_ATTACH, &attributes).map(drop)
}

/// The number of the program on a group itself; those of the groups above don't count.
fn attached(group: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    // Where several may be attached beside each other, ours would have been refused: there is one or none.
    let mut id = 0_u32;
    let attributes = Query {
        target: group.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: (&raw mut id) as u64,
        count: 1,
        reserved: 0,
    };
    call(PROG_QUERY, &attributes)?;
    Ok((id != 0).then_some(id))
}

/// bpf(2) with attributes of a command's own shape.
fn call<A>(command: libc::c_int, attributes: &A) -> io::Result<libc::c_long> {
    // SAFETY: the attributes and what they point to outlive the call, which is told their size.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<A>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// bpf(2) with a command that makes a descriptor.
fn descriptor<A>(command: libc::c_int, attributes: &A) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(call(command, attributes)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Commands, kinds and flags of `include/uapi/linux/bpf.h`.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_OVERRIDE: u32 = 1;
const TYPE_BLOCK: i32 = 1;
const TYPE_CHARACTER: i32 = 2;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

/// The part of `union bpf_attr` that BPF_PROG_ATTACH reads.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_QUERY reads, and writes its count into.
#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_GET_FD_BY_ID reads.
#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name.iter_mut().zip(DEVICE_PROGRAM.as_bytes()).for_each(|(place, letter)| *place = *letter);
    let attributes = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    descriptor(PROG_LOAD, &attributes)
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    value: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, value }
}

/// Reads a word of the context (`struct bpf_cgroup_dev_ctx`: access and type, major, minor).
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const COPY: u8 = 0xbc;
const SET: u8 = 0xb7;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// Read top-down: take the request apart; for each rule, is it this device and no more than this access?
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    const KIND: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const BEYOND: u8 = 6;
    let mut program = vec![
        instruction(LOAD_WORD, KIND, 1, 0, 0),
        instruction(COPY, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, 1, 4, 0),
        instruction(LOAD_WORD, MINOR, 1, 8, 0),
    ];
    for rule in USUAL.iter().chain(rules) {
        let kind = if rule.is_block { TYPE_BLOCK } else { TYPE_CHARACTER };
        let allowed = if rule.is_writable { ACCESS_READ | ACCESS_WRITE } else { ACCESS_READ };
        // Each comparison that fails leads over what is left of the rule.
        let mut left: i16 = if rule.minor.is_some() { 8 } else { 7 };
        let mut unless = |register: u8, value: i32| {
            left -= 1;
            instruction(JUMP_IF_NOT_EQUAL, register, 0, left, value)
        };
        program.push(unless(KIND, kind));
        program.push(unless(MAJOR, rule.major.cast_signed()));
        program.extend(rule.minor.map(|minor| unless(MINOR, minor.cast_signed())));
        program.push(instruction(COPY, BEYOND, ACCESS, 0, 0));
        program.push(instruction(AND, BEYOND, 0, 0, !allowed));
        program.push(instruction(JUMP_IF_NOT_EQUAL, BEYOND, 0, 2, 0));
        program.push(instruction(SET, 0, 0, 0, 1));
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(SET, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}
