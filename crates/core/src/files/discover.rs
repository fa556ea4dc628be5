//! Which model a path on disk is: a checkpoint, a repository of graphs, an onnxruntime-genai directory, one graph.
//!
//! Links are followed when a file is opened and never resolved before, so that names stay those of the snapshot in a hub cache,
//! where `snapshots/<revision>/<file>` points to `blobs/<hash>`.

mod not_found;

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{GraphFile, MAX_JSON_BYTES, ModelFile, ModelFiles, SkippedFile, gguf, graphs, is_gguf, weights};
use crate::config::{Fields, parse_object};
use crate::error::{Error, Result};

pub(super) const GENAI_CONFIG: &str = "genai_config.json";

const HOW_TO_COMPLETE_IT: &str = "write the directory again with onnxruntime-genai's model builder, or remove this file and add the \
                                  published `config.json` beside a graph called `model.onnx`";

/// The field that names the graph.
pub(super) const GENAI_DECODER: &str = "model.decoder.filename";

impl ModelFiles {
    /// The files of the model at `path`: a directory as published, a `.gguf` file, or an `.onnx` file within a directory, for which configuration and
    /// tokenizer are looked for beside it and one directory up, and for anything in a folder `onnx` also beside that folder.
    /// `name` is the reference that was asked for.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when there is nothing at `path` or no model in it, [`Error::BadFile`] and [`Error::BadField`] when one
    /// is incomplete, [`Error::Unsupported`] for files in a format that is not read.
    pub fn discover(path: &Path, name: &str) -> Result<Self> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_found::at_path(path, name)),
            Err(error) => return Err(Error::bad_file(path.to_string_lossy(), "cannot be accessed", error)),
        };
        if not_found::is_core_ml(path) {
            return Err(not_found::core_ml(path));
        }
        let is_a = |extension: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
        if metadata.is_dir() {
            return directory(path, name);
        }
        if metadata.is_file() && is_a("onnx") {
            return one_graph(path, name);
        }
        if metadata.is_file() && is_gguf(path) {
            return gguf::one_file(path, name);
        }
        Err(not_found::in_file(path))
    }
}

fn directory(dir: &Path, name: &str) -> Result<ModelFiles> {
    let places = places(dir);
    let Some(files) = small_files(name, &places) else {
        return gguf::only_one(dir, &not_found::names_in(dir), name).unwrap_or_else(|| Err(not_found::without_config(dir, name)));
    };
    let (graphs, skipped) = match &files.genai_config {
        Some(genai_config) => genai_graphs(dir, genai_config)?,
        None => graphs::sort_out(onnx_files(dir).into_iter().chain(onnx_files(&dir.join("onnx")))),
    };
    // Weights beside a graph whose only configuration is `genai_config.json` are not a checkpoint: it does not say enough for one.
    let is_checkpoint = files.genai_config.as_ref() != Some(&files.config);
    let weights = if is_checkpoint { weights::find(dir)? } else { Vec::new() };
    let files = ModelFiles { weights, graphs, skipped, ..files };
    if files.weights.is_empty() && files.graphs.is_empty() {
        return match gguf::only_one(dir, &not_found::names_in(dir), name) {
            Some(gguf) => gguf,
            None if files.skipped.is_empty() => Err(not_found::without_weights(dir)),
            None => Err(files.no_graph(None)),
        };
    }
    Ok(files)
}

fn one_graph(path: &Path, name: &str) -> Result<ModelFiles> {
    let file = ModelFile::Path(path.into());
    if let Some(reason) = graphs::refused(file.file_name()) {
        return Err(Error::Unsupported {
            what: format!("the graph `{}`", path.display()),
            reason: reason.into(),
            hint: Some("use a `model*.onnx` of a newer export, or export the checkpoint again".into()),
        });
    }
    let beside = parent(path);
    let mut places = places(&beside);
    places.insert(1, parent(&beside));
    let files = small_files(name, &places).ok_or_else(|| {
        let needed_for =
            "every graph, or a `genai_config.json` beside it; it was looked for beside the graph and one directory up";
        Error::missing_file(beside.join("config.json"), needed_for)
    })?;
    let dtype = graphs::declared(file.file_name()).ok().flatten();
    Ok(ModelFiles { graphs: vec![GraphFile { file, dtype }], ..files })
}

