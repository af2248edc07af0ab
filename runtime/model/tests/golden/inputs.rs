//! Texts to ids, picture rules, pictures to tensors.

use kinglet_kernels::Device;
use kinglet_model::picture::size_by_rule;
use kinglet_model::{Picture, Source};

use crate::set::Set;
use crate::tools::*;

pub(crate) fn tokenizer<D: Device>(set: &mut Set, model: &Shared<D>) {
    let json = set.json("goldens/tokenizer.json");
    let special = &json["new_token_ids"];
    let t = &model.tokenizer;
    assert_eq!(special["bos_token_id"], t.text_start);
    assert_eq!(special["eos_token_id"], t.text_end);
    assert_eq!(special["start_of_image"], t.picture_start);
    assert_eq!(special["end_of_image"], t.picture_end);
    for vector in json["vectors"].as_array().unwrap() {
        let text = vector["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(vector["ids"].clone()).unwrap();
        let packed: Vec<u32> = serde_json::from_value(vector["packed_prompt_ids"].clone()).unwrap();
        assert_eq!(t.encode(text).unwrap(), expected, "ids of {text:?}");
        assert_eq!(t.block(&expected), packed, "block of {text:?}");
        assert_eq!(
            t.decode(&expected).unwrap(),
            vector["decoded"].as_str().unwrap()
        );
    }
}

pub(crate) fn sizes(set: &mut Set, source: &Source) {
    let json = set.json("goldens/resize_sizes.json");
    let config = &source.config;
    let release = |max, min, stride| kinglet_model::config::PictureRule {
        max,
        min,
        stride,
        max_pixels: config.latent.rule.max_pixels,
    };
    let mut tables = 0;
    for (name, rows) in json.as_object().unwrap() {
        let rule = match name.as_str() {
            "columns" => continue,
            "this_checkpoint_vae_transform" => config.latent.rule,
            "this_checkpoint_vit_transform" => config.vision.rule,
            name => {
                // real_release_vae_transform(1024,512,16)
                let inner = name.split(['(', ')']).nth(1).unwrap();
                let numbers: Vec<usize> = inner.split(',').map(|n| n.parse().unwrap()).collect();
                release(numbers[0], numbers[1], numbers[2])
            }
        };
        for row in rows.as_array().unwrap() {
            let row: [usize; 4] = serde_json::from_value(row.clone()).unwrap();
            assert_eq!(
                size_by_rule(row[0], row[1], &rule),
                (row[2], row[3]),
                "{name}: {row:?}"
            );
        }
        tables += 1;
    }
    assert!(tables >= 2);
}

pub(crate) const PREPROCESS: &str = "goldens/preprocess.safetensors";

pub(crate) fn preprocess(set: &mut Set, source: &Source) {
    let config = &source.config;
    for name in ["und", "edit", "big", "small"] {
        let original = set.picture(PREPROCESS, &format!("{name}.image_u8"));
        let by_vae = original.resized(&config.latent.rule).unwrap();
        set.check_picture(PREPROCESS, &format!("{name}.after_vae_resize_u8"), &by_vae);
        if name == "big" || name == "small" {
            let by_vit = original.resized(&config.vision.rule).unwrap();
            set.check_picture(PREPROCESS, &format!("{name}.after_vit_resize_u8"), &by_vit);
            continue;
        }
        let twice = by_vae.resized(&config.vision.rule).unwrap();
        let direct = original.resized(&config.vision.rule).unwrap();
        let name = |part: &str| format!("{name}.{part}");
        set.check_picture(PREPROCESS, &name("vit_resized_from_vae_resized_u8"), &twice);
        set.check(PREPROCESS, &name("vae_tensor"), &planes(&by_vae));
        set.check(PREPROCESS, &name("vit_tensor"), &planes(&twice));
        set.check(PREPROCESS, &name("vit_tensor_direct"), &planes(&direct));
        let (patches, _, _) = twice.patches(config.vision.patch).unwrap();
        set.check(PREPROCESS, &name("vit_patches"), &patches);
    }
}

/// `[3, height, width]`, as the set stores pictures.
pub(crate) fn planes(picture: &Picture) -> Vec<f32> {
    channels_first(&picture.normalised(), 3)
}
