//! `adapter_config.json` as PEFT writes it: `LoraConfig` in `tuners/lora/config.py`.

use serde_json::Value;

use super::super::found::MAX_RANK;
use super::patterns::{self, Selection};
use crate::config::{Fields, parse_object};
use crate::error::{Error, Result};

/// The highest layer that is read.
const MAX_LAYER: usize = 1 << 20;

/// The settings that decide what the tensors mean.
pub(super) struct PeftConfig {
    file: String,
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) rank_stabilised: bool,
    pub(super) dora: bool,
    pub(super) bias: Bias,
    /// Ends of the names of modules that are trained whole.
    pub(super) saved: Vec<String>,
    pub(super) base_model: Option<String>,
    rank_pattern: Vec<(String, usize)>,
    alpha_pattern: Vec<(String, f64)>,
    targets: Option<Selection>,
    excluded: Option<Selection>,
    /// Layers by number; `None` for all.
    layers: Option<Vec<usize>>,
    layers_pattern: Vec<String>,
}

/// Which biases are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    None,
    All,
    LoraOnly,
}

/// Settings that make an adapter another thing than factors beside a weight.
const MUST_BE_ABSENT: [&str; 11] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

/// How factors begin where the base stays what it was. The others begin with a part of the base's weight, which they take from it.
const INIT_BESIDE_BASE: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

impl PeftConfig {
    /// Reads the content of `file`.
    pub(super) fn parse(json: &[u8], file: &str) -> Result<Self> {
        let object = parse_object(file, json)?;
        let root = Fields::root(file, &object);
        match root.string("peft_type")?.ok_or_else(|| root.missing("peft_type"))? {
            "LORA" => {}
            other => return Err(not_read(file, "peft_type", &format!("it is `{other}`, and `LORA` is what is read"))),
        }
        refuse_other_forms(&root)?;
        let bias = match root.string("bias")?.unwrap_or("none") {
            "none" => Bias::None,
            "all" => Bias::All,
            "lora_only" => Bias::LoraOnly,
            other => return Err(root.error("bias", format!("is `{other}`, not `none`, `all` or `lora_only`"))),
        };
        let boolean = |key| root.boolean(key).map(|value| value.unwrap_or(false));
        Ok(Self {
            file: file.into(),
            rank: root.required("r", 1..=MAX_RANK)?,
            alpha: root.number("lora_alpha", -1e30..=1e30)?.ok_or_else(|| root.missing("lora_alpha"))?,
            rank_stabilised: boolean("use_rslora")?,
            dora: boolean("use_dora")?,
            bias,
            saved: texts(&root, "modules_to_save")?,
            base_model: root.string("base_model_name_or_path")?.filter(|name| !name.is_empty()).map(Into::into),
            rank_pattern: pattern(&root, "rank_pattern", |fields, key| fields.required(key, 1..=MAX_RANK))?,
            alpha_pattern: pattern(&root, "alpha_pattern", |fields, key| {
                fields.number(key, -1e30..=1e30)?.ok_or_else(|| fields.missing(key))
            })?,
            targets: selection(&root, "target_modules")?,
            excluded: selection(&root, "exclude_modules")?,
            layers: layers(&root)?,
            layers_pattern: texts(&root, "layers_pattern")?,
        })
    }

    /// Rank and alpha of each of `modules`.
    ///
    /// # Errors
    /// [`Error::BadField`] for a pattern that is not an expression, or one too long or too slow.
    pub(super) fn of_modules(&self, modules: &[&str]) -> Result<(Vec<usize>, Vec<f64>)> {
        let ranks = patterns::values(&self.rank_pattern, modules, self.rank, &self.file, "rank_pattern")?;
        let alphas = patterns::values(&self.alpha_pattern, modules, self.alpha, &self.file, "alpha_pattern")?;
        Ok((ranks, alphas))
    }

