//! What to do about an error, as data: the library says it in the words of its interface, the program as flags and commands.

use std::fmt;

use crate::primitives::{BackendKind, DType, Device, KvDType};

/// One thing that helps.
///
/// It displays as a clause in the words of this library; an application that has others renders the values itself.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Remedy {
    /// Something that is the same for everybody, as a clause: "shorten the prompt".
    Text(String),
    /// A fact that helps to decide, as a clause: "this build has: onnx".
    Note(String),
    /// Load with this backend.
    UseBackend(BackendKind),
    /// Load onto this device.
    UseDevice(Device),
    /// Load with one of these dtypes.
    UseDType(Vec<DType>),
    /// Load with keys and values in this dtype.
    UseKvDType(KvDType),
    /// Build with this feature of Cargo's.
    EnableFeature(String),
    /// Ask for a smaller share of the graph on the device.
    LowerRequireDevice,
    /// See which provider runs which operators.
    ListOperators,
    /// See which devices there are, and whether they work.
    ListDevices,
    /// Obtain ONNX Runtime's library.
    SetUpLibrary,
    /// Obtain it from a wheel that another machine downloads with these arguments of pip.
    SetUpFromWheel {
        /// The arguments.
        pip: String,
        /// The file's name.
        wheel: String,
    },
    /// Name ONNX Runtime's library.
    NameLibrary,
    /// The same model in another dtype fits the memory.
    Fits {
        /// The dtype.
        dtype: DType,
        /// The memory that it takes, with its unit.
        peak: String,
    },
    /// Another model fits the memory.
    ModelFits {
        /// Its name in the catalog.
        model: String,
        /// The dtype.
        dtype: DType,
        /// The memory that it takes, with its unit.
        peak: String,
    },
    /// Load whatever the plan of its memory says.
    SkipMemoryCheck,
    /// Continue plain text, without the chat template.
    SkipTemplate,
    /// Put an export in the place of an earlier one.
    ReplaceExport,
    /// Make vectors with the model instead of text.
    Embed,
    /// Make a directory with a graph of the checkpoint.
    ExportModel,
    /// See which models of the hub are on this machine.
    ListModels,
    /// Remove models of the hub from this machine.
    RemoveModels,
    /// Find what is damaged in the cache of the hub.
    VerifyModels,
    /// Write a model to one file.
    MakeBundle,
    /// Take a model from such a file.
    ReadBundle,
    /// Write to the lock file what is there now.
    LockModels,
    /// Tell the project, with what is known of this machine.
    Report,
}

/// What helps, the best first: displayed as one sentence without an end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remedies(Vec<Remedy>);

impl Remedy {
    /// Whether it is something to do, in the place of the others, and not where to look.
    fn is_action(&self) -> bool {
        !matches!(
            self,
            Self::Note(_)
                | Self::Fits { .. }
                | Self::ModelFits { .. }
                | Self::SkipMemoryCheck
                | Self::ListOperators
                | Self::ListDevices
                | Self::ListModels
                | Self::VerifyModels
        )
    }
}

impl Remedies {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Remedy> {
        self.0.iter()
    }

    /// The sentence, each remedy said by `clause`.
    pub fn sentence(&self, clause: impl Fn(&Remedy) -> String) -> String {
        let mut sentence = String::new();
        for (i, remedy) in self.0.iter().enumerate() {
            sentence += match i.checked_sub(1).map(|before| self.0[before].is_action() && remedy.is_action()) {
                None => "",
                Some(true) => ", or ",
                Some(false) => "; ",
            };
            sentence += &clause(remedy);
        }
        sentence
    }
}

