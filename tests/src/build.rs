//! Builds the binaries under test, once per process, in the profile and target directory that this test was
//! built in.
//!
//! Cargo offers `CARGO_BIN_EXE_…` only for binaries of the same package, and these are of other packages. So
//! a plain `cargo test` in a clean clone has to build them itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The packages whose binaries are tested: `transom` is of the first, the others have its package's name.
const PACKAGES: [&str; 11] = [
    "transom-cli",
    "counter",
    "csv-svg-path",
    "dns",
    "echo",
    "hello",
    "oom",
    "send-static-file",
    "stream",
    "tcp-echo",
    "varying-allocations",
];

/// The path of a built binary.
///
/// # Panics
/// If it is not one of ours, or cannot be built: what cargo said is in the message.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    assert!(
        name == "transom" || PACKAGES[1..].contains(&name),
        "{name} is not in the list of binaries under test"
    );
    BUILT.get_or_init(build).join(name)
}

/// Builds all of them; returns the folder they are in.
fn build() -> PathBuf {
    let folder = profile_folder();
    let target = folder
        .parent()
        .expect("a profile's folder lies in the target directory");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies in the workspace");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args([
        "build",
        "--quiet",
        "--bins",
        "--profile",
        profile(&folder),
    ]);
    cargo.arg("--target-dir").arg(target);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    let output = cargo.output().expect("cargo can be started");
    assert!(
        output.status.success(),
        "the binaries under test cannot be built:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    folder
}

/// `target/debug`, if this test is `target/debug/deps/apps-0123456789abcdef`.
fn profile_folder() -> PathBuf {
    let this = std::env::current_exe().expect("the kernel knows what it runs");
    let folder = this.parent().expect("a file lies in a folder");
    match folder.file_name() {
        Some(name) if name == "deps" => folder
            .parent()
            .expect("deps lies in a profile's folder")
            .to_owned(),
        _ => folder.to_owned(),
    }
}

/// The profile that writes to a folder. `test` and `dev` share one, and so do `bench` and `release`.
fn profile(folder: &Path) -> &str {
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "test",
        Some(name) => name,
    }
}
