//! Editing and thinking.

use std::ops::ControlFlow;

use kinglet_kernels::Device;
use kinglet_model::config::Renorm;
use kinglet_model::recipes::{Guides, THINK_TO_ANSWER, THINK_TO_DRAW};
use kinglet_model::{Context, Drawing, Picture};

use crate::inputs::PREPROCESS;
use crate::set::{Set, f32s, ids as ids_of};
use crate::tools::*;

/// A picture whose normalised values, `[3, height, width]`, are in the set.
pub(crate) fn picture_of(set: &mut Set, file: &str, name: &str) -> Picture {
    let shape = set.shape(file, name);
    let values = channels_last(&f32s(set.input(file, name)), 3);
    let byte = |v: &f32| ((v * 0.5 + 0.5) * 255.0).round() as u8;
    let rgb = values.iter().map(byte).collect();
    Picture::from_rgb(shape[2], shape[1], rgb).unwrap()
}

pub(crate) fn edit<D: Device>(set: &mut Set, model: &Shared<D>) {
    const FILE: &str = "goldens/edit.safetensors";
    let meta = set.json("goldens/meta.json");
    let (t, latent) = (&model.tokenizer, &model.config.latent);
    let for_latents = picture_of(set, FILE, "image_vae_tensor");
    let for_seeing = picture_of(set, FILE, "image_vit_tensor");
    let noise = channels_last(&f32s(set.input(FILE, "vae_noise")), latent.channels);

    let mut main = model.context();
    let block = |context: &Context<D>, before: usize| {
        vec![context.position() - 1; context.tokens() - before]
    };
    let seen = observe(&model.device, |o| {
        main.push_latents(&for_latents, &noise, &mut Some(o))
            .unwrap();
    });
    language_stages(set, FILE, "vae_block.", seen);
    set.check_ids(FILE, "vae_block.rope_position_ids", &block(&main, 0));
    let before = main.tokens();
    let seen = observe(&model.device, |o| {
        main.push_resized_image(&for_seeing, &mut Some(o)).unwrap();
    });
    language_stages(set, FILE, "vit_block.", seen);
    set.check_ids(FILE, "vit_block.rope_position_ids", &block(&main, before));
    assert_sizes(&meta["edit.after_image(kv_len,rope)"], &main);

    let unprompted = main.fork();
    assert_sizes(&meta["edit.cfg_text_ctx"], &unprompted);
    let prompt = meta["prompt_edit"].as_str().unwrap();
    let ids = t.block(&t.encode(prompt).unwrap());
    set.check_ids(FILE, "prompt.ids", &ids);
    let start = main.position();
    let seen = observe(&model.device, |o| {
        main.push_ids(&ids, &mut Some(o)).unwrap();
    });
    language_stages(set, FILE, "text_block.", seen);
    let positions: Vec<u32> = (start..main.position()).collect();
    set.check_ids(FILE, "text_block.rope_position_ids", &positions);
    assert_sizes(&meta["edit.ctx(kv_len,rope)"], &main);
    let mut pictureless = model.context();
    pictureless.push_text(prompt).unwrap();
    assert_sizes(&meta["edit.cfg_img_ctx"], &pictureless);

    // The same by the recipe, but for the noise.
    let original = set.peek_picture(PREPROCESS, "edit.image_u8");
    let (recipe, resized) = Guides::to_edit(model, &original, prompt, 0, false).unwrap();
    assert_eq!(resized, for_latents);
    assert_sizes(&meta["edit.ctx(kv_len,rope)"], &recipe.main);
    assert_sizes(&meta["edit.cfg_text_ctx"], &recipe.unprompted);
    assert_sizes(
        &meta["edit.cfg_img_ctx"],
        recipe.pictureless.as_ref().unwrap(),
    );

    let hw = ids_of(set.peek(FILE, "image_hw"));
    set.check_ids(FILE, "image_hw", &hw);
    let size = (hw[1] as usize, hw[0] as usize);
    assert_eq!(size, (for_latents.width(), for_latents.height()));
    let unit = latent.token_pixels();
    let grid = (size.1 / unit, size.0 / unit);
    let places = model.latents().unwrap().places(grid.0, grid.1).unwrap();
    set.check_ids(FILE, "latent_position_ids", &places);
    set.check_ids(
        FILE,
        "rope_position_ids",
        &vec![main.position(); places.len() + 2],
    );

    let guides = Guides {
        main,
        unprompted,
        pictureless: Some(pictureless),
    };
    let noise = f32s(set.input(FILE, "noise"));
    let x = model.device.upload(&noise, latent.token_values()).unwrap();
    let mut options = options(size, Renorm::Global);
    options.guidance.picture_scale = 2.0;
    options.guidance.interval = (0.0, 1.0);
    options.timesteps = 4;
    for name in set.names(FILE) {
        let parts: Vec<&str> = name.splitn(3, '.').collect();
        if let ["velocity", kind, t] = parts[..] {
            let t: f32 = t.trim_start_matches('t').parse().unwrap();
            let branch = |context: &Context<D>| context.velocity(&x, t, grid, &mut None).unwrap();
            let velocity = match kind {
                "nocfg" => branch(&guides.main),
                "cfg_text_branch" => branch(&guides.unprompted),
                "cfg_img_branch" => branch(guides.pictureless.as_ref().unwrap()),
                kind => {
                    let renorm = kind.strip_prefix("cfg4_img2_").expect("a known velocity");
                    options.guidance.renorm = Renorm::from_name(renorm).unwrap();
                    let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
                    drawing.velocity(t).unwrap()
                }
            };
            set.check(FILE, &name, &model.device.download(&velocity).unwrap());
        } else if let Some(renorm) = name.strip_suffix(".latent_final") {
            let renorm = renorm.strip_prefix("n4_").expect("a known sample");
            options.guidance.renorm = Renorm::from_name(renorm).unwrap();
            let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
            drawing.run(&mut |_| ControlFlow::Continue(())).unwrap();
            let last = model.device.download(drawing.latents()).unwrap();
            set.check_sample(FILE, &name, &last);
            let (rows, columns) = grid;
            let picture = model
                .latents()
                .unwrap()
                .unpack(&model.device, drawing.latents(), rows, columns)
                .unwrap();
            let (h, w) = (rows * latent.patch, columns * latent.patch);
            let pixels = model
                .autoencoder()
                .unwrap()
                .decode(&model.device, &picture, h, w)
                .unwrap();
            let pixels = channels_first(&model.device.download(&pixels).unwrap(), 3);
            let image = name.replace("latent_final", "image_float");
            if set.names(FILE).contains(&image) {
                set.check_sample(FILE, &image, &pixels);
            }
        }
    }
}

