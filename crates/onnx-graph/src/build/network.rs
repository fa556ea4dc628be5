//! A graph under construction, to which single nodes and constants are added. A node is named after its output, or after its weight.

use super::plan::{Constant, Part, Recipe, Step};
use super::quantize::QuantFormat;
use super::spec::{BuildOptions, WeightFormat};
use super::weights::{FloatType, WeightType};
use crate::graph::{Attribute, AttributeValue, DataType, Dim, Node, ValueInfo};

/// The operators of a network, the constants that they need, and what it takes and gives.
pub(super) struct Network<'s> {
    options: &'s BuildOptions,
    pub(super) float: FloatType,
    pub(super) nodes: Vec<Node>,
    pub(super) steps: Vec<Step>,
    pub(super) inputs: Vec<ValueInfo>,
    pub(super) outputs: Vec<ValueInfo>,
}

/// The matrix of a product.
pub(super) struct Matrix {
    /// `[outputs, inputs]`, stacked.
    pub(super) weights: Vec<Part>,
    /// A bias for each of them.
    pub(super) bias: Option<Vec<Part>>,
    pub(super) format: WeightFormat,
}

impl<'s> Network<'s> {
    /// An empty one.
    pub(super) fn new(options: &'s BuildOptions) -> Self {
        Self { options, float: options.float(), nodes: vec![], steps: vec![], inputs: vec![], outputs: vec![] }
    }

    /// Adds a node with one output.
    pub(super) fn add(&mut self, domain: &str, op_type: &str, inputs: &[&str], output: &str) -> &mut Node {
        self.nodes.push(Node {
            name: format!("/{output}"),
            op_type: op_type.into(),
            domain: domain.into(),
            inputs: inputs.iter().map(|&input| input.into()).collect(),
            outputs: vec![output.into()],
            ..Node::default()
        });
        self.nodes.last_mut().expect("a node was just added")
    }

    /// The product of `input` with the matrix `name`.
    pub(super) fn product(&mut self, input: &str, name: &str, matrix: Matrix, output: &str) {
        let Matrix { weights, bias, format } = matrix;
        let n_inputs = weights[0].shape[1];
        let n_outputs = weights.iter().map(|weight| weight.shape[0]).sum();
        let bias = bias.map(|parts| {
            let name = format!("{output}.bias");
            self.floats(&name, parts);
            name
        });
        if let Some(quant) = self.quant_format(format) {
            self.quantized_steps(name, weights, quant, false);
            self.quantized_product(input, name, bias.as_deref(), [n_inputs, n_outputs], quant, output);
            return;
        }
        let product = if bias.is_some() { format!("{output}.product") } else { output.into() };
        if let Some(kind) = self.options.rows {
            let constants = vec![constant(name, kind.data_type(), &[n_outputs, n_inputs])];
            self.steps.push(Step { constants, views: vec![], recipe: Recipe::Rows(weights, kind) });
            self.product_of_rows(input, name, &product);
        } else {
            let constants = vec![constant(name, self.float.data_type(), &[n_inputs, n_outputs])];
            self.steps.push(Step { constants, views: vec![], recipe: Recipe::Transposed(weights) });
            self.add("", "MatMul", &[input, name], &product).name = node_name(name);
        }
        if let Some(bias) = bias {
            self.add("", "Add", &[&product, &bias], output);
        }
    }

    /// The product of `input` with the constant `name`, `[outputs, inputs]`, in the type of [`BuildOptions::rows`].
    pub(super) fn product_of_rows(&mut self, input: &str, name: &str, output: &str) {
        let widened = format!("{name}.widened");
        let is_narrow = self.options.rows.is_some_and(|kind| kind != WeightType::F32);
        if is_narrow {
            self.add("", "Cast", &[name], &widened).with_int("to", DataType::FLOAT.0.into());
        }
        let node = self.add("com.microsoft", "FusedMatMul", &[input, if is_narrow { &widened } else { name }], output);
        node.name = node_name(name);
        node.with_int("transB", 1);
    }

