//! Random numbers: both crates keep a generator per thread.

use crate::listing::{Rows, matches};
use rand::RngExt;
use rand::distr::{Alphanumeric, SampleString};
use rand::seq::SliceRandom;
use transom::Request;
use uuid::Uuid;

pub fn add(rows: &mut Rows) {
    rows.get("/rand/random", "rand: `random`", random)
        .answers(|| matches(r"^0\.\d{6}$"));
    rows.get("/rand/rng", "rand: `rng`, a thread's generator", thread_rng)
        .answers(|| matches(r"^[1-6] [A-Za-z0-9]{16} ([0-4],){4}[0-4]$"));
    rows.get("/uuid", "uuid: `new_v4`", uuid).answers(|| {
        matches("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
    });
    #[cfg(feature = "heavy")]
    rows.get(
        "/argon2",
        "argon2: a password's hash, `--bucket-size 22MiB`",
        password,
    )
    .flags("--bucket-size 22MiB")
    .answers(|| matches(r"^[0-9a-f]{64}$"));
}

#[cfg(feature = "heavy")]
fn password(_: &Request) -> Result<String, transom::Failure> {
    let mut hash = [0; 32];
    argon2::Argon2::default()
        .hash_password_into(b"correct horse", b"battery staple", &mut hash)
        .map_err(|error| transom::Failure::internal(error.to_string()))?;
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random(_: &Request) -> String {
    format!("{:.6}", rand::random::<f64>() * 0.999)
}

fn thread_rng(_: &Request) -> String {
    let mut rng = rand::rng();
    let dice = rng.random_range(1..=6);
    let token = Alphanumeric.sample_string(&mut rng, 16);
    let mut deck: Vec<String> = (0..5).map(|card| card.to_string()).collect();
    deck.shuffle(&mut rng);
    format!("{dice} {token} {}", deck.join(","))
}

fn uuid(_: &Request) -> String {
    Uuid::new_v4().to_string()
}
