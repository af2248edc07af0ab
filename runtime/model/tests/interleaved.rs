//! One context for several questions and drawings gives what separate contexts give.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use kinglet_kernels::{Device, Scalar};
use kinglet_model::recipes::Guides;
use kinglet_model::{
    Context, DrawOptions, Drawing, Model, ModelError, Picture, Sampling, Source, WriteOptions,
};

fn model() -> Arc<Model<Scalar>> {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoint");
    Model::load(&Source::open(&checkpoint).unwrap(), Scalar).unwrap()
}

fn picture(seed: usize) -> Picture {
    let rgb = (0..40 * 30 * 3).map(|i| (i * seed % 251) as u8).collect();
    Picture::from_rgb(40, 30, rgb).unwrap()
}

fn answer(mut context: Context<Scalar>) -> String {
    let options = WriteOptions::greedy(6);
    let written = context.write(&options, &mut |_| ControlFlow::Continue(()));
    written.unwrap().text
}

#[test]
fn several_questions_about_one_picture_equal_separate_runs() {
    let model = model();
    let mut seen = model.context();
    seen.push_image(&picture(7)).unwrap();
    for question in ["What is it?", "How many are there?", ""] {
        let mut shared = seen.fork();
        shared.push_text(question).unwrap();
        let mut alone = model.context();
        alone.push_image(&picture(7)).unwrap();
        alone.push_text(question).unwrap();
        assert_eq!(shared.tokens(), alone.tokens());
        assert_eq!(answer(shared), answer(alone));
    }
}

#[test]
fn pictures_and_texts_may_alternate_and_order_counts() {
    let model = model();
    let context = |order: [usize; 2]| {
        let mut context = model.context();
        for seed in order {
            context.push_image(&picture(seed)).unwrap();
            context.push_text("and").unwrap();
        }
        context
    };
    let logits = |mut context: Context<Scalar>| {
        let rows = context.push_ids(&[5], &mut None).unwrap();
        let logits = model.language.logits(&model.device, &rows).unwrap();
        Scalar.download(&logits).unwrap()
    };
    // A fork in the middle changes nothing of what follows.
    let mut forked = model.context();
    for seed in [3, 11] {
        forked.push_image(&picture(seed)).unwrap();
        let keep = forked.fork();
        forked.push_text("and").unwrap();
        assert!(keep.tokens() < forked.tokens());
    }
    assert_eq!(logits(forked), logits(context([3, 11])));
    assert_ne!(logits(context([3, 11])), logits(context([11, 3])));
}

#[test]
fn several_drawings_from_one_context_equal_separate_runs_even_after_a_cancelled_one() {
    let model = model();
    let mut options = DrawOptions::defaults(&model.config);
    options.size = (32, 48);
    options.timesteps = 4;
    let draw = |guides: &Guides<Scalar>, seed, predict| {
        let options = DrawOptions {
            seed,
            predict,
            ..options.clone()
        };
        let mut drawing = Drawing::new(guides, &options).unwrap();
        drawing.run(&mut |_| ControlFlow::Continue(())).unwrap();
        drawing.picture().unwrap()
    };
    let guides = || Guides::to_draw(&model, "A small red house.", false).unwrap();
    let shared = guides();
    let mut cancelled = Drawing::new(&shared, &options).unwrap();
    let mut steps = 0;
    let stopped = cancelled.run(&mut |step| {
        steps = step.done;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(ModelError::Cancelled)));
    assert_eq!(steps, 1, "cancelling takes effect within one step");
    for (seed, predict) in [(1, None), (2, Some(6)), (1, None)] {
        assert_eq!(draw(&shared, seed, predict), draw(&guides(), seed, predict));
    }
    assert_ne!(draw(&shared, 1, None), draw(&shared, 2, None));
}

#[test]
fn text_comes_piece_by_piece_and_stops_when_told() {
    let model = model();
    let mut context = model.context();
    context.push_text("A small red house").unwrap();
    let mut pieces = String::new();
    let options = WriteOptions::greedy(8);
    let written = context
        .fork()
        .write(&options, &mut |piece| {
            pieces.push_str(piece);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(written.text.starts_with(pieces.as_str()) || pieces.starts_with(&written.text));
    let stopped = context
        .fork()
        .write(&options, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ModelError::Cancelled)));
    // The context that was forked is as it was.
    assert_eq!(answer(context.fork()), answer(context));
}

#[test]
fn a_seed_fixes_what_is_sampled() {
    let model = model();
    let mut context = model.context();
    context.push_text("A small red house").unwrap();
    let write = |seed| {
        let options = WriteOptions {
            max_tokens: 12,
            sampling: Some(Sampling {
                temperature: 2.0,
                top_p: 0.95,
                seed,
            }),
        };
        let written = context
            .fork()
            .write(&options, &mut |_| ControlFlow::Continue(()));
        written.unwrap().text
    };
    assert_eq!(write(1), write(1));
    assert!((2..8).any(|seed| write(seed) != write(1)));
}

#[test]
fn a_full_context_is_refused_and_keeps_working() {
    let model = model();
    let mut context = model.context();
    let limit = model.config.language.context_length;
    let refused = context.push_ids(&vec![5; limit + 1], &mut None);
    assert!(matches!(refused, Err(ModelError::Request { .. })));
    assert_eq!((context.tokens(), context.position()), (0, 0));
    let refused = context.push_ids(&[u32::MAX], &mut None);
    assert!(matches!(refused, Err(ModelError::Kernel(_))));
    context.push_text("fine").unwrap();
}