    /// Checks that PEFT would give each of `modules` factors: it ignores those in the weights that its settings do not choose.
    ///
    /// # Errors
    /// [`Error::BadField`] with the module and the setting that leaves it out; that of an expression.
    pub(super) fn check_chosen(&self, modules: &[&str], file: &str) -> Result<()> {
        let mut out = Vec::new();
        if let Some(excluded) = &self.excluded {
            let chosen = excluded.choose(modules, &self.file, "exclude_modules")?;
            out.extend(
                modules.iter().zip(chosen).filter(|(_, is_chosen)| *is_chosen).map(|(module, _)| (*module, "exclude_modules")),
            );
        }
        if let Some(targets) = &self.targets {
            let chosen = targets.choose(modules, &self.file, "target_modules")?;
            out.extend(
                modules.iter().zip(chosen).filter(|(_, is_chosen)| !is_chosen).map(|(module, _)| (*module, "target_modules")),
            );
            if let (Selection::Names(_), Some(layers)) = (targets, &self.layers) {
                let numbers = patterns::layers(&self.layers_pattern, modules, &self.file)?;
                let is_out = |number: Option<usize>| number.is_none_or(|number| !layers.contains(&number));
                out.extend(
                    modules
                        .iter()
                        .zip(numbers)
                        .filter(|(_, number)| is_out(*number))
                        .map(|(module, _)| (*module, "layers_to_transform")),
                );
            }
        }
        let Some((module, setting)) = out.into_iter().min() else { return Ok(()) };
        let problem = format!("has factors, and `{setting}` of `{}` leaves this module out", self.file);
        Err(Error::bad_field(file, module, problem).with_hint(
            "PEFT would ignore the factors: settings and weights are of two adapters, or the setting is to be corrected",
        ))
    }
}

/// The error for a part of an adapter that is not read, which the setting `setting` asks for.
pub(super) fn refused(setting: &str, file: &str) -> Error {
    let reason = match setting {
        "target_modules" => "factors of an embedding (`lora_embedding_A`) are not read",
        "trainable_token_indices" => "single rows of an embedding are not read",
        "lora_bias" => "biases of the factors are not read",
        _ => "adapters with it are not read",
    };
    not_read(file, setting, reason)
}

fn not_read(file: &str, setting: &str, reason: &str) -> Error {
    Error::Unsupported {
        what: format!("`{setting}` in `{file}`"),
        reason: reason.into(),
        hint: Some("merge the adapter with PEFT (`merge_and_unload`), and use the merged checkpoint".into()),
    }
}

fn refuse_other_forms(root: &Fields<'_>) -> Result<()> {
    let is_set = |value: &Value| match value {
        Value::Bool(set) => *set,
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        _ => true,
    };
    if let Some(key) = MUST_BE_ABSENT.iter().find(|key| root.get(key).is_some_and(is_set)) {
        return Err(refused(key, root.file()));
    }
    match root.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(init)) if INIT_BESIDE_BASE.contains(&init.as_str()) => Ok(()),
        Some(other) => {
            let reason =
                format!("factors that began as {other} took a part of the base's weight with them, and need a base without it");
            Err(not_read(root.file(), "init_lora_weights", &reason)
                .with_hint("save the adapter with `path_initial_model_for_weight_conversion` of PEFT, which makes it one for the base as published"))
        }
    }
}

/// A text or a list of them.
fn texts(root: &Fields<'_>, key: &str) -> Result<Vec<String>> {
    let list = match root.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => &list[..],
        Some(text) => std::slice::from_ref(text),
    };
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| root.wrong_type(key, "a list of strings"));
    let texts = list.iter().map(text).collect::<Result<Vec<_>>>()?;
    patterns::check_number(texts.len(), root.file(), key)?;
    Ok(texts)
}

fn selection(root: &Fields<'_>, key: &str) -> Result<Option<Selection>> {
    Ok(match root.get(key) {
        None => None,
        Some(Value::String(name)) if name == "all-linear" && key == "target_modules" => Some(Selection::AllLinear),
        Some(Value::String(expression)) => Some(Selection::Expression(expression.clone())),
        Some(_) => {
            Some(texts(root, key)?).filter(|names| !names.is_empty()).map(|names| Selection::Names(names.into_iter().collect()))
        }
    })
}

fn layers(root: &Fields<'_>) -> Result<Option<Vec<usize>>> {
    const KEY: &str = "layers_to_transform";
    let number = |value: &Value| {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number <= MAX_LAYER);
        number.ok_or_else(|| root.wrong_type(KEY, "the number of a layer or a list of them"))
    };
    Ok(match root.get(KEY) {
        None => None,
        Some(Value::Array(list)) if list.is_empty() => None,
        Some(Value::Array(list)) => {
            patterns::check_number(list.len(), root.file(), KEY)?;
            Some(list.iter().map(number).collect::<Result<_>>()?)
        }
        Some(value) => Some(vec![number(value)?]),
    })
}

