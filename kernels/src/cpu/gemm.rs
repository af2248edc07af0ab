//! Products of matrices in f32.

use super::lanes::{Lanes, Portable, dispatched};
use super::set::InstructionSet;

/// Columns of a tile of [`gemm`]: two vectors.
pub(super) const fn tile(set: InstructionSet) -> usize {
    match set {
        InstructionSet::Avx512Vnni => 32,
        InstructionSet::Avx2 => 16,
        _ => 8,
    }
}

dispatched! {
    /// `out[i][c] += sum over k of a[i][k] * w[k * stride + c]` for the columns `c` of one tile.
    fn gemm(w: &[f32], stride: usize, k: usize, a: &[&[f32]], out: &mut [f32]);
}

dispatched! {
    /// [`gemm`] with F16 as they are stored, little-endian: for few rows, which are not worth widening them for.
    fn gemm_f16(w: &[u8], stride: usize, k: usize, a: &[&[f32]], out: &mut [f32]);
}

dispatched! {
    /// [`gemm_f16`] with BF16.
    fn gemm_bf16(w: &[u8], stride: usize, k: usize, a: &[&[f32]], out: &mut [f32]);
}

dispatched! {
    /// The dot products of `a` with rows of `w` (`stride` apart): one for each value of `out`.
    fn dots(a: &[f32], w: &[f32], stride: usize, out: &mut [f32]);
}

/// The bodies. All of them trust what the wrapper's callers have checked.
mod body {
    use super::Lanes;

    /// How many rows of `a` are worked on at once: what the registers hold beside two vectors of `w`.
    const fn rows(lanes: usize) -> usize {
        match lanes {
            16 => 12,
            8 => 6,
            _ => 4,
        }
    }

    #[inline(always)]
    pub(super) unsafe fn gemm<L: Lanes>(
        w: &[f32],
        stride: usize,
        k: usize,
        a: &[&[f32]],
        out: &mut [f32],
    ) {
        let tile = 2 * L::LEN;
        assert!(k == 0 || w.len() >= (k - 1) * stride + tile);
        assert!(a.iter().all(|row| row.len() >= k) && out.len() >= a.len() * tile);
        let mut done = 0;
        // SAFETY: the lengths were checked above.
        unsafe {
            while a.len() - done >= rows(L::LEN) {
                let (a, out) = (&a[done..], out[done * tile..].as_mut_ptr());
                match L::LEN {
                    16 => micro::<L, 12>(w, stride, k, a, out),
                    8 => micro::<L, 6>(w, stride, k, a, out),
                    _ => micro::<L, 4>(w, stride, k, a, out),
                }
                done += rows(L::LEN);
            }
            while a.len() - done >= 4 {
                micro::<L, 4>(w, stride, k, &a[done..], out[done * tile..].as_mut_ptr());
                done += 4;
            }
            while done < a.len() {
                let out = out[done * tile..].as_mut_ptr();
                single::<L, f32>(w.as_ptr(), stride, k, a[done], out);
                done += 1;
            }
        }
    }

    /// A value as it is stored.
    trait Value: Copy {
        /// As many as a vector has at `p`, which needs no alignment.
        unsafe fn load<L: Lanes>(p: *const Self) -> L;
    }

    impl Value for f32 {
        #[inline(always)]
        unsafe fn load<L: Lanes>(p: *const f32) -> L {
            // SAFETY: what the caller says.
            unsafe { L::load(p) }
        }
    }

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    struct F16(u16);

    impl Value for F16 {
        #[inline(always)]
        unsafe fn load<L: Lanes>(p: *const F16) -> L {
            // SAFETY: what the caller says.
            unsafe { L::load_f16(p.cast()) }
        }
    }

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    struct Bf16(u16);

    impl Value for Bf16 {
        #[inline(always)]
        unsafe fn load<L: Lanes>(p: *const Bf16) -> L {
            // SAFETY: what the caller says.
            unsafe { L::load_bf16(p.cast()) }
        }
    }

    #[inline(always)]
    unsafe fn few<L: Lanes, V: Value>(
        w: &[u8],
        stride: usize,
        k: usize,
        a: &[&[f32]],
        out: &mut [f32],
    ) {
        let tile = 2 * L::LEN;
        assert!(k == 0 || w.len() >= ((k - 1) * stride + tile) * size_of::<V>());
        assert!(a.iter().all(|row| row.len() >= k) && out.len() >= a.len() * tile);
        for (row, out) in a.iter().zip(out.chunks_exact_mut(tile)) {
            // SAFETY: the lengths were checked above.
            unsafe { single::<L, V>(w.as_ptr().cast(), stride, k, row, out.as_mut_ptr()) }
        }
    }

