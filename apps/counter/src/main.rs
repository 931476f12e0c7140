//! State that outlives a request: counters by name, in a `Shared` cell whose contents live in the shared
//! heap.

use std::collections::BTreeMap;
use std::process::ExitCode;
use transom::{Failure, Request, Response, Router, Shared};

/// So that clients that invent names cannot fill the shared heap.
const NAMES_MAX: usize = 1000;
const NAME_LEN_MAX: usize = 64;

static COUNTERS: Shared<BTreeMap<String, u64>> = Shared::new(BTreeMap::new());

/// What `with` returns owns no shared memory; what it stores is made inside it, so that it lies in the shared
/// heap.
fn count(request: &Request) -> Result<Response<'_>, Failure> {
    let name = request.param("name").unwrap_or_default();
    if name.len() > NAME_LEN_MAX {
        return Err(Failure::bad_request(format!(
            "a name has at most {NAME_LEN_MAX} bytes"
        )));
    }
    let now = COUNTERS.with(|counters| {
        if let Some(count) = counters.get_mut(name) {
            *count += 1;
            return Some(*count);
        }
        if counters.len() == NAMES_MAX {
            return None;
        }
        counters.insert(name.to_owned(), 1);
        Some(1)
    })?;
    match now {
        Some(count) => Ok(Response::text(format!("{count}\n"))),
        None => Err(Failure::bad_request(format!(
            "there are {NAMES_MAX} names already"
        ))),
    }
}

/// Reading allocates in the bucket, so that the copy is this request's own.
fn all(_: &Request) -> Result<Response<'_>, Failure> {
    Ok(COUNTERS.read(Response::json)?)
}

fn main() -> ExitCode {
    let router = Router::new().get("/", all).post("/{name}", count);
    transom::serve(router)
}
