//! The first stage: both sides make the same tokens of the same texts, and render the same conversations.

use serde::Serialize;
use tandem_core::template::{ChatMessage, RenderOptions};
use tandem_core::{Error, Result, TokenId};

use super::corpus::{Content, Corpus, CorpusPrompt, PromptKind};
use super::{Problem, Side};

/// A prompt as tokens.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub(super) name: String,
    pub(super) kind: PromptKind,
    pub(super) tokens: Vec<TokenId>,
}

/// What became of the texts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TextMeasures {
    /// Prompts that both sides turned into tokens.
    pub n_prompts: usize,
    /// Tokens of the reference.
    pub n_tokens: usize,
    /// Prompts that were cut to what the models can hold.
    pub n_cut: usize,
    /// Prompts whose rendered text or tokens are not the same.
    pub differences: Vec<TextDifference>,
}

/// A prompt that the two sides read otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextDifference {
    /// The prompt.
    pub prompt: String,
    /// `rendered text` or `tokens`.
    pub what: &'static str,
    /// The first byte, or the first token, that differs.
    pub at: usize,
}

/// The tokens of every prompt for both sides: those of the reference are what the other stages run on.
pub(super) fn compare(
    corpus: &Corpus,
    (reference, candidate): (&Side<'_>, &Side<'_>),
    most_tokens: usize,
    problems: &mut Vec<Problem>,
) -> (TextMeasures, Vec<Prompt>) {
    let mut measures = TextMeasures::default();
    let mut prompts = Vec::new();
    for prompt in &corpus.prompts {
        match read_both(prompt, (reference, candidate), most_tokens) {
            Ok((ours, theirs)) => {
                measures.differences.extend(difference(&prompt.name, &ours, &theirs));
                match fitted(ours.tokens, corpus.may_be_cut, most_tokens) {
                    Ok((tokens, _)) if tokens.is_empty() => {}
                    Ok((tokens, was_cut)) => {
                        measures.n_prompts += 1;
                        measures.n_cut += usize::from(was_cut);
                        measures.n_tokens += tokens.len();
                        prompts.push(Prompt { name: prompt.name.clone(), kind: prompt.kind, tokens });
                    }
                    Err(error) => problems.push(Problem::of_prompt(&prompt.name, &error)),
                }
            }
            Err(error) => problems.push(Problem::of_prompt(&prompt.name, &error)),
        }
    }
    (measures, prompts)
}

/// A prompt as one side reads it.
struct Read {
    rendered: Option<String>,
    tokens: Vec<TokenId>,
}

fn read_both(prompt: &CorpusPrompt, (reference, candidate): (&Side<'_>, &Side<'_>), most_tokens: usize) -> Result<(Read, Read)> {
    Ok((read(&prompt.content, reference, most_tokens)?, read(&prompt.content, candidate, most_tokens)?))
}

fn read(content: &Content, side: &Side<'_>, most_tokens: usize) -> Result<Read> {
    let plain = |text: &str| Ok(Read { rendered: None, tokens: side.tokenizer.encode_with_template(text)? });
    match (content, side.template) {
        (Content::Text(text), _) => plain(text),
        (Content::Messages(messages), Some(template)) => {
            let messages: Vec<ChatMessage> =
                messages.iter().map(|message| ChatMessage::new(&message.role, &message.content)).collect();
            let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
            let rendered = template.render(&messages, &options)?;
            Ok(Read { rendered: Some(rendered.text()), tokens: rendered.encode(side.tokenizer)? })
        }
        (Content::Messages(messages), None) => {
            plain(&messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n"))
        }
        (Content::Unit(unit), _) => plain(&repeated(unit, most_tokens)),
        (Content::Tokens(pattern), _) => {
            let special: Vec<TokenId> = side.tokenizer.special_tokens().iter().map(|&(_, id)| id).collect();
            let n_tokens = side.tokenizer.n_tokens().min(side.model.info().vocab_size);
            Ok(Read { rendered: None, tokens: pattern.tokens(n_tokens, &special) })
        }
    }
}

/// `unit` as often as makes more than `n_tokens`: no token of a published vocabulary has more than a few dozen bytes, and few have more
/// than eight.
fn repeated(unit: &str, n_tokens: usize) -> String {
    let mut text = String::new();
    let mut n = 0;
    while text.len() < 8 * n_tokens {
        n += 1;
        text += &unit.replace("{n}", &n.to_string());
    }
    text
}

fn difference(prompt: &str, ours: &Read, theirs: &Read) -> Option<TextDifference> {
    let of = |what, at| Some(TextDifference { prompt: prompt.into(), what, at });
    if let (Some(ours), Some(theirs)) = (&ours.rendered, &theirs.rendered)
        && let Some(at) = first_difference(ours.as_bytes(), theirs.as_bytes())
    {
        return of("rendered text", at);
    }
    first_difference(&ours.tokens, &theirs.tokens).and_then(|at| of("tokens", at))
}

/// The first place where two sequences differ, or where the shorter ends.
fn first_difference<T: PartialEq>(ours: &[T], theirs: &[T]) -> Option<usize> {
    let common = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
    (common < ours.len().max(theirs.len())).then_some(common)
}

/// Tokens that the models can hold, and whether some were cut off.
fn fitted(mut tokens: Vec<TokenId>, may_be_cut: bool, most_tokens: usize) -> Result<(Vec<TokenId>, bool)> {
    let is_too_long = tokens.len() > most_tokens;
    if is_too_long && !may_be_cut {
        return Err(Error::ContextFull { held: 0, asked: tokens.len(), max: most_tokens });
    }
    tokens.truncate(most_tokens);
    Ok((tokens, is_too_long))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comparison_finds_the_first_difference() {
        assert_eq!(first_difference(b"same", b"same"), None);
        assert_eq!(first_difference(b"same", b"sane"), Some(2));
        assert_eq!(first_difference(&[1, 2], &[1, 2, 3]), Some(2));
        assert_eq!(first_difference::<u8>(&[], &[]), None);
    }

    #[test]
    fn prompts_from_files_are_never_truncated() {
        assert_eq!(fitted(vec![1, 2, 3], true, 2).unwrap(), (vec![1, 2], true));
        assert_eq!(fitted(vec![1, 2], false, 2).unwrap(), (vec![1, 2], false));
        let error = fitted(vec![0; 100_000], false, 1024).unwrap_err();
        assert!(matches!(error, Error::ContextFull { asked: 100_000, max: 1024, .. }), "{error}");
    }

    #[test]
    fn repeat_patterns_reach_the_requested_length() {
        let text = repeated("step {n} of {n}. ", 10);
        assert!(text.starts_with("step 1 of 1. step 2 of 2. ") && text.len() >= 80);
    }
}
