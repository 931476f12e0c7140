//! JSON that stops growing once its request has outgrown its bucket.
//!
//! A parser that is not told goes on to the end of the document: a body of 1 MB, each three bytes of which become 32, would
//! need more than a request's share of the overdraft, and the bucket with it. Here every element of a list, entry of a map
//! and variant of an enum asks first; so does each step by which an answer grows. What an error says of a document is short.
//!
//! # What serde buffers
//!
//! An untagged or tagged enum, or a flattened struct, is read in two passes: serde first reads the whole value into a buffer of its
//! own, and then what is wanted out of that. The second pass asks nobody, so the first one reckons what it will need, and
//! gives up when that is more than what is free. Only a guess is possible, for nothing here knows the type that is wanted:
//! see [`ELEMENT`] and [`COPY`].

use crate::failure::{Failure, append};
use crate::request::Memory;
use crate::short::Short;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::{Deserialize, Serialize};
use std::any::type_name;
use std::cell::Cell;
use std::fmt::{self, Display};
use std::io::{self, Write};
use transom_arena::exhausted;

/// What an error says of a document, in bytes.
const SAID: usize = 256;

/// What the second pass is reckoned to make of each element of what is buffered, in bytes: the size of a large struct, all of
/// whose fields may be left out.
const ELEMENT: usize = 256;

/// An enum that holds itself copies the buffer of what lies in it once more at each level. An entry of a map is copied into so many
/// bytes.
const COPY: usize = 64;

/// Reads a whole document.
pub(crate) fn read<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, Failure> {
    let before = BUFFERED.replace(Buffered::NOTHING);
    let mut parser = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(Stopping::<_>(&mut parser)).map_err(|Brief(error)| error);
    let buffered = BUFFERED.replace(before);
    let value = value.and_then(|value| parser.end().map(|()| value));
    value.map_err(|error| match buffered.too_much {
        true => Failure::internal(
            "a document is more than what can be read here into a type that serde buffers (an untagged or tagged enum, a \
             flattened struct): raise --bucket-size",
        ),
        false => Failure::bad_request(format!(
            "the body is not the JSON that is expected here: {error}"
        )),
    })
}

/// What the document that this thread reads has in serde's buffer.
#[derive(Clone, Copy)]
struct Buffered {
    /// Bytes that the second pass is reckoned to need.
    reckoned: usize,
    /// Lists and maps of the buffer around the present one.
    depth: usize,
    too_much: bool,
}

impl Buffered {
    const NOTHING: Buffered = Buffered {
        reckoned: 0,
        depth: 0,
        too_much: false,
    };
}

thread_local! {
    static BUFFERED: Cell<Buffered> = const { Cell::new(Buffered::NOTHING) };
}

#[inline]
fn change(change: impl FnOnce(&mut Buffered)) {
    let mut buffered = BUFFERED.get();
    change(&mut buffered);
    BUFFERED.set(buffered);
}

/// Whether this is serde's buffer. It is private, and known by its name only.
fn is_buffer<T>() -> bool {
    size_of::<T>() == 32 && type_name::<T>().starts_with("serde_core::private::content::Content")
}

/// Reads a `T` that is part of something: of the buffer, which holds it until the second pass, or of a value. When a value
/// is there, so is all that was read out of a buffer for it.
#[inline]
fn part<T, R, E: Error>(read: impl FnOnce() -> Result<R, E>) -> Result<R, Brief<E>> {
    unless_exhausted()?;
    if is_buffer::<T>() {
        reckon()?;
        return read().map_err(Brief);
    }
    let before = BUFFERED.get().reckoned;
    let value = read();
    change(|buffered| buffered.reckoned = before);
    value.map_err(Brief)
}

fn reckon<E: Error>() -> Result<(), E> {
    let mut buffered = BUFFERED.get();
    buffered.reckoned += ELEMENT.max(COPY * buffered.depth);
    buffered.too_much = Memory::now().is_some_and(|memory| buffered.reckoned > memory.free);
    BUFFERED.set(buffered);
    match buffered.too_much {
        false => Ok(()),
        true => Err(E::custom("it is too much")),
    }
}

/// Reads a list or a map that is a `T`.
#[inline]
fn deeper<T, R>(read: impl FnOnce() -> R) -> R {
    if !is_buffer::<T>() {
        return read();
    }
    change(|buffered| buffered.depth += 1);
    let value = read();
    change(|buffered| buffered.depth -= 1);
    value
}

/// A parser's error, that says little of what is in the document.
#[derive(Debug)]
struct Brief<E>(E);

impl<E: Display> Display for Brief<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: Error> std::error::Error for Brief<E> {}

