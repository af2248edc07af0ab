//! The scale (and offset) of one run of values: which multiples of it come closest.
//!
//! Everything here minimises `sum of w (x - x')^2`, with a candidate in each lane.

use super::lanes::{LANES, Lanes, least};

/// A run: values and their weights, none of which is negative.
#[derive(Clone, Copy)]
pub(super) struct Run<const N: usize> {
    pub(super) x: [f32; N],
    pub(super) w: [f32; N],
}

/// Scales and offsets, and how much of the values' energy they explain.
#[derive(Clone, Copy)]
struct Fits<V> {
    scale: V,
    offset: V,
    explained: V,
}

impl<V: Lanes> Fits<V> {
    #[inline(always)]
    fn none() -> Self {
        Fits {
            scale: V::splat(0.0),
            offset: V::splat(0.0),
            explained: V::splat(-1.0),
        }
    }

    /// Takes over what is better, lane by lane.
    #[inline(always)]
    fn improve(&mut self, other: &Self) {
        let (new, old) = (other.explained, self.explained);
        self.scale = new.larger(old, other.scale, self.scale);
        self.offset = new.larger(old, other.offset, self.offset);
        self.explained = new.larger(old, new, old);
    }

    #[inline(always)]
    fn best(&self) -> (f32, f32) {
        let at = least(&(V::splat(0.0) - self.explained).store());
        (self.scale.store()[at], self.offset.store()[at])
    }
}

/// Times [`LANES`] places for the extreme value at either end.
const BATCHES: usize = 3;

/// Where scales are looked for. What the plainest scale lays on the outermost level is laid on others
/// too, by `step`, from `inward` steps inside it to as many outside as are left: values that count
/// little may be cut off.
#[derive(Clone, Copy)]
pub(super) struct Search {
    step: f32,
    inward: f32,
}

/// See [`Search`]. The numbers for each format were found by trying, on real weights (`tools/bench
/// formats`).
pub(super) const fn search(step: f32, inward: f32) -> Search {
    Search { step, inward }
}

/// How often levels are chosen for the scale, and a scale for the levels, at the end of a search: each
/// time can only come closer.
const ROUNDS: usize = 3;

impl<const N: usize> Run<N> {
    /// The weighted errors of the levels nearest to the values, and with them of
    /// `scale * level + offset`.
    #[inline(always)]
    pub(super) fn errors<V: Lanes>(
        &self,
        scale: &[f32; LANES],
        offset: &[f32; LANES],
        (low, high): (f32, f32),
    ) -> [f32; LANES] {
        let (scale, offset) = (V::load(scale), V::load(offset));
        let (low, high, inverse) = (V::splat(low), V::splat(high), scale.inverse());
        let mut sum = V::splat(0.0);
        for (x, w) in self.x.iter().zip(&self.w) {
            let x = V::splat(*x) - offset;
            let e = x - scale * (x * inverse).level(low, high);
            sum = sum + V::splat(*w) * (e * e);
        }
        sum.store()
    }

    /// The levels nearest to the values.
    #[inline(always)]
    pub(super) fn levels<V: Lanes>(
        &self,
        scale: f32,
        offset: f32,
        (low, high): (f32, f32),
    ) -> [f32; N] {
        let (offset, inverse) = (V::splat(offset), V::splat(scale).inverse());
        let (low, high) = (V::splat(low), V::splat(high));
        let mut levels = self.x;
        for x in levels.as_chunks_mut().0 {
            *x = ((V::load(x) - offset) * inverse).level(low, high).store();
        }
        levels
    }

    /// With the levels `q`, the sums of `w q`, `w q q`, `w x q`, `w x` and `w`.
    #[inline(always)]
    pub(super) fn moments<V: Lanes>(
        &self,
        scale: f32,
        offset: f32,
        bounds: (f32, f32),
    ) -> [f32; 5] {
        let mut sums = [V::splat(0.0); 5];
        let q = self.levels::<V>(scale, offset, bounds);
        let (x, w) = (self.x.as_chunks().0, self.w.as_chunks().0);
        for ((q, x), w) in q.as_chunks().0.iter().zip(x).zip(w) {
            let (q, x, w) = (V::load(q), V::load(x), V::load(w));
            let (wq, wx) = (w * q, w * x);
            sums[0] = sums[0] + wq;
            sums[1] = sums[1] + wq * q;
            sums[2] = sums[2] + wx * q;
            sums[3] = sums[3] + wx;
            sums[4] = sums[4] + w;
        }
        sums.map(V::total)
    }

    /// The value that is largest without its sign.
    #[inline(always)]
    pub(super) fn extreme<V: Lanes>(&self) -> f32 {
        let (least, most) = self.bounds::<V>();
        if most >= -least { most } else { least }
    }

    /// The least and the largest value; what is no number is passed over.
    #[inline(always)]
    fn bounds<V: Lanes>(&self) -> (f32, f32) {
        let (mut least, mut most) = (V::splat(f32::INFINITY), V::splat(f32::NEG_INFINITY));
        for x in self.x.as_chunks().0 {
            least = V::load(x).min(least);
            most = V::load(x).max(most);
        }
        (
            least.store().into_iter().fold(f32::INFINITY, f32::min),
            most.store().into_iter().fold(f32::NEG_INFINITY, f32::max),
        )
    }

