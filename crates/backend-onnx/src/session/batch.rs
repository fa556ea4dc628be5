//! Appending to several sessions in one run of the graph. Where all attention is Tandem's, their tokens are one row, and attention is each
//! session's own ([`Batch`]). Where it is the engine's, one token of each is a row ([`run_stacked`]).

use std::any::Any;
use std::ptr;
use std::sync::Arc;

use ort::AsPointer;
use ort::session::RunOptions;
use ort::value::DynValue;
use tandem_core::backend::Append;
use tandem_core::sequence::LEAST_CHUNK;
use tandem_core::{CancelToken, Error, Logits, LogitsRequest, Result, Session, TokenId};

use super::stacked::run_stacked;
use super::{Given, LOGITS, MAX_RUN, OnnxSession, copy_floats};
use crate::adapters::Constants;
use crate::error::Doing;
use crate::graph::check_shape;
use crate::loaded::{Loaded, SharedRun};
use crate::operators::{Batch, Sequence};
use crate::run::{RawValue, run, take};

/// What is appended to one session.
pub(super) struct Row<'r> {
    /// Its number in the batch.
    index: usize,
    pub(super) session: &'r mut OnnxSession,
    pub(super) tokens: &'r [TokenId],
    pub(super) request: LogitsRequest,
    pub(super) logits: &'r mut Logits,
    /// The tokens are few, and get the bits that they have in a prompt of many.
    is_part: bool,
}

impl<'r> Row<'r> {
    fn new(index: usize, append: &'r mut Append<'_>, (model, constants): (&Arc<Loaded>, &Arc<Constants>)) -> Result<Self> {
        let session: &mut dyn Any = append.session;
        let session = session.downcast_mut::<OnnxSession>();
        let is_own =
            |session: &&mut OnnxSession| Arc::ptr_eq(&session.model, model) && Arc::ptr_eq(&session.constants, constants);
        let session =
            session.filter(is_own).ok_or_else(|| Error::invalid_option("batch", index, "is a session of another model"))?;
        let is_part = append.is_part && append.tokens.len() < LEAST_CHUNK;
        Ok(Self { index, session, tokens: append.tokens, request: append.request, logits: append.logits, is_part })
    }

    fn append_alone(&mut self, of: (&Loaded, &Constants)) -> Result<()> {
        if !self.is_part {
            return self.session.append_into(self.tokens, self.request, self.logits);
        }
        let ran = run_packed(of, std::slice::from_mut(self));
        if self.session.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        ran?;
        self.session.n_tokens += self.tokens.len();
        Ok(())
    }

    /// Its part of a run of a graph that returns the logits that are requested, or all.
    fn sequence(&mut self, keeps: bool) -> Result<Sequence> {
        let (held, n) = (self.session.n_tokens, self.tokens.len());
        self.session.cache.reserve(held, held + n)?;
        let n_kept = if keeps { self.request.n_rows(n) } else { n };
        let least = if self.is_part { LEAST_CHUNK } else { 0 };
        Ok(Sequence::new(held, n, n_kept, self.session.cache.memory()).chosen_for(least))
    }
}

