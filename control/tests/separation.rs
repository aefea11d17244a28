//! Code that signs and code that decides policy never import each other (DESIGN §2): whoever breaks into one must not
//! find the other at hand. Only the files that put the control plane together may know both.

#![allow(
    clippy::unwrap_used,
    reason = "this is all test code; clippy sees that only inside #[test]"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Names that only code that signs may say.
const SIGNING: [&str; 3] = ["squire_ca::", "crate::issuing", "super::issuing"];
/// Names that only code that decides, or pushes what was decided, may say.
const DECIDING: [&str; 6] = [
    "crate::policy",
    "crate::tables",
    "crate::push",
    "crate::compile",
    "crate::pipeline",
    "mesh::policy",
];
/// Files that sign; and what is in the folder of the first.
const SIGNS: [&str; 2] = ["issuing.rs", "shared.rs"];
/// Files that put the rooms together.
const JOINS: [&str; 2] = ["plane.rs", "lib.rs"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code that say one of the names; comments may say what they like.
fn lines_with(text: &str, names: &[&str]) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| names.iter().any(|name| line.contains(name)))
        .map(str::to_owned)
        .collect()
}

/// `use crate::{…}` blocks name modules without `crate::` before them: spell them out.
fn spelled_out(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        inside |= line.starts_with("use crate::{");
        let item = line.trim_start();
        if inside && !item.starts_with("use ") && line.starts_with("    ") && !line.starts_with("     ") {
            out.push_str("crate::");
            out.push_str(item);
        } else {
            out.push_str(line);
        }
        out.push('\n');
        inside &= !line.contains("};");
    }
    out
}

#[test]
fn code_that_signs_and_code_that_decides_never_import_each_other() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 20, "the sources are where they are looked for");
    let (mut signing, mut deciding) = (0, 0);
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let text = spelled_out(&fs::read_to_string(&file).unwrap());
        let (signs, decides) = (lines_with(&text, &SIGNING), lines_with(&text, &DECIDING));
        signing += usize::from(!signs.is_empty());
        deciding += usize::from(!decides.is_empty());
        if JOINS.contains(&&*name) {
            continue;
        }
        let may_sign = SIGNS.contains(&&*name) || file.components().any(|part| part.as_os_str() == "issuing");
        assert!(
            signs.is_empty() || may_sign,
            "{} names the CA: {signs:?}",
            file.display()
        );
        assert!(
            signs.is_empty() || decides.is_empty(),
            "{} knows both: {signs:?} {decides:?}",
            file.display()
        );
    }
    assert!(
        signing >= 2 && deciding >= 3,
        "the search finds what is there: {signing} {deciding}"
    );
}

#[test]
fn the_ca_itself_knows_no_policy() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../ca/src"), &mut files);
    for file in files {
        let found = lines_with(
            &fs::read_to_string(&file).unwrap(),
            &["mesh::policy", "squire_control::", "mesh::workload"],
        );
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
}

#[test]
fn nested_imports_are_found_too() {
    let text = "use crate::{\n    config::Config,\n    push::{Ads},\n};\nuse x::{\n    push::Y,\n};\n";
    assert_eq!(lines_with(&spelled_out(text), &DECIDING), ["crate::push::{Ads},"]);
}
