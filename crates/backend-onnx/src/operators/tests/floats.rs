//! Products with floats of 32 and 16 bits in rows: those of the engine, and to the bit those of the kernels by themselves.

use half::{bf16, f16};
use ort::value::Tensor;
use tandem_core::backend::{Kernels as Whose, Numerics};
use tandem_core::huge_pages;
use tandem_kernels::matrix::{Kernels, MatrixView, Terms, Weights};

use super::onnx::{BFLOAT16, FLOAT, FLOAT16, OneNode, file, float_bytes};
use super::{Loaded, floats, numbers, with_engine};

/// A width that is not one of whole vectors.
const COLUMNS: usize = 97;
const ROWS: [usize; 2] = [71, 40];
const OUTPUTS: [&str; 2] = ["y", "z"];

/// The weights of one matrix, as they are stored.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Stored {
    fn all(rows: usize) -> [Self; 3] {
        let values = numbers(rows * COLUMNS, rows);
        [
            Self::F16(values.iter().map(|value| f16::from_f32(*value)).collect()),
            Self::Bf16(values.iter().map(|value| bf16::from_f32(*value)).collect()),
            Self::F32(values),
        ]
    }

    fn constant<'n>(&self, name: &'n str, rows: usize) -> (&'n str, u64, Vec<usize>, Vec<u8>) {
        let (kind, bytes) = match self {
            Self::F32(values) => (FLOAT, float_bytes(values)),
            Self::F16(values) => (FLOAT16, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Self::Bf16(values) => (BFLOAT16, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        };
        (name, kind, vec![rows, COLUMNS], bytes)
    }

    fn matrix(&self, rows: usize) -> MatrixView<'_> {
        let weights = match self {
            Self::F32(values) => Weights::F32(values),
            Self::F16(values) => Weights::F16(values),
            Self::Bf16(values) => Weights::Bf16(values),
        };
        MatrixView::new(weights, [rows, COLUMNS], Numerics::Exact)
    }
}

/// Two products of the same input, the first with a bias.
fn graph([first, second]: [&Stored; 2], bias: &[f32]) -> Vec<u8> {
    let product = |stored: &Stored, [name, widened, output]: [&'static str; 3], rows| {
        let is_wide = matches!(stored, Stored::F32(_));
        let cast = OneNode {
            operator: "Cast",
            inputs: vec![name],
            outputs: vec![widened],
            integers: vec![("to", 1)],
            constants: vec![stored.constant(name, rows)],
            ..OneNode::default()
        };
        let node = OneNode {
            operator: "FusedMatMul",
            inputs: vec!["x", if is_wide { name } else { widened }],
            outputs: vec![output],
            integers: vec![("transB", 1)],
            constants: if is_wide { vec![stored.constant(name, rows)] } else { vec![] },
            ..OneNode::default()
        };
        if is_wide { vec![node] } else { vec![cast, node] }
    };
    let mut nodes = product(first, ["first", "first.widened", "product"], ROWS[0]);
    nodes[0].given = vec![("x", FLOAT, 3)];
    nodes.extend(product(second, ["second", "second.widened", "z"], ROWS[1]));
    nodes.push(OneNode {
        operator: "Add",
        inputs: vec!["product", "bias"],
        outputs: vec!["y"],
        constants: vec![("bias", FLOAT, vec![ROWS[0]], float_bytes(bias))],
        ..OneNode::default()
    });
    file(&nodes.iter().collect::<Vec<_>>(), &OUTPUTS.map(|output| (output, 3)))
}

#[test]
fn products_of_floats_are_the_engines_and_those_of_the_kernels() {
    with_engine(|| {
        let bias = numbers(ROWS[0], 9);
        // Both of one type, and of two.
        for (first, second) in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 1)] {
            let stored = [&Stored::all(ROWS[0])[first], &Stored::all(ROWS[1])[second]];
            let bytes = graph(stored, &bias);
            let [own, theirs] = [Whose::Tandem, Whose::Runtime].map(|whose| Loaded::new(&bytes, whose, [&["x"], &OUTPUTS]));
            for n in [1, 2, 9, 16, 40] {
                let x = numbers(n * COLUMNS, n);
                let given = || [Tensor::from_array(([1, n, COLUMNS], x.clone())).unwrap().into_dyn()];
                let (own, theirs) = (own.run(&given(), &[None; 2]), theirs.run(&given(), &[None; 2]));
                for (i, (own, theirs)) in own.iter().zip(&theirs).enumerate() {
                    let (own, theirs) = (floats(own.as_ref().unwrap()), floats(theirs.as_ref().unwrap()));
                    let what = format!("types {first} and {second}, {n} rows, output {i}");
                    let terms = Terms { bias: (i == 0).then_some(&bias[..]), update: None };
                    let alone = stored[i].matrix(ROWS[i]).product(&x, terms, Kernels::Fastest);
                    assert!(own == alone, "{what}");
                    let most = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                    assert_eq!(own.len(), theirs.len(), "{what}");
                    for (own, theirs) in own.iter().zip(theirs) {
                        assert!((own - theirs).abs() <= 1e-5 * most, "{what}: {own} {theirs}");
                    }
                }
            }
        }
    });
}

/// Products are the same to the bit before and after weights are copied into huge pages, in parts.
#[test]
fn copied_floats_give_the_same_bits() {
    with_engine(|| {
        for kind in 0..3 {
            let stored = [&Stored::all(ROWS[0])[kind], &Stored::all(ROWS[1])[kind]];
            let own = Loaded::new(&graph(stored, &numbers(ROWS[0], 9)), Whose::Tandem, [&["x"], &OUTPUTS]);
            let outputs = || {
                [1, 5, 40].map(|n| {
                    let x = Tensor::from_array(([1, n, COLUMNS], numbers(n * COLUMNS, n))).unwrap().into_dyn();
                    own.run(&[x], &[None; 2]).iter().map(|output| floats(output.as_ref().unwrap()).to_vec()).collect::<Vec<_>>()
                })
            };
            let before = outputs();
            assert_eq!(own.mapped.copy_all(), if huge_pages::are_available() { 3 } else { 0 }, "two parts, and one");
            assert!(outputs() == before, "type {kind}");
        }
    });
}
