//! Exported graphs, run by another program (tract), against this implementation and the golden vectors.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use kinglet_container::tensors::SafeTensors;
use kinglet_container::{Tensor, TensorType};
use kinglet_kernels::{Device, Scalar};
use kinglet_model::autoencoder::Autoencoder;
use kinglet_model::linear::Loader;
use kinglet_model::vision::Vision;
use kinglet_model::{Picture, Source};
use kinglet_quant::onnx::{Exported, Graph, Size, export};
use tempfile::TempDir;
use tract_onnx::prelude::{Framework, InferenceModelExt, Tensor as TractTensor, tvec};

/// The largest difference from our own path, as a share of the largest value.
const NEAR: f32 = 2e-5;

/// What converters for accelerators are known to take.
const PLAIN: &[&str] = &[
    "Add",
    "Conv",
    "Div",
    "InstanceNormalization",
    "MatMul",
    "Mul",
    "ReduceMean",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Softmax",
    "Sqrt",
    "Sub",
    "Tanh",
    "Transpose",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden() -> Source {
    Source::open(&root().join("tests/golden/checkpoint")).unwrap()
}

fn bundled() -> Source {
    Source::open(&root().join("runtime/assets/kinglet-tiny.gguf")).unwrap()
}

/// The golden checkpoint with experts: the dense one with two files replaced.
fn adapted(folder: &Path) -> Source {
    for (from, file) in [
        ("checkpoint", "ae.safetensors"),
        ("checkpoint", "config.json"),
        ("checkpoint", "vit_config.json"),
        ("checkpoint", "tokenizer.json"),
        ("moe", "ema.safetensors"),
        ("moe", "llm_config.json"),
    ] {
        let from = root().join("tests/golden").join(from).join(file);
        std::fs::copy(from, folder.join(file)).unwrap();
    }
    Source::open(folder).unwrap()
}

fn exported(
    source: &Source,
    graph: Graph,
    size: Option<Size>,
    folder: &TempDir,
) -> (Exported, PathBuf) {
    let out = folder.path().join("graph.onnx");
    let exported = export(source, graph, size, &out, &mut |_, _| {}).unwrap();
    assert_eq!(
        std::fs::metadata(&out).unwrap().len(),
        exported.bytes as u64
    );
    (exported, out)
}

/// What tract makes of a graph.
fn run(path: &Path, shape: &[usize], input: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let model = tract_onnx::onnx().model_for_path(path).unwrap();
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    let input = TractTensor::from_shape(shape, input).unwrap();
    let outputs = model.run(tvec!(input.into())).unwrap();
    assert_eq!(outputs.len(), 1);
    let values = outputs[0].as_slice::<f32>().unwrap().to_vec();
    (outputs[0].shape().to_vec(), values)
}

/// The largest difference, as a share of the largest value expected.
fn apart(expected: &[f32], got: &[f32]) -> f32 {
    assert_eq!(expected.len(), got.len());
    let most = |v: f32, w: f32| if w.is_nan() { w } else { v.max(w) };
    let largest = expected.iter().map(|v| v.abs()).fold(0.0, most);
    let off = expected.iter().zip(got).map(|(e, g)| (e - g).abs());
    off.fold(0.0, most) / largest
}

fn near(what: &str, expected: &[f32], got: &[f32]) {
    let apart = apart(expected, got);
    println!("onnx: {what}: {} values, off by {apart:.1e}", got.len());
    assert!(apart <= NEAR, "{what} is off by {apart:.1e}");
}

fn channels_first(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    let at = |i: usize| values[i % pixels * channels + i / pixels];
    (0..values.len()).map(at).collect()
}

fn channels_last(values: &[f32], channels: usize) -> Vec<f32> {
    channels_first(values, values.len() / channels)
}

/// Numbers in 0..1 without any order, the same ones every time.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..count).map(next).collect()
}

/// Colours that change slowly, with noise.
fn picture((width, height): Size) -> Picture {
    let noise = noise(width * height * 3);
    let value = |i: usize| {
        let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        let wave = (x as f32 * 0.11 + y as f32 * 0.07 * (c + 1) as f32).sin();
        (128.0 + 90.0 * wave + 36.0 * noise[i]) as u8
    };
    let rgb = (0..width * height * 3).map(value).collect();
    Picture::from_rgb(width, height, rgb).unwrap()
}

fn loader(source: &Source) -> Loader<'_, Scalar> {
    Loader {
        device: &Scalar,
        source,
        audit: None,
    }
}

/// Our own tokens of a picture, with weights in f32.
fn tokens(source: &Source, picture: &Picture) -> Vec<f32> {
    let vision = Vision::load(loader(source), &source.config).unwrap();
    let rows = vision.see(&Scalar, picture, &mut None).unwrap();
    Scalar.download(&rows).unwrap()
}

