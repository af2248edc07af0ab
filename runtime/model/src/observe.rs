//! Looking at inner results: for golden vectors, and for calibration.

use kinglet_kernels::Device;

/// A place in the network whose result can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Patches after embedding and position, before the first vision layer.
    VisionInput,
    /// The output of a vision layer.
    VisionLayer(usize),
    /// After the last norm of the vision encoder.
    VisionOutput,
    /// After the connector, before its positions are added.
    Connector,
    /// After the connector's positions are added: what enters the language half.
    ConnectorPlaced,
    /// A picture's markers and the tokens that its patches have become, before the first layer that sees these.
    PictureTokens,
    /// Embeddings that enter the first language layer.
    LanguageInput,
    /// The residual stream after the attention of a language layer.
    LanguageAttention(usize),
    /// The residual stream after a language layer.
    LanguageLayer(usize),
    /// What enters the experts of a language layer.
    ExpertsInput(usize),
    /// Their router's logits.
    RouterLogits(usize),
    /// What the experts of a language layer give.
    ExpertsOutput(usize),
    /// After the last norm of the language half.
    LanguageOutput,
    /// The embedding of a timestep, `[1, hidden]`.
    Time,
}

/// Called with each stage's result, in the order in which they are computed.
pub type Observer<'a, D> = Option<&'a mut dyn FnMut(Stage, &<D as Device>::Buffer)>;

/// Shows a result to the observer, if there is one.
pub(crate) fn show<D: Device>(observer: &mut Observer<'_, D>, stage: Stage, x: &D::Buffer) {
    if let Some(observer) = observer {
        observer(stage, x);
    }
}
