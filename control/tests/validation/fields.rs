//! Every field and every mapping of every kind, one after the other.

use serde_json::{Value, json};

use crate::{errors, objects};

/// Mappings whose keys are free.
const FREE: [&str; 6] = [
    "matchLabels",
    "labels",
    "annotations",
    "portLevelMtls",
    "extensionProviders",
    "includeAdditionalHeadersInCheck",
];

/// Fields that take a number or text.
const EITHER: [&str; 3] = ["port", "statusOnError", "maxRequestBytes"];

/// A node of an object: its JSON pointer, its path as problems write it, and its last name.
struct Place {
    pointer: String,
    path: String,
    name: String,
}

impl Place {
    fn child(&self, key: &str) -> Self {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Self {
            pointer: format!("{}/{}", self.pointer, key.replace('/', "~1")),
            path,
            name: key.to_owned(),
        }
    }

    fn item(&self, index: usize) -> Self {
        Self {
            pointer: format!("{}/{index}", self.pointer),
            path: format!("{}[{index}]", self.path),
            name: format!("{}[]", self.name),
        }
    }
}

fn walk(value: &Value, place: Place, visit: &mut dyn FnMut(&Place, &Value)) {
    visit(&place, value);
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| walk(value, place.child(key), visit)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, value)| walk(value, place.item(index), visit)),
        _ => {}
    }
}

fn places(object: &Value) -> Vec<(Place, Value)> {
    let mut found = Vec::new();
    let root = Place {
        pointer: String::new(),
        path: String::new(),
        name: String::new(),
    };
    walk(object, root, &mut |place, value| {
        let place = Place {
            pointer: place.pointer.clone(),
            path: place.path.clone(),
            name: place.name.clone(),
        };
        found.push((place, value.clone()));
    });
    found
}

fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = object.clone();
    *changed.pointer_mut(pointer).unwrap() = value;
    changed
}

#[test]
fn objects_with_every_field_are_valid() {
    for object in objects::all() {
        assert_eq!(errors(&object), Vec::<String>::new(), "{object:#}");
    }
}

#[test]
fn a_field_that_does_not_exist_is_an_error_in_every_mapping() {
    let mut mappings = 0;
    for object in objects::all() {
        for (place, value) in places(&object) {
            if !value.is_object() || FREE.contains(&place.name.as_str()) || place.path == "metadata.ownerReferences" {
                continue;
            }
            mappings += 1;
            let mut more = value;
            more["bogus"] = json!(1);
            let wrong = with(&object, &place.pointer, more);
            let expected = place.child("bogus").path;
            assert_eq!(errors(&wrong), [expected], "{wrong:#}");
        }
    }
    assert!(mappings > 60, "only {mappings} mappings");
}

#[test]
fn a_value_of_another_type_is_an_error_in_every_field() {
    let mut fields = 0;
    for object in objects::all() {
        for (place, value) in places(&object) {
            // Without these it is another object, or none.
            if place.path.is_empty() || ["apiVersion", "kind"].contains(&place.path.as_str()) {
                continue;
            }
            for other in [
                json!(true),
                json!("x y"),
                json!([[]]),
                json!({"bogus": {}}),
                json!(-1.5),
            ] {
                let same = std::mem::discriminant(&other) == std::mem::discriminant(&value);
                let either = EITHER.contains(&place.name.as_str()) && (other.is_string() || other.is_number());
                if same || either {
                    continue;
                }
                fields += 1;
                let wrong = with(&object, &place.pointer, other.clone());
                let found = errors(&wrong);
                assert!(
                    found.iter().any(|path| path.starts_with(&place.path)),
                    "{} = {other}: {found:?}",
                    place.path
                );
            }
        }
    }
    assert!(fields > 800, "only {fields} fields");
}

#[test]
fn an_empty_element_is_an_error_in_every_list() {
    for object in objects::all() {
        for (place, value) in places(&object) {
            let Some(items) = value.as_array() else { continue };
            let mut more = items.clone();
            more.push(Value::Null);
            let wrong = with(&object, &place.pointer, json!(more));
            assert_eq!(errors(&wrong), [place.item(items.len()).path], "{wrong:#}");
        }
    }
}

#[test]
fn an_object_that_any_of_this_befalls_denies_whatever_it_selects() {
    use squire_control::{
        manifest::Object,
        policy::{MeshConfig, PolicySet, Subject},
    };
    use squire_mesh::policy::NetworkGate;

    let (mut tried, subject) = (
        0,
        Subject {
            namespace: "shop",
            labels: vec![("app", "db"), ("tier", "a")],
            selectable: true,
        },
    );
    for object in [
        objects::network_policy(),
        objects::peer_authentication(),
        objects::authorization_policy(),
        objects::custom_policy(),
        objects::request_authentication(),
    ] {
        for (place, value) in places(&object) {
            let within = place.path.starts_with("spec.") && !place.path.contains("elector.");
            if !value.is_object() || !within || FREE.contains(&place.name.as_str()) {
                continue;
            }
            tried += 1;
            let mut more = value;
            more["bogus"] = json!(1);
            let wrong = Object::from_value("test", with(&object, &place.pointer, more)).unwrap();
            let table = PolicySet::from_objects([&wrong], MeshConfig::default())
                .0
                .compile(&subject);
            let refused = match wrong.kind.as_str() {
                "NetworkPolicy" => {
                    matches!(
                        (&table.ingress, &table.egress),
                        (NetworkGate::Refused(_), NetworkGate::Refused(_))
                    )
                }
                "PeerAuthentication" => table.mutual_tls.refusal.is_some(),
                _ => table.authorization.refusal.is_some(),
            };
            assert!(refused, "{}", place.path);
        }
    }
    assert!(tried > 30, "only {tried}");
}
