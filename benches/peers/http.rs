//! One request at a time, to see whether a server answers as it should.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use transom_tests_client::{Answer, Client};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects, and sends the request that wrk sends, byte by byte. The answer, and its connection.
pub fn ask(
    port: u16,
    path: &str,
    field: Option<&str>,
    body: Option<&[u8]>,
) -> Result<(Answer, Client), String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let client = Client::try_connect(address).map_err(|error| error.to_string())?;
    let mut client = client.patient_for(PATIENCE);
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some(field) = field {
        head.push_str(&format!("{field}\r\n"));
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut request = head.into_bytes();
    request.extend(body.unwrap_or_default());
    if !client.try_send(request) {
        return Err("the request was not taken".to_owned());
    }
    let answer = client.try_answer();
    let answer = answer.map_err(|trouble| format!("no answer: {trouble:?}"))?;
    // wrk asks again on the same connection.
    let has_end = ["content-length", "transfer-encoding"].map(|name| answer.field(name).is_some());
    match has_end {
        [false, false] => Err("an answer without a length".to_owned()),
        _ => Ok((answer, client)),
    }
}
