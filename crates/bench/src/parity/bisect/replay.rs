//! Each stage by itself, in double precision, from the weights of a checkpoint: the decoders of Llama's family, as transformers computes
//! them (`models/llama/modeling_llama.py` and its siblings, 5.23).

use tandem_core::adapter::ScaledAdapter;
use tandem_core::backend::{ProbePoint, Stage};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{Result, TokenId};

use super::super::weights::values as floats;
use super::adapted;
use super::values::{Values, layer_input};

/// The stages of one checkpoint, with adapters.
pub(super) struct Replay<'a> {
    adapters: &'a [ScaledAdapter],
    config: ModelConfig,
    checkpoint: Checkpoint,
    prefix: &'static str,
    inv_freq: Vec<f32>,
    attention_factor: f32,
}

impl<'a> Replay<'a> {
    /// The stages of the checkpoint of `files` with `adapters`; `None` where there is none, or one whose stages are not known here.
    pub(super) fn open(files: &ModelFiles, adapters: &'a [ScaledAdapter]) -> Result<Option<Self>> {
        let config = files.model_config()?;
        if files.weights.is_empty()
            || files.gguf().is_some()
            || config.quantization_method().is_some()
            || !config.architecture.has_llama_form()
        {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(files)?;
        let prefix = if checkpoint.contains("model.embed_tokens.weight") { "model." } else { "" };
        let inv_freq = config.rope.inv_freq(config.head_dim());
        let attention_factor = config.rope.attention_factor();
        Ok(Some(Self { adapters, config, checkpoint, prefix, inv_freq, attention_factor }))
    }

    pub(super) fn n_parameters(&self) -> u64 {
        self.config.n_parameters()
    }

    /// What `point` should be, given each side's own inputs; `None` for a side that lacks one of them.
    pub(super) fn stage(&self, point: ProbePoint, tokens: &[TokenId], sides: [&Values; 2]) -> Result<[Option<Vec<f32>>; 2]> {
        let ProbePoint { layer, stage } = point;
        let at = |stage| ProbePoint { layer, stage };
        let index = layer.unwrap_or(0);
        let named = |name: &str| format!("{}layers.{index}.{name}", self.prefix);
        let input = layer_input(index);
        Ok(match stage {
            Stage::Embedding => self.embedding(tokens)?,
            Stage::AttentionNorm => self.norm(&named("input_layernorm.weight"), input, sides)?,
            Stage::Query => {
                self.linear(point, &named("self_attn.q_proj"), self.config.qkv_bias, at(Stage::AttentionNorm), sides)?
            }
            Stage::Key => {
                self.linear(point, &named("self_attn.k_proj"), self.config.qkv_bias, at(Stage::AttentionNorm), sides)?
            }
            Stage::Value => {
                self.linear(point, &named("self_attn.v_proj"), self.config.qkv_bias, at(Stage::AttentionNorm), sides)?
            }
            Stage::QueryNorm => self.norm(&named("self_attn.q_norm.weight"), at(Stage::Query), sides)?,
            Stage::KeyNorm => self.norm(&named("self_attn.k_norm.weight"), at(Stage::Key), sides)?,
            Stage::QueryRope => sides.map(|side| self.turned(&[at(Stage::QueryNorm), at(Stage::Query)], side, tokens.len())),
            Stage::KeyRope => sides.map(|side| self.turned(&[at(Stage::KeyNorm), at(Stage::Key)], side, tokens.len())),
            Stage::AttentionContext => sides.map(|side| self.context(index, side, tokens.len())),
            Stage::AttentionOutput => {
                let bias = self.config.attention_output_bias;
                self.linear(point, &named("self_attn.o_proj"), bias, at(Stage::AttentionContext), sides)?
            }
            Stage::AttentionResidual => sides.map(|side| sum(side, input, at(Stage::AttentionOutput))),
            Stage::MlpNorm => self.norm(&named("post_attention_layernorm.weight"), at(Stage::AttentionResidual), sides)?,
            Stage::Gate => self.linear(point, &named("mlp.gate_proj"), self.config.mlp_bias, at(Stage::MlpNorm), sides)?,
            Stage::Up => self.linear(point, &named("mlp.up_proj"), self.config.mlp_bias, at(Stage::MlpNorm), sides)?,
            Stage::Activation => sides.map(|side| gated(side.get(at(Stage::Gate))?, side.get(at(Stage::Up))?)),
            Stage::Down => self.linear(point, &named("mlp.down_proj"), self.config.mlp_bias, at(Stage::Activation), sides)?,
            Stage::MlpResidual => sides.map(|side| sum(side, at(Stage::AttentionResidual), at(Stage::Down))),
            Stage::FinalNorm => self.norm(&format!("{}norm.weight", self.prefix), layer_input(self.config.n_layers), sides)?,
            Stage::Logits => self.logits(sides)?,
            _ => [None, None],
        })
    }

    fn embedding(&self, tokens: &[TokenId]) -> Result<[Option<Vec<f32>>; 2]> {
        let table = self.weight(&format!("{}embed_tokens.weight", self.prefix))?;
        let width = self.config.hidden_size;
        let rows: Vec<f32> = tokens.iter().flat_map(|&id| &table[id as usize * width..][..width]).copied().collect();
        Ok([Some(rows.clone()), Some(rows)])
    }

    fn logits(&self, sides: [&Values; 2]) -> Result<[Option<Vec<f32>>; 2]> {
        let name = match self.config.tie_word_embeddings {
            true => format!("{}embed_tokens.weight", self.prefix),
            false => "lm_head.weight".into(),
        };
        let mut weight = self.weight(&name)?;
        let at = |stage| ProbePoint { layer: None, stage };
        adapted::apply(self.adapters, at(Stage::Logits), &self.config, &mut weight, self.config.hidden_size)?;
        Ok(sides.map(|side| Some(product(side.get(at(Stage::FinalNorm))?, &weight, None, self.config.hidden_size))))
    }

    /// Root mean square norms of rows as wide as the weight: of hidden states, or of each head.
    fn norm(&self, name: &str, input: ProbePoint, sides: [&Values; 2]) -> Result<[Option<Vec<f32>>; 2]> {
        if !self.checkpoint.contains(name) {
            return Ok([None, None]);
        }
        let weight = self.weight(name)?;
        let eps = self.config.norm_eps;
        let of_row = |row: &[f32]| {
            let mean = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean + eps).sqrt();
            row.iter().zip(&weight).map(|(&value, &weight)| (f64::from(value) * scale * f64::from(weight)) as f32).collect()
        };
        Ok(sides
            .map(|side| Some(side.get(input)?.chunks_exact(weight.len()).flat_map(|row| -> Vec<f32> { of_row(row) }).collect())))
    }

