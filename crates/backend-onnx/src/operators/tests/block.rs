//! A layer's products, norms, sums and gate as one node, against the engine's own nodes.

use ort::value::Tensor;
use tandem_core::backend::Kernels as Whose;
use tandem_kernels::matrix::Kernels;

use super::onnx::{FLOAT, INT64, OneNode, UINT8, file, float_bytes};
use super::{Loaded, floats, numbers, with_engine};

const HIDDEN: usize = 64;
const INNER: usize = 96;

const INPUTS: [&str; 1] = ["context"];
const OUTPUTS: [&str; 3] = ["qkv", "residual", "normed"];

/// The product of `input` with a matrix of `bits`.
fn product<'n>([input, codes, scales, bias, output]: [&'n str; 5], [columns, rows]: [usize; 2], bits: usize) -> OneNode<'n> {
    let seed = codes.len() + rows;
    let bytes: Vec<u8> = (0..rows * columns * bits / 8).map(|i| ((i * i * 7 + i * 13 + seed) % 251) as u8).collect();
    let scale = if bits == 4 { 0.02 } else { 0.001 };
    let steps: Vec<f32> = numbers(rows * columns / 32, seed).iter().map(|step| step * scale).collect();
    let integers = [("K", columns as i64), ("N", rows as i64), ("bits", bits as i64), ("block_size", 32)];
    let mut constants = vec![
        (codes, UINT8, vec![rows, columns / 32, 4 * bits], bytes),
        (scales, FLOAT, vec![rows, columns / 32], float_bytes(&steps)),
    ];
    if !bias.is_empty() {
        constants.push((bias, FLOAT, vec![rows], float_bytes(&numbers(rows, seed))));
    }
    OneNode {
        operator: "MatMulNBits",
        inputs: if bias.is_empty() { vec![input, codes, scales] } else { vec![input, codes, scales, "", "", bias] },
        outputs: vec![output],
        integers: integers.into(),
        constants,
        ..OneNode::default()
    }
}

fn standard<'n>(operator: &'n str, inputs: &[&'n str], output: &'n str) -> OneNode<'n> {
    OneNode { operator, inputs: inputs.into(), outputs: vec![output], ..OneNode::default() }
}

/// The sum of `inputs` and its norm.
fn skip_norm<'n>(inputs: [&'n str; 2], weight: &'n str, outputs: [&'n str; 2]) -> OneNode<'n> {
    OneNode {
        operator: "SkipSimplifiedLayerNormalization",
        inputs: vec![inputs[0], inputs[1], weight],
        outputs: vec![outputs[0], "", "", outputs[1]],
        floats: vec![("epsilon", 1e-5)],
        constants: vec![(weight, FLOAT, vec![HIDDEN], float_bytes(&numbers(HIDDEN, weight.len())))],
        ..OneNode::default()
    }
}

/// From the result of one attention to what the next one takes.
fn layer(gate: Vec<OneNode<'_>>, bits: usize) -> Vec<u8> {
    let out = product(["context", "o.codes", "o.scales", "", "out"], [HIDDEN, HIDDEN], bits);
    let first = OneNode { given: vec![("context", FLOAT, 3)], ..out };
    let mut nodes = vec![
        first,
        // Exporters add a bias within a product, and behind it.
        OneNode {
            constants: vec![("o.bias", FLOAT, vec![HIDDEN], float_bytes(&numbers(HIDDEN, 9)))],
            ..standard("Add", &["out", "o.bias"], "biased")
        },
        standard("Add", &["biased", "out"], "twice"),
        product(["twice", "p.codes", "p.scales", "", "skip"], [HIDDEN, HIDDEN], bits),
        skip_norm(["twice", "skip"], "mlp.norm", ["normed", "sum"]),
        product(["normed", "gate.codes", "gate.scales", "gate.bias", "gate"], [HIDDEN, INNER], bits),
        product(["normed", "up.codes", "up.scales", "", "up"], [HIDDEN, INNER], bits),
    ];
    nodes.extend(gate);
    nodes.extend([
        standard("Mul", &["activated", "up"], "gated"),
        product(["gated", "down.codes", "down.scales", "", "down"], [INNER, HIDDEN], bits),
        skip_norm(["sum", "down"], "attention.norm", ["y", "residual"]),
        product(["y", "qkv.codes", "qkv.scales", "qkv.bias", "qkv"], [HIDDEN, 128], bits),
    ]);
    file(&nodes.iter().collect::<Vec<_>>(), &OUTPUTS.map(|output| (output, 3)))
}

fn gates<'n>() -> [Vec<OneNode<'n>>; 3] {
    let quick = OneNode {
        operator: "QuickGelu",
        inputs: vec!["gate"],
        outputs: vec!["activated"],
        floats: vec![("alpha", 1.0)],
        ..OneNode::default()
    };
    let sigmoid = vec![standard("Sigmoid", &["gate"], "share"), standard("Mul", &["share", "gate"], "activated")];
    let gelu = OneNode { operator: "FastGelu", inputs: vec!["gate"], outputs: vec!["activated"], ..OneNode::default() };
    [vec![quick], sigmoid, vec![gelu]]
}

