//! JPEG frames of webcams, which leave out the Huffman tables: every frame has the standard's.

use std::borrow::Cow;

/// What a frame of an AVI file begins with. The decoder takes it as a sign that tables which are missing
/// are those of ITU-T T.81, K.3.
const AVI_SEGMENT: [u8; 10] = *b"\xff\xe0\x00\x08AVI1\0\0";

/// The frame with a sign that its tables are the standard's, if it has none.
pub(super) fn with_tables(bytes: &[u8]) -> Cow<'_, [u8]> {
    match (bytes.split_at_checked(2), lacks_tables(bytes)) {
        (Some((start, rest)), true) => [start, &AVI_SEGMENT, rest].concat().into(),
        _ => bytes.into(),
    }
}

/// Whether this is a JPEG file whose picture begins before a table has come.
fn lacks_tables(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(b"\xff\xd8") else {
        return false;
    };
    while let [0xff, marker, high, low, ..] = *rest {
        match marker {
            0xc4 => return false,
            0xda => return true,
            _ => {}
        }
        let length = 2 + usize::from(u16::from_be_bytes([high, low]));
        rest = rest.get(length..).unwrap_or(&[]);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::decode;
    use super::*;
    use crate::frame::Picture;

    #[test]
    fn frames_without_tables_are_decoded_as_if_they_had_them() {
        let picture = Picture {
            width: 16,
            height: 8,
            rgb: (0..16 * 8 * 3).map(|i| (i % 251) as u8).collect(),
        };
        let whole = picture.to_jpeg().unwrap();
        assert!(!lacks_tables(&whole));
        // Without its DHT segments.
        let mut bare = whole[..2].to_vec();
        let mut at = 2;
        while whole[at + 1] != 0xda {
            let length = usize::from(u16::from_be_bytes([whole[at + 2], whole[at + 3]])) + 2;
            if whole[at + 1] != 0xc4 {
                bare.extend_from_slice(&whole[at..at + length]);
            }
            at += length;
        }
        bare.extend_from_slice(&whole[at..]);
        assert!(bare.len() + 400 < whole.len(), "the tables are gone");
        assert!(Picture::decode(&bare).is_err());
        assert_eq!(decode(&bare).unwrap(), decode(&whole).unwrap());
    }

    #[test]
    fn what_is_no_jpeg_is_left_as_it_is() {
        for bytes in [
            &b""[..],
            b"\xff",
            b"\xff\xd8",
            b"\xff\xd8\xff\xe0\xff\xff",
            b"GIF",
        ] {
            assert_eq!(with_tables(bytes), bytes);
        }
    }
}
