# `just` lists the recipes. They call what can be called without just, too.

# The list of recipes.
default:
    @just --list

# Serve the smallest application at http://127.0.0.1:8080.
run *FLAGS:
    cargo run --release --bin hello -- {{ FLAGS }}

# All tests of the workspace.
test:
    cargo test --workspace

# What must hold for a change to land.
ci:
    .ci/run

# Format all code.
format:
    cargo fmt --all
    cargo fmt --manifest-path tests/crates/Cargo.toml --all

# The reference, in a browser.
doc:
    cargo doc -p transom --open

# Print the memory equation for some flags.
bound *FLAGS:
    cargo run --release --bin transom -- bound {{ FLAGS }}

# Popular crates in handlers.
crates *FLAGS:
    tests/crates/run.sh {{ FLAGS }}

# Fuzz the parsers: seconds, then targets.
fuzz *ARGUMENTS:
    tests/fuzz.sh {{ ARGUMENTS }}

# A million requests of each kind.
million *COUNT:
    tests/million.sh {{ COUNT }}

# Schedules of the front end's simulator: seconds, first seed.
simulate *ARGUMENTS:
    tests/simulate.sh {{ ARGUMENTS }}

# Faults that the simulator must find.
faults *NUMBERS:
    tests/simulator_faults.sh {{ NUMBERS }}

# Slow clients beside ordinary ones.
slow *SECONDS:
    tests/slow.sh {{ SECONDS }}

# Everything hostile at once: seconds, seed.
hostile *ARGUMENTS:
    tests/hostile.sh {{ ARGUMENTS }}

# Kill an application behind a door, a hundred times under load.
kills:
    cargo run --release -p transom-tests --bin kills

# The live page in a headless Chromium.
page:
    tests/page.sh

# The C library's allocator is replaced in production builds.
symbols *LTO:
    tests/symbols.sh {{ LTO }}

# Type-check the illumos back end.
illumos:
    doors/check-illumos.sh

# Micro-benchmarks.
bench *FLAGS:
    cargo bench -p transom-benches {{ FLAGS }}

# Beside other servers.
peers *FLAGS:
    benches/peers/run.sh {{ FLAGS }}

# Licences, advisories, duplicate versions (needs cargo-deny).
deny:
    cargo deny check

# aarch64 programs under qemu-user.
aarch64:
    tests/aarch64.sh
