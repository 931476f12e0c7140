//! Micro-benchmarks (`cargo bench -p transom-benches`), and the harness that compares other servers with
//! ours.
//!
//! The harness is `peers/run.sh`. It builds Transom, and the servers of `peers/servers`, a workspace of its
//! own, and starts the binary `peers`, which measures and writes `docs/benchmarks.md`. The application that
//! stands for Transom in it is the binary `peer-transom`.
