//! The seed corpus of `tests/fuzz`, and inputs that are nearly one of it. The front end's configuration has
//! its tests in another crate, which takes this file by its path.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// How many mutations of the corpus each entry point gets.
const MUTATIONS: usize = 20_000;

/// The seeds of an entry point.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("tests/fuzz/seeds"))
        .find(|folder| folder.is_dir())
        .expect("this crate lies in the repository")
        .join(name);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
        .iter()
        .map(|file| std::fs::read(file).expect("a seed can be read"))
        .collect()
}

/// xorshift64*.
struct Random(u64);

impl Random {
    /// A seed of the clock's, or `TRANSOM_TEST_SEED`; printed, so that a failure can be repeated.
    fn new() -> Self {
        let seed = match std::env::var("TRANSOM_TEST_SEED") {
            Ok(text) => text.parse().expect("TRANSOM_TEST_SEED is a number"),
            Err(_) => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |since| since.as_nanos() as u64),
        };
        println!("TRANSOM_TEST_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize % limit
    }
}

/// Bytes that mean something to one of the parsers.
const TELLING: &[u8] = b"\r\n\r\n \t:;,%/#?*@[]\"=0123459aAfFxX\0\x7f\x80\xff";

/// A seed with a few bytes replaced, put in, taken out, doubled, or taken from another seed.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(8)).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] = TELLING[random.below(TELLING.len())],
            1 => bytes.insert(at, TELLING[random.below(TELLING.len())]),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(40)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

/// Calls an entry point with its seeds, and with mutations of them.
pub(crate) fn on_mutations(name: &str, check: fn(&[u8])) {
    let seeds = seeds(name);
    for seed in &seeds {
        check(seed);
    }
    let mut random = Random::new();
    for _ in 0..MUTATIONS {
        let bytes = mutated(&seeds, &mut random);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&bytes))) {
            println!("{name}: {}", bytes.escape_ascii());
            resume_unwind(panic);
        }
    }
}