/// Our own picture of latents `[channels, height, width]`, as planes.
fn pixels(source: &Source, latents: &[f32], (width, height): Size) -> Vec<f32> {
    let channels = source.config.latent.channels;
    let autoencoder = Autoencoder::load(loader(source), &source.config).unwrap();
    let latents = Scalar
        .upload(&channels_last(latents, channels), channels)
        .unwrap();
    let picture = autoencoder.decode(&Scalar, &latents, height, width);
    channels_first(&Scalar.download(&picture.unwrap()).unwrap(), 3)
}

fn same_tokens(what: &str, source: &Source, size: Option<Size>) {
    let folder = tempfile::tempdir().unwrap();
    let (exported, path) = exported(source, Graph::Vision, size, &folder);
    let (width, height) = size.unwrap_or(Graph::Vision.usual_size(source));
    let v = &source.config.vision;
    let rows = width / v.patch * (height / v.patch);
    let (name, shape) = &exported.input;
    assert_eq!(
        (&name[..], &shape[..]),
        ("picture", &[1, 3, height, width][..])
    );
    let picture = picture((width, height));
    let planes = channels_first(&picture.normalised(), 3);
    let (shape, got) = run(&path, shape, &planes);
    assert_eq!(shape, [1, rows, source.config.language.hidden]);
    assert_eq!(exported.output, ("tokens".to_owned(), shape));
    let what = format!("{what}, vision, {width} x {height}");
    near(&what, &tokens(source, &picture), &got);
}

fn same_pixels(what: &str, source: &Source, size: Option<Size>) {
    let folder = tempfile::tempdir().unwrap();
    let (exported, path) = exported(source, Graph::VaeDecoder, size, &folder);
    let (width, height) = size.unwrap_or(Graph::VaeDecoder.usual_size(source));
    let c = &source.config.latent;
    let small = (width / c.downsample, height / c.downsample);
    let (name, shape) = &exported.input;
    let expected = [1, c.channels, small.1, small.0];
    assert_eq!((&name[..], &shape[..]), ("latents", &expected[..]));
    let latents: Vec<f32> = noise(shape.iter().product())
        .iter()
        .map(|v| 4.0 * v - 2.0)
        .collect();
    let (shape, got) = run(&path, shape, &latents);
    assert_eq!(shape, [1, 3, height, width]);
    assert_eq!(exported.output, ("picture".to_owned(), shape));
    let what = format!("{what}, vae-decoder, {width} x {height}");
    near(&what, &pixels(source, &latents, small), &got);
}

#[test]
fn tract_sees_what_the_golden_checkpoint_sees() {
    let source = golden();
    same_tokens("golden", &source, None);
    same_tokens("golden", &source, Some((56, 42)));
    same_tokens("golden", &source, Some((98, 98)));
    let folder = tempfile::tempdir().unwrap();
    same_tokens("golden, adapted", &adapted(folder.path()), Some((42, 56)));
}

#[test]
fn tract_sees_what_the_bundled_model_sees() {
    let source = bundled();
    same_tokens("bundled", &source, None);
    let stride = source.config.vision.rule.stride;
    same_tokens("bundled", &source, Some((5 * stride, 3 * stride)));
}

#[test]
fn tract_decodes_what_the_golden_checkpoint_decodes() {
    let source = golden();
    same_pixels("golden", &source, None);
    same_pixels("golden", &source, Some((48, 80)));
}

#[test]
fn tract_decodes_what_the_bundled_model_decodes() {
    let source = bundled();
    same_pixels("bundled", &source, None);
    let unit = source.config.latent.token_pixels();
    same_pixels("bundled", &source, Some((5 * unit, 3 * unit)));
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.kind, TensorType::F32);
    let (values, _) = tensor.bytes.as_chunks::<4>();
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn tract_meets_the_golden_vectors() {
    let open = |file: &str| {
        let path = root().join("tests/golden/goldens").join(file);
        SafeTensors::open(&path).unwrap()
    };
    let source = golden();
    let folder = tempfile::tempdir().unwrap();

    let inputs = open("preprocess.safetensors");
    let planes = inputs.get("und.vit_tensor").unwrap();
    let [.., height, width] = planes.shape[..] else {
        panic!("a picture has sides");
    };
    let (made, path) = exported(&source, Graph::Vision, Some((width, height)), &folder);
    let (_, got) = run(&path, &made.input.1, &floats(planes));
    let vit = open("vit.safetensors");
    let expected = floats(vit.get("connector_out_plus_pos").unwrap());
    near("golden vector connector_out_plus_pos", &expected, &got);

    let vae = open("vae.safetensors");
    for (input, output) in [
        ("decode.latent_nchw", "decode.image_float"),
        ("encode.latent_mean", "roundtrip.decode_of_mean"),
    ] {
        let expected = vae.get(output).unwrap();
        let [.., height, width] = expected.shape[..] else {
            panic!("a picture has sides");
        };
        let (made, path) = exported(&source, Graph::VaeDecoder, Some((width, height)), &folder);
        let (_, got) = run(&path, &made.input.1, &floats(vae.get(input).unwrap()));
        near(&format!("golden vector {output}"), &floats(expected), &got);
    }
}

