//! Whether the vectors of an index are those that a model makes, and if not, what was done differently: the alternatives are tried.

use serde::Serialize;

use super::{EmbedOptions, Embedder, Normalize, Pool, Pooling, Similarity, Step, normalize};
use crate::backend::TokenBatch;
use crate::error::Result;
use crate::primitives::TokenId;

/// From here on two vectors are the same but for rounding.
const SAME: f64 = 0.99999;

/// From here on they are of one way of making them; dtypes differ by more.
const EXPLAINED: f64 = 0.9999;

/// From here on, in the mean, they are of one space in other arithmetic: whole-tensor quantisation has 0.993 for a model of MiniLM's size.
const SAME_SPACE: f64 = 0.98;

/// Lengths may differ by this share where vectors are the same.
const LENGTH_TOLERANCE: f64 = 0.01;

/// The most tokens of a text that other programs use by default.
const USUAL_LENGTHS: [usize; 8] = [32, 64, 128, 256, 384, 512, 1024, 2048];

/// A text, and the vector that an index has for it.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexRow {
    /// The text.
    pub text: String,
    /// The vector.
    pub vector: Vec<f32>,
}

/// What was found of an index.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verification {
    /// In a word.
    pub verdict: Verdict,
    /// What was done differently, where that was found.
    pub differences: Vec<Difference>,
    /// Rows that were compared.
    pub n_rows: usize,
    /// The least cosine of a row's vector with the one that is expected.
    pub cosine_min: f64,
    /// Their mean.
    pub cosine_mean: f64,
    /// The least cosine once the differences are taken into account.
    pub explained_min: f64,
    /// Their mean.
    pub explained_mean: f64,
}

/// What an index is to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same vectors.
    Same,
    /// The same space, in other arithmetic: another dtype, most often.
    OtherArithmetic,
    /// The same model, used in another way.
    OtherWay,
    /// Another model.
    OtherModel,
}

/// What was done differently when an index was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Difference {
    /// Another prompt was put before texts.
    Prompt {
        /// That of the index.
        index: String,
        /// The expected one.
        expected: String,
    },
    /// Hidden states became a vector in another way.
    Pooling {
        /// That of the index.
        index: String,
        /// The expected one.
        expected: String,
    },
    /// The token that ends a text.
    End {
        /// The index has one.
        index: bool,
        /// One is expected.
        expected: bool,
    },
    /// Vectors have length 1.
    Normalization {
        /// In the index.
        index: bool,
        /// As expected.
        expected: bool,
    },
    /// Texts were cut elsewhere.
    Truncation {
        /// The most tokens of a text in the index.
        index: usize,
        /// As expected.
        expected: usize,
    },
    /// Blanks around texts were removed.
    OuterBlanks,
    /// Texts were turned to lower case, or were not.
    LowerCase {
        /// In the index.
        index: bool,
    },
    /// Another number of dimensions.
    Dimensions {
        /// In the index.
        index: usize,
        /// As expected.
        expected: usize,
    },
    /// The layers that follow pooling were left out.
    NoDense,
}

/// One way of making tokens of texts.
#[derive(Clone, PartialEq)]
struct Way {
    prompt: String,
    end: End,
    strips: bool,
    lower_case: bool,
    max_tokens: usize,
}

/// What is done about the token that ends a text.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// As the tokenizer has it.
    AsExpected,
    /// It is left out.
    Without,
    /// This one is appended.
    With(TokenId),
}

/// How well a way explains an index.
#[derive(Clone, Copy)]
struct Fit {
    min: f64,
    mean: f64,
    /// Rows whose vectors are the same.
    n_exact: usize,
    /// The median of the lengths of the index's vectors over those of the expected ones.
    length_ratio: f64,
}

/// What an index is compared with.
struct Verifier<'e> {
    embedder: &'e Embedder,
    options: &'e EmbedOptions,
    rows: &'e [IndexRow],
    /// The width of the index's vectors.
    width: usize,
    expected: Way,
    expected_width: usize,
}

/// The outcome of a search: what explains the index best.
struct Explanation {
    way: Way,
    pooling: Pooling,
    has_steps: bool,
    fit: Fit,
}

