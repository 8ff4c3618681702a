//! The files of the panel, which the program contains. They hold no data, so anybody may read them, also while the database
//! is away. All data comes to the page through the API, which asks who is calling.

use bytes::Bytes;

use crate::response::{self, Encoding, Refusal, Response};

/// Each file as `make panel` made it: name, content, the same compressed. Empty in a build without the panel.
const FILES: &[(&str, &[u8], &[u8])] = include!(concat!(env!("OUT_DIR"), "/panel_files.rs"));
/// The file that a browser opens. All others have a digest of their content in their names.
const PAGE: &str = "index.html";
/// What `/` is in a build without the panel.
const MISSING: &str = include_str!("missing.html");
/// The sign of the panel, which each build has.
const ICON: (&str, &[u8]) = ("icon.svg", include_bytes!("icon.svg"));

/// The Content Security Policy of every file: scripts, styles and pictures of this gateway alone, none of them inline, no
/// frames, no forms, and no text that becomes script or markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// A browser asks each time whether the page has changed, so that it never opens one whose other files are gone.
const ASK_EACH_TIME: &str = "no-cache";
/// Another content has another name.
const FOR_A_YEAR: &str = "public, max-age=31536000, immutable";
const FOR_AN_HOUR: &str = "public, max-age=3600";

/// The page at `/`.
pub fn page(accept_encoding: &str) -> Response {
    match found(PAGE) {
        Some((content, packed)) => answer(PAGE, content, Some(packed), accept_encoding, ASK_EACH_TIME),
        None => answer(PAGE, MISSING.as_bytes(), None, accept_encoding, ASK_EACH_TIME),
    }
}

/// A file that the page needs.
///
/// # Errors
///
/// [`Refusal::NotFound`] if there is none of this name.
pub fn file(name: &str, accept_encoding: &str) -> Result<Response, Refusal> {
    if name == ICON.0 {
        return Ok(answer(name, ICON.1, None, accept_encoding, FOR_AN_HOUR));
    }
    let (content, packed) = found(name).filter(|_| name != PAGE).ok_or(Refusal::NotFound)?;
    Ok(answer(name, content, Some(packed), accept_encoding, FOR_A_YEAR))
}

fn found(name: &str) -> Option<(&'static [u8], &'static [u8])> {
    FILES.iter().find(|(own, ..)| *own == name).map(|(_, content, packed)| (*content, *packed))
}

fn answer(
    name: &str,
    content: &'static [u8],
    packed: Option<&'static [u8]>,
    accept_encoding: &str,
    caching: &'static str,
) -> Response {
    let packed = packed.filter(|_| Encoding::accepts_gzip(accept_encoding));
    let encoding = packed.map_or(Encoding::Identity, |_| Encoding::Gzip);
    let response =
        response::part_of_page(content_type(name), Bytes::from_static(packed.unwrap_or(content)), POLICY, caching);
    response::compressed(response, encoding)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
