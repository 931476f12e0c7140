//! JSON that is read.
//!
//! # What serde buffers
//!
//! An untagged or tagged enum, or a flattened struct, is read in two passes: serde first reads the whole
//! value into a buffer of its own, and then builds the wanted type out of that. The second pass does not ask
//! for room, so the first one estimates what it will need, and gives up when that is more than what is free.
//! It can only guess, because it does not know the wanted type: see [`ELEMENT`] and [`COPY`].

use crate::failure::Failure;
use crate::memory::Memory;
use crate::short::Short;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use std::any::type_name;
use std::cell::Cell;
use std::fmt::{self, Display};
use transom_arena::{exhausted, note_spare, overdraft_share};

/// What an error says of a document, in bytes.
const SAID: usize = 256;

/// A text of which an error may say all, in bytes.
const LONG: usize = 4096;

/// What the second pass is estimated to need for each element that is buffered, in bytes: the size of a large
/// struct, all of whose fields may be left out; and the element in the buffer itself.
const ELEMENT: usize = 256 + 64;

/// An enum that holds itself copies the buffer of what lies in it once more at each level. An entry of a map
/// is copied into so many bytes.
const COPY: usize = 64;

/// Reads a whole document.
pub(crate) fn read<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, Failure> {
    read_with(NOT_ASKED, json)
}

/// The same; so many bytes are left for what serde makes of its buffer.
fn read_with<'de, T: Deserialize<'de>>(left: usize, json: &'de [u8]) -> Result<T, Failure> {
    // A `Deserialize` may read a document of its own meanwhile.
    let before = BUFFER.with(|buffer| {
        buffer.held.set(false);
        buffer.too_much.set(false);
        (buffer.left.replace(left), buffer.depth.replace(0))
    });
    let mut parser = serde_json::Deserializer::from_slice(json);
    let value =
        T::deserialize(Stopping::<_>(&mut parser)).and_then(|value| parser.end().map(|()| value));
    let too_much = BUFFER.with(|buffer| {
        buffer.left.set(before.0);
        buffer.depth.set(before.1);
        buffer.too_much.get()
    });
    value.map_err(|error| match too_much {
        true => Failure::internal(
            "a document is more than what can be read here into a type that serde buffers (an untagged or tagged enum, a \
             flattened struct): raise --bucket-size",
        ),
        false => Failure::bad_request(format!(
            "the body is not the JSON that is expected here: {}",
            Short(2 * SAID, error)
        )),
    })
}

/// The estimate for serde's buffer, in the document that this thread reads.
struct Buffer {
    /// Bytes that are left for the second pass; [`NOT_ASKED`] until something is buffered.
    left: Cell<usize>,
    /// Lists and maps of the buffer around the present one.
    depth: Cell<usize>,
    /// The next value is a part of something that is held until the second pass.
    held: Cell<bool>,
    too_much: Cell<bool>,
}

const NOT_ASKED: usize = usize::MAX;

thread_local! {
    static BUFFER: Buffer = const {
        Buffer {
            left: Cell::new(NOT_ASKED),
            depth: Cell::new(0),
            held: Cell::new(false),
            too_much: Cell::new(false),
        }
    };
}

/// Whether this is serde's buffer. It is private, and known by its name only.
#[inline]
fn is_buffer<T>() -> bool {
    size_of::<T>() == 32 && type_name::<T>().starts_with("serde_core::private::content::Content")
}

/// Reads something whose second pass is over, or begins, when it has been read: its estimate is given back.
#[inline]
fn whole<R>(read: impl FnOnce() -> R) -> R {
    let left = BUFFER.with(|buffer| buffer.left.get());
    let value = read();
    BUFFER.with(|buffer| buffer.left.set(left));
    value
}

/// Reads a list or a map that is a `T`.
#[inline]
fn container<T, R>(read: impl FnOnce() -> R) -> R {
    if !is_buffer::<T>() {
        return whole(read);
    }
    BUFFER.with(|buffer| {
        buffer.depth.update(|depth| depth + 1);
        let value = read();
        buffer.depth.update(|depth| depth - 1);
        value
    })
}

/// Reads a `T` that is a part of a list or a map.
#[inline]
fn part<T, R, E: Error>(read: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    if !is_buffer::<T>() {
        return read();
    }
    reckon()?;
    let value = read();
    BUFFER.with(|buffer| buffer.held.set(false)); // there may have been none
    value
}

