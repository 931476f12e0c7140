//! Micro-benchmarks live in `micro/`; the side-by-side harness in `peers/`.
