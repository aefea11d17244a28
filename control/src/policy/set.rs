//! All policies of a mesh, indexed by namespace and label, and the table of one workload made from them. What does not
//! concern a workload costs it nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use squire_mesh::{
    policy::{Kind, LabelSelector, Operator, Table},
    workload::{UidKind, Workload},
};

use super::{MeshConfig, Parsed, Selects, build, kind_of, parse};
use crate::manifest::{Object, Problem, Severity};

/// What compiling needs to know of a workload.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: Vec<(&'a str, &'a str)>,
    /// Whether NetworkPolicies can select it: not on its node's network, and not a bare address.
    pub selectable: bool,
}

impl<'a> From<&'a Workload> for Subject<'a> {
    fn from(workload: &'a Workload) -> Self {
        Self {
            namespace: &workload.namespace,
            labels: workload.labels.iter().collect(),
            selectable: !workload.host_network && workload.uid.kind() != UidKind::Address,
        }
    }
}

type Id = (Kind, Box<str>, Box<str>);

/// All policies, understood.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    config: MeshConfig,
    all: BTreeMap<Id, Arc<Parsed>>,
    namespaces: HashMap<Box<str>, Index>,
}

/// The policies of one namespace: those that name a label under it, the others apart.
#[derive(Debug, Clone, Default)]
struct Index {
    unlabelled: Vec<Arc<Parsed>>,
    /// By key, then by value, of one label that they require.
    labelled: HashMap<Box<str>, ByValue>,
}

type ByValue = HashMap<Box<str>, Vec<Arc<Parsed>>>;

/// The workloads that a change concerns: those that the object selected before, or selects now.
#[derive(Debug, Clone, Default)]
pub struct Concern {
    root_namespace: String,
    objects: Vec<Arc<Parsed>>,
}

/// One object of a change.
#[derive(Debug, Clone, Copy)]
pub struct Changed<'c> {
    parsed: &'c Parsed,
    mesh_wide: bool,
}

/// Where the workloads that an object concerns are to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'c> {
    /// Nowhere.
    Nothing,
    /// Under a label that it requires.
    Label {
        /// The namespace; none: any.
        namespace: Option<&'c str>,
        /// The label.
        key: &'c str,
        /// Its value.
        value: &'c str,
    },
    /// Anywhere in a namespace.
    Namespace(&'c str),
    /// Anywhere.
    Mesh,
}

impl<'c> Changed<'c> {
    /// Where to look for the workloads that it concerns.
    #[must_use]
    pub fn reach(&self) -> Reach<'c> {
        let Selects::Labels(selector) = &self.parsed.selects else {
            return Reach::Nothing;
        };
        let namespace = (!self.mesh_wide).then_some(&*self.parsed.object.namespace);
        match (required(selector), namespace) {
            (Some((key, value)), namespace) => Reach::Label { namespace, key, value },
            (None, Some(namespace)) => Reach::Namespace(namespace),
            (None, None) => Reach::Mesh,
        }
    }

    /// Whether the table of a workload may have changed by it.
    #[must_use]
    pub fn concerns(&self, subject: &Subject<'_>) -> bool {
        (self.mesh_wide || *self.parsed.object.namespace == *subject.namespace) && selects(self.parsed, subject)
    }
}

