//! A graph, read and run. The file is hostile until it has been tried: what it may take is bounded, a panic in the
//! library costs the watch, and a first run shows whether its outputs are what they should be.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tract_onnx::prelude::{
    Datum, DatumExt, Framework, InferenceModelExt, RunnableModel, Tensor, TypedFact, TypedModel,
    TypedOp, tvec,
};
use tract_onnx::tract_hir::infer::Factoid;

use super::bounds::{check_file, check_graph, shape, sides};
use super::input::Input;
use super::output::{Found, Output, Reading};
use crate::area::Area;
use crate::config::{LONGEST_INPUT, Layout, OnnxConfig};
use crate::frame::Picture;

/// The largest file of a network, in bytes.
pub const LARGEST_NETWORK: u64 = 128 << 20;
/// The most outputs, and the most values of each that are read.
const MOST_OUTPUTS: usize = 16;
const MOST_OUTPUT: usize = 16 << 20;
/// How long a network may take to be read and tried.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the first run may take: whoever changes or ends the watch waits for a run.
const LONGEST_RUN: Duration = Duration::from_secs(10);

type Plan = RunnableModel<TypedFact, Box<dyn TypedOp>, TypedModel>;

/// A network that is ready to run.
pub struct Network {
    name: String,
    plan: Plan,
    input: Input,
    reading: Reading,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Reads an ONNX file, and runs it once on a grey picture. `name` is what messages call it.
    ///
    /// # Errors
    /// The reason as the rest of a sentence.
    pub fn load(
        name: &str,
        bytes: Vec<u8>,
        config: &OnnxConfig,
        classes: Vec<String>,
    ) -> Result<Arc<Self>, String> {
        let (sender, done) = mpsc::sync_channel(1);
        let (name, config) = (name.to_owned(), config.clone());
        // What a graph makes the library do has no bound of its own: nobody waits for it for ever.
        std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || {
                let loaded = caught(|| Network::read(&name, &bytes, &config, classes));
                let _ = sender.send(loaded);
            })
            .map_err(|e| format!("cannot be tried: {e}"))?;
        done.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(format!("takes more than {seconds} s to be read"))
        })
    }

    fn read(
        name: &str,
        mut bytes: &[u8],
        config: &OnnxConfig,
        classes: Vec<String>,
    ) -> Result<Arc<Self>, String> {
        let onnx = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_output_types(true);
        let refused = |e: tract_onnx::prelude::TractError| {
            format!("cannot be used: {}", short(&format!("{e:#}")))
        };
        let reader: &mut dyn Read = &mut bytes;
        let proto = onnx.proto_model_for_read(reader);
        let proto = proto.map_err(|_| "is no ONNX file".to_owned())?;
        check_file(&proto)?;
        let mut model = onnx.model_for_proto_model(&proto).map_err(refused)?;
        drop(proto);
        if model.inputs.len() != 1 {
            let count = model.inputs.len();
            return Err(format!("has {count} inputs; one, a picture, is expected"));
        }
        let fact = model.input_fact(0).map_err(refused)?;
        if let Some(kind) = fact.datum_type.concretize()
            && kind != f32::datum_type()
        {
            return Err(format!("takes {kind:?}; F32 is expected"));
        }
        let dims = sides(fact);
        let (width, height) = size(&dims, fact.shape.is_open(), config)?;
        let input = Input::new(config, width, height);
        let fact = f32::fact(input.shape());
        model.set_input_fact(0, fact.into()).map_err(refused)?;
        let outputs = model.outputs.len();
        if !(1..=MOST_OUTPUTS).contains(&outputs) {
            return Err(format!(
                "has {outputs} outputs; 1 to {MOST_OUTPUTS} are accepted"
            ));
        }
        for i in 0..outputs {
            model
                .set_output_fact(i, Default::default())
                .map_err(refused)?;
        }
        check_graph(&model)?;
        let model = model.into_optimized().map_err(refused)?;
        let network = Network {
            name: name.to_owned(),
            plan: model.into_runnable().map_err(refused)?,
            input,
            reading: Reading::new(config, classes),
        };
        let grey = Picture {
            width,
            height,
            rgb: vec![128; width as usize * height as usize * 3].into(),
        };
        let started = Instant::now();
        network
            .run(&grey, &[])
            .map_err(|e| format!("does not fit: {e}"))?;
        let took = started.elapsed();
        if took > LONGEST_RUN {
            let (took, most) = (took.as_secs(), LONGEST_RUN.as_secs());
            return Err(format!(
                "takes {took} s for a picture; {most} s are accepted"
            ));
        }
        Ok(Arc::new(network))
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What counts most in a picture, if anything does.
    ///
    /// # Errors
    /// The reason in words, if the network fails on this picture.
    pub fn find(&self, picture: &Picture) -> Result<Option<Found>, String> {
        self.find_within(picture, &[])
    }

    /// The same for boxes whose centre is within one of these zones, if there are any.
    pub(crate) fn find_within(
        &self,
        picture: &Picture,
        zones: &[Area],
    ) -> Result<Option<Found>, String> {
        caught(|| self.run(picture, zones))
    }

    fn run(&self, picture: &Picture, zones: &[Area]) -> Result<Option<Found>, String> {
        let (values, place) = self.input.values(picture);
        let input = Tensor::from_shape(&self.input.shape(), &values);
        let outputs = input.and_then(|input| self.plan.run(tvec!(input.into())));
        let outputs = outputs.map_err(|e| short(&format!("{e:#}")))?;
        let floats = |tensor: &Tensor| -> Result<Output, String> {
            if tensor.len() > MOST_OUTPUT {
                let shape = tensor.shape();
                return Err(format!("an output is {shape:?}; it is too large"));
            }
            let floats = tensor.cast_to::<f32>();
            let values = floats.and_then(|t| Ok(t.as_slice::<f32>()?.to_vec()));
            let values = values.map_err(|e| short(&e.to_string()))?;
            Ok((tensor.shape().to_vec(), values))
        };
        let outputs: Result<Vec<Output>, String> = outputs.iter().map(|t| floats(t)).collect();
        let size = (self.input.width, self.input.height);
        self.reading.best(&outputs?, size, place, zones)
    }
}

