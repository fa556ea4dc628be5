//! `tandem.toml`: the options of the command line, set once for a directory or a user.
//!
//! Its keys are the options' names with underscores, so that file and flags cannot drift apart; only `--device` is called
//! `execution_target`.

use std::io;
use std::path::Path;

use anyhow::Result;
use clap::{Args, Command};
use serde::Deserialize;
use tandem::catalog::Catalog;
use tandem::{Error, paths};
use toml::{Table, Value};

use crate::args::{EngineOptions, GenerationOptions, KvArgs};
use crate::failure::Usage;

const FILE: &str = "tandem.toml";

/// Keys that a file in the working directory may not set: whoever made the directory would have this process load a library, or
/// write, where the user did not say so.
const OF_THE_USER: [&str; 3] = ["ort_library", "coreml_cache", MODELS];

/// The key of a user's own entries in the catalog, which the library reads.
const MODELS: &str = "model";

/// What the files set.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) engine: EngineOptions,
    pub(crate) generation: GenerationOptions,
    /// The models that are known by name.
    pub(crate) catalog: Catalog,
}

impl Default for Config {
    fn default() -> Self {
        Self { engine: EngineOptions::default(), generation: GenerationOptions::default(), catalog: Catalog::builtin() }
    }
}

impl Config {
    /// The file in the working directory over the user's.
    pub(crate) fn load() -> Result<Self> {
        let user = paths::config_dir().map(|dir| dir.join(FILE)).map_or_else(|| Ok(Self::default()), |file| read(&file, true))?;
        let here = read(Path::new(FILE), false)?;
        let (engine, generation) = (here.engine.or(user.engine), here.generation.or(user.generation));
        Ok(Self { engine, generation, catalog: Catalog::of_user().map_err(wrong)? })
    }
}

fn read(file: &Path, is_users: bool) -> Result<Config> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Config::default());
        }
        Err(error) => return Err(wrong(Error::bad_file(file.to_string_lossy(), "cannot be read", error))),
    };
    parse(&text, file, is_users).map_err(wrong)
}

fn parse(text: &str, file: &Path, is_users: bool) -> tandem::Result<Config> {
    let name = file.to_string_lossy();
    let table: Table = text.parse().map_err(|error: toml::de::Error| Error::BadFile {
        file: name.to_string(),
        problem: format!("is not valid TOML: {}", place(text, &error)),
        hint: None,
        source: None,
    })?;
    let mut config = Config::default();
    for (key, value) in table {
        if OF_THE_USER.contains(&key.as_str()) && !is_users {
            return Err(Error::BadField {
                file: name.to_string(),
                field: key,
                problem: "may be set in the user's own file only, not in that of a directory".into(),
                hint: Some("give it as a flag, or set it in `tandem/tandem.toml` in your configuration directory".into()),
            });
        }
        // One key at a time, so that an error names its key.
        let one = Value::Table(Table::from_iter([(key.clone(), value)]));
        let bad = |error: toml::de::Error| Error::bad_field(name.as_ref(), &key, first_line(error.message()));
        if engine_keys().contains(&key) {
            config.engine = EngineOptions::deserialize(one).map_err(bad)?.or(config.engine);
        } else if keys::<GenerationOptions>().contains(&key) {
            config.generation = GenerationOptions::deserialize(one).map_err(bad)?.or(config.generation);
        } else if key != MODELS {
            return Err(unknown(&name, key));
        }
    }
    let dir = file.parent().map(Path::to_path_buf).unwrap_or_default();
    config.engine.onnx.paths_mut().for_each(|path| *path = dir.join(&*path));
    Ok(config)
}

/// The keys that stand for the fields of [`EngineOptions`].
fn engine_keys() -> Vec<String> {
    [keys::<EngineOptions>(), keys::<KvArgs>()].concat()
}

/// The keys that stand for the fields of `T`, from the ids that clap gives its options.
fn keys<T: Args>() -> Vec<String> {
    let command = T::augment_args(Command::new("keys"));
    let key = |id: &str| if id == "device" { "execution_target".into() } else { id.to_owned() };
    command.get_arguments().map(|argument| key(argument.get_id().as_str())).collect()
}

fn unknown(file: &str, key: String) -> Error {
    let mut known = [engine_keys(), keys::<GenerationOptions>()].concat();
    let near = known.iter().map(|known| (strsim::damerau_levenshtein(known, &key), known)).min();
    let hint = match near {
        _ if key == "device" => "the key is called `execution_target`".into(),
        Some((distance, known)) if distance <= 3 => format!("did you mean `{known}`?"),
        _ => {
            known.sort();
            format!("the keys are: {}", known.join(", "))
        }
    };
    Error::BadField { file: file.into(), field: key, problem: "is not an option".into(), hint: Some(hint.into()) }
}

