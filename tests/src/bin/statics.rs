//! A program with a large static that nothing touches before a request does.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use transom::{Request, Router};

const SIZE: usize = 40 << 20;
const PAGE: usize = 4 << 10;

static TABLE: [AtomicU8; SIZE] = [const { AtomicU8::new(0) }; SIZE];

fn touch(_: &Request) -> String {
    let pages = TABLE.iter().step_by(PAGE);
    pages.for_each(|byte| byte.store(1, Ordering::Relaxed));
    format!("{SIZE}\n")
}

fn main() -> ExitCode {
    transom::serve(Router::new().get("/touch", touch))
}