    /// As [`product`](Self::product), for a projection of a layer: with adapter inputs, an adapter's low-rank update `(x A) B` is added to
    /// the result. Both factors are inputs that default to rank 0, which adds nothing.
    pub(super) fn projection(&mut self, input: &str, name: &str, matrix: Matrix, output: &str) {
        if !self.options.adapter_inputs {
            return self.product(input, name, matrix, output);
        }
        let n_inputs = matrix.weights[0].shape[1];
        let n_outputs = matrix.weights.iter().map(|weight| weight.shape[0]).sum();
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let value = |part: &str| format!("{output}.{part}");
        let [a, b] = ["A", "B"].map(|factor| format!("{module}.lora_{factor}.weight"));
        let rank = Dim::Symbolic(format!("{module}.rank"));
        self.adapter_input(&a, [Dim::Fixed(n_inputs as i64), rank.clone()], &[n_inputs, 0]);
        self.adapter_input(&b, [rank, Dim::Fixed(n_outputs as i64)], &[0, n_outputs]);
        self.product(input, name, matrix, &value("base"));
        self.add("", "MatMul", &[input, &a], &value("low_rank"));
        self.add("", "MatMul", &[&value("low_rank"), &b], &value("update"));
        self.add("", "Add", &[&value("base"), &value("update")], output);
    }

    /// An input with an empty default.
    fn adapter_input(&mut self, name: &str, dims: [Dim; 2], empty: &[usize]) {
        let data_type = self.float.data_type();
        let constants = vec![constant(name, data_type, empty)];
        self.steps.push(Step { constants, views: vec![], recipe: Recipe::Fixed(Vec::new()) });
        self.inputs.push(ValueInfo { name: name.into(), data_type: Some(data_type), dims: Some(dims.into()) });
    }

    /// The product with a matrix of [`quantized_steps`](Self::quantized_steps), whose activations are quantised to 8 bits.
    pub(super) fn quantized_product(
        &mut self,
        input: &str,
        name: &str,
        bias: Option<&str>,
        [n_inputs, n_outputs]: [usize; 2],
        quant: QuantFormat,
        output: &str,
    ) {
        let [codes, scales, zeros] = ["codes", "scales", "zeros"].map(|part| format!("{name}.{part}"));
        let zeros = if quant.blocks.symmetric { "" } else { &zeros };
        let mut inputs = vec![input, &codes, &scales, zeros, "", bias.unwrap_or_default()];
        inputs.truncate(inputs.iter().rposition(|input| !input.is_empty()).map_or(0, |last| last + 1));
        let node = self.add("com.microsoft", "MatMulNBits", &inputs, output);
        node.name = node_name(name);
        node.with_int("K", n_inputs as i64);
        node.with_int("N", n_outputs as i64);
        node.with_int("bits", quant.bits as i64);
        node.with_int("block_size", quant.blocks.size as i64);
        node.with_int("accuracy_level", 4);
    }

    /// Codes, scales and zero points of a matrix, and with `lookup` a second view of them as an embedding.
    pub(super) fn quantized_steps(&mut self, name: &str, weights: Vec<Part>, quant: QuantFormat, lookup: bool) {
        let n_outputs = weights.iter().map(|weight| weight.shape[0]).sum();
        let n_inputs = weights[0].shape[1];
        let (n_blocks, block_bytes) = (quant.n_blocks(n_inputs), quant.block_bytes());
        let float = self.float.data_type();
        let mut parts = vec![("codes", DataType::UINT8, vec![n_blocks, block_bytes]), ("scales", float, vec![n_blocks])];
        if !quant.blocks.symmetric {
            parts.push(("zeros", DataType::UINT8, vec![quant.zero_bytes(n_inputs)]));
        }
        let shaped = |part: &str, data_type, dims: &[usize]| {
            constant(&format!("{name}.{part}"), data_type, &[&[n_outputs], dims].concat())
        };
        let constants = parts.iter().map(|(part, data_type, dims)| shaped(part, *data_type, dims)).collect();
        // The lookup expects matrices.
        let views =
            parts.iter().map(|(part, data_type, dims)| shaped(&format!("lookup_{part}"), *data_type, &[dims.iter().product()]));
        let views = if lookup { views.enumerate().collect() } else { Vec::new() };
        self.steps.push(Step { constants, views, recipe: Recipe::Quantized(weights, quant) });
    }

