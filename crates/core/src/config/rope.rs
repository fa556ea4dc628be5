//! Rotary position embedding: its parameters as published, and the frequencies they stand for.

mod frequencies;

use serde_json::Value;

use super::parse::CONTEXT;
use super::{Architecture, Fields, fields::shown};
use crate::error::{Error, Result};

/// The base of the angles, and how it is stretched to a longer context.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base; angle `i` of position `p` is `p / theta^(2i / head_dim)` before scaling.
    pub theta: f64,
    /// How frequencies are scaled.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are scaled (`rope_type`).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All are divided by a factor.
    Linear {
        /// The factor, at least 1.
        factor: f64,
    },
    /// Low ones are divided, high ones kept: Llama 3.1 and later.
    Llama3(Llama3Rope),
    /// YaRN, <https://arxiv.org/abs/2309.00071>.
    Yarn(YarnRope),
    /// Each is divided by a number of its own, `[head_dim / 2]`: what a GGUF file says in the place of Llama 3's parameters.
    Factors(Vec<f32>),
}

/// Parameters of Llama 3's scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3Rope {
    /// Divides low frequencies; at least 1.
    pub factor: f64,
    /// Wavelengths above `original_max_position / low_freq_factor` are divided.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// The context before it was stretched, in tokens.
    pub original_max_position: usize,
}

/// Parameters of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub struct YarnRope {
    /// Divides the interpolated frequencies; at least 1.
    pub factor: f64,
    /// The context before it was stretched, in tokens.
    pub original_max_position: usize,
    /// Rotations above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations below which a frequency is interpolated.
    pub beta_slow: f64,
    /// Scales cosine and sine; derived from `factor` and the two `mscale` when absent.
    pub attention_factor: Option<f64>,
    /// Weight of `ln(factor)` in the numerator of the derived attention factor.
    pub mscale: Option<f64>,
    /// Weight of `ln(factor)` in its denominator.
    pub mscale_all_dim: Option<f64>,
    /// Whether the bounds of the ramp are rounded to whole dimensions.
    pub truncate: bool,
}

/// The base that transformers takes where a file names none.
const DEFAULT_THETA: f64 = 10_000.0;
/// The same for the layers of Gemma 3 that see all.
const DEFAULT_THETA_OF_GEMMA3: f64 = 1e6;
const KNOWN: &str = "known: `default`, `linear`, `llama3`, `yarn`";

impl RopeConfig {
    /// From `rope_scaling` and `rope_theta` (transformers 4) or `rope_parameters` (5); `rope_scaling` wins, as it does there. Gemma 3
    /// has one for each kind of layer, and this is that of layers without a window.
    pub(super) fn from_fields(root: &Fields<'_>, architecture: Architecture, max_context: usize) -> Result<Self> {
        let scaling = root.object("rope_scaling")?.filter(|fields| fields.entries().next().is_some());
        let (parameters, default_theta) = match (root.object("rope_parameters")?, architecture) {
            (Some(by_kind), Architecture::Gemma3) => (by_kind.object("full_attention")?, DEFAULT_THETA_OF_GEMMA3),
            (parameters, Architecture::Gemma3) => (parameters, DEFAULT_THETA_OF_GEMMA3),
            (parameters, _) => (parameters, DEFAULT_THETA),
        };
        let theta = match scaling.as_ref().map_or(Ok(None), theta_of)? {
            Some(theta) => Some(theta),
            // Parameters beside a scaling count where each kind of layer has its own.
            None if scaling.is_none() || architecture == Architecture::Gemma3 => {
                parameters.as_ref().map_or(Ok(None), theta_of)?
            }
            None => None,
        };
        let theta = theta.map_or_else(|| theta_of(root), |theta| Ok(Some(theta)))?.unwrap_or(default_theta);
        let parameters = scaling.or(parameters);
        refuse_partial_rotation(root)?;
        let Some(fields) = parameters else {
            return Ok(Self { theta, scaling: RopeScaling::Default });
        };
        refuse_partial_rotation(&fields)?;
        // Phi-3 and others write it beside the parameters; that place wins.
        let original = match root.integer("original_max_position_embeddings", CONTEXT)? {
            Some(original) => Some(original),
            None => fields.integer("original_max_position_embeddings", CONTEXT)?,
        };
        Ok(Self { theta, scaling: RopeScaling::from_fields(&fields, original, max_context)? })
    }
}

