//! Linear layers: weights, biases, and what adapters add.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use tandem_core::adapter::{AdapterSum, ModuleParts, ModuleUpdate};
use tandem_core::arena::Arena;
use tandem_kernels::low_rank::Update;
use tandem_kernels::matrix::{Kernels, Matrix, RowRun, Terms};
use tandem_kernels::mlp::Projection;
use tandem_kernels::zeros;

use crate::values::{Values, tensor};

/// A projection: `x Wᵀ + b`. Copies share their weights.
#[derive(Clone)]
pub(crate) struct Linear {
    /// `[outputs, inputs]`
    pub(crate) weights: Arc<Matrix>,
    /// `[outputs]`
    pub(crate) bias: Option<Arc<[f32]>>,
    pub(crate) modules: Modules,
    /// That of the adapters.
    update: Option<Arc<Update>>,
}

/// The names of modules as adapters give them, and which outputs each has. Those that are packed in one matrix are there by themselves and
/// as one, as checkpoints of other families have them.
pub(crate) type Modules = Arc<[(String, Range<usize>)]>;

impl Linear {
    /// Without adapters.
    pub(crate) fn new(weights: Arc<Matrix>, bias: Option<Arc<[f32]>>, modules: Modules) -> Self {
        Self { weights, bias, modules, update: None }
    }

    /// Applies it to `x`, `[rows, inputs]`, with the kernels of `runs`: `[rows, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor, runs: &[RowRun]) -> Result<Tensor> {
        let n = x.dims2()?.0;
        let mut out = zeros(n * self.weights.rows);
        self.write(x, runs, &mut out)?;
        tensor(out, (n, self.weights.rows))
    }

    /// As [`forward`](Self::forward), to `out`.
    pub(crate) fn write(&self, x: &Tensor, runs: &[RowRun], out: &mut [f32]) -> Result<()> {
        let columns = x.dims2()?.1;
        if columns != self.weights.columns {
            candle_core::bail!("{columns} inputs do not match rows of {} weights", self.weights.columns);
        }
        let (weights, terms) = self.projection();
        weights.write_products(&Values::of(x)?, terms, runs, &mut Vec::new(), out);
        Ok(())
    }

    /// Takes what `adapters` have for its modules.
    ///
    /// # Errors
    /// Those of [`AdapterSum::take_parts`].
    pub(crate) fn take_parts<'a>(&self, adapters: &mut AdapterSum<'a>) -> tandem_core::Result<Vec<PartsAt<'a>>> {
        take_parts(adapters, &self.modules, self.weights.columns)
    }

    /// Applies `parts`, with their factors in `arena`.
    ///
    /// # Errors
    /// Those of [`ModuleParts::update`].
    pub(crate) fn adapt(&mut self, parts: &[PartsAt<'_>], arena: &Arena) -> tandem_core::Result<()> {
        let weights = &self.weights;
        let mut read = |range: Range<usize>, each: &mut dyn FnMut(&[f32])| {
            weights.view().each_row(range, each);
            Ok(())
        };
        let updates = updates(parts, &mut read)?;
        let narrow = weights.weights().bits().is_some();
        let shape = [weights.rows, weights.columns];
        self.update = (!updates.is_empty()).then(|| Arc::new(Update::new(updates, shape, narrow, arena)));
        Ok(())
    }

    /// Applies it to whole rows `x`.
    pub(crate) fn product_of(&self, x: &[f32], kernels: Kernels) -> Vec<f32> {
        let (weights, terms) = self.projection();
        weights.product(x, terms, kernels)
    }

    /// What our kernels compute with.
    pub(crate) fn projection(&self) -> Projection<'_> {
        (self.weights.view(), Terms { bias: self.bias.as_deref(), update: self.update.as_deref() })
    }
}

/// Calls the function that it is given with some rows of a weight.
pub(crate) type ReadRows<'r> = dyn FnMut(Range<usize>, &mut dyn FnMut(&[f32])) -> tandem_core::Result<()> + 'r;

/// What adapters have for some rows of a matrix.
pub(crate) type PartsAt<'a> = (Range<usize>, ModuleParts<'a>);

/// What `adapters` have for `modules` of one matrix, whose rows are `columns` long.
///
/// # Errors
/// Those of [`AdapterSum::take_parts`].
pub(crate) fn take_parts<'a>(
    adapters: &mut AdapterSum<'a>,
    modules: &[(String, Range<usize>)],
    columns: usize,
) -> tandem_core::Result<Vec<PartsAt<'a>>> {
    let mut all = Vec::new();
    for (name, rows) in modules {
        let parts = adapters.take_parts(name, [rows.len(), columns])?;
        all.extend(parts.map(|parts| (rows.clone(), parts)));
    }
    Ok(all)
}

/// The updates of `parts` of a matrix, which `read` reads.
///
/// # Errors
/// Those of `read`.
pub(crate) fn updates(parts: &[PartsAt<'_>], read: &mut ReadRows<'_>) -> tandem_core::Result<Vec<(Range<usize>, ModuleUpdate)>> {
    let mut updates = Vec::with_capacity(parts.len());
    for (rows, parts) in parts {
        updates.push((rows.clone(), parts.update(&mut |each| read(rows.clone(), each))?));
    }
    Ok(updates)
}
