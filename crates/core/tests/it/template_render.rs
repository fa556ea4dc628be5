//! Templates: the semantics of Jinja2 as transformers sets it up, the files they come from, and hostile ones.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tandem_core::template::{ChatMessage, ChatTemplate, RenderOptions, TemplateTokens, TokenizerConfig};
use tandem_core::{Error, Remedy};

fn render_with(source: &str, options: &RenderOptions) -> Result<String, Error> {
    let messages = [ChatMessage::system(" be brief "), ChatMessage::user("hi"), ChatMessage::assistant("a<b>'&\"é")];
    let mut tokens = TemplateTokens::default();
    tokens.named.insert("bos_token".into(), "<s>".into());
    tokens.named.insert("eos_token".into(), "</s>".into());
    ChatTemplate::new(source, tokens, "chat_template.jinja")?.render(&messages, options).map(|prompt| prompt.text())
}

fn render(source: &str) -> Result<String, Error> {
    render_with(source, &RenderOptions::default())
}

/// The error and all its causes, in one line.
fn report(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(" | ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Each expected text was given by Jinja2 3.1 in transformers' environment.
const AS_JINJA2: &[(&str, &str)] = &[
    (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] | trim }}{{ eos_token }}{% endfor %}",
        "<s>[system]be brief</s>[user]hi</s>[assistant]a<b>'&\"é</s>",
    ),
    ("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"),
    ("{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}", "aus"),
    ("{% for m in messages[1:] %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{% endfor %}", "1TrueFalse2FalseTrue"),
    ("{% for i in range(messages|length - 1, -1, -1) %}{{ i }}{% endfor %}", "210"),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
    ("{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}", "system"),
    (
        "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role if not loop.last }};{% endfor %}",
        ">user;system>assistant;user>;",
    ),
    ("{% macro f(x, y='d') %}({{ x }}{{ y }}){% endmacro %}{{ f(1) }}{{ f(2, y='e') }}", "(1d)(2e)"),
    ("{{ missing }}{{ missing is defined }}{{ missing | default('d') }}{{ none is none }}", "FalsedTrue"),
    (
        "{{ messages is string }}{{ messages is iterable }}{{ messages[0] is mapping }}{{ true is boolean }}{{ 'x' is string }}",
        "FalseTrueTrueTrueTrue",
    ),
    (
        "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ enable_thinking is defined }}",
        "TrueTrueFalseFalse",
    ),
    ("{{ messages[2] | tojson }}", "{\"role\": \"assistant\", \"content\": \"a<b>'&\\\"é\"}"),
    ("{{ messages[2].content | tojson(ensure_ascii=True) }}", "\"a<b>'&\\\"\\u00e9\""),
    (
        "{{ {'b': [1, 2.5, none], 'a': {}} | tojson(indent=2, sort_keys=true) }}",
        "{\n  \"a\": {},\n  \"b\": [\n    1,\n    2.5,\n    null\n  ]\n}",
    ),
    ("{{ {'b': [1, true]} | tojson(separators=(',', ':')) }}", "{\"b\":[1,true]}"),
    ("{{ [1e16, 1e-5, 1.0, 0.0001, 123456789.25, 1.5e300] | tojson }}", "[1e+16, 1e-05, 1.0, 0.0001, 123456789.25, 1.5e+300]"),
    (
        "{{ 'a b  c'.split() }}{{ 'a,b'.split(',')[-1] }}{{ 'x</think>y'.split('</think>')[-1].lstrip('\\n') }}",
        "['a', 'b', 'c']by",
    ),
    (
        "{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}{{ 'a-b-c'.rsplit('-', 1) }}{{ 'a=b'.partition('=') }}",
        "bcab['a-b', 'c']('a', '=', 'b')",
    ),
    ("{{ 'Abc'.startswith('A') }}{{ 'abc'.upper() }}{{ 'a'.join(['x', 'y']) }}{{ 'abc'.replace('b', '') }}", "TrueABCxayac"),
    ("{% for k, v in {'x': 1, 'y': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'x': 1}.get('z', 'd') }}", "x1y2d"),
    ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(',') }}", "hi"),
    ("{% generation %}x{% endgeneration %}\n{%- generation -%} y {%- endgeneration -%} z", "xyz"),
    ("{% if messages[0].role == 'system' -%}\n  s\n{%- endif %}", "s"),
    ("{{ '%s-%d' | format('a', 3) }}{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 3 }}{{ -7 % 3 }}", "a-333.582"),
    ("{{ ['a', 1, none, true, 1.0] }}{{ {'a': 'b'} }}{{ ('x',) }}", "['a', 1, None, True, 1.0]{'a': 'b'}('x',)"),
    ("{% set x %}block{% endset %}{{ x ~ 1 ~ none }}", "block1None"),
    ("{% block b %}{% set y = 'in' %}{{ y }}{% endblock %}{{ y }}", "in"),
    ("{{ '%s: %s' % ('a', [1]) }}{{ '%5.1f|' % 2.25 }}{{ 7 % -3 }}{{ -7.5 % 2 }}", "a: [1]  2.2|-20.5"),
    (
        "{{ [1, 2] + [3] }}{{ (1,) + (2,) }}{{ 'ab' * 2 }}{{ 2 * [1] }}{{ 1.5 * 2 }}{{ true + 1 }}",
        "[1, 2, 3](1, 2)abab[1, 1]3.02",
    ),
    ("{{ 'abcdef'[1:-1:2] }}{{ 'abc'[::-1] }}{{ [1, 2, 3][-2:] }}{{ (1, 2, 3)[:1] }}{{ 'abc'[5:] }}", "bdcba[2, 3](1,)"),
    ("{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 'a' in 'abc' }}{{ 4 not in [1, 2] }}{{ 'role' in messages[0] }}", "TrueFalseTrueTrueTrue"),
    ("{% set x | upper | trim %} a {% endset %}{{ x }}{% filter replace('a', 'b') %}a{% endfilter %}", "Ab"),
    ("{% macro f() %}[{{ caller('x') }}]{% endmacro %}{% call(y) f() %}{{ y }}{% endcall %}", "[x]"),
    ("{{ [1, 2] | map('string') | join('-') }}{{ dict(a=1)['a'] }}", "1-21"),
    ("{# a comment #}{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
];

