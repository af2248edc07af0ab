//! The vision encoder, texts and pictures to understand, decoding.

use kinglet_kernels::Device;
use kinglet_model::WriteOptions;
use kinglet_model::observe::Stage;

use crate::set::{Set, ids};
use crate::tools::*;

pub(crate) fn vision<D: Device>(set: &mut Set, model: &Shared<D>) {
    const FILE: &str = "goldens/vit.safetensors";
    let picture = und_picture(set);
    let (patches, rows, columns) = picture.patches(model.config.vision.patch).unwrap();
    set.check(FILE, "patches", &patches);
    let places =
        kinglet_model::vision::grid(rows, columns, model.config.vision.position_side).unwrap();
    set.check_ids(FILE, "position_ids", &places);
    let mut seen = Vec::new();
    let mut observer = |stage, x: &_| seen.push((stage, model.device.download(x).unwrap()));
    model
        .vision
        .see(&model.device, &picture, &mut Some(&mut observer))
        .unwrap();
    for (stage, values) in seen {
        let name = match stage {
            Stage::VisionInput => "patch_embed_plus_pos".to_owned(),
            Stage::VisionLayer(i) => format!("encoder_layer_out.{i}"),
            Stage::VisionOutput => "vit_features".to_owned(),
            Stage::Connector => "connector_out".to_owned(),
            Stage::ConnectorPlaced => "connector_out_plus_pos".to_owned(),
            _ => unreachable!("the vision encoder has no {stage:?}"),
        };
        set.check(FILE, &name, &values);
    }
}

pub(crate) fn understanding<D: Device>(set: &mut Set, model: &Shared<D>) {
    const FILE: &str = "goldens/understanding.safetensors";
    let meta = set.json("goldens/meta.json");
    let t = &model.tokenizer;
    set.check_ids(FILE, "image.text_ids", &[t.picture_start, t.picture_end]);

    let mut context = model.context();
    let picture = und_picture(set);
    let position = context.position();
    let seen = observe(&model.device, |o| {
        context.push_resized_image(&picture, &mut Some(o)).unwrap();
    });
    language_stages(set, FILE, "image.", seen);
    assert_sizes(&meta["und.after_image(kv_len,rope)"], &context);
    set.check_ids(
        FILE,
        "image.rope_position_ids",
        &vec![position; context.tokens()],
    );

    let prompt = t.block(&t.encode(meta["prompt_und"].as_str().unwrap()).unwrap());
    set.check_ids(FILE, "prompt.ids", &prompt);
    let start = context.position();
    let seen = observe(&model.device, |o| {
        let rows = context.push_ids(&prompt, &mut Some(o)).unwrap();
        let logits = model.language.logits(&model.device, &rows).unwrap();
        set.check(
            FILE,
            "prompt.logits",
            &model.device.download(&logits).unwrap(),
        );
    });
    language_stages(set, FILE, "prompt.", seen);
    let positions: Vec<u32> = (start..context.position()).collect();
    set.check_ids(FILE, "prompt.rope_position_ids", &positions);
    assert_sizes(&meta["und.after_text(kv_len,rope)"], &context);

    for (layer, runs) in context.caches().iter().enumerate() {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for run in runs {
            let (k, v) = model.device.cache_read(run).unwrap();
            keys.extend(model.device.download(&k).unwrap());
            values.extend(model.device.download(&v).unwrap());
        }
        set.check_if_there(FILE, &format!("kv_cache.key.{layer}"), &keys);
        set.check_if_there(FILE, &format!("kv_cache.value.{layer}"), &values);
    }

    // Our own decoder must take the set's path; the logits of each step are then compared.
    let expected = ids(set.peek(FILE, "decode.next_tokens"));
    let end = expected.iter().position(|id| *id == t.text_end);
    let written = context
        .fork()
        .write(&WriteOptions::greedy(expected.len() - 1), &mut go_on)
        .unwrap();
    let ours = t
        .decode(&expected[..end.unwrap_or(expected.len()).min(expected.len() - 1)])
        .unwrap();
    if set.strict() {
        assert_eq!(written.text, ours, "greedy decoding took another path");
    }

    let decoded = decode(model, &mut context, &expected);
    set.check(FILE, "decode.logits", &decoded.logits);
    set.check_choices(FILE, "decode.input_tokens", &decoded.fed);
    set.check_choices(FILE, "decode.next_tokens", &decoded.next);
    set.check_ids(FILE, "decode.rope_position_ids", &decoded.positions);
}

pub(crate) fn text_only<D: Device>(set: &mut Set, model: &Shared<D>) {
    const FILE: &str = "goldens/text_only.safetensors";
    let prompt = ids(set.peek(FILE, "prompt.ids"));
    let meta = set.json("goldens/meta.json");
    let t = &model.tokenizer;
    let block = t.block(&t.encode(meta["prompt_t2i"].as_str().unwrap()).unwrap());
    assert_eq!(block, prompt, "the prompt of text_only is prompt_t2i");
    set.check_ids(FILE, "prompt.ids", &block);
    let seen = observe(&model.device, |o| {
        let rows = model.context().push_ids(&block, &mut Some(o)).unwrap();
        let logits = model.language.logits(&model.device, &rows).unwrap();
        set.check(
            FILE,
            "prompt.logits",
            &model.device.download(&logits).unwrap(),
        );
    });
    language_stages(set, FILE, "prompt.", seen);
}
