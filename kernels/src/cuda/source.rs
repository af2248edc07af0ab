//! The kernels' text.

/// Every file, in the order in which they are compiled as one.
pub const FILES: &[(&str, &str)] = &[
    ("common.cuh", include_str!("../../cuda/common.cuh")),
    ("blocks.cuh", include_str!("../../cuda/blocks.cuh")),
    ("planes.cuh", include_str!("../../cuda/planes.cuh")),
    ("rows.cu", include_str!("../../cuda/rows.cu")),
    ("quantize.cu", include_str!("../../cuda/quantize.cu")),
    ("norm.cu", include_str!("../../cuda/norm.cu")),
    ("matmul.cu", include_str!("../../cuda/matmul.cu")),
    ("floats.cu", include_str!("../../cuda/floats.cu")),
    ("halves.cu", include_str!("../../cuda/halves.cu")),
    ("experts.cu", include_str!("../../cuda/experts.cu")),
    ("heads.cu", include_str!("../../cuda/heads.cu")),
    ("attention.cu", include_str!("../../cuda/attention.cu")),
    ("flash.cu", include_str!("../../cuda/flash.cu")),
    ("roof.cu", include_str!("../../cuda/roof.cu")),
];

/// All of it, with the files' names for a compiler's messages.
#[must_use]
pub fn whole() -> String {
    let parts = FILES
        .iter()
        .map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n"));
    parts.collect()
}
