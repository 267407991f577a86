use super::*;
use crate::node::{NESTING_MAX, SourceFile};
use proptest::prelude::*;

fn yaml_problems(text: &str) -> String {
    let reader = Reader::new(SourceFile::new("a.yaml", text));
    reader.yaml();
    reader.into_problems().to_string()
}

/// What stands in the file from where the tree says each text begins.
fn offsets(text: &str, needle: &str) -> String {
    let reader = Reader::new(SourceFile::new("a.yaml", text));
    let cursor = reader.yaml().unwrap().table().unwrap().required("x").unwrap();
    let decoded = cursor.text().unwrap();
    let at = cursor.offset_in_file(decoded.find(needle).unwrap());
    text[at..].chars().take(needle.chars().count()).collect()
}

#[test]
fn a_character_is_found_in_every_style_of_scalar() {
    for text in [
        "x: é a {{ needle }}\n",
        "x: one\n   two\n   {{ needle }}\n",
        "x: 'it''s ''fine'' {{ needle }}'\n",
        "x: \"tab\\t quote\\\" \\u00e9 {{ needle }}\"\n",
        "x: \"folded\n   \\n line {{ needle }}\"\n",
        "x: \"continued \\\n     {{ needle }}\"\n",
        "x: |\n  one\n\n    two\n  {{ needle }}\n",
        "x: >-\n  one\n  two\n\n  {{ needle }}\n",
        "x: |2\n  one\n  {{ needle }}\n",
        "\u{feff}x: a\r\n   {{ needle }}\r\n",
    ] {
        assert_eq!(offsets(text, "needle"), "needle", "{text:?}");
    }
}

#[test]
fn yaml_that_nobody_expects_is_named() {
    insta::assert_snapshot!(yaml_problems("a: 1\nb: 2\na: 3\n"), @"a.yaml:3:1: `a` is already set in line 1");
    insta::assert_snapshot!(yaml_problems("a: !secret x\n"), @"a.yaml:1:4: the tag `!secret` is not understood (rules have no includes and no secrets)");
    insta::assert_snapshot!(yaml_problems("a: *x\n"), @"a.yaml:1:4: no `&x` stands before this `*x` (put a text that begins with `*` in quotes)");
    insta::assert_snapshot!(yaml_problems("a: 1\n---\nb: 1\n"), @"a.yaml:3:1: a second document in one file is not read (put it into a file of its own)");
    insta::assert_snapshot!(yaml_problems("a: {{ x }}\n"), @"a.yaml:1:5: a key is a plain text (put a text that begins with `{{` in quotes)");
    insta::assert_snapshot!(yaml_problems("<<: {a: 1}\n"), @"a.yaml:1:1: merge keys are not understood");
    assert!(yaml_problems("a:\n\t- b\n").contains("never with tabs"));
}

#[test]
fn bombs_are_defused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    assert!(yaml_problems(&bomb).contains("too many values"));
    let deep = "[".repeat(NESTING_MAX * 2);
    assert!(!yaml_problems(&deep).is_empty());
    let deep = format!("x = {}", "[".repeat(NESTING_MAX * 2) + &"]".repeat(NESTING_MAX * 2));
    let reader = Reader::new(SourceFile::new("a.toml", deep));
    reader.toml();
    assert!(!reader.into_problems().is_empty());
}

#[test]
fn scalars_are_what_they_look_like() {
    let text = "[1, -2, 0x1f, 1.5, 1e3, true, ~, yes, 1.2.3, 12:30, '1', 007x, .5]";
    let reader = Reader::new(SourceFile::new("a.yaml", text));
    let kinds: Vec<Value> =
        reader.yaml().unwrap().list().unwrap().iter().map(|at| at.node().value.clone()).collect();
    let plain = |text: &str| Value::Text(text.into(), Style::Plain);
    assert_eq!(
        kinds,
        [
            Value::Int(1),
            Value::Int(-2),
            Value::Int(31),
            Value::Float(1.5),
            Value::Float(1000.0),
            Value::Bool(true),
            Value::Null,
            plain("yes"),
            plain("1.2.3"),
            plain("12:30"),
            Value::Text("1".into(), Style::Single),
            plain("007x"),
            Value::Float(0.5),
        ]
    );
}

