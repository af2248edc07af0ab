//! Pixels to latents and back.

use kinglet_kernels::Device;

use crate::set::{Set, f32s};
use crate::tools::*;

pub(crate) fn autoencoder<D: Device>(set: &mut Set, model: &Shared<D>) {
    const FILE: &str = "goldens/vae.safetensors";
    let (d, ae) = (&model.device, model.autoencoder().unwrap());
    let latent = &model.config.latent;
    let (channels, patch) = (latent.channels, latent.patch);

    let shape = set.shape(FILE, "decode.latent_nchw");
    let (height, width) = (shape[2], shape[3]);
    let tokens = d
        .upload(
            &f32s(set.input(FILE, "decode.packed_latent")),
            latent.token_values(),
        )
        .unwrap();
    let (rows, columns) = (height / patch, width / patch);
    let picture = model
        .latents()
        .unwrap()
        .unpack(d, &tokens, rows, columns)
        .unwrap();
    let unpacked = model.device.download(&picture).unwrap();
    set.check(
        FILE,
        "decode.latent_nchw",
        &channels_first(&unpacked, channels),
    );
    let packed = model
        .latents()
        .unwrap()
        .pack(d, &picture, rows, columns)
        .unwrap();
    assert_eq!(
        model.device.download(&packed).unwrap(),
        model.device.download(&tokens).unwrap()
    );
    let pixels = d
        .download(&ae.decode(d, &picture, height, width).unwrap())
        .unwrap();
    set.check(FILE, "decode.image_float", &channels_first(&pixels, 3));
    set.check_bytes(
        FILE,
        "decode.image_u8",
        &kinglet_model::autoencoder::to_bytes(&pixels),
    );

    let shape = set.shape(FILE, "encode.image");
    let (height, width) = (shape[2], shape[3]);
    let image = channels_last(&f32s(set.input(FILE, "encode.image")), 3);
    let moments = ae
        .moments(d, &d.upload(&image, 3).unwrap(), height, width)
        .unwrap();
    let values = model.device.download(&moments).unwrap();
    set.check(
        FILE,
        "encode.moments",
        &channels_first(&values, 2 * channels),
    );
    let noise = channels_last(&f32s(set.input(FILE, "encode.noise")), channels);
    let noise = d.upload(&noise, channels).unwrap();
    for (name, noise) in [("sampled", Some(&noise)), ("mean", None)] {
        let latents = ae.latents(d, &moments, noise).unwrap();
        let values = model.device.download(&latents).unwrap();
        set.check(
            FILE,
            &format!("encode.latent_{name}"),
            &channels_first(&values, channels),
        );
        if noise.is_none() {
            let (height, width) = (height / latent.downsample, width / latent.downsample);
            let back = ae.decode(d, &latents, height, width).unwrap();
            let back = model.device.download(&back).unwrap();
            set.check(FILE, "roundtrip.decode_of_mean", &channels_first(&back, 3));
        }
    }
}