/// The width and height of a graph's picture, from its shape or the configuration.
fn size(dims: &[Option<i64>], open: bool, config: &OnnxConfig) -> Result<(u32, u32), String> {
    let order = match config.layout {
        Layout::Nchw => [1, 2, 3],
        Layout::Nhwc => [3, 1, 2],
    };
    let axes = match (dims.len(), open) {
        (4, _) => order.map(|i| dims[i]),
        (0, true) => [None; 3],
        _ => {
            let shape = shape(dims);
            return Err(format!(
                "takes {shape}; a picture of 4 dimensions is expected"
            ));
        }
    };
    let [channels, height, width] = axes;
    if channels.is_some_and(|c| c != 3) {
        let (shape, layout) = (shape(dims), format!("{:?}", config.layout).to_lowercase());
        return Err(format!(
            "takes {shape}; 3 channels are expected in layout {layout}"
        ));
    }
    if let Some([width, height]) = config.size {
        return Ok((width, height));
    }
    let side = |side: i64| {
        u32::try_from(side)
            .ok()
            .filter(|s| (1..=LONGEST_INPUT).contains(s))
    };
    match (width, height) {
        (Some(w), Some(h)) => match (side(w), side(h)) {
            (Some(w), Some(h)) => Ok((w, h)),
            _ => Err(format!(
                "takes {}; sides of 1 to {LONGEST_INPUT} are accepted",
                shape(dims)
            )),
        },
        _ => Err(format!(
            "takes {}: the graph leaves the size open, and watch.onnx.size must say it",
            shape(dims)
        )),
    }
}

/// A panic in the library costs the run, not the watch.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("cannot be used: the library that runs it stopped".to_owned()))
}

/// The start of what a library says, on one line.
fn short(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(300)
        .collect()
}