    /// The product of the module called `name`, with its adapters, which `point` shows.
    fn linear(
        &self,
        point: ProbePoint,
        name: &str,
        has_bias: bool,
        input: ProbePoint,
        sides: [&Values; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let columns = self.checkpoint.tensor(&format!("{name}.weight"))?.shape[1];
        let mut weight = self.weight(&format!("{name}.weight"))?;
        adapted::apply(self.adapters, point, &self.config, &mut weight, columns)?;
        let bias = if has_bias { Some(self.weight(&format!("{name}.bias"))?) } else { None };
        Ok(sides.map(|side| Some(product(side.get(input)?, &weight, bias.as_deref(), columns))))
    }

    fn weight(&self, name: &str) -> Result<Vec<f32>> {
        Ok(floats(&self.checkpoint.tensor(name)?).collect())
    }

    /// The first of `inputs` that `side` has, `[n, heads * head_dim]`, each head turned by its position: pairs are
    /// `(i, i + head_dim / 2)`.
    fn turned(&self, inputs: &[ProbePoint], side: &Values, n: usize) -> Option<Vec<f32>> {
        let mut values = side.first(inputs)?.to_vec();
        let head_dim = self.config.head_dim();
        let width = values.len() / n;
        for (position, row) in values.chunks_exact_mut(width).enumerate() {
            for head in row.chunks_exact_mut(head_dim) {
                let (first, second) = head.split_at_mut(head_dim / 2);
                for ((first, second), frequency) in first.iter_mut().zip(second).zip(&self.inv_freq) {
                    let (sine, cosine) = f64::from(position as f32 * frequency).sin_cos();
                    let (sine, cosine) = (sine * f64::from(self.attention_factor), cosine * f64::from(self.attention_factor));
                    let (a, b) = (f64::from(*first), f64::from(*second));
                    (*first, *second) = ((a * cosine - b * sine) as f32, (b * cosine + a * sine) as f32);
                }
            }
        }
        Some(values)
    }

    /// `softmax(q kᵀ / √head_dim) v`, each query seeing what lies before it, and behind it in a model that sees both ways, within the
    /// layer's window.
    fn context(&self, layer: usize, side: &Values, n: usize) -> Option<Vec<f32>> {
        let at = |stage| ProbePoint { layer: Some(layer), stage };
        // Who does not show queries turned has them turned as they should be: a fault of the turn is one of this stage then.
        let queries = match side.get(at(Stage::QueryRope)) {
            Some(queries) => queries.to_vec(),
            None => self.turned(&[at(Stage::QueryNorm), at(Stage::Query)], side, n)?,
        };
        let (keys, values) = (side.get(at(Stage::KeyRope))?, side.get(at(Stage::Value))?);
        let head_dim = self.config.head_dim();
        let (width, kv_width) = (queries.len() / n, keys.len() / n);
        let group = self.config.n_heads / self.config.n_kv_heads;
        let mut out = vec![0.0; queries.len()];
        for row in 0..n {
            let window = self.config.layer_windows[layer];
            let first = window.map_or(0, |window| (row + 1).saturating_sub(window));
            let end = if self.config.is_causal { row + 1 } else { n.min(window.map_or(n, |window| row.saturating_add(window))) };
            for head in 0..self.config.n_heads {
                let query = &queries[row * width + head * head_dim..][..head_dim];
                let of = |cache: &'_ [f32], seen: usize| seen * kv_width + head / group * head_dim..cache.len();
                let key = |seen: usize| &keys[of(keys, seen)][..head_dim];
                let value = |seen: usize| &values[of(values, seen)][..head_dim];
                let scores: Vec<f64> = (first..end).map(|seen| dot(query, key(seen)) / (head_dim as f64).sqrt()).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
                let mut sums = vec![0.0; head_dim];
                for (score, seen) in scores.iter().zip(first..end) {
                    let share = (score - most).exp() / total;
                    sums.iter_mut().zip(value(seen)).for_each(|(sum, &value)| *sum += share * f64::from(value));
                }
                let out = &mut out[row * width + head * head_dim..][..head_dim];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
            }
        }
        Some(out)
    }
}

/// `x Wᵀ + b` of `x`, `[n, columns]`, with `weight`, `[rows, columns]`: `[n, rows]`. Every thread takes rows of the weight.
fn product(x: &[f32], weight: &[f32], bias: Option<&[f32]>, columns: usize) -> Vec<f32> {
    let (n, rows) = (x.len() / columns, weight.len() / columns);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = rows.div_ceil(threads).max(1);
    let parts: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let part = |weights: &[f32]| -> Vec<f32> {
            weights.chunks_exact(columns).flat_map(|weights| x.chunks_exact(columns).map(|x| dot(x, weights) as f32)).collect()
        };
        let running: Vec<_> = weight.chunks(share * columns).map(|weights| scope.spawn(move || part(weights))).collect();
        running.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    // `[rows, n]` to `[n, rows]`
    let turned = parts.concat();
    (0..n * rows).map(|i| turned[i % rows * n + i / rows] + bias.map_or(0.0, |bias| bias[i % rows])).collect()
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    for (left, right) in left.iter().zip(right) {
        for i in 0..LANES {
            sums[i] += f64::from(left[i]) * f64::from(right[i]);
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(&left, &right)| f64::from(left) * f64::from(right));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

/// `silu(gate) * up`
fn gated(gate: &[f32], up: &[f32]) -> Option<Vec<f32>> {
    let of = |(&gate, &up): (&f32, &f32)| (f64::from(gate) / (1.0 + (-f64::from(gate)).exp()) * f64::from(up)) as f32;
    Some(gate.iter().zip(up).map(of).collect())
}

fn sum(side: &Values, left: ProbePoint, right: ProbePoint) -> Option<Vec<f32>> {
    Some(side.get(left)?.iter().zip(side.get(right)?).map(|(left, right)| left + right).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_of_rows_with_rows() {
        let x = [1.0, 2.0, 3.0, 4.0];
        let weight = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        assert_eq!(product(&x, &weight, None, 2), [1.0, 2.0, 3.0, 3.0, 4.0, 7.0]);
        assert_eq!(product(&x, &weight, Some(&[10.0, 20.0, 30.0]), 2), [11.0, 22.0, 33.0, 13.0, 24.0, 37.0]);
        let long: Vec<f32> = (0..19).map(|i| i as f32).collect();
        assert_eq!(dot(&long, &long), (0..19).map(|i| f64::from(i * i)).sum::<f64>());
    }
}
