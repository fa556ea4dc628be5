//! What ONNX Runtime's kernels for CUDA need spelled out, where those for the processor do not. Both were seen with 1.27 on an H100.

use super::{Edit, children, message};
use crate::encode::{self, Data};
use crate::error::{Error, Result};
use crate::graph::{DataType, MAX_PROTO_BYTES, Node, Tensor};
use crate::schema::{graph, node};

/// The place of the bias among the inputs of `MatMulNBits`.
const BIAS: usize = 5;
/// The places of scales and zero points among the inputs of `GatherBlockQuantized`.
const SCALES: usize = 2;
const ZERO_POINTS: usize = 3;

impl<'g> Edit<'g> {
    /// Makes a graph with quantised weights run on CUDA as it does on the processor, and returns the number of changed nodes.
    ///
    /// # Errors
    /// For a quantised embedding that consists of no constants.
    pub fn adapt_to_cuda(&mut self) -> Result<usize> {
        let mut n_changed = 0;
        for (index, of) in self.graph.nodes().iter().enumerate() {
            n_changed += usize::from(match of.op_type.as_str() {
                "MatMulNBits" => self.separate_bias(index, of),
                "GatherBlockQuantized" => self.write_zero_points(of)?,
                _ => false,
            });
        }
        Ok(n_changed)
    }

    /// Adds the bias of a product in a node of its own: "MatMulNBits does not support bias in CUDA kernel", `matmul_nbits.cc`.
    fn separate_bias(&mut self, index: usize, product: &Node) -> bool {
        let fields = message(self.graph, &product.range);
        let (input, result) = (children(fields, node::INPUT).nth(BIAS), children(fields, node::OUTPUT).next());
        let (Some(input), Some(result)) = (input.filter(|input| !input.bytes.is_empty()), result) else { return false };
        let output = &product.outputs[0];
        let unbiased = format!("tandem.{output}.unbiased");
        self.patches.remove(input.start);
        self.patches.replace(result.start, unbiased.clone().into_bytes());
        let sum = encode::node(&Node {
            name: format!("tandem.{output}.bias"),
            op_type: "Add".into(),
            inputs: vec![unbiased, product.inputs[BIAS].clone()],
            outputs: vec![output.clone()],
            ..Node::default()
        });
        // Nodes come after those whose values they take.
        match self.graph.nodes().get(index + 1) {
            Some(next) => self.patches.insert_before(next.range.start, graph::NODE, &sum),
            None => self.append_to_main(graph::NODE, &sum),
        }
        true
    }

    /// Gives a lookup the zero points that it omits. For codes in bytes that means the middle of their range, and on CUDA it is taken for 0
    /// (microsoft/onnxruntime#31692): every embedding is wrong, without an error.
    fn write_zero_points(&mut self, lookup: &Node) -> Result<bool> {
        let omitted = lookup.inputs.get(ZERO_POINTS).is_none_or(|zeros| zeros.is_empty());
        let (Some(codes), Some(scales), Some(output)) =
            (lookup.inputs.first(), lookup.inputs.get(SCALES), lookup.outputs.first())
        else {
            return Ok(false);
        };
        if !omitted || self.constant(codes)?.data_type != DataType::UINT8 {
            return Ok(false);
        }
        let &[n_rows, n_blocks] = self.constant(scales)?.dims.as_slice() else { return Err(self.unknown(scales)) };
        let bits = lookup.int("bits").unwrap_or(4).clamp(1, 8);
        let in_byte = 8 / bits;
        let byte = (0..in_byte).fold(0_u8, |byte, place| byte | 1 << (place * bits + bits - 1));
        let dims = [n_rows, (n_blocks + in_byte - 1) / in_byte];
        let n_bytes = dims.iter().try_fold(1, |n: usize, &dim| n.checked_mul(usize::try_from(dim).ok()?));
        let bytes = vec![byte; n_bytes.filter(|&n| n as u64 <= MAX_PROTO_BYTES).ok_or_else(|| self.unknown(scales))?];
        let zeros = format!("tandem.{output}.zeros");
        self.append_to_main(graph::INITIALIZER, &encode::tensor(&zeros, DataType::UINT8, &dims, Data::Raw(&bytes)));
        let fields = message(self.graph, &lookup.range);
        match children(fields, node::INPUT).nth(ZERO_POINTS) {
            Some(empty) => self.patches.replace(empty.start, zeros.into_bytes()),
            None => self.patches.append(fields.start, node::INPUT, zeros.as_bytes()),
        }
        Ok(true)
    }

    /// A constant, which may have been given another shape.
    fn constant(&self, value: &str) -> Result<&'g Tensor> {
        // Exporters write one. The nodes of an untrusted graph may form a cycle.
        const MAX_RESHAPES: usize = 8;
        let source = |name: &str| self.graph.main().producer(name).filter(|node| node.op_type == "Reshape")?.inputs.first();
        let mut name = value;
        for _ in 0..MAX_RESHAPES {
            let Some(source) = source(name) else { break };
            name = source;
        }
        self.graph.initializers().iter().find(|tensor| tensor.name == name).ok_or_else(|| self.unknown(value))
    }

    fn unknown(&self, value: &str) -> Error {
        let problem = format!(
            "`{value}`, of a quantised embedding without zero points, is not a constant matrix: CUDA would look up wrong values"
        );
        Error::bad_field(self.graph.file(), "graph.node", problem)
    }
}
