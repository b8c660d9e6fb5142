//! Hostile templates end in an error: not in a stack overflow, not in an abort for lack of memory.
//! Each runs on a thread with a small stack, for a caller's stack must not matter.

use std::thread;

use chaski_models::chat::{ChatError, ChatTemplate, Message, RenderOptions, SpecialTokens};
use serde_json::{Value, json};

/// Compiles and renders on a small stack.
fn run(source: String, messages: Vec<Message>) -> Result<String, ChatError> {
    thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(move || {
            ChatTemplate::new(source, SpecialTokens::default())?
                .render(&messages, &RenderOptions::default())
        })
        .unwrap()
        .join()
        .unwrap()
}

fn chain(start: &str, link: &str, end: &str) -> String {
    let n = ((1 << 17) - start.len() - end.len()) / link.len();
    format!("{start}{}{end}", link.repeat(n))
}

#[test]
fn a_source_as_long_as_it_may_be_does_not_overflow_the_stack() {
    for (start, link, end) in [
        ("{{ 1", "+a", " }}"),
        ("", "{{ 1+1+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a }}", ""),
        ("{{ 1", "+1", " }}"),
        ("{{ 1", "~''", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ a", " or a", " }}"),
        ("{{ a", " and a", " }}"),
        ("{{ a", "==a", " }}"),
        ("{{ a", "|e", " }}"),
        ("{{ a", " is a", " }}"),
        ("{{ a", " is not a", " }}"),
        ("{{ a", ".a", " }}"),
        ("{{ a", "[0]", " }}"),
        ("{{ a", "()", " }}"),
        ("{{ a", "[:]", " }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ ", "(", " }}"),
        ("{{ ", "[", " }}"),
        ("{{ ", "{0:", " }}"),
        ("{{ ", "a(", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{{ 1", " if 1", " }}"),
        ("{{ ''", "''", " }}"),
        ("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
        ("", "{% if 1 %}", ""),
        ("", "{% for x in y %}", ""),
        ("", "{% macro m() %}", ""),
        ("", "{% set x %}", ""),
        ("", "{% filter e %}", ""),
        ("", "{{ a }}", ""),
        ("{% set a", ",a", " = 1 %}"),
        ("{{ f(a", ",a", ") }}"),
        ("{{ f(**a", ",**a", ") }}"),
        ("{{ [1", ",1", "] }}"),
        ("{{ {1:1", ",1:1", "} }}"),
        ("{#", "{#", "#}"),
    ] {
        // What comes out does not matter, only that something does.
        let _ = run(chain(start, link, end), vec![Message::user("x")]);
    }
    let err = run(" ".repeat((1 << 17) + 1), Vec::new()).unwrap_err();
    assert!(matches!(err, ChatError::SourceTooLong { .. }), "{err}");
}

#[test]
fn values_that_grow_without_end_are_errors() {
    let loops = |body: &str| {
        format!(
            "{{% set ns = namespace(a=[], b='x', c=0) %}}{{% for i in range(100000) %}}{body}{{% endfor %}}"
        )
    };
    for source in [
        // Deeper and deeper.
        loops("{% set ns.a = [ns.a] %}"),
        loops("{% set ns.a = {'a': ns.a} %}"),
        loops("{% set ns.a = (ns.a, 1) %}"),
        loops("{% set ns.a = dict(a=ns.a) %}"),
        loops("{% set ns.a = [ns.a] | list | reverse | list %}"),
        loops("{% set ns.a = [ns.a] | batch(1) %}"),
        loops("{% set ns.a = [[ns.a]] + [] %}"),
        // Larger and larger.
        loops("{% set ns.a = [ns.a, ns.a] %}"),
        loops("{% set ns.a = ns.a + ns.a + [1] %}"),
        loops("{% set ns.a = ns.a * 2 + [1] %}"),
        loops("{% set ns.b = ns.b ~ ns.b %}"),
        loops("{% set ns.b = ns.b * 9 %}"),
        loops("{% set ns.b = ns.b | replace('x', 'xx') %}"),
        loops("{% set ns.b = ns.b.replace('x', 'xx') %}"),
        loops("{% set ns.b = [ns.b, ns.b] | join(ns.b) %}"),
        loops("{% set ns.b = '%s%s' | format(ns.b, ns.b) %}"),
        // A namespace in itself.
        "{% set a = namespace() %}{% set a.a = a %}{{ a }}".to_owned(),
        "{% set a = namespace() %}{% set a.a = [a] %}{{ a }}".to_owned(),
        "{% set a = namespace() %}{% set a.a = {'b': a} %}{{ a in 'x' }}".to_owned(),
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a == b }}"
            .to_owned(),
        "{% set a = namespace() %}{% set l = [a] %}{% set a.l = l %}{{ raise_exception(l) }}"
            .to_owned(),
        // Doubling without a loop, then the ways to walk over it all.
        format!("{}{{{{ a }}}}", "{% set a = [a, a] %}".repeat(60)),
        format!("{}{{{{ a in 'x' }}}}", "{% set a = [a, a] %}".repeat(60)),
        format!(
            "{}{{{{ a ~ 'x' }}}}",
            "{% set a = {'a': a, 'b': a} %}".repeat(60)
        ),
        format!("{}{{{{ {{a: 1}} }}}}", "{% set a = (a, a) %}".repeat(60)),
        format!(
            "{}{{{{ a == b }}}}",
            "{% set a = [a, a] %}{% set b = [b, b] %}".repeat(60)
        ),
        format!(
            "{}{{{{ [a, b] | sort }}}}",
            "{% set a = [a, a] %}{% set b = [b, b] %}".repeat(60)
        ),
        format!("{}{{{{ a | tojson }}}}", "{% set a = [a, a] %}".repeat(60)),
        format!("{}{{{{ a | upper }}}}", "{% set a = [a, a] %}".repeat(60)),
        format!(
            "{}{{{{ raise_exception(a) }}}}",
            "{% set a = [a, a] %}".repeat(60)
        ),
        format!(
            "{}{{{{ [1] | join(a) }}}}",
            "{% set a = [a, a] %}".repeat(60)
        ),
    ] {
        let err = run(source.clone(), vec![Message::user("x")]).map(|text| text.len());
        match err {
            Err(
                ChatError::TooMuchWork { place: Some(_) }
                | ChatError::Render { place: Some(_), .. },
            ) => {}
            other => panic!("{}: {other:?}", &source[..source.len().min(200)]),
        }
    }
}