/// What is wrong with the text, with its line.
fn place(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or_else(String::new, |before| format!(" (line {})", before.matches('\n').count() + 1));
    format!("{}{line}", first_line(error.message()))
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

/// A configuration file that is wrong is wrong usage.
fn wrong(error: Error) -> anyhow::Error {
    Usage::from(error).into()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tandem::adapters::AdapterRef;

    use super::*;

    fn check(text: &str, expected: &str) {
        let message = match parse(text, Path::new("dir/tandem.toml"), false) {
            Ok(_) => "fine".into(),
            Err(error) => format!("{error}; {}", error.hint().unwrap_or_default()),
        };
        assert_eq!(message, expected, "{text}");
    }

    #[test]
    fn every_key_can_be_set() {
        let text = r#"
            backend = "onnx"
            execution_target = "cuda:1"
            dtype = "f16"
            kv_dtype = "f32"
            threads = 3
            spin = true
            numerics = "exact"
            kernels = "runtime"
            graph = "model.onnx"
            context = 1000
            memory = "16GiB"
            no_memory_check = true
            huge_pages = false
            adapter = ["./style=0.5"]
            require_device = 0.9
            ort_library = "lib/libonnxruntime.so"
            coreml_units = "cpu-and-gpu"
            coreml_format = "neural-network"
            coreml_static_shapes = false
            coreml_subgraphs = true
            coreml_cache = "/cache"
            max_tokens = 7
            temperature = 0.5
            top_k = 4
            top_p = 0.9
            min_p = 0.1
            typical_p = 0.8
            repetition_penalty = 1.1
            presence_penalty = -0.5
            frequency_penalty = 0.25
            logit_bias = ["42=-inf", "7=1.5"]
            seed = 11
            stop = ["\n\n"]
            system = "be brief"
            raw = true
        "#;
        for key in [engine_keys(), keys::<GenerationOptions>()].concat() {
            assert!(text.contains(&format!(" {key} = ")), "`{key}` is not tested");
        }
        let Config { mut engine, generation, .. } = parse(text, Path::new("dir/tandem.toml"), true).unwrap();
        assert_eq!(std::mem::take(&mut engine.adapter), [AdapterRef::new("./style", 0.5)]);
        assert_eq!(format!("{:?}", engine.device), "Some(Exactly(Cuda(1)))");
        assert_eq!(engine.onnx.library.ort_library, Some(PathBuf::from("dir/lib/libonnxruntime.so")));
        assert_eq!(engine.onnx.options().coreml.cache_dir, Some(PathBuf::from("/cache")));
        assert_eq!(engine.compute.threads.map(usize::from), Some(3));
        assert!(!format!("{engine:?}").contains("None"), "{engine:?}");
        assert!(!format!("{generation:?}").contains("None"), "{generation:?}");
        assert_eq!(generation.logit_bias.iter().map(ToString::to_string).collect::<Vec<_>>(), ["42=-inf", "7=1.5"]);
        assert_eq!(generation.stop, ["\n\n"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_key() {
        check("", "fine");
        check("temperature = 1", "fine");
        check("temprature = 0.5", "`dir/tandem.toml`: field `temprature`: is not an option; did you mean `temperature`?");
        check("device = 'cpu'", "`dir/tandem.toml`: field `device`: is not an option; the key is called `execution_target`");
        check("temperature = 'hot'", "`dir/tandem.toml`: field `temperature`: invalid type: string \"hot\", expected f32; ");
        check("max_tokens = -1", "`dir/tandem.toml`: field `max_tokens`: invalid value: integer `-1`, expected usize; ");
        check(
            "execution_target = 'gpu'",
            "`dir/tandem.toml`: field `execution_target`: `gpu` is not one of `auto`, `cpu`, `cuda`, `cuda:N`, `coreml`; ",
        );
        check("a = 1\nb = = 2", "`dir/tandem.toml`: is not valid TOML: extra `=`, expected nothing (line 2); ");
        check(
            "ort_library = '/lib.so'",
            "`dir/tandem.toml`: field `ort_library`: may be set in the user's own file only, not in that of a directory; \
             give it as a flag, or set it in `tandem/tandem.toml` in your configuration directory",
        );
    }

    #[test]
    fn the_first_to_give_a_value_wins() {
        let here = parse("temperature = 0.1\nthreads = 1", Path::new("a"), false).unwrap();
        let user = parse("temperature = 0.2\ntop_k = 9\nstop = ['x']", Path::new("b"), true).unwrap();
        let both = here.generation.or(user.generation);
        assert_eq!((both.temperature, both.top_k, both.stop.len()), (Some(0.1), Some(9), 1));
    }
}
