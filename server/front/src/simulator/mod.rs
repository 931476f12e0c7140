//! A simulator of everything around a loop: the kernel, the doors and the clients. It runs on one thread,
//! with a clock of its own, and all that happens follows from one number, the seed.
//!
//! A run is made by [`schedule`], played on the [`stage`] and judged by the [`oracle`]. The loop is the real
//! one; its system calls are answered by [`kernel`] and [`process`].

mod answers;
mod caller;
mod calls;
mod clients;
mod clock;
mod handler;
mod kernel;
mod oracle;
mod process;
mod requests;
mod run;
mod schedule;
mod slots;
mod sockets;
mod stage;
mod tests;
mod world;
