//! Small graphs, good and hostile.

use prost_of_tract::Message as _;
use time::OffsetDateTime;
use tract_onnx::pb::tensor_shape_proto::Dimension;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Side;
use tract_onnx::pb::type_proto::{Tensor as TensorType, Value as Type};
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto,
};

use super::*;
use crate::config::OnnxConfig;
use crate::frame::Picture;

const FLOAT: i32 = 1;
const INT64: i32 = 7;

fn value(name: &str, kind: i32, shape: &[i64]) -> ValueInfoProto {
    let dim = |d: &i64| Dimension {
        value: Some(match d {
            -1 => Side::DimParam("open".to_owned()),
            d => Side::DimValue(*d),
        }),
        ..Dimension::default()
    };
    let shape = TensorShapeProto {
        dim: shape.iter().map(dim).collect(),
    };
    let tensor = TensorType {
        elem_type: kind,
        shape: Some(shape),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(Type::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn node(kind: &str, from: &[&str], to: &str) -> NodeProto {
    NodeProto {
        op_type: kind.to_owned(),
        input: from.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![to.to_owned()],
        name: to.to_owned(),
        ..NodeProto::default()
    }
}

fn tensor(name: &str, kind: i32, dims: &[i64], ints: &[i64], floats: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: kind,
        dims: dims.to_vec(),
        int64_data: ints.to_vec(),
        float_data: floats.to_vec(),
        ..TensorProto::default()
    }
}

/// A graph whose picture is `x` and whose output is `y`.
fn graph(inputs: Vec<ValueInfoProto>, nodes: Vec<NodeProto>, tensors: Vec<TensorProto>) -> Vec<u8> {
    let graph = GraphProto {
        name: "g".to_owned(),
        input: inputs,
        output: vec![value("y", FLOAT, &[1, 3])],
        node: nodes,
        initializer: tensors,
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: 7,
        opset_import: vec![OperatorSetIdProto {
            version: 11,
            ..OperatorSetIdProto::default()
        }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

/// The means of red, green and blue.
fn means(shape: &[i64]) -> Vec<u8> {
    let nodes = vec![
        node("GlobalAveragePool", &["x"], "mean"),
        node("Flatten", &["mean"], "y"),
    ];
    graph(vec![value("x", FLOAT, shape)], nodes, vec![])
}

const COLOURS: &str = "classes = ['red', 'green', 'blue']\n";

fn load(bytes: Vec<u8>, lines: &str) -> Result<Arc<Network>, String> {
    let config: OnnxConfig = toml::from_str(&format!("{COLOURS}{lines}")).unwrap();
    let names = ["red", "green", "blue"].map(str::to_owned).to_vec();
    Network::load("n.onnx", bytes, &config, names)
}

fn picture(colour: [u8; 3]) -> Picture {
    Picture {
        width: 40,
        height: 30,
        rgb: colour.repeat(40 * 30).into(),
    }
}

#[test]
fn a_network_says_what_is_in_a_picture() {
    let network = load(means(&[1, 3, 8, 8]), "").unwrap();
    let best = |colour| {
        network
            .find(&picture(colour))
            .unwrap()
            .map(|f| (f.class, f.score))
    };
    assert_eq!(best([51, 204, 0]), Some(("green".to_owned(), 0.8)));
    assert_eq!(best([51, 102, 0]), None);
    // Where the graph leaves it open, the configuration says the size.
    let open = load(means(&[-1, 3, -1, -1]), "size = [16, 8]").unwrap();
    let found = open.find(&picture([0, 0, 255])).unwrap();
    assert_eq!(found.unwrap().class, "blue");
}

#[test]
fn what_cannot_be_used_is_refused_in_words() {
    let x = || vec![value("x", FLOAT, &[1, 3, 8, 8])];
    let one = |kind: &str| graph(x(), vec![node(kind, &["x"], "y")], vec![]);
    let shaped = |kind: &str, dims: &[i64]| {
        let nodes = vec![node(kind, &["s"], "huge"), node("Add", &["x", "huge"], "y")];
        let tensors = vec![tensor("s", INT64, &[dims.len() as i64], dims, &[])];
        graph(x(), nodes, tensors)
    };
    // Each is small enough, all of them are not.
    let many = || {
        let made = |n: usize| node("ConstantOfShape", &["s"], &format!("c{n}"));
        let used = |n: usize| {
            let (before, constant) = (format!("x{n}"), format!("c{n}"));
            node("Add", &[&before, &constant], &format!("x{}", n + 1))
        };
        let mut nodes: Vec<NodeProto> = (0..9).map(made).collect();
        nodes.push(node("Relu", &["x"], "x0"));
        nodes.extend((0..9).map(used));
        nodes.push(node("Relu", &["x9"], "y"));
        graph(x(), nodes, vec![tensor("s", INT64, &[1], &[1 << 25], &[])])
    };
    let two = vec![value("x", FLOAT, &[1, 3, 8, 8]), value("z", FLOAT, &[1])];
    let two = graph(two, vec![node("Add", &["x", "z"], "y")], vec![]);
    let lacking = tensor("w", FLOAT, &[1 << 40, 1 << 40], &[], &[]);
    let wide = tensor("w", FLOAT, &[64, 1 << 22], &[], &[]);
    let short = tensor("w", FLOAT, &[1, 3, 8, 8], &[], &[1.0]);
    let add = |t: TensorProto| graph(x(), vec![node("Add", &["x", "w"], "y")], vec![t]);
    let mut gone = graph(x(), vec![node("Add", &["x", "nowhere"], "y")], vec![]);
    gone.truncate(gone.len() - 3);
    for (what, bytes, lines, words) in [
        ("nothing", vec![], "", "no ONNX file"),
        ("noise", b"\xff\xd8 a picture".to_vec(), "", "no ONNX file"),
        ("half", gone, "", ""),
        ("an operator", one("Frobnicate"), "", "Frobnicate"),
        ("two inputs", two, "", "2 inputs"),
        ("its output", one("Relu"), "", "[1, 3]"),
        ("an open size", means(&[1, 3, -1, 8]), "", "watch.onnx.size"),
        ("a size", means(&[1, 3, 9999, 8]), "", "1280"),
        (
            "a negative size",
            means(&[1, 3, -8, 8]),
            "",
            "watch.onnx.size",
        ),
        ("channels", means(&[1, 8, 8, 3]), "", "3 channels"),
        ("dimensions", means(&[3, 8]), "", "4 dimensions"),
        (
            "whole numbers",
            graph(
                vec![value("x", INT64, &[1, 3, 8, 8])],
                vec![node("Relu", &["x"], "y")],
                vec![],
            ),
            "",
            "F32",
        ),
        ("a tensor", add(lacking), "", "\"w\""),
        ("a large tensor", add(wide), "", "\"w\""),
        ("a short tensor", add(short), "", "cannot be used"),
        (
            "a huge constant",
            shaped("ConstantOfShape", &[1 << 40]),
            "",
            "",
        ),
        (
            "a large constant",
            shaped("ConstantOfShape", &[1 << 31]),
            "",
            "",
        ),
        (
            "a vast constant",
            shaped("ConstantOfShape", &[1 << 30]),
            "",
            "[1073741824] values",
        ),
        ("constants", many(), "", "[33554432] values"),
        (
            "a negative constant",
            shaped("ConstantOfShape", &[-5]),
            "",
            "",
        ),
        ("yolo", means(&[1, 3, 8, 8]), "output = 'yolo'", "[1, 7, A]"),
    ] {
        let refused = load(bytes, lines).map(|_| what).unwrap_err();
        println!("{what}: {refused}");
        assert!(refused.contains(words), "{what}: {refused}");
        assert!(!refused.contains('\n'), "{what}: {refused}");
    }
    // The logarithm of what is below 0 is no number.
    let nodes = vec![
        node("GlobalAveragePool", &["x"], "mean"),
        node("Flatten", &["mean"], "flat"),
        node("Log", &["flat"], "y"),
    ];
    let refused = load(graph(x(), nodes, vec![]), "scale = -1").unwrap_err();
    assert!(refused.contains("a score is no number"), "{refused}");
}

/// Whatever byte is changed, the answer is a network or a reason.
#[test]
fn damage_costs_no_more_than_the_network() {
    let good = means(&[1, 3, 8, 8]);
    let mut refused = 0;
    for i in 0..good.len() {
        for change in [1, 0x80] {
            let mut bad = good.clone();
            bad[i] ^= change;
            refused += u32::from(load(bad, "").is_err());
        }
    }
    assert!(refused > good.len() as u32 / 2, "{refused}");
}

#[test]
fn what_appears_rises_once_and_falls_when_it_is_gone() {
    let network = load(means(&[1, 3, 8, 8]), "find = ['red']").unwrap();
    let period = Duration::from_millis(900);
    let mut onnx = Onnx::new(network, Vec::new(), period, Duration::from_secs(2));
    let start = Instant::now();
    // A letter a second: red or nothing; in capitals, while no new event may be made.
    let turns = |onnx: &mut Onnx, from: u64, frames: &str| -> String {
        let turn = |(second, letter): (u64, char)| {
            let red = letter.eq_ignore_ascii_case(&'r');
            let frame = Frame {
                number: second,
                at: OffsetDateTime::UNIX_EPOCH,
                picture: picture([if red { 255 } else { 0 }, 0, 0]),
            };
            let now = start + Duration::from_secs(second);
            match onnx.turn(&frame, now, letter.is_lowercase()) {
                Turn::Nothing => '.',
                Turn::Rises => '+',
                Turn::Stands => '=',
                Turn::Falls => '-',
            }
        };
        (from..).zip(frames.chars()).map(turn).collect()
    };
    assert_eq!(turns(&mut onnx, 0, "nrrnrrrrRRnn"), "......+===-.");
    let Some(Cause::Found { class, score, area }) = ({
        assert_eq!(turns(&mut onnx, 20, "rrr"), "..+");
        onnx.cause()
    }) else {
        panic!("it has found something");
    };
    assert_eq!((&class[..], score, area), ("red", 1.0, None));
    // What could not become an event rises again.
    onnx.missed();
    assert_eq!(
        turns(&mut onnx, 23, "rrNRRRrrr"),
        "+=-...  +".replace(' ', ".")
    );
}
