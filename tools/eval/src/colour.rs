//! The background's colour by name.

/// Background colours by name.
pub(crate) const COLOURS: [(&str, [f32; 3]); 11] = [
    ("green", [80.0, 160.0, 75.0]),
    ("blue", [65.0, 110.0, 200.0]),
    ("purple", [130.0, 70.0, 165.0]),
    ("pink", [245.0, 165.0, 195.0]),
    ("brown", [125.0, 85.0, 55.0]),
    ("gray", [140.0, 140.0, 140.0]),
    ("white", [242.0, 242.0, 242.0]),
    ("black", [28.0, 28.0, 28.0]),
    ("red", [200.0, 50.0, 45.0]),
    ("orange", [240.0, 150.0, 50.0]),
    ("yellow", [245.0, 220.0, 80.0]),
];

/// The named colour that is nearest to the mean of the outermost pixels.
pub(crate) fn border_colour(rgb: &[u8], width: usize, height: usize) -> &'static str {
    const BORDER: usize = 4;
    let (mut sum, mut count) = ([0.0f32; 3], 0.0f32);
    for (i, p) in rgb.chunks_exact(3).enumerate() {
        let (y, x) = (i / width, i % width);
        if y.min(x).min(height - 1 - y).min(width - 1 - x) < BORDER {
            for c in 0..3 {
                sum[c] += f32::from(p[c]);
            }
            count += 1.0;
        }
    }
    let distance =
        |colour: &[f32; 3]| -> f32 { (0..3).map(|c| (sum[c] / count - colour[c]).powi(2)).sum() };
    let nearest = COLOURS
        .iter()
        .min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
    nearest.map_or("", |(name, _)| name)
}
