//! axum on one thread of tokio: `peer-axum ADDRESS:PORT`.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use std::io;

fn typed(content_type: &'static str, body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

async fn json() -> Response {
    typed("application/json", answers::json())
}

async fn csv(body: Bytes) -> Response {
    match answers::svg(&body) {
        Some(svg) => typed("image/svg+xml", svg),
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn attack(Path(kib): Path<usize>) -> String {
    let block = answers::attack(kib);
    tokio::time::sleep(answers::HOLD).await;
    answers::held(&block)
}

async fn serve(address: &str) -> io::Result<()> {
    let router = Router::new()
        .route("/", get(|| async { answers::PLAINTEXT }))
        .route("/json", get(json))
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/csv", post(csv))
        .route(
            "/size/{bytes}",
            get(|Path(bytes)| async move { answers::size(bytes) }),
        )
        .route(
            "/alloc/{kib}",
            get(|Path(kib)| async move { answers::alloc(kib) }),
        )
        .route("/attack/{kib}", get(attack))
        .layer(DefaultBodyLimit::max(answers::BODY_MAX));
    let listener = tokio::net::TcpListener::bind(address).await?;
    let listener = listener.tap_io(|stream| {
        // Refused only for a connection that is gone already.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await
}

fn main() -> io::Result<()> {
    let (address, _) = answers::arguments("peer-axum ADDRESS:PORT");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(&address))
}
