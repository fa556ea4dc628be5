"""Chat templates and what transformers renders from them: writes goldens/templates.json.

The templates are our own. They use what the published ones of Qwen, Llama and Mistral use, construct by construct,
because what a template engine gets wrong is white space, a filter or a method, and not the words.

usage: templates.py
"""

import datetime
from pathlib import Path

import jinja2
import transformers
from transformers.utils import chat_template_utils

from checkpoints import write_json

ROOT = Path(__file__).resolve().parents[2] / "goldens"
# What `strftime_now` says in every case.
CLOCK = datetime.datetime(2026, 3, 7, 15, 4, 5)

USER = [{"role": "user", "content": "What is a river?"}]
SYSTEM_USER = [{"role": "system", "content": "Be brief."}, *USER]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there."},
    {"role": "user", "content": "  What is\n\n a river? \n"},
]
THOUGHT = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\n4"},
    {"role": "user", "content": "And 3 + 3?"},
    {"role": "assistant", "content": "<think>\nthree and three\n</think>\n\n6"},
]
UNICODE = [{"role": "user", "content": "你好, <b>\"q\"</b> & 'r' 👨\u200d👩\u200d👧 e\u0301 \u2028 \\n"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "river_length",
            "description": "Length of a river, in km. <é>",
            "parameters": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "its name"},
                    "unit": {"type": "string", "enum": ["km", "mi"], "default": None},
                    "precise": {"type": "boolean", "default": True},
                    "margin": {"type": "number", "default": 0.5},
                },
                "required": ["name"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
    },
]
TOOL_TURNS = [
    {"role": "user", "content": "How long is the Nile?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "river_length", "arguments": {"name": "Nile", "unit": "km"}}},
            {"type": "function", "function": {"name": "now", "arguments": {}}},
        ],
    },
    {"role": "tool", "content": "6650"},
    {"role": "tool", "content": "noon"},
    {"role": "assistant", "content": "6650 km."},
    {"role": "user", "content": "Thanks"},
]
PARTS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "what is it?"}],
    }
]

