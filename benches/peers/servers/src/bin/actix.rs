//! actix-web with one worker: `peer-actix ADDRESS:PORT`.

use actix_web::web::{self, Bytes, PayloadConfig};
use actix_web::{App, HttpResponse, HttpServer, rt};
use std::io;
use std::time::Duration;

/// Longer than a run.
const KEEP_ALIVE: Duration = Duration::from_secs(3600);

/// More than any workload has.
const CONNECTIONS: usize = 20_000;

async fn plaintext() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body(answers::PLAINTEXT)
}

async fn json() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(answers::json())
}

async fn echo(body: Bytes) -> Bytes {
    body
}

async fn csv(body: Bytes) -> HttpResponse {
    match answers::svg(&body) {
        Some(svg) => HttpResponse::Ok().content_type("image/svg+xml").body(svg),
        None => HttpResponse::BadRequest().finish(),
    }
}

async fn size(bytes: web::Path<usize>) -> HttpResponse {
    HttpResponse::Ok().body(answers::size(*bytes))
}

async fn alloc(kib: web::Path<usize>) -> String {
    answers::alloc(*kib)
}

async fn attack(kib: web::Path<usize>) -> String {
    let block = answers::attack(*kib);
    rt::time::sleep(answers::HOLD).await;
    answers::held(&block)
}

fn main() -> io::Result<()> {
    let (address, _) = answers::arguments("peer-actix ADDRESS:PORT");
    rt::System::new().block_on(async {
        HttpServer::new(|| {
            App::new()
                .app_data(PayloadConfig::new(answers::BODY_MAX))
                .route("/", web::get().to(plaintext))
                .route("/json", web::get().to(json))
                .route("/echo", web::post().to(echo))
                .route("/csv", web::post().to(csv))
                .route("/size/{bytes}", web::get().to(size))
                .route("/alloc/{kib}", web::get().to(alloc))
                .route("/attack/{kib}", web::get().to(attack))
        })
        .workers(1)
        .max_connections(CONNECTIONS)
        .keep_alive(KEEP_ALIVE)
        .bind(address)?
        .run()
        .await
    })
}
