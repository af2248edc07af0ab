//! Keys and values that wait for later tokens, in f32 or in f16.

use super::float;
use super::set::InstructionSet;
use crate::scalar::Matrix;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheFormat {
    /// As they were computed.
    #[default]
    F32,
    /// In half the memory, rounded to f16; what f16 cannot hold becomes its largest value.
    F16,
}

/// Keys and values of a run of tokens.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(super) width: usize,
    keys: Run,
    values: Run,
}

#[derive(Debug, Clone)]
enum Run {
    Full(Vec<f32>),
    Half(Vec<u16>),
}

/// Rows of keys or of values, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Full(&'a [f32]),
    Half(&'a [u16]),
}

impl Cache {
    pub(super) fn new(width: usize, format: CacheFormat) -> Self {
        let run = match format {
            CacheFormat::F32 => Run::Full(Vec::new()),
            CacheFormat::F16 => Run::Half(Vec::new()),
        };
        Cache {
            width,
            keys: run.clone(),
            values: run,
        }
    }

    pub(super) fn append(&mut self, set: InstructionSet, k: &Matrix, v: &Matrix) {
        self.keys.append(set, &k.values);
        self.values.append(set, &v.values);
    }

    pub(super) fn tokens(&self) -> usize {
        self.keys.part().len() / self.width.max(1)
    }

    /// Keys and values.
    pub(super) fn parts(&self) -> (Part<'_>, Part<'_>) {
        (self.keys.part(), self.values.part())
    }
}

impl Run {
    fn append(&mut self, set: InstructionSet, rows: &[f32]) {
        match self {
            Run::Full(values) => values.extend_from_slice(rows),
            Run::Half(values) => {
                let most = half::f16::MAX.to_f32();
                let rows: Vec<f32> = rows.iter().map(|v| v.clamp(-most, most)).collect();
                let from = values.len();
                values.resize(from + rows.len(), 0);
                float::to_f16(set, &rows, 1.0, &mut values[from..]);
            }
        }
    }

    fn part(&self) -> Part<'_> {
        match self {
            Run::Full(values) => Part::Full(values),
            Run::Half(values) => Part::Half(values),
        }
    }
}

impl<'a> Part<'a> {
    pub(super) fn len(self) -> usize {
        match self {
            Part::Full(values) => values.len(),
            Part::Half(values) => values.len(),
        }
    }

    /// All of it in f32.
    pub(super) fn to_f32(self, set: InstructionSet) -> Vec<f32> {
        match self {
            Part::Full(values) => values.to_vec(),
            Part::Half(values) => {
                let mut out = vec![0.0; values.len()];
                float::restore(set, values, 1.0, &mut out);
                out
            }
        }
    }

    /// The `len` values from `at` on: those that are there, or widened into `room`.
    pub(super) fn row<'r>(
        self,
        set: InstructionSet,
        at: usize,
        len: usize,
        room: &'r mut [f32],
    ) -> &'r [f32]
    where
        'a: 'r,
    {
        match self {
            Part::Full(values) => &values[at..at + len],
            Part::Half(values) => {
                let room = &mut room[..len];
                float::restore(set, &values[at..at + len], 1.0, room);
                room
            }
        }
    }
}
