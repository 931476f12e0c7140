//! A server without bounds, as most are: hyper and tokio, with as much memory for a request as it asks for.
//!
//! `GET /N` allocates N KiB and fills them, as `oom` does: the counter-example for `transom load`. Nothing here is slow or
//! wrong; nobody has decided how much there may be. `peer-hyper --listen ADDRESS:PORT`

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
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
        .enable_io()
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
    let kib = request
        .uri()
        .path()
        .trim_start_matches('/')
        .parse::<usize>();
    let Some(bytes) = kib.ok().and_then(|kib| kib.checked_mul(1024)) else {
        let mut response = Response::new(Full::from("not a number of KiB\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    };
    let block = black_box(vec![7u8; bytes]);
    Ok(Response::new(Full::from(format!(
        "{} bytes\n",
        block.len()
    ))))
}
