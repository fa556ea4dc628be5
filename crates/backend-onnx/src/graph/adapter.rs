//! Inputs for the factors of a low-rank adapter: those that Tandem adds to a graph, and those of graphs that were prepared for adapters,
//! by Tandem's export or by Olive.

use std::ffi::CString;
use std::ops::Range;

use ort::session::Session;
use ort::value::{TensorElementType, ValueType};
use tandem_core::config::ModelConfig;
use tandem_core::{Error, Result};
use tandem_onnx_graph::module_name;

use super::{name_for_engine, tensor_type};

/// What the name of the first factor has after its module; the second has the other letter.
const FIRST: &str = ".lora_A";
const SECOND: &str = ".lora_B";

/// The inputs for the adapter of one product.
#[derive(Clone, Debug)]
pub(crate) struct AdapterPort {
    /// The name of `A`, `[inputs, rank]`, and of `B`, `[rank, outputs]`.
    pub(crate) names: [CString; 2],
    /// The name of what is added to gains of 1, `[outputs]`.
    pub(crate) gain: Option<CString>,
    /// The module of the product, or of several together.
    pub(crate) product: String,
    /// The modules of the product, each with its outputs.
    pub(crate) modules: Vec<(String, Range<usize>)>,
    pub(crate) dtype: TensorElementType,
    pub(crate) n_inputs: usize,
    pub(crate) n_outputs: usize,
    /// The only rank that the graph takes; `None` for any.
    pub(crate) rank: Option<usize>,
    /// The inputs have no default.
    pub(crate) is_required: bool,
}

/// An input: its name, what it takes, and whether it has no default.
type Input<'s> = (&'s str, &'s ValueType, bool);

/// Whether the input `name` is for a factor.
pub(crate) fn is_factor(name: &str) -> bool {
    name.contains(FIRST) || name.contains(SECOND)
}

impl AdapterPort {
    /// Reads the inputs of `session`, whose graph is `file`, by their names.
    pub(crate) fn read_all(session: &Session, file: &str, config: &ModelConfig) -> Result<Vec<Self>> {
        let required = session.inputs().iter().map(|input| (input.name(), input.dtype(), true));
        let optional = session.overridable_initializers();
        let optional = optional.iter().map(|value| (value.name(), value.dtype(), false));
        let inputs: Vec<Input<'_>> = required.chain(optional).collect();
        let first = inputs.iter().filter(|(name, ..)| name.contains(FIRST));
        first.map(|input| Self::read(file, input, &inputs, config)).collect()
    }

    fn read(file: &str, &(name, value, is_required): &Input<'_>, inputs: &[Input<'_>], config: &ModelConfig) -> Result<Self> {
        let bad = |problem: String| Error::bad_field(file, name, problem);
        let find = |name: &str| inputs.iter().find(|(other, ..)| *other == name);
        let (module, _) = name.split_once(FIRST).unwrap_or_default();
        let product = module_name(module).ok_or_else(|| bad("the input is for an adapter of an unknown module".into()))?;
        let (second, other, is_second_required) = *find(&name.replace(FIRST, SECOND))
            .ok_or_else(|| bad("the input is for one factor of an adapter, and there is none for the other".into()))?;
        let (dtype, a) = tensor_type(file, name, value)?;
        let (second_dtype, b) = tensor_type(file, second, other)?;
        let size = |dim: i64| usize::try_from(dim).ok().filter(|&size| size > 0);
        let (&[n_inputs, rank], &[second_rank, n_outputs]) = (a, b) else {
            return Err(bad(format!("the factors have the shapes {a:?} and {b:?}, and must be matrices")));
        };
        let (Some(n_inputs), Some(n_outputs)) = (size(n_inputs), size(n_outputs)) else {
            return Err(bad(format!(
                "the factors have the shapes {a:?} and {b:?}, and must be [inputs, rank] and [rank, outputs]"
            )));
        };
        if dtype != second_dtype || !matches!(dtype, TensorElementType::Float32 | TensorElementType::Float16) {
            return Err(bad(format!("the factors are `{dtype}` and `{second_dtype}`, and must both be f32 or f16")));
        }
        let gain = find(&format!("{module}.lora_gain")).map(|(name, ..)| name_for_engine(file, name)).transpose()?;
        Ok(Self {
            names: [name_for_engine(file, name)?, name_for_engine(file, second)?],
            gain,
            modules: modules(&product, n_outputs, config),
            product,
            dtype,
            n_inputs,
            n_outputs,
            rank: size(rank).or(size(second_rank)),
            is_required: is_required || is_second_required,
        })
    }
}

/// The module `product`, and those that it packs.
fn modules(product: &str, n_outputs: usize, config: &ModelConfig) -> Vec<(String, Range<usize>)> {
    let mut modules = vec![(product.to_owned(), 0..n_outputs)];
    let (query, kv) = (config.n_heads * config.head_dim(), config.n_kv_heads * config.head_dim());
    if let Some(block) = product.strip_suffix("qkv_proj").filter(|_| query + 2 * kv == n_outputs) {
        let parts = [("q", 0..query), ("k", query..query + kv), ("v", query + kv..n_outputs)];
        modules.extend(parts.map(|(part, columns)| (format!("{block}{part}_proj"), columns)));
    }
    modules
}
