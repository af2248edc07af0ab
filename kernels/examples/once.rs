//! One product of each size, on one thread, for counting its instructions (`tools/bench counts`): quantizing the
//! activations is part of it, and so is laying the weight out.
//!
//! `once FORMAT [ROWS INPUTS TOKENS]`

use kinglet_kernels::cpu::timed::Product;
use kinglet_kernels::{Cpu, Format};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("once FORMAT [ROWS INPUTS TOKENS]")?;
    let format = Format::ALL.iter().find(|f| f.name() == name);
    let format = *format.ok_or_else(|| format!("{name} is no format"))?;
    let mut size = [256, 512, 64];
    for (size, text) in size.iter_mut().zip(arguments) {
        *size = text.parse()?;
    }
    let [rows, inputs, tokens] = size;
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build_global()?;
    let cpu = Cpu::from_environment()?;
    for tokens in [1, tokens] {
        Product::new(cpu, format, (rows, inputs, tokens), 0)?.seconds(1)?;
    }
    Ok(())
}
