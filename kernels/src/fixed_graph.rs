//! A graph of fixed shapes that something else runs: an NPU, or another library on the same cores.

/// Why a graph could not be taken or run, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GraphError(pub String);

/// An input or an output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// Its sizes, outermost first; pictures are `[1, channels, height, width]`, whatever the accelerator's own order.
    pub shape: Vec<usize>,
}

impl Port {
    /// How many values it has; saturates, so that no real buffer is as long as what overflows.
    #[must_use]
    pub fn values(&self) -> usize {
        self.shape
            .iter()
            .fold(1, |all: usize, side| all.saturating_mul(*side))
    }
}

/// One exported graph with one input and one output in f32, ready to run elsewhere.
pub trait FixedGraph: Send {
    /// What runs it, for logs.
    fn runs_on(&self) -> &str;
    /// What it takes.
    fn input(&self) -> &Port;
    /// What it gives.
    fn output(&self) -> &Port;
    /// Runs it once: `input` has [`Port::values`] values, row by row.
    ///
    /// # Errors
    /// [`GraphError`] if the input is of another size, or in the words of what runs it.
    fn run(&mut self, input: &[f32]) -> Result<Vec<f32>, GraphError>;
}