    /// For the levels of one scale: the scale that suits them best (least squares).
    #[inline(always)]
    fn refit<V: Lanes>(&self, inverse: V, low: V, high: V) -> Fits<V> {
        let zero = V::splat(0.0);
        let (mut xq, mut qq) = (zero, zero);
        for (x, w) in self.x.iter().zip(&self.w) {
            let q = (V::splat(*x) * inverse).level(low, high);
            xq = xq + V::splat(w * x) * q;
            qq = qq + (V::splat(*w) * q) * q;
        }
        let scale = qq.larger(zero, xq / qq, zero);
        Fits {
            scale,
            offset: zero,
            explained: scale * xq,
        }
    }

    /// The scale whose multiples `low..=high` are closest to the values. The extreme value is laid
    /// on and about either outermost level.
    #[inline(always)]
    pub(super) fn scale<V: Lanes>(&self, (low, high): (f32, f32), search: Search) -> f32 {
        let extreme = self.extreme::<V>();
        if extreme == 0.0 || !extreme.is_finite() {
            return 0.0;
        }
        let one = 1.0 / extreme;
        let (lowest, highest) = (V::splat(low), V::splat(high));
        let mut best = Fits::none();
        for (end, outward) in [(low, -search.step), (high, search.step)] {
            for batch in 0..BATCHES {
                let mut inverses = [0.0; LANES];
                for (l, inverse) in inverses.iter_mut().enumerate() {
                    *inverse = (end + outward * ((batch * LANES + l) as f32 - search.inward)) * one;
                }
                best.improve(&self.refit(V::load(&inverses), lowest, highest));
            }
        }
        for _ in 0..ROUNDS {
            best.improve(&self.refit(best.scale.inverse(), lowest, highest));
        }
        best.best().0
    }

    /// As [`Run::refit`] with an offset that is at most `limit`; `mass` and `moment` are the sums of
    /// `w` and `w x`.
    #[inline(always)]
    fn refit_affine<V: Lanes>(
        &self,
        (inverse, offset): (V, V),
        high: V,
        limit: V,
        (mass, moment): (V, V),
    ) -> Fits<V> {
        let zero = V::splat(0.0);
        let (mut q1, mut q2, mut xq) = (zero, zero, zero);
        for (x, w) in self.x.iter().zip(&self.w) {
            let (x, w) = (V::splat(*x), V::splat(*w));
            let q = ((x - offset) * inverse).level(zero, high);
            let wq = w * q;
            q1 = q1 + wq;
            q2 = q2 + wq * q;
            xq = xq + wq * x;
        }
        let determinant = mass * q2 - q1 * q1;
        let scale = (mass * xq - moment * q1) / determinant;
        // If all levels are the same, they may as well be zero.
        let scale = determinant.larger(V::splat(1e-6) * mass * q2, scale, zero);
        let offset = (moment - scale * q1) / mass;
        // An offset beyond its limit is put there.
        let bound = xq - limit * q1;
        let bound_scale = bound.larger(zero, bound / q2, zero);
        let twice = moment + moment;
        let at_limit = bound_scale * bound + limit * (twice - limit * mass);
        let explained = scale * xq + offset * moment;
        Fits {
            scale: offset.larger(limit, bound_scale, scale),
            offset: offset.min(limit),
            explained: offset.larger(limit, at_limit, explained),
        }
    }

    /// The scale and offset with which levels `0..=high` are closest to the values; the offset is
    /// not positive unless it is `free`. The range of the values is laid on and about `high` levels;
    /// what does not fit is cut off at one end or the other, or at both.
    #[inline(always)]
    pub(super) fn scale_and_offset<V: Lanes>(
        &self,
        high: f32,
        free: bool,
        search: Search,
    ) -> (f32, f32) {
        let (least, most) = self.bounds::<V>();
        let least = if free || least < 0.0 { least } else { 0.0 };
        if most <= least || !least.is_finite() || !most.is_finite() {
            return (0.0, if least.is_finite() { least } else { 0.0 });
        }
        // Sums about the least value lose less of what matters to rounding.
        let mut from_least = *self;
        let (mut mass, mut moment) = (V::splat(0.0), V::splat(0.0));
        let all = from_least.x.as_chunks_mut().0.iter_mut();
        for (x, w) in all.zip(self.w.as_chunks().0) {
            let (from, w) = (V::load(x) - V::splat(least), V::load(w));
            *x = from.store();
            mass = mass + w;
            moment = moment + w * from;
        }
        let sums = (V::splat(mass.total()), V::splat(moment.total()));
        let limit = V::splat(if free { f32::INFINITY } else { -least });
        let range = V::splat(most - least);
        let mut spans = [0.0; LANES];
        for (l, span) in spans.iter_mut().enumerate() {
            *span = high + search.step * (l as f32 - search.inward);
        }
        let (spans, high) = (V::load(&spans), V::splat(high));
        let (inverses, cut) = (spans / range, range - range * high / spans);
        let mut best = Fits::none();
        for share in [0.0, 0.5, 1.0] {
            let start = cut * V::splat(share);
            best.improve(&from_least.refit_affine((inverses, start), high, limit, sums));
        }
        for _ in 0..ROUNDS {
            let start = (best.scale.inverse(), best.offset);
            best.improve(&from_least.refit_affine(start, high, limit, sums));
        }
        let (scale, offset) = best.best();
        (scale, offset + least)
    }
}
