//! Parts of a model that something else computes.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use kinglet_kernels::{Device, FixedGraph, GraphError, Port, Scalar};
use kinglet_model::recipes::to_answer;
use kinglet_model::{Model, Part, Picture, Source, WriteOptions};

/// What a graph does from a run on.
#[derive(Clone, Copy)]
enum Fault {
    None,
    Fails(usize),
    NoNumber(usize),
    Short(usize),
    /// Adds this to every value.
    Off(f32),
}

/// The vision encoder of another copy of the model, behind the door of an accelerator.
struct Twin {
    model: Arc<Model<Scalar>>,
    ports: (Port, Port),
    size: (usize, usize),
    fault: Fault,
    runs: usize,
}

impl Twin {
    fn new(size: (usize, usize), fault: Fault) -> Box<Self> {
        let model = model();
        let (height, width) = size;
        let patch = model.config.vision.patch;
        let tokens = height / patch * (width / patch);
        let port = |name: &str, shape: Vec<usize>| Port {
            name: name.to_owned(),
            shape,
        };
        let ports = (
            port("picture", vec![1, 3, height, width]),
            port("tokens", vec![1, tokens, model.config.language.hidden]),
        );
        Box::new(Twin {
            model,
            ports,
            size,
            fault,
            runs: 0,
        })
    }
}

impl FixedGraph for Twin {
    fn runs_on(&self) -> &str {
        "a twin"
    }

    fn input(&self) -> &Port {
        &self.ports.0
    }

    fn output(&self) -> &Port {
        &self.ports.1
    }

    fn run(&mut self, input: &[f32]) -> Result<Vec<f32>, GraphError> {
        let (height, width) = self.size;
        let pixels = height * width;
        let byte = |i: usize| ((input[i % 3 * pixels + i / 3] * 0.5 + 0.5) * 255.0).round() as u8;
        let picture = Picture::from_rgb(width, height, (0..pixels * 3).map(byte).collect());
        let d = &self.model.device;
        let tokens = self
            .model
            .vision
            .see(d, &picture.unwrap(), &mut None)
            .unwrap();
        let mut values = d.download(&tokens).unwrap();
        let run = self.runs;
        self.runs += 1;
        match self.fault {
            Fault::Fails(from) if run >= from => return Err(GraphError("it is hot".to_owned())),
            Fault::NoNumber(from) if run >= from => values[3] = f32::NAN,
            Fault::Short(from) if run >= from => drop(values.pop()),
            Fault::Off(by) => values.iter_mut().for_each(|v| *v += by),
            _ => {}
        }
        Ok(values)
    }
}

fn model() -> Arc<Model<Scalar>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoint");
    Model::load(&Source::open(&golden).unwrap(), Scalar).unwrap()
}

fn picture(width: usize, height: usize) -> Picture {
    let byte = |i: usize| ((i as f32 * 0.05).sin() * 100.0 + 128.0) as u8;
    Picture::from_rgb(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
}

/// The size that the model's own rule leaves as it is.
fn own_size(model: &Model<Scalar>) -> (usize, usize) {
    let (width, height) = picture(64, 48).size_by(&model.config.vision.rule);
    let again = picture(width, height).size_by(&model.config.vision.rule);
    assert_eq!((width, height), again);
    (height, width)
}

fn answer(model: &Arc<Model<Scalar>>, picture: &Picture) -> String {
    let mut context = to_answer(model, &[], None, picture, None, "what is it?", false).unwrap();
    let written = context.write(&WriteOptions::greedy(12), &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    written.unwrap().text
}

#[test]
fn a_part_is_handed_over_and_taken_back_when_it_fails() {
    let plain = model();
    let size = own_size(&plain);
    let shown = picture(size.1, size.0);
    let expected = answer(&plain, &shown);
    for (fault, runs, reason) in [
        (Fault::None, 2, None),
        // The first run is the trial.
        (Fault::Fails(2), 1, Some("it is hot")),
        (Fault::NoNumber(2), 1, Some("no numbers")),
        (Fault::Short(1), 0, Some("values, not")),
    ] {
        let model = model();
        assert!(model.handed_over(Part::Vision).is_none());
        model
            .hand_over(Part::Vision, Twin::new(size, fault))
            .unwrap();
        for _ in 0..2 {
            assert_eq!(answer(&model, &shown), expected);
        }
        let used = model.handed_over(Part::Vision).unwrap();
        assert_eq!((used.runs, used.other_sizes), (runs, 0));
        let news = model.graph_news();
        match reason {
            None => assert!(used.failed.is_none() && news.is_empty()),
            Some(reason) => {
                assert!(used.failed.unwrap().contains(reason));
                assert!(
                    news[0].contains("vision failed") && news[0].contains(reason),
                    "{news:?}"
                );
            }
        }
        assert!(model.graph_news().is_empty(), "told twice");
    }
}

#[test]
fn pictures_of_other_sizes_stay_here() {
    let model = model();
    let size = own_size(&model);
    model
        .hand_over(Part::Vision, Twin::new(size, Fault::None))
        .unwrap();
    let other = picture(size.1 * 2, size.0);
    assert_ne!(other.size_by(&model.config.vision.rule), (size.1, size.0));
    assert_eq!(answer(&model, &other), answer(&self::model(), &other));
    let used = model.handed_over(Part::Vision).unwrap();
    assert_eq!((used.runs, used.other_sizes), (0, 1));
    let news = model.graph_news();
    assert!(
        news[0].contains(&format!("{} x {}", size.1, size.0)),
        "{news:?}"
    );
}

#[test]
fn another_models_graph_is_refused() {
    let model = model();
    let size = own_size(&model);
    let refused = |graph: Box<Twin>, part: Part| {
        let e = model.hand_over(part, graph).unwrap_err().to_string();
        assert!(model.handed_over(part).is_none());
        e
    };
    let said = refused(Twin::new(size, Fault::Off(3.0)), Part::Vision);
    assert!(said.contains("not those of this model"), "{said}");
    let said = refused(Twin::new(size, Fault::Fails(0)), Part::Vision);
    assert!(said.contains("it is hot"), "{said}");
    let said = refused(Twin::new(size, Fault::None), Part::Decoder);
    assert!(
        said.contains("vae-decoder") && said.contains("channels"),
        "{said}"
    );
    for (input, output, words) in [
        (vec![1, 3, size.0], None, "not [1, 3, height, width]"),
        (
            vec![1, 4, size.0, size.1],
            None,
            "not [1, 3, height, width]",
        ),
        (vec![1, 3, size.0 + 1, size.1], None, "multiples of"),
        (vec![1, 3, 0, size.1], None, "multiples of"),
        (vec![1, 3, usize::MAX / 14 * 14, 14], None, "multiples of"),
        (
            vec![1, 3, size.0, size.1],
            Some(vec![1, 1, 1]),
            "it gives [1, 1, 1]",
        ),
    ] {
        let mut graph = Twin::new(size, Fault::None);
        graph.ports.0.shape = input;
        if let Some(output) = output {
            graph.ports.1.shape = output;
        }
        let said = refused(graph, Part::Vision);
        assert!(said.contains(words), "{said}");
    }
}
