//! What a request takes of a machine, in plain numbers.

/// Bytes of weights by when they are needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residency {
    /// While seeing and while drawing.
    pub always: u64,
    /// While seeing alone.
    pub seeing: u64,
    /// While drawing alone.
    pub drawing: u64,
    /// Never: weights of layers that no pass runs.
    pub never: u64,
}

impl Residency {
    /// All weights.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.always + self.seeing + self.drawing + self.never
    }
}

/// What one stage of a request computes, each time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiplications with additions of small integers.
    pub integer: u64,
    /// Multiplications with additions of floats.
    pub float: u64,
    /// Bytes of weights, keys and values that are read.
    pub read: u64,
    /// Bytes of activations, keys and values at their most, and of memory that is kept for later ones.
    pub memory: u64,
}

/// A stage of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What it does.
    pub name: &'static str,
    /// How often.
    pub times: u64,
    /// What it takes each time.
    pub work: Work,
}

/// What a request takes of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of weights in memory of the program's own.
    pub weights: Residency,
    /// Bytes of weights that stay in the mapped file (those of a packed container), and of the rows of tables
    /// that are read: the system can drop what is not used and read it again.
    pub mapped: Residency,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

impl Footprint {
    /// Bytes of everything but weights at their most.
    #[must_use]
    pub fn activations(&self) -> u64 {
        self.stages.iter().map(|s| s.work.memory).max().unwrap_or(0)
    }

    /// Bytes of mapped weights that are used at once: while seeing or while drawing.
    #[must_use]
    pub fn mapped_at_once(&self) -> u64 {
        self.mapped.always + self.mapped.seeing.max(self.mapped.drawing)
    }

    /// Bytes that are needed at once.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.weights.all() + self.mapped_at_once() + self.activations()
    }
}
