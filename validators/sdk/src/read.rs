//! Turns an event's data into the author's type. Promises that whatever does not fit becomes a violation with its
//! pointer, and that several such reasons are reported together: after a failure the bad place is passed over with a
//! blank value and reading starts again. On data that fits, none of that costs anything.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::{self, Display};

use serde::de::value::{BorrowedStrDeserializer, MapDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::json::{Cursor, Malformed, RAW, RAW_NUMBER};
use crate::place::push_token;
use crate::{Place, Violation};

/// How often reading starts again to find one more reason.
const RESTARTS_MAX: usize = 32;

/// How many bytes are read again in all for that purpose, so that large hostile data uses up neither the deadline nor, where
/// none is given back, the memory.
const REREAD_BYTES_MAX: usize = 256 * 1024;

/// Reads data as `T`, or says every reason found why it does not fit.
pub(crate) fn read<'de, T: Deserialize<'de>>(data: &'de str) -> Result<T, Vec<Violation>> {
    let mut violations = Vec::new();
    let mut repairs = Vec::new();
    loop {
        let mut cursor = Cursor::new(data);
        let read = T::deserialize(Value { cursor: &mut cursor, path: &Place::DATA, repairs: &repairs })
            .and_then(|read| Ok(cursor.end().map(|()| read)?));
        let reason = match read {
            Ok(read) if violations.is_empty() => return Ok(read),
            Ok(_) => return Err(violations),
            Err(failure) => failure.located(&Place::DATA).0,
        };
        let pointer = reason.pointer.unwrap_or_default();
        if repairs.iter().any(|repair: &Repair| repair.covers(&pointer)) {
            return Err(violations);
        }
        let last = pointer.is_empty()
            || violations.len() >= RESTARTS_MAX
            || (violations.len() + 1) * data.len() > REREAD_BYTES_MAX;
        repairs.iter().for_each(|repair| repair.done.set(false));
        repairs.push(Repair {
            pointer: pointer.clone(),
            field: reason.field,
            by: reason.repair,
            done: Cell::new(false),
        });
        violations.push(Violation { pointer, code: reason.code.to_owned(), message: reason.message });
        if last {
            return Err(violations);
        }
    }
}

/// A place that is known to be bad, and what to do about it when reading comes by again.
struct Repair {
    pointer: String,
    /// The last token of the pointer, if a field is meant rather than a value.
    field: Option<String>,
    by: By,
    /// Whether a missing field was put in during this reading.
    done: Cell<bool>,
}

impl Repair {
    /// Whether `pointer` is the repaired place or lies within it.
    fn covers(&self, pointer: &str) -> bool {
        pointer.strip_prefix(self.pointer.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// Reads a blank value instead of what is there.
    Blanking,
    /// Puts in a field that is missing.
    Adding,
    /// Passes over a field as if it were not there.
    Skipping,
}

/// Why data does not fit. Boxed, so that the results on the way up stay small.
#[derive(Debug)]
struct Failure(Box<Reason>);

#[derive(Debug)]
struct Reason {
    /// Known once the failure leaves the value in which it arose.
    pointer: Option<String>,
    /// The field that is meant, of the object in which the failure arose.
    field: Option<String>,
    code: &'static str,
    message: String,
    repair: By,
}

impl Failure {
    fn new(code: &'static str, message: String) -> Self {
        Self(Box::new(Reason { pointer: None, field: None, code, message, repair: By::Blanking }))
    }

    fn of_field(code: &'static str, message: String, field: &str, repair: By) -> Self {
        Self(Box::new(Reason { pointer: None, field: Some(field.to_owned()), code, message, repair }))
    }

    fn located(mut self, path: &Place<'_>) -> Self {
        if self.0.pointer.is_none() {
            let pointer = path.pointer();
            self.0.pointer = Some(match &self.0.field {
                Some(field) => push_token(pointer, field),
                None => pointer,
            });
        }
        self
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        let mut failure = Self::new("json", format!("Send JSON: what is at byte {} is not.", malformed.at));
        failure.0.pointer = Some(String::new());
        failure
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<M: Display>(message: M) -> Self {
        Self::new("invalid", message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new("type", format!("Give {expected} here, not {}.", kind_of(&found)))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new("value", format!("Give {expected} here."))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new("length", format!("Give {expected} here, not {length} elements."))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new("unknown_value", format!("Give one of {} here.", listed(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("Take the field `{field}` away: the fields here are {}.", listed(expected));
        Self::of_field("unknown_field", message, field, By::Skipping)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::of_field("required", format!("Add the field `{field}`."), field, By::Adding)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::of_field("duplicate", format!("Give the field `{field}` only once."), field, By::Skipping)
    }
}

fn listed(words: &[&str]) -> String {
    let mut list = String::new();
    for word in words {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push('`');
        list.push_str(word);
        list.push('`');
    }
    list
}

fn kind_of(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Char(_) | Unexpected::Str(_) | Unexpected::Bytes(_) => "a string",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "a list",
        Unexpected::Map | Unexpected::NewtypeStruct => "an object",
        _ => "something else",
    }
}

/// The value in front of the cursor.
struct Value<'r, 'de> {
    cursor: &'r mut Cursor<'de>,
    path: &'r Place<'r>,
    repairs: &'r [Repair],
}

impl<'r, 'de> Value<'r, 'de> {
    fn mismatch(self, expected: &str) -> Failure {
        let found = match self.cursor.peek() {
            b'{' => "an object",
            b'[' => "a list",
            b'"' => "a string",
            b't' | b'f' => "a boolean",
            b'n' => "null",
            b'-' | b'0'..=b'9' => "a number",
            _ => return self.cursor.malformed().into(),
        };
        Failure::new("type", format!("Give {expected} here, not {found}."))
    }

    fn string(self) -> Result<Cow<'de, str>, Failure> {
        if self.cursor.peek() == b'"' { Ok(self.cursor.content()?) } else { Err(self.mismatch("a string")) }
    }

    /// Takes a number of a type whose name for people is `expected`.
    fn number<N: std::str::FromStr>(self, expected: impl FnOnce() -> String) -> Result<N, Failure> {
        if !matches!(self.cursor.peek(), b'-' | b'0'..=b'9') {
            return Err(self.mismatch(&expected()));
        }
        let text = self.cursor.number()?;
        text.parse().map_err(|_| Failure::new("value", format!("Give {} here.", expected())))
    }

    fn list<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.cursor.peek() != b'[' {
            return Err(self.mismatch("a list"));
        }
        self.cursor.take(b'[');
        let mut list = List { cursor: self.cursor, path: self.path, repairs: self.repairs, next: 0, ended: false };
        let value = visitor.visit_seq(&mut list)?;
        if list.ended || list.cursor.take(b']') {
            Ok(value)
        } else {
            Err(Failure::new("length", format!("Give no more than {} elements here.", list.next)))
        }
    }

    fn object<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.cursor.peek() != b'{' {
            return Err(self.mismatch("an object"));
        }
        self.cursor.take(b'{');
        let mut members = Members {
            cursor: self.cursor,
            path: self.path,
            repairs: self.repairs,
            key: Cow::Borrowed(""),
            first: true,
            ended: false,
            blank: false,
        };
        visitor.visit_map(&mut members)
    }
}

fn visit_text<'de, V: Visitor<'de>>(text: Cow<'de, str>, visitor: V) -> Result<V::Value, Failure> {
    match text {
        Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
        Cow::Owned(text) => visitor.visit_string(text),
    }
}

/// The methods for numbers: each parses the text as the type that is asked for, so that none loses a digit on the way.
macro_rules! whole_numbers {
    ($($method:ident $visit:ident $number:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            let expected = || format!("a whole number from {} to {}", <$number>::MIN, <$number>::MAX);
            visitor.$visit(self.number::<$number>(expected)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'_, 'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.cursor.peek() {
            b'{' => self.object(visitor),
            b'[' => self.list(visitor),
            b'"' => visit_text(self.string()?, visitor),
            b't' | b'f' => self.deserialize_bool(visitor),
            b'n' => self.deserialize_unit(visitor),
            _ => {
                let text = self.cursor.number()?;
                if let Ok(number) = text.parse() {
                    visitor.visit_u64(number)
                } else if let Ok(number) = text.parse() {
                    visitor.visit_i64(number)
                } else {
                    visitor.visit_f64(text.parse().unwrap_or_default())
                }
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.cursor.peek() {
            b't' | b'f' => visitor.visit_bool(self.cursor.word()? == "true"),
            _ => Err(self.mismatch("a boolean")),
        }
    }

    whole_numbers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_i128 visit_i128 i128,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128,
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_f32(self.number(|| "a number".to_owned())?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_f64(self.number(|| "a number".to_owned())?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visit_text(self.string()?, visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visit_text(self.string()?, visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visit_text(self.string()?, visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visit_text(self.string()?, visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.cursor.peek() {
            b'[' => self.list(visitor),
            _ => visit_text(self.string()?, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.cursor.peek() == b'n' {
            self.cursor.word()?;
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.cursor.peek() != b'n' {
            return Err(self.mismatch("null"));
        }
        self.cursor.word()?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Failure> {
        match name {
            RAW | RAW_NUMBER => visitor.visit_borrowed_str(self.cursor.value()?),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.list(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.list(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.object(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.object(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        if self.cursor.peek() == b'"' {
            return visitor.visit_enum(Variant { name: self.cursor.content()?, content: None });
        }
        if !self.cursor.take(b'{') {
            return Err(self.mismatch("a string"));
        }
        let name = self.cursor.key_content()?;
        let key = name.clone();
        let path = Place::Key(self.path, &key);
        let content = Value { cursor: &mut *self.cursor, path: &path, repairs: self.repairs };
        let value = visitor
            .visit_enum(Variant { name, content: Some(content) })
            .map_err(|failure: Failure| failure.located(&path))?;
        self.cursor.expect(b'}')?;
        Ok(value)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.cursor.value()?;
        visitor.visit_unit()
    }
}

/// The elements of a list, behind its opening bracket.
struct List<'r, 'de> {
    cursor: &'r mut Cursor<'de>,
    path: &'r Place<'r>,
    repairs: &'r [Repair],
    next: usize,
    ended: bool,
}

impl<'de> SeqAccess<'de> for List<'_, 'de> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        if !self.ended {
            self.ended = match self.next {
                0 => self.cursor.take(b']'),
                _ if self.cursor.take(b',') => false,
                _ => self.cursor.expect(b']').map(|()| true)?,
            };
        }
        if self.ended {
            return Ok(None);
        }
        let path = Place::Item(self.path, self.next);
        self.next += 1;
        read_within(self.cursor, &path, self.repairs, seed).map(Some)
    }
}

/// The members of an object, behind its opening brace.
struct Members<'r, 'de> {
    cursor: &'r mut Cursor<'de>,
    path: &'r Place<'r>,
    repairs: &'r [Repair],
    key: Cow<'de, str>,
    first: bool,
    ended: bool,
    /// Whether the value to read next is a blank one.
    blank: bool,
}

impl Members<'_, '_> {
    /// Moves to the next key, and past the object's end if there is none.
    fn advance(&mut self) -> Result<(), Failure> {
        loop {
            let first = std::mem::replace(&mut self.first, false);
            self.ended = if first { self.cursor.take(b'}') } else { !self.cursor.take(b',') };
            if self.ended {
                return if first { Ok(()) } else { Ok(self.cursor.expect(b'}')?) };
            }
            self.key = self.cursor.key_content()?;
            if self.repairs.is_empty() || !is_repaired(self.repairs, &Place::Key(self.path, &self.key), By::Skipping) {
                return Ok(());
            }
            self.cursor.value()?;
        }
    }

    /// The next missing field to put into this object.
    fn missing(&self) -> Option<String> {
        if self.repairs.is_empty() {
            return None;
        }
        let here = self.path.pointer();
        self.repairs.iter().find_map(|repair| {
            let field = repair.field.as_deref()?;
            let missing = repair.by == By::Adding && push_token(here.clone(), field) == repair.pointer;
            (missing && !repair.done.replace(true)).then(|| field.to_owned())
        })
    }
}

impl<'de> MapAccess<'de> for Members<'_, 'de> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        if !self.ended {
            self.advance()?;
        }
        if self.ended {
            let Some(field) = self.missing() else {
                return Ok(None);
            };
            self.key = Cow::Owned(field);
            self.blank = true;
        }
        seed.deserialize(Key(self.key.clone())).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let path = Place::Key(self.path, &self.key);
        if self.blank {
            seed.deserialize(Blank).map_err(|failure| failure.located(&path))
        } else {
            read_within(self.cursor, &path, self.repairs, seed)
        }
    }
}

/// Reads a value within an object or a list.
fn read_within<'de, S: DeserializeSeed<'de>>(
    cursor: &mut Cursor<'de>,
    path: &Place<'_>,
    repairs: &[Repair],
    seed: S,
) -> Result<S::Value, Failure> {
    let read = if !repairs.is_empty() && is_repaired(repairs, path, By::Blanking) {
        cursor.value()?;
        seed.deserialize(Blank)
    } else {
        seed.deserialize(Value { cursor, path, repairs })
    };
    read.map_err(|failure| failure.located(path))
}

fn is_repaired(repairs: &[Repair], path: &Place<'_>, by: By) -> bool {
    let pointer = path.pointer();
    repairs.iter().any(|repair| repair.by == by && repair.pointer == pointer)
}

/// The key of a member, or the name of an enum's variant.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visit_text(self.0, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The chosen variant of an enum, with its content if it has any.
struct Variant<'r, 'de> {
    name: Cow<'de, str>,
    content: Option<Value<'r, 'de>>,
}

impl<'r, 'de> EnumAccess<'de> for Variant<'r, 'de> {
    type Error = Failure;
    type Variant = Content<'r, 'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), Failure> {
        Ok((seed.deserialize(Key(self.name))?, Content(self.content)))
    }
}

struct Content<'r, 'de>(Option<Value<'r, 'de>>);

impl<'r, 'de> Content<'r, 'de> {
    fn value(self) -> Result<Value<'r, 'de>, Failure> {
        self.0.ok_or_else(|| Failure::new("type", "Give an object with the content of this variant here.".to_owned()))
    }
}

impl<'de> VariantAccess<'de> for Content<'_, 'de> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        match self.0 {
            Some(value) => <()>::deserialize(value),
            None => Ok(()),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failure> {
        seed.deserialize(self.value()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.value()?.list(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Failure> {
        self.value()?.object(visitor)
    }
}

/// Fits whatever is asked for, as far as that can be: what stands in for a value that does not fit, so that reading
/// can go on to the next reason.
struct Blank;

macro_rules! blanks {
    ($($method:ident $visit:ident $blank:expr,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            visitor.$visit($blank)
        }
    )*};
}

impl<'de> Deserializer<'de> for Blank {
    type Error = Failure;

    blanks! {
        deserialize_bool visit_bool false,
        deserialize_i8 visit_i8 0,
        deserialize_i16 visit_i16 0,
        deserialize_i32 visit_i32 0,
        deserialize_i64 visit_i64 0,
        deserialize_i128 visit_i128 0,
        deserialize_u8 visit_u8 0,
        deserialize_u16 visit_u16 0,
        deserialize_u32 visit_u32 0,
        deserialize_u64 visit_u64 0,
        deserialize_u128 visit_u128 0,
        deserialize_f32 visit_f32 0.0,
        deserialize_f64 visit_f64 0.0,
        deserialize_char visit_char ' ',
        deserialize_str visit_borrowed_str "",
        deserialize_string visit_borrowed_str "",
        deserialize_bytes visit_borrowed_bytes b"",
        deserialize_byte_buf visit_borrowed_bytes b"",
        deserialize_identifier visit_borrowed_str "",
        deserialize_seq visit_seq Blanks(0),
        deserialize_map visit_map MapDeserializer::new(std::iter::empty::<(&str, &str)>()),
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_none()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Failure> {
        match name {
            RAW => visitor.visit_borrowed_str("{}"),
            RAW_NUMBER => visitor.visit_borrowed_str("0"),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_seq(Blanks(length))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_seq(Blanks(length))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_seq(Blanks(fields.len()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_enum(BorrowedStrDeserializer::new(variants.first().copied().unwrap_or_default()))
    }
}

/// As many blanks as are asked for; what a derived struct or a tuple takes in place of its fields.
struct Blanks(usize);

impl<'de> SeqAccess<'de> for Blanks {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        if self.0 == 0 {
            return Ok(None);
        }
        self.0 -= 1;
        seed.deserialize(Blank).map(Some)
    }
}
