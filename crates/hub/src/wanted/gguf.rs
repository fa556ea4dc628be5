//! Which of a repository's GGUF files is meant: each of them is a whole model, quantised in its own way.

use tandem_core::{BackendKind, DType, Error, Result};

use super::Wanted;
use crate::repository::HubReference;

/// What is published beside checkpoints and goes before what a GGUF file says itself.
pub(super) const BESIDE: [&str; 4] = ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Files that have the ending and are no model: what an image is seen with, and what weights were measured to matter.
const NO_MODELS: [&str; 2] = ["mmproj", "imatrix"];

/// The files among `names` that are models, whole ones.
pub(super) fn models<'n>(names: &[&'n str]) -> Vec<&'n str> {
    let is_model = |name: &&str| {
        let file = file_name(name);
        is_gguf(name) && !NO_MODELS.iter().any(|other| file.starts_with(other)) && !is_part(file)
    };
    names.iter().copied().filter(is_model).collect()
}

/// The file of `reference` that `wanted` needs: the one that the reference names, the only one, or the one that is stored in the dtype.
///
/// # Errors
/// [`Error::Unsupported`] for a backend that reads no GGUF files, and when it is not said which of several is meant; the message lists
/// them.
pub(super) fn choose(wanted: Wanted, reference: &HubReference, names: &[&str]) -> Result<String> {
    let models = models(names);
    if wanted.backend != BackendKind::Candle {
        return Err(not_for(wanted.backend, reference));
    }
    let Some(variant) = &reference.variant else {
        return match (models.as_slice(), wanted.dtype) {
            ([], _) => Err(in_parts(reference)),
            ([only], _) => Ok((*only).into()),
            (several, None) => Err(unclear(reference, several, "it is not said which of them is meant".into())),
            (several, Some(dtype)) => {
                let of = |form: &&str| several.iter().find(|name| form_of(name).eq_ignore_ascii_case(form));
                let found = stored_forms(dtype).iter().find_map(of);
                let none = || unclear(reference, several, format!("none of them is stored as {dtype}"));
                found.map(|name| (*name).to_owned()).ok_or_else(none)
            }
        };
    };
    let is_meant = |name: &&&str| {
        let file = file_name(name);
        [file, file.trim_end_matches(".gguf"), form_of(name)].iter().any(|known| known.eq_ignore_ascii_case(variant.as_str()))
    };
    match models.iter().filter(is_meant).collect::<Vec<_>>().as_slice() {
        [only] => Ok((**only).into()),
        [] if models.is_empty() => Err(in_parts(reference)),
        [] => Err(unclear(reference, &models, format!("none of them is `{variant}`"))),
        _ => Err(unclear(reference, &models, format!("more than one of them is `{variant}`"))),
    }
}

/// Whether a name is that of a GGUF file.
pub(super) fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
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

fn not_for(backend: BackendKind, reference: &HubReference) -> Error {
    Error::Unsupported {
        what: format!("the backend `{backend}` with `{reference}`"),
        reason: "the repository has GGUF files, which the candle backend alone reads".into(),
        hint: Some(
            "use `--backend candle`, in a build with the feature `candle`; or name the repository of the checkpoint that they were \
             made from"
                .into(),
        ),
    }
}

fn in_parts(reference: &HubReference) -> Error {
    Error::Unsupported {
        what: format!("the repository `{reference}`"),
        reason: "its GGUF files are parts of a model or no models".into(),
        hint: Some("name a repository with the model in one file, or that of the checkpoint".into()),
    }
}

fn unclear(reference: &HubReference, models: &[&str], problem: String) -> Error {
    let repository = &reference.repository;
    let example = models.iter().map(|name| form_of(name)).find(|form| form.eq_ignore_ascii_case("q4_k_m"));
    let example = example.unwrap_or_else(|| form_of(models[0]));
    Error::Unsupported {
        what: format!("the repository `{repository}`"),
        reason: format!("it has {} GGUF files, and {problem}: {}", models.len(), models.join(", ")),
        hint: Some(
            format!("name one by the end of its name, such as `{repository}:{example}`, or by its dtype with `--dtype`").into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 9] = [
        "README.md",
        "Model-0.6B-BF16.gguf",
        "Model-0.6B-Q4_0.gguf",
        "Model-0.6B-Q4_K_M.gguf",
        "Model-0.6B-Q8_0.gguf",
        "Model-0.6B.Q6_K.gguf",
        "Q2_K/Model-0.6B-Q2_K-00001-of-00002.gguf",
        "imatrix.gguf",
        "mmproj-F16.gguf",
    ];

    #[track_caller]
    fn check(text: &str, dtype: Option<DType>, names: &[&str], expected: Result<&str, &str>) {
        let wanted = Wanted { backend: BackendKind::Candle, dtype };
        let chosen = choose(wanted, &text.parse().unwrap(), names).map_err(|error| error.to_string());
        match expected {
            Ok(name) => assert_eq!(chosen.unwrap(), name),
            Err(part) => assert!(chosen.as_ref().unwrap_err().contains(part), "{chosen:?}"),
        }
    }

    #[test]
    fn the_dtype_chooses_the_file() {
        let of = |dtype, expected| check("o/n", Some(dtype), &FILES, expected);
        of(DType::Int4, Ok("Model-0.6B-Q4_K_M.gguf"));
        of(DType::Int8, Ok("Model-0.6B-Q8_0.gguf"));
        of(DType::F32, Ok("Model-0.6B-BF16.gguf"));
        of(DType::Bf16, Ok("Model-0.6B-BF16.gguf"));
        of(DType::F16, Err("it has 5 GGUF files, and none of them is stored as f16: Model-0.6B-BF16.gguf, "));
        check("o/n", Some(DType::Int4), &["m.q4_0.gguf", "m.q8_0.gguf"], Ok("m.q4_0.gguf"));
        check("o/n", None, &FILES, Err("it is not said which of them is meant: "));
        check("o/n", None, &["only.gguf", "imatrix.gguf"], Ok("only.gguf"));
        check("o/n", Some(DType::Int4), &["only.gguf"], Ok("only.gguf"));
        check("o/n", None, &["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], Err("are parts of a model"));
    }

    #[test]
    fn a_reference_names_the_file() {
        let of = |text, expected| check(text, None, &FILES, expected);
        of("o/n:Q4_0", Ok("Model-0.6B-Q4_0.gguf"));
        of("o/n:q6_k@main", Ok("Model-0.6B.Q6_K.gguf"));
        of("o/n:Model-0.6B-Q8_0.gguf", Ok("Model-0.6B-Q8_0.gguf"));
        of("o/n:Model-0.6B-Q8_0", Ok("Model-0.6B-Q8_0.gguf"));
        of("o/n:Q5_K_M", Err("none of them is `Q5_K_M`: "));
        check("o/n:Q4_0", None, &["a/m-Q4_0.gguf", "b/m-Q4_0.gguf"], Err("more than one of them is `Q4_0`: "));
        check("o/n:Q4_0", Some(DType::Int8), &FILES, Ok("Model-0.6B-Q4_0.gguf"));
    }

    #[test]
    fn another_backend_says_which_reads_them() {
        let wanted = Wanted { backend: BackendKind::Onnx, dtype: None };
        let error = choose(wanted, &"o/n".parse().unwrap(), &FILES).unwrap_err();
        assert!(error.to_string().contains("which the candle backend alone reads"), "{error}");
        assert!(error.hint().unwrap().to_string().contains("use `--backend candle`"));
    }
}
