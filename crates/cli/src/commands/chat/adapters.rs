//! `/adapter`: another adapter, or none, from the next answer on.

use anyhow::Result;
use tandem::adapters::{AdapterRef, AdapterSet};
use tandem::{Resolver, Settings, TextModel};

use super::Talk;
use crate::args::EngineOptions;
use crate::engine::{Loaded, find_adapters, remark_on_adapters};
use crate::output::Output;

/// The name of the model without adapters.
const OFF: &str = "off";

/// The models that a conversation can go on with. They share their weights.
pub(super) struct Adapters<'t> {
    resolver: &'t Resolver,
    /// `None` where the engine applies none to this model.
    set: Option<AdapterSet>,
    /// What was loaded, and its name.
    loaded: (String, &'t TextModel),
    current: String,
}

impl<'t> Adapters<'t> {
    /// Those that `options` name, as `loaded`.
    pub(super) fn new(loaded: &'t Loaded, options: &EngineOptions) -> Result<Self> {
        let given: Vec<String> = options.adapter.iter().map(ToString::to_string).collect();
        let name = if given.is_empty() { OFF.into() } else { given.join(" + ") };
        Ok(Self { resolver: &loaded.resolver, set: None, loaded: (name.clone(), &loaded.model), current: name })
    }

    /// The model that `name` means, which is read when it is used first.
    fn model(&mut self, name: &str, output: &Output) -> Result<TextModel> {
        if name == self.loaded.0 {
            return Ok(self.loaded.1.clone());
        }
        let set = match &mut self.set {
            Some(set) => set,
            none => none.insert(AdapterSet::new(self.loaded.1.with_adapters(&[])?)),
        };
        if name == OFF {
            return Ok(set.base().clone());
        }
        if set.get(name).is_none() {
            let settings = Settings { adapters: vec![name.parse::<AdapterRef>()?], ..Settings::default() };
            set.add(name, &find_adapters(self.resolver, settings, output)?.adapters)?;
        }
        Ok(set.get(name).unwrap_or(set.base()).clone())
    }
}

impl Talk<'_> {
    /// Has the model with the adapter `name`, or without any, answer from here on.
    pub(super) fn use_adapter(&mut self, name: &str) -> Result<()> {
        let model = self.adapters.model(name, self.output)?;
        self.chat.set_model(&model)?;
        remark_on_adapters(&model.info().adapters, &model.info().name, self.output);
        name.clone_into(&mut self.adapters.current);
        self.output.note(&match name {
            OFF => "the model answers without adapters".to_owned(),
            name => format!("the model answers with adapter `{name}`"),
        });
        Ok(())
    }

    /// Every adapter that was used, and `off`.
    pub(super) fn list_adapters(&self) -> Result<()> {
        let Adapters { set, loaded, current, .. } = &self.adapters;
        let mut names = vec![OFF, loaded.0.as_str()];
        names.extend(set.iter().flat_map(AdapterSet::names));
        names.dedup();
        for name in names {
            let mark = if name == current { "*" } else { " " };
            self.output.line(&self.output.for_stdout(&format!("{mark} {name}")))?;
        }
        Ok(())
    }
}
