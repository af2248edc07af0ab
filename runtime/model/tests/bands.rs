//! Large pictures are decoded in bands, and that cannot be seen.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use kinglet_kernels::{Device, Scalar};
use kinglet_model::autoencoder::to_bytes;
use kinglet_model::{Model, Source};

#[test]
fn a_picture_decoded_in_bands_is_within_one_level_of_the_whole() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoint");
    let model = Model::load(&Source::open(&golden).unwrap(), Scalar).unwrap();
    let channels = model.config.latent.channels;
    let (autoencoder, d) = (model.autoencoder().unwrap(), &model.device);
    for (height, width) in [(24, 10), (9, 24), (33, 3)] {
        let values = (0..height * width * channels).map(|i| (i as f32 * 0.37).sin() * 2.0);
        let latents = d.upload(&values.collect::<Vec<_>>(), channels).unwrap();
        let decode = |largest| {
            let picture = autoencoder.decode_within(d, &latents, height, width, largest);
            d.download(&picture.unwrap()).unwrap()
        };
        let whole = decode(usize::MAX);
        let spread = |values: &[f32]| values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(spread(&whole) > 0.1, "the picture is empty");
        // From the first upsampling on; from the last one on; bands of several sizes.
        let side = whole.len() / 3;
        for largest in [0, side * 4, side * 8, side * 20] {
            let banded = decode(largest);
            let off = whole.iter().zip(&banded).map(|(a, b)| (a - b).abs());
            let off = off.fold(0.0f32, f32::max);
            println!("{height}x{width}, at most {largest}: largest difference {off:.1e}");
            let levels = to_bytes(&whole);
            for (a, b) in levels.iter().zip(to_bytes(&banded)) {
                assert!(a.abs_diff(b) <= 1, "{a} and {b}");
            }
            assert!(off < 2.0 / 255.0);
        }
    }
}
