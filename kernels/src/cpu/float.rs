//! Kernels in f32: functions of each value, sums, and other formats' values as f32 and back.

use super::lanes::{Lanes, Portable, dispatched};
use super::set::InstructionSet;

dispatched! {
    /// F16 values, little-endian, as f32.
    fn from_f16(bytes: &[u8], out: &mut [f32]);
}

dispatched! {
    /// `x * factor` as f16.
    fn to_f16(x: &[f32], factor: f32, out: &mut [u16]);
}

dispatched! {
    /// f16 values times `factor`.
    fn restore(x: &[u16], factor: f32, out: &mut [f32]);
}

dispatched! {
    /// BF16 values, little-endian, as f32.
    fn from_bf16(bytes: &[u8], out: &mut [f32]);
}

dispatched! {
    /// `exp(scale * x + less)`, and their sum added to `sum`.
    fn exponentials(x: &mut [f32], scale: f32, less: f32, sum: &mut f32);
}

dispatched! {
    /// `x * sigmoid(x)`.
    fn silu(x: &mut [f32]);
}

dispatched! {
    /// `silu(gate) * up`, in `gate`'s place.
    fn swiglu(gate: &mut [f32], up: &[f32]);
}

dispatched! {
    /// GELU by its tanh approximation.
    fn gelu_tanh(x: &mut [f32]);
}

dispatched! {
    /// `x += a * y`.
    fn add_scaled(x: &mut [f32], a: f32, y: &[f32]);
}

dispatched! {
    /// `out = x * mul + add`, `mul` and `add` being one value a column.
    fn scale_shift(x: &[f32], mul: &[f32], add: &[f32], swish: bool, out: &mut [f32]);
}

dispatched! {
    /// Adds the sum of the values and that of their squared distances to `centre` to `sums`.
    fn sums(x: &[f32], centre: f32, sums: &mut [f64; 2]);
}

dispatched! {
    /// Blocks of 32 values as signed bytes: `scale = max|x| / 127`, and `scale` times the sum of the
    /// integers of each half of a block.
    fn quantize(x: &[f32], q: &mut [i8], scale: &mut [f32], sums: &mut [f32]);
}

/// The bodies. All of them trust what the wrapper's callers have checked.
mod body {
    use super::Lanes;