# As Qwen2.5's: a default system message, tools in the system turn, tool calls and grouped tool answers.
CHATML = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a careful helper.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nEach line between <tools> and </tools> is one function:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nTo call one, write <tool_call>{\"name\": ..., \"arguments\": ...}</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are a careful helper.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

# As Qwen3's: which turn asked last, thoughts of older turns dropped, an empty thought when thinking is off.
THINKING = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""

# As Llama 3.2's: bos, a date, a system message taken out of the list, tools with indent 4, one tool call at a time.
HEADERS = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "1 Jan 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message is a turn of its own. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none %}
    {{- "Functions:\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one tool call at a time, found " ~ message.tool_calls|length) }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# As Mistral's: roles must alternate, the system message goes into the last user turn, tools before it.
INSTRUCT = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{#- Roles must alternate. #}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {{- ', "id": "' + "%09d" % loop.index + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("unknown role `" + message["role"] + "`") }}
    {%- endif %}
{%- endfor %}
"""

BOS_EOS = {"bos_token": "<s>", "eos_token": "</s>"}
LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


def case(name, template, messages, prompt=True, special=None, **extra):
    """One case; `extra` is passed to the template as further variables (`tools` among them)."""
    return {
        "name": name,
        "template": template,
        "special_tokens": special or {},
        "messages": messages,
        "add_generation_prompt": prompt,
        "extra": extra,
    }


def family_cases():
    """Whole conversations through the four large templates."""
    return [
        case("chatml default system", CHATML, USER),
        case("chatml own system, no prompt", CHATML, SYSTEM_USER, prompt=False),
        case("chatml turns with odd white space", CHATML, TURNS),
        case("chatml tools", CHATML, USER, tools=TOOLS),
        case("chatml tools and system", CHATML, SYSTEM_USER, tools=TOOLS),
        case("chatml tool calls and grouped answers", CHATML, TOOL_TURNS, tools=TOOLS),
        case("chatml empty tool list is no tools", CHATML, USER, tools=[]),
        case("chatml unicode and markup", CHATML, UNICODE),
        case("chatml no messages", CHATML, []),
        case("thinking, default", THINKING, USER),
        case("thinking off", THINKING, SYSTEM_USER, enable_thinking=False),
        case("thinking on", THINKING, SYSTEM_USER, enable_thinking=True),
        case("thinking, old thoughts dropped", THINKING, THOUGHT, prompt=False),
        case("thinking, new question", THINKING, [*THOUGHT, *USER]),
        case(
            "thinking, reasoning of its own field",
            THINKING,
            [*USER, {"role": "assistant", "content": "water", "reasoning_content": "\nit flows\n"}],
            prompt=False,
        ),
        case("headers, date of today", HEADERS, USER, special=LLAMA),
        case("headers, date given", HEADERS, SYSTEM_USER, special=LLAMA, date_string="26 Jul 2024"),
        case("headers, turns are trimmed", HEADERS, TURNS, special=LLAMA),
        case("headers, tools with indent", HEADERS, SYSTEM_USER, special=LLAMA, tools=TOOLS),
        case("headers, two tool calls are refused", HEADERS, TOOL_TURNS, special=LLAMA),
        case(
            "headers, one tool call and its answer",
            HEADERS,
            [
                TOOL_TURNS[0],
                {"role": "assistant", "tool_calls": TOOL_TURNS[1]["tool_calls"][:1]},
                {"role": "tool", "content": {"km": 6650, "names": ["Nil", "النيل"]}},
            ],
            special=LLAMA,
        ),
        case("instruct", INSTRUCT, USER, special=BOS_EOS),
        case("instruct, system in the last turn", INSTRUCT, TURNS, special=BOS_EOS),
        case("instruct, tools", INSTRUCT, TOOL_TURNS, special=BOS_EOS, tools=TOOLS),
        case("instruct, roles must alternate", INSTRUCT, [*USER, *USER], special=BOS_EOS),
        case("instruct, unknown role", INSTRUCT, [*USER, {"role": "judge", "content": "no"}], special=BOS_EOS),
    ]


def construct(name, template, messages=None, **extra):
    return case(name, template, USER if messages is None else messages, special=BOS_EOS, **extra)


def white_space_cases():
    return [
        construct("trim_blocks eats one newline after a block", "{% if true %}\n\na\n{% endif %}\nb\n"),
        construct("lstrip_blocks eats spaces before a block", "a\n    {% if true %}  \n  b\n    {% endif %}\nc"),
        construct("neither touches an expression", "a\n  {{ 'b' }}\n\n  {{- 'c' -}}  \n d"),
        construct("plus keeps", "a\n  {%+ if true %}\nb\n  {%+ endif +%}\nc"),
        construct("comments", "a\n  {# one #}\n  b {#- two -#}  c\n"),
        construct("one last newline is dropped", "a\n\n"),
        construct("raw", "{% raw %}{{ not }} {% this %}{% endraw %}!"),
        construct("carriage returns become newlines", "a\r\nb\rc{{ 'd\r\ne' }}"),
        construct("line by line", "{% for m in messages %}\n{{ m.role }}:\n  {{ m.content }}\n{% endfor %}\n", TURNS),
    ]


def loop_cases():
    return [
        construct(
            "loop variables",
            "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}"
            "{{ loop.first }}{{ loop.last }}{{ loop.length }}|{% endfor %}",
            TURNS,
        ),
        construct(
            "previtem and nextitem",
            "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '^' }}<{{ m.role }}>"
            "{{ loop.nextitem.role if loop.nextitem is defined else '$' }} {% endfor %}",
            TURNS,
        ),
        construct(
            "break and continue",
            "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }},"
            "{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}",
            TURNS,
        ),
        construct(
            "filtered loop counts what is left",
            "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} {% endfor %}",
            TURNS,
        ),
        construct("loop else", "{% for m in [] %}x{% else %}none{% endfor %}"),
        construct(
            "cycle and changed",
            "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }} {% endfor %}",
            TURNS,
        ),
        construct(
            "range and nesting",
            "{% for i in range(3) %}{% for j in range(i, 6, 2) %}{{ i * j }} {% endfor %};{% endfor %}",
        ),
        construct(
            "set inside a loop stays inside",
            "{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
            TURNS,
        ),
        construct(
            "namespace leaves the loop",
            "{% set ns = namespace(n=0, seen='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.seen = ns.seen ~ m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.seen }}",
            TURNS,
        ),
        construct(
            "recursive loop",
            "{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{{ loop.depth }}{% endfor %}",
        ),
        construct(
            "dict items, keys, values",
            "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].keys() | list }}{{ messages[0].values() | list }}",
        ),
        construct("dictsort", "{% for k, v in {'b': 1, 'A': 2, 'c': 0} | dictsort %}{{ k }}{{ v }}{% endfor %}"),
    ]


def string_cases():
    text = "{% set s = '  Ein <think>x</think>\\nFluß \\n' %}"
    return [
        construct(
            "split, strip",
            text
            + "[{{ s.split('</think>')[-1].lstrip('\\n') }}][{{ s.strip() }}][{{ s.rstrip() }}][{{ s.split() }}][{{ s.split(' ', 2) }}]",
        ),
        construct("strip of characters", "{{ 'xxabcxyx'.strip('xy') }}{{ '--a-'.lstrip('-') }}{{ 'a..'.rstrip('.') }}"),
        construct(
            "startswith, endswith, in",
            "{{ 'river'.startswith('ri') }}{{ 'river'.endswith('x') }}{{ 'ive' in 'river' }}{{ 'x' not in 'river' }}",
        ),
        construct(
            "replace, upper, title, capitalize",
            "{{ 'a-b-c'.replace('-', '+') }}{{ 'a-b-c'.replace('-', '+', 1) }}{{ 'ab'.upper() }}{{ 'AB'.lower() }}{{ 'the river'.title() }}{{ 'tHE'.capitalize() }}",
        ),
        construct(
            "slices",
            "{{ 'rivers'[:3] }}|{{ 'rivers'[-2:] }}|{{ 'rivers'[::-1] }}|{{ 'rivers'[1:5:2] }}|{{ messages[-1].content[:10] }}|{{ 'é👨x'[1] }}",
        ),
        construct("concatenation", "{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1, 'x'] }}{{ 'a' + 'b' * 3 }}"),
        construct(
            "filters",
            "{{ ['b', 'a'] | join(', ') }}{{ [1, 2] | length }}{{ '  x ' | trim }}{{ 'x' | upper }}{{ [3, 1, 2] | sort }}{{ [1, 2, 3] | first }}{{ [1, 2, 3] | last }}{{ 'abc' | reverse }}",
        ),
        construct(
            "map and select",
            "{{ messages | map(attribute='role') | join(',') }}|{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | length }}|{{ messages | rejectattr('role', 'in', ['user']) | list | length }}|{{ [0, 1, 2] | select('odd') | list }}|{{ ['a'] | map('upper') | list }}",
            TURNS,
        ),
        construct(
            "default",
            "{{ missing | default('d') }}{{ '' | default('e', true) }}{{ none | default('f') }}{{ messages[0].missing | default('g') }}",
        ),
        construct(
            "format",
            "{{ '%s has %d and %05.2f' | format('x', 3, 2.5) }} {{ '%s-%03d' % ('a', 7) }} {{ '{}:{}'.format(1, 'b') }}",
        ),
        construct(
            "indent, replace, wordcount",
            "{{ 'a\nb\nc' | indent(2) }}|{{ 'a\nb' | indent(4, true) }}|{{ 'aXb' | replace('X', '-') }}|{{ 'one two' | wordcount }}",
        ),
        construct(
            "find, count, isdigit, splitlines",
            "{{ 'river'.find('v') }}{{ 'river'.find('z') }}{{ 'river'.count('r') }}{{ '12'.isdigit() }}{{ 'a\nb\n'.splitlines() }}{{ ','.join(['a', 'b']) }}",
        ),
        construct(
            "unicode",
            "{{ messages[0].content }}|{{ messages[0].content | length }}|{{ '\\u00e9\\x41' }}|{{ '你好'[0] }}",
            UNICODE,
        ),
        construct("nothing is escaped", "{{ '<a href=\"x\">&' }}{{ '<b>' | e }}{{ '<b>' | safe }}"),
    ]


def value_cases():
    return [
        construct(
            "how values print",
            "{{ true }} {{ none }} {{ 1.0 }} {{ 1e20 }} {{ 0.1 + 0.2 }} {{ [1, 'a', none, true] }} {{ {'k': [1.5]} }} {{ 'x', }}",
        ),
        construct(
            "integer arithmetic",
            "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 6 / 2 }} {{ 3 * 1.5 }}",
        ),
        construct(
            "comparison and logic",
            "{{ 1 < 2 < 3 }}{{ 1 == 1.0 }}{{ 'a' != 'b' }}{{ not '' }}{{ [] or 'x' }}{{ 'y' and 'z' }}{{ none is none }}{{ 'a' < 'b' }}",
        ),
        construct(
            "tests",
            "{{ 'a' is string }}{{ {} is mapping }}{{ [] is sequence }}{{ 'a' is iterable }}{{ 1 is number }}{{ 1 is integer }}{{ true is boolean }}{{ missing is defined }}{{ missing is undefined }}{{ none is none }}{{ 2 is even }}{{ 3 is divisibleby(3) }}{{ 'a' is in 'abc' }}{{ 1 is eq(1) }}{{ true is true }}{{ 0 is false }}",
        ),
        construct("inline if", "{{ 'a' if messages else 'b' }}{{ 'c' if false }}{{ ('x' if 0 else 'y') ~ 'z' }}"),
        construct("missing prints nothing", "[{{ missing }}][{{ messages[0].missing }}][{{ messages[0]['missing'] }}]"),
        construct("attribute of missing is an error", "{{ missing.attribute }}"),
        construct(
            "dict get and membership",
            "{{ messages[0].get('name', 'nobody') }}{{ messages[0].get('role') }}{{ 'role' in messages[0] }}{{ 'name' in messages[0] }}{{ messages[0].get('name') is none }}",
        ),
        construct(
            "first of a list by index",
            "{{ messages[0]['role'] }}{{ messages[-1].role }}{{ messages[1:] | length }}{{ (messages[::-1])[0].content | trim }}",
            TURNS,
        ),
        construct(
            "content in parts",
            "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% elif p['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endif %}{% endfor %}",
            PARTS,
        ),
        construct(
            "tools and documents are none unless given",
            "{{ tools is none }}{{ documents is none }}{{ tools is defined }}",
        ),
        construct(
            "special tokens",
            "{{ bos_token }}{{ eos_token + '!' }}{{ pad_token is defined }}{{ unk_token | default('-') }}",
        ),
        construct(
            "extra variables",
            "{{ level }}{{ names | join('+') }}{{ flags.deep }}",
            level=3,
            names=["a", "b"],
            flags={"deep": True},
        ),
    ]


def json_cases():
    value = {
        "b": "é <a> & 'q' \"r\" \u2028 👍",
        "a": [1, 2.5, True, None, [], {}],
        "n": {"x": "\t\n\\/"},
        "big": 1e21,
        "small": 1e-7,
    }
    return [
        construct("tojson", "{{ value | tojson }}", value=value),
        construct("tojson indent 4", "{{ value | tojson(indent=4) }}", value=value),
        construct("tojson indent 2, sorted", "{{ value | tojson(indent=2, sort_keys=true) }}", value=value),
        construct(
            "tojson ascii and separators", "{{ value | tojson(ensure_ascii=true, separators=(',', ':')) }}", value=value
        ),
        construct(
            "tojson of scalars",
            "{{ 'a' | tojson }}{{ 1 | tojson }}{{ 1.0 | tojson }}{{ none | tojson }}{{ true | tojson }}{{ [] | tojson(indent=2) }}",
        ),
        construct("tojson of tools", "{% for t in tools %}{{ t.function | tojson }}\n{% endfor %}", tools=TOOLS),
    ]


def further_cases():
    return [
        construct(
            "macro with defaults",
            "{% macro turn(role, text, end='.') %}[{{ role }}]{{ text | trim }}{{ end }}{% endmacro %}{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}{{ turn('x', 'y', end='!') }}",
            TURNS,
        ),
        construct(
            "macro calls itself",
            "{% macro walk(x) %}{% if x is mapping %}{% for k, v in x.items() %}{{ k }}({{ walk(v) }}){% endfor %}{% else %}{{ x }}{% endif %}{% endmacro %}{{ walk(flags) }}",
            flags={"a": {"b": 1}, "c": "d"},
        ),
        construct("call block", "{% macro box() %}<{{ caller() }}>{% endmacro %}{% call box() %}in{% endcall %}"),
        construct(
            "set block and filter block",
            "{% set x %}a{{ 1 }}\n{% endset %}{{ x | trim }}|{% filter upper %}b{% endfilter %}",
        ),
        construct("with block", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}"),
        construct("unpacking set", "{% set a, b = 1, 'x' %}{{ b }}{{ a }}"),
        construct(
            "generation block leaves its text",
            "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
            TURNS,
        ),
        construct(
            "generation block and white space",
            "{% for m in messages %}\n{%- if m.role == 'assistant' %}\n  {% generation %}\n  {{- m.content }}\n  {% endgeneration %}\n{%- endif %}\n{% endfor %}",
            TURNS,
        ),
        construct(
            "strftime_now",
            "{{ strftime_now('%Y') }}|{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d %H:%M:%S') }}|{{ strftime_now('%B %-d, %A') }}|{{ strftime_now('%y%j%%') }}",
        ),
        construct(
            "raise_exception",
            "{% if messages | length > 1 %}{{ raise_exception('too many: ' ~ messages | length) }}{% endif %}ok",
            TURNS,
        ),
        construct(
            "raise_exception not reached",
            "{% if messages | length > 1 %}{{ raise_exception('too many') }}{% endif %}ok",
        ),
        construct("dict function and update by parts", "{{ dict(a=1, b='x').items() | list }}{{ namespace(a=1).a }}"),
        construct("an error of syntax", "{% if true %}a"),
        construct("an unknown filter", "{{ 'a' | nosuch }}"),
        construct("an unknown tag", "{% nosuch %}"),
        construct("appending is not allowed", "{% set x = [] %}{% set _ = x.append(1) %}{{ x }}"),
        construct("python internals are out of reach", "{{ ''.__class__.__mro__ }}"),
        construct(
            "sum, min, max, unique, batch",
            "{{ [1, 2] | sum }}{{ [2, 1] | min }}{{ [2, 1] | max }}{{ ['a', 'A', 'b'] | unique | list }}{{ [1, 2, 3] | batch(2) | list }}{{ '3' | int + 1 }}{{ '2.5' | float }}{{ 3.7 | int }}{{ 2.5 | round }}{{ -3 | abs }}",
        ),
        construct(
            "groupby",
            "{% for role, group in messages | groupby('role') %}{{ role }}{{ group | length }} {% endfor %}",
            TURNS,
        ),
        construct(
            "items filter, attr",
            "{% for k, v in messages[0] | items %}{{ k }}{% endfor %}{{ 'abc' | list }}{{ 5 | string + 'x' }}",
        ),
    ]


GROUPS = {
    "family": family_cases,
    "white space": white_space_cases,
    "loops": loop_cases,
    "strings": string_cases,
    "values": value_cases,
    "json": json_cases,
    "further": further_cases,
}


def all_cases():
    """Every case, with the group it belongs to: `family` is whole conversations, the others are single constructs."""
    return [{"group": group, **case} for group, cases in GROUPS.items() for case in cases()]


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return CLOCK


def render(case):
    """What transformers makes of a case: a string, or the error."""
    extra = dict(case["extra"])
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [case["messages"]],
            chat_template=case["template"],
            tools=extra.pop("tools", None),
            add_generation_prompt=case["add_generation_prompt"],
            **case["special_tokens"],
            **extra,
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        return {"expected_error": str(error), "error_kind": type(error).__name__}
    return {"expected": rendered[0]}


def main():
    chat_template_utils.datetime = FixedClock
    cases = [{**case, **render(case)} for case in all_cases()]
    assert len({case["name"] for case in cases}) == len(cases)
    record = {
        "about": (
            "chat templates rendered by transformers' own engine; `extra` are further variables, and an `expected_error` "
            "means that rendering fails (only the text of `raise_exception`, kind TemplateError, is to be the same)"
        ),
        "made_with": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "clock": CLOCK.isoformat(),
        "cases": cases,
    }
    write_json(ROOT / "templates.json", record)
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
