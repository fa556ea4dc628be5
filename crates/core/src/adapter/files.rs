//! Which files an adapter has, and in which format they are: told by their names, on disk or in a repository.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::ModelFile;

/// The settings beside the weights, of PEFT as well as of mlx-lm.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The weights as PEFT saves them.
pub(super) const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
/// The weights as mlx-lm saves them.
pub(super) const MLX_WEIGHTS: &str = "adapters.safetensors";

/// What PEFT saved before safetensors.
const PICKLE: &str = "adapter_model.bin";
const ONNX_ADAPTER: &str = ".onnx_adapter";
const GGUF: &str = ".gguf";

/// The formats that adapters are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterFormat {
    /// `adapter_config.json` and `adapter_model.safetensors`, of Hugging Face's PEFT.
    Peft,
    /// `adapter_config.json` and `adapters.safetensors`, of mlx-lm.
    Mlx,
    /// One `.onnx_adapter` file of ONNX Runtime.
    OnnxAdapter,
    /// One GGUF file of llama.cpp.
    Gguf,
}

/// The files of one adapter.
#[derive(Clone, Debug)]
pub struct AdapterFiles {
    /// The reference that it was found by.
    pub name: String,
    /// Their format.
    pub format: AdapterFormat,
    /// The file with the factors.
    pub weights: ModelFile,
    /// `adapter_config.json`, where the format has one.
    pub config: Option<ModelFile>,
}

/// Files by their names within one directory.
struct Choice<'n> {
    format: AdapterFormat,
    weights: &'n str,
    config: Option<&'n str>,
}

impl AdapterFormat {
    /// Its name: `peft`, `mlx`, `onnx-adapter` or `gguf`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Mlx => "mlx",
            Self::OnnxAdapter => "onnx-adapter",
            Self::Gguf => "gguf",
        }
    }
}

impl AdapterFiles {
    /// The files of the adapter at `path`: a directory, or one file of it with weights. `name` is the reference that was asked for.
    ///
    /// # Errors
    /// [`Error::BadFile`] when there is nothing at `path`, no adapter in it or several, or a file of one is missing;
    /// [`Error::Unsupported`] for weights in a pickle.
    pub fn discover(path: &Path, name: &str) -> Result<Self> {
        let unreadable = |source| Error::bad_file(path.to_string_lossy(), "cannot be read as an adapter", source);
        let metadata = fs::metadata(path).map_err(unreadable)?;
        let (directory, asked) = match metadata.is_dir() {
            true => (path, None),
            false => (path.parent().unwrap_or(Path::new("")), path.file_name().and_then(|name| name.to_str())),
        };
        let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let names = fs::read_dir(listed).map_err(unreadable)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| listed.join(name).is_file()).collect();
        names.sort_unstable();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let place = path.to_string_lossy();
        let choice = match asked {
            None if metadata.is_dir() => choose(&place, &names)?,
            _ => of_file(&place, asked.unwrap_or_default(), &names)?,
        };
        let file = |name: &str| ModelFile::Path(directory.join(name));
        let (weights, config) = (file(choice.weights), choice.config.map(file));
        Ok(Self { name: name.into(), format: choice.format, weights, config })
    }

    /// The names of those of `files`, a repository's, that its adapter consists of: what has to be brought here before
    /// [`discover`](Self::discover) can find it.
    ///
    /// # Errors
    /// As [`discover`](Self::discover).
    pub fn needed(repository: &str, files: &[&str]) -> Result<Vec<String>> {
        let top: Vec<&str> = files.iter().copied().filter(|name| !name.contains('/')).collect();
        let choice = choose(repository, &top)?;
        Ok(choice.config.into_iter().chain([choice.weights]).map(Into::into).collect())
    }
}

/// The adapter of a directory or repository with files of these names.
fn choose<'n>(place: &str, names: &[&'n str]) -> Result<Choice<'n>> {
    let find = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
    let config = find(CONFIG);
    let weights = find(PEFT_WEIGHTS).map(|name| (AdapterFormat::Peft, name));
    if let Some((format, weights)) = weights.or_else(|| find(MLX_WEIGHTS).map(|name| (AdapterFormat::Mlx, name))) {
        let config = Some(config.ok_or_else(|| missing(place, CONFIG, "ranks and scales are in it"))?);
        return Ok(Choice { format, weights, config });
    }
    if find(PICKLE).is_some() {
        return Err(pickle(place, PICKLE));
    }
    if config.is_some() {
        return Err(missing(place, PEFT_WEIGHTS, "the factors are in it"));
    }
    let whole: Vec<Choice<'_>> = names.iter().filter_map(|name| whole(name)).collect();
    match <[_; 1]>::try_from(whole) {
        Ok([choice]) => Ok(choice),
        Err(none) if none.is_empty() => Err(bad(place, "has no adapter".into(), &known())),
        Err(several) => {
            let listed: Vec<String> = several.iter().take(8).map(|choice| format!("`{}`", choice.weights)).collect();
            Err(bad(place, format!("has {} adapters: {}", several.len(), listed.join(", ")), "name one of the files"))
        }
    }
}

