//! Templates that grow what they have, or look at it too often: an error within 64 MB and a second.

use std::process::Command;
use std::time::{Duration, Instant};

use tandem_core::template::{ChatMessage, ChatTemplate, RenderOptions, TemplateTokens};

/// What tells the child process that it is one.
const CHILD: &str = "TANDEM_TEST_HOSTILE_TEMPLATES";

/// The memory that a hostile template may take, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// The time of the processor that it may take.
const MAX_TIME: Duration = Duration::from_secs(1);

const MAKES: &str = "it makes more than 40 MiB of text and lists";
const LOOKS: &str = "it looks at more than 2000000 values";

const NESTED: &str = "its values are nested more than 10000 deep";

/// A value that becomes what `step` makes of `n.x` so many times, and what is done with it at the end.
fn grown(first: &str, n: usize, step: &str, end: &str) -> String {
    format!("{{% set n = namespace(x={first}) %}}{{% for i in range({n}) %}}{{% set n.x = {step} %}}{{% endfor %}}{end}")
}

/// A template, and a part of its error.
type Hostile = (String, &'static str);

fn hostile() -> Vec<Hostile> {
    [grown_step_by_step(), made_at_once(), written(), looked_at(), nested()].concat()
}

fn grown_step_by_step() -> Vec<Hostile> {
    vec![
        ("{% set n=namespace(s='x'*99999) %}{% for i in range(30) %}{% set n.s=n.s~n.s %}{% endfor %}".into(), MAKES),
        (grown("'x'", 40, "n.x + n.x", ""), MAKES),
        (grown("'x'", 40, "n.x * 2", ""), MAKES),
        (grown("[1]", 40, "n.x + n.x", "{{ n.x | length }}"), MAKES),
        (grown("[1]", 40, "n.x * 2", "{{ n.x | length }}"), MAKES),
        (grown("(1,)", 40, "n.x * 2", "{{ n.x | length }}"), MAKES),
        (grown("'x'*99", 60, "[n.x, n.x] | join", ""), MAKES),
        (grown("'x'*99", 60, "n.x.join(['', '', ''])", ""), MAKES),
        (grown("'xx'", 60, "n.x | replace('x', 'xx')", ""), MAKES),
        (grown("'xx'", 60, "n.x.replace('', 'x')", ""), MAKES),
        (grown("'%s%s'", 60, "'%s%s' % (n.x, n.x)", ""), MAKES),
        (grown("'x'", 60, "'{0}{0}'.format(n.x)", ""), MAKES),
        (grown("'x'", 60, "[n.x] | map('replace', 'x', 'xx') | first", ""), MAKES),
    ]
}

fn made_at_once() -> Vec<Hostile> {
    vec![
        ("{{ ('x'*999999) | replace('x', 'y'*999999) }}".into(), MAKES),
        ("{{ (['x'*999999]*99999) | join }}".into(), LOOKS),
        ("{{ range(99999) | join('x'*99999) }}".into(), MAKES),
        ("{{ '%999999999d' % 1 }}".into(), MAKES),
        ("{{ '%*d' % (999999999, 1) }}".into(), MAKES),
        ("{{ '%.999999999f' % 1.5 }}".into(), MAKES),
        ("{{ '{:999999999}'.format(1) }}".into(), MAKES),
        ("{{ '{:>{}}'.format('x', 999999999) }}".into(), MAKES),
        ("{{ ('\n'*99999) | indent(99999) }}".into(), MAKES),
        ("{{ ('\n'*99999) | indent(width='x'*99999) }}".into(), MAKES),
        ("{{ [1] | batch(999999999, 0) }}".into(), MAKES),
        ("{{ [1] | slice(999999999) }}".into(), MAKES),
        ("{{ ('x'*9999999).split('') }}".into(), MAKES),
        ("{{ ('x'*9999999) | list }}".into(), MAKES),
        ("{{ (['x'*9999]*9999) | map('upper') | list }}".into(), MAKES),
        ("{{ ([[1]]*9999) | sum(start=[]) }}".into(), MAKES),
        ("{{ 'a' * 1000000000 }}".into(), MAKES),
        (format!("{{{{ {} 1 }}}}", "'x' * 99999999 ~ ".repeat(40)), MAKES),
    ]
}

/// Into the prompt, and into variables.
fn written() -> Vec<Hostile> {
    let captured = |body: &str| format!("{{% set x %}}{{% for i in range(99999) %}}{body}{{% endfor %}}{{% endset %}}");
    let long = "x".repeat(50_000);
    vec![
        ("{% for i in range(99999) %}{{ 'aaaaaaaaaa' * 100 }}{% endfor %}".into(), MAKES),
        (captured("{{ 'aaaaaaaaaa' * 100 }}"), MAKES),
        (captured(&long), MAKES),
        (format!("{{% filter upper %}}{{% for i in range(99999) %}}{long}{{% endfor %}}{{% endfilter %}}"), MAKES),
        (format!("{{% macro f() %}}{{% for i in range(99999) %}}{long}{{% endfor %}}{{% endmacro %}}{{{{ f() }}}}"), MAKES),
        ("{% macro f(s, n) %}{% if n %}{{ f(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ f('x'*999, 60) }}".into(), MAKES),
        ("{% macro f(s) %}{{ s }}{{ s }}{% endmacro %}".to_owned() + &grown("'x'", 60, "f(n.x)", ""), MAKES),
        (grown("''", 99_999, "n.x ~ 'xxxxxxxxxx'", ""), MAKES),
        (grown("[]", 99_999, "n.x + [1]", ""), MAKES),
        ("{{ strftime_now('%c' * 99999) }}".into(), "the format of the date is too long"),
        ("{{ [[[1]]] | tojson(indent='x'*99999) }}".into(), "the indentation or a separator is too long"),
        ("{{ ([[[1, 2]]]*9999) | tojson(indent=64) | length }}".into(), ""),
        (grown("[]", 999, "n.x + [([[[1, 2]]]*9999) | tojson(indent=64)]", ""), MAKES),
    ]
}

fn looked_at() -> Vec<Hostile> {
    let tree = |end: &str| grown("[1]", 40, "[n.x, n.x]", end);
    let twice = grown("[1]", 40, "[n.x, n.x]", "{% set n.y = n.x %}{% set n.x = [1] %}")
        + "{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x == n.y }}";
    let mut all = vec![
        (twice, LOOKS),
        ("{{ range(99999) | select('in', range(99999) | list) | list | length }}".into(), LOOKS),
        ("{% for i in range(99999) %}{% if i in range(99999) %}{% endif %}{% endfor %}".into(), LOOKS),
        ("{% set b = 'x'*9999999 %}{% for i in range(99999) %}{% set y = b[-1] %}{% endfor %}".into(), LOOKS),
        ("{% set b = 'x'*9999999 %}{% for i in range(99999) %}{% set y = 'y' in b %}{% endfor %}".into(), LOOKS),
        ("{% set b = 'x'*9999999 %}{% for i in range(99999) %}{% set y = b | length %}{% endfor %}".into(), LOOKS),
        ("{% set b = 'x'*9999999 %}{% for i in range(99999) %}{% set y = b.find('y') %}{% endfor %}".into(), LOOKS),
        ("{% set b = 'x'*9999999 %}{% for i in range(99999) %}{% for c in b %}{% break %}{% endfor %}{% endfor %}".into(), LOOKS),
    ];
    for end in ["{{ n.x }}", "{{ n.x ~ '' }}", "{{ n.x | string }}", "{{ n.x | tojson }}", "{{ {n.x: 1} }}", "{{ n.x | unique }}"]
    {
        all.push((tree(end), LOOKS));
    }
    for end in
        ["{{ n.x | sort }}", "{{ n.x | join }}", "{{ raise_exception(n.x) }}", "{{ {}.get(n.x) }}", "{{ [n.x] is eq([1]) }}"]
    {
        all.push((tree(end), LOOKS));
    }
    all
}

fn nested() -> Vec<Hostile> {
    vec![
        (grown("1", 1, "[n]", "{{ n.x }}"), NESTED),
        (grown("1", 1, "[n]", "{{ n.x == [n] }}"), NESTED),
        (grown("1", 1, "[n]", "{{ n.x | tojson }}"), NESTED),
        (format!("{{{{ a{} }}}}", " ~ a".repeat(20_000)), "maximum recursion"),
        (format!("{{{{ a{} }}}}", "|e".repeat(50_000)), "maximum recursion"),
        (format!("{{{{ a{} }}}}", ".a".repeat(50_000)), "maximum recursion"),
        (format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(9_000)), "maximum recursion"),
    ]
}

