//! A server without bounds, as most are: hyper and tokio, with as much memory for a request as it asks for.
//!
//! `GET /N` allocates N KiB and fills them, `GET /hold/N/MS` keeps them for a while, as `oom` does: the
//! counter-example for `transom load`. Nothing here is slow or wrong, but there is no limit to its memory.
//! `peer-hyper --listen ADDRESS:PORT`

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [flag, address] = &words[..] else {
        return usage();
    };
    if flag != "--listen" {
        return usage();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime.and_then(|runtime| runtime.block_on(serve(address))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-hyper: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: peer-hyper --listen ADDRESS:PORT");
    ExitCode::from(2)
}

async fn serve(address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    // The line that `transom load` waits for.
    eprintln!("ready listen={}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            // A client that has gone away is no failure of ours.
            let _ = http
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some((bytes, hold)) = asked(request.uri().path()) else {
        let mut response = Response::new(Full::from("/KIB or /hold/KIB/MS\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    };
    let block = black_box(vec![7u8; bytes]);
    if !hold.is_zero() {
        tokio::time::sleep(hold).await;
    }
    Ok(Response::new(Full::from(format!(
        "{} bytes\n",
        block.len()
    ))))
}

/// Bytes, and how long to keep them.
fn asked(path: &str) -> Option<(usize, Duration)> {
    let (kib, ms) = match path.strip_prefix("/hold/") {
        Some(rest) => rest.split_once('/')?,
        None => (path.strip_prefix('/')?, "0"),
    };
    let bytes = kib.parse::<usize>().ok()?.checked_mul(1024)?;
    Some((bytes, Duration::from_millis(ms.parse().ok()?)))
}
