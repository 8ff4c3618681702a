//! The address at which a browser opens the panel. A gateway with a Postgres of its own notes it in its data dir, since a
//! flag, a passed socket or port 0 may have chosen it. `eye panel` reads it there.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The name of the note in the data dir.
const NOTE: &str = "panel.address";
/// Most bytes of a note.
const NOTE_BYTES_MAX: u64 = 1_024;

/// The address for a browser, without a slash at its end. A gateway that listens everywhere is opened by the first of its
/// host names, or else on this machine. `None` if the port is not known.
pub fn of(address: SocketAddr, secure: bool, hosts: &[String]) -> Option<String> {
    if address.port() == 0 {
        return None;
    }
    let (scheme, port) = (if secure { "https" } else { "http" }, address.port());
    let place = match (address.ip(), hosts.first()) {
        (ip, Some(host)) if ip.is_unspecified() => format!("{host}:{port}"),
        (IpAddr::V4(ip), None) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).to_string(),
        (IpAddr::V6(ip), None) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port).to_string(),
        (ip, _) => SocketAddr::new(ip, port).to_string(),
    };
    Some(format!("{scheme}://{place}"))
}

/// The address that signs in once. Browsers send no server what stands behind `#`.
pub fn with_code(address: &str, code: &str) -> String {
    format!("{}/#code={code}", address.trim_end_matches('/'))
}

/// Notes the address in the data dir, or removes the note of an earlier start if there is no panel.
///
/// # Errors
///
/// When the note cannot be written.
pub fn note(data_dir: &Path, address: Option<&str>) -> io::Result<()> {
    let path = data_dir.join(NOTE);
    let Some(address) = address else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let beside = path.with_extension("new");
    fs::write(&beside, format!("{address}\n"))?;
    fs::rename(beside, path)
}

/// Reads the address that the gateway of a data dir has noted. `None` if it has noted none.
///
/// # Errors
///
/// When the note cannot be read, or holds no address.
pub fn noted(data_dir: &Path) -> io::Result<Option<String>> {
    let file = match File::open(data_dir.join(NOTE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(NOTE_BYTES_MAX).read_to_string(&mut text)?;
    let address = text.trim();
    let is_address = ["http://", "https://"].iter().any(|scheme| address.starts_with(scheme))
        && address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_address {
        Ok(Some(address.to_owned()))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{NOTE} holds no address")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_can_open_the_address() {
        let hosts = ["eye.example".to_owned()];
        for (address, secure, hosts, expected) in [
            ("127.0.0.1:8000", false, &[][..], Some("http://127.0.0.1:8000")),
            ("0.0.0.0:8000", false, &[], Some("http://127.0.0.1:8000")),
            ("[::]:8000", true, &[], Some("https://[::1]:8000")),
            ("0.0.0.0:8443", true, &hosts, Some("https://eye.example:8443")),
            ("10.0.0.5:8001", false, &hosts, Some("http://10.0.0.5:8001")),
            ("127.0.0.1:0", false, &hosts, None),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(of(address, secure, hosts).as_deref(), expected);
        }
        assert_eq!(with_code("https://eye.example/x/", "c0de"), "https://eye.example/x/#code=c0de");
    }

    #[test]
    fn a_note_is_read_back_and_anything_else_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = || noted(folder.path());
        assert_eq!(read().expect("no note"), None);
        note(folder.path(), None).expect("nothing to remove");
        note(folder.path(), Some("http://127.0.0.1:8000")).expect("a note");
        assert_eq!(read().expect("a note").as_deref(), Some("http://127.0.0.1:8000"));
        note(folder.path(), None).expect("removed");
        assert_eq!(read().expect("no note"), None);
        for text in ["", "127.0.0.1:8000", "http://a b", "javascript:x", "http://a/#code=x", "http://a\nhttp://b"] {
            fs::write(folder.path().join(NOTE), text).expect("a file");
            assert!(read().is_err(), "{text:?}");
        }
    }
}
