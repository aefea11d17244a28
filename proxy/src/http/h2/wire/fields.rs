//! The fields of a head or of trailers as they travel through the sidecar: one buffer of bytes and where each field lies in
//! it, in the order received, pseudo-header fields first. It checks nothing.

/// Where one field lies: its name, then its value.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u32,
    name: u32,
    value: u32,
    sensitive: bool,
}

/// Fields in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldList {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Never to be put into a compression table (RFC 7541 §7.1.3).
    pub(crate) sensitive: bool,
}

impl Field<'_> {
    /// Whether it is a pseudo-header field.
    pub(crate) fn is_pseudo(&self) -> bool {
        self.name.first() == Some(&b':')
    }

    /// Its size in the measure of RFC 9113 §6.5.2.
    pub(crate) fn size(&self) -> usize {
        self.name.len() + self.value.len() + 32
    }
}

impl FieldList {
    /// With room for a head of the usual size.
    pub(crate) fn with_room(bytes: usize, fields: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            places: Vec::with_capacity(fields),
        }
    }

    /// The same fields, with room for others behind them.
    pub(crate) fn clone_with_room(&self, bytes: usize, fields: usize) -> Self {
        let mut clone = Self::with_room(self.bytes.len() + bytes, self.places.len() + fields);
        clone.bytes.extend_from_slice(&self.bytes);
        clone.places.extend_from_slice(&self.places);
        clone
    }

    /// Adds a field behind the others.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_field(Field {
            name,
            value,
            sensitive: false,
        });
    }

    /// The same, as it was.
    pub(crate) fn push_field(&mut self, field: Field<'_>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(field.name);
        self.bytes.extend_from_slice(field.value);
        self.places.push(Place {
            at: narrow(at),
            name: narrow(field.name.len()),
            value: narrow(field.value.len()),
            sensitive: field.sensitive,
        });
    }

    /// Adds a field whose bytes (name, then value) `write` appends; it returns the length of the name.
    pub(super) fn push_with<E>(
        &mut self,
        sensitive: bool,
        write: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
    ) -> Result<Field<'_>, E> {
        let at = self.bytes.len();
        let name = match write(&mut self.bytes) {
            Ok(name) => name,
            Err(error) => {
                self.bytes.truncate(at);
                return Err(error);
            }
        };
        let place = Place {
            at: narrow(at),
            name: narrow(name),
            value: narrow(self.bytes.len() - at - name),
            sensitive,
        };
        self.places.push(place);
        Ok(self.field(place))
    }

    /// Takes the last field away.
    pub(super) fn pop(&mut self) {
        if let Some(place) = self.places.pop() {
            self.bytes.truncate(place.at as usize);
        }
    }

    /// All fields in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.places.iter().map(|place| self.field(*place))
    }

    /// How many fields there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The first value of a name (lower case; `:…` for a pseudo-header field).
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// All values of a name, in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let name = name.as_bytes();
        self.places
            .iter()
            .filter(move |place| place.name as usize == name.len())
            .map(|place| self.field(*place))
            .filter(move |field| field.name == name)
            .map(|field| field.value)
    }

    /// Keeps only the fields that `keep` wants.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let Self { bytes, places } = self;
        places.retain(|place| keep(field_at(bytes, *place)));
    }

    /// Removes every field of this name.
    pub(crate) fn remove(&mut self, name: &str) {
        self.retain(|field| field.name != name.as_bytes());
    }

    /// One field in place of every one of this name.
    pub(crate) fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.push(name.as_bytes(), value);
    }

    /// Gives the first field of this name another value, where it stands; false: there is none.
    pub(crate) fn replace(&mut self, name: &str, value: &[u8]) -> bool {
        let found = self
            .places
            .iter()
            .position(|place| self.field(*place).name == name.as_bytes());
        let Some(index) = found else { return false };
        let at = self.bytes.len();
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(value);
        self.places[index] = Place {
            at: narrow(at),
            value: narrow(value.len()),
            ..self.places[index]
        };
        true
    }

    /// Puts a field before all others, as a pseudo-header field has to be.
    pub(crate) fn put_first(&mut self, name: &str, value: &[u8]) {
        self.push(name.as_bytes(), value);
        self.places.rotate_right(1);
    }

    fn field(&self, place: Place) -> Field<'_> {
        field_at(&self.bytes, place)
    }
}

fn field_at(bytes: &[u8], place: Place) -> Field<'_> {
    let (name, value) = bytes[place.at as usize..][..(place.name + place.value) as usize].split_at(place.name as usize);
    Field {
        name,
        value,
        sensitive: place.sensitive,
    }
}

/// Heads are bounded far below 4 GiB.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_in_order_whatever_is_changed() {
        let mut list = FieldList::default();
        for (name, value) in [("b", "1"), (":path", "/"), ("b", "2"), ("c", "3")] {
            list.push(name.as_bytes(), value.as_bytes());
        }
        assert_eq!(list.get("b"), Some(&b"1"[..]));
        assert_eq!(list.all("b").count(), 2);
        assert!(list.replace(":path", b"/longer"));
        assert!(!list.replace("none", b""));
        list.set("c", b"4");
        list.remove("b");
        list.put_first(":method", b"GET");
        let all: Vec<_> = list.iter().map(|field| (field.name, field.value)).collect();
        let expected: [(&[u8], &[u8]); 3] = [(b":method", b"GET"), (b":path", b"/longer"), (b"c", b"4")];
        assert_eq!(all, expected);
    }
}
