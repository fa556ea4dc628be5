//! What to do about an error, in the words of the command line.

use tandem::remedy::{Remedies, Remedy, alternatives};

/// The remedies as flags and commands.
pub(crate) fn sentence(remedies: &Remedies) -> String {
    remedies.sentence(clause)
}

pub(crate) fn clause(remedy: &Remedy) -> String {
    match remedy {
        Remedy::UseBackend(backend) => format!("use `--backend {backend}`"),
        Remedy::UseDevice(device) => format!("use `--device {device}`"),
        Remedy::UseDType(dtypes) => match alternatives(dtypes).strip_prefix('`') {
            Some(rest) => format!("use `--dtype {rest}"),
            None => "choose another dtype".into(),
        },
        Remedy::UseKvDType(dtype) => format!("use `--kv-dtype {dtype}`"),
        Remedy::EnableFeature(feature) => format!("build with `--features {feature}`"),
        Remedy::LowerRequireDevice => "lower `--require-device`".into(),
        Remedy::ListOperators => "`tandem show --json` lists the operators by provider".into(),
        Remedy::ListDevices => "`tandem devices` shows whether the engine itself works".into(),
        Remedy::SetUpLibrary => "`tandem setup` obtains the right one (in Tandem's repository: `cargo xtask setup`)".into(),
        Remedy::SetUpFromWheel { pip, wheel } => format!(
            "on a machine that reaches the package index, run `python3 -m pip {pip}`, copy `{wheel}` here, and run \
             `tandem setup --wheel {wheel}`"
        ),
        Remedy::NameLibrary => "name another library with `--ort-library FILE` or `ORT_DYLIB_PATH`".into(),
        Remedy::Fits { dtype, peak } => format!("with `--dtype {dtype}` it takes {peak}, which fits"),
        Remedy::ModelFits { model, dtype, peak } => format!("`{model}` with `--dtype {dtype}` would fit: {peak}"),
        Remedy::SkipMemoryCheck => "use `--no-memory-check` to load it anyway".into(),
        Remedy::SkipTemplate => "use `--raw` to continue plain text".into(),
        Remedy::ReplaceExport => "replace an earlier export with `--force`".into(),
        Remedy::Embed => "embed texts with it: `tandem embed MODEL TEXT`".into(),
        Remedy::ExportModel => "export the model with `tandem export`".into(),
        Remedy::ListModels => "`tandem list` shows which models are there".into(),
        Remedy::RemoveModels => "remove models with `tandem rm`".into(),
        Remedy::VerifyModels => "`tandem doctor --verify` finds what is damaged".into(),
        Remedy::MakeBundle => "make a bundle with `tandem pull MODEL --bundle FILE`".into(),
        Remedy::ReadBundle => "bring the model as a bundle: `tandem pull --from-bundle FILE`".into(),
        Remedy::LockModels => "lock what is there now with `--lock`".into(),
        Remedy::Report => "report this with the output of `tandem doctor --json`".into(),
        other => other.to_string(),
    }
}
