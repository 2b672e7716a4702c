//! The one call of bpf(2) that aya doesn't lend: a pinned object's bare descriptor.
use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `BPF_OBJ_GET` of `enum bpf_cmd` in `linux/bpf.h`.
const OBJ_GET: libc::c_int = 7;

/// The part of `union bpf_attr` that the call reads.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned at a path. Holding the descriptor keeps it alive, whatever becomes of the pin.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the attributes and the path in them live until the call returns, and their size is stated.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw const attributes, size_of::<ObjGet>()) };
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The numbers that the kernel tells of an object of ours in `/proc/self/fdinfo`.
pub fn numbers_of(fd: &impl std::os::fd::AsFd) -> BTreeMap<String, u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    // Without the file there are no figures, which is what an empty answer says.
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}
