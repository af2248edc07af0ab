//! ONNX graphs of fixed shapes by tract, on one core.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kinglet_kernels::{FixedGraph, GraphError, Port};
use tract_onnx::prelude::{
    Framework, InferenceModelExt, OutletId, RunnableModel, Tensor, TractError, TypedFact,
    TypedModel, TypedOp, tvec,
};

use super::short;

type Plan = RunnableModel<TypedFact, Box<dyn TypedOp>, TypedModel>;

/// A graph that tract runs.
pub struct OnnxGraph {
    plan: Plan,
    input: Port,
    output: Port,
}

impl OnnxGraph {
    /// Reads a graph with one input and one output, whose shapes it says itself.
    ///
    /// # Errors
    /// [`GraphError`] in tract's words, or if it has other inputs, outputs or shapes.
    pub fn open(bytes: &[u8]) -> Result<Self, GraphError> {
        caught(|| {
            let model = tract_onnx::onnx().model_for_read(&mut &*bytes);
            let model = model.and_then(InferenceModelExt::into_optimized);
            let plan = model.and_then(|m| m.into_runnable()).map_err(refused)?;
            let model = plan.model();
            let (inputs, outputs) = (model.inputs.len(), model.outputs.len());
            if (inputs, outputs) != (1, 1) {
                return Err(GraphError(format!(
                    "it has {inputs} inputs and {outputs} outputs; one each is expected"
                )));
            }
            let port = |outlet: OutletId| {
                let fact = model.outlet_fact(outlet).map_err(refused)?;
                let shape = fact.shape.as_concrete().map(<[usize]>::to_vec);
                let shape = shape.ok_or_else(|| {
                    GraphError(short(&format!(
                        "its shapes are not fixed: {:?}",
                        fact.shape
                    )))
                })?;
                let name = model.node(outlet.node).name.clone();
                Ok::<_, GraphError>(Port { name, shape })
            };
            let input = port(model.inputs[0])?;
            let output = port(model.outputs[0])?;
            Ok(OnnxGraph {
                plan,
                input,
                output,
            })
        })
    }
}

impl FixedGraph for OnnxGraph {
    fn runs_on(&self) -> &str {
        "tract, on one core"
    }

    fn input(&self) -> &Port {
        &self.input
    }

    fn output(&self) -> &Port {
        &self.output
    }

    fn run(&mut self, input: &[f32]) -> Result<Vec<f32>, GraphError> {
        caught(|| {
            let input = Tensor::from_shape(&self.input.shape, input).map_err(refused)?;
            let outputs = self.plan.run(tvec!(input.into())).map_err(refused)?;
            Ok(outputs[0].as_slice::<f32>().map_err(refused)?.to_vec())
        })
    }
}

/// A panic in the library is an error like others.
fn caught<T>(work: impl FnOnce() -> Result<T, GraphError>) -> Result<T, GraphError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(GraphError("the library that runs it stopped".to_owned())))
}

fn refused(e: TractError) -> GraphError {
    GraphError(short(&format!("{e:#}")))
}