/// See [`Model::append_batch`](tandem_core::Model::append_batch).
pub(crate) fn append_batch(of: (&Arc<Loaded>, &Arc<Constants>), appends: &mut [Append<'_>]) -> Vec<Result<()>> {
    let mut results: Vec<Result<()>> = appends.iter().map(|_| Ok(())).collect();
    let mut rows = Vec::with_capacity(appends.len());
    for (index, append) in appends.iter_mut().enumerate() {
        match Row::new(index, append, of) {
            Ok(row) => rows.push(row),
            Err(error) => results[index] = Err(error),
        }
    }
    let shared = if of.1.has_factors { SharedRun::Never } else { of.0.shared_run };
    // Single tokens together, and before long prompts.
    rows.sort_by_key(|row| row.tokens.len());
    while !rows.is_empty() {
        let n_together = n_together(shared, &rows);
        let mut together: Vec<Row<'_>> = rows.drain(..n_together).collect();
        together.retain(|row| {
            let is_cancelled = row.session.cancel.is_cancelled();
            if is_cancelled {
                results[row.index] = Err(Error::Cancelled);
            }
            !is_cancelled
        });
        let is_shared = together.len() > 1 || together.iter().any(|row| row.is_part);
        let is_done = is_shared
            && match shared {
                SharedRun::Packed => run_packed((of.0, of.1), &mut together).is_ok(),
                SharedRun::Stacked => run_stacked((of.0, of.1), &mut together).is_ok(),
                SharedRun::Never => false,
            };
        for mut row in together {
            results[row.index] = match is_done {
                true if row.session.cancel.is_cancelled() => Err(Error::Cancelled),
                true => {
                    row.session.n_tokens += row.tokens.len();
                    Ok(())
                }
                // It may be one row's error, and then is not that of the others. What the run wrote lies behind the tokens held.
                false => row.append_alone((of.0, of.1)),
            };
        }
    }
    results
}

/// How many of the first of `rows` are given to one run: at least one.
fn n_together(shared: SharedRun, rows: &[Row<'_>]) -> usize {
    let mut n_tokens = 0;
    let fits = |row: &&Row<'_>| {
        n_tokens += row.tokens.len();
        let may_share = match shared {
            SharedRun::Packed => true,
            SharedRun::Stacked => row.tokens.len() == 1,
            SharedRun::Never => false,
        };
        may_share && n_tokens <= MAX_RUN
    };
    rows.iter().take_while(fits).count().max(1)
}

/// One run for all of `rows` with their tokens in one row: writes their keys and values, and the logits that are requested.
fn run_packed((model, constants): (&Loaded, &Constants), rows: &mut [Row<'_>]) -> Result<()> {
    let graph = &model.graph;
    let keeps = graph.logits_to_keep.is_some();
    let sequences = rows.iter_mut().map(|row| row.sequence(keeps)).collect::<Result<Vec<_>>>()?;
    let batch = Arc::new(Batch::new(sequences));
    let order = batch.tokens();
    let ids = order.iter().map(|&(row, token)| rows[row].tokens[token]);
    let positions = order.iter().map(|&(row, token)| (rows[row].session.n_tokens + token) as i64);
    let n_logits = if batch.n_kept() == batch.n_rows() { 0 } else { batch.n_kept() };
    // The lengths of sequences are in `batch`. As one sequence, so many tokens of one position would be an error.
    let given = Given::new(graph, (ids, positions), 1, n_logits as i64)?;
    let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); graph.input_names.len()];
    let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); graph.output_names.len()];
    given.bind(&mut inputs);
    if let Some(first) = rows.first_mut() {
        first.session.cache.bind(&mut inputs, &mut outputs);
    }
    inputs.extend(constants.values.iter().map(|value| value.ptr().cast_mut()));

    let options = Arc::new(RunOptions::new().doing("to prepare a run")?);
    let _listener = end_with_all(rows, &options);
    // SAFETY: the values are owned by the sessions, which are borrowed for this call and are all different, or by this call; constants are only
    // read. Providers for which runs must be one at a time have no graphs for several sequences.
    #[expect(unsafe_code, reason = "one value as past and as present")]
    let ran =
        unsafe { run(&model.session, &options, Some(&batch), (&constants.names, &inputs), (&model.output_names, &mut outputs)) };
    ran.doing("to run the graph")?;
    let logits = take(&model.session, &mut outputs[LOGITS]);
    write_logits(model, &batch, logits.as_ref(), rows)
}

