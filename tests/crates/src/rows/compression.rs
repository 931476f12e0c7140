//! Compression, both ways. What a handler must answer is made by the same code outside of a request.

use crate::listing::{Rows, text};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rows::{Answer, Body};
use std::io::{self, Read, Write};
use transom::{Failure, Request, Response};

/// What gzip needs for itself, and the page.
const BUCKET: &str = "--bucket-size 1MiB";

pub fn add(rows: &mut Rows) {
    rows.get("/flate2/gzip", "flate2: `GzEncoder`", |_: &Request| {
        let page = gzip(page().as_bytes())?;
        Ok::<_, Failure>(Response::bytes("text/html", page).header("Content-Encoding", "gzip"))
    })
    .flags(BUCKET)
    .answers(|| Answer::Bytes(gzip(page().as_bytes()).expect("memory is enough")));
    rows.post(
        "/flate2/gunzip",
        "flate2: `GzDecoder`",
        || Body::Bytes(gzip(page().as_bytes()).expect("memory is enough")),
        gunzip,
    )
    .flags(BUCKET)
    .answers(|| text(&page()));
    #[cfg(feature = "heavy")]
    rows.get("/zip", "zip: `ZipWriter`, `ZipArchive`", |_: &Request| {
        Ok::<_, Failure>(archive()?)
    })
    .flags("--bucket-size 4MiB")
    .answers(|| text(&archive().expect("memory is enough")));
}

/// 20 KB of HTML.
fn page() -> String {
    let rows = (0..500).map(|row| format!("<tr><td>{row}</td><td>{}</td></tr>\n", row * row));
    format!("<table>\n{}</table>\n", rows.collect::<String>())
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn gunzip(request: &Request) -> Result<String, Failure> {
    let mut text = String::new();
    GzDecoder::new(request.body()).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes an archive, opens it, and says what is in it.
#[cfg(feature = "heavy")]
fn archive() -> zip::result::ZipResult<String> {
    use std::io::Cursor;
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipArchive, ZipWriter};

    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for name in ["a.txt", "b/c.txt"] {
        writer.start_file(name, options)?;
        writer.write_all("hello world".repeat(1000).as_bytes())?;
    }
    let mut archive = ZipArchive::new(writer.finish()?)?;
    let mut files = Vec::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let (name, packed) = (file.name()?, file.compressed_size());
        files.push(format!("{name} {packed} of {} bytes", text.len()));
    }
    Ok(files.join(", "))
}
