//! The factors of adapters as inputs of a graph.
//!
//! They are plain inputs of each run. The engine's own adapters (`RunOptions`) would be one more form of the same, which is ignored with
//! `IoBinding`, and of two of them the first alone is used, both without an error.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;

use half::f16;
use ort::value::{DynValue, Tensor, TensorElementType};
use tandem_core::adapter::{AdapterSum, ModuleUpdate};
use tandem_core::arena::Arena;
use tandem_core::{Error, Result};
use tandem_kernels::low_rank::Update;
use tandem_onnx_graph::{ADAPTER_INPUT, CustomProduct, Graph, Product};

use crate::error::{Doing, bad_graph};
use crate::graph::{AdapterPort, DecoderGraph};
use crate::operators::{ModelUpdates, Registered, Updates, order_inputs};
use crate::origin::Origin;
use crate::run::Names;

/// What every run of a session passes besides tokens and cache, with the names of all inputs: those of the graph first.
pub(crate) struct Constants {
    pub(crate) names: Names,
    pub(crate) values: Vec<DynValue>,
    own: Vec<CString>,
    /// Whether an adapter's factors are among the values: what the engine multiplies by such has other bits in a row of several than alone.
    pub(crate) has_factors: bool,
    /// Keeps the adapters that Tandem's operators know.
    registered: Option<Registered>,
}

/// Calls the function that it is given with each row of a module's weight.
type RowsOf<'r> = dyn FnMut(&str, &mut dyn FnMut(&[f32])) -> Result<()> + 'r;

/// The inputs of one product.
struct Factors {
    rank: usize,
    /// `[inputs, rank]`
    a: Vec<f32>,
    /// `[rank, outputs]`
    b: Vec<f32>,
    /// By how much more than 1 the base's product is multiplied, `[outputs]`.
    gain: Option<Vec<f32>>,
}

impl Constants {
    /// Those of `graph` without an adapter: inputs for adapters that have no default get factors that change nothing.
    pub(crate) fn plain(graph: &DecoderGraph) -> Result<Self> {
        let mut constants = Self::new();
        for port in graph.adapters.iter().filter(|port| port.is_required) {
            constants.push(&graph.file, port, Factors::zero(port))?;
        }
        Ok(constants.named(graph))
    }

    /// Those of `graph` with the adapters of `sum`, whose base is `origin`'s: the `own` products look them up, to others they are inputs; `usable`
    /// says to which.
    ///
    /// # Errors
    /// [`Error::BadField`] for factors of another shape than the weight's, of a module that the graph lacks, or that f16 does not hold;
    /// [`Error::Unsupported`] for magnitudes where the weight is not read.
    pub(crate) fn adapted(
        graph: &DecoderGraph,
        own: &[CustomProduct],
        usable: &dyn Fn(&AdapterPort) -> bool,
        mut sum: AdapterSum<'_>,
        origin: &Origin,
    ) -> Result<Self> {
        let base = Base::open(&sum, origin)?;
        let products = base.products();
        let mut constants = Self::new();
        constants.register(own, &mut sum, &origin.updates, &mut |module, each| base.rows(&products, module, each))?;
        for port in &graph.adapters {
            let mut updates = Vec::new();
            for (module, columns) in port.modules.iter().filter(|_| usable(port)) {
                let rows = &mut |each: &mut dyn FnMut(&[f32])| base.rows(&products, module, each);
                if let Some(update) = sum.take(module, [columns.len(), port.n_inputs], rows)? {
                    updates.push((update, columns.clone()));
                }
            }
            if !updates.is_empty() {
                constants.has_factors = true;
                constants.push(&graph.file, port, Factors::of(&graph.file, port, &updates)?)?;
            } else if port.is_required {
                constants.push(&graph.file, port, Factors::zero(port))?;
            }
        }
        sum.finish()?;
        Ok(constants.named(graph))
    }

    fn new() -> Self {
        Self { names: Names::new(Vec::new()), values: Vec::new(), own: Vec::new(), has_factors: false, registered: None }
    }

    /// Makes the parts of `sum` that are of the `own` products known to these; `rows` reads the weights of a module.
    fn register(
        &mut self,
        own: &[CustomProduct],
        sum: &mut AdapterSum<'_>,
        known: &Arc<Updates>,
        rows: &mut RowsOf<'_>,
    ) -> Result<()> {
        let (mut model, arena) = (ModelUpdates::new(), Arena::default());
        for product in own {
            let mut updates = Vec::new();
            for (module, outputs) in &product.modules {
                let shape = [outputs.len(), product.n_inputs];
                if let Some(mut update) = sum.take(module, shape, &mut |each| rows(module, each))? {
                    order_inputs(&mut update.a, product.bits);
                    updates.push((outputs.clone(), update));
                }
            }
            if !updates.is_empty() {
                let is_quantized = product.bits <= 8;
                let update = Update::new(updates, [product.n_outputs, product.n_inputs], is_quantized, &arena);
                model.insert(product.name.clone(), update);
            }
        }
        if !model.is_empty() {
            let registered = known.register(model);
            let number = Tensor::from_array(((), vec![registered.number()])).doing("to make an input")?;
            self.values.push(number.into_dyn());
            self.own.push(CString::new(ADAPTER_INPUT).expect("the name has no zero byte"));
            self.registered = Some(registered);
        }
        Ok(())
    }

