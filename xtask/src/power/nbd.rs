//! Serves a [`Disk`] to QEMU in the NBD protocol: the fixed newstyle handshake, and the least of the commands.
//!
//! The protocol is <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>. One connection at a time,
//! one request after the other; when the disk's power goes, nobody is answered any more.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, Off};

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// NBD_FLAG_FIXED_NEWSTYLE and NBD_FLAG_NO_ZEROES.
const HANDSHAKE_FLAGS: u16 = 0b11;
const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 1 << 31 | 1;
const INFO_EXPORT: u16 = 0;
/// NBD_FLAG_HAS_FLAGS, NBD_FLAG_SEND_FLUSH and NBD_FLAG_SEND_FUA.
const EXPORT_FLAGS: u16 = 0b1101;

const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;
const COMMAND_DISCONNECT: u16 = 2;
const COMMAND_FLUSH: u16 = 3;
/// NBD_CMD_FLAG_FUA.
const FORCED: u16 = 1;
const ERROR_INVALID: u32 = 22;
const ERROR_NO_SPACE: u32 = 28;

/// QEMU asks for no more at once.
const LENGTH_MAX: u32 = 32 << 20;

/// Serves one machine until it is gone.
pub fn serve(stream: &UnixStream, disk: &Mutex<Disk>) -> io::Result<()> {
    let mut server = Server { input: BufReader::new(stream), output: stream, disk };
    if server.shake_hands()? {
        while server.answer()? {}
    }
    // A machine without power is not hung up on: it just never hears anything.
    io::copy(&mut server.input, &mut io::sink()).map(drop)
}

struct Server<'a> {
    input: BufReader<&'a UnixStream>,
    output: &'a UnixStream,
    disk: &'a Mutex<Disk>,
}

impl Server<'_> {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the other side wants the disk.
    fn shake_hands(&mut self) -> io::Result<bool> {
        let mut hello = [MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes()].concat();
        hello.extend(HANDSHAKE_FLAGS.to_be_bytes());
        self.output.write_all(&hello)?;
        self.read_u32()?; // its flags, which can't say more than ours
        loop {
            if self.read_u64()? != OPTION_MAGIC {
                return Err(misspoken("an option"));
            }
            let option = self.read_u32()?;
            let length = self.read_u32()?.min(LENGTH_MAX);
            self.read_bytes(length as usize)?;
            let mut export = self.disk().bytes().to_be_bytes().to_vec();
            export.extend(EXPORT_FLAGS.to_be_bytes());
            match option {
                OPTION_EXPORT_NAME => {
                    self.output.write_all(&export)?;
                    return Ok(true);
                }
                OPTION_ABORT => {
                    self.reply_option(option, REPLY_ACK, &[])?;
                    return Ok(false);
                }
                OPTION_INFO | OPTION_GO => {
                    let info = [INFO_EXPORT.to_be_bytes().to_vec(), export].concat();
                    self.reply_option(option, REPLY_INFO, &info)?;
                    self.reply_option(option, REPLY_ACK, &[])?;
                    if option == OPTION_GO {
                        return Ok(true);
                    }
                }
                _ => self.reply_option(option, REPLY_UNSUPPORTED, &[])?,
            }
        }
    }

    fn reply_option(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        for field in [option, kind, data.len() as u32] {
            reply.extend(field.to_be_bytes());
        }
        reply.extend(data);
        self.output.write_all(&reply)
    }

    /// Answers the next request; `false` when there are none any more.
    fn answer(&mut self) -> io::Result<bool> {
        let magic = match self.read_u32() {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            magic => magic?,
        };
        if magic != REQUEST_MAGIC {
            return Err(misspoken("a request"));
        }
        let (flags, command) = (self.read_u16()?, self.read_u16()?);
        let (cookie, offset) = (self.read_u64()?, self.read_u64()?);
        let length = self.read_u32()?;
        if length > LENGTH_MAX {
            return Err(misspoken("a length"));
        }
        let mut data: Vec<u8> = Vec::new();
        let outcome = match command {
            COMMAND_READ => {
                let disk = self.disk();
                let found = if disk.is_off() { None } else { Some(disk.read(offset, length as usize)) };
                match found {
                    None => return Ok(false),
                    Some(None) => Err(ERROR_INVALID),
                    Some(Some(bytes)) => {
                        data.extend(bytes);
                        Ok(())
                    }
                }
            }
            COMMAND_WRITE => {
                let bytes = self.read_bytes(length as usize)?;
                match self.disk().write(offset, &bytes, flags & FORCED != 0) {
                    Some(Ok(())) => Ok(()),
                    Some(Err(Off)) => return Ok(false),
                    None => Err(ERROR_NO_SPACE),
                }
            }
            COMMAND_FLUSH => match self.disk().flush() {
                Ok(()) => Ok(()),
                Err(Off) => return Ok(false),
            },
            COMMAND_DISCONNECT => return Ok(false),
            _ => Err(ERROR_INVALID),
        };
        let mut reply = REPLY_MAGIC.to_be_bytes().to_vec();
        reply.extend(outcome.err().unwrap_or(0).to_be_bytes());
        reply.extend(cookie.to_be_bytes());
        reply.extend(data);
        self.output.write_all(&reply)?;
        Ok(true)
    }

    fn read_bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_be_bytes(self.read_array()?))
    }

    fn read_u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_be_bytes(self.read_array()?))
    }

    fn read_u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_be_bytes(self.read_array()?))
    }
}

fn misspoken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the machine sent something else than {what}"))
}
