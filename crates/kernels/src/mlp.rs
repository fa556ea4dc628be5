//! The feed-forward block of a decoder: two products with a gated activation in between.

use std::sync::{Mutex, PoisonError};

use crate::buffers::{scratch_slice, zeros};
use crate::elementwise::{GateActivation, gated};
use crate::matrix::{MatrixView, RowRun, Terms};

/// Scratch buffers between the two products of an MLP, reused by successive forward passes, since the system has to allocate and clear
/// new memory first.
#[derive(Default)]
pub struct ScratchPool(Mutex<Vec<Scratch>>);

#[derive(Default)]
struct Scratch {
    /// `[n, 2 * intermediate_size]`
    gate_up: Vec<f32>,
    /// `[n, intermediate_size]`
    gated: Vec<f32>,
    packed: Vec<f32>,
}

/// What lies between the two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Gate and up, `[n, 2 * intermediate_size]`.
    GateUp,
    /// `activation(gate) * up`, `[n, intermediate_size]`.
    Activation,
}

/// Receives what lies between the two products, `[n, width]`, and its width.
pub type Observe<'o, E> = dyn FnMut(Between, &[f32], usize) -> Result<(), E> + 'o;

/// A projection: its weights, and what is added to its products.
pub type Projection<'m> = (MatrixView<'m>, Terms<'m>);

impl ScratchPool {
    /// `down(activation(gate(x)) * up(x))` of `x`, `[n, columns of gate_up]`: `[n, rows of down]`. The first half of the rows of `gate_up`,
    /// `[2 * intermediate_size, hidden_size]`, is the gate. `runs` choose
    /// the kernels of its rows. `observe` receives what lies in between, with its width.
    ///
    /// # Errors
    /// Those of `observe`.
    ///
    /// # Panics
    /// For matrices that do not fit together.
    pub fn mlp<E>(
        &self,
        (gate_up, gate_up_terms): Projection<'_>,
        activation: GateActivation,
        (down, down_terms): Projection<'_>,
        x: &[f32],
        runs: &[RowRun],
        observe: &mut Observe<'_, E>,
    ) -> Result<Vec<f32>, E> {
        let (n, width) = (x.len() / gate_up.columns(), down.columns());
        assert_eq!(gate_up.rows(), 2 * width, "gate and up are as wide as what follows them");
        let pool = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Concurrent sessions take one each.
        let mut own = pool().pop().unwrap_or_default();
        let both = scratch_slice(&mut own.gate_up, 2 * n * width);
        gate_up.write_products(x, gate_up_terms, runs, &mut own.packed, both);
        observe(Between::GateUp, both, 2 * width)?;
        let between = scratch_slice(&mut own.gated, n * width);
        gated(activation, both, width, between);
        observe(Between::Activation, between, width)?;
        let mut out = zeros(n * down.rows());
        down.write_products(between, down_terms, runs, &mut own.packed, &mut out);
        pool().push(own);
        Ok(out)
    }
}