    #[inline(always)]
    pub(super) unsafe fn gemm_f16<L: Lanes>(
        w: &[u8],
        stride: usize,
        k: usize,
        a: &[&[f32]],
        out: &mut [f32],
    ) {
        // SAFETY: what the caller says.
        unsafe { few::<L, F16>(w, stride, k, a, out) }
    }

    #[inline(always)]
    pub(super) unsafe fn gemm_bf16<L: Lanes>(
        w: &[u8],
        stride: usize,
        k: usize,
        a: &[&[f32]],
        out: &mut [f32],
    ) {
        // SAFETY: what the caller says.
        unsafe { few::<L, Bf16>(w, stride, k, a, out) }
    }

    /// One row: four inputs at once, so that no sum waits for itself.
    #[inline(always)]
    unsafe fn single<L: Lanes, V: Value>(
        w: *const V,
        stride: usize,
        k: usize,
        a: &[f32],
        out: *mut f32,
    ) {
        // SAFETY: the caller has checked the lengths.
        unsafe {
            let a = a.as_ptr();
            let mut sums = [[L::splat(0.0); 2]; 4];
            sums[0] = [L::load(out), L::load(out.add(L::LEN))];
            let mut i = 0;
            while i + 4 <= k {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let v = L::splat(*a.add(i + j));
                    let w = w.add((i + j) * stride);
                    sum[0] = v.mul_add(V::load::<L>(w), sum[0]);
                    sum[1] = v.mul_add(V::load::<L>(w.add(L::LEN)), sum[1]);
                }
                i += 4;
            }
            while i < k {
                let v = L::splat(*a.add(i));
                let w = w.add(i * stride);
                sums[0][0] = v.mul_add(V::load::<L>(w), sums[0][0]);
                sums[0][1] = v.mul_add(V::load::<L>(w.add(L::LEN)), sums[0][1]);
                i += 1;
            }
            let [one, two, three, four] = sums;
            let low = one[0].add(two[0]).add(three[0].add(four[0]));
            let high = one[1].add(two[1]).add(three[1].add(four[1]));
            low.store(out);
            high.store(out.add(L::LEN));
        }
    }

    #[inline(always)]
    unsafe fn micro<L: Lanes, const T: usize>(
        w: &[f32],
        stride: usize,
        k: usize,
        a: &[&[f32]],
        out: *mut f32,
    ) {
        // SAFETY: `gemm` has checked the lengths.
        unsafe {
            let rows: [*const f32; T] = std::array::from_fn(|t| a[t].as_ptr());
            let at = |t: usize, half: usize| out.add((2 * t + half) * L::LEN);
            let mut sums: [[L; 2]; T] =
                std::array::from_fn(|t| [L::load(at(t, 0)), L::load(at(t, 1))]);
            let mut w = w.as_ptr();
            for i in 0..k {
                let (w0, w1) = (L::load(w), L::load(w.add(L::LEN)));
                for t in 0..T {
                    let v = L::splat(*rows[t].add(i));
                    sums[t][0] = v.mul_add(w0, sums[t][0]);
                    sums[t][1] = v.mul_add(w1, sums[t][1]);
                }
                w = w.wrapping_add(stride);
            }
            for (t, sum) in sums.iter().enumerate() {
                sum[0].store(at(t, 0));
                sum[1].store(at(t, 1));
            }
        }
    }

    #[inline(always)]
    pub(super) unsafe fn dots<L: Lanes>(a: &[f32], w: &[f32], stride: usize, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let w = &w[i * stride..][..a.len()];
            // SAFETY: a chunk has `LEN` values; no vector is longer than 16.
            unsafe {
                let mut sum = L::splat(0.0);
                let (mut x, mut y) = (a.chunks_exact(L::LEN), w.chunks_exact(L::LEN));
                for (x, y) in (&mut x).zip(&mut y) {
                    sum = L::load(x.as_ptr()).mul_add(L::load(y.as_ptr()), sum);
                }
                let mut lanes = [0.0; 16];
                sum.store(lanes.as_mut_ptr());
                let rest = x.remainder().iter().zip(y.remainder()).map(|(x, y)| x * y);
                *out = lanes.iter().sum::<f32>() + rest.sum::<f32>();
            }
        }
    }
}
