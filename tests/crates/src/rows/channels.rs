//! A worker thread in a static that is sent a job and a channel for the answer, on which the handler waits.

use crate::listing::{Rows, number, text};
use std::sync::{LazyLock, mpsc};
use std::thread;
use transom::{Failure, Request};

static CROSSBEAM: LazyLock<crossbeam_channel::Sender<(String, crossbeam_channel::Sender<String>)>> =
    LazyLock::new(|| {
        let (jobs, queue) =
            crossbeam_channel::unbounded::<(String, crossbeam_channel::Sender<String>)>();
        thread::spawn(move || {
            for (job, answers) in queue {
                // A request that does not wait any more needs no answer.
                let _ = answers.send(format!("done: {job}"));
            }
        });
        jobs
    });

static MPSC: LazyLock<mpsc::Sender<(String, mpsc::Sender<String>)>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<(String, mpsc::Sender<String>)>();
    thread::spawn(move || {
        for (job, answers) in queue {
            let _ = answers.send(format!("done: {job}"));
        }
    });
    jobs
});

pub fn add(rows: &mut Rows) {
    rows.get(
        "/crossbeam-channel",
        "crossbeam-channel: a worker thread in a static",
        crossbeam,
    )
    .answers(|| text("done: job {n}"));
    rows.get(
        "/std/mpsc",
        "`std::sync::mpsc`: a worker thread in a static",
        mpsc,
    )
    .answers(|| text("done: job {n}"));
}

fn crossbeam(request: &Request) -> Result<String, Failure> {
    let job = format!("job {}", number(request)?);
    let (answers, answer) = crossbeam_channel::bounded(1);
    let sent = CROSSBEAM.send((job, answers));
    sent.map_err(|_| Failure::internal("the worker is gone"))?;
    Ok(answer.recv()?)
}

fn mpsc(request: &Request) -> Result<String, Failure> {
    let job = format!("job {}", number(request)?);
    let (answers, answer) = mpsc::channel();
    let sent = MPSC.send((job, answers));
    sent.map_err(|_| Failure::internal("the worker is gone"))?;
    Ok(answer.recv()?)
}
