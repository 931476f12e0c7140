//! JSON that stops growing once its request has outgrown its bucket.
//!
//! A parser that is not told goes on to the end of the document. A body of 1 MB in which each three bytes
//! become 32 would need more than a request's share of the overdraft, and lose the bucket. Here every element
//! of a list, entry of a map and variant of an enum asks first; so does each step by which an answer grows.
//! Errors quote only a short piece of a document.

mod read;
mod write;

pub(crate) use read::read;
pub(crate) use write::write;
