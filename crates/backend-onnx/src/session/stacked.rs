//! One run for a token of each of several sessions, on the engine's own kernels. Each session has a row of ids, and its cache is its row of one
//! tensor for each port ([`Stack`]). `GroupQueryAttention` takes rows of any lengths, which the mask tells it, as long as they are given one token
//! each; prompts run alone.

use std::ptr;
use std::sync::{Arc, PoisonError};

use ort::AsPointer;
use ort::session::RunOptions;
use ort::value::DynValue;
use tandem_core::{Error, Result};

use super::batch::{Row, end_with_all};
use super::{Given, LOGITS, copy_floats};
use crate::adapters::Constants;
use crate::cache::Stack;
use crate::error::Doing;
use crate::graph::check_shape;
use crate::loaded::Loaded;
use crate::run::{RawValue, run, take};

/// One run for all of `rows`, which are given one token each: writes their keys and values, and the logits that are requested.
pub(super) fn run_stacked((model, constants): (&Loaded, &Constants), rows: &mut [Row<'_>]) -> Result<()> {
    let graph = &model.graph;
    let mut caches: Vec<_> = rows.iter_mut().map(|row| (&mut row.session.cache, row.session.n_tokens)).collect();
    let (mut stack, places) = Stack::gather(&mut caches, model.info.max_context)?;
    let mut tokens = vec![(0, 0); rows.len()];
    for (row, place) in rows.iter().zip(&places) {
        tokens[*place] = (row.tokens[0], row.session.n_tokens);
    }
    let given = Given::rows(graph, &tokens)?;
    let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); graph.input_names.len()];
    let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); graph.output_names.len()];
    given.bind(&mut inputs);
    stack.bind(&mut inputs, &mut outputs);
    inputs.extend(constants.values.iter().map(|value| value.ptr().cast_mut()));

    let options = Arc::new(RunOptions::new().doing("to prepare a run")?);
    let _listener = end_with_all(rows, &options);
    let alone = model.one_run_at_a_time.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
    // SAFETY: the stack lies over the slots of the sessions, which are borrowed for this call, and over no others; the other values are owned by this
    // call, or are constants, which are only read; `alone` is held where a provider does not allow runs at the same time.
    #[expect(unsafe_code, reason = "one value as past and as present")]
    let ran = unsafe { run(&model.session, &options, None, (&constants.names, &inputs), (&model.output_names, &mut outputs)) };
    drop(alone);
    ran.doing("to run the graph")?;
    write_logits(model, take(&model.session, &mut outputs[LOGITS]).as_ref(), (rows, &places))
}

/// Gives each of `rows` its part of `logits`, `[sequences, 1, vocab_size]`, by its place.
fn write_logits(model: &Loaded, logits: Option<&DynValue>, (rows, places): (&mut [Row<'_>], &[usize])) -> Result<()> {
    let (file, vocab_size) = (&model.graph.file, model.info.vocab_size);
    let logits = logits.ok_or_else(|| Error::bad_field(&**file, "graph.output", "the logits were not computed"))?;
    check_shape(file, "logits", logits, &[rows.len(), 1, vocab_size])?;
    for (row, place) in rows.iter_mut().zip(places) {
        let n = row.request.n_rows(1);
        copy_floats(logits, place * vocab_size, row.logits.resize(n, vocab_size))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