#[test]
fn all_problems_of_a_toml_file_are_listed() {
    let text = "[server]\nlisten = 5\npoll = \"5\"\nmode = \"requre\"\nlsten = 1\n\
                on = \"yes\"\nsize = 70000\npass = { evn = \"X\" }\n";
    let reader = Reader::new(SourceFile::new("portero.toml", text));
    let mut root = reader.toml().unwrap().table().unwrap();
    let mut server = root.required("server").unwrap().table().unwrap();
    let at_least = Duration::from_secs(1);
    assert_eq!(server.required("listen").unwrap().text(), None);
    assert_eq!(server.required("poll").unwrap().duration(at_least, Duration::MAX), None);
    let words = [("require", 1), ("off", 2)];
    assert_eq!(server.required("mode").unwrap().one_of(&words), None);
    assert_eq!(server.required("on").unwrap().flag(), None);
    assert_eq!(server.required("size").unwrap().int(1..=65535), None);
    assert!(server.required("pass").unwrap().secret().is_none());
    assert!(server.required("user").is_none());
    server.done();
    root.required("store");
    root.done();
    insta::assert_snapshot!(reader.into_problems(), @r#"
    portero.toml:1:2: `store` is missing
    portero.toml:2:1: `user` is missing
    portero.toml:2:10: `listen` is a number, not a text
    portero.toml:3:8: `poll` is "5", which is no duration (a duration is a number with a unit: 500ms, 30s, 10m, 24h, 7d)
    portero.toml:4:8: `requre` is not one of require, off (did you mean `require`?)
    portero.toml:5:1: `lsten` is not known (known here: listen, poll, mode, on, size, pass, user)
    portero.toml:6:6: `on` is the text "yes", not true or false (write `true`)
    portero.toml:7:8: `size` is 70000; it is between 1 and 65535
    portero.toml:8:10: `evn` is not known (did you mean `env`?)
    "#);
}

#[test]
fn secrets_have_three_forms() {
    let text = "a = \"s\"\nb = { env = \"E\" }\nc = { file = \"f\" }\n";
    let reader = Reader::new(SourceFile::new("portero.toml", text));
    let mut root = reader.toml().unwrap().table().unwrap();
    let mut secret = |name| root.required(name).unwrap().secret().unwrap();
    assert!(matches!(secret("a"), Given::Text(text) if text.matches("s")));
    assert!(matches!(secret("b"), Given::Env(name) if name == "E"));
    assert!(matches!(secret("c"), Given::File(path) if path.to_str() == Some("f")));
}

#[test]
fn durations_survive_their_text() {
    for (text, ms) in [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("7d", 604_800_000)] {
        assert_eq!(duration(text), Some(Duration::from_millis(ms)));
        assert_eq!(duration_text(Duration::from_millis(ms)), text);
    }
    for text in ["", "5", "s", "5 s x", "-5s", "99999999999999999999d", "1y"] {
        assert_eq!(duration(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "[ -~\n\t\u{e9}\u{1f511}]{0,120}") {
        for read in [Reader::yaml, Reader::toml] {
            let reader = Reader::new(SourceFile::new("a", text.clone()));
            read(&reader);
            reader.into_problems().render();
        }
    }

    #[test]
    fn yaml_like_text_is_read_without_a_panic(text in "([-:{}\\[\\]&*!|>'\"%,?# \n\ta0]|: |- ){0,60}") {
        let reader = Reader::new(SourceFile::new("a", text));
        if let Some(cursor) = reader.yaml() {
            for offset in 0..20 {
                cursor.offset_in_file(offset);
            }
        }
        reader.into_problems().render();
    }
}