pub(crate) fn think<D: Device>(set: &mut Set, model: &Shared<D>) {
    const FILE: &str = "goldens/think.safetensors";
    let tokenizer = set.json("goldens/tokenizer.json");
    let texts: Vec<&str> = tokenizer["vectors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["text"].as_str().unwrap())
        .collect();
    for text in [THINK_TO_ANSWER, THINK_TO_DRAW] {
        assert!(texts.contains(&text), "{text:?} is not the reference's");
    }
    let meta = set.json("goldens/meta.json");
    let prompt = meta["prompt_t2i"].as_str().unwrap();
    let mut guides = Guides::to_draw(model, prompt, true).unwrap();
    guides
        .main
        .push_text(meta["think.thought_text"].as_str().unwrap())
        .unwrap();
    assert_sizes(&meta["think.ctx"], &guides.main);
    assert_sizes(&meta["think.cfg_text_ctx"], &guides.unprompted);
    let tokens = set.shape(FILE, "rope_position_ids")[0];
    set.check_ids(
        FILE,
        "rope_position_ids",
        &vec![guides.main.position(); tokens],
    );
    set.check_ids(
        FILE,
        "cfg_text.rope_position_ids",
        &vec![guides.unprompted.position(); tokens],
    );
    let mut options = options(drawing_size(set), Renorm::Global);
    options.timesteps = 4;
    let noise = f32s(set.input(FILE, "noise"));
    let mut drawing = Drawing::from_noise(&guides, &options, &noise).unwrap();
    drawing.run(&mut |_| ControlFlow::Continue(())).unwrap();
    set.check_sample(
        FILE,
        "n4.latent_final",
        &model.device.download(drawing.latents()).unwrap(),
    );
}
