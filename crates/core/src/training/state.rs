//! What a run needs to go on: its factors, the moments of the optimiser and the number of updates, in one safetensors file that is written
//! whole or not at all.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use super::adam::Adam;
use super::{FactorGradients, TrainOptions, TrainableModel, Training};
use crate::adapter::LowRankFactors;
use crate::error::{Error, Result};
use crate::files::FileBytes;

/// Keys of the file's metadata.
const STEP: &str = "step";
const OPTIONS: &str = "options";
const DATA: &str = "data";
const FIRST_LOSS: &str = "first_loss";

/// What to do about options or data that a run was not begun with.
const BEGUN_OTHERWISE: &str = "go on with the same options and data, or remove that state and begin anew";

/// The groups of tensors, in the order of [`groups`].
const GROUPS: [&str; 3] = ["factors", "first_moments", "second_moments"];

impl<'m> Training<'m> {
    /// Writes the run to `path`. `data` says what it is trained on, such as a hash: a run goes on with the same alone.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be written.
    pub fn save(&self, path: &Path, data: &str) -> Result<()> {
        let options = serde_json::to_string(&self.options).expect("options are plain data");
        let metadata = [(STEP, self.step.to_string()), (OPTIONS, options), (DATA, data.to_owned())];
        let mut metadata: HashMap<String, String> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        metadata.extend(self.first_loss.map(|loss| (FIRST_LOSS.to_owned(), loss.to_string())));
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for (group, values) in GROUPS.iter().zip(self.groups()) {
            for (factor, (a, b)) in self.factors.iter().zip(values) {
                let shapes = [vec![factor.rank, factor.inputs()], vec![factor.outputs(), factor.rank]];
                for ((part, shape), values) in ["a", "b"].into_iter().zip(shapes).zip([a, b]) {
                    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    tensors.push((format!("{group}.{}.{part}", factor.module), shape, bytes));
                }
            }
        }
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("bytes are as many as the shape says"))
        });
        let failed = |error: std::io::Error| Error::bad_file(path.display().to_string(), "cannot be written", error);
        let bytes = serialize(views, Some(metadata)).map_err(|error| failed(std::io::Error::other(error)))?;
        let partial = path.with_extension("partial");
        fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path)).map_err(failed)
    }

    /// The run of `path` on `model`, to be gone on with.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] for a file that is damaged or of another model; [`Error::InvalidOption`] when `options`
    /// or `data` are others than it was saved with.
    pub fn resume(model: &'m dyn TrainableModel, options: TrainOptions, path: &Path, data: &str) -> Result<Self> {
        let file = path.display().to_string();
        if !path.exists() {
            let problem = "holds no run to go on from".into();
            let hint = Some("begin a new one, without resuming".into());
            return Err(Error::BadFile { file, problem, hint, source: None });
        }
        let content = FileBytes::map(path)?;
        let damaged = |error: safetensors::SafeTensorError| Error::bad_file(&*file, "is not the state of a training run", error);
        let (_, header) = SafeTensors::read_metadata(&content).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(&content).map_err(damaged)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry = |key: &str| metadata.get(key).ok_or_else(|| Error::bad_field(&*file, key, "is missing"));
        let saved: TrainOptions =
            serde_json::from_str(entry(OPTIONS)?).map_err(|error| Error::bad_field(&*file, OPTIONS, error.to_string()))?;
        if let Some((name, was, is)) = saved.difference(&options) {
            let problem = format!("differs from the {was} that the run in `{file}` was begun with");
            return Err(Error::invalid_option(&name, is, problem).with_hint(BEGUN_OTHERWISE));
        }
        if entry(DATA)? != data {
            let problem = format!("is the hash of other data than the run in `{file}` was begun with");
            return Err(Error::invalid_option("data", data, problem).with_hint(BEGUN_OTHERWISE));
        }
        let step = entry(STEP)?.parse().map_err(|_| Error::bad_field(&*file, STEP, "is not a number"))?;
        let mut training = Self::new(model, options)?;
        training.step = step;
        training.first_loss = metadata.get(FIRST_LOSS).and_then(|loss| loss.parse().ok());
        let read = |group: &str, factor: &LowRankFactors, part: &str, shape: [usize; 2]| -> Result<Vec<f32>> {
            let name = format!("{group}.{}.{part}", factor.module);
            let tensor = tensors.tensor(&name).map_err(|_| Error::bad_field(&*file, &*name, "is missing"))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                let problem = format!("is {:?} of {:?}, and must be {shape:?} of f32", tensor.shape(), tensor.dtype());
                return Err(Error::bad_field(&*file, &*name, problem));
            }
            let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => Err(Error::bad_field(&*file, &*name, "a value is not finite")),
            }
        };
        let mut adam = Adam::default();
        for factor in &mut training.factors {
            let parts = |group: &str, factor: &LowRankFactors| -> Result<FactorGradients> {
                let a = read(group, factor, "a", [factor.rank, factor.inputs()])?;
                Ok(FactorGradients { a, b: read(group, factor, "b", [factor.outputs(), factor.rank])? })
            };
            let [values, first, second] = GROUPS.map(|group| parts(group, factor));
            let values = values?;
            (factor.a, factor.b) = (values.a, values.b);
            adam.first.push(first?);
            adam.second.push(second?);
        }
        training.adam = adam;
        Ok(training)
    }

    /// What is saved of each factor, in the order of [`GROUPS`].
    fn groups(&self) -> [Vec<(&[f32], &[f32])>; 3] {
        let factors = self.factors.iter().map(|factor| (factor.a.as_slice(), factor.b.as_slice())).collect();
        [factors, slices(&self.adam.first), slices(&self.adam.second)]
    }
}

fn slices(moments: &[FactorGradients]) -> Vec<(&[f32], &[f32])> {
    moments.iter().map(|moment| (moment.a.as_slice(), moment.b.as_slice())).collect()
}

impl TrainOptions {
    /// The first option in which `other` differs: its name, its value here, and its value there.
    fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        let fields = |options: &Self| match serde_json::to_value(options) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (own, others) = (fields(self), fields(other));
        let (name, was) = own.iter().find(|(name, value)| others.get(*name) != Some(value))?;
        let is = others.get(name).map(ToString::to_string).unwrap_or_default();
        Some((name.replace('_', " "), was.to_string(), is))
    }
}
