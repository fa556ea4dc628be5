//! `tandem chat`, one message a line.

use crate::support::{Outcome, Place, place_with_engine};

fn chat(place: &Place, more: &[&str], input: &str) -> Outcome {
    place.tandem_with_input(&[&["chat", "model", "--max-tokens", "6"], more].concat(), input)
}

/// The numbers in the line of `/stats` that begins with `start`.
fn numbers(stdout: &str, start: &str, nth: usize) -> Vec<usize> {
    let line = stdout.lines().filter(|line| line.starts_with(start)).nth(nth).unwrap_or_else(|| panic!("{stdout}"));
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[test]
fn a_turn_computes_only_what_is_new() {
    let Some(place) = place_with_engine() else { return };
    let outcome = chat(&place, &[], "The fox and the river\n/stats\nThe rain\n/stats\n");
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let (first, second) = (numbers(&outcome.stdout, "last prompt", 0), numbers(&outcome.stdout, "last prompt", 1));
    assert_eq!((first[1], first[0]), (0, first[2]), "{}", outcome.stdout);
    assert!(second[1] >= first[0] && second[2] < second[0], "{}", outcome.stdout);
    assert_eq!(second[1] + second[2], second[0], "{}", outcome.stdout);
    assert_eq!(numbers(&outcome.stdout, "context", 0)[1], 256);
}

#[test]
fn a_conversation_that_was_saved_goes_on() {
    let Some(place) = place_with_engine() else { return };
    let outcome = chat(&place, &["--system", "Be brief."], "The fox\n/save talk.json\nThe rain\n/stats\n");
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let saved: serde_json::Value = serde_json::from_str(&place.read("talk.json")).unwrap();
    let roles: Vec<_> = saved["messages"].as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);

    let resumed = chat(&place, &["--load", "talk.json"], "The rain\n/stats\n");
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    let (resumed, before) = (numbers(&resumed.stdout, "last prompt", 0), numbers(&outcome.stdout, "last prompt", 0));
    assert_eq!((&resumed[..3], &before[..3]), (&before[..3], &before[..3]), "what was reused before is reused after");
    assert!(resumed[1] > 0);

    // Without usable keys and values it is computed anew, and said.
    place.write("talk.json.kv", "something else");
    let anew = chat(&place, &["--load", "talk.json"], "The rain\n/stats\n");
    assert_eq!(anew.code, Some(0), "{}", anew.stderr);
    assert!(anew.stderr.contains("is computed anew: `talk.json.kv`: is not a sequence"), "{}", anew.stderr);
    assert_eq!(numbers(&anew.stdout, "last prompt", 0)[..3], [before[0], 0, before[0]]);
}

#[test]
fn saving_replaces_nothing_unasked() {
    let Some(place) = place_with_engine() else { return };
    place.write("talk.json", "mine");
    let outcome = chat(&place, &[], "/save talk.json\n");
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("`talk.json` is there already") && outcome.stderr.contains("/save! talk.json"),
        "{}",
        outcome.stderr
    );
    assert_eq!(place.read("talk.json"), "mine");
    assert_eq!(chat(&place, &[], "/save! talk.json\n").code, Some(0));
    assert!(place.read("talk.json").contains("messages"));
    assert_eq!(chat(&place, &[], "/save no/such/directory.json\n").code, Some(1));
}

