//! The PROXY protocol, versions 1 and 2: a proxy's report of the caller before the caller's first byte. The parser gets
//! the bytes so far and returns how many more it needs, never more than belong to the header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, with its line end.
const LINE_BYTES_MAX: usize = 107;
/// The shortest header of version 1: `PROXY UNKNOWN` and its line end. No header is shorter, so it may read this much.
const LEAST_BYTES: usize = 15;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes of signature, version and command, family, and length.
const FIXED_BYTES: usize = 16;

/// The result of parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// At least this many bytes are missing.
    More(usize),
    /// The header is complete. It has the caller's address, or `None` if the caller is unknown.
    Whole(Option<SocketAddr>),
}

/// The bytes are no header, or one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with a PROXY header")]
pub struct Malformed;

/// Parses the first bytes of a connection.
///
/// # Errors
///
/// [`Malformed`], as soon as it is certain.
pub fn parse(bytes: &[u8], bytes_max: usize) -> Result<Header, Malformed> {
    if bytes.starts_with(b"PROXY ") {
        return line(bytes);
    }
    if bytes.starts_with(SIGNATURE) {
        return binary(bytes, bytes_max);
    }
    let fits = b"PROXY ".starts_with(bytes) || SIGNATURE.starts_with(bytes);
    if fits { Ok(Header::More(LEAST_BYTES - bytes.len())) } else { Err(Malformed) }
}

fn line(bytes: &[u8]) -> Result<Header, Malformed> {
    if bytes.len() < LEAST_BYTES {
        return Ok(Header::More(LEAST_BYTES - bytes.len()));
    }
    let Some(line) = bytes.strip_suffix(b"\n") else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(Header::More(1)) } else { Err(Malformed) };
    };
    let line = line.strip_suffix(b"\r").and_then(|line| str::from_utf8(line).ok()).ok_or(Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(Header::Whole(None)),
        ["PROXY", family, source, destination, port, other_port] => {
            let (source, destination): (IpAddr, IpAddr) =
                (source.parse().map_err(|_| Malformed)?, destination.parse().map_err(|_| Malformed)?);
            let of_family = match family {
                "TCP4" => source.is_ipv4() && destination.is_ipv4(),
                "TCP6" => source.is_ipv6() && destination.is_ipv6(),
                _ => false,
            };
            let (port, _) = (read_port(port)?, read_port(other_port)?);
            if of_family { Ok(Header::Whole(Some(SocketAddr::new(source, port)))) } else { Err(Malformed) }
        }
        _ => Err(Malformed),
    }
}

fn read_port(text: &str) -> Result<u16, Malformed> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().map_err(|_| Malformed) } else { Err(Malformed) }
}

fn binary(bytes: &[u8], bytes_max: usize) -> Result<Header, Malformed> {
    if bytes.len() < FIXED_BYTES {
        return Ok(Header::More(FIXED_BYTES - bytes.len()));
    }
    let whole = FIXED_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if whole > bytes_max {
        return Err(Malformed);
    }
    if bytes.len() < whole {
        return Ok(Header::More(whole - bytes.len()));
    }
    let rest = &bytes[FIXED_BYTES..];
    let local = match bytes[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed),
    };
    let source: Option<SocketAddr> = match bytes[13] {
        _ if local => None,
        // Both addresses, then both ports.
        0x11 => {
            let [a, b, c, d, .., high, low, _, _] = exactly::<12>(rest)?;
            Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
        }
        0x21 => {
            let [ports @ .., _, _] = exactly::<36>(rest)?;
            let (addresses, port) = ports.split_at(32);
            let port = u16::from_be_bytes(exactly(port)?);
            Some((Ipv6Addr::from(exactly::<16>(addresses)?), port).into())
        }
        // Other families than TCP over IP have no usable address.
        _ => None,
    };
    Ok(Header::Whole(source))
}

/// The first `N` bytes.
fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.first_chunk().copied().ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1_024;

    /// Feeds the parser like a connection: exactly the bytes that it asks for.
    fn fed(bytes: &[u8]) -> Option<Result<(Option<SocketAddr>, usize), Malformed>> {
        let mut length = 0;
        loop {
            match parse(bytes.get(..length)?, MAX) {
                Ok(Header::More(more)) => {
                    assert!(more > 0);
                    length += more;
                }
                Ok(Header::Whole(source)) => return Some(Ok((source, length))),
                Err(malformed) => return Some(Err(malformed)),
            }
        }
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    #[test]
    fn lines_of_version_1() {
        for (line, expected) in [
            ("PROXY TCP4 203.0.113.5 10.0.0.1 4711 80\r\n", Some("203.0.113.5:4711")),
            ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some("[2001:db8::1]:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ff ff 1 2\r\n", None),
        ] {
            let expected = expected.map(|text| text.parse().expect("an address"));
            let sent = format!("{line}GET / HTTP/1.1\r\n");
            assert_eq!(fed(sent.as_bytes()), Some(Ok((expected, line.len()))), "{line}");
        }
        for line in [
            "GET / HTTP/1.1\r\n\r\n",
            "PROXY TCP4 203.0.113.5 10.0.0.1 4711\r\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP4 203.0.113.5 10.0.0.1 +1 80\r\n",
            "PROXY TCP4 203.0.113.5 10.0.0.1 70000 80\r\n",
            "PROXY TCP4 203.0.113.5 10.0.0.1 1 80\n",
            "PROXY UDP4 203.0.113.5 10.0.0.1 1 80\r\n",
        ] {
            assert_eq!(fed(line.as_bytes()), Some(Err(Malformed)), "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(500));
        assert_eq!(fed(endless.as_bytes()), Some(Err(Malformed)));
    }

    #[test]
    fn headers_of_version_2() {
        let four = [&[203, 0, 113, 5, 10, 0, 0, 1, 0x12, 0x67, 0, 80][..], &[0xee, 0, 3, 1, 2, 3]].concat();
        let six = [&Ipv6Addr::LOCALHOST.octets()[..], &Ipv6Addr::UNSPECIFIED.octets(), &[0, 7, 0, 80]].concat();
        for (sent, expected) in [
            (version_2(0x21, 0x11, &four), Some(Some("203.0.113.5:4711"))),
            (version_2(0x21, 0x21, &six), Some(Some("[::1]:7"))),
            (version_2(0x20, 0x11, &four), Some(None)),
            (version_2(0x20, 0, &[]), Some(None)),
            (version_2(0x21, 0x31, &[0; 216]), Some(None)),
            (version_2(0x21, 0x11, &four[..11]), None),
            (version_2(0x31, 0x11, &four), None),
            (version_2(0x21, 0x11, &[0; 2_000]), None),
        ] {
            let expected = expected.map(|source| (source.map(|text| text.parse().expect("an address")), sent.len()));
            assert_eq!(fed(&[&sent[..], b"GET"].concat()), Some(expected.ok_or(Malformed)));
        }
    }

    proptest! {
        #[test]
        fn nothing_is_read_beyond_the_header(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..3_usize) {
            let starts = [Vec::new(), b"PROXY TCP4 1.2.3.4 ".to_vec(), version_2(0x21, 0x11, &[0; 12])];
            let sent = [&starts[kind][..], &bytes].concat();
            if let Some(Ok((_, length))) = fed(&sent) {
                prop_assert!(length <= MAX && length <= sent.len());
                prop_assert!(fed(&sent[..length]).is_some(), "it is whole without what follows");
            }
        }
    }
}
