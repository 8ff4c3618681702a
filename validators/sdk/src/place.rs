//! Where in the data a value stands. A place is a list on the stack, which costs nothing until a violation asks for its
//! pointer.

use std::borrow::Cow;

/// The place of a value in an event's data. It becomes an RFC 6901 pointer only when a rule does not hold.
///
/// ```
/// use eye_validator::Place;
///
/// let items = Place::from("/items");
/// let third = items.item(2);
/// assert_eq!(third.key("a/b").pointer(), "/items/2/a~1b");
/// ```
#[derive(Clone, Debug)]
pub enum Place<'p> {
    /// The place that a pointer names; the empty one is the whole data.
    Pointer(Cow<'p, str>),
    /// The value of a key.
    Key(&'p Place<'p>, &'p str),
    /// An element of a list, from 0.
    Item(&'p Place<'p>, usize),
}

impl<'p> Place<'p> {
    /// The whole data.
    pub const DATA: Self = Self::Pointer(Cow::Borrowed(""));

    /// The value of a key within this one.
    pub fn key(&'p self, key: &'p str) -> Self {
        Self::Key(self, key)
    }

    /// An element of this list, from 0.
    pub fn item(&'p self, index: usize) -> Self {
        Self::Item(self, index)
    }

    /// The RFC 6901 pointer.
    pub fn pointer(&self) -> String {
        match self {
            Self::Pointer(pointer) => pointer.clone().into_owned(),
            Self::Key(parent, key) => push_token(parent.pointer(), key),
            Self::Item(parent, index) => push_token(parent.pointer(), &index.to_string()),
        }
    }
}

impl<'p> From<&'p str> for Place<'p> {
    fn from(pointer: &'p str) -> Self {
        Self::Pointer(Cow::Borrowed(pointer))
    }
}

impl From<String> for Place<'_> {
    fn from(pointer: String) -> Self {
        Self::Pointer(Cow::Owned(pointer))
    }
}

impl<'p> From<&'p String> for Place<'p> {
    fn from(pointer: &'p String) -> Self {
        Self::Pointer(Cow::Borrowed(pointer))
    }
}

impl<'p> From<&'p Place<'p>> for Place<'p> {
    fn from(place: &'p Place<'p>) -> Self {
        place.clone()
    }
}

/// Makes an RFC 6901 pointer of keys and indexes: `pointer(["commits", "0", "a/b"])` is `/commits/0/a~1b`.
pub fn pointer<'a>(tokens: impl IntoIterator<Item = &'a str>) -> String {
    tokens.into_iter().fold(String::new(), push_token)
}

pub(crate) fn push_token(mut pointer: String, token: &str) -> String {
    pointer.push('/');
    for char in token.chars() {
        match char {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            _ => pointer.push(char),
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_escapes_its_tokens() {
        assert_eq!(pointer([]), "");
        assert_eq!(pointer(["a/b", "~", "0", ""]), "/a~1b/~0/0/");
    }

    #[test]
    fn a_place_is_the_pointer_of_its_parts() {
        assert_eq!(Place::DATA.pointer(), "");
        assert_eq!(Place::DATA.key("~").pointer(), "/~0");
        assert_eq!(Place::from("/items").item(3).key("sku").pointer(), "/items/3/sku");
    }
}