/// If a text is buffered, or is a key, an error of the second pass could repeat all of it, escaped, and
/// nothing would shorten it: up to three times the text must fit.
#[cold]
fn ask_of_text<E: Error>(text: &str) -> Result<(), E> {
    if text.len() <= LONG {
        return Ok(());
    }
    let said: usize = text.chars().map(|c| c.escape_debug().len()).sum();
    let free = Memory::now().map_or(usize::MAX, |memory| memory.free);
    let share = overdraft_share();
    match said > free.max(share) / 4 {
        false if said > share / 4 => {
            note_spare(free - 4 * said);
            Ok(())
        }
        false => Ok(()),
        true => {
            BUFFER.with(|buffer| buffer.too_much.set(true));
            Err(E::custom("it is too much"))
        }
    }
}

fn reckon<E: Error>() -> Result<(), E> {
    BUFFER.with(|buffer| {
        let left = match buffer.left.get() {
            NOT_ASKED => Memory::now().map_or(NOT_ASKED - 1, |memory| memory.free),
            left => left,
        };
        let need = ELEMENT.max(COPY * buffer.depth.get());
        buffer.held.set(true);
        buffer.too_much.set(left < need);
        buffer.left.set(left.saturating_sub(need));
        note_spare(buffer.left.get());
        match left < need {
            false => Ok(()),
            true => Err(E::custom("it is too much")),
        }
    })
}

/// The error of what is not a list or a map: it says little of what is in the document. (Lists and maps have
/// their parser's own, for else every value would be copied from a result with the one into a result with the
/// other.)
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

/// A part of a parser, or of what it builds: does what the part does, after it has asked. `KEY` is whether it
/// is that of a map's key.
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
            self.0.$method($($name,)* Stopping::<V, KEY>(visitor))
        }
    )*};
}

/// Asked for one of these, the parser would make an error of its own out of a text of any length. Asked for
/// anything, it gives the same, and leaves errors to the visitor. Of a key, which is always text, it must
/// know what it shall be read as.
macro_rules! pass_on_as_any {
    ($($method:ident($($name:ident: $type:ty),*) if $sound:expr;)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Self::Error> {
            let visitor = Stopping::<V, KEY>(visitor);
            match KEY || !$sound {
                false => self.0.deserialize_any(visitor),
                true => self.0.$method($($name,)* visitor),
            }
        }
    )*};
}

/// With its feature `arbitrary_precision`, serde_json's "anything" is not a number where there is one.
const PLAIN_NUMBERS: bool = size_of::<serde_json::Number>() == 16;

impl<'de, D: Deserializer<'de>, const KEY: bool> Deserializer<'de> for Stopping<D, KEY> {
    type Error = D::Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let read = || self.0.deserialize_any(Stopping::<V, KEY>(visitor));
        match is_buffer::<V::Value>() && !BUFFER.with(|buffer| buffer.held.take()) {
            true => whole(read),
            false => read(),
        }
    }

    pass_on! {
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
            self.0.$method($($value)?)
        }
    )*};
}

macro_rules! visit_text {
    ($($method:ident($type:ty), $of_any_length:ident;)*) => {$(
        #[inline]
        fn $method<E: Error>(self, text: $type) -> Result<V::Value, E> {
            match text.len() <= SAID {
                true => self.0.$method(text),
                false => self.$of_any_length(text),
            }
        }
    )*};
}

macro_rules! visit_text_of_any_length {
    ($($method:ident($type:ty), $of_any_length:ident;)*) => {$(
        #[cold]
        #[inline(never)]
        fn $of_any_length<E: Error>(self, text: $type) -> Result<V::Value, E> {
            if KEY || is_buffer::<V::Value>() {
                ask_of_text(&text)?;
            }
            self.0.$method(text).map_err(|Brief(error)| error)
        }
    )*};
}

