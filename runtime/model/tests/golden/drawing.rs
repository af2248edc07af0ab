//! Velocities, guidance and whole samples.

use kinglet_kernels::Device;
use kinglet_model::config::Renorm;
use kinglet_model::{DrawOptions, Drawing};

use crate::set::{Set, f32s};
use crate::tools::*;

pub(crate) const VELOCITY: &str = "goldens/t2i_velocity.safetensors";

pub(crate) fn velocities<D: Device>(set: &mut Set, model: &Shared<D>) {
    let guides = drawing_guides(set, model);
    let (main, empty) = (&guides.main, &guides.unprompted);
    let size = drawing_size(set);
    set.check_ids(VELOCITY, "image_hw", &[size.1 as u32, size.0 as u32]);
    let pixels = model.config.latent.token_pixels();
    let grid = (size.1 / pixels, size.0 / pixels);
    let places = model.latents().unwrap().places(grid.0, grid.1).unwrap();
    let tokens = places.len() as u32 + 2;
    set.check_ids(VELOCITY, "latent_position_ids", &places);
    set.check_ids(
        VELOCITY,
        "rope_position_ids",
        &vec![main.position(); tokens as usize],
    );
    set.check_ids(
        VELOCITY,
        "cfg_text.rope_position_ids",
        &vec![empty.position(); tokens as usize],
    );
    set.check_ids(VELOCITY, "packed_text_indexes", &[0, tokens - 1]);
    set.check_ids(
        VELOCITY,
        "packed_vae_token_indexes",
        &(1..tokens - 1).collect::<Vec<_>>(),
    );
    let t = &model.tokenizer;
    let meta = set.json("goldens/meta.json");
    let prompt = t.block(&t.encode(meta["prompt_t2i"].as_str().unwrap()).unwrap());
    set.check_ids(VELOCITY, "prompt.ids", &prompt);

    let noise = f32s(set.input(VELOCITY, "noise"));
    let x = model
        .device
        .upload(&noise, model.config.latent.token_values())
        .unwrap();
    for name in set.names(VELOCITY) {
        let mut parts = name.splitn(3, '.');
        let (Some("velocity"), Some(kind), Some(t)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let t: f32 = t.trim_start_matches('t').parse().unwrap();
        let guided = |renorm, renorm_min| {
            let mut options = options(size, renorm);
            options.guidance.renorm_min = renorm_min;
            options.guidance.interval = (0.0, 1.0);
            let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
            drawing.velocity(t).unwrap()
        };
        let velocity = match kind {
            "nocfg" => main.velocity(&x, t, grid, &mut None).unwrap(),
            "uncond" => empty.velocity(&x, t, grid, &mut None).unwrap(),
            "cfg4_global" => guided(Renorm::Global, 0.0),
            "cfg4_global_renormmin1" => guided(Renorm::Global, 1.0),
            "cfg4_channel" => guided(Renorm::Channel, 0.0),
            "cfg4_text_channel" => guided(Renorm::TextChannel, 0.0),
            _ => continue,
        };
        set.check(VELOCITY, &name, &model.device.download(&velocity).unwrap());
    }

    for name in set.names(VELOCITY) {
        let Some(rest) = name.strip_prefix("pass.t") else {
            continue;
        };
        let Some(time) = rest.strip_suffix(".timestep_embedding") else {
            continue;
        };
        let seen = observe(&model.device, |o| {
            main.velocity(&x, time.parse().unwrap(), grid, &mut Some(o))
                .unwrap();
        });
        language_stages(set, VELOCITY, &format!("pass.t{time}."), seen);
    }
}

/// Runs a whole drawing and checks what the set holds of it.
pub(crate) fn sample<D: Device>(
    set: &mut Set,
    model: &Shared<D>,
    file: &str,
    prefix: &str,
    change: impl FnOnce(&mut DrawOptions),
) {
    let guides = drawing_guides(set, model);
    let mut options = options(drawing_size(set), Renorm::Global);
    change(&mut options);
    let noise = f32s(set.input(file, "noise"));
    let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
    let times = drawing.times().to_vec();
    let steps = options.steps();
    let passes: Vec<u32> = times[..steps]
        .iter()
        .map(|t| 1 + u32::from(drawing.guided(*t)))
        .collect();
    set.check_if_there(file, &format!("{prefix}.timesteps"), &times[..steps]);
    set.check_ids_if_there(file, &format!("{prefix}.passes_per_step"), &passes);
    for i in 0..steps {
        let x = model.device.download(drawing.latents()).unwrap();
        set.check_if_there(file, &format!("{prefix}.x_t.{i}"), &x);
        let v = drawing.step(i).unwrap();
        set.check_if_there(
            file,
            &format!("{prefix}.v.{i}"),
            &model.device.download(&v).unwrap(),
        );
    }
    let last = model.device.download(drawing.latents()).unwrap();
    set.check_sample(file, &format!("{prefix}.latent_final"), &last);
}

pub(crate) fn samples<D: Device>(set: &mut Set, model: &Shared<D>) {
    const FILE: &str = "goldens/t2i_sample.safetensors";
    for name in set.names(FILE) {
        let Some(prefix) = name.strip_suffix(".latent_final") else {
            continue;
        };
        // n8, n8_interval0to1, n8_shift1_nocfg
        let mut parts = prefix.split('_');
        let timesteps = parts
            .next()
            .unwrap()
            .trim_start_matches('n')
            .parse()
            .unwrap();
        sample(set, model, FILE, prefix, |o| {
            o.timesteps = timesteps;
            for part in parts {
                match part {
                    "interval0to1" => o.guidance.interval = (0.0, 1.0),
                    "shift1" => o.shift = 1.0,
                    "nocfg" => o.guidance.text_scale = 1.0,
                    part => panic!("the sample {prefix} has the unknown setting {part}"),
                }
            }
        });
    }
}

pub(crate) fn taylorseer<D: Device>(set: &mut Set, model: &Shared<D>) {
    const FILE: &str = "goldens/taylorseer.safetensors";
    for name in set.names(FILE) {
        let Some(prefix) = name.strip_suffix(".latent_final") else {
            continue;
        };
        // n16_plain, n16_taylorseer
        let (timesteps, kind) = prefix.split_once('_').unwrap();
        let timesteps = timesteps.trim_start_matches('n').parse().unwrap();
        sample(set, model, FILE, prefix, |o| {
            o.timesteps = timesteps;
            o.guidance.interval = (0.0, 1.0);
            o.predict = (kind == "taylorseer").then_some(6);
        });
    }
}