impl fmt::Display for Remedies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(ToString::to_string))
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Note(text) => f.write_str(text),
            Self::UseBackend(backend) => write!(f, "use backend `{backend}`"),
            Self::UseDevice(device) => write!(f, "use device `{device}` (`LoadOptions::device`)"),
            Self::UseDType(dtypes) => write!(f, "use dtype {} (`LoadOptions::dtype`)", alternatives(dtypes)),
            Self::UseKvDType(dtype) => write!(f, "hold keys and values in `{dtype}` (`LoadOptions::kv_dtype`)"),
            Self::EnableFeature(feature) => write!(f, "build with the feature `{feature}`"),
            Self::LowerRequireDevice => f.write_str("lower `OnnxOptions::require_device`"),
            Self::ListOperators => f.write_str("`ModelInfo::placement` lists the operators by provider"),
            Self::ListDevices => f.write_str("`Backend::devices` says whether the engine itself works"),
            Self::SetUpLibrary => f.write_str("obtain ONNX Runtime's library with `tandem::backends::setup`"),
            Self::SetUpFromWheel { pip, wheel } => write!(
                f,
                "on a machine that reaches the package index, run `python3 -m pip {pip}`, copy `{wheel}` here, and give it to \
                 `tandem::backends::setup`"
            ),
            Self::NameLibrary => f.write_str("name another library with `OnnxOptions::library` or `ORT_DYLIB_PATH`"),
            Self::Fits { dtype, peak } => write!(f, "with dtype `{dtype}` it takes {peak}, which fits"),
            Self::ModelFits { model, dtype, peak } => write!(f, "`{model}` with dtype `{dtype}` would fit: {peak}"),
            Self::SkipMemoryCheck => f.write_str("`Settings::no_memory_check` loads it anyway"),
            Self::SkipTemplate => f.write_str("continue plain text, without the chat template"),
            Self::ReplaceExport => f.write_str("replace an earlier export with `ExportOptions::replace`"),
            Self::Embed => f.write_str("load it with `tandem::load_embedder`"),
            Self::ExportModel => f.write_str("export the model with `tandem::export`"),
            Self::ListModels => f.write_str("`Cache::models` lists the models that are there"),
            Self::RemoveModels => f.write_str("remove models with `Cache::remove`"),
            Self::VerifyModels => f.write_str("`Hub::verify` finds what is damaged"),
            Self::MakeBundle => f.write_str("make a bundle with `Hub::write_bundle`"),
            Self::ReadBundle => f.write_str("bring the model as a bundle and read it with `Hub::read_bundle`"),
            Self::LockModels => f.write_str("lock what is there now with `LockFile::write`"),
            Self::Report => f.write_str("report this as a bug"),
        }
    }
}

/// `` `f32`, `f16` or `int8` ``.
pub fn alternatives<T: fmt::Display>(values: &[T]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    match quoted.as_slice() {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        one => one.concat(),
    }
}

impl From<Remedy> for Remedies {
    fn from(remedy: Remedy) -> Self {
        Self(vec![remedy])
    }
}

impl<const N: usize> From<[Remedy; N]> for Remedies {
    fn from(remedies: [Remedy; N]) -> Self {
        Self(remedies.into())
    }
}

impl FromIterator<Remedy> for Remedies {
    fn from_iter<I: IntoIterator<Item = Remedy>>(remedies: I) -> Self {
        Self(remedies.into_iter().collect())
    }
}

impl From<String> for Remedies {
    fn from(text: String) -> Self {
        Remedy::Text(text).into()
    }
}

impl From<&str> for Remedies {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&str> for Remedy {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_joined_as_alternatives_and_references() {
        let check = |remedies: Remedies, expected: &str| assert_eq!(remedies.to_string(), expected);
        check("shorten the prompt".into(), "shorten the prompt");
        check(
            [Remedy::UseBackend(BackendKind::Onnx), Remedy::UseDevice(Device::Cpu), Remedy::ListDevices].into(),
            "use backend `onnx`, or use device `cpu` (`LoadOptions::device`); `Backend::devices` says whether the engine itself works",
        );
        check(
            Remedy::UseDType(vec![DType::F32, DType::F16, DType::Int8]).into(),
            "use dtype `f32`, `f16` or `int8` (`LoadOptions::dtype`)",
        );
        assert_eq!(alternatives(&["one"]), "`one`");
    }
}