    #[inline(always)]
    pub(super) unsafe fn from_f16<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
        assert!(bytes.len() == 2 * out.len());
        let mut values = out.chunks_exact_mut(L::LEN);
        let mut stored = bytes.chunks_exact(2 * L::LEN);
        for (out, bytes) in (&mut values).zip(&mut stored) {
            // SAFETY: a chunk has `LEN` values.
            unsafe { L::load_f16(bytes.as_ptr().cast()).store(out.as_mut_ptr()) }
        }
        let rest = stored.remainder().as_chunks::<2>().0;
        for (out, bytes) in values.into_remainder().iter_mut().zip(rest) {
            *out = half::f16::from_le_bytes(*bytes).to_f32();
        }
    }

    #[inline(always)]
    pub(super) unsafe fn to_f16<L: Lanes>(x: &[f32], factor: f32, out: &mut [u16]) {
        let mut values = x.chunks_exact(L::LEN);
        let mut stored = out.chunks_exact_mut(L::LEN);
        for (x, out) in (&mut values).zip(&mut stored) {
            // SAFETY: a chunk has `LEN` values.
            unsafe {
                let v = L::load(x.as_ptr()).mul(L::splat(factor));
                v.store_f16(out.as_mut_ptr());
            }
        }
        for (x, out) in values.remainder().iter().zip(stored.into_remainder()) {
            *out = half::f16::from_f32(x * factor).to_bits();
        }
    }

    #[inline(always)]
    pub(super) unsafe fn restore<L: Lanes>(x: &[u16], factor: f32, out: &mut [f32]) {
        let mut stored = x.chunks_exact(L::LEN);
        let mut values = out.chunks_exact_mut(L::LEN);
        for (x, out) in (&mut stored).zip(&mut values) {
            // SAFETY: a chunk has `LEN` values.
            unsafe {
                let v = L::load_f16(x.as_ptr()).mul(L::splat(factor));
                v.store(out.as_mut_ptr());
            }
        }
        for (x, out) in stored.remainder().iter().zip(values.into_remainder()) {
            *out = half::f16::from_bits(*x).to_f32() * factor;
        }
    }

    #[inline(always)]
    pub(super) unsafe fn from_bf16<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
        assert!(bytes.len() == 2 * out.len());
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }
    }

    /// `e^v`: `2^n e^r` with `|r| <= ln 2 / 2`, the latter by a polynomial of degree 6 (Cephes).
    #[inline(always)]
    unsafe fn exp_of<L: Lanes>(v: L) -> L {
        // SAFETY: plain arithmetic.
        unsafe {
            let v = v.min(L::splat(88.0)).max(L::splat(-87.0));
            let n = v.mul(L::splat(std::f32::consts::LOG2_E)).round();
            let r = n.mul_add(L::splat(-0.693_359_4), v);
            let r = n.mul_add(L::splat(2.121_944_4e-4), r);
            let mut p = L::splat(1.987_569_1e-4);
            for c in [
                1.398_199_9e-3,
                8.333_452e-3,
                4.166_579_6e-2,
                1.666_666_5e-1,
                0.5,
            ] {
                p = p.mul_add(r, L::splat(c));
            }
            let e = p.mul_add(r.mul(r), r.add(L::splat(1.0)));
            e.mul(n.exp2_of_integer())
        }
    }

    #[inline(always)]
    unsafe fn sigmoid_of<L: Lanes>(v: L) -> L {
        // SAFETY: plain arithmetic.
        unsafe {
            let e = exp_of(v.mul(L::splat(-1.0)));
            L::splat(1.0).div(e.add(L::splat(1.0)))
        }
    }

    /// A function of each value and another one. Closures would not be inlined early enough to be
    /// compiled with a set's features.
    trait Function {
        unsafe fn of<L: Lanes>(&self, v: L, other: L) -> L;
    }

    macro_rules! function {
        ($name:ident($($field:ident),*), $of:expr) => {
            struct $name {
                $($field: f32,)*
            }

            impl Function for $name {
                #[inline(always)]
                unsafe fn of<L: Lanes>(&self, v: L, other: L) -> L {
                    $(let $field = unsafe { L::splat(self.$field) };)*
                    // SAFETY: arithmetic of the set that the kernel is compiled for.
                    unsafe { $of(v, other $(, $field)*) }
                }
            }
        };
    }

    #[inline(always)]
    unsafe fn silu_of<L: Lanes>(v: L, _: L) -> L {
        // SAFETY: plain arithmetic.
        unsafe { v.mul(sigmoid_of(v)) }
    }
    #[inline(always)]
    unsafe fn swiglu_of<L: Lanes>(v: L, up: L) -> L {
        // SAFETY: plain arithmetic.
        unsafe { v.mul(sigmoid_of(v)).mul(up) }
    }
    #[inline(always)]
    unsafe fn gelu_of<L: Lanes>(v: L, _: L) -> L {
        // 0.5 (1 + tanh(y)) = sigmoid(2 y)
        // SAFETY: plain arithmetic.
        unsafe {
            let inner = v.mul(v).mul_add(L::splat(0.044_715), L::splat(1.0));
            v.mul(sigmoid_of(v.mul(inner).mul(L::splat(2.0 * 0.797_884_6))))
        }
    }
    #[inline(always)]
    unsafe fn add_scaled_of<L: Lanes>(v: L, other: L, a: L) -> L {
        // SAFETY: plain arithmetic.
        unsafe { other.mul_add(a, v) }
    }
    #[inline(always)]
    unsafe fn scaled_exp_of<L: Lanes>(v: L, _: L, scale: L, less: L) -> L {
        // SAFETY: plain arithmetic.
        unsafe { exp_of(v.mul_add(scale, less)) }
    }
    #[inline(always)]
    unsafe fn mul_of<L: Lanes>(v: L, other: L) -> L {
        // SAFETY: plain arithmetic.
        unsafe { v.mul(other) }
    }
    #[inline(always)]
    unsafe fn add_of<L: Lanes>(v: L, other: L) -> L {
        // SAFETY: plain arithmetic.
        unsafe { v.add(other) }
    }

    function!(Silu(), silu_of);
    function!(Swiglu(), swiglu_of);
    function!(Gelu(), gelu_of);
    function!(AddScaled(a), add_scaled_of);
    function!(ScaledExp(scale, less), scaled_exp_of);
    function!(Mul(), mul_of);
    function!(Add(), add_of);

    /// Replaces each value by a function of it. What does not fill a vector goes through a padded
    /// one.
    #[inline(always)]
    unsafe fn each<L: Lanes, F: Function>(x: &mut [f32], f: F) {
        let mut chunks = x.chunks_exact_mut(L::LEN);
        for chunk in &mut chunks {
            // SAFETY: a chunk has `LEN` values.
            unsafe {
                let v = L::load(chunk.as_ptr());
                f.of(v, v).store(chunk.as_mut_ptr());
            }
        }
        let rest = chunks.into_remainder();
        let mut padded = [0.0; 16];
        padded[..rest.len()].copy_from_slice(rest);
        // SAFETY: no vector is longer than 16.
        unsafe {
            let v = L::load(padded.as_ptr());
            f.of(v, v).store(padded.as_mut_ptr());
        }
        rest.copy_from_slice(&padded[..rest.len()]);
    }

    /// Replaces each value of `x` by a function of it and that of `y`.
    #[inline(always)]
    unsafe fn pairs<L: Lanes, F: Function>(x: &mut [f32], y: &[f32], f: F) {
        let mut chunks = x.chunks_exact_mut(L::LEN);
        let mut others = y.chunks_exact(L::LEN);
        for (x, y) in (&mut chunks).zip(&mut others) {
            // SAFETY: a chunk has `LEN` values.
            unsafe {
                f.of(L::load(x.as_ptr()), L::load(y.as_ptr()))
                    .store(x.as_mut_ptr())
            }
        }
        let (rest, others) = (chunks.into_remainder(), others.remainder());
        let (mut a, mut b) = ([0.0; 16], [0.0; 16]);
        a[..rest.len()].copy_from_slice(rest);
        b[..others.len()].copy_from_slice(others);
        // SAFETY: no vector is longer than 16.
        unsafe {
            f.of(L::load(a.as_ptr()), L::load(b.as_ptr()))
                .store(a.as_mut_ptr())
        }
        rest.copy_from_slice(&a[..rest.len()]);
    }

    #[inline(always)]
    pub(super) unsafe fn exponentials<L: Lanes>(
        x: &mut [f32],
        scale: f32,
        less: f32,
        sum: &mut f32,
    ) {
        // SAFETY: plain arithmetic; a chunk has `LEN` values and no vector is longer than 16.
        unsafe {
            each::<L, _>(x, ScaledExp { scale, less });
            let mut sums = L::splat(0.0);
            let mut chunks = x.chunks_exact(L::LEN);
            for x in &mut chunks {
                sums = sums.add(L::load(x.as_ptr()));
            }
            let mut lanes = [0.0; 16];
            sums.store(lanes.as_mut_ptr());
            *sum += lanes.iter().chain(chunks.remainder()).sum::<f32>();
        }
    }

    #[inline(always)]
    pub(super) unsafe fn silu<L: Lanes>(x: &mut [f32]) {
        // SAFETY: plain arithmetic.
        unsafe { each::<L, _>(x, Silu {}) }
    }

    #[inline(always)]
    pub(super) unsafe fn swiglu<L: Lanes>(gate: &mut [f32], up: &[f32]) {
        // SAFETY: plain arithmetic.
        unsafe { pairs::<L, _>(gate, up, Swiglu {}) }
    }

    #[inline(always)]
    pub(super) unsafe fn gelu_tanh<L: Lanes>(x: &mut [f32]) {
        // SAFETY: plain arithmetic.
        unsafe { each::<L, _>(x, Gelu {}) }
    }

    #[inline(always)]
    pub(super) unsafe fn add_scaled<L: Lanes>(x: &mut [f32], a: f32, y: &[f32]) {
        // SAFETY: plain arithmetic.
        unsafe { pairs::<L, _>(x, y, AddScaled { a }) }
    }

    #[inline(always)]
    pub(super) unsafe fn scale_shift<L: Lanes>(
        x: &[f32],
        mul: &[f32],
        add: &[f32],
        swish: bool,
        out: &mut [f32],
    ) {
        for (x, out) in x
            .chunks_exact(mul.len())
            .zip(out.chunks_exact_mut(mul.len()))
        {
            out.copy_from_slice(x);
            // SAFETY: plain arithmetic.
            unsafe {
                pairs::<L, _>(out, mul, Mul {});
                pairs::<L, _>(out, add, Add {});
                if swish {
                    silu::<L>(out);
                }
            }
        }
    }

    #[inline(always)]
    pub(super) unsafe fn sums<L: Lanes>(x: &[f32], centre: f32, sums: &mut [f64; 2]) {
        // In short runs of f32 that are added up in f64.
        for run in x.chunks(64 * L::LEN) {
            // SAFETY: a chunk has `LEN` values; no vector is longer than 16.
            unsafe {
                let mut sum = L::splat(0.0);
                let mut squares = L::splat(0.0);
                let less = L::splat(-centre);
                let mut chunks = run.chunks_exact(L::LEN);
                for chunk in &mut chunks {
                    let v = L::load(chunk.as_ptr());
                    sum = sum.add(v);
                    let apart = v.add(less);
                    squares = apart.mul_add(apart, squares);
                }
                let (mut a, mut b) = ([0.0f32; 16], [0.0f32; 16]);
                sum.store(a.as_mut_ptr());
                squares.store(b.as_mut_ptr());
                sums[0] += a.iter().copied().map(f64::from).sum::<f64>();
                sums[1] += b.iter().copied().map(f64::from).sum::<f64>();
                for v in chunks.remainder() {
                    sums[0] += f64::from(*v);
                    sums[1] += f64::from(*v - centre).powi(2);
                }
            }
        }
    }

    #[inline(always)]
    pub(super) unsafe fn quantize<L: Lanes>(
        x: &[f32],
        q: &mut [i8],
        scale: &mut [f32],
        sums: &mut [f32],
    ) {
        let blocks = x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0);
        for ((x, q), (scale, sums)) in blocks.zip(scale.iter_mut().zip(sums.as_chunks_mut::<2>().0))
        {
            let mut rounded = [0.0f32; 32];
            // SAFETY: 32 is a multiple of every vector's length.
            unsafe {
                let mut largest = L::splat(0.0);
                for x in x.chunks_exact(L::LEN) {
                    let v = L::load(x.as_ptr());
                    largest = largest.max(v).max(v.mul(L::splat(-1.0)));
                }
                let mut lanes = [0.0f32; 16];
                largest.store(lanes.as_mut_ptr());
                let largest = lanes.iter().copied().fold(0.0, f32::max);
                *scale = largest / 127.0;
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                for (x, r) in x.chunks_exact(L::LEN).zip(rounded.chunks_exact_mut(L::LEN)) {
                    L::load(x.as_ptr())
                        .mul(L::splat(inverse))
                        .round()
                        .store(r.as_mut_ptr());
                }
            }
            for (q, r) in q.iter_mut().zip(&rounded) {
                *q = *r as i8;
            }
            for (sum, half) in sums.iter_mut().zip(rounded.as_chunks::<16>().0) {
                *sum = *scale * half.iter().sum::<f32>();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_values_are_right_on_every_set() {
        for set in InstructionSet::available() {
            let x: Vec<f32> = (-400..421).map(|i| i as f32 / 20.0).collect();
            let compare = |name: &str, got: &[f32], f: &dyn Fn(f64) -> f64| {
                for (x, got) in x.iter().zip(got) {
                    let expected = f(f64::from(*x));
                    let off = (f64::from(*got) - expected).abs() / (expected.abs() + 1e-6);
                    assert!(
                        off < 1e-6,
                        "{set}: {name}({x}) = {got}, expected {expected}"
                    );
                }
            };
            let mut got = x.clone();
            silu(set, &mut got);
            compare("silu", &got, &|x| x / (1.0 + (-x).exp()));
            let mut got = x.clone();
            gelu_tanh(set, &mut got);
            compare("gelu", &got, &|x| {
                let y = 0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x);
                // 1 + tanh(y), without the loss of digits for large negative y.
                x / (1.0 + (-2.0 * y).exp())
            });
            let mut got = x.clone();
            let mut sum = 1.0;
            exponentials(set, &mut got, 0.5, -3.0, &mut sum);
            compare("exponentials", &got, &|x| (0.5 * x - 3.0).exp());
            let expected: f64 = x.iter().map(|x| (0.5 * f64::from(*x) - 3.0).exp()).sum();
            assert!(
                (f64::from(sum) / (1.0 + expected) - 1.0).abs() < 1e-5,
                "{set}: {sum}"
            );
        }
    }
}
