//! Which media type a file's name stands for.
//!
//! `mime_guess` knows a thousand extensions, some as they were twenty years ago: the list here goes first.

use std::fmt;

/// What a file's name says of its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaType {
    /// `Content-Type`, without a parameter.
    essence: &'static str,
    /// `Content-Encoding`: the file is compressed, and its type is that of what is in it.
    pub coding: Option<&'static str>,
}

/// Extensions in lower case, with what IANA has registered for them, or what browsers go by.
const CURRENT: [(&str, &str); 25] = [
    ("avif", "image/avif"),
    ("cjs", "text/javascript"),
    ("flac", "audio/flac"),
    ("heic", "image/heic"),
    ("ico", "image/vnd.microsoft.icon"),
    ("js", "text/javascript"), // RFC 9239
    ("jxl", "image/jxl"),
    ("m3u8", "application/vnd.apple.mpegurl"), // RFC 8216
    ("m4a", "audio/mp4"),
    ("m4s", "video/iso.segment"),
    ("map", "application/json"),
    ("md", "text/markdown"),
    ("mjs", "text/javascript"),
    ("mpd", "application/dash+xml"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"), // RFC 8081, as the next three
    ("ttc", "font/collection"),
    ("ttf", "font/ttf"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("ts", "video/mp2t"), // in HLS; a browser has no use for TypeScript
    ("wasm", "application/wasm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("zst", "application/zstd"),
];

impl MediaType {
    /// That of a file with this name.
    pub fn of(name: &str) -> Self {
        let extension = name
            .rsplit_once(['.', '/'])
            .map_or("", |(_, extension)| extension);
        if extension.eq_ignore_ascii_case("svgz") && has_extension(name) {
            return Self {
                essence: "image/svg+xml",
                coding: Some("gzip"),
            };
        }
        let current = CURRENT
            .iter()
            .find(|(known, _)| extension.eq_ignore_ascii_case(known) && has_extension(name));
        let essence = match current {
            Some((_, essence)) => essence,
            None => mime_guess::from_path(name)
                .first_raw()
                .unwrap_or("application/octet-stream"),
        };
        Self {
            essence,
            coding: None,
        }
    }
}

/// Whether the last dot of a name is in its last part, and not at the start of that.
fn has_extension(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.rfind('.').is_some_and(|dot| dot > 0)
}

/// Text is UTF-8, as text is today: a client that had to guess could be made to guess wrong. XML says its
/// encoding itself.
impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.essence)?;
        if self.essence.starts_with("text/") && self.essence != "text/xml" {
            f.write_str("; charset=utf-8")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_that_it_is_utf_8_and_the_rest_does_not() {
        for (name, expected) in [
            ("a.txt", "text/plain; charset=utf-8"),
            ("a/b.HTML", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.md", "text/markdown; charset=utf-8"),
            ("a.xml", "text/xml"),
            ("a.svg", "image/svg+xml"),
            ("a.svgz", "image/svg+xml"),
            ("sub/svgz", "application/octet-stream"),
            ("a.ts", "video/mp2t"),
            ("a.TS", "video/mp2t"),
            ("a.otf", "font/otf"),
            ("a.ttf", "font/ttf"),
            ("a.m3u8", "application/vnd.apple.mpegurl"),
            ("a.avif", "image/avif"),
            ("a.webp", "image/webp"),
            ("a.webmanifest", "application/manifest+json"),
            ("a.json", "application/json"),
            (".ts", "application/octet-stream"),
            ("ts", "application/octet-stream"),
            ("a/ts", "application/octet-stream"),
            ("a.wasm", "application/wasm"),
            ("a.png", "image/png"),
            ("a.woff2", "font/woff2"),
            ("a.tar.gz", "application/gzip"),
            ("a", "application/octet-stream"),
            ("html", "application/octet-stream"),
            ("a.b/c", "application/octet-stream"),
            ("a.nobody-knows", "application/octet-stream"),
        ] {
            assert_eq!(MediaType::of(name).to_string(), expected, "{name}");
        }
    }
}
