//! The kernel's structures and request numbers of Video for Linux (`linux/videodev2.h`), as far as they
//! are used here: capture of one plane in mapped memory.
//!
//! The numbers contain the structures' sizes, so the kernel refuses a call whose structure has another
//! layout. Sizes are asserted for every target that this is built for, numbers in a test.

use rustix::ioctl::{Opcode, opcode};

/// A device captures video.
pub(super) const CAP_VIDEO_CAPTURE: u32 = 0x0000_0001;
/// A device gives frames in buffers of its own.
pub(super) const CAP_STREAMING: u32 = 0x0400_0000;
/// [`Capability::device_caps`] is filled in.
pub(super) const CAP_DEVICE_CAPS: u32 = 0x8000_0000;
/// The kind of buffer: video capture, one plane.
pub(super) const CAPTURE: u32 = 1;
/// Buffers are the driver's, mapped.
pub(super) const MEMORY_MMAP: u32 = 1;
/// Whole frames, not fields.
pub(super) const FIELD_NONE: u32 = 1;
/// The driver says that this frame is damaged.
pub(super) const BUF_FLAG_ERROR: u32 = 0x40;

/// YUYV 4:2:2.
pub(super) const YUYV: u32 = u32::from_le_bytes(*b"YUYV");
/// JPEG frames, perhaps without tables.
pub(super) const MJPG: u32 = u32::from_le_bytes(*b"MJPG");
/// JPEG frames.
pub(super) const JPEG: u32 = u32::from_le_bytes(*b"JPEG");

/// `struct v4l2_capability`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Capability {
    pub(super) driver: [u8; 16],
    pub(super) card: [u8; 32],
    pub(super) bus_info: [u8; 32],
    pub(super) version: u32,
    pub(super) capabilities: u32,
    pub(super) device_caps: u32,
    pub(super) reserved: [u32; 3],
}

/// `struct v4l2_fmtdesc`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct FormatDescription {
    pub(super) index: u32,
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) description: [u8; 32],
    pub(super) pixel_format: u32,
    pub(super) mbus_code: u32,
    pub(super) reserved: [u32; 3],
}

/// `struct v4l2_pix_format`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct PixelFormat {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixel_format: u32,
    pub(super) field: u32,
    pub(super) bytes_per_line: u32,
    pub(super) size_image: u32,
    pub(super) colorspace: u32,
    pub(super) private: u32,
    pub(super) flags: u32,
    pub(super) encoding: u32,
    pub(super) quantization: u32,
    pub(super) transfer: u32,
}

/// `struct v4l2_format`. The kernel's union is 200 bytes and holds pointers in one of its members, hence
/// the alignment.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) kind: u32,
    pub(super) aligned: [usize; 0],
    pub(super) pixels: PixelFormat,
    pub(super) rest: [u8; 200 - size_of::<PixelFormat>()],
}

/// `struct v4l2_streamparm` with its member for capture.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct StreamParameters {
    pub(super) kind: u32,
    pub(super) capability: u32,
    pub(super) capture_mode: u32,
    /// Seconds a frame, as a fraction.
    pub(super) numerator: u32,
    pub(super) denominator: u32,
    pub(super) extended_mode: u32,
    pub(super) read_buffers: u32,
    pub(super) reserved: [u32; 4],
    pub(super) rest: [u8; 200 - 40],
}

/// `struct v4l2_requestbuffers`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RequestBuffers {
    pub(super) count: u32,
    pub(super) kind: u32,
    pub(super) memory: u32,
    pub(super) capabilities: u32,
    pub(super) flags: [u8; 4],
}

/// `struct v4l2_timecode`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Timecode {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) rest: [u8; 8],
}

/// `struct v4l2_buffer`, with the `struct timeval` of two longs: the form with 32-bit times on a 32-bit
/// machine, which kernels of any age take.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    pub(super) index: u32,
    pub(super) kind: u32,
    pub(super) bytes_used: u32,
    pub(super) flags: u32,
    pub(super) field: u32,
    pub(super) timestamp: [isize; 2],
    pub(super) timecode: Timecode,
    pub(super) sequence: u32,
    pub(super) memory: u32,
    /// A union of an offset and a pointer; the offset is its first four bytes.
    pub(super) offset: Offset,
    pub(super) length: u32,
    pub(super) reserved: u32,
    pub(super) request: u32,
}

