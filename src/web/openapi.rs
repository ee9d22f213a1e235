//! The OpenAPI 3.1 document: written by hand in `openapi.json`, completed with this gateway's address.

const DOCUMENT: &str = include_str!("openapi.json");
/// Stands for the address in the file.
const SERVER: &str = "https://events.example.com";

/// The document of a gateway that is reached at this URL.
pub fn document(public_url: &str) -> String {
    DOCUMENT.replace(SERVER, public_url)
}
