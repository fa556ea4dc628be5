//! Which of a repository's GGUF files is meant: each of them is a whole model, quantised in its own way.

use super::super::is_gguf;
use super::Listing;
use crate::error::{Error, Result};
use crate::primitives::DType;

/// What is published beside checkpoints and goes before what a GGUF file says itself.
const BESIDE: [&str; 4] = ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Files that have the extension and are not a model: what an image is seen with, and what weights were measured to matter.
const NO_MODELS: [&str; 2] = ["mmproj", "imatrix"];

impl Listing<'_> {
    /// Whether a GGUF file is meant: where there is nothing else, or where the reference names one.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the reference names one and there is none.
    pub fn is_gguf(&self) -> Result<bool> {
        let has_others = self.files.iter().any(|name| name.ends_with(".safetensors") || name.ends_with(".onnx"));
        match (self.files.iter().any(|name| is_gguf(name.as_ref())), self.variant) {
            (true, variant) => Ok(variant.is_some() || !has_others),
            (false, None) => Ok(false),
            (false, Some(variant)) => Err(Error::Unsupported {
                what: format!("`{variant}` of the repository `{}`", self.name),
                reason: "what stands behind `:` names a GGUF file, and this repository has none".into(),
                hint: Some("omit it: the dtype says what the weights are to be".into()),
            }),
        }
    }

    /// The GGUF file that is needed at `dtype`, behind the small files that go before what it says itself: the one that the reference
    /// names, the only one, or the one that is stored in the dtype.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it is not said which of several is meant; the message lists them.
    pub fn gguf(&self, dtype: Option<DType>) -> Result<Vec<String>> {
        let mut selected = self.those(&BESIDE);
        selected.push(self.gguf_file(dtype)?);
        Ok(selected)
    }

    fn gguf_file(&self, dtype: Option<DType>) -> Result<String> {
        let models = models(self.files);
        if models.is_empty() {
            return Err(in_parts(self.name));
        }
        let unclear = |problem: String| unclear(self.name, &models, problem);
        let Some(variant) = self.variant else {
            return match (models.as_slice(), dtype) {
                ([only], _) => Ok((*only).into()),
                (_, None) => Err(unclear("it is not said which of them is meant".into())),
                (several, Some(dtype)) => {
                    let of = |form: &&str| several.iter().find(|name| form_of(name).eq_ignore_ascii_case(form));
                    let found = stored_forms(dtype).iter().find_map(of);
                    let none = || unclear(format!("none of them is stored as {dtype}"));
                    found.map(|name| (*name).to_owned()).ok_or_else(none)
                }
            };
        };
        let is_meant = |name: &&&str| {
            let file = file_name(name);
            [file, file.trim_end_matches(".gguf"), form_of(name)].iter().any(|known| known.eq_ignore_ascii_case(variant))
        };
        match models.iter().filter(is_meant).collect::<Vec<_>>().as_slice() {
            [only] => Ok((**only).into()),
            [] => Err(unclear(format!("none of them is `{variant}`"))),
            _ => Err(unclear(format!("more than one of them is `{variant}`"))),
        }
    }
}

/// The files among `names` that are models, whole ones.
fn models<'n>(names: &[&'n str]) -> Vec<&'n str> {
    let is_model = |name: &&str| {
        let file = file_name(name);
        is_gguf(name.as_ref()) && !NO_MODELS.iter().any(|other| file.starts_with(other)) && !is_part(file)
    };
    names.iter().copied().filter(is_model).collect()
}

/// How a file's weights are stored, by the end of its name, such as `Q4_K_M` of `Qwen3-0.6B-Q4_K_M.gguf`.
fn form_of(name: &str) -> &str {
    let stem = &name[..name.len() - ".gguf".len()];
    stem.rsplit(['-', '.', '/']).next().unwrap_or(stem)
}

/// The forms that are run at `dtype` without rounding twice, the best first.
fn stored_forms(dtype: DType) -> &'static [&'static str] {
    match dtype {
        DType::F32 => &["F32", "BF16", "F16"],
        DType::F16 => &["F16"],
        DType::Bf16 => &["BF16"],
        DType::Int8 => &["Q8_0"],
        DType::Int4 => &["Q4_K_M", "Q4_0", "Q4_K_S", "Q4_1"],
    }
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// `…-00001-of-00003.gguf`: a model in several files.
fn is_part(file: &str) -> bool {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut ends = file[..file.len() - ".gguf".len()].rsplit('-');
    matches!((ends.next(), ends.next(), ends.next()), (Some(n), Some("of"), Some(i)) if is_number(n) && is_number(i))
}

fn in_parts(repository: &str) -> Error {
    Error::Unsupported {
        what: format!("the repository `{repository}`"),
        reason: "its GGUF files are parts of a model or no models".into(),
        hint: Some("name a repository with the model in one file, or that of the checkpoint".into()),
    }
}

fn unclear(repository: &str, models: &[&str], problem: String) -> Error {
    let example = models.iter().map(|name| form_of(name)).find(|form| form.eq_ignore_ascii_case("q4_k_m"));
    let example = example.unwrap_or_else(|| form_of(models[0]));
    Error::Unsupported {
        what: format!("the repository `{repository}`"),
        reason: format!("it has {} GGUF files, and {problem}: {}", models.len(), models.join(", ")),
        hint: Some(format!("name one by the end of its name, such as `{repository}:{example}`, or by its dtype").into()),
    }
}