impl<E: Error> Error for Brief<E> {
    #[cold]
    fn custom<T: Display>(message: T) -> Self {
        Brief(E::custom(Short(SAID, message)))
    }

    #[cold]
    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match unexpected {
            Unexpected::Str(_) => Self::custom(format_args!(
                "invalid type: {}, expected {expected}",
                Short(SAID / 2, unexpected)
            )),
            _ => Brief(E::invalid_type(unexpected, expected)),
        }
    }

    #[cold]
    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match unexpected {
            Unexpected::Str(_) => Self::custom(format_args!(
                "invalid value: {}, expected {expected}",
                Short(SAID / 2, unexpected)
            )),
            _ => Brief(E::invalid_value(unexpected, expected)),
        }
    }
}

/// Writes a value. It stops growing at the mark.
pub(crate) fn write(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Vec<u8>> {
    let mut out = Growing(Vec::with_capacity(128));
    serde_json::to_writer(&mut out, value)?;
    Ok(out.0)
}

struct Growing(Vec<u8>);

impl Write for Growing {
    #[inline]
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.write_all(part)?;
        Ok(part.len())
    }

    #[inline]
    fn write_all(&mut self, part: &[u8]) -> io::Result<()> {
        append(&mut self.0, part)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A part of a parser, or of what it builds: does what the part does, after it has asked. `KEY` is whether it is that of a map's
/// key.
struct Stopping<T, const KEY: bool = false>(T);

#[inline]
fn unless_exhausted<E: Error>() -> Result<(), E> {
    match exhausted() {
        None => Ok(()),
        Some(_) => Err(E::custom("the request has outgrown its bucket")),
    }
}

macro_rules! pass_on {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Self::Error> {
            self.0.$method($($name,)* Stopping::<V, KEY>(visitor)).map_err(Brief)
        }
    )*};
}

/// Asked for one of these, the parser would make an error of its own out of a text of any length. Asked for anything, it gives the
/// same, and leaves errors to the visitor. Of a key, which is always text, it must know what it shall be read as.
macro_rules! pass_on_as_any {
    ($($method:ident($($name:ident: $type:ty),*) if $sound:expr;)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Self::Error> {
            let visitor = Stopping::<V, KEY>(visitor);
            match KEY || !$sound {
                false => self.0.deserialize_any(visitor),
                true => self.0.$method($($name,)* visitor),
            }
            .map_err(Brief)
        }
    )*};
}

/// With its feature `arbitrary_precision`, serde_json's "anything" is not a number where there is one.
const PLAIN_NUMBERS: bool = size_of::<serde_json::Number>() == 16;

impl<'de, D: Deserializer<'de>, const KEY: bool> Deserializer<'de> for Stopping<D, KEY> {
    type Error = Brief<D::Error>;

    pass_on! {
        deserialize_any();
        deserialize_i128();
        deserialize_u128();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_newtype_struct(name: &'static str);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    pass_on_as_any! {
        deserialize_bool() if true;
        deserialize_i8() if PLAIN_NUMBERS;
        deserialize_i16() if PLAIN_NUMBERS;
        deserialize_i32() if PLAIN_NUMBERS;
        deserialize_i64() if PLAIN_NUMBERS;
        deserialize_u8() if PLAIN_NUMBERS;
        deserialize_u16() if PLAIN_NUMBERS;
        deserialize_u32() if PLAIN_NUMBERS;
        deserialize_u64() if PLAIN_NUMBERS;
        deserialize_f32() if PLAIN_NUMBERS;
        deserialize_f64() if PLAIN_NUMBERS;
        deserialize_unit() if true;
        deserialize_unit_struct(name: &'static str) if true;
        deserialize_seq() if true;
        deserialize_tuple(len: usize) if true;
        deserialize_tuple_struct(name: &'static str, len: usize) if true;
        deserialize_map() if true;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) if true;
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($($value:ident: $type:ty)?);)*) => {$(
        #[inline]
        fn $method<E: Error>(self, $($value: $type)?) -> Result<V::Value, E> {
            self.0.$method($($value)?).map_err(|Brief(error)| error)
        }
    )*};
}

