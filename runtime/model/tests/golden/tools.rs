//! What several parts of the test need.

use std::ops::ControlFlow;

use kinglet_kernels::Device;
use kinglet_model::config::Renorm;
use kinglet_model::observe::Stage;
use kinglet_model::recipes::Guides;
use kinglet_model::{Context, DrawOptions, Guidance, Model, Picture, Sampler};

use crate::drawing::VELOCITY;
use crate::inputs::PREPROCESS;
use crate::set::{Set, ids};

pub(crate) type Shared<D> = std::sync::Arc<Model<D>>;

pub(crate) fn channels_first(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    let at = |i: usize| values[i % pixels * channels + i / pixels];
    (0..values.len()).map(at).collect()
}

pub(crate) fn channels_last(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    let at = |i: usize| values[i % channels * pixels + i / channels];
    (0..values.len()).map(at).collect()
}

pub(crate) fn und_picture(set: &Set) -> Picture {
    set.peek_picture(PREPROCESS, "und.vit_resized_from_vae_resized_u8")
}

/// Checks what an observer saw of the language half under `prefix`.
pub(crate) fn language_stages(
    set: &mut Set,
    file: &str,
    prefix: &str,
    seen: Vec<(Stage, Vec<f32>)>,
) {
    for (stage, values) in seen {
        let name = match stage {
            Stage::LanguageInput => format!("{prefix}llm_input"),
            Stage::LanguageLayer(i) => format!("{prefix}layer_out.{i}"),
            Stage::LanguageOutput => format!("{prefix}llm_output_normed"),
            Stage::Time => format!("{prefix}timestep_embedding"),
            _ => continue,
        };
        set.check_if_there(file, &name, &values);
    }
}

pub(crate) fn observe<D: Device>(
    d: &D,
    run: impl FnOnce(&mut dyn FnMut(Stage, &D::Buffer)),
) -> Vec<(Stage, Vec<f32>)> {
    let mut seen = Vec::new();
    run(&mut |stage, x| seen.push((stage, d.download(x).unwrap())));
    seen
}

pub(crate) fn assert_sizes<D: Device>(expected: &serde_json::Value, context: &Context<D>) {
    let [tokens, position]: [usize; 2] = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(
        (context.tokens(), context.position() as usize),
        (tokens, position)
    );
}

/// The prompt's context and the empty one.
pub(crate) fn drawing_guides<D: Device>(set: &mut Set, model: &Shared<D>) -> Guides<D> {
    let meta = set.json("goldens/meta.json");
    let prompt = meta["prompt_t2i"].as_str().unwrap();
    let guides = Guides::to_draw(model, prompt, false).unwrap();
    // A skipped layer keeps no keys, but its tokens count.
    assert_sizes(&meta["t2i.ctx(kv_len,rope)"], &guides.main);
    assert_sizes(&meta["t2i.cfg_text_ctx(kv_len,rope)"], &guides.unprompted);
    guides
}

pub(crate) fn go_on(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn options(size: (usize, usize), renorm: Renorm) -> DrawOptions {
    DrawOptions {
        size,
        timesteps: 8,
        shift: 3.0,
        guidance: Guidance {
            text_scale: 4.0,
            picture_scale: 1.0,
            interval: (0.4, 1.0),
            renorm,
            renorm_min: 0.0,
            every: 1,
        },
        sampler: Sampler::Euler,
        seed: 0,
        predict: None,
    }
}

/// Width and height of the set's drawings.
pub(crate) fn drawing_size(set: &Set) -> (usize, usize) {
    let hw = ids(set.peek(VELOCITY, "image_hw"));
    (hw[1] as usize, hw[0] as usize)
}

/// What greedy decoding gave, step by step.
#[derive(Default)]
pub(crate) struct Decoded {
    pub(crate) fed: Vec<u32>,
    pub(crate) next: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) logits: Vec<f32>,
}

/// Decodes as many tokens as the set did. Each step gets the set's token, so that its logits can be
/// compared even where ours would have been another.
pub(crate) fn decode<D: Device>(
    model: &Shared<D>,
    context: &mut Context<D>,
    theirs: &[u32],
) -> Decoded {
    let mut out = Decoded::default();
    let start = model.tokenizer.text_start;
    let mut token = start;
    for given in std::iter::once(&start).chain(theirs).take(theirs.len()) {
        out.fed.push(token);
        out.positions.push(context.position());
        let rows = context.push_ids(&[*given], &mut None).unwrap();
        let step = model.language.logits(&model.device, &rows).unwrap();
        let step = model.device.download(&step).unwrap();
        let best = |a: usize, b: usize| if step[b] > step[a] { b } else { a };
        token = (0..step.len()).reduce(best).unwrap() as u32;
        out.next.push(token);
        out.logits.extend(step);
    }
    out
}
