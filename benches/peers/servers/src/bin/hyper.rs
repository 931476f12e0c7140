//! hyper on one thread of tokio: `peer-hyper ADDRESS:PORT [FOLDER]`. Also sends `GET /file/NAME` from the
//! folder.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;

type Answer = Result<Response<Full<Bytes>>, hyper::Error>;

fn respond(content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    let value = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    Ok(response)
}

fn fail(status: StatusCode) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    Ok(response)
}

async fn answer(request: Request<Incoming>, folder: Arc<str>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    match (&head.method, path) {
        (&Method::GET, "/") => return respond("text/plain; charset=utf-8", answers::PLAINTEXT),
        (&Method::GET, "/json") => return respond("application/json", answers::json()),
        (&Method::POST, "/echo") => {
            let body = body.collect().await?.to_bytes();
            return respond("application/octet-stream", body);
        }
        (&Method::POST, "/csv") => {
            return match answers::svg(&body.collect().await?.to_bytes()) {
                Some(svg) => respond("image/svg+xml", svg),
                None => fail(StatusCode::BAD_REQUEST),
            };
        }
        _ => {}
    }
    if let Some(bytes) = answers::number(path, "/size/") {
        return respond("application/octet-stream", answers::size(bytes));
    }
    if let Some(kib) = answers::number(path, "/alloc/") {
        return respond("text/plain; charset=utf-8", answers::alloc(kib));
    }
    if let Some(kib) = answers::number(path, "/attack/") {
        let block = answers::attack(kib);
        tokio::time::sleep(answers::HOLD).await;
        return respond("text/plain; charset=utf-8", answers::held(&block));
    }
    if let Some(name) = path.strip_prefix("/file/")
        && !name.contains("..")
        && let Ok(content) = tokio::fs::read(format!("{folder}/{name}")).await
    {
        return respond("text/plain; charset=utf-8", content);
    }
    fail(StatusCode::NOT_FOUND)
}

async fn serve(address: &str, folder: Arc<str>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let folder = Arc::clone(&folder);
        let connection = http1::Builder::new().pipeline_flush(true).serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| answer(request, Arc::clone(&folder))),
        );
        tokio::spawn(connection);
    }
}

fn main() -> io::Result<()> {
    let (address, folder) = answers::arguments("peer-hyper ADDRESS:PORT [FOLDER]");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(&address, folder.into()))
}
