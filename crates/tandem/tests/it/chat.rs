//! Conversations: the template, what a second turn computes, and a context that is full.

use tandem::{Chat, ChatMessage, Error, Event, FinishReason, SessionOptions, TextModel};

use crate::support::{engines, golden, resolver};

fn demo(each: impl Fn(&TextModel)) {
    engines().iter().for_each(|settings| each(&resolver().load(&"demo".into(), settings).unwrap()));
}

/// The answer to `text`, of 12 tokens at most, and how many tokens of the prompt were computed for it.
fn answer(chat: &mut Chat, text: &str) -> (String, usize, usize) {
    chat.options.max_new_tokens = Some(12);
    let mut reply = chat.say(text).unwrap();
    let mut said = String::new();
    for event in &mut reply {
        if let Event::Token { text, .. } | Event::Finished { text, .. } = event.unwrap() {
            said += &text;
        }
    }
    assert!(reply.reason().is_some());
    (said, reply.n_prompt(), reply.timings().n_prefilled)
}

#[test]
fn prompts_follow_the_models_template() {
    demo(|model| {
        let tokens = model.chat_prompt(&[ChatMessage::user("Hello there.")]).unwrap();
        let text = model.tokenizer().decode(&tokens, false).unwrap();
        assert!(text.contains("Hello there."), "{text}");
        assert!(tokens.len() > model.raw_prompt("Hello there.").unwrap().len(), "the template adds tokens of its own");
    });
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    demo(|model| {
        let mut chat = model.chat().unwrap();
        let (first, n_first, prefilled) = answer(&mut chat, "Tell me a story about a fox.");
        assert_eq!(prefilled, n_first);
        assert!(!first.is_empty());
        let (_, n_second, prefilled) = answer(&mut chat, "And then?");
        assert!(n_second > n_first && prefilled < n_second - n_first / 2, "{prefilled} of {n_second} after {n_first}");
        assert_eq!(chat.messages().len(), 4);
        assert_eq!(chat.messages()[1], ChatMessage::assistant(first));

        // The same words again, from the start of the cache.
        let mut fresh = model.chat().unwrap();
        fresh.set_messages(chat.messages()[..2].to_vec());
        assert_eq!(answer(&mut fresh, "And then?").0, chat.messages()[3].content);
    });
}

#[test]
fn a_full_context_leaves_the_conversation_as_it_was() {
    demo(|model| {
        let options = SessionOptions::default().with_context_length(48);
        let mut chat = Chat::with_session(model, &options).unwrap();
        answer(&mut chat, "Hello.");
        let before = chat.messages().to_vec();
        let Err(error) = chat.say(&"a long story ".repeat(40)) else { panic!("it cannot fit") };
        assert!(matches!(error, Error::ContextFull { max: 48, .. }), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(chat.messages(), before);
        assert_eq!(chat.context_length(), 48);
    });
}

#[test]
fn a_cancelled_answer_is_not_kept_when_nothing_was_said() {
    demo(|model| {
        let mut chat = model.chat().unwrap();
        chat.cancel_token().cancel();
        let events: Vec<Event> = chat.say("Hello.").unwrap().collect::<Result<_, _>>().unwrap();
        assert!(matches!(events.as_slice(), [Event::Finished { reason: FinishReason::Cancelled, .. }]), "{events:?}");
        assert!(chat.messages().is_empty());
    });
}

#[test]
fn a_model_without_a_template_says_so() {
    for settings in engines() {
        let dir = tempfile::tempdir().unwrap();
        crate::support::copy_checkpoint(dir.path());
        let config = std::fs::read_to_string(golden("qwen2-tied").join("tokenizer_config.json")).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), config.replace("\"chat_template\"", "\"other\"")).unwrap();
        let model = resolver().load(&dir.path().into(), &settings).unwrap();
        assert!(model.template().is_none());
        let Err(error) = model.chat().unwrap().say("Hello.") else { panic!("there is no template") };
        assert!(matches!(error, Error::Template { .. }), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}
