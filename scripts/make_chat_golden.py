#!/usr/bin/env python3
"""Render the chat templates of the tests of models/ with jinja2, as Hugging Face's transformers does.

  make_chat_golden.py [TEMPLATE_DIR [OUT.json]]
      default: models/tests/fixtures/chat  models/tests/data/chat.json

Every *.jinja in TEMPLATE_DIR is rendered over every conversation below, as it stands, with the start of
an answer, with tools too, and all that with each of the switches that it knows. What comes out is the text, or
the message of the template's own `raise_exception`, or that it fails otherwise. The clock stands still.

Needs: pip install jinja2==3.1.6
"""
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes

NOW = 1_753_488_000  # 2025-07-26 00:00:00 UTC
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


class Generation(jinja2.ext.Extension):
    """`{% generation %}` blocks render as their content."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller):
        return caller()


def environment():
    """The environment of `apply_chat_template`."""
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form):
        return datetime.fromtimestamp(NOW, timezone.utc).replace(tzinfo=None).strftime(form)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def m(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather, in °C & \"words\"",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name, e.g. 'Köln'"},
                "days": {"type": "integer", "minimum": 0, "default": 1.5},
                "units": {"type": "string", "enum": ["metric", "imperial"]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "now", "description": "", "parameters": {}}}

CONVERSATIONS = {
    "one question": [m("user", "Why is the sky blue?")],
    "system": [m("system", "You are terse."), m("user", "Hi")],
    "several turns": [
        m("system", "Rhyme."),
        m("user", "one"),
        m("assistant", "none"),
        m("user", "two"),
        m("assistant", "glue"),
        m("user", "three"),
    ],
    "assistant last": [m("user", "Count."), m("assistant", "1, 2,")],
    "unicode": [
        m("system", "Réponds en 日本語 — ok?"),
        m("user", "👩‍👩‍👧 \u0301e\u200b \u00a0|\ufeff"),
        m("assistant", "はい。\u2028Zeile"),
        m("user", "مرحبا"),
    ],
    "empty contents": [m("system", ""), m("user", ""), m("assistant", ""), m("user", "")],
    "white space": [
        m("system", "  a system \n"),
        m("user", "\n\n  indented\ttext  \r\n"),
        m("assistant", " \n answer \n\n "),
        m("user", "trailing   "),
    ],
    "markup": [
        m("user", "{{ messages }} {% raw %} {# no #} <|im_end|> [/INST] </s> <<SYS>>"),
        m("assistant", "\"quoted\" 'single' \\n &amp; <b>"),
        m("user", "%s %d \x00\x1f"),
    ],
    "thoughts": [
        m("user", "2 + 2?"),
        m("assistant", "<think>\nadd them\n</think>\n\nFour."),
        m("user", "And 3 + 3?"),
        m("assistant", "Six.", reasoning_content="\nadd again\n"),
    ],
    "tool call": [
        m("system", "Use tools."),
        m("user", "Weather in Köln?"),
        m("assistant", "", tool_calls=[call("get_weather", {"city": "Köln", "days": 2}, id="abcdefghi")]),
        m("tool", "18 °C, \"fair\"", tool_call_id="abcdefghi"),
        m("assistant", "18 degrees and fair."),
        m("user", "Thanks"),
    ],
    "two calls": [
        m("user", "Both?"),
        m(
            "assistant",
            "Looking.",
            tool_calls=[
                call("get_weather", {"city": "Oslo", "nested": {"a": [1, None, True, 0.1]}}, id="000000001"),
                call("now", {}, id="000000002"),
            ],
        ),
        m("tool", "3 °C", tool_call_id="000000001"),
        m("tool", "12:00", tool_call_id="000000002"),
    ],
    "short call id": [
        m("user", "?"),
        m("assistant", "", tool_calls=[call("now", {}, id="x")]),
        m("tool", "12:00", tool_call_id="x"),
    ],
    "roles do not alternate": [m("user", "a"), m("user", "b"), m("assistant", "c")],
    "assistant first": [m("assistant", "Hello!"), m("user", "Hi.")],
    "unknown role": [m("user", "a"), m("narrator", "b")],
    "system only": [m("system", "Alone.")],
    "content is null": [m("user", "a"), m("assistant", None), m("user", "b")],
    "content is parts": [m("user", [{"type": "text", "text": "part"}])],
    "many turns": [m(("user", "assistant")[i % 2], f"turn {i}") for i in range(13)],
}

SWITCHES = {
    "thinking": [{"enable_thinking": False}, {"enable_thinking": True}],
    "headers_tools": [
        {"date_string": "1 Jan 2000"},
        {"tools_in_user_message": False},
        {"builtin_tools": ["code_interpreter", "get_weather"]},
    ],
}


def cases(template):
    switches = [{}] + SWITCHES.get(template, [])
    for name in CONVERSATIONS:
        for extra in switches:
            for tools, prompt in (([], False), ([], True), ([WEATHER, TIME], True)):
                yield name, extra, tools, prompt


def main():
    root = Path(__file__).resolve().parent.parent / "models/tests"
    templates = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "fixtures/chat"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else root / "data/chat.json"
    env = environment()
    golden = []
    texts = []
    for path in sorted(templates.glob("*.jinja")):
        compiled = env.from_string(path.read_text())
        for name, extra, tools, prompt in cases(path.stem):
            case = {"template": path.stem, "conversation": name}
            if extra:
                case["extra"] = extra
            if tools:
                case["tools"] = True
            if prompt:
                case["prompt"] = True
            try:
                text = compiled.render(
                    messages=CONVERSATIONS[name],
                    tools=tools or None,
                    documents=None,
                    add_generation_prompt=prompt,
                    **SPECIAL,
                    **extra,
                )
                # The same text for several switches is written once.
                if text not in texts:
                    texts.append(text)
                case["text"] = texts.index(text)
            except jinja2.exceptions.UndefinedError:
                case["fails"] = True
            except jinja2.exceptions.TemplateError as error:
                case["raised"] = str(error)
            except (TypeError, AttributeError):
                case["fails"] = True
            golden.append(case)
    document = {
        "jinja2": jinja2.__version__,
        "now": NOW,
        "special": SPECIAL,
        "tools": [WEATHER, TIME],
        "conversations": CONVERSATIONS,
        "texts": texts,
        "cases": golden,
    }
    lines = json.dumps(document, ensure_ascii=False, indent=0)
    out.write_text(lines + "\n")
    fails = sum("fails" in case for case in golden)
    raised = sum("raised" in case for case in golden)
    print(f"{len(golden)} cases ({raised} raised, {fails} fail otherwise), {len(texts)} texts, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
