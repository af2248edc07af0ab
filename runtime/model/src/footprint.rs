//! What a request takes of a machine: the model is run on a device that counts.

use std::sync::Arc;

use kinglet_kernels::Plan;
use kinglet_kernels::cpu::CacheFormat;
use kinglet_kernels::footprint::{Footprint, Stage, Work};
use kinglet_kernels::plan::{Phase, Target};

use crate::draw::{DrawOptions, Drawing};
use crate::error::Result;
use crate::model::Model;
use crate::picture::Picture;
use crate::recipes::{Guides, to_answer};
use crate::source::Source;

/// A question about a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeeRequest {
    /// Width and height of a picture to compare with.
    pub before: Option<(usize, usize)>,
    /// Width and height of the picture in pixels.
    pub picture: (usize, usize),
    /// The question.
    pub ask: String,
    /// Tokens of the answer.
    pub answer: usize,
}

/// What is asked of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// To understand a picture.
    pub see: Option<SeeRequest>,
    /// To draw: the prompt, and how.
    pub draw: Option<(String, DrawOptions)>,
}

/// How this model's keys and values are kept on a processor: where weights are quantized, they need not be exact
/// either.
///
/// # Errors
/// [`crate::ModelError::MissingTensor`].
pub fn cache_format(source: &Source) -> Result<CacheFormat> {
    let format = source.stored("blk.0.attn_q.weight")?.format;
    Ok(if format.block_values() > 1 {
        CacheFormat::F16
    } else {
        CacheFormat::F32
    })
}

/// What a request takes of a device. No weight is read, nothing is computed.
///
/// # Errors
/// What [`Model::load`] refuses, and what the request itself would be refused for.
pub fn footprint(
    source: &Source,
    target: impl Into<Target>,
    request: &Request,
) -> Result<Footprint> {
    let plan = Plan::new(target, cache_format(source)?);
    let model = Model::load(source, plan)?;
    let plan = &model.device;
    let mut stages = Vec::new();
    plan.take();
    if let Some(see) = &request.see {
        plan.phase(Phase::Seeing);
        seeing(&model, see, &mut stages)?;
    }
    if let Some((prompt, options)) = &request.draw {
        plan.phase(Phase::Drawing);
        drawing(&model, prompt, options, &mut stages)?;
    }
    let (weights, mapped) = plan.weights();
    Ok(Footprint {
        weights,
        mapped,
        stages,
    })
}

fn stage(name: &'static str, times: usize, work: Work) -> Stage {
    let times = times as u64;
    Stage { name, times, work }
}

fn seeing(model: &Arc<Model<Plan>>, see: &SeeRequest, stages: &mut Vec<Stage>) -> Result<()> {
    let plan = &model.device;
    let black = |(width, height)| Picture::from_rgb(width, height, vec![0; width * height * 3]);
    let (picture, before) = (black(see.picture)?, see.before.map(black).transpose()?);
    let mut context = to_answer(model, &[], before.as_ref(), &picture, None, &see.ask, false)?;
    stages.push(stage("look", 1, plan.take()));
    // The last token looks back on all others: it is the most that one takes.
    let mut all = Work::default();
    for _ in 0..see.answer {
        let rows = context.push_ids(&[model.tokenizer.text_start], &mut None)?;
        model.language.logits(plan, &rows)?;
        let one = plan.take();
        all = Work {
            memory: all.memory.max(one.memory),
            ..one
        };
    }
    if see.answer > 0 {
        stages.push(stage("answer, a token", see.answer, all));
    }
    Ok(())
}

fn drawing(
    model: &Arc<Model<Plan>>,
    prompt: &str,
    options: &DrawOptions,
    stages: &mut Vec<Stage>,
) -> Result<()> {
    let plan = &model.device;
    let guides = Guides::to_draw(model, prompt, false)?;
    let mut drawing = Drawing::new(&guides, options)?;
    stages.push(stage("prompt", 1, plan.take()));
    // Steps differ in whether they are guided, and in nothing else.
    let (guided, plain): (Vec<usize>, Vec<usize>) =
        (0..options.steps()).partition(|i| drawing.guided(drawing.times()[*i]));
    for (name, steps) in [("step, guided", guided), ("step", plain)] {
        if let Some(first) = steps.first() {
            drawing.step(*first)?;
            stages.push(stage(name, steps.len(), plan.take()));
        }
    }
    drawing.picture()?;
    stages.push(stage("picture", 1, plan.take()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kinglet_kernels::InstructionSet;

    use super::*;

    fn tiny() -> Source {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/kinglet-tiny.gguf");
        Source::open(&file).unwrap()
    }

    fn all(source: &Source, size: (usize, usize), timesteps: usize) -> Footprint {
        let mut options = DrawOptions::defaults(&source.config);
        options.size = size;
        options.timesteps = timesteps;
        options.guidance.text_scale = 4.0;
        let see = SeeRequest {
            before: None,
            picture: (112, 112),
            ask: "what is in the picture?".to_owned(),
            answer: 5,
        };
        let request = Request {
            see: Some(see),
            draw: Some(("a cat".to_owned(), options)),
        };
        footprint(source, InstructionSet::Avx2, &request).unwrap()
    }

    #[test]
    fn every_weight_is_counted_once_and_steps_cost_time_alone() {
        let source = tiny();
        let few = all(&source, (112, 112), 3);
        let many = all(&source, (112, 112), 25);
        assert_eq!(few.weights, many.weights);
        assert_eq!(few.activations(), many.activations());
        let weights = few.weights;
        assert!(few.mapped.all() > 0, "rows of the table of words");
        // The understanding half serves both: a drawing's prompt and the markers.
        assert!(weights.always > 0 && weights.seeing > 0 && weights.drawing > 0);
        // What turns pictures into latents is for edits alone.
        assert!(weights.never < weights.all() / 5, "{weights:?}");
        let names: Vec<(&str, u64)> = many.stages.iter().map(|s| (s.name, s.times)).collect();
        let expected = [
            ("look", 1),
            ("answer, a token", 5),
            ("prompt", 1),
            ("step, guided", 24),
            ("picture", 1),
        ];
        assert_eq!(names, expected);
        let larger = all(&source, (224, 224), 3);
        assert!(larger.activations() > few.activations());
        let work = |f: &Footprint| f.stages[3].work.integer;
        let times = work(&larger) as f64 / work(&few) as f64;
        assert!(
            (3.0..4.1).contains(&times),
            "four times the tokens: {times}"
        );
    }

    #[test]
    fn what_cannot_be_drawn_has_no_footprint() {
        let source = tiny();
        let mut options = DrawOptions::defaults(&source.config);
        options.size = (113, 112);
        let request = Request {
            see: None,
            draw: Some((String::new(), options)),
        };
        assert!(footprint(&source, InstructionSet::Scalar, &request).is_err());
    }
}