#[test]
fn renders_as_jinja2_does() {
    for &(source, expected) in AS_JINJA2 {
        match render(source) {
            Ok(text) => assert_eq!(text, expected, "{source}"),
            Err(e) => panic!("{source}: {}", report(&e)),
        }
    }
}

#[test]
fn options_reach_the_template() {
    let mut extra = Map::new();
    extra.insert("custom".into(), json!({"a": 1}));
    let options = RenderOptions {
        add_generation_prompt: true,
        enable_thinking: Some(false),
        tools: vec![json!({"name": "f"})],
        documents: vec![json!({"title": "t"})],
        extra,
        now: Some(86_400 * 59),
    };
    let source = "{{ add_generation_prompt }}{{ enable_thinking }}{{ tools[0].name }}{{ documents[0].title }}{{ custom.a }}{{ strftime_now('%d %B %Y') }}";
    assert_eq!(render_with(source, &options).unwrap(), "TrueFalseft101 March 1970");
    assert_eq!(render("{{ strftime_now('%Y') | length }}").unwrap(), "4");
}

#[test]
fn messages_keep_further_fields() {
    let mut message = ChatMessage::assistant("");
    message.extra.insert("tool_calls".into(), json!([{"function": {"name": "f", "arguments": {"x": 1}}}]));
    let template =
        ChatTemplate::new("{{ messages[0].tool_calls[0].function | tojson }}", TemplateTokens::default(), "t").unwrap();
    let text = template.render(std::slice::from_ref(&message), &RenderOptions::default()).unwrap().text();
    assert_eq!(text, r#"{"name": "f", "arguments": {"x": 1}}"#);
    let json = serde_json::to_value(&message).unwrap();
    assert_eq!(json["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(serde_json::from_value::<ChatMessage>(json).unwrap(), message);
}

#[test]
fn errors_name_the_file_and_the_cause() {
    for (source, expected) in [
        ("{{ raise_exception('roles must alternate') }}", "chat template of `chat_template.jinja`: roles must alternate"),
        ("a\n{{ missing.attribute }}", "cannot be rendered: line 2 | undefined value"),
        ("{{ messages[0].missing.attribute }}", "cannot be rendered: line 1 | undefined value"),
        ("a\nb {% if %}", "is not a valid template: line 2 | syntax error"),
        ("{% include 'other' %}", "is not a valid template | template not found"),
        ("{% for %}", "is not a valid template: line 1"),
        ("{{ messages.append(1) }}", "cannot be rendered: line 1"),
        ("{{ strftime_now('%!') }}", "cannot show the date"),
        ("{{ missing | tojson }}", "is not JSON serializable"),
    ] {
        let report = report(&render(source).unwrap_err());
        assert!(report.contains(expected), "{source}: {report}");
    }
}

#[test]
fn hostile_templates_exceed_a_bound() {
    let nested_if = format!("{}{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000));
    let nested_list = format!("{{{{ {}{} }}}}", "[".repeat(50_000), "]".repeat(50_000));
    for (source, expected) in [
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "did not end within"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit"),
        ("{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(1) }}", "recursion limit"),
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "recursion limit"),
        ("{{ range(1000000000) }}", "too many elements"),
        (nested_if.as_str(), "maximum recursion"),
        (nested_list.as_str(), "maximum recursion"),
    ] {
        let report = report(&render(source).unwrap_err());
        assert!(report.contains(expected), "{}: {report}", &source[..source.len().min(80)]);
    }
    assert!(report(&render(&" ".repeat((1 << 20) + 1)).unwrap_err()).contains("bytes are more than"));
}

/// Lists within lists are freed, printed and compared by recursion.
#[test]
fn deeply_nested_values_do_not_overflow_the_stack() {
    let nest = |n: usize| {
        let (open, close) = ("[".repeat(60), "]".repeat(60));
        format!("{{% set ns = namespace(x=[]) %}}{{% for i in range({n}) %}}{{% set ns.x = {open}ns.x{close} %}}{{% endfor %}}")
    };
    assert!(report(&render(&nest(99_999)).unwrap_err()).contains("it makes more than"));
    assert_eq!(render(&nest(8000)).unwrap(), "");
    for end in ["{{ ns.x }}", "{{ ns.x == [ns.x] }}", "{{ {ns.x: 1} }}", "{{ [ns.x, ns.x] | unique }}", "{{ ns.x | tojson }}"] {
        assert!(
            report(&render(&format!("{}{end}", nest(8000))).unwrap_err()).contains("are nested more than 10000 deep"),
            "{end}"
        );
        let shallower = render(&format!("{}{end}", nest(160)));
        assert_eq!(shallower.is_err(), end.contains("tojson"), "{end}: {shallower:?}");
    }
    assert!(report(&render(&format!("{}{{{{ ns.x.missing.missing }}}}", nest(8000))).unwrap_err()).contains("undefined value"));
}

#[test]
fn tokenizer_config_is_read() {
    let bytes =
        br#"{"bos_token": null, "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": "<pad>", "unk_token": null,
        "add_bos_token": true, "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    let config = TokenizerConfig::parse(bytes, "tokenizer_config.json").unwrap();
    assert_eq!((config.eos_token(), config.add_bos_token, config.chat_template()), (Some("</s>"), Some(true), Some("D")));
    assert_eq!(config.tokens.keys().collect::<Vec<_>>(), ["eos_token", "pad_token"]);
    assert_eq!(config.chat_templates[0], ("tool_use".into(), "T".into()));

    let choose = |jinja: Option<&str>, config: Option<&TokenizerConfig>| {
        let jinja = jinja.map(|source| (source.as_bytes(), "chat_template.jinja"));
        let template = ChatTemplate::choose(jinja, config, TemplateTokens::default()).unwrap();
        template.map(|template| template.render(&[], &RenderOptions::default()).unwrap().text())
    };
    assert_eq!(choose(Some("J"), Some(&config)), Some("J".into()));
    assert_eq!(choose(None, Some(&config)), Some("D".into()));
    assert_eq!(choose(None, Some(&TokenizerConfig::parse(b"{}", "c").unwrap())), None);
    assert_eq!(choose(None, None), None);
    let error = ChatTemplate::missing("some/model");
    assert!(error.hint().unwrap().iter().any(|remedy| *remedy == Remedy::SkipTemplate), "{error}");
}

#[test]
fn damaged_tokenizer_configs_name_the_field() {
    for (text, expected) in [
        ("{", "`c.json`: the file is not a JSON object"),
        ("[]", "`c.json`: the file is not a JSON object"),
        (r#"{"eos_token": 3}"#, "`c.json`: field `eos_token`: is neither"),
        (r#"{"eos_token": {"id": 3}}"#, "`c.json`: field `eos_token.content`: is not a string"),
        (r#"{"chat_template": 3}"#, "`c.json`: field `chat_template`: is neither"),
        (r#"{"chat_template": [{"name": "x"}]}"#, "`c.json`: field `chat_template[0]`: has no"),
        (r#"{"add_bos_token": "yes"}"#, "`c.json`: field `add_bos_token`: `\"yes\"` is not"),
    ] {
        let error = TokenizerConfig::parse(text.as_bytes(), "c.json").unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

fn fragment() -> impl Strategy<Value = String> {
    let pieces = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "{%-",
        "-%}",
        " if ",
        " endif ",
        " for ",
        " in ",
        " endfor ",
        "messages",
        "loop",
        ".",
        "x",
        "(",
        ")",
        "[",
        "]",
        "range(9)",
        " set ",
        "=",
        "ns",
        "namespace()",
        "|",
        "tojson",
        "trim",
        "'a'",
        "*",
        "99999",
        "-1",
        ":",
        " macro ",
        " endmacro ",
        "~",
        "generation",
        "endgeneration",
        " is ",
        " not ",
        "raise_exception",
        "strftime_now",
        "\n",
        "é",
        "\"",
        "recursive",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_template_crashes(source in prop_oneof![fragment(), any::<String>()]) {
        let _ = render(&source);
    }

    #[test]
    fn no_expression_crashes(expression in fragment()) {
        let _ = render(&format!("{{{{ {expression} }}}}"));
    }

    #[test]
    fn json_is_what_serde_reads(text in any::<String>(), number in any::<i32>(), integer in any::<i64>()) {
        let value = json!({"text": text, "number": f64::from(number) / 64.0, "integer": integer, "list": [null, true, [], {}]});
        for filter in ["tojson", "tojson(ensure_ascii=True)", "tojson(indent=3)"] {
            let template = ChatTemplate::new(&format!("{{{{ messages[0] | {filter} }}}}"), TemplateTokens::default(), "t").unwrap();
            let rendered = template.render_values(std::slice::from_ref(&value), &RenderOptions::default()).unwrap().text();
            prop_assert_eq!(serde_json::from_str::<Value>(&rendered).unwrap(), value.clone());
        }
    }
}
