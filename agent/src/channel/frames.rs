//! Frames, and how what the kernel says is told in them.

use model::Exit;
use proto::{
    channel::v1::{Data, Frame, Stream, WindowSize, frame, open::Purpose},
    types::v1 as types,
};

use crate::sys::terminal::Size;

pub(super) fn framed(frame: frame::Frame) -> Frame {
    Frame { frame: Some(frame) }
}

pub(super) fn data(stream: Stream, data: Vec<u8>) -> frame::Frame {
    frame::Frame::Data(Data { data: data.into(), stream: stream.into() })
}

pub(super) fn exit(exit: Exit) -> types::Exit {
    let how = match exit {
        Exit::Code(code) => types::exit::How::Code(code.into()),
        Exit::Signal(signal) => types::exit::How::Signal(signal.into()),
    };
    types::Exit { how: Some(how) }
}

/// A side beyond what a terminal can have is cut to it.
pub(super) fn size(size: &WindowSize) -> Size {
    let side = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
    Size { rows: side(size.rows), columns: side(size.columns) }
}

pub(super) fn purpose_name(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Exec(_) => "exec",
        Purpose::ListFiles(_) => "list-files",
        Purpose::ReadFiles(_) => "read-files",
        Purpose::WriteFiles(_) => "write-files",
        Purpose::Freeze(_) => "freeze",
        Purpose::Profile(_) => "profile",
        Purpose::WriteInput(_) => "write-input",
        Purpose::SendSignal(_) => "signal",
    }
}