impl<'de, V: Visitor<'de>, const KEY: bool> Stopping<V, KEY> {
    visit_text_of_any_length! {
        visit_str(&str), visit_long_str;
        visit_borrowed_str(&'de str), visit_long_borrowed_str;
        visit_string(String), visit_long_string;
    }
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
        visit_bytes(value: &[u8]);
        visit_borrowed_bytes(value: &'de [u8]);
        visit_byte_buf(value: Vec<u8>);
        visit_none();
        visit_unit();
    }

    visit_text! {
        visit_str(&str), visit_long_str;
        visit_borrowed_str(&'de str), visit_long_borrowed_str;
        visit_string(String), visit_long_string;
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Stopping::<D, KEY>(value))
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Stopping::<D, KEY>(value))
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        container::<V::Value, _>(|| self.0.visit_seq(Stopping::<A>(elements)))
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        container::<V::Value, _>(|| self.0.visit_map(Stopping::<A>(entries)))
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Stopping::<A>(variant))
    }
}

impl<'de, S: DeserializeSeed<'de>, const KEY: bool> DeserializeSeed<'de> for Stopping<S, KEY> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Stopping::<D, KEY>(value))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Stopping<A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        unless_exhausted()?;
        part::<S::Value, _, _>(|| self.0.next_element_seed(Stopping::<S>(seed)))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Stopping<A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        unless_exhausted()?;
        self.0.next_key_seed(Stopping::<S, true>(seed))
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
    type Error = A::Error;
    type Variant = Stopping<A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), Self::Error> {
        unless_exhausted()?;
        let (name, variant) = self.0.variant_seed(Stopping::<S>(seed))?;
        Ok((name, Stopping(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Stopping<A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), Self::Error> {
        self.0.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, Self::Error> {
        self.0.newtype_variant_seed(Stopping::<S>(seed))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.tuple_variant(len, Stopping::<V>(visitor))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.struct_variant(fields, Stopping::<V>(visitor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "it is only read into")]
    enum Tree {
        Leaf(u64),
        Many(Vec<Tree>),
    }

    #[derive(Deserialize)]
    #[serde(tag = "type")]
    #[expect(dead_code, reason = "it is only read into")]
    enum Tagged {
        Many { items: Vec<u64> },
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "it is only read into")]
    struct Flat {
        own: Vec<Tree>,
        #[serde(flatten)]
        rest: std::collections::BTreeMap<String, u64>,
    }

    #[track_caller]
    fn check<T: for<'de> Deserialize<'de>>(json: &str, reckoned: usize) {
        let json = json.as_bytes();
        let read_in = read_with::<T>(reckoned, json).map(drop);
        assert!(
            read_in.is_ok(),
            "{read_in:?} of {}",
            String::from_utf8_lossy(json)
        );
        if let Some(less) = reckoned.checked_sub(1) {
            let failure = read_with::<T>(less, json).err().expect("it is too much");
            assert_eq!(failure.status().code(), 500);
        }
        assert!(read::<T>(json).is_ok());
    }

    /// Fails when serde gives its buffer another name: then [`is_buffer`] must know it.
    #[test]
    fn what_serde_buffers_is_reckoned_until_its_value_is_there() {
        // The end of a list counts as one more.
        check::<Tree>("1", 0);
        check::<Tree>("[1, 2, 3]", 4 * ELEMENT);
        check::<Tree>("[[1, 2], [3]]", 8 * ELEMENT);
        check::<Vec<Tree>>("[[1, 2, 3], [1], 2, [1, 2]]", 4 * ELEMENT);
        check::<Vec<Tree>>("[1, 2, 3]", 0);
        check::<Tagged>(r#"{"items": [1, 2], "type": "Many"}"#, 4 * ELEMENT);
        check::<Vec<Tagged>>(
            r#"[{"items": [1, 2], "type": "Many"}, {"type": "Many", "items": [1]}]"#,
            4 * ELEMENT,
        );
        check::<Flat>(r#"{"a": 1, "own": [[1], [1, 2]], "b": 2}"#, 4 * ELEMENT);
        check::<Vec<Flat>>(r#"[{"a": 1, "own": []}, {"own": [], "b": 2}]"#, ELEMENT);
        check::<Vec<Vec<u64>>>("[[1, 2], [3]]", 0);
    }

    #[test]
    fn what_is_deep_is_reckoned_to_be_copied() {
        let deep = format!("{}1{}", "[".repeat(20), "]".repeat(20));
        let copied: usize = (1..=20).map(|depth| 2 * ELEMENT.max(COPY * depth)).sum();
        check::<Tree>(&deep, copied);
    }
}
