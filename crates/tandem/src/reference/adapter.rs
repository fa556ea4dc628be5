//! What a person writes to name an adapter.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tandem_core::adapter::{AdapterFiles, ScaledAdapter};
use tandem_core::config::ModelConfig;
use tandem_core::{Error, Result};
use tandem_hub::HubReference;

/// An adapter by its reference, and how much of it is applied.
///
/// A reference is a directory or a file (of PEFT, mlx-lm, ONNX Runtime or llama.cpp), or `owner/name[@revision]` on the Hugging Face hub.
/// As a text it may end in `=SCALE`.
///
/// ```
/// use tandem::adapters::AdapterRef;
///
/// let adapter: AdapterRef = "./my-adapter=0.5".parse()?;
/// assert_eq!((adapter.reference.as_str(), adapter.scale), ("./my-adapter", 0.5));
/// # Ok::<(), tandem::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdapterRef {
    /// What was written.
    pub reference: String,
    /// 1 applies it as it was trained.
    pub scale: f32,
    /// Where it is on this machine, once it is known.
    pub(crate) path: Option<PathBuf>,
}

impl AdapterRef {
    /// The adapter `reference`, `scale` of it.
    pub fn new(reference: impl Into<String>, scale: f32) -> Self {
        Self { reference: reference.into(), scale, path: None }
    }

    /// Whether it is on the hub and not on this machine.
    pub(crate) fn hub(&self) -> Option<HubReference> {
        let is_path = self.path.is_some() || Path::new(&self.reference).exists() || self.reference.starts_with(['.', '/', '~']);
        if is_path { None } else { self.reference.parse().ok() }
    }

    /// Its files, which are on this machine.
    ///
    /// # Errors
    /// [`Error::BadFile`] when nothing is there, and those of [`AdapterFiles::discover`].
    pub fn files(&self) -> Result<AdapterFiles> {
        let path = self.path.as_deref().unwrap_or(Path::new(&self.reference));
        if !path.exists() {
            return Err(Error::BadFile {
                file: self.reference.clone(),
                problem: "no adapter is at this path".into(),
                source: None,
                hint: Some(
                    "name a directory with `adapter_config.json`, an `.onnx_adapter` or `.gguf` file, or `owner/name` on the \
                       Hugging Face hub"
                        .into(),
                ),
            });
        }
        AdapterFiles::discover(path, &self.reference)
    }

    /// Reads it for the model of `base`, which files of ONNX Runtime and of llama.cpp may need.
    ///
    /// # Errors
    /// As [`files`](Self::files) and [`AdapterFiles::read`].
    pub fn read(&self, base: Option<&ModelConfig>) -> Result<ScaledAdapter> {
        if !self.scale.is_finite() {
            return Err(Error::invalid_option("adapter scale", self.scale, "is not finite"));
        }
        Ok(ScaledAdapter { adapter: Arc::new(self.files()?.read(base)?), scale: self.scale })
    }
}

impl FromStr for AdapterRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid_option("adapter", text, "names nothing"));
        }
        match text.rsplit_once('=') {
            Some((reference, scale)) if !Path::new(text).exists() => match scale.parse::<f32>() {
                Ok(scale) if scale.is_finite() && !reference.is_empty() => Ok(Self::new(reference, scale)),
                _ => Err(Error::invalid_option("adapter", text, format!("ends in `{scale}`, which is not a scale such as 0.5"))),
            },
            _ => Ok(Self::new(text, 1.0)),
        }
    }
}

impl fmt::Display for AdapterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference)?;
        if self.scale == 1.0 { Ok(()) } else { write!(f, "={}", self.scale) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_may_have_a_scale() {
        let check = |text: &str, reference: &str, scale: f32| {
            let adapter: AdapterRef = text.parse().unwrap();
            assert_eq!((adapter.reference.as_str(), adapter.scale), (reference, scale), "{text}");
        };
        check("./mine", "./mine", 1.0);
        check("owner/name@v2=-0.25", "owner/name@v2", -0.25);
        check("a=b=2", "a=b", 2.0);
        let problem = |text: &str| text.parse::<AdapterRef>().unwrap_err().to_string();
        assert!(problem("./mine=half").contains("`half`"));
        assert!(problem("").contains("names nothing"));
        assert!(problem("=1").contains("not a scale"));
        assert_eq!(AdapterRef::new("a", 0.5).to_string(), "a=0.5");
    }

    #[test]
    fn hub_is_asked_for_names_that_are_no_paths() {
        assert!(AdapterRef::new("owner/name", 1.0).hub().is_some());
        for path in ["./owner/name", "/owner/name", "src"] {
            assert!(AdapterRef::new(path, 1.0).hub().is_none(), "{path}");
        }
    }
}
