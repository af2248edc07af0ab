//! A device that remembers what enters each matrix.
//!
//! The model is loaded onto it as onto any other device, so the model's code knows nothing of
//! calibration. A weight is recognised by where its bytes lie in the source.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kinglet_kernels::{
    AttentionShape, ConvShape, Device, Expert, GroupMoments, RenormSpan, Result, WeightData,
};
use kinglet_model::Source;

/// What entered one matrix, for each column.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    /// Rows that were multiplied.
    pub(super) rows: u64,
    /// Sums of squares.
    pub(super) squares: Vec<f64>,
    /// Sums of magnitudes.
    pub(super) magnitudes: Vec<f64>,
    /// Some of the rows.
    pub(super) sample: Vec<f32>,
}

/// Which rows are kept as they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples {
    /// Of matrices whose name holds this; empty: of none.
    pub(super) of: String,
    /// Rows of one product, evenly spaced.
    pub(super) each: usize,
    /// Rows in all.
    pub(super) most: usize,
}

#[derive(Debug, Default)]
struct Memory {
    records: BTreeMap<Arc<str>, Record>,
    samples: Samples,
}

/// The device `D`, watched.
pub(super) struct Recorder<D> {
    inner: D,
    /// Where each tensor's bytes begin and end, and its name.
    places: BTreeMap<usize, (usize, Arc<str>)>,
    memory: Mutex<Memory>,
}

/// A weight and its name in the source; none if it is not of the source.
pub(super) struct Named<W> {
    inner: W,
    name: Option<Arc<str>>,
}

impl<D: Device> Recorder<D> {
    pub(super) fn new(inner: D, source: &Source, samples: Samples) -> Self {
        let place = |(name, tensor): (&String, &kinglet_container::Tensor)| {
            let start = tensor.bytes.as_ptr() as usize;
            (start, (start + tensor.bytes.len(), Arc::from(&**name)))
        };
        Recorder {
            inner,
            places: source.tensors.iter().map(place).collect(),
            memory: Mutex::new(Memory {
                samples,
                ..Memory::default()
            }),
        }
    }

    /// What was remembered, by the matrices' names; nothing is left.
    pub(super) fn take(&self) -> BTreeMap<Arc<str>, Record> {
        // A thread that panicked while it held the lock ends the whole run anyway.
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut memory.records)
    }

    fn see(&self, x: &D::Buffer, weights: &[&Named<D::Weight>]) -> Result<()> {
        let names = || weights.iter().filter_map(|w| w.name.clone());
        if names().next().is_none() {
            return Ok(());
        }
        let (rows, cols) = self.inner.shape(x);
        let values = self.inner.download(x)?;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Memory { records, samples } = &mut *memory;
        for name in names() {
            let record = records.entry(name.clone()).or_default();
            record.add(&values, rows, cols);
            if !samples.of.is_empty() && name.contains(&samples.of) {
                record.keep(&values, rows, cols, samples);
            }
        }
        Ok(())
    }
}

impl Record {
    fn add(&mut self, values: &[f32], rows: usize, cols: usize) {
        self.squares.resize(cols, 0.0);
        self.magnitudes.resize(cols, 0.0);
        self.rows += rows as u64;
        for row in values.chunks_exact(cols.max(1)) {
            let sums = self.squares.iter_mut().zip(&mut self.magnitudes);
            for (v, (square, magnitude)) in row.iter().zip(sums) {
                let v = f64::from(*v);
                *square += v * v;
                *magnitude += v.abs();
            }
        }
    }

    fn keep(&mut self, values: &[f32], rows: usize, cols: usize, samples: &Samples) {
        let room = samples.most.saturating_sub(self.sample.len() / cols.max(1));
        let wanted = samples.each.min(rows).min(room);
        for i in 0..wanted {
            let row = i * rows / wanted;
            let row = &values[row * cols..(row + 1) * cols];
            self.sample.extend_from_slice(row);
        }
    }
}

impl<D: Device> Device for Recorder<D> {
    type Buffer = D::Buffer;
    type Weight = Named<D::Weight>;
    type Cache = D::Cache;
    type Half = D::Half;

