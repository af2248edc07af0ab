//! The autoencoder's decoder: latents to a picture. The arithmetic of
//! [`kinglet_model::autoencoder::Autoencoder::decode`].

use kinglet_model::{ModelError, Source};

use super::nodes::{Nodes, Value};
use super::{Part, Size};
use crate::error::Result;

/// The size of pictures if none is asked for: that of drawings.
pub(super) fn usual(source: &Source) -> Size {
    let c = &source.config.latent;
    let side = c.rule.max / c.token_pixels() * c.token_pixels();
    (side, side)
}

/// Builds the graph for pictures of this size.
pub(super) fn build(nodes: &mut Nodes<'_>, size: Size) -> Result<Part> {
    let source = nodes.source;
    let c = source.config.latent.clone();
    super::fits(size, c.token_pixels(), c.token_pixels(), c.position_side)?;
    if !c.downsample.is_power_of_two() {
        return Err(ModelError::Config {
            source_name: source.name.clone(),
            field: "latent downsampling".to_owned(),
            value: c.downsample.to_string(),
            expected: "a power of two is expected".to_owned(),
        }
        .into());
    }
    let levels = c.downsample.ilog2() as usize + 1;

    let (columns, rows) = (size.0 / c.downsample, size.1 / c.downsample);
    let latents = Value {
        name: "latents".to_owned(),
        shape: vec![1, c.channels, rows, columns],
    };
    let (factor, shift) = (nodes.number(1.0 / c.scale), nodes.number(c.shift));
    let x = nodes.mul("latents.scaled", &latents, &factor);
    let x = nodes.add("latents.shifted", &x, &shift);
    let x = nodes.conv("vae.decoder.conv_in", &x, 3)?;
    let x = resnet(nodes, "vae.decoder.mid.block_1", &x, c.groups)?;
    let x = attention(nodes, "vae.decoder.mid.attn_1", &x, c.groups)?;
    let mut x = resnet(nodes, "vae.decoder.mid.block_2", &x, c.groups)?;
    for level in (0..levels).rev() {
        let level_name = format!("vae.decoder.up.{level}");
        let mut block = 0;
        // How many blocks a level has is what is stored, at least one.
        loop {
            let name = format!("{level_name}.block.{block}");
            let first = format!("{name}.conv1.weight");
            if block > 0 && !source.tensors.contains_key(&first) {
                break;
            }
            x = resnet(nodes, &name, &x, c.groups)?;
            block += 1;
        }
        if level > 0 {
            let name = format!("{level_name}.upsample");
            x = nodes.upsample(&name, &x);
            x = nodes.conv(&format!("{name}.conv"), &x, 3)?;
        }
    }
    let n = nodes.group_norm("vae.decoder.norm_out", &x, c.groups)?;
    let n = nodes.swish("vae.decoder.norm_out", &n);
    let x = nodes.conv("vae.decoder.conv_out", &n, 3)?;
    if x.shape[1] != 3 {
        return Err(ModelError::TensorShape {
            source_name: source.name.clone(),
            tensor: "vae.decoder.conv_out.weight".to_owned(),
            got: vec![x.shape[1], n.shape[1], 3, 3],
            expected: vec![3, n.shape[1], 3, 3],
        }
        .into());
    }
    nodes.used_all(&["vae.decoder."])?;
    Ok(Part {
        input: latents,
        input_meaning: format!(
            "scaled latents, as a drawing ends with them (the graph itself divides by {} and adds {})",
            c.scale, c.shift
        ),
        output: nodes.finish(x, "picture"),
        output_meaning: "RGB; 8 bits are clamp(v / 2 + 0.5, 0, 1) * 255, truncated".to_owned(),
    })
}

/// Two convolutions with their norms, added to what came in.
fn resnet(nodes: &mut Nodes<'_>, name: &str, x: &Value, groups: usize) -> Result<Value> {
    let part = |part: &str| format!("{name}.{part}");
    let mut inner = x.clone();
    for (norm, conv) in [("norm1", "conv1"), ("norm2", "conv2")] {
        let n = nodes.group_norm(&part(norm), &inner, groups)?;
        let n = nodes.swish(&part(norm), &n);
        inner = nodes.conv(&part(conv), &n, 3)?;
    }
    let past = if inner.shape == x.shape {
        x.clone()
    } else {
        nodes.conv(&part("nin_shortcut"), x, 1)?
    };
    Ok(nodes.add(&part("added"), &past, &inner))
}

/// Attention of one head over all pixels.
fn attention(nodes: &mut Nodes<'_>, name: &str, x: &Value, groups: usize) -> Result<Value> {
    let part = |part: &str| format!("{name}.{part}");
    let n = nodes.group_norm(&part("norm"), x, groups)?;
    let mut pixels = |conv: &str| -> Result<Value> {
        let values = nodes.conv(&part(conv), &n, 1)?;
        let rest = values.shape[2] * values.shape[3];
        let flat = [1, 1, values.shape[1], rest];
        Ok(nodes.reshape(&part(&format!("{conv}.pixels")), &values, &flat))
    };
    let (q, k, v) = (pixels("q")?, pixels("k")?, pixels("v")?);
    let q = nodes.transpose(&part("q.rows"), &q, &[0, 1, 3, 2]);
    let v = nodes.transpose(&part("v.rows"), &v, &[0, 1, 3, 2]);
    let mixed = nodes.attention(name, &q, &k, &v);
    let mixed = nodes.transpose(&part("mixed.channels"), &mixed, &[0, 1, 3, 2]);
    let shape = [1, mixed.shape[2], x.shape[2], x.shape[3]];
    let mixed = nodes.reshape(&part("mixed.picture"), &mixed, &shape);
    let out = nodes.conv(&part("proj_out"), &mixed, 1)?;
    Ok(nodes.add(&part("added"), x, &out))
}