/// An object of values by expression, in the order of the file: the first that matches counts.
fn pattern<T>(root: &Fields<'_>, key: &str, value: impl Fn(&Fields<'_>, &str) -> Result<T>) -> Result<Vec<(String, T)>> {
    let Some(fields) = root.object(key)? else { return Ok(Vec::new()) };
    patterns::check_number(fields.entries().count(), root.file(), key)?;
    fields.entries().map(|(name, _)| Ok((name.clone(), value(&fields, name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &str) -> Result<PeftConfig> {
        let json = format!(r#"{{"peft_type": "LORA", "r": 4, "lora_alpha": 8{fields}}}"#);
        PeftConfig::parse(json.as_bytes(), "adapter_config.json")
    }

    const Q0: &str = "model.layers.0.self_attn.q_proj";
    const Q1: &str = "model.layers.1.self_attn.q_proj";
    const UP: &str = "model.layers.11.mlp.up_proj";

    #[test]
    fn first_pattern_in_the_order_of_the_file_counts() {
        let config = parse(
            r#", "rank_pattern": {"layers.1.self_attn.q_proj": 2, "q_proj": 3, "p_proj": 9}, "alpha_pattern": {"^model.*_proj": 1.5}"#,
        );
        let (ranks, alphas) = config.unwrap().of_modules(&[Q0, Q1, UP]).unwrap();
        assert_eq!((ranks, alphas), (vec![3, 2, 4], vec![1.5; 3]));
    }

    #[test]
    fn modules_that_settings_leave_out_are_named() {
        let check = |fields: &str, expected: Option<(&str, &str)>| {
            let result = parse(fields).unwrap().check_chosen(&[Q0, Q1, UP], "weights");
            match (result, expected) {
                (Ok(()), None) => {}
                (Err(error), Some((module, setting))) => {
                    let error = error.to_string();
                    assert!(error.contains(&format!("`{module}`")) && error.contains(&format!("`{setting}`")), "{error}");
                }
                (result, _) => panic!("{fields}: {result:?}"),
            }
        };
        check("", None);
        check(r#", "target_modules": "all-linear""#, None);
        check(r#", "target_modules": ["q_proj", "mlp.up_proj"]"#, None);
        check(r#", "target_modules": ["q_proj"]"#, Some((UP, "target_modules")));
        check(r#", "target_modules": ["_proj"]"#, Some((Q0, "target_modules")));
        check(r#", "target_modules": ".*_proj""#, None);
        check(r#", "target_modules": "(?!.*mlp).*_proj""#, Some((UP, "target_modules")));
        check(r#", "target_modules": "model.*[a-z]_attn""#, Some((Q0, "target_modules")));
        check(r#", "exclude_modules": ["up_proj"]"#, Some((UP, "exclude_modules")));
        check(r#", "exclude_modules": ".*q_proj""#, Some((Q0, "exclude_modules")));
        let all = r#", "target_modules": ["q_proj", "up_proj"], "layers_to_transform": "#;
        check(&format!("{all}[0, 1, 11]"), None);
        check(&format!("{all}[0, 11]"), Some((Q1, "layers_to_transform")));
        check(&format!(r#"{all}[0, 1, 11], "layers_pattern": "layers""#), None);
        check(&format!(r#"{all}[0, 1, 11], "layers_pattern": ["h", "blocks"]"#), Some((Q0, "layers_to_transform")));
        check(r#", "target_modules": ".*_proj", "layers_to_transform": 0"#, None);
    }

    #[test]
    fn what_is_not_read_or_cannot_be_is_named() {
        let check = |json: &str, expected: &[&str]| {
            let error = PeftConfig::parse(json.as_bytes(), "adapter_config.json").map(|_| ()).unwrap_err().to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        };
        check(r#"{"r": 4"#, &["truncated"]);
        check(r#"{"r": 4, "lora_alpha": 8}"#, &["`peft_type`", "missing"]);
        check(r#"{"peft_type": "LOHA"}"#, &["`LOHA`"]);
        let check = |fields: &str, expected: &[&str]| {
            let error = parse(fields).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("adapter_config.json") && expected.iter().all(|part| error.contains(part)), "{error}");
        };
        for (setting, value) in [
            ("lora_bias", "true"),
            ("trainable_token_indices", "[1, 2]"),
            ("layer_replication", "[[0, 2]]"),
            ("target_parameters", r#"["experts"]"#),
            ("use_qalora", "true"),
            ("alora_invocation_tokens", "[5]"),
        ] {
            check(&format!(r#", "{setting}": {value}"#), &[&format!("`{setting}`"), "not supported"]);
        }
        check(r#", "init_lora_weights": "pissa_niter_16""#, &["`init_lora_weights`", "pissa_niter_16"]);
        check(r#", "r": 1000000"#, &["`r`", "1000000"]);
        check(r#", "rank_pattern": {"q": 0}"#, &["`rank_pattern.q`"]);
        check(r#", "alpha_pattern": {"q": "8"}"#, &["`alpha_pattern.q`"]);
        check(r#", "bias": "some""#, &["`bias`"]);
        check(r#", "target_modules": [1]"#, &["`target_modules`"]);
        check(r#", "layers_to_transform": [-1]"#, &["`layers_to_transform`"]);
    }
}
