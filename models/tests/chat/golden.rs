//! Templates render as jinja2 does in the environment of transformers. The goldens are made by
//! `scripts/make_chat_golden.py`.

use std::{collections::BTreeMap, fs, path::Path};

use chaski_models::chat::{
    ChatError, ChatTemplate, Message, Moment, RenderOptions, SpecialTokens, TemplateSources,
};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Golden {
    now: i64,
    special: BTreeMap<String, String>,
    tools: Vec<Value>,
    conversations: BTreeMap<String, Vec<Message>>,
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    template: String,
    conversation: String,
    #[serde(default)]
    extra: Map<String, Value>,
    #[serde(default)]
    tools: bool,
    #[serde(default)]
    prompt: bool,
    /// Index of the text, if one comes out.
    text: Option<usize>,
    /// What the template itself refuses the conversation with.
    raised: Option<String>,
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

/// Renders all cases of `golden` with the templates in `templates`; tells how many refused.
fn compare(golden: &Golden, templates: &Path) -> usize {
    let special = SpecialTokens {
        bos: golden.special.get("bos_token").cloned(),
        eos: golden.special.get("eos_token").cloned(),
        ..SpecialTokens::default()
    };
    let mut compiled = BTreeMap::new();
    let (mut rendered, mut raised) = (0, 0);
    for case in &golden.cases {
        let template = compiled.entry(&case.template).or_insert_with(|| {
            let path = templates.join(format!("{}.jinja", case.template));
            ChatTemplate::new(fs::read_to_string(path).unwrap(), special.clone()).unwrap()
        });
        let options = RenderOptions {
            add_generation_prompt: case.prompt,
            tools: if case.tools {
                golden.tools.clone()
            } else {
                Vec::new()
            },
            extra: case.extra.clone(),
            now: Some(Moment {
                unix_seconds: golden.now,
                utc_offset_seconds: 0,
            }),
            ..RenderOptions::default()
        };
        let got = template.render(&golden.conversations[&case.conversation], &options);
        match (case.text, &case.raised, got) {
            (Some(text), _, got) => {
                assert_eq!(
                    got.as_ref().ok(),
                    Some(&golden.texts[text]),
                    "{case:?}: {got:?}"
                );
                rendered += 1;
            }
            (None, Some(want), Err(ChatError::Raised { message, place })) => {
                assert_eq!(message, *want, "{case:?}");
                assert!(
                    place.is_some_and(|p| p.column.is_some()),
                    "{case:?}: {place:?}"
                );
                raised += 1;
            }
            (None, None, Err(ChatError::Render { place, .. })) => {
                assert!(
                    place.is_some_and(|p| p.column.is_some()),
                    "{case:?}: {place:?}"
                );
            }
            (_, _, got) => panic!("{case:?}: {got:?}"),
        }
    }
    assert!(rendered > 0, "no text was compared");
    raised
}

#[test]
fn texts_and_refusals_are_those_of_jinja2() {
    let golden = fs::read(folder().join("data/chat.json")).unwrap();
    let raised = compare(
        &serde_json::from_slice(&golden).unwrap(),
        &folder().join("fixtures/chat"),
    );
    assert!(raised > 0, "no refusal was compared");
}

/// For templates that are not ours to keep: `CHASKI_CHAT_GOLDEN` names a folder with them and the
/// `chat.json` that the script makes of them.
#[test]
fn templates_of_real_models_render_as_jinja2_does() {
    let Some(folder) = std::env::var_os("CHASKI_CHAT_GOLDEN") else {
        println!("skipped: CHASKI_CHAT_GOLDEN is not set");
        return;
    };
    let folder = Path::new(&folder);
    let golden = fs::read(folder.join("chat.json")).unwrap();
    compare(&serde_json::from_slice(&golden).unwrap(), folder);
}

#[test]
fn errors_tell_line_and_column() {
    let place = |source: &str| {
        let template = ChatTemplate::new(source, SpecialTokens::default());
        let err = match template {
            Ok(template) => template
                .render(&[Message::user("x")], &RenderOptions::default())
                .unwrap_err(),
            Err(err) => err,
        };
        err.to_string()
    };
    for (source, want) in [
        ("a\n{{ messages", "at line 2"),
        ("a\nä {% if %}", "at line 2, column 9"),
        ("{% unknown %}", "at line 1, column 4"),
        (
            "{% for m in messages %}\n{{ m.nothing.at_all }}\n{% endfor %}",
            "fails at line 2, column 5",
        ),
        ("\n\n {{ messages | no_filter }}", "at line 3, column"),
        (
            "{{ raise_exception('no: ' ~ 1) }}",
            "refuses the conversation at line 1, column 4: no: 1",
        ),
        ("{{ strftime_now('%Y') }}", "the time is not known"),
        ("{{ messages[0].content.no_method() }}", "no_method"),
    ] {
        let got = place(source);
        assert!(
            got.contains(want),
            "{source}\n  {got}\n  should say: {want}"
        );
    }
}

#[test]
fn a_source_is_found_where_checkpoints_keep_it() {
    let config = serde_json::json!({"chat_template": "{{ messages[0].content }}"});
    let sources = TemplateSources::find(Some(&config), None).unwrap();
    let source = sources.pick(false).unwrap().unwrap();
    let template = ChatTemplate::new(source, SpecialTokens::default()).unwrap();
    let text = template.render(&[Message::user("x")], &RenderOptions::default());
    assert_eq!(text.unwrap(), "x");
}