/// All outputs for `batch` rows of `n` tokens, of which `skipped` come before.
fn results(side: &Loaded, [batch, n]: [usize; 2], skipped: usize) -> Vec<Vec<f32>> {
    let values = numbers((skipped + batch * n) * HIDDEN, 1).split_off(skipped * HIDDEN);
    let outputs = side.run(&[Tensor::from_array(([batch, n, HIDDEN], values)).unwrap().into_dyn()], &[None; 3]);
    outputs.iter().map(|output| floats(output.as_ref().unwrap()).to_vec()).collect()
}

#[test]
fn a_layer_in_one_node_is_the_engines() {
    with_engine(|| {
        for (gate, bits) in (0..gates().len()).flat_map(|gate| [(gate, 4), (gate, 8)]) {
            let bytes = layer(gates().into_iter().nth(gate).unwrap(), bits);
            let [own, theirs] = [Whose::Tandem, Whose::Runtime].map(|whose| Loaded::new(&bytes, whose, [&INPUTS, &OUTPUTS]));
            for shape in [[1, 1], [1, 3], [1, 8], [2, 9], [3, 40]] {
                let (own, theirs) = (results(&own, shape, 0), results(&theirs, shape, 0));
                for (name, (own, theirs)) in OUTPUTS.iter().zip(own.iter().zip(&theirs)) {
                    assert_eq!(own.len(), theirs.len(), "{name}");
                    let most = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                    for (own, theirs) in own.iter().zip(theirs) {
                        assert!(
                            (own - theirs).abs() <= 1e-5 * most,
                            "gate {gate}, {bits} bits, {shape:?}, {name}: {own} {theirs}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn rows_of_a_block_do_not_depend_on_others() {
    with_engine(|| {
        let [gate, ..] = gates();
        let bytes = layer(gate, 4);
        let side = Loaded::with_kernels(&bytes, Whose::Tandem, [&INPUTS, &OUTPUTS], Kernels::ByShape);
        let together = results(&side, [1, 21], 0);
        for (first, n) in [(0, 1), (3, 2), (7, 14), (20, 1)] {
            for (alone, together) in results(&side, [1, n], first).iter().zip(&together) {
                let width = alone.len() / n;
                assert_eq!(alone[..], together[first * width..(first + n) * width], "{n} from {first} on");
            }
        }
    });
}

/// Queries, keys and values of one product, of which the heads of the first two are normalised.
fn normed_heads() -> Vec<u8> {
    let integers = |name, values: &[i64]| {
        (name, INT64, vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    };
    let packed = product(["context", "codes", "scales", "bias", "packed"], [HIDDEN, 4 * HEAD], 4);
    let mut nodes = vec![
        OneNode { given: vec![("context", FLOAT, 3)], ..packed },
        OneNode {
            operator: "Split",
            inputs: vec!["packed", "sizes"],
            outputs: vec!["q", "k", "v"],
            integers: vec![("axis", -1)],
            constants: vec![integers("sizes", &[2, 1, 1].map(|n| n * HEAD as i64))],
            ..OneNode::default()
        },
    ];
    for ([value, heads, normed, output, to_heads, to_rows, weight], n) in [
        (["q", "q.heads", "q.normed", "queries", "q.to_heads", "q.to_rows", "q.weight"], 2),
        (["k", "k.heads", "k.normed", "keys", "k.to_heads", "k.to_rows", "k.weight"], 1),
    ] {
        let head = HEAD as i64;
        let constants = vec![integers(to_heads, &[0, 0, n, head]), integers(to_rows, &[0, 0, n * head])];
        nodes.push(OneNode { constants, ..standard("Reshape", &[value, to_heads], heads) });
        let constants = vec![(weight, FLOAT, vec![HEAD], float_bytes(&numbers(HEAD, n as usize)))];
        nodes.push(OneNode {
            floats: vec![("epsilon", 1e-5)],
            constants,
            ..standard("SimplifiedLayerNormalization", &[heads, weight], normed)
        });
        nodes.push(standard("Reshape", &[normed, to_rows], output));
    }
    file(&nodes.iter().collect::<Vec<_>>(), &HEADS.map(|output| (output, 3)))
}

const HEAD: usize = 16;
const HEADS: [&str; 3] = ["queries", "keys", "v"];

#[test]
fn heads_that_are_normalised_in_a_block_are_the_engines() {
    with_engine(|| {
        let bytes = normed_heads();
        let [own, theirs] = [Whose::Tandem, Whose::Runtime].map(|whose| Loaded::new(&bytes, whose, [&INPUTS, &HEADS]));
        for shape in [[1, 1], [1, 9], [2, 5], [1, 700]] {
            let (own, theirs) = (results(&own, shape, 0), results(&theirs, shape, 0));
            for (name, (own, theirs)) in HEADS.iter().zip(own.iter().zip(&theirs)) {
                assert_eq!(own.len(), theirs.len(), "{name}");
                let most = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                for (own, theirs) in own.iter().zip(theirs) {
                    assert!((own - theirs).abs() <= 1e-5 * most, "{shape:?}, {name}: {own} {theirs}");
                }
            }
        }
    });
}

#[test]
fn no_rows_are_no_rows() {
    with_engine(|| {
        let [gate, ..] = gates();
        let side = Loaded::new(&layer(gate, 8), Whose::Tandem, [&INPUTS, &OUTPUTS]);
        assert!(results(&side, [1, 0], 0).iter().all(Vec::is_empty));
    });
}
