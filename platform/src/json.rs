//! JSON that stops growing once its request has outgrown its bucket.
//!
//! A parser that is not told goes on to the end of the document: a body of 1 MB, each three bytes of which
//! become 32, would need more than a request's share of the overdraft, and the bucket with it. Here every
//! element of a list, entry of a map and variant of an enum asks first; so does each step by which an answer
//! grows. What an error says of a document is short.

mod read;
mod write;

pub(crate) use read::read;
pub(crate) use write::write;
