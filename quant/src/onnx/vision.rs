//! The vision encoder and the connector: a picture to the rows that enter the language half. The
//! arithmetic of [`kinglet_model::vision`].

use kinglet_model::vision::grid;

use super::nodes::{Nodes, Value};
use super::weights::Order;
use super::{Part, Size};
use crate::error::Result;

/// The size of pictures if none is asked for: the largest square of the model's rule.
pub(super) fn usual(source: &kinglet_model::Source) -> Size {
    let rule = source.config.vision.rule;
    let side = rule.max / rule.stride * rule.stride;
    (side, side)
}

/// Builds the graph for pictures of this size.
pub(super) fn build(nodes: &mut Nodes<'_>, size: Size) -> Result<Part> {
    let config = &nodes.source.config;
    let (v, hidden) = (config.vision.clone(), config.language.hidden);
    super::fits(size, v.rule.stride, v.patch, v.position_side)?;
    let tables = [
        ("v.position_embd.weight", v.hidden),
        ("mm.position_embd.weight", hidden),
    ];
    for (table, width) in tables {
        // Before as many places are listed.
        nodes.check(table, &[v.position_side * v.position_side, width])?;
    }
    let (columns, rows) = (size.0 / v.patch, size.1 / v.patch);
    let places = grid(rows, columns, v.position_side)?;
    let patches = places.len();

    let picture = Value {
        name: "picture".to_owned(),
        shape: vec![1, 3, size.1, size.0],
    };
    let name = "v.patch_embd.weight";
    nodes.check(name, &[v.hidden, v.patch * v.patch * 3])?;
    let order = Order::Kernel { channels: 3 };
    let kernel = nodes.stored(name, order, &[v.hidden, 3, v.patch, v.patch]);
    let x = nodes.convolve("v.patch_embd", &picture, &kernel, (v.patch, 0))?;
    let x = nodes.reshape("v.patches", &x, &[1, v.hidden, patches]);
    let x = nodes.transpose("v.rows", &x, &[0, 2, 1]);
    let [positions, connector_positions] = tables.map(|(table, width)| {
        let order = Order::Rows(places.clone());
        nodes.stored(table, order, &[1, patches, width])
    });
    let mut x = nodes.add("v.placed", &x, &positions);

    for i in 0..v.blocks {
        let name = |part: &str| format!("v.blk.{i}.{part}");
        let n = nodes.layer_norm(&name("ln1"), &x, v.epsilon)?;
        let heads = [1, patches, v.heads, v.hidden / v.heads];
        let mut split = |part: &str, axes: &[usize]| -> Result<Value> {
            let rows = nodes.linear(&name(part), &n, v.hidden)?;
            let rows = nodes.reshape(&name(&format!("{part}.heads")), &rows, &heads);
            Ok(nodes.transpose(&name(&format!("{part}.by_head")), &rows, axes))
        };
        let q = split("attn_q", &[0, 2, 1, 3])?;
        let k = split("attn_k", &[0, 2, 3, 1])?;
        let value = split("attn_v", &[0, 2, 1, 3])?;
        let mixed = nodes.attention(&name("attn"), &q, &k, &value);
        let mixed = nodes.transpose(&name("attn.by_row"), &mixed, &[0, 2, 1, 3]);
        let mixed = nodes.reshape(&name("attn.joined"), &mixed, &x.shape);
        let out = nodes.linear(&name("attn_out"), &mixed, v.hidden)?;
        x = nodes.add(&name("attn.added"), &x, &out);

        let n = nodes.layer_norm(&name("ln2"), &x, v.epsilon)?;
        let inner = nodes.linear(&name("ffn_up"), &n, v.feed_forward)?;
        let inner = nodes.gelu_tanh(&name("ffn_up"), &inner);
        let out = nodes.linear(&name("ffn_down"), &inner, v.hidden)?;
        x = nodes.add(&name("ffn.added"), &x, &out);
    }
    let x = nodes.layer_norm("v.post_ln", &x, v.epsilon)?;

    let x = nodes.linear("mm.0", &x, hidden)?;
    let x = nodes.gelu_tanh("mm.0", &x);
    let x = nodes.linear("mm.2", &x, hidden)?;
    let x = nodes.add("mm.placed", &x, &connector_positions);
    nodes.used_all(&["v.", "mm."])?;
    Ok(Part {
        input: picture,
        input_meaning: "RGB, of this size already, values (v / 255 - 0.5) / 0.5 of 8 bits: -1 to 1"
            .to_owned(),
        output: nodes.finish(x, "tokens"),
        output_meaning: format!(
            "one row a patch of {0} x {0} pixels, in raster order: what enters the language half \
             between the two tokens that mark a picture, position embedding included",
            v.patch
        ),
    })
}