#[test]
fn a_broken_file_loses_nothing() {
    let Some(place) = place_with_engine() else { return };
    place.write("broken.json", "{\"messages\": [{\"role\": ");
    let outcome = chat(&place, &[], "The fox\n/load broken.json\n/load nosuch.json\n/save kept.json\n");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("`broken.json`: is not a conversation"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`nosuch.json`"), "{}", outcome.stderr);
    assert!(place.read("kept.json").contains("The fox"));
}

#[test]
fn options_can_be_set_and_listed() {
    let Some(place) = place_with_engine() else { return };
    let input = "/set temperature 0.5\n/set seed 3\n/set top-k 9\n/set\n/set temperature default\n/set\n";
    let outcome = chat(&place, &[], input);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let temperatures: Vec<&str> = outcome.stdout.lines().filter(|line| line.starts_with("temperature")).collect();
    assert!(temperatures[0].ends_with(" 0.5") && temperatures[1].ends_with("(default)"), "{temperatures:?}");
    assert!(outcome.stdout.lines().any(|line| line.starts_with("top_k") && line.ends_with(" 9")), "{}", outcome.stdout);

    let wrong = chat(&place, &[], "/set temperature hot\n/set temperature -1\n/set warmth 1\n/set\n");
    assert_eq!(wrong.code, Some(1));
    for part in
        ["`hot` is not a value for `temperature`", "option `temperature`: `-1` is less than 0", "there is no option `warmth`"]
    {
        assert!(wrong.stderr.contains(part), "`{part}`: {}", wrong.stderr);
    }
    assert!(wrong.stdout.lines().any(|line| line.starts_with("temperature") && line.ends_with("(default)")), "{}", wrong.stdout);
}

#[test]
fn a_full_context_is_said_and_the_chat_goes_on() {
    let Some(place) = place_with_engine() else { return };
    let long = "the fox ".repeat(200);
    let outcome = chat(&place, &[], &format!("The fox\n{long}\nThe fox\n/stats\n"));
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("error: the context is full") && outcome.stderr.contains("hint: "), "{}", outcome.stderr);
    let stats = numbers(&outcome.stdout, "last prompt", 0);
    assert!(stats[1] > 0 && stats[2] < stats[0], "{}", outcome.stdout);

    let filled = place.tandem_with_input(&["chat", "model", "--context", "40"], "The fox\n/clear\nThe\n/stats\n");
    assert!(filled.stderr.contains("the context is full: `/clear` begins anew"), "{}", filled.stderr);
    assert_eq!(numbers(&filled.stdout, "context", 0)[1], 40);
}

#[test]
fn messages_can_have_several_lines() {
    let Some(place) = place_with_engine() else { return };
    let input = "one \\\ntwo\n\"\"\"\nthree\n\nfour\n\"\"\"\n//five\n\n/save talk.json\n";
    assert_eq!(chat(&place, &[], input).code, Some(0));
    let saved: serde_json::Value = serde_json::from_str(&place.read("talk.json")).unwrap();
    let said: Vec<_> = saved["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user").collect();
    let said: Vec<_> = said.iter().map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["one \ntwo", "three\n\nfour", "/five"]);
    let open = chat(&place, &[], "\"\"\"\nthree\n");
    assert!(open.stderr.contains("the input ends within a message"), "{}", open.stderr);
}

#[test]
fn the_system_message_can_be_changed() {
    let Some(place) = place_with_engine() else { return };
    let outcome = chat(&place, &[], "/system Be brief.\n/system\n/clear\n/system\n/system off\n/system\n");
    assert_eq!(outcome.stdout, ["Be brief.", "Be brief.", "there is no system message", ""].join("\n"));
}

#[test]
fn commands_are_explained() {
    let Some(place) = place_with_engine() else { return };
    let outcome = chat(&place, &[], "/help\n/hepl\n/quit\n/never\n");
    assert!(outcome.stdout.contains("/save FILE") && outcome.stdout.contains("/stats"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("did you mean `/help`?") && !outcome.stderr.contains("never"), "{}", outcome.stderr);
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn what_a_chat_cannot_be_is_wrong_usage() {
    let place = Place::new();
    place.tandem(&["chat", "model", "--raw"]).fails(2, &["`chat` has no `--raw`"]);
    let outcome = place.tandem(&["chat", "model", "--json"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("hint: `tandem run --json`"), "{}", outcome.stderr);
    let Some(place) = place_with_engine() else { return };
    place.edit_json("model/tokenizer_config.json", |config| {
        config.as_object_mut().unwrap().remove("chat_template");
    });
    place.tandem(&["chat", "model"]).fails(1, &["chat template of `model`", "hint: ", "--raw"]);
}