/// The adapter whose weights are in the file called `asked`, beside files of these names.
fn of_file<'n>(place: &str, asked: &'n str, names: &[&'n str]) -> Result<Choice<'n>> {
    if let Some(choice) = whole(asked) {
        return Ok(choice);
    }
    if [".bin", ".pt", ".pth", ".ckpt"].iter().any(|ending| asked.ends_with(ending)) {
        return Err(pickle(place, asked));
    }
    if !asked.ends_with(".safetensors") {
        return Err(bad(place, "is not an adapter".into(), &known()));
    }
    // mlx-lm numbers what it saves on the way: `0000100_adapters.safetensors`.
    let format = if asked.ends_with(MLX_WEIGHTS) { AdapterFormat::Mlx } else { AdapterFormat::Peft };
    let config = names.iter().copied().find(|name| *name == CONFIG);
    let config = config.ok_or_else(|| missing(place, CONFIG, "ranks and scales are in it, and it belongs beside the weights"))?;
    Ok(Choice { format, weights: asked, config: Some(config) })
}

/// An adapter that is one file.
fn whole(name: &str) -> Option<Choice<'_>> {
    let format = match name {
        _ if name.ends_with(ONNX_ADAPTER) => AdapterFormat::OnnxAdapter,
        _ if name.to_ascii_lowercase().ends_with(GGUF) => AdapterFormat::Gguf,
        _ => return None,
    };
    Some(Choice { format, weights: name, config: None })
}

fn known() -> String {
    format!("an adapter is `{CONFIG}` with `{PEFT_WEIGHTS}` or `{MLX_WEIGHTS}`, a file `*{ONNX_ADAPTER}`, or a GGUF adapter")
}

fn missing(place: &str, file: &str, why: &str) -> Error {
    bad(place, format!("the adapter's `{file}` is not there"), &format!("obtain it from where the adapter was published: {why}"))
}

fn pickle(place: &str, file: &str) -> Error {
    Error::Unsupported {
        what: format!("`{file}` of `{place}`"),
        reason: "it is a pickle, which can run code and is never opened".into(),
        hint: Some(
            format!("load the adapter with PEFT and save it again (`save_pretrained`), which writes `{PEFT_WEIGHTS}`").into(),
        ),
    }
}

fn bad(place: &str, problem: String, hint: &str) -> Error {
    Error::BadFile { file: place.into(), problem, hint: Some(hint.into()), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_told_by_names() {
        let check = |files: &[&str], expected: &[&str]| assert_eq!(AdapterFiles::needed("owner/name", files).unwrap(), expected);
        check(&["README.md", CONFIG, PEFT_WEIGHTS, "tokenizer.json"], &[CONFIG, PEFT_WEIGHTS]);
        check(&[MLX_WEIGHTS, CONFIG, "0000100_adapters.safetensors"], &[CONFIG, MLX_WEIGHTS]);
        check(&[PICKLE, CONFIG, PEFT_WEIGHTS], &[CONFIG, PEFT_WEIGHTS]);
        check(&["mine.onnx_adapter"], &["mine.onnx_adapter"]);
        check(&["mine-F16.GGUF", "below/other.gguf"], &["mine-F16.GGUF"]);
    }

    #[test]
    fn what_is_missing_or_refused_is_named() {
        let check = |files: &[&str], expected: &str| {
            let error = AdapterFiles::needed("owner/name", files).unwrap_err();
            assert!(error.to_string().contains(expected) && error.to_string().contains("owner/name"), "{error}");
            assert!(error.hint().is_some());
        };
        check(&["model.safetensors", "config.json"], "has no adapter");
        check(&[CONFIG, PICKLE], "a pickle");
        check(&[PEFT_WEIGHTS], "`adapter_config.json` is not there");
        check(&[CONFIG], "`adapter_model.safetensors` is not there");
        check(&["a.gguf", "b.onnx_adapter"], "has 2 adapters: `a.gguf`, `b.onnx_adapter`");
    }

    #[test]
    fn files_and_directories_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        for name in [CONFIG, MLX_WEIGHTS, "0000100_adapters.safetensors", "b.onnx_adapter", "notes.txt", PICKLE] {
            fs::write(place(name), "").unwrap();
        }
        let found =
            |path: &Path| AdapterFiles::discover(path, "mine").map(|files| (files.format, files.weights.file_name().to_owned()));
        assert_eq!(found(directory.path()).unwrap(), (AdapterFormat::Mlx, MLX_WEIGHTS.into()));
        let numbered = "0000100_adapters.safetensors";
        assert_eq!(found(&place(numbered)).unwrap(), (AdapterFormat::Mlx, numbered.into()));
        assert_eq!(found(&place("b.onnx_adapter")).unwrap(), (AdapterFormat::OnnxAdapter, "b.onnx_adapter".into()));
        for (name, expected) in [("notes.txt", "is not an adapter"), (PICKLE, "pickle"), ("nothing", "cannot be read")] {
            let error = found(&place(name)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