/// The small files, each from the first of `places` that has it; `genai_config.json` belongs to the graphs beside it.
fn small_files(name: &str, places: &[PathBuf]) -> Option<ModelFiles> {
    ModelFiles::with_small_files(name, |file_name| find(if file_name == GENAI_CONFIG { &places[..1] } else { places }, file_name))
}

/// The graph that `genai_config.json` names as its decoder; other graphs beside it are not used.
///
/// Nothing else of that file is honoured: its session options could name libraries to load.
fn genai_graphs(dir: &Path, genai_config: &ModelFile) -> Result<(Vec<GraphFile>, Vec<SkippedFile>)> {
    let named = genai_decoder(&genai_config.name(), &genai_config.read(MAX_JSON_BYTES)?);
    let named = named.map_err(|error| error.with_hint(HOW_TO_COMPLETE_IT))?;
    let path = dir.join(&named);
    if !path.is_file() {
        return Err(Error::bad_field(genai_config.name(), GENAI_DECODER, format!("names `{named}`, which is not there")));
    }
    let reason = format!("`{GENAI_CONFIG}` does not name it as the decoder");
    let others = onnx_files(dir).into_iter().filter(|file| file.path() != Some(&path));
    let skipped = others.map(|file| SkippedFile { file, reason: reason.clone() }).collect();
    let dtype = graphs::declared(&named).ok().flatten();
    Ok((vec![GraphFile { file: ModelFile::Path(path), dtype }], skipped))
}

/// The graph that the `genai_config.json` with `content` names as its decoder; `file` is its name in messages.
pub(super) fn genai_decoder(file: &str, content: &[u8]) -> Result<String> {
    let object = parse_object(file, content)?;
    let root = Fields::root(file, &object);
    let model = root.object("model")?.ok_or_else(|| root.missing("model"))?;
    let decoder = model.object("decoder")?.ok_or_else(|| model.missing("decoder"))?;
    let named = decoder.string("filename")?.ok_or_else(|| decoder.missing("filename"))?;
    let is_below = Path::new(named).components().all(|part| matches!(part, Component::Normal(_)));
    if !named.ends_with(".onnx") || named.starts_with('.') || named.contains(['\\', ':', '\0']) || !is_below {
        return Err(
            decoder.error("filename", format!("names `{named}`, which is not the path of an ONNX file below the directory"))
        );
    }
    Ok(named.to_owned())
}

/// The `.onnx` files directly in `dir`, by name; none when it cannot be listed.
fn onnx_files(dir: &Path) -> Vec<ModelFile> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx") && path.is_file())
        .collect();
    paths.sort();
    paths.into_iter().map(ModelFile::Path).collect()
}

/// Where a model's small files lie when `dir` holds its graphs: there, and beside the folder `onnx` of a repository that `dir` is or
/// lies in.
fn places(dir: &Path) -> Vec<PathBuf> {
    let is_graph_folder = |dir: &Path| dir.file_name().is_some_and(|name| name == "onnx");
    let above = parent(dir);
    let mut places = vec![dir.to_path_buf()];
    if is_graph_folder(dir) {
        places.push(above);
    } else if is_graph_folder(&above) {
        places.push(parent(&above));
    }
    places
}

pub(super) fn find(places: &[PathBuf], file_name: &str) -> Option<ModelFile> {
    places.iter().map(|place| place.join(file_name)).find(|path| path.is_file()).map(ModelFile::Path)
}

/// The directory that holds `path`, also when `path` is relative and has one part only.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() && path != Path::new(".") => PathBuf::from("."),
        Some(parent) if !parent.as_os_str().is_empty() && !path.ends_with("..") => parent.into(),
        _ => path.join(".."),
    }
}