fn report(error: &tandem_core::Error) -> String {
    let all = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

/// The memory that this process has (`VmRSS`), or the most that it had (`VmHWM`), in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The time of the processor that this process has had, which other programs do not lengthen.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// In a process of its own, whose memory is these templates' alone and limited.
#[cfg(target_os = "linux")]
#[test]
fn hostile_templates_are_bounded_in_memory_and_time() {
    if std::env::var_os(CHILD).is_some() {
        return each_is_bounded();
    }
    let this = std::env::current_exe().unwrap();
    let name = "template_bounds::hostile_templates_are_bounded_in_memory_and_time";
    let script = "ulimit -v 2000000; exec \"$0\" \"$@\"";
    let child = Command::new("sh").args(["-c", script]).arg(this).args([name, "--exact", "--nocapture"]).env(CHILD, "1").output();
    let output = child.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[cfg(target_os = "linux")]
fn each_is_bounded() {
    let messages = [ChatMessage::user("hi")];
    let mut wrong = Vec::new();
    for (source, expected) in hostile() {
        // The peak begins anew.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let (before, started) = (memory("VmRSS"), processor_time());
        let shown = &source[..source.len().min(120)];
        // The last one is known when the process dies.
        eprintln!("{shown}");
        let rendered = ChatTemplate::new(&source, TemplateTokens::default(), "t")
            .and_then(|template| template.render(&messages, &RenderOptions::default()));
        let (took, grew) = (processor_time() - started, memory("VmHWM").saturating_sub(before));
        let said = rendered.map_or_else(|error| report(&error), |_| "it was rendered".into());
        let is_bounded = took < MAX_TIME && grew < MAX_BYTES;
        let is_as_expected = said.contains(expected) && (expected.is_empty() || said != "it was rendered");
        if !is_bounded || !is_as_expected {
            wrong.push(format!("{shown}\n    {said}\n    {took:?}, {} MB", grew >> 20));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What looks like the start of something is not searched for its end again and again.
#[test]
fn compiling_takes_time_in_proportion() {
    let full = |part: &str| part.repeat((127 << 10) / part.len());
    let longest = [
        "{{ ".to_owned() + &full("''%("),
        full("{%") + " generation %}",
        full("{{"),
        "{{ ".to_owned() + &full("'' % a "),
        "{{ a".to_owned() + &full("|e"),
    ]
    .iter()
    .map(|source| {
        let started = Instant::now();
        assert!(ChatTemplate::new(source, TemplateTokens::default(), "t").is_err());
        (started.elapsed(), source[..20].to_owned())
    })
    .max()
    .unwrap();
    assert!(longest.0 < Duration::from_secs(1), "{longest:?}");
}

/// What counts is in proportion to what the template is given: a long conversation is not hostile.
#[test]
fn long_conversations_are_rendered() {
    let source = "{% for m in messages %}{% set text = '<|im_start|>' + m.role ~ '\n' ~ m.content | trim %}{% if m.role in ['user', 'assistant'] \
        and not text.startswith('x') %}{{ text.split('</think>')[-1].lstrip('\n') + '<|im_end|>' }}{% endif %}{% endfor %}";
    let messages: Vec<ChatMessage> = (0..2000).map(|i| ChatMessage::user(format!("{i} {}", "word ".repeat(2000)))).collect();
    let template = ChatTemplate::new(source, TemplateTokens::default(), "t").unwrap();
    let prompt = template.render(&messages, &RenderOptions::default()).unwrap();
    assert!(prompt.text().len() > 20_000_000);
}
