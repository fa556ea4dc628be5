//! `/set`: the options of generation, by the names and rules of the command line.

use anyhow::{Context, Result};
use clap::{Args, Command, FromArgMatches};
use serde_json::Value;
use tandem::GenerateOptions;

use super::Talk;
use crate::args::GenerationOptions;
use crate::failure::Usage;

/// The value that stands for the model's own.
const DEFAULT: &str = "default";

impl Talk<'_> {
    /// Changes one option; a value that cannot be changes nothing.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let key = key(name)?;
        let changed = match value {
            DEFAULT => without(&self.generation, &key)?,
            value => parse(&key, value)?.or(self.generation.clone()),
        };
        changed.resolve(self.model)?;
        self.generation = changed;
        Ok(())
    }

    /// Every option with its value.
    pub(super) fn list_options(&self) -> Result<()> {
        let options = self.generation.resolve(self.model)?;
        let given = serde_json::to_value(&self.generation).context("the options cannot be listed")?;
        for (name, value) in values(&options, &self.generation) {
            let is_given = given.get(name).is_some_and(|value| !value.is_null() && *value != Value::Array(Vec::new()));
            let origin = if is_given { "" } else { "  (default)" };
            self.output.line(&self.output.for_stdout(&format!("{name:<20} {value}{origin}")))?;
        }
        Ok(())
    }
}

/// The options as they count, by name.
fn values(options: &GenerateOptions, given: &GenerationOptions) -> [(&'static str, String); 12] {
    let sampling = &options.sampling;
    let listed = |items: Vec<String>| if items.is_empty() { "none".into() } else { items.join(", ") };
    let bias = |&(id, bias): &(tandem::TokenId, f32)| format!("{id}={bias}");
    [
        ("max_tokens", options.max_new_tokens.map_or_else(|| "the whole context".into(), |max| max.to_string())),
        ("temperature", sampling.temperature.to_string()),
        ("top_k", sampling.top_k.to_string()),
        ("top_p", sampling.top_p.to_string()),
        ("min_p", sampling.min_p.to_string()),
        ("typical_p", sampling.typical_p.to_string()),
        ("repetition_penalty", sampling.repetition_penalty.to_string()),
        ("presence_penalty", sampling.presence_penalty.to_string()),
        ("frequency_penalty", sampling.frequency_penalty.to_string()),
        ("logit_bias", listed(sampling.logit_bias.iter().map(bias).collect())),
        ("seed", given.seed.map_or_else(|| "random for each answer".into(), |seed| seed.to_string())),
        ("stop", listed(options.stop.stop_strings.iter().map(|text| format!("{text:?}")).collect())),
    ]
}

/// The option that `name` means, with `-` or `_`.
fn key(name: &str) -> Result<String> {
    let key = name.trim_start_matches("--").replace('-', "_");
    let command = GenerationOptions::augment_args(Command::new("set"));
    let known: Vec<&str> = command.get_arguments().map(|argument| argument.get_id().as_str()).collect();
    match key.as_str() {
        "system" => Err(Usage::new("the system message is not an option of generation", "write `/system TEXT`").into()),
        "raw" => Err(Usage::new("`raw` has no place in a chat", "`tandem run --raw` continues a text as it is").into()),
        known_key if known.contains(&known_key) => Ok(key),
        _ => {
            let near = known.iter().map(|known| (strsim::damerau_levenshtein(known, &key), known)).min();
            let hint = match near {
                Some((distance, known)) if distance <= 3 => format!("did you mean `{known}`? `/set` lists the options"),
                _ => "`/set` lists the options".into(),
            };
            Err(Usage::new(format!("there is no option `{name}`"), hint).into())
        }
    }
}

/// `key` with `value`, read as the command line reads it.
fn parse(key: &str, value: &str) -> Result<GenerationOptions> {
    let argument = format!("--{}={value}", key.replace('_', "-"));
    let command = GenerationOptions::augment_args(Command::new("set").no_binary_name(true));
    let parsed = command.try_get_matches_from([argument]).and_then(|matches| GenerationOptions::from_arg_matches(&matches));
    parsed.map_err(|error| {
        let why = std::error::Error::source(&error).map_or_else(|| "it is of another kind".into(), ToString::to_string);
        Usage::new(format!("`{value}` is not a value for `{key}`: {why}"), "`/set` lists the options with their values").into()
    })
}

/// `options` with what the model's publisher says for `key`.
fn without(options: &GenerationOptions, key: &str) -> Result<GenerationOptions> {
    let mut fields = serde_json::to_value(options).context("the options cannot be read")?;
    if let Some(fields) = fields.as_object_mut() {
        fields.shift_remove(key);
    }
    serde_json::from_value(fields).context("the options cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_on_the_command_line() {
        let options =
            parse("temperature", "0.7").unwrap().or(parse("stop", "--- end").unwrap()).or(parse("top_k", "40").unwrap());
        assert_eq!((options.temperature, options.top_k), (Some(0.7), Some(40)));
        assert_eq!(options.stop, ["--- end"]);
        let options = without(&options, "temperature").unwrap();
        assert_eq!((options.temperature, options.top_k, options.stop.len()), (None, Some(40), 1));
        assert_eq!(without(&options, "stop").unwrap().stop.len(), 0);
        assert_eq!(parse("presence_penalty", "-0.5").unwrap().presence_penalty, Some(-0.5));
        assert_eq!(
            parse("temperature", "warm").unwrap_err().to_string(),
            "`warm` is not a value for `temperature`: invalid float literal"
        );
    }

    #[test]
    fn names_may_be_written_like_flags() {
        assert_eq!(key("top-k").unwrap(), "top_k");
        assert_eq!(key("--top-k").unwrap(), "top_k");
        assert!(key("temprature").is_err() && key("system").is_err() && key("raw").is_err());
    }

    #[test]
    fn every_option_is_listed() {
        let listed = values(
            &GenerateOptions::new(None, tandem::SamplingOptions::greedy(), tandem::StopOptions::default()),
            &GenerationOptions::default(),
        );
        let command = GenerationOptions::augment_args(Command::new("set"));
        for argument in
            command.get_arguments().map(|argument| argument.get_id().as_str()).filter(|id| !["system", "raw"].contains(id))
        {
            assert!(listed.iter().any(|(name, _)| *name == argument), "{argument}");
        }
    }
}
