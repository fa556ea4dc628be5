//! The least that decoding takes: the engine's own call in a loop, with the KV cache in place and every input used again.
//!
//! It knows the one kind of graph that it is for: onnxruntime-genai's, with `GroupQueryAttention` and without `position_ids`.
#![expect(unsafe_code, reason = "the bare loop is the engine's C call")]

use std::ffi::CString;
use std::path::Path;
use std::ptr;

use anyhow::{Context, Result};
use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel};
use ort::value::{DynValue, Tensor, ValueType};

pub(crate) struct Bare {
    session: Session,
    vocab_size: usize,
    caches: Vec<(usize, CString, DynValue)>,
    inputs: Vec<CString>,
    ones: Vec<i64>,
    n_tokens: usize,
    row: Tensor<f32>,
}

impl Bare {
    /// The same settings as Tandem's own session.
    pub(crate) fn session(environment: &Environment, graph: &Path, threads: usize) -> Result<Session> {
        let mut builder = Session::builder(environment)?
            .with_auto_device(AutoDevicePolicy::PreferCPU)
            .map_err(ort::Error::<()>::from)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(ort::Error::<()>::from)?
            .with_intra_threads(threads)
            .map_err(ort::Error::<()>::from)?
            .with_intra_op_spinning(false)
            .map_err(ort::Error::<()>::from)?
            .with_memory_pattern(false)
            .map_err(ort::Error::<()>::from)?;
        Ok(builder.commit_from_file(graph)?)
    }

    pub(crate) fn new(session: Session, context_length: usize) -> Result<Self> {
        let shape = |value: &ValueType| match value {
            ValueType::Tensor { shape, .. } => shape.to_vec(),
            _ => Vec::new(),
        };
        let logits = session.outputs().iter().find(|o| o.name() == "logits").context("no logits")?;
        let vocab_size = *shape(logits.dtype()).last().context("logits have a shape")? as usize;
        let mut caches = Vec::new();
        for (index, input) in session.inputs().iter().enumerate() {
            let Some(rest) = input.name().strip_prefix("past_key_values") else { continue };
            let shape = shape(input.dtype());
            let head_dim = if shape[3] > 0 { shape[3] as usize } else { 64 };
            let buffer = Tensor::<f32>::new(&Allocator::default(), [1, shape[1] as usize, context_length, head_dim])?.into_dyn();
            caches.push((index, CString::new(format!("present{rest}"))?, buffer));
        }
        let inputs = session.inputs().iter().map(|input| CString::new(input.name())).collect::<Result<_, _>>()?;
        let row = Tensor::<f32>::new(&Allocator::default(), [1, 1, vocab_size])?;
        Ok(Self { session, vocab_size, caches, inputs, ones: vec![1; context_length], n_tokens: 0, row })
    }

    pub(crate) fn rewind(&mut self, n_tokens: usize) {
        self.n_tokens = n_tokens;
    }

    /// Appends `tokens` and returns the most probable next one.
    pub(crate) fn append(&mut self, tokens: &[i64]) -> Result<i64> {
        let total = self.n_tokens + tokens.len();
        let ids = Tensor::from_array(([1, tokens.len()], tokens.to_vec()))?;
        let mask = Tensor::from_array(([1, total], self.ones[..total].to_vec()))?;
        let mut names = vec![c"logits".as_ptr()];
        let mut outputs = vec![if tokens.len() == 1 { self.row.ptr_mut() } else { ptr::null_mut() }];
        let mut inputs = vec![ptr::null(); self.inputs.len()];
        for (index, name) in self.inputs.iter().enumerate() {
            match name.to_str()? {
                "input_ids" => inputs[index] = ids.ptr(),
                "attention_mask" => inputs[index] = mask.ptr(),
                _ => {}
            }
        }
        for (index, present, buffer) in &mut self.caches {
            inputs[*index] = buffer.ptr();
            names.push(present.as_ptr());
            outputs.push(buffer.ptr_mut());
        }
        let input_names: Vec<_> = self.inputs.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: all values are alive, each name has its value, and this is the session's only run.
        unsafe {
            let status = (ort::api().Run)(
                self.session.ptr().cast_mut(),
                ptr::null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                names.as_ptr(),
                names.len(),
                outputs.as_mut_ptr(),
            );
            ort::Error::<()>::result_from_status(status)?;
        }
        self.n_tokens = total;
        let returned = ptr::NonNull::new(outputs[0]).filter(|_| tokens.len() > 1);
        // SAFETY: the engine allocated it in this run and nobody else owns it.
        let returned: Option<DynValue> =
            returned.map(|value| unsafe { DynValue::from_ptr(value, Some(self.session.allocator())) });
        let logits = match &returned {
            Some(all) => all.try_extract_tensor::<f32>()?.1,
            None => self.row.try_extract_tensor::<f32>()?.1,
        };
        Ok(best(&logits[logits.len() - self.vocab_size..]))
    }
}

fn best(logits: &[f32]) -> i64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&value| value == max).unwrap_or(0) as i64
}
