//! `kinglet bench`: how fast this machine multiplies, as a share of its own limits.

use kinglet_kernels::cpu::timed::{COLD, Product};
use kinglet_kernels::{Cpu, Device, Format, Roof};
use serde_json::json;

use super::floor;
use crate::cli::Cli;
use crate::failure::Outcome;

/// Outputs and inputs: a layer of the 7B model.
const SIDE: usize = 3584;
/// One token of a text, and a picture's tokens.
const TOKENS: [usize; 2] = [1, 256];
const FORMATS: [Format; 3] = [Format::Q8_0, Format::Q4_0, Format::Q4_K];

pub(crate) fn run(cli: &Cli) -> Outcome {
    let cpu = Cpu::from_environment()?;
    let roof = Roof::measure(cpu.set());
    let giga =
        |limit: Option<f64>| limit.map_or("unknown".to_owned(), |v| format!("{:.0}", v / 1e9));
    let (integers, floats) = (giga(roof.integers), giga(roof.floats));
    let mut text = format!(
        "{}\nlimits: {integers} Gop/s on 8-bit integers, {floats} on floats, {:.1} GB/s read from memory",
        cpu.describe(),
        roof.read / 1e9
    );
    let mut products = Vec::new();
    for format in FORMATS {
        for tokens in TOKENS {
            let product = Product::new(cpu, format, (SIDE, SIDE, tokens), COLD)?;
            let seconds = product.seconds(3)?;
            let operations = 2.0 * (SIDE * SIDE * tokens) as f64 / seconds;
            // One token is bound by reading the weight, many by multiplying.
            let share = if tokens == 1 {
                Some((SIDE * format.row_bytes(SIDE)?) as f64 / seconds / roof.read)
            } else {
                roof.integers.map(|limit| operations / limit)
            };
            let of = if tokens == 1 {
                "reading"
            } else {
                "multiplying"
            };
            text += &format!(
                "\n{format:5} {SIDE} x {SIDE}, {tokens:3} tokens: {:7.1} Gop/s{}",
                operations / 1e9,
                share.map_or(String::new(), |s| format!(", {:.0} % of {of}", 100.0 * s))
            );
            products.push(json!({
                "format": format.name(),
                "outputs": SIDE,
                "inputs": SIDE,
                "tokens": tokens,
                "operations_per_second": operations,
                "share": share,
                "limit": of,
            }));
        }
    }
    let stages = floor::measure(cli, cpu, &roof)?.unwrap_or_default();
    for timed in &stages {
        text += &format!(
            "\n{}: {:.1} ms, at least {:.2} ms by these limits: {:.0} %",
            timed.stage,
            1e3 * timed.seconds,
            1e3 * timed.floor,
            100.0 * timed.share
        );
    }
    let result = json!({
        "kernels": cpu.set().name(),
        "device": cpu.describe(),
        "integer_operations_per_second": roof.integers,
        "float_operations_per_second": roof.floats,
        "bytes_read_per_second": roof.read,
        "model": stages,
        "products": products,
    });
    super::print(cli.json, &result, &text)
}
