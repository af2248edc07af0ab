//! A container's matrices in the order of one instruction set's kernels, so that loading it is mapping
//! it. See [`kinglet_model::packed`] for what the file looks like.

use std::collections::BTreeMap;
use std::path::Path;

use kinglet_container::bytes_source::give_back;
use kinglet_container::gguf::{Gguf, Value, Writer};
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::cpu::{InstructionSet, layout, pack as pack_weight};
use kinglet_kernels::{Role, Scalar, WeightData};
use kinglet_model::packed::Packed;
use kinglet_model::{Model, Source, names};

use crate::error::Result;

/// Tiles begin at a cache line, as those that are made while loading do.
const ALIGNMENT: u32 = 64;

/// Writes the GGUF file `from` once more, packed for `set`, to `to`. Returns the number of packed
/// tensors and the bytes of all. `progress` gets the bytes that are done and all of them.
///
/// # Errors
/// [`crate::QuantError`]; `to` is then as it was before.
pub fn pack(
    from: &Path,
    set: InstructionSet,
    to: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(usize, usize)> {
    let gguf = Gguf::open(from)?;
    let source = Source::open(from)?;
    source.unpacked()?;
    if let Some(problem) = Model::audit(&source, &Scalar).into_iter().next() {
        return Err(problem.into());
    }
    let roles = Model::roles(&source, &Scalar);

    // Lengths are known only when a tensor has been packed, and the file begins with them: every tensor
    // is packed twice, one in memory at a time.
    let total: usize = 2 * gguf
        .tensors()
        .iter()
        .map(|(_, t)| t.bytes.len())
        .sum::<usize>();
    let mut done = 0;
    let mut count = |tensor: &Tensor| {
        done += tensor.bytes.len();
        progress(done, total);
    };
    let mut packed = BTreeMap::new();
    let mut tensors = Vec::new();
    let mut bytes = 0;
    for (name, tensor) in gguf.tensors() {
        let (kind, shape) = match tiles(&source, &roles, set, name, tensor)? {
            Some(tiles) => {
                let stored = source.stored(name)?;
                packed.insert(name.clone(), (stored.format, stored.shape.to_vec()));
                let shape = match names::is_experts(name) {
                    true => vec![tensor.shape[0], tiles.len() / tensor.shape[0]],
                    false => vec![tiles.len()],
                };
                bytes += tiles.len();
                (TensorType::I8, shape)
            }
            None => {
                bytes += tensor.bytes.len();
                (tensor.kind, tensor.shape.clone())
            }
        };
        tensors.push((name.clone(), kind, shape));
        count(tensor);
    }
    let packed = Packed {
        layout: layout(set).to_owned(),
        tensors: packed,
    };
    let mut metadata: Vec<(String, Value)> = gguf.metadata().to_vec();
    metadata.retain(|(key, _)| key != "general.alignment");
    metadata.push(("general.alignment".to_owned(), ALIGNMENT.into()));
    metadata.extend(packed.write());
    let mut writer = Writer::create(to, &metadata, &tensors)?;
    for (name, tensor) in gguf.tensors() {
        match tiles(&source, &roles, set, name, tensor)? {
            Some(tiles) => writer.tensor(name, &tiles)?,
            None => writer.tensor(name, &tensor.bytes)?,
        }
        give_back(&tensor.bytes);
        count(tensor);
    }
    writer.finish()?;
    Ok((packed.tensors.len(), bytes))
}

/// A tensor in the set's order; none if it stays as it is.
fn tiles(
    source: &Source,
    roles: &BTreeMap<String, Role>,
    set: InstructionSet,
    name: &str,
    tensor: &Tensor,
) -> Result<Option<Vec<u8>>> {
    let Some(role @ (Role::Matrix | Role::Kernel { .. })) = roles.get(name).copied() else {
        return Ok(None);
    };
    let stored = source.stored(name)?;
    let (experts, shape) = match stored.shape {
        [experts, rest @ ..] if names::is_experts(name) => (*experts, rest),
        shape => (1, shape),
    };
    let [rows, rest @ ..] = shape else {
        return Ok(None);
    };
    let len = tensor.bytes.len() / experts.max(1);
    let mut out = Vec::new();
    for e in 0..experts {
        let data = WeightData {
            role,
            format: stored.format,
            rows: *rows,
            cols: rest.iter().product(),
            bytes: tensor.bytes.slice(e * len..(e + 1) * len),
        };
        let Some(tiles) = pack_weight(set, data)? else {
            return Ok(None);
        };
        match experts {
            1 => out = tiles,
            _ => out.extend(tiles),
        }
    }
    Ok(Some(out))
}

/// The instruction set that `--pack` names: one of them, or `native`, the one that is used here.
///
/// # Errors
/// [`crate::QuantError::Kernel`] if there is none of that name.
pub fn target(name: &str) -> Result<InstructionSet> {
    if name == "native" {
        return Ok(kinglet_kernels::Cpu::from_environment()?.set());
    }
    Ok(InstructionSet::known(name)?)
}
