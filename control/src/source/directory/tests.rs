//! A directory that people edit, in the ways in which people and programs edit.

use std::os::unix::fs::symlink;

use super::*;
use crate::inventory::FactKind;

struct Case {
    dir: tempfile::TempDir,
    directory: Directory,
    interner: Interner,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Whatever calls itself bad is bad: the judgement of policies is tested where it is made.
        let review: Review = Arc::new(|object: &Object| {
            let bad = object.name == "bad";
            bad.then(|| object.problem(Severity::Error, "spec", "bad", "be good"))
                .into_iter()
                .collect()
        });
        Self {
            directory: Directory::new(dir.path(), review),
            dir,
            interner: Interner::default(),
        }
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn scan(&mut self) -> Scan {
        self.directory.scan(&mut self.interner)
    }

    fn pods(&self) -> Vec<String> {
        self.directory
            .snapshot()
            .inventory
            .names(FactKind::Pod)
            .map(ToString::to_string)
            .collect()
    }

    fn errors(&self) -> Vec<String> {
        self.directory
            .snapshot()
            .problems
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nstatus: {{podIP: 127.10.0.1}}\n")
}

#[test]
fn yaml_and_json_below_the_directory_are_read_hidden_and_other_files_are_not() {
    let mut case = Case::new();
    case.write("a.yaml", &format!("{}---\n{}", pod("one"), pod("two")));
    case.write("team/b.yml", &pod("three"));
    case.write(
        "c.json",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "four", "namespace": "shop"}}"#,
    );
    case.write(".hidden.yaml", &pod("hidden"));
    case.write(".git/x.yaml", &pod("hidden"));
    case.write("README.md", "not ours: [");
    assert!(case.scan().changed);
    assert_eq!(case.pods(), ["shop/four", "shop/one", "shop/three", "shop/two"]);
    assert!(
        case.directory.snapshot().complete && case.errors().is_empty(),
        "{:?}",
        case.errors()
    );
    assert_eq!(case.scan(), Scan::default(), "nothing is read twice");
}

#[test]
fn a_file_that_becomes_wrong_is_reported_and_its_last_good_state_stays() {
    let mut case = Case::new();
    case.write("a.yaml", &pod("a"));
    case.write("b.yaml", &pod("b"));
    case.scan();
    case.write("a.yaml", &format!("{}---\nkind: [", pod("new")));
    case.write("b.yaml", &pod("b2"));
    assert!(case.scan().changed);
    assert_eq!(case.pods(), ["shop/a", "shop/b2"], "a as it was, b as it is");
    let errors = case.errors();
    assert!(
        errors.len() == 1 && errors[0].starts_with("a.yaml:6: error: "),
        "{errors:?}"
    );
    assert!(case.directory.stale_since().is_some());
    let view = case.directory.snapshot().files.remove(0);
    assert!(!view.good && view.in_force_since.is_some() && view.bad_since.is_some());
    case.write("a.yaml", &pod("new"));
    case.scan();
    assert_eq!(
        (case.pods(), case.errors()),
        (vec!["shop/b2".into(), "shop/new".into()], Vec::new())
    );
    assert!(case.directory.stale_since().is_none());
}

#[test]
fn nothing_is_complete_before_every_file_was_good_once() {
    let mut case = Case::new();
    case.write("a.yaml", &pod("a"));
    case.write("b.yaml", &pod("UPPER"));
    case.scan();
    assert!(!case.directory.snapshot().complete);
    let errors = case.errors();
    assert!(
        errors[0].contains("b.yaml:3: error: ") && errors[0].contains("metadata.name"),
        "{errors:?}"
    );
    case.write("b.yaml", &pod("b"));
    case.scan();
    assert!(case.directory.snapshot().complete);
    case.write("c.yaml", "{");
    case.scan();
    assert!(case.directory.snapshot().complete, "what was known stays known");
}

