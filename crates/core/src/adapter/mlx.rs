//! Adapters of mlx-lm: `adapters.safetensors` with `adapter_config.json`.
//!
//! Factors are `NAME.lora_a [inputs, rank]` and `NAME.lora_b [rank, outputs]`, magnitudes `NAME.m`, and one scale is for all
//! (`mlx_lm/tuner/{lora,dora,utils}.py` of mlx-lm 0.28).

mod write;

pub use self::write::write_mlx;
use super::found::{Found, MAX_RANK, Matrix, Role};
use super::read::Content;
use crate::checkpoint::Checkpoint;
use crate::config::{Fields, parse_object};
use crate::error::{Error, Result};

/// What `adapter_config.json` says.
struct MlxConfig {
    file: String,
    rank: usize,
    scale: f64,
    dora: bool,
    /// Modules of a layer that are adapted; `None` where the file leaves it to mlx-lm.
    keys: Option<Vec<String>>,
    base_model: Option<String>,
}

/// Reads the adapter in `weights`, the file `file`, with the settings `json` of `config_file`.
pub(super) fn read(weights: &Checkpoint, file: &str, json: &[u8], config_file: &str) -> Result<Content> {
    let config = MlxConfig::parse(json, config_file)?;
    let mut names: Vec<&str> = weights.names().collect();
    names.sort_unstable();
    let mut found = Found::new(file);
    for name in names {
        let factor =
            |role| -> Result<(Role, Matrix)> { Ok((role, Matrix::read(file, name, &weights.tensor(name)?)?.transposed())) };
        let (module, last) = name.rsplit_once('.').unwrap_or(("", name));
        if module.ends_with("embed_tokens") {
            found.add_unknown(name);
            continue;
        }
        let (role, matrix) = match last {
            "lora_a" => factor(Role::A)?,
            "lora_b" => factor(Role::B)?,
            "m" => {
                found.add_magnitude(module, name, &weights.tensor(name)?)?;
                continue;
            }
            _ => {
                found.add_unknown(name);
                continue;
            }
        };
        found.add(module, role, name, matrix)?;
    }
    let factors = found.finish(|module, rank| {
        config.check(module, rank, file)?;
        Ok(config.scale)
    })?;
    if let Some(odd) = factors.iter().find(|factors| factors.magnitude.is_some() != config.dora) {
        let problem = match config.dora {
            true => format!("the magnitudes `m` of this module are missing, and `{config_file}` says `dora`"),
            false => format!("has magnitudes `m`, and `{config_file}` does not say `dora`"),
        };
        return Err(Error::bad_field(file, &odd.module, problem));
    }
    Ok(Content { factors, base_model: config.base_model, ..Content::default() })
}

impl MlxConfig {
    fn parse(json: &[u8], file: &str) -> Result<Self> {
        let object = parse_object(file, json)?;
        let root = Fields::root(file, &object);
        let dora = match root.string("fine_tune_type")?.unwrap_or("lora") {
            "lora" => false,
            "dora" => true,
            "full" => {
                return Err(Error::Unsupported {
                    what: format!("`fine_tune_type` `full` in `{file}`"),
                    reason: "it stands for whole weights, and so is a model and not an adapter".into(),
                    hint: Some("write the model with `mlx_lm.fuse --de-quantize`, and use its directory".into()),
                });
            }
            other => return Err(root.error("fine_tune_type", format!("is `{other}`, not `lora` or `dora`"))),
        };
        let parameters = root.object("lora_parameters")?.ok_or_else(|| root.missing("lora_parameters"))?;
        let key = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let keys = match parameters.get("keys") {
            None => None,
            Some(value) => {
                let keys = value.as_array().and_then(|keys| keys.iter().map(key).collect::<Option<Vec<_>>>());
                Some(keys.ok_or_else(|| parameters.wrong_type("keys", "a list of strings"))?)
            }
        };
        Ok(Self {
            file: file.into(),
            rank: parameters.required("rank", 1..=MAX_RANK)?,
            scale: parameters.number("scale", -1e30..=1e30)?.ok_or_else(|| parameters.missing("scale"))?,
            dora,
            keys,
            base_model: root.string("model")?.filter(|name| !name.is_empty()).map(Into::into),
        })
    }

    /// Checks that `module` with factors of `rank` is one that these settings adapt: mlx-lm ignores the others.
    fn check(&self, module: &str, rank: usize, file: &str) -> Result<()> {
        if rank > self.rank {
            let problem = format!("its factors have rank {rank}, and `{}` says {}", self.file, self.rank);
            return Err(Error::bad_field(file, module, problem).with_hint(
                "factor a is inputs x rank and b rank x outputs: settings and weights are of two adapters, or the factors transposed",
            ));
        }
        let Some(keys) = &self.keys else { return Ok(()) };
        let within =
            super::canonical_module(module).split_once('.').and_then(|(_, rest)| rest.split_once('.')).map(|(_, rest)| rest);
        if keys.iter().any(|key| Some(key.as_str()) == within || key == module) {
            return Ok(());
        }
        Err(Error::bad_field(
            file,
            module,
            format!("has factors, and `lora_parameters.keys` of `{}` leaves this module out", self.file),
        )
        .with_hint(
            "mlx-lm would ignore the factors: settings and weights are of two adapters, or the setting is to be corrected",
        ))
    }
}