impl RopeScaling {
    fn from_fields(fields: &Fields<'_>, original: Option<usize>, max_context: usize) -> Result<Self> {
        let named = match fields.string("rope_type")? {
            Some(name) => Some(name),
            None => fields.string("type")?,
        };
        match named {
            Some("default") => Ok(Self::Default),
            None => match fields.entries().find(|(_, value)| value.is_object()) {
                Some((key, value)) => {
                    Err(fields.error(key, format!("is `{}`: frequencies that differ by layer are not known", shown(value))))
                }
                None => Ok(Self::Default),
            },
            Some("linear") => Ok(Self::Linear { factor: required_number(fields, "factor", 1.0..=1e6)? }),
            Some("llama3") => Ok(Self::Llama3(Llama3Rope::from_fields(fields, original.unwrap_or(max_context))?)),
            Some("yarn") => Ok(Self::Yarn(YarnRope::from_fields(fields, original.unwrap_or(max_context), max_context)?)),
            Some("factors") => Ok(Self::Factors(factors(fields)?)),
            Some(other) => Err(Error::Unsupported {
                what: format!("the rope type `{other}` (`{}`) of `{}`", fields.name("rope_type"), fields.file()),
                reason: match other {
                    "dynamic" => "its frequencies change as the text grows, which a KV cache cannot follow".into(),
                    _ => "it is not known".into(),
                },
                hint: Some(KNOWN.into()),
            }),
        }
    }
}

impl Llama3Rope {
    fn from_fields(fields: &Fields<'_>, original_max_position: usize) -> Result<Self> {
        let low_freq_factor = required_number(fields, "low_freq_factor", 1e-6..=1e6)?;
        let high_freq_factor = required_number(fields, "high_freq_factor", 1e-6..=1e6)?;
        if high_freq_factor <= low_freq_factor {
            let problem = format!("is `{high_freq_factor:?}`, and must exceed `low_freq_factor` of `{low_freq_factor:?}`");
            return Err(fields.error("high_freq_factor", problem));
        }
        let factor = required_number(fields, "factor", 1.0..=1e6)?;
        Ok(Self { factor, low_freq_factor, high_freq_factor, original_max_position })
    }
}

impl YarnRope {
    fn from_fields(fields: &Fields<'_>, original_max_position: usize, max_context: usize) -> Result<Self> {
        // A `null` factor is the ratio of the two contexts; an absent one is an error, as it is in transformers.
        let factor = match fields.is_null("factor") {
            true => max_context as f64 / original_max_position as f64,
            false => required_number(fields, "factor", 1.0..=1e6)?,
        };
        let positive = |key, default: f64| -> Result<f64> {
            let given = fields.number(key, 0.0..=1e6)?;
            Ok(given.filter(|number| *number > 0.0).unwrap_or(default))
        };
        let (beta_fast, beta_slow) = (positive("beta_fast", 32.0)?, positive("beta_slow", 1.0)?);
        if beta_fast < beta_slow {
            return Err(fields.error("beta_fast", format!("is `{beta_fast:?}`, less than `beta_slow` of `{beta_slow:?}`")));
        }
        Ok(Self {
            factor,
            original_max_position,
            beta_fast,
            beta_slow,
            attention_factor: fields.number("attention_factor", 0.0..=1e6)?,
            mscale: fields.number("mscale", 0.0..=1e6)?,
            mscale_all_dim: fields.number("mscale_all_dim", 0.0..=1e6)?,
            truncate: fields.boolean("truncate")?.unwrap_or(true),
        })
    }
}

/// Numbers to divide frequencies by.
fn factors(fields: &Fields<'_>) -> Result<Vec<f32>> {
    let list = fields.get("factors").ok_or_else(|| fields.missing("factors"))?;
    let list = list.as_array().ok_or_else(|| fields.wrong_type("factors", "a list"))?;
    let factor = |value: &Value| {
        let factor = value.as_f64().filter(|factor| (1e-6..=1e6).contains(factor)).map(|factor| factor as f32);
        factor.ok_or_else(|| fields.error("factors", format!("has `{}`, which no frequency can be divided by", shown(value))))
    };
    list.iter().map(factor).collect()
}

fn theta_of(fields: &Fields<'_>) -> Result<Option<f64>> {
    theta(fields, "rope_theta")
}

/// `1` would make every frequency the same, and YaRN divide by its logarithm, 0.
pub(super) fn theta(fields: &Fields<'_>, key: &str) -> Result<Option<f64>> {
    fields.number(key, 1.001..=1e15)
}

fn refuse_partial_rotation(fields: &Fields<'_>) -> Result<()> {
    match fields.number("partial_rotary_factor", 0.0..=1.0)? {
        Some(factor) if factor < 1.0 => {
            Err(fields.error("partial_rotary_factor", format!("is `{factor:?}`: heads that are rotated in part are not known")))
        }
        _ => Ok(()),
    }
}

fn required_number(fields: &Fields<'_>, key: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64> {
    fields.number(key, range)?.ok_or_else(|| fields.missing(key))
}
