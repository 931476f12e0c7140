//! One request after the other over a connection, and all ways in which an answer can fail.
//!
//! Nothing here panics: it is made for servers that hang or die.

use std::net::SocketAddr;
use std::time::Duration;
use transom_tests_client::{Answer, Client, Trouble};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// No answer of any route is larger.
const BODY_MAX: usize = 16 << 20;

/// Opens a connection to the server.
///
/// # Errors
/// Nothing listens there any more.
pub fn open(address: SocketAddr) -> Result<Client, &'static str> {
    let client = Client::try_connect(address).map_err(|_| "no connection")?;
    Ok(client.patient_for(PATIENCE))
}

/// Sends a request, and waits for the answer to it.
///
/// # Errors
/// Why there is none. The connection is of no use afterwards.
pub fn ask(client: &mut Client, request: &[u8]) -> Result<Answer, &'static str> {
    const CLOSED: &str = "connection closed without an answer";
    const NONSENSE: &str = "an answer that is not HTTP as the server speaks it";
    if !client.try_send(request) {
        return Err(CLOSED);
    }
    let answer = client.try_answer().map_err(|trouble| match trouble {
        Trouble::Late => "no answer within 5 s",
        Trouble::Closed | Trouble::Cut | Trouble::Reset => CLOSED,
        Trouble::Garbled => NONSENSE,
    })?;
    // No route streams, so an answer has a length, or ends with a connection that it says will be closed.
    let is_chunked = answer.field("transfer-encoding").is_some();
    let has_end = answer.field("content-length").is_some() || answer.closes();
    if is_chunked || !has_end || answer.body.len() > BODY_MAX {
        return Err(NONSENSE);
    }
    Ok(answer)
}

/// The answer to a GET on a connection of its own. In HTTP/1.0, so that an answer of unknown length ends with
/// the connection.
///
/// # Errors
/// Why there is none.
pub fn get(address: SocketAddr, path: &str) -> Result<Answer, &'static str> {
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    ask(&mut open(address)?, request.as_bytes())
}