#[test]
fn a_file_says_what_it_is_in_plain_operators() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden();
    for graph in Graph::ALL {
        let (made, path) = exported(&source, *graph, None, &folder);
        let model = tract_onnx::onnx().proto_model_for_path(&path).unwrap();
        assert_eq!(model.producer_name, "kinglet");
        assert_eq!(model.producer_version, env!("CARGO_PKG_VERSION"));
        assert!(model.opset_import[0].version <= 17);
        let property = |key: &str| {
            let mut properties = model.metadata_props.iter();
            properties.find(|p| p.key == key).unwrap().value.clone()
        };
        assert_eq!(property("kinglet.graph"), graph.name());
        assert_eq!(property("kinglet.source.sha256").len(), 64);
        let content = model.graph.unwrap();
        assert_eq!(content.node.len(), made.nodes);
        for node in &content.node {
            assert!(PLAIN.contains(&&node.op_type[..]), "{}", node.op_type);
        }
        for value in content.input.iter().chain(&content.output) {
            assert!(!value.doc_string.is_empty(), "{}", value.name);
        }
        // Names are unique, and every value is used.
        let mut names: Vec<&str> = content.initializer.iter().map(|t| &t.name[..]).collect();
        names.extend(content.node.iter().flat_map(|n| &n.output).map(|n| &n[..]));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(all, names.len());
        let used = |name: &&&str| {
            content
                .node
                .iter()
                .any(|n| n.input.iter().any(|i| i == **name))
        };
        let unused: Vec<_> = names.iter().filter(|n| !used(n)).collect();
        assert_eq!(unused, [&&made.output.0[..]]);
    }
}

#[test]
fn the_same_source_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden();
    for graph in Graph::ALL {
        let (_, path) = exported(&source, *graph, None, &folder);
        let first = std::fs::read(&path).unwrap();
        let (_, path) = exported(&source, *graph, None, &folder);
        assert!(first == std::fs::read(&path).unwrap(), "{graph:?}");
    }
}

/// What is said, in one line; nothing is written, and what was there stays.
fn refused(source: &Source, graph: Graph, size: Option<Size>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("graph.onnx");
    std::fs::write(&out, "before").unwrap();
    let text = export(source, graph, size, &out, &mut |_, _| {})
        .unwrap_err()
        .to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(std::fs::read(&out).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    text
}

#[test]
fn sizes_that_the_model_cannot_take_are_refused() {
    let source = golden();
    for size in [(0, 14), (14, 0), (15, 28), (28, 112), (usize::MAX, 14)] {
        let text = refused(&source, Graph::Vision, Some(size));
        assert!(text.contains("multiples of 14 from 14 to 98"), "{text}");
    }
    for size in [(0, 16), (16, 24), (144, 16), (16, usize::MAX - 15)] {
        let text = refused(&source, Graph::VaeDecoder, Some(size));
        assert!(text.contains("multiples of 16 from 16 to 128"), "{text}");
    }
}

#[test]
fn parts_that_are_missing_damaged_or_too_many_are_named() {
    for (graph, tensor) in [
        (Graph::Vision, "v.patch_embd.weight"),
        (Graph::Vision, "v.blk.1.attn_k.bias"),
        (Graph::Vision, "v.post_ln.bias"),
        (Graph::Vision, "mm.2.weight"),
        (Graph::Vision, "mm.position_embd.weight"),
        (Graph::VaeDecoder, "vae.decoder.conv_in.weight"),
        (Graph::VaeDecoder, "vae.decoder.mid.attn_1.v.bias"),
        (Graph::VaeDecoder, "vae.decoder.up.3.block.0.conv1.weight"),
        (Graph::VaeDecoder, "vae.decoder.up.1.upsample.conv.weight"),
        (Graph::VaeDecoder, "vae.decoder.norm_out.weight"),
    ] {
        let mut source = golden();
        let whole = source.tensors.remove(tensor).unwrap();
        let text = refused(&source, graph, None);
        assert!(text.contains(&format!("\"{tensor}\" is missing")), "{text}");

        let mut wrong = whole.clone();
        wrong.shape.push(1);
        source.tensors.insert(tensor.to_owned(), wrong);
        let text = refused(&source, graph, None);
        assert!(text.contains(&format!("\"{tensor}\" is [")), "{text}");

        let mut damaged = whole.clone();
        damaged.bytes = vec![0xff; whole.bytes.len()].into();
        source.tensors.insert(tensor.to_owned(), damaged);
        let text = refused(&source, graph, None);
        assert!(text.contains(&format!("\"{tensor}\" holds NaN")), "{text}");

        let other = format!("{tensor}.too");
        source.tensors.insert(tensor.to_owned(), whole.clone());
        source.tensors.insert(other.clone(), whole);
        let text = refused(&source, graph, None);
        assert!(
            text.contains(&format!("\"{other}\" is not expected")),
            "{text}"
        );
    }
}

#[test]
fn groups_that_do_not_divide_the_channels_are_refused() {
    let mut source = golden();
    source.config.latent.groups = 7;
    let text = refused(&source, Graph::VaeDecoder, None);
    assert!(text.contains("must divide the"), "{text}");
}