/// Has `options` end the run when all of `rows` are cancelled, for as long as the result lives.
pub(super) fn end_with_all(rows: &[Row<'_>], options: &Arc<RunOptions>) -> Arc<dyn Fn() + Send + Sync> {
    let (options, cancels) = (Arc::clone(options), rows.iter().map(|row| row.session.cancel.clone()).collect::<Vec<_>>());
    let listener: Arc<dyn Fn() + Send + Sync> = {
        let cancels = cancels.clone();
        Arc::new(move || {
            if cancels.iter().all(CancelToken::is_cancelled) {
                // A run that could not be told to end still ends by itself.
                let _ = options.terminate();
            }
        })
    };
    cancels.iter().for_each(|cancel| cancel.listen(&listener));
    listener
}

/// Gives each of `rows` its part of `logits`, `[1, kept, vocab_size]`.
fn write_logits(model: &Loaded, batch: &Batch, logits: Option<&DynValue>, rows: &mut [Row<'_>]) -> Result<()> {
    let (file, vocab_size) = (&model.graph.file, model.info.vocab_size);
    let logits = logits.ok_or_else(|| Error::bad_field(&**file, "graph.output", "the logits were not computed"))?;
    check_shape(file, "logits", logits, &[1, batch.n_kept(), vocab_size])?;
    for (row, kept) in rows.iter_mut().zip(batch.kept_rows()) {
        let n = row.request.n_rows(row.tokens.len());
        let out = row.logits.resize(n, vocab_size);
        if n > 0 {
            copy_floats(logits, (kept.end - n) * vocab_size, out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use tandem_core::backend::{Backend, Kernels, LoadOptions, OnnxOptions, SessionOptions};
    use tandem_core::conformance::{describe, with_fixture};
    use tandem_core::files::ModelFiles;

    use super::*;
    use crate::{OnnxBackend, library};

    /// Whether a run takes two sessions of the golden `name`, with this of its graphs or one that is built.
    #[track_caller]
    fn check(name: &str, graph: Option<&str>, kernels: Kernels, expected: bool) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name);
        let files = ModelFiles::discover(&directory, name).unwrap();
        let graph: Option<PathBuf> = graph.map(|graph| directory.join("onnx").join(graph));
        let options = LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(graph).with_kernels(kernels));
        let model = OnnxBackend::new(None).open(&files, &options).unwrap().load_unchecked().unwrap();
        let mut sessions = [(); 2].map(|()| model.new_session(&SessionOptions::default()).unwrap());
        let mut rows: Vec<Row<'_>> = Vec::new();
        let mut logits = [Logits::default(), Logits::default()];
        for (index, (session, logits)) in sessions.iter_mut().zip(&mut logits).enumerate() {
            let session: &mut dyn Any = &mut **session;
            let session = session.downcast_mut::<OnnxSession>().unwrap();
            rows.push(Row { index, session, tokens: &[1, 2, 3], request: LogitsRequest::Last(1), logits, is_part: false });
        }
        let (loaded, constants) = (Arc::clone(&rows[0].session.model), Arc::clone(&rows[0].session.constants));
        assert_eq!(loaded.shared_run == SharedRun::Packed, expected, "{name}");
        if expected {
            run_packed((&loaded, &constants), &mut rows).unwrap_or_else(|error| panic!("{name}: {}", describe(&error)));
        }
    }

    #[test]
    fn a_run_takes_several_sessions_where_all_attention_is_tandems() {
        with_fixture(
            || library::find(None).map_err(|error| describe(&error)),
            |_| {
                for name in ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "mistral", "llama-yarn"] {
                    check(name, None, Kernels::Tandem, true);
                    check(name, None, Kernels::Runtime, false);
                }
                // Its heads are rotated by positions that the graph computes of the mask.
                check("llama-head24", None, Kernels::Tandem, false);
                check("qwen3", Some("genai_int4/model.onnx"), Kernels::Tandem, true);
                check("qwen3", Some("optimum_f32/model.onnx"), Kernels::Tandem, false);
                for (graph, expected) in [("model.onnx", true), ("model_q4.onnx", true), ("model_q4f16.onnx", false)] {
                    check("onnx-community", Some(graph), Kernels::Tandem, expected);
                }
            },
        );
    }
}
