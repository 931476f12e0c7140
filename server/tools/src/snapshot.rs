//! Asks a server for `/buckets.json` of its admin address: its state at one moment.

use crate::admin_client::{self, AdminAddress, AdminError};
use transom::snapshot::Snapshot;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No answer, or no good one.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// JSON, or not even that, of another program.
    #[error("what answers at {0} is no admin address of Transom: its /buckets.json is {1}")]
    NotTransom(AdminAddress, &'static str),
    /// A document of another version.
    #[error(
        "the server at {address} is Transom {theirs} and this is {ours}, which does not understand its /buckets.json \
         ({error}): use the `transom` of the server's version",
        ours = env!("CARGO_PKG_VERSION")
    )]
    OtherVersion {
        /// The address that answers.
        address: AdminAddress,
        /// Its version.
        theirs: String,
        /// What is not understood.
        error: serde_json::Error,
    },
}

/// Asks a server for a snapshot.
///
/// # Errors
/// [`SnapshotError`].
pub fn take(address: &AdminAddress) -> Result<Snapshot, SnapshotError> {
    let text = match admin_client::get(address, "/buckets.json") {
        Err(AdminError::Status { status: 404, .. }) => {
            return Err(SnapshotError::NotTransom(address.clone(), "not there"));
        }
        answer => answer?,
    };
    parse(address, &text)
}

/// Reads the document that came from an address.
///
/// # Errors
/// [`SnapshotError`], of the document only.
pub fn parse(address: &AdminAddress, text: &str) -> Result<Snapshot, SnapshotError> {
    serde_json::from_str(text).map_err(|error| {
        let value: Option<serde_json::Value> = serde_json::from_str(text).ok();
        let version = value.as_ref().map(|value| value["version"].as_str());
        match version {
            None => SnapshotError::NotTransom(address.clone(), "not JSON"),
            Some(None) => SnapshotError::NotTransom(address.clone(), "something else"),
            Some(Some(theirs)) => SnapshotError::OtherVersion {
                address: address.clone(),
                theirs: theirs.to_owned(),
                error,
            },
        }
    })
}
