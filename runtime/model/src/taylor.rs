//! TaylorSeer: most passes of a drawing are replaced by a prediction from earlier ones
//! (docs/model.md, 3.14).

use kinglet_kernels::Device;

use crate::error::Result;

/// Passes that are always computed at the start.
const FIRST: usize = 5;
/// Afterwards every so many passes one is computed.
const INTERVAL: usize = 3;
/// Derivatives start after this pass.
const DERIVATIVES_AFTER: usize = 3;
/// The highest derivative that may be asked for; the reference's.
pub(crate) const MOST_DERIVATIVES: usize = 6;

/// What one branch of a drawing remembers: the output of the last layer and its differences.
pub(crate) struct Taylor<D: Device> {
    /// The highest derivative.
    order: usize,
    pass: usize,
    last: usize,
    computed: usize,
    factors: Vec<D::Buffer>,
}

impl<D: Device> Taylor<D> {
    pub(crate) fn new(order: usize) -> Self {
        Taylor {
            order,
            pass: 0,
            last: 0,
            computed: 0,
            factors: Vec::new(),
        }
    }

    /// Passes that were not predicted.
    pub(crate) fn computed(&self) -> usize {
        self.computed
    }

    /// The output of the last layer: computed by `run`, or predicted.
    pub(crate) fn next(
        &mut self,
        d: &D,
        run: impl FnOnce() -> Result<D::Buffer>,
    ) -> Result<D::Buffer> {
        let pass = self.pass;
        self.pass += 1;
        if pass >= FIRST && !(pass - (FIRST - 1)).is_multiple_of(INTERVAL) {
            return self.predict(d, pass - self.last);
        }
        let output = run()?;
        self.computed += 1;
        let mut factors = vec![d.copy(&output)?];
        if pass > DERIVATIVES_AFTER {
            let distance = (pass - self.last) as f32;
            for (i, old) in self.factors.iter().take(self.order).enumerate() {
                let mut next = d.copy(&factors[i])?;
                d.add_scaled(&mut next, -1.0, old)?;
                d.affine(&mut next, 1.0 / distance, 0.0)?;
                factors.push(next);
            }
        }
        self.factors = factors;
        self.last = pass;
        Ok(output)
    }

    /// `sum of f_i x^i / i!`
    fn predict(&self, d: &D, x: usize) -> Result<D::Buffer> {
        let mut sum = d.copy(&self.factors[0])?;
        let mut weight = 1.0;
        for (i, factor) in self.factors.iter().enumerate().skip(1) {
            weight *= x as f32 / i as f32;
            d.add_scaled(&mut sum, weight, factor)?;
        }
        Ok(sum)
    }
}
