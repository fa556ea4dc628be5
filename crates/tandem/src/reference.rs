//! What a person writes to name a model, parsed once.

mod adapter;

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tandem_hub::HubReference;

pub use self::adapter::AdapterRef;

/// A model reference. In this order a text is
///
/// 1. `demo`: the built-in model; a directory of that name is named by its path, `./demo`,
/// 2. a path: one that exists, that begins with `.`, `/` or `~`, or that ends in `.onnx` or `.gguf`,
/// 3. `owner/name[:variant][@revision]`: a repository on the Hugging Face hub; the variant is one of several GGUF files,
/// 4. `auto`: the largest model of the catalog that fits the memory,
/// 5. a name of the catalog, such as `qwen2.5:0.5b`. Whether the catalog has it is seen when it is resolved.
///
/// ```
/// use tandem::ModelRef;
///
/// assert_eq!(ModelRef::from("demo"), ModelRef::BuiltIn);
/// assert_eq!(ModelRef::from("./model"), ModelRef::Local("./model".into()));
/// assert!(matches!(ModelRef::from("Qwen/Qwen3-0.6B@main"), ModelRef::Hub(_)));
/// assert_eq!(ModelRef::from("qwen3:0.6b").to_string(), "qwen3:0.6b");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelRef {
    /// The model that is part of the program.
    BuiltIn,
    /// A directory or file on this machine.
    Local(PathBuf),
    /// A repository on the Hugging Face hub.
    Hub(HubReference),
    /// The largest model of the catalog that fits the memory.
    Auto,
    /// A name of the catalog.
    Catalog(String),
}

/// The word for the built-in model.
pub(crate) const DEMO: &str = "demo";

/// The word for the largest model that fits.
pub(crate) const AUTO: &str = "auto";

impl FromStr for ModelRef {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl From<&str> for ModelRef {
    fn from(text: &str) -> Self {
        let hub = text.parse::<HubReference>().ok();
        match (text, hub) {
            (DEMO, _) => Self::BuiltIn,
            (path, ref hub) if is_path(path, hub.as_ref()) => Self::Local(path.into()),
            (_, Some(hub)) => Self::Hub(hub),
            (AUTO, None) => Self::Auto,
            (name, None) => Self::Catalog(name.into()),
        }
    }
}

impl From<&String> for ModelRef {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<&Path> for ModelRef {
    fn from(path: &Path) -> Self {
        Self::Local(path.into())
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str(DEMO),
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Hub(reference) => write!(f, "{reference}"),
            Self::Auto => f.write_str(AUTO),
            Self::Catalog(name) => f.write_str(name),
        }
    }
}

/// What ends like a file may also be a variant of a repository.
fn is_path(text: &str, hub: Option<&HubReference>) -> bool {
    let names_a_variant = hub.is_some_and(|reference| reference.variant.is_some());
    Path::new(text).exists()
        || text.starts_with(['.', '/', '~'])
        || (text.ends_with(".onnx") || text.ends_with(".gguf")) && !names_a_variant
}