impl<'de, V: Visitor<'de>, const KEY: bool> Visitor<'de> for Stopping<V, KEY> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    visit! {
        visit_bool(value: bool);
        visit_i8(value: i8);
        visit_i16(value: i16);
        visit_i32(value: i32);
        visit_i64(value: i64);
        visit_i128(value: i128);
        visit_u8(value: u8);
        visit_u16(value: u16);
        visit_u32(value: u32);
        visit_u64(value: u64);
        visit_u128(value: u128);
        visit_f32(value: f32);
        visit_f64(value: f64);
        visit_char(value: char);
        visit_str(value: &str);
        visit_borrowed_str(value: &'de str);
        visit_string(value: String);
        visit_bytes(value: &[u8]);
        visit_borrowed_bytes(value: &'de [u8]);
        visit_byte_buf(value: Vec<u8>);
        visit_none();
        visit_unit();
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0
            .visit_some(Stopping::<D, KEY>(value))
            .map_err(|Brief(error)| error)
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0
            .visit_newtype_struct(Stopping::<D, KEY>(value))
            .map_err(|Brief(error)| error)
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        deeper::<V::Value, _>(|| self.0.visit_seq(Stopping::<A>(elements)))
            .map_err(|Brief(error)| error)
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        deeper::<V::Value, _>(|| self.0.visit_map(Stopping::<A>(entries)))
            .map_err(|Brief(error)| error)
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.0
            .visit_enum(Stopping::<A>(variant))
            .map_err(|Brief(error)| error)
    }
}

impl<'de, S: DeserializeSeed<'de>, const KEY: bool> DeserializeSeed<'de> for Stopping<S, KEY> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<S::Value, D::Error> {
        self.0
            .deserialize(Stopping::<D, KEY>(value))
            .map_err(|Brief(error)| error)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Stopping<A> {
    type Error = Brief<A::Error>;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        part::<S::Value, _, _>(|| self.0.next_element_seed(Stopping::<S>(seed)))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Stopping<A> {
    type Error = Brief<A::Error>;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        unless_exhausted()?;
        self.0
            .next_key_seed(Stopping::<S, true>(seed))
            .map_err(Brief)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, Self::Error> {
        part::<S::Value, _, _>(|| self.0.next_value_seed(Stopping::<S>(seed)))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Stopping<A> {
    type Error = Brief<A::Error>;
    type Variant = Stopping<A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), Self::Error> {
        unless_exhausted()?;
        let (name, variant) = self.0.variant_seed(Stopping::<S>(seed)).map_err(Brief)?;
        Ok((name, Stopping(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Stopping<A> {
    type Error = Brief<A::Error>;

    #[inline]
    fn unit_variant(self) -> Result<(), Self::Error> {
        self.0.unit_variant().map_err(Brief)
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, Self::Error> {
        self.0
            .newtype_variant_seed(Stopping::<S>(seed))
            .map_err(Brief)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0
            .tuple_variant(len, Stopping::<V>(visitor))
            .map_err(Brief)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0
            .struct_variant(fields, Stopping::<V>(visitor))
            .map_err(Brief)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static SEEN: Cell<usize> = const { Cell::new(0) };
    }

    /// Looks at what has been reckoned when the first pass over a list of it is over.
    struct Looks;

    impl<'de> Deserialize<'de> for Looks {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            u64::deserialize(from)?;
            SEEN.set(BUFFERED.get().reckoned);
            Ok(Looks)
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "it is only read into")]
    enum Untagged {
        List(Vec<Looks>),
        Lists(Vec<Vec<Looks>>),
    }

    fn reckoned<T: for<'de> Deserialize<'de>>(json: &str) -> usize {
        SEEN.set(usize::MAX);
        assert!(read::<T>(json.as_bytes()).is_ok(), "{json}");
        SEEN.get()
    }

    /// Fails when serde calls its buffer something else: then [`is_buffer`] must be told.
    #[test]
    fn what_serde_buffers_is_reckoned_until_its_value_is_there() {
        // The end of a list counts as one more.
        assert_eq!(reckoned::<Untagged>("[1, 2, 3]"), 4 * ELEMENT);
        assert_eq!(reckoned::<Untagged>("[[1, 2], [3]]"), 8 * ELEMENT);
        assert_eq!(
            reckoned::<Vec<Untagged>>("[[1, 2, 3], [1], [1, 2]]"),
            3 * ELEMENT
        );
        assert_eq!(reckoned::<Vec<Looks>>("[1, 2, 3]"), 0);
        assert_eq!(BUFFERED.get().reckoned, 0);
    }

    #[test]
    fn what_is_deep_is_reckoned_to_be_copied() {
        #[derive(Deserialize)]
        #[serde(untagged)]
        #[expect(dead_code, reason = "it is only read into")]
        enum Tree {
            Leaf(Looks),
            Many(Vec<Tree>),
        }
        let deep = format!("{}1{}", "[".repeat(20), "]".repeat(20));
        let copied: usize = (1..=20).map(|depth| 2 * ELEMENT.max(COPY * depth)).sum();
        assert_eq!(reckoned::<Tree>(&deep), copied);
    }
}
