//! Every block format against gguf's reference (`data/blocks.py` made the vectors).

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kinglet_kernels::Format;
use kinglet_kernels::blocks::{decode_row, encode_row};
use safetensors::SafeTensors;

const VECTORS: &[u8] = include_bytes!("data/blocks.safetensors");

fn f32s(bytes: &[u8]) -> Vec<f32> {
    let values = bytes.as_chunks::<4>().0;
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn every_format_decodes_to_the_bits_of_the_reference() {
    let vectors = SafeTensors::deserialize(VECTORS).unwrap();
    let mut checked = 0;
    for format in Format::ALL.iter().filter(|f| f.block_values() > 1) {
        let blocks = vectors.tensor(&format!("{format}.blocks")).unwrap();
        let expected = f32s(vectors.tensor(&format!("{format}.values")).unwrap().data());
        let mut got = vec![0.0; expected.len()];
        decode_row(*format, blocks.data(), &mut got).unwrap();
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            // A zero may have either sign.
            let same = got.to_bits() == expected.to_bits() || (*got == 0.0 && *expected == 0.0);
            assert!(same, "{format}: value {i} is {got}, expected {expected}");
        }
        checked += 1;
    }
    assert_eq!(checked, 10);
}

#[test]
fn encoders_give_the_bytes_of_the_reference() {
    let vectors = SafeTensors::deserialize(VECTORS).unwrap();
    let values = f32s(vectors.tensor("encode.values").unwrap().data());
    let mut checked = 0;
    for format in Format::ALL {
        // The others have no reference.
        let Ok(expected) = vectors.tensor(&format!("encode.{format}")) else {
            continue;
        };
        let mut bytes = Vec::new();
        encode_row(*format, &values, &mut bytes).unwrap();
        assert!(bytes == expected.data(), "{format} has other bytes");
        checked += 1;
    }
    assert_eq!(checked, 4);
}
