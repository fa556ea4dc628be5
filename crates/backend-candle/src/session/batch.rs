//! Appending to several sessions in one forward pass: products see the rows of all, attention each session by itself.

use std::any::Any;

use candle_core::Tensor;
use rayon::prelude::*;
use tandem_core::backend::Append;
use tandem_core::sequence::LEAST_CHUNK;
use tandem_core::{CancelToken, Error, Result, TokenId};

use super::{CandleSession, DOING, MAX_PASS, Part, forward};
use crate::error::Doing;
use crate::loaded::Loaded;

/// What is left to do for one session.
struct Row<'r> {
    /// Its number in the batch.
    index: usize,
    session: &'r mut CandleSession,
    tokens: &'r [TokenId],
    /// The least number of tokens that kernels are chosen for.
    least: usize,
    /// What of its logits is still to be written.
    logits: &'r mut [f32],
    /// Rows of logits that are still to be written.
    n_logits: usize,
    n_done: usize,
}

impl<'r> Row<'r> {
    fn new(index: usize, append: &'r mut Append<'_>, vocab_size: usize) -> Result<Self> {
        let session: &mut dyn Any = append.session;
        let session = session.downcast_mut::<CandleSession>();
        let session = session.ok_or_else(|| Error::invalid_option("batch", index, "is a session of another backend"))?;
        let (held, tokens) = (session.n_tokens, append.tokens);
        session.cache.reserve(held, held + tokens.len()).doing("to grow the KV cache")?;
        let n_logits = append.request.n_rows(tokens.len());
        // Those of a part of a prompt are chosen as for many.
        let least = if append.is_part { LEAST_CHUNK } else { 0 };
        Ok(Self { index, session, tokens, least, logits: append.logits.resize(n_logits, vocab_size), n_logits, n_done: 0 })
    }

    /// The tokens of its next pass: it is divided as it would be alone.
    fn next(&self) -> &'r [TokenId] {
        let rest = &self.tokens[self.n_done..];
        &rest[..rest.len().min(MAX_PASS)]
    }

    /// How many of the tokens of its next pass have logits.
    fn n_taken(&self) -> usize {
        let (next, rest) = (self.next().len(), self.tokens.len() - self.n_done);
        (self.n_logits + next).saturating_sub(rest)
    }

    fn part(&self) -> Part<'_> {
        let held = self.session.n_tokens + self.n_done;
        let (tokens, n_outputs) = (self.next(), self.n_taken().max(1));
        Part { cache: &self.session.cache, tokens, held, n_outputs, chosen_for: tokens.len().max(self.least) }
    }

    /// Writes `values`, the logits of its last pass.
    fn write(&mut self, values: &[f32], vocab_size: usize) {
        let (own, rest) = std::mem::take(&mut self.logits).split_at_mut(values.len());
        own.copy_from_slice(values);
        self.logits = rest;
        self.n_logits -= values.len() / vocab_size;
    }
}

/// See [`Model::append_batch`](tandem_core::Model::append_batch).
pub(crate) fn append_batch(model: &Loaded, appends: &mut [Append<'_>]) -> Vec<Result<()>> {
    let mut results: Vec<Result<()>> = appends.iter().map(|_| Ok(())).collect();
    let mut rows = Vec::with_capacity(appends.len());
    for (index, append) in appends.iter_mut().enumerate() {
        match Row::new(index, append, model.info.vocab_size) {
            Ok(row) => rows.push(row),
            Err(error) => results[index] = Err(error),
        }
    }
    // Rows whose products have the same kernels are side by side, single tokens first.
    rows.sort_by_key(|row| row.tokens.len().max(row.least));
    let mut most_together = usize::MAX;
    while !rows.is_empty() {
        rows.retain(|row| {
            let is_cancelled = row.session.cancel.is_cancelled();
            if is_cancelled {
                results[row.index] = Err(Error::Cancelled);
            }
            !is_cancelled
        });
        let mut n_rows = 0;
        let together = rows.iter().take_while(|row| {
            n_rows += row.next().len();
            n_rows <= MAX_PASS
        });
        let together = together.count().clamp(1, most_together).min(rows.len());
        if let Err(error) = pass(model, &mut rows[..together]) {
            // It may be one row's: those that are left go alone.
            match together {
                1 => results[rows.remove(0).index] = Err(error),
                _ => most_together = 1,
            }
            continue;
        }
        rows.retain_mut(|row| {
            let is_cancelled = row.session.cancel.is_cancelled();
            if !is_cancelled && row.n_done == row.tokens.len() {
                row.session.n_tokens += row.n_done;
            }
            // One that is cancelled leaves above.
            is_cancelled || row.n_done < row.tokens.len()
        });
    }
    results
}

/// One forward pass over the next tokens of `rows`.
fn pass(model: &Loaded, rows: &mut [Row<'_>]) -> Result<()> {
    // One of several that is cancelled must not end the others.
    let cancel = match rows {
        [] => return Ok(()),
        [row] => row.session.cancel.clone(),
        _ => CancelToken::new(),
    };
    let states = forward(model, &rows.iter().map(Row::part).collect::<Vec<_>>(), &cancel)?;
    write_logits(model, rows, &states).doing(DOING)?;
    for row in rows {
        row.n_done += row.next().len();
    }
    Ok(())
}

/// Gives `rows` those logits of `states` that they requested.
fn write_logits(model: &Loaded, rows: &mut [Row<'_>], states: &Tensor) -> candle_core::Result<()> {
    let mut first = 0;
    let mut parts = Vec::with_capacity(rows.len());
    let mut requested = Vec::with_capacity(rows.len());
    for n in rows.iter().map(Row::n_taken) {
        if n > 0 {
            parts.push(states.narrow(0, first, n)?);
            requested.push(n);
        }
        first += n.max(1);
    }
    if parts.is_empty() {
        return Ok(());
    }
    let states = if parts.len() == rows.len() { states.clone() } else { Tensor::cat(&parts, 0)? };
    let vocab_size = model.info.vocab_size;
    model.with_logits(requested.iter().sum::<usize>() * vocab_size, |values| {
        model.decoder.write_logits(&states, &requested, values)?;
        let mut values = &*values;
        let mut parts = Vec::with_capacity(rows.len());
        for row in rows {
            let own;
            (own, values) = values.split_at(row.n_taken() * vocab_size);
            parts.push((row, own));
        }
        parts.into_par_iter().for_each(|(row, own)| row.write(own, vocab_size));
        Ok(())
    })
}
