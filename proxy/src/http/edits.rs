//! What is to be changed in a request head before it is forwarded: asked for by tokens, providers and routes, carried out
//! where the head is written.

/// Changes to a request head. Removals come first, then what is set, then what is added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    /// Names (lower case) of fields that are left out.
    pub(crate) remove: Vec<Box<str>>,
    /// Fields (name in lower case) that replace all of their name.
    pub(crate) set: Vec<(Box<str>, Box<[u8]>)>,
    /// Fields (name in lower case) that are added to those of their name.
    pub(crate) add: Vec<(Box<str>, Box<[u8]>)>,
    /// A new target (path and query).
    pub(crate) target: Option<Box<str>>,
}

impl Edits {
    /// Whether there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty() && self.target.is_none()
    }

    /// Whether fields of this name (lower case) in the request are left out.
    pub(crate) fn drops(&self, name: &str) -> bool {
        self.remove.iter().any(|removed| **removed == *name) || self.set.iter().any(|(set, _)| **set == *name)
    }

    /// Both, `later` winning where they differ.
    pub(crate) fn then(mut self, later: Self) -> Self {
        self.set.retain(|(name, _)| !later.drops(name));
        self.add.retain(|(name, _)| !later.drops(name));
        self.remove.extend(later.remove);
        self.set.extend(later.set);
        self.add.extend(later.add);
        self.target = later.target.or(self.target);
        self
    }
}