    fn describe(&self) -> String {
        format!("{}, watched", self.inner.describe())
    }

    fn weight(&self, data: WeightData) -> Result<Self::Weight> {
        let start = data.bytes.as_ptr() as usize;
        let place = self.places.range(..=start).next_back();
        let name = place.and_then(|(_, (end, name))| (start < *end).then(|| name.clone()));
        Ok(Named {
            inner: self.inner.weight(data)?,
            name,
        })
    }

    fn shares_bytes(&self, weight: &Self::Weight) -> bool {
        self.inner.shares_bytes(&weight.inner)
    }

    fn weight_shape(&self, weight: &Self::Weight) -> (usize, usize) {
        self.inner.weight_shape(&weight.inner)
    }

    fn upload(&self, values: &[f32], cols: usize) -> Result<D::Buffer> {
        self.inner.upload(values, cols)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<D::Buffer> {
        self.inner.zeros(rows, cols)
    }

    fn download(&self, x: &D::Buffer) -> Result<Vec<f32>> {
        self.inner.download(x)
    }

    fn copy(&self, x: &D::Buffer) -> Result<D::Buffer> {
        self.inner.copy(x)
    }

    fn shape(&self, x: &D::Buffer) -> (usize, usize) {
        self.inner.shape(x)
    }

    fn reshape(&self, x: D::Buffer, cols: usize) -> Result<D::Buffer> {
        self.inner.reshape(x, cols)
    }

    fn halve(&self, x: &D::Buffer) -> Result<D::Half> {
        self.inner.halve(x)
    }

    fn restore(&self, x: &D::Half) -> Result<D::Buffer> {
        self.inner.restore(x)
    }

    fn matmul(
        &self,
        x: &D::Buffer,
        w: &Self::Weight,
        bias: Option<&Self::Weight>,
    ) -> Result<D::Buffer> {
        self.see(x, &[w])?;
        self.inner.matmul(x, &w.inner, bias.map(|b| &b.inner))
    }

    fn matmuls(
        &self,
        x: &D::Buffer,
        weights: &[(&Self::Weight, Option<&Self::Weight>)],
    ) -> Result<Vec<D::Buffer>> {
        let names: Vec<&Self::Weight> = weights.iter().map(|(w, _)| *w).collect();
        self.see(x, &names)?;
        let inner = |(w, b): &(&'_ Self::Weight, Option<&'_ Self::Weight>)| {
            self.inner.matmul(x, &w.inner, b.map(|b| &b.inner))
        };
        weights.iter().map(inner).collect()
    }

    fn gated(&self, x: &D::Buffer, gate: &Self::Weight, up: &Self::Weight) -> Result<D::Buffer> {
        self.see(x, &[gate, up])?;
        self.inner.gated(x, &gate.inner, &up.inner)
    }

    fn embed(&self, table: &Self::Weight, ids: &[u32]) -> Result<D::Buffer> {
        self.inner.embed(&table.inner, ids)
    }

    fn add(&self, x: &mut D::Buffer, y: &D::Buffer) -> Result<()> {
        self.inner.add(x, y)
    }

    fn add_scaled(&self, x: &mut D::Buffer, a: f32, y: &D::Buffer) -> Result<()> {
        self.inner.add_scaled(x, a, y)
    }

    fn affine(&self, x: &mut D::Buffer, mul: f32, add: f32) -> Result<()> {
        self.inner.affine(x, mul, add)
    }

    fn silu(&self, x: &mut D::Buffer) -> Result<()> {
        self.inner.silu(x)
    }

    fn gelu_tanh(&self, x: &mut D::Buffer) -> Result<()> {
        self.inner.gelu_tanh(x)
    }

    fn swiglu(&self, gate: &mut D::Buffer, up: &D::Buffer) -> Result<()> {
        self.inner.swiglu(gate, up)
    }

    /// What enters the experts' last matrices stays unseen: it never leaves the device.
    fn mixture(
        &self,
        x: &D::Buffer,
        logits: &D::Buffer,
        experts: &[Expert<'_, Self::Weight>],
        used: usize,
    ) -> Result<D::Buffer> {
        // The experts of a layer are one tensor, which takes every row once.
        if let Some(first) = experts.first() {
            self.see(x, &[first.gate, first.up])?;
        }
        let inner: Vec<Expert<'_, D::Weight>> = experts
            .iter()
            .map(|e| Expert {
                gate: &e.gate.inner,
                up: &e.up.inner,
                down: &e.down.inner,
            })
            .collect();
        self.inner.mixture(x, logits, &inner, used)
    }

    fn scale_rows(&self, x: &mut D::Buffer, factors: &D::Buffer) -> Result<()> {
        self.inner.scale_rows(x, factors)
    }

    fn rms_norm(&self, x: &D::Buffer, w: &Self::Weight, eps: f32) -> Result<D::Buffer> {
        self.inner.rms_norm(x, &w.inner, eps)
    }

    fn layer_norm(
        &self,
        x: &D::Buffer,
        w: &Self::Weight,
        b: &Self::Weight,
        eps: f32,
    ) -> Result<D::Buffer> {
        self.inner.layer_norm(x, &w.inner, &b.inner, eps)
    }

    fn group_moments(&self, x: &D::Buffer, groups: usize) -> Result<GroupMoments> {
        self.inner.group_moments(x, groups)
    }

    fn group_norm(
        &self,
        x: &D::Buffer,
        moments: &GroupMoments,
        w: &Self::Weight,
        b: &Self::Weight,
        eps: f32,
        swish: bool,
    ) -> Result<D::Buffer> {
        self.inner
            .group_norm(x, moments, &w.inner, &b.inner, eps, swish)
    }

    fn rope(
        &self,
        x: &mut D::Buffer,
        positions: &[u32],
        head_dim: usize,
        theta: f32,
    ) -> Result<()> {
        self.inner.rope(x, positions, head_dim, theta)
    }

    fn cache(&self, width: usize) -> D::Cache {
        self.inner.cache(width)
    }

    fn cache_append(&self, cache: &mut D::Cache, k: &D::Buffer, v: &D::Buffer) -> Result<()> {
        self.inner.cache_append(cache, k, v)
    }

    fn cache_read(&self, cache: &D::Cache) -> Result<(D::Buffer, D::Buffer)> {
        self.inner.cache_read(cache)
    }

    fn attention(
        &self,
        q: &D::Buffer,
        past: &[&D::Cache],
        k: &D::Buffer,
        v: &D::Buffer,
        shape: AttentionShape,
    ) -> Result<D::Buffer> {
        self.inner.attention(q, past, k, v, shape)
    }

    fn gather_rows(&self, x: &D::Buffer, ids: &[u32]) -> Result<D::Buffer> {
        self.inner.gather_rows(x, ids)
    }

    fn scatter_rows(&self, x: &mut D::Buffer, y: &D::Buffer, ids: &[u32]) -> Result<()> {
        self.inner.scatter_rows(x, y, ids)
    }

    fn conv2d(
        &self,
        x: &D::Buffer,
        w: &Self::Weight,
        bias: &Self::Weight,
        shape: ConvShape,
    ) -> Result<D::Buffer> {
        self.inner.conv2d(x, &w.inner, &bias.inner, shape)
    }

    fn upsample_nearest(&self, x: &D::Buffer, height: usize, width: usize) -> Result<D::Buffer> {
        self.inner.upsample_nearest(x, height, width)
    }

    fn gaussian(&self, x: &D::Buffer, noise: Option<&D::Buffer>) -> Result<D::Buffer> {
        self.inner.gaussian(x, noise)
    }

    fn extrapolate(&self, x: &mut D::Buffer, base: &D::Buffer, scale: f32) -> Result<()> {
        self.inner.extrapolate(x, base, scale)
    }

    fn renorm(
        &self,
        x: &mut D::Buffer,
        reference: &D::Buffer,
        min: f32,
        span: RenormSpan,
    ) -> Result<()> {
        self.inner.renorm(x, reference, min, span)
    }
}