#[test]
fn views_of_views_and_calls_in_calls_do_not_overflow_the_stack() {
    for source in [
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(x) %}{{ m([x]) }}{% endmacro %}{{ m(1) }}",
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
        "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% for x in [[1]] recursive %}{{ loop([[x], [x]]) }}{% endfor %}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(90000) %}{% set ns.a = ns.a | reverse %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(90000) %}{% set ns.a = ns.a[:] %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(90000) %}{% set ns.a = ns.a + [] %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a={'a': 1}) %}{% for i in range(90000) %}{% set ns.a = ns.a | items | dict %}{% endfor %}",
        "{% set ns = namespace() %}{% for i in range(90000) %}{% macro m() %}{{ ns }}{% endmacro %}{% set ns.m = m %}{% endfor %}{{ ns.m() }}",
        "{% set ns = namespace() %}{% for i in range(9) %}{% set ns.l = loop %}{% endfor %}{{ ns.l }}",
    ] {
        let _ = run(source.to_owned(), vec![Message::user("x")]);
    }
}

#[test]
fn giant_loops_and_texts_are_errors() {
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ range(999999999999) | list }}",
        "{% for a in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}",
        "{{ 'x' * 999999999999 }}",
        "{{ [1] * 999999999999 }}",
        "{{ 'x' | center(999999999999) }}",
        "{{ 'x'.ljust(999999999999) }}",
        "{{ 'x'.zfill(999999999999) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ 'x' | indent(999999999999) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a\nb' | indent('x' * 999999) }}",
        "{{ 2 ** 9999999999 }}",
        "{{ [1] | tojson(indent=999999999999) | length ~ raise_exception('indent is bounded') }}",
        "{{ [1, 2] | tojson(separators=('x' * 9999999, ':')) }}",
        "{{ [1] | batch(999999999999, 'x') | list }}",
        "{{ [1] | slice(999999999999) | list }}",
        "{{ 'x' | wordwrap(-1) }}{{ raise_exception('x' * 99) }}",
    ] {
        let got = run(source.to_owned(), vec![Message::user("x")]).map(|text| text.len());
        assert!(got.is_err(), "{source}: {got:?}");
    }
}

#[test]
fn what_a_template_is_given_may_nest_as_it_likes() {
    let deep = |depth: usize| (0..depth).fold(json!(1), |value, _| Value::Array(vec![value]));
    let nest = |depth: usize| Message {
        content: deep(depth),
        ..Message::user("")
    };
    let show = "{{ messages }}{{ messages | tojson }}{{ messages | list }}";
    assert!(run(show.to_owned(), vec![nest(90)]).is_ok());
    // serde_json drops by recursion, which is not what is tested here: the value is never dropped.
    let template = ChatTemplate::new(show, SpecialTokens::default()).unwrap();
    let far = nest(40_000);
    let err = template
        .render(std::slice::from_ref(&far), &RenderOptions::default())
        .unwrap_err();
    assert!(matches!(err, ChatError::TooDeep { .. }), "{err}");
    let options = RenderOptions {
        tools: vec![far.content],
        ..RenderOptions::default()
    };
    let err = template.render(&[], &options).unwrap_err();
    assert!(matches!(err, ChatError::TooDeep { .. }), "{err}");
    std::mem::forget(options);
}