#[test]
fn an_object_that_its_review_refuses_makes_the_file_bad() {
    let policy = |name: &str| {
        format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {{}}\n")
    };
    let mut case = Case::new();
    case.write("p.yaml", &policy("good"));
    case.scan();
    case.write("p.yaml", &policy("bad"));
    case.scan();
    let snapshot = case.directory.snapshot();
    assert_eq!(
        snapshot.others.iter().map(|other| &*other.name).collect::<Vec<_>>(),
        ["good"]
    );
    assert_eq!(snapshot.problems.len(), 1);
}

#[test]
fn a_file_that_is_truncated_before_it_is_written_is_never_seen_empty() {
    let mut case = Case::new();
    case.write("a.yaml", &pod("a"));
    case.scan();
    case.write("a.yaml", "");
    assert_eq!(
        case.scan(),
        Scan {
            changed: false,
            unsettled: true
        }
    );
    assert_eq!(case.pods(), ["shop/a"]);
    let empty = fs::File::options()
        .write(true)
        .open(case.dir.path().join("a.yaml"))
        .unwrap();
    empty
        .set_modified(SystemTime::now() - std::time::Duration::from_secs(5))
        .unwrap();
    assert_eq!(
        case.scan(),
        Scan {
            changed: true,
            unsettled: false
        },
        "empty for a while means empty"
    );
    assert!(case.pods().is_empty());
}

#[test]
fn renamed_over_removed_and_swapped_by_link() {
    let mut case = Case::new();
    case.write("a.yaml", &pod("a"));
    case.write("..v1/c.yaml", &pod("c1"));
    case.write("..v2/c.yaml", &pod("c2"));
    let data = case.dir.path().join("..data");
    symlink("..v1", &data).unwrap();
    symlink("..data/c.yaml", case.dir.path().join("c.yaml")).unwrap();
    case.scan();
    assert_eq!(case.pods(), ["shop/a", "shop/c1"]);
    case.write("a.tmp", &pod("b"));
    fs::rename(case.dir.path().join("a.tmp"), case.dir.path().join("a.yaml")).unwrap();
    let swapped = case.dir.path().join("..data_tmp");
    symlink("..v2", &swapped).unwrap();
    fs::rename(&swapped, &data).unwrap();
    assert!(case.scan().changed);
    assert_eq!(case.pods(), ["shop/b", "shop/c2"]);
    fs::remove_file(case.dir.path().join("a.yaml")).unwrap();
    assert!(case.scan().changed);
    assert_eq!(case.pods(), ["shop/c2"]);
}

#[test]
fn a_directory_that_vanishes_takes_nothing_with_it() {
    let mut case = Case::new();
    case.write("a.yaml", &pod("a"));
    case.scan();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(case.dir.path(), elsewhere.path().join("moved")).unwrap();
    assert!(case.scan().changed, "it is a problem that people see");
    assert_eq!(case.pods(), ["shop/a"]);
    assert!(case.errors()[0].contains("cannot be read"), "{:?}", case.errors());
    fs::rename(elsewhere.path().join("moved"), case.dir.path()).unwrap();
    assert!(case.scan().changed);
    assert!(case.errors().is_empty());
}

#[test]
fn of_two_objects_of_one_name_the_first_file_counts_and_the_other_is_named() {
    let mut case = Case::new();
    case.write("a.yaml", &pod("same"));
    case.write("b.yaml", &format!("{}---\n{}", pod("other"), pod("same")));
    case.scan();
    assert_eq!(case.pods(), ["shop/other", "shop/same"]);
    let errors = case.errors();
    assert!(
        errors.len() == 1 && errors[0].starts_with("b.yaml:6:") && errors[0].contains("a.yaml"),
        "{errors:?}"
    );
}

#[test]
fn a_link_to_nowhere_and_bytes_that_are_no_text_are_reported() {
    let mut case = Case::new();
    symlink("nowhere", case.dir.path().join("dangling.yaml")).unwrap();
    fs::write(case.dir.path().join("latin.yaml"), b"a: 1\nb: \xff\n").unwrap();
    case.scan();
    let errors = case.errors();
    assert!(errors.iter().any(|error| error.contains("dangling.yaml")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("latin.yaml:2")), "{errors:?}");
    assert!(!case.directory.snapshot().complete);
    assert!(!case.scan().changed, "the same problem is no news");
}