    fn push(&mut self, file: &str, port: &AdapterPort, factors: Factors) -> Result<()> {
        let Factors { rank, a, b, gain } = factors;
        let [first, second] = &port.names;
        let mut add = |name: &CString, shape: Vec<usize>, values: Vec<f32>| -> Result<()> {
            self.values.push(tensor(file, port, shape, values)?);
            self.own.push(name.clone());
            Ok(())
        };
        add(first, vec![port.n_inputs, rank], a)?;
        add(second, vec![rank, port.n_outputs], b)?;
        match (gain, &port.gain) {
            (Some(gain), Some(name)) => add(name, vec![port.n_outputs], gain),
            _ => Ok(()),
        }
    }

    fn named(self, graph: &DecoderGraph) -> Self {
        Self { names: Names::new([&graph.input_names[..], &self.own].concat()), ..self }
    }
}

impl Factors {
    /// Factors that change nothing.
    fn zero(port: &AdapterPort) -> Self {
        let rank = port.rank.unwrap_or(1);
        Self { rank, a: vec![0.0; port.n_inputs * rank], b: vec![0.0; rank * port.n_outputs], gain: None }
    }

    /// The updates of the modules that have these columns, side by side.
    fn of(file: &str, port: &AdapterPort, updates: &[(ModuleUpdate, std::ops::Range<usize>)]) -> Result<Self> {
        let needed: usize = updates.iter().map(|(update, _)| update.rank).sum();
        let rank = port.rank.unwrap_or(needed);
        if rank < needed {
            let name = port.names[0].to_string_lossy();
            return Err(Error::bad_field(
                file,
                name,
                format!("the graph takes adapters of rank {rank}, and this one has {needed}"),
            ));
        }
        let (n_inputs, n_outputs) = (port.n_inputs, port.n_outputs);
        let mut all = Self { rank, a: vec![0.0; n_inputs * rank], b: vec![0.0; rank * n_outputs], gain: None };
        let mut first = 0;
        for (update, columns) in updates {
            for (part, row) in update.a.chunks_exact(n_inputs).enumerate() {
                row.iter().enumerate().for_each(|(input, value)| all.a[input * rank + first + part] = *value);
            }
            for part in 0..update.rank {
                let row = &mut all.b[(first + part) * n_outputs..][columns.clone()];
                row.iter_mut().zip(update.b.iter().skip(part).step_by(update.rank)).for_each(|(to, value)| *to = *value);
            }
            if let Some(gain) = &update.gain {
                // A module and one that packs it may both be adapted.
                let gains = all.gain.get_or_insert_with(|| vec![0.0; n_outputs]);
                gains[columns.clone()].iter_mut().zip(gain).for_each(|(all, gain)| *all += gain - 1.0);
            }
            first += update.rank;
        }
        Ok(all)
    }
}

/// The values in the type that the graph takes.
fn tensor(file: &str, port: &AdapterPort, shape: Vec<usize>, values: Vec<f32>) -> Result<DynValue> {
    const DOING: &str = "to make an input";
    if port.dtype == TensorElementType::Float32 {
        return Ok(Tensor::from_array((shape, values)).doing(DOING)?.into_dyn());
    }
    let values: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::bad_field(file, &*port.product, "a factor of the adapter is larger than the f16 of this graph holds"));
    }
    Ok(Tensor::from_array((shape, values)).doing(DOING)?.into_dyn())
}

/// The graph without adapters, where an adapter's magnitudes need its weights.
struct Base(Option<(Graph, Option<PathBuf>)>);

impl Base {
    fn open(sum: &AdapterSum<'_>, origin: &Origin) -> Result<Self> {
        let is_needed = sum.modules().iter().any(|module| module.has_magnitude);
        Ok(Self(is_needed.then(|| origin.source(&[])?.graph()).transpose()?))
    }

    fn products(&self) -> Vec<Product<'_>> {
        self.0.as_ref().map(|(graph, _)| graph.products()).unwrap_or_default()
    }

    fn rows(&self, products: &[Product<'_>], module: &str, each: &mut dyn FnMut(&[f32])) -> Result<()> {
        let directory = self.0.as_ref().and_then(|(_, directory)| directory.as_deref());
        let mut found = products.iter().flat_map(|product| product.modules().iter().map(move |module| (product, module)));
        let Some((product, (_, columns))) = found.find(|(_, (name, _))| name == module) else {
            return Err(without_weights(module, "its weight was not found in the graph".into()));
        };
        product
            .for_each_row(columns.clone(), directory, each)
            .map_err(|error| without_weights(module, bad_graph(error).to_string()))
    }
}

fn without_weights(module: &str, reason: String) -> Error {
    Error::Unsupported {
        what: format!("an adapter with magnitudes (DoRA) of `{module}` on this graph"),
        reason,
        hint: Some("use a graph that is built from the checkpoint, or merge the adapter into the checkpoint".into()),
    }
}