/// `union m` of `struct v4l2_buffer`: four bytes of offset, padded to a pointer.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Offset {
    pub(super) aligned: [usize; 0],
    pub(super) offset: u32,
}

pub(super) const QUERYCAP: Opcode = opcode::read::<Capability>(b'V', 0);
pub(super) const ENUM_FMT: Opcode = opcode::read_write::<FormatDescription>(b'V', 2);
pub(super) const G_FMT: Opcode = opcode::read_write::<Format>(b'V', 4);
pub(super) const S_FMT: Opcode = opcode::read_write::<Format>(b'V', 5);
pub(super) const REQBUFS: Opcode = opcode::read_write::<RequestBuffers>(b'V', 8);
pub(super) const QUERYBUF: Opcode = opcode::read_write::<Buffer>(b'V', 9);
pub(super) const QBUF: Opcode = opcode::read_write::<Buffer>(b'V', 15);
pub(super) const DQBUF: Opcode = opcode::read_write::<Buffer>(b'V', 17);
pub(super) const STREAMON: Opcode = opcode::write::<i32>(b'V', 18);
pub(super) const STREAMOFF: Opcode = opcode::write::<i32>(b'V', 19);
pub(super) const S_PARM: Opcode = opcode::read_write::<StreamParameters>(b'V', 22);

const WIDE: bool = size_of::<usize>() == 8;
const _: () = {
    assert!(size_of::<Capability>() == 104);
    assert!(size_of::<FormatDescription>() == 64);
    assert!(size_of::<PixelFormat>() == 48);
    assert!(size_of::<Format>() == if WIDE { 208 } else { 204 });
    assert!(std::mem::offset_of!(Format, pixels) == if WIDE { 8 } else { 4 });
    assert!(size_of::<StreamParameters>() == 204);
    assert!(size_of::<RequestBuffers>() == 20);
    assert!(size_of::<Buffer>() == if WIDE { 88 } else { 68 });
    assert!(std::mem::offset_of!(Buffer, timestamp) == if WIDE { 24 } else { 20 });
    assert!(std::mem::offset_of!(Buffer, sequence) == if WIDE { 56 } else { 44 });
    assert!(std::mem::offset_of!(Buffer, offset) == if WIDE { 64 } else { 52 });
    assert!(std::mem::offset_of!(Buffer, length) == if WIDE { 72 } else { 56 });
};

#[cfg(test)]
mod tests {
    use super::*;

    // Printed by a C program from linux/videodev2.h, for x86-64 and for 32-bit x86; AArch64 and 32-bit
    // ARM number requests in the same way.
    #[test]
    fn request_numbers_are_those_of_the_kernel() {
        let wide = [
            (QUERYCAP, 0x8068_5600u32),
            (ENUM_FMT, 0xc040_5602),
            (G_FMT, 0xc0d0_5604),
            (S_FMT, 0xc0d0_5605),
            (REQBUFS, 0xc014_5608),
            (QUERYBUF, 0xc058_5609),
            (QBUF, 0xc058_560f),
            (DQBUF, 0xc058_5611),
            (STREAMON, 0x4004_5612),
            (STREAMOFF, 0x4004_5613),
            (S_PARM, 0xc0cc_5616),
        ];
        let narrow = [
            (G_FMT, 0xc0cc_5604u32),
            (S_FMT, 0xc0cc_5605),
            (QUERYBUF, 0xc044_5609),
            (QBUF, 0xc044_560f),
            (DQBUF, 0xc044_5611),
        ];
        let expected = if WIDE { &wide[..] } else { &narrow[..] };
        for (number, expected) in expected {
            assert_eq!(*number, *expected, "{number:#x}");
        }
        assert_eq!(YUYV, 0x5659_5559);
        assert_eq!(MJPG, 0x4750_4a4d);
    }
}
