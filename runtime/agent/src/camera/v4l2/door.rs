//! The kernel's door to a camera: every `unsafe` of this crate is here.
//!
//! A request number carries the size of its structure, and [`super::abi`] asserts the layouts; so a call
//! that gets as far as the driver reads and writes within the structure that it is given.
#![allow(unsafe_code)]

use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result, retry_on_intr};
use rustix::ioctl::{Opcode, Setter, Updater, ioctl};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::abi::{
    self, Buffer, CAPTURE, Capability, Format, FormatDescription, MEMORY_MMAP, Offset, PixelFormat,
    RequestBuffers, StreamParameters, Timecode,
};

/// Formats that a driver may list.
const FORMATS: u32 = 64;

/// An open camera.
pub(super) struct Device {
    fd: OwnedFd,
}

impl Device {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(Device { fd })
    }

    /// Calls the driver with a structure that it may read and write.
    ///
    /// # Safety
    /// `OPCODE` is a request for a structure of the type and layout `T`, all of whose bit patterns are
    /// valid, and makes the kernel keep no pointer to it.
    unsafe fn update<const OPCODE: Opcode, T>(&self, value: &mut T) -> Result<()> {
        retry_on_intr(|| {
            // SAFETY: by this function's contract the kernel accesses `size_of::<T>()` bytes of `value`,
            // which is borrowed for the time of the call.
            unsafe { ioctl(&self.fd, Updater::<OPCODE, T>::new(value)) }
        })
    }

    pub(super) fn capability(&self) -> Result<Capability> {
        let mut capability = Capability {
            driver: [0; 16],
            card: [0; 32],
            bus_info: [0; 32],
            version: 0,
            capabilities: 0,
            device_caps: 0,
            reserved: [0; 3],
        };
        // SAFETY: QUERYCAP fills a v4l2_capability, plain numbers and bytes.
        unsafe { self.update::<{ abi::QUERYCAP }, _>(&mut capability)? };
        Ok(capability)
    }

    /// The pixel formats that the driver lists.
    pub(super) fn formats(&self) -> Vec<u32> {
        let mut formats = Vec::new();
        for index in 0..FORMATS {
            let mut description = FormatDescription {
                index,
                kind: CAPTURE,
                flags: 0,
                description: [0; 32],
                pixel_format: 0,
                mbus_code: 0,
                reserved: [0; 3],
            };
            // SAFETY: ENUM_FMT reads and fills a v4l2_fmtdesc, plain numbers and bytes.
            let listed = unsafe { self.update::<{ abi::ENUM_FMT }, _>(&mut description) };
            if listed.is_err() {
                break;
            }
            formats.push(description.pixel_format);
        }
        formats
    }

    /// The pixel format that is set now.
    pub(super) fn format(&self) -> Result<PixelFormat> {
        let mut format = empty_format();
        // SAFETY: G_FMT reads the kind and fills a v4l2_format; for a capture device that is plain
        // numbers.
        unsafe { self.update::<{ abi::G_FMT }, _>(&mut format)? };
        Ok(format.pixels)
    }

    /// Sets the pixel format, and returns what the driver made of it.
    pub(super) fn set_format(&self, pixels: PixelFormat) -> Result<PixelFormat> {
        let mut format = empty_format();
        format.pixels = pixels;
        // SAFETY: S_FMT reads and fills a v4l2_format; for a capture device that is plain numbers.
        unsafe { self.update::<{ abi::S_FMT }, _>(&mut format)? };
        Ok(format.pixels)
    }

    /// Asks for a rate; many drivers have only some, or one.
    pub(super) fn set_rate(&self, frames_per_second: f64) -> Result<()> {
        let mut parameters = StreamParameters {
            kind: CAPTURE,
            capability: 0,
            capture_mode: 0,
            numerator: 1000,
            denominator: (frames_per_second * 1000.0).round() as u32,
            extended_mode: 0,
            read_buffers: 0,
            reserved: [0; 4],
            rest: [0; 160],
        };
        // SAFETY: S_PARM reads and fills a v4l2_streamparm, plain numbers.
        unsafe { self.update::<{ abi::S_PARM }, _>(&mut parameters) }
    }

    /// Asks for buffers, and returns how many there are. None gives them back.
    pub(super) fn request_buffers(&self, count: u32) -> Result<u32> {
        let mut request = RequestBuffers {
            count,
            kind: CAPTURE,
            memory: MEMORY_MMAP,
            capabilities: 0,
            flags: [0; 4],
        };
        // SAFETY: REQBUFS reads and fills a v4l2_requestbuffers, plain numbers.
        unsafe { self.update::<{ abi::REQBUFS }, _>(&mut request)? };
        Ok(request.count)
    }

    /// Maps a buffer.
    pub(super) fn map(&self, index: u32) -> Result<Mapping> {
        let mut buffer = empty_buffer(index);
        // SAFETY: QUERYBUF reads and fills a v4l2_buffer, plain numbers for mapped memory of one plane.
        unsafe { self.update::<{ abi::QUERYBUF }, _>(&mut buffer)? };
        let length = buffer.length as usize;
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let offset = u64::from(buffer.offset.offset);
        // SAFETY: a new mapping at a place that the kernel chooses; it overlaps no memory of ours.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &self.fd,
                offset,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Mapping { start, length })
    }

    /// Gives a buffer to the driver, to be filled.
    pub(super) fn queue(&self, index: u32) -> Result<()> {
        let mut buffer = empty_buffer(index);
        // SAFETY: QBUF reads and fills a v4l2_buffer as QUERYBUF does. The driver may write to the mapped
        // buffer from now on; `Mapping::copy` is told by its caller that it does not.
        unsafe { self.update::<{ abi::QBUF }, _>(&mut buffer) }
    }

    /// Takes a filled buffer back; none if no one is filled.
    pub(super) fn dequeue(&self) -> Result<Option<Filled>> {
        let mut buffer = empty_buffer(0);
        // SAFETY: DQBUF reads and fills a v4l2_buffer as QUERYBUF does.
        match unsafe { self.update::<{ abi::DQBUF }, _>(&mut buffer) } {
            Ok(()) => Ok(Some(Filled {
                index: buffer.index,
                bytes: buffer.bytes_used as usize,
                damaged: buffer.flags & abi::BUF_FLAG_ERROR != 0,
                sequence: buffer.sequence,
            })),
            Err(Errno::AGAIN) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn stream(&self, on: bool) -> Result<()> {
        let kind = CAPTURE as i32;
        // SAFETY: STREAMON and STREAMOFF read one int through the pointer that `Setter` passes.
        retry_on_intr(|| unsafe {
            if on {
                ioctl(&self.fd, Setter::<{ abi::STREAMON }, i32>::new(kind))
            } else {
                ioctl(&self.fd, Setter::<{ abi::STREAMOFF }, i32>::new(kind))
            }
        })
    }

    /// Waits until a buffer is filled or something is wrong; false after `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Result<bool> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// A buffer that the driver has filled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    pub(super) index: u32,
    pub(super) bytes: usize,
    pub(super) damaged: bool,
    /// The frame's number, by the driver.
    pub(super) sequence: u32,
}

/// A buffer of the driver in our memory.
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// The first `bytes` of the buffer, or all of it if it has fewer. The buffer must have been taken
    /// from the driver and not given back; if it is not, the bytes are of two frames.
    pub(super) fn copy(&self, bytes: usize) -> Vec<u8> {
        let bytes = bytes.min(self.length);
        let mut copy = vec![0u8; bytes];
        // SAFETY: the mapping is `length` bytes long and lives as long as `self`; `copy` is as long as
        // what is read and is memory of our own. The memory is read by the byte through a raw pointer
        // and no reference to it is made, for the kernel might write to it.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr(), copy.as_mut_ptr(), bytes) };
        copy
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of a mapping that nobody else has; no reference into it is
        // ever handed out.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn empty_format() -> Format {
    Format {
        kind: CAPTURE,
        aligned: [],
        pixels: PixelFormat {
            width: 0,
            height: 0,
            pixel_format: 0,
            field: 0,
            bytes_per_line: 0,
            size_image: 0,
            colorspace: 0,
            private: 0,
            flags: 0,
            encoding: 0,
            quantization: 0,
            transfer: 0,
        },
        rest: [0; 152],
    }
}

fn empty_buffer(index: u32) -> Buffer {
    Buffer {
        index,
        kind: CAPTURE,
        bytes_used: 0,
        flags: 0,
        field: 0,
        timestamp: [0; 2],
        timecode: Timecode {
            kind: 0,
            flags: 0,
            rest: [0; 8],
        },
        sequence: 0,
        memory: MEMORY_MMAP,
        offset: Offset {
            aligned: [],
            offset: 0,
        },
        length: 0,
        reserved: 0,
        request: 0,
    }
}