/// Compares the rows of an index with the vectors that `embedder` makes of their texts under `options`, and looks for what explains a
/// difference.
///
/// # Errors
/// As [`Embedder::embed`].
pub fn verify(embedder: &Embedder, options: &EmbedOptions, rows: &[IndexRow]) -> Result<Verification> {
    let (config, info) = (embedder.config(), embedder.info());
    let verifier = Verifier {
        embedder,
        options,
        rows,
        width: rows.first().map_or(0, |row| row.vector.len()),
        expected_width: embedder.dimensions(options)?,
        expected: Way {
            prompt: config.prompts.text(&options.prompt)?.to_owned(),
            end: End::AsExpected,
            strips: false,
            lower_case: config.lower_case,
            max_tokens: config.max_tokens,
        },
    };
    let own = verifier.explanation(verifier.expected.clone(), config.pooling.clone(), true)?;
    let best = if own.fit.n_exact == rows.len() { None } else { verifier.search(&own)? };
    let expects_unit = config.makes_unit_vectors(options, info.hidden_size);
    Ok(verifier.verification(&own, best, expects_unit))
}

impl Verifier<'_> {
    fn explanation(&self, way: Way, pooling: Pooling, has_steps: bool) -> Result<Explanation> {
        let states = self.states(&way)?;
        let fit = self.fit(&states, &pooling, has_steps);
        Ok(Explanation { way, pooling, has_steps, fit })
    }

    /// The best of the other ways, the simplest first: one change of the tokens with any pooling, then two.
    fn search(&self, own: &Explanation) -> Result<Option<Explanation>> {
        let mut best: Option<Explanation> = None;
        let prompts = self.prompts();
        let ends = self.ends()?;
        let single = self.single_changes(&prompts, &ends);
        let pairs = prompts
            .iter()
            .flat_map(|prompt| ends.iter().map(|end| Way { prompt: prompt.clone(), end: *end, ..self.expected.clone() }));
        for way in single.into_iter().chain(pairs) {
            let states = self.states(&way)?;
            for (pooling, has_steps) in self.poolings() {
                let is_own = way == self.expected && pooling == own.pooling && has_steps;
                let fit = self.fit(&states, &pooling, has_steps);
                if !is_own && best.as_ref().is_none_or(|best| fit.is_better_than(&best.fit)) {
                    best = Some(Explanation { way: way.clone(), pooling, has_steps, fit });
                }
            }
            if best.as_ref().is_some_and(|best| best.fit.n_exact == self.rows.len()) {
                break;
            }
        }
        Ok(best)
    }

    fn single_changes(&self, prompts: &[String], ends: &[End]) -> Vec<Way> {
        let expected = || self.expected.clone();
        let mut ways = vec![expected()];
        ways.extend(prompts.iter().map(|prompt| Way { prompt: prompt.clone(), ..expected() }));
        ways.extend(ends.iter().map(|end| Way { end: *end, ..expected() }));
        ways.push(Way { strips: true, ..expected() });
        ways.push(Way { lower_case: !self.expected.lower_case, ..expected() });
        let most = self.embedder.info().max_context;
        let lengths = USUAL_LENGTHS.into_iter().chain([most]).filter(|&n| n <= most && n != self.expected.max_tokens);
        ways.extend(lengths.map(|max_tokens| Way { max_tokens, ..expected() }));
        ways
    }

    /// Other prompts: none, those of the model, and each with or without a blank at its end, which is a common slip.
    fn prompts(&self) -> Vec<String> {
        let own = self.embedder.config().prompts.by_name.values().chain([&self.expected.prompt]);
        let mut prompts = vec![String::new()];
        for prompt in own {
            prompts.extend([prompt.clone(), prompt.trim_end().to_owned(), format!("{prompt} ")]);
        }
        let mut seen = vec![self.expected.prompt.clone()];
        prompts.retain(|prompt| {
            // Nobody puts blanks alone before a text.
            let is_known = seen.contains(prompt) || (prompt.trim().is_empty() && !prompt.is_empty());
            seen.push(prompt.clone());
            !is_known
        });
        prompts
    }

    fn ends(&self) -> Result<Vec<End>> {
        let probe = self.embedder.tokens().encoded("", "a", false, self.expected.max_tokens)?;
        let has_end = probe.last().is_some_and(|&last| self.embedder.tokens().is_special(last));
        Ok(match has_end {
            true => vec![End::Without],
            false => self.embedder.config().end_tokens.first().map(|&id| End::With(id)).into_iter().collect(),
        })
    }

    fn poolings(&self) -> Vec<(Pooling, bool)> {
        let own = &self.embedder.config().pooling;
        let mut all = vec![(own.clone(), true)];
        let pools = [Pool::Mean, Pool::Cls, Pool::LastToken, Pool::Max, Pool::MeanSqrtLen, Pool::WeightedMean];
        all.extend(pools.into_iter().map(|pool| (Pooling::of(pool), true)).filter(|(pooling, _)| pooling != own));
        if own.pools.len() == 1 {
            all.push((Pooling { include_prompt: !own.include_prompt, ..own.clone() }, true));
        }
        if self.embedder.config().steps.iter().any(|step| matches!(step, Step::Dense(_))) {
            all.push((own.clone(), false));
        }
        all
    }

    /// The hidden states of each row's text, with how many tokens its prompt has; none of a text without tokens.
    fn states(&self, way: &Way) -> Result<Vec<(Vec<f32>, usize)>> {
        let tokens = self.embedder.tokens();
        let n_prompt = if way.prompt.is_empty() { 0 } else { tokens.n_prompt(&way.prompt)? };
        let ids = self.rows.iter().map(|row| self.ids(way, &row.text)).collect::<Result<Vec<_>>>()?;
        let known: Vec<&[TokenId]> = ids.iter().map(Vec::as_slice).filter(|ids| !ids.is_empty()).collect();
        let states = self.embedder.model().encode(&TokenBatch::new(&known)?, &self.options.cancel)?;
        let mut rest = states.values.as_slice();
        let split = |ids: &Vec<TokenId>| {
            let (own, others) = rest.split_at(ids.len() * states.hidden_size);
            rest = others;
            (own.to_vec(), n_prompt)
        };
        Ok(ids.iter().map(split).collect())
    }

    fn ids(&self, way: &Way, text: &str) -> Result<Vec<TokenId>> {
        let text = if way.strips { text.trim() } else { text };
        let mut ids = self.embedder.tokens().encoded(&way.prompt, text, way.lower_case, way.max_tokens)?;
        match way.end {
            End::AsExpected => {}
            End::Without => {
                ids.pop();
            }
            End::With(id) => {
                ids.truncate(way.max_tokens.saturating_sub(1));
                ids.push(id);
            }
        }
        Ok(ids)
    }

    fn fit(&self, states: &[(Vec<f32>, usize)], pooling: &Pooling, has_steps: bool) -> Fit {
        let hidden_size = self.embedder.info().hidden_size;
        let mut cosines = Vec::with_capacity(states.len());
        let mut ratios = Vec::with_capacity(states.len());
        for ((states, n_prompt), row) in states.iter().zip(self.rows) {
            if states.is_empty() {
                cosines.push(0.0);
                continue;
            }
            let vector = self.vector(states, hidden_size, *n_prompt, pooling, has_steps);
            cosines.push(if vector.len() == row.vector.len() { Similarity::Cosine.of(&vector, &row.vector) } else { 0.0 });
            let length = |vector: &[f32]| Similarity::Dot.of(vector, vector).sqrt();
            ratios.push(length(&row.vector) / length(&vector).max(1e-12));
        }
        ratios.sort_by(f64::total_cmp);
        Fit {
            min: cosines.iter().copied().fold(f64::INFINITY, f64::min),
            mean: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
            n_exact: cosines.iter().filter(|cosine| **cosine >= EXPLAINED).count(),
            length_ratio: ratios.get(ratios.len() / 2).copied().unwrap_or(1.0),
        }
    }

    /// As long as the index's vectors, where it can be.
    fn vector(&self, states: &[f32], hidden_size: usize, n_prompt: usize, pooling: &Pooling, has_steps: bool) -> Vec<f32> {
        let mut vector = Vec::new();
        pooling.pool(states, hidden_size, n_prompt, &mut vector);
        for step in &self.embedder.config().steps {
            match step {
                Step::Dense(dense) if has_steps && dense.inputs == vector.len() => vector = dense.forward(&vector),
                Step::Dense(_) => {}
                Step::Normalize if self.options.normalize == Normalize::No => {}
                Step::Normalize => normalize(&mut vector),
            }
        }
        vector.truncate(self.width);
        if self.options.normalize == Normalize::Yes {
            normalize(&mut vector);
        }
        vector
    }

    fn verification(&self, own: &Explanation, best: Option<Explanation>, expects_unit: bool) -> Verification {
        let n_rows = self.rows.len();
        let is_right = own.fit.min >= SAME;
        // Another way explains the index when it makes more of its vectors exactly, or comes much nearer.
        let other = best
            .filter(|best| !is_right && (best.fit.n_exact > own.fit.n_exact || (1.0 - best.fit.mean) * 2.0 < 1.0 - own.fit.mean));
        let found = other.as_ref().unwrap_or(own);
        let is_known = found.fit.n_exact == n_rows || found.fit.mean >= SAME_SPACE;
        let mut differences = Vec::new();
        if is_known {
            differences = self.differences(found);
            differences.extend(self.normalization(found, expects_unit));
        }
        let verdict = match (is_known, differences.is_empty()) {
            (false, _) => Verdict::OtherModel,
            (true, false) => Verdict::OtherWay,
            (true, true) if found.fit.min >= SAME => Verdict::Same,
            (true, true) => Verdict::OtherArithmetic,
        };
        Verification {
            verdict,
            differences,
            n_rows,
            cosine_min: own.fit.min,
            cosine_mean: own.fit.mean,
            explained_min: found.fit.min,
            explained_mean: found.fit.mean,
        }
    }

    fn differences(&self, found: &Explanation) -> Vec<Difference> {
        let (way, expected) = (&found.way, &self.expected);
        let own = &self.embedder.config().pooling;
        let mut all = Vec::new();
        if way.prompt != expected.prompt {
            all.push(Difference::Prompt { index: way.prompt.clone(), expected: expected.prompt.clone() });
        }
        if found.pooling != *own {
            let name = |pooling: &Pooling| {
                let without = if pooling.include_prompt { "" } else { " without the prompt" };
                format!("{}{without}", pooling.name())
            };
            all.push(Difference::Pooling { index: name(&found.pooling), expected: name(own) });
        }
        match way.end {
            End::AsExpected => {}
            End::Without => all.push(Difference::End { index: false, expected: true }),
            End::With(_) => all.push(Difference::End { index: true, expected: false }),
        }
        if way.max_tokens != expected.max_tokens {
            all.push(Difference::Truncation { index: way.max_tokens, expected: expected.max_tokens });
        }
        if way.strips {
            all.push(Difference::OuterBlanks);
        }
        if way.lower_case != expected.lower_case {
            all.push(Difference::LowerCase { index: way.lower_case });
        }
        if !found.has_steps {
            all.push(Difference::NoDense);
        } else if self.width != self.expected_width {
            all.push(Difference::Dimensions { index: self.width, expected: self.expected_width });
        }
        all
    }

    /// Whether vectors of the index are as long as expected. Those that were rounded to whole numbers are of any length.
    fn normalization(&self, found: &Explanation, expects_unit: bool) -> Option<Difference> {
        let is_whole = self.rows.iter().all(|row| row.vector.iter().all(|value| value.fract() == 0.0));
        let length = |vector: &[f32]| Similarity::Dot.of(vector, vector).sqrt();
        let is_unit = self.rows.iter().all(|row| (length(&row.vector) - 1.0).abs() < LENGTH_TOLERANCE);
        let is_as_long = expects_unit && is_unit || !expects_unit && (found.fit.length_ratio - 1.0).abs() < LENGTH_TOLERANCE;
        (!is_whole && !is_as_long).then_some(Difference::Normalization { index: is_unit, expected: expects_unit })
    }
}

impl Fit {
    fn is_better_than(&self, other: &Self) -> bool {
        self.n_exact > other.n_exact || self.n_exact == other.n_exact && self.mean > other.mean + 1e-9
    }
}
