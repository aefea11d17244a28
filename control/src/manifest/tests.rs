//! The loader against what people write: documents, lists, JSON, anchors, and what must be refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Object {
    let manifest = Manifest::parse("a.yaml", text);
    assert_eq!(manifest.problems, [], "{text}");
    assert_eq!(manifest.objects.len(), 1, "{text}");
    manifest.objects.into_iter().next().unwrap()
}

fn refused(text: &str) -> Problem {
    let manifest = Manifest::parse("a.yaml", text);
    assert_eq!(manifest.problems.len(), 1, "{text}: {:?}", manifest.problems);
    manifest.problems.into_iter().next().unwrap()
}

#[test]
fn every_document_is_an_object_and_knows_its_line() {
    let text = "# comment\n---\napiVersion: v1\nkind: A\nmetadata: {name: a}\n---\n# nothing\n---\napiVersion: v1\nkind: B\nmetadata:\n  name: b\n  namespace: x\nspec:\n  list:\n  - k: 1\n  - k: 2\n";
    let manifest = Manifest::parse("f", text);
    assert_eq!(manifest.problems, []);
    let places: Vec<_> = manifest
        .objects
        .iter()
        .map(|object| (&*object.kind, object.place.document, object.place.line))
        .collect();
    assert_eq!(places, [("A", 1, 3), ("B", 2, 9)]);
    let b = &manifest.objects[1];
    assert_eq!((b.namespace.as_deref(), &*b.name), (Some("x"), "b"));
    assert_eq!(b.line_of("spec.list[1].k"), 17);
    assert_eq!(b.line_of("spec.list[1].missing"), 17);
    assert_eq!(b.line_of("spec"), 14);
}

#[test]
fn lists_of_both_kinds_are_taken_apart() {
    let manifest = Manifest::parse(
        "f",
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- apiVersion: v1\n  kind: PodList\n  items:\n  - metadata: {name: b}\n",
    );
    assert_eq!(manifest.problems, []);
    let names: Vec<_> = manifest
        .objects
        .iter()
        .map(|object| format!("{} {} {}", object.kind, object.name, object.place.line))
        .collect();
    assert_eq!(names, ["Pod a 4", "Pod b 8"]);
}

#[test]
fn json_is_read_as_it_is() {
    let object = one(
        "{\n\t\"apiVersion\": \"v1\", \"kind\": \"A\",\n\t\"spec\": {\"a\": [1, -2.5, true, null, \"\\u00e9\\n\", \"yes\"]}\n}",
    );
    assert_eq!(object.value["spec"]["a"], json!([1, -2.5, true, null, "é\n", "yes"]));
    assert_eq!(object.line_of("spec.a[0]"), 3);
}

#[test]
fn anchors_and_merge_keys_work() {
    let object =
        one("apiVersion: v1\nkind: A\nx: &x {a: 1, b: 2}\ny: *x\nz: {<<: *x, b: 3}\nw: {<<: [*x, {c: 4, a: 9}]}\n");
    assert_eq!(object.value["y"], json!({"a": 1, "b": 2}));
    assert_eq!(object.value["z"], json!({"a": 1, "b": 3}));
    assert_eq!(object.value["w"], json!({"a": 1, "b": 2, "c": 4}));
}

#[test]
fn keys_are_text_and_quoted_scalars_stay_text() {
    let object = one("apiVersion: v1\nkind: A\nports: {80: a, true: b}\nq: ['yes', \"80\", !!str 80, yes, 80]\n");
    assert_eq!(object.value["ports"], json!({"80": "a", "true": "b"}));
    assert_eq!(object.value["q"], json!(["yes", "80", "80", true, 80]));
}

#[test]
fn what_cannot_be_read_is_a_problem_with_its_line() {
    for (text, line, part) in [
        ("apiVersion: v1\nkind: A\nkind: B\n", 3, "appears twice"),
        ("apiVersion: v1\nkind: A\na: [1\n", 3, "unclosed bracket"),
        ("apiVersion: v1\nkind: A\na: *nope\n", 3, "not valid YAML"),
        ("apiVersion: v1\nkind: A\na: !custom 1\n", 3, "unsupported tag"),
        ("apiVersion: v1\nmetadata: {}\n", 1, "without kind"),
        ("kind: A\n", 1, "without apiVersion"),
        ("- a\n", 1, "not a Kubernetes object"),
        ("apiVersion: v1\nkind: A\n{a: b}: 1\n", 3, "a key that is a list"),
        ("apiVersion: v1\nkind: A\nx: .nan\n", 3, "cannot be written in JSON"),
        ("apiVersion: v1\nkind: A\n...\nkind: B\n", 4, "second document"),
    ] {
        let problem = refused(text);
        assert!(problem.message.contains(part), "{text}: {}", problem.message);
        assert_eq!(problem.line, line, "{text}: {}", problem.message);
    }
}

#[test]
fn a_bad_document_does_not_hide_the_others() {
    let manifest = Manifest::parse(
        "f",
        "apiVersion: v1\nkind: A\n---\na: [\n---\napiVersion: v1\nkind: B\n",
    );
    let kinds: Vec<_> = manifest.objects.iter().map(|object| &*object.kind).collect();
    assert_eq!(kinds, ["A", "B"]);
    assert_eq!((manifest.problems.len(), manifest.problems[0].document), (1, 2));
}

#[test]
fn nesting_and_alias_bombs_are_refused() {
    assert!(refused(&format!("a: {}", "[".repeat(100_000))).message.contains("YAML"));
    let mut bomb = String::from("apiVersion: v1\nkind: A\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let aliases = format!("*a{},", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(refused(&bomb).message.contains("nodes"));
}

#[test]
fn files_and_directories_are_read_in_the_order_of_names() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    write("b.yml", "apiVersion: v1\nkind: B\n");
    write("a.yaml", "apiVersion: v1\nkind: A\n");
    write("sub/c.json", "{\"apiVersion\": \"v1\", \"kind\": \"C\"}");
    write("notes.txt", "not yaml: [");
    write(".hidden.yaml", "not yaml: [");
    let manifest = Manifest::from_paths(&[directory.path()]);
    assert_eq!(manifest.problems, []);
    assert_eq!(
        manifest.objects.iter().map(|object| &*object.kind).collect::<Vec<_>>(),
        ["A", "B", "C"]
    );
    let missing = Manifest::from_paths(&[directory.path().join("nope.yaml")]);
    assert!(missing.problems[0].message.contains("cannot be read"));
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(\\PC|\n|\t| |: |- |\\{|\\}|\\[|\\]|&a |\\*a|---\n|\"|'|<<: ){0,60}") {
        let _ = Manifest::parse("f", &text);
    }
}