    /// The quantised format of `format`, if it is one.
    pub(super) fn quant_format(&self, format: WeightFormat) -> Option<QuantFormat> {
        format.bits().map(|bits| QuantFormat { bits, blocks: self.options.blocks })
    }

    /// Weights concatenated as floats: with the shape of a single one, or one dim for several.
    pub(super) fn floats(&mut self, name: &str, parts: Vec<Part>) {
        let dims = match parts.as_slice() {
            [part] => part.shape.clone(),
            parts => vec![parts.iter().map(|part| part.shape.iter().product::<usize>()).sum()],
        };
        let constants = vec![constant(name, self.float.data_type(), &dims)];
        self.steps.push(Step { constants, views: vec![], recipe: Recipe::Floats(parts) });
    }

    /// A weight in the checkpoint's own type.
    pub(super) fn as_stored(&mut self, name: &str, part: Part, stored: WeightType) {
        let constants = vec![constant(name, stored.data_type(), &part.shape)];
        self.steps.push(Step { constants, views: vec![], recipe: Recipe::Rows(vec![part], stored) });
    }

    /// An int64 constant.
    pub(super) fn ints(&mut self, name: &str, dims: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let constants = vec![constant(name, DataType::INT64, dims)];
        self.steps.push(Step { constants, views: vec![], recipe: Recipe::Fixed(bytes) });
    }

    /// A scalar of the type that the graph computes in.
    pub(super) fn number(&mut self, name: &str, value: f32) {
        let constants = vec![constant(name, self.float.data_type(), &[])];
        self.steps.push(Step { constants, views: vec![], recipe: Recipe::Fixed(self.float.to_bytes(&[value])) });
    }

    /// Rows of the table `part` at `indices`. A network that is quantised, or has its matrices in rows, keeps a table of narrower floats in the
    /// checkpoint's type, `stored`, which loses nothing.
    pub(super) fn look_up(&mut self, part: Part, stored: WeightType, indices: &str, output: &str) {
        let name = part.name.clone();
        let keeps = self.options.weights.bits().is_some() || self.options.rows.is_some();
        if !keeps || stored == WeightType::F32 {
            self.floats(&name, vec![part]);
            self.add("", "Gather", &[&name, indices], output);
            return;
        }
        let rows = format!("{output}_stored");
        self.as_stored(&name, part, stored);
        self.add("", "Gather", &[&name, indices], &rows);
        self.add("", "Cast", &[&rows], output).with_int("to", DataType::FLOAT.0.into());
    }

    /// An RMS norm over the last dim.
    pub(super) fn rms_norm(&mut self, input: &str, weight: &str, epsilon: f32, output: &str) {
        let node = self.add("", "RMSNormalization", &[input, weight], output);
        node.with_int("axis", -1);
        node.with("epsilon", AttributeValue::Float(epsilon));
        node.with_int("stash_type", 1);
    }

    /// The name of an output before it is widened; its own in a graph of 32-bit floats.
    pub(super) fn computed(&self, output: &str) -> String {
        match self.float {
            FloatType::F32 => output.into(),
            FloatType::F16 => format!("{output}.f16"),
        }
    }

    pub(super) fn widen(&mut self, computed: &str, output: &str) {
        if computed != output {
            self.add("", "Cast", &[computed], output).with_int("to", DataType::FLOAT.0.into());
        }
    }
}

impl Node {
    pub(super) fn with(&mut self, name: &str, value: AttributeValue) {
        self.attributes.push(Attribute { name: name.into(), value });
    }

    pub(super) fn with_int(&mut self, name: &str, value: i64) {
        self.with(name, AttributeValue::Int(value));
    }
}

/// The node of a product is named after its weight, so that adapters find it.
fn node_name(weight: &str) -> String {
    format!("/{}", weight.strip_suffix(".weight").unwrap_or(weight))
}

pub(super) fn constant(name: &str, data_type: DataType, dims: &[usize]) -> Constant {
    Constant { name: name.into(), data_type, dims: dims.iter().map(|&dim| dim as i64).collect() }
}