impl PolicySet {
    /// Reads all policies among the objects, with the mesh settings. Objects of other kinds are passed over.
    #[must_use]
    pub fn from_objects<'o>(objects: impl IntoIterator<Item = &'o Object>, config: MeshConfig) -> (Self, Vec<Problem>) {
        let mut set = Self {
            config,
            ..Self::default()
        };
        let mut problems = Vec::new();
        for object in objects {
            let twice = set.contains(object);
            let (_, found) = set.apply(object);
            problems.extend(found);
            if twice {
                problems.push(object.problem(
                    Severity::Warning,
                    "metadata.name",
                    "defined before; this one counts",
                    "remove one",
                ));
            }
        }
        (set, problems)
    }

    /// The mesh settings.
    #[must_use]
    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds or replaces one object; says which workloads that concerns, and what is wrong with it.
    pub fn apply(&mut self, object: &Object) -> (Concern, Vec<Problem>) {
        let (parsed, problems) = parse(object, &self.config);
        let Some(parsed) = parsed else {
            return (Concern::default(), problems);
        };
        let parsed = Arc::new(parsed);
        let mut concern = self.remove(parsed.object.kind, &parsed.object.namespace, &parsed.object.name);
        concern.objects.push(Arc::clone(&parsed));
        self.namespaces
            .entry(parsed.object.namespace.clone())
            .or_default()
            .insert(Arc::clone(&parsed));
        self.all.insert(id(&parsed), parsed);
        (concern, problems)
    }

    /// Removes one object; says which workloads that concerns.
    pub fn remove(&mut self, kind: Kind, namespace: &str, name: &str) -> Concern {
        let mut concern = Concern {
            root_namespace: self.config.root_namespace.clone(),
            objects: Vec::new(),
        };
        if let Some(old) = self.all.remove(&(kind, namespace.into(), name.into())) {
            if let Some(index) = self.namespaces.get_mut(namespace) {
                index.remove(&old);
            }
            concern.objects.push(old);
        }
        concern
    }

    fn contains(&self, object: &Object) -> bool {
        kind_of(object).is_some_and(|kind| {
            self.all
                .contains_key(&(kind, object.namespace_or_default().into(), object.name.as_str().into()))
        })
    }

    /// The table of one workload.
    #[must_use]
    pub fn compile(&self, subject: &Subject<'_>) -> Table {
        let mut selected = Vec::new();
        self.select(subject.namespace, subject, &mut selected);
        if subject.namespace != self.config.root_namespace {
            let own = selected.len();
            self.select(&self.config.root_namespace, subject, &mut selected);
            // A NetworkPolicy never leaves its namespace.
            let mut index = 0;
            selected.retain(|parsed| {
                index += 1;
                index <= own || parsed.object.kind != Kind::NetworkPolicy
            });
        }
        selected.sort_by(|a, b| a.object.cmp(&b.object));
        build::table(&self.config, &selected)
    }

    fn select<'s>(&'s self, namespace: &str, subject: &Subject<'_>, selected: &mut Vec<&'s Parsed>) {
        let Some(index) = self.namespaces.get(namespace) else {
            return;
        };
        let labelled = subject
            .labels
            .iter()
            .filter_map(|(key, value)| index.labelled.get(*key)?.get(*value))
            .flatten();
        let candidates = index.unlabelled.iter().chain(labelled).map(|parsed| &**parsed);
        selected.extend(candidates.filter(|parsed| selects(parsed, subject)));
    }
}

impl Concern {
    /// The objects that were changed, as they were before and as they are now.
    pub fn objects(&self) -> impl Iterator<Item = Changed<'_>> {
        self.objects.iter().map(|parsed| {
            let root = *parsed.object.namespace == *self.root_namespace;
            Changed {
                parsed,
                mesh_wide: root && parsed.object.kind != Kind::NetworkPolicy,
            }
        })
    }

    /// Whether no workload is concerned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Both changes together.
    pub fn merge(&mut self, other: Self) {
        self.root_namespace = other.root_namespace;
        self.objects.extend(other.objects);
    }
}

fn id(parsed: &Parsed) -> Id {
    (
        parsed.object.kind,
        parsed.object.namespace.clone(),
        parsed.object.name.clone(),
    )
}

fn selects(parsed: &Parsed, subject: &Subject<'_>) -> bool {
    let selected = match &parsed.selects {
        Selects::Nothing => false,
        Selects::Labels(selector) => selector.matches(|key| label(subject, key)),
    };
    selected && (subject.selectable || parsed.object.kind != Kind::NetworkPolicy)
}

/// A label that everything selected must have.
fn required(LabelSelector(requirements): &LabelSelector) -> Option<(&str, &str)> {
    requirements.iter().find_map(|requirement| match &requirement.operator {
        Operator::In(values) => match &**values {
            [value] => Some((&*requirement.key, &**value)),
            _ => None,
        },
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    })
}

fn label<'a>(subject: &Subject<'a>, key: &str) -> Option<&'a str> {
    subject
        .labels
        .iter()
        .find(|(name, _)| *name == key)
        .map(|(_, value)| *value)
}

impl Index {
    fn insert(&mut self, parsed: Arc<Parsed>) {
        self.slot(&parsed).push(parsed);
    }

    fn remove(&mut self, parsed: &Arc<Parsed>) {
        self.slot(parsed).retain(|other| !Arc::ptr_eq(other, parsed));
    }

    fn slot(&mut self, parsed: &Parsed) -> &mut Vec<Arc<Parsed>> {
        let pair = match &parsed.selects {
            Selects::Labels(selector) => required(selector),
            Selects::Nothing => None,
        };
        match pair {
            Some((key, value)) => self
                .labelled
                .entry(key.into())
                .or_default()
                .entry(value.into())
                .or_default(),
            None => &mut self.unlabelled,
        }
    }
}
