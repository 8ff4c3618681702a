//! Compresses answers: chooses the encoding from the request, and compresses piece by piece, so that the reader of a
//! stream can decompress each piece as it arrives.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::accept::weight;

/// Fast levels, since each answer is compressed once and read once.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 1;

/// An encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Uncompressed.
    Identity,
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
}

impl Encoding {
    /// The encoding that `Accept-Encoding` prefers; zstd if it prefers none. `*` means gzip, which every client knows,
    /// unless the header names gzip itself.
    pub fn accepted(header: &str) -> Self {
        let (mut zstd, mut gzip, mut any) = (None, None, None);
        for item in header.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let weight_of = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "zstd" => &mut zstd,
                "gzip" | "x-gzip" => &mut gzip,
                "*" => &mut any,
                _ => continue,
            };
            *weight_of = Some(weight(parts));
        }
        let (zstd, gzip) = (zstd.unwrap_or(0), gzip.or(any).unwrap_or(0));
        match (zstd, gzip) {
            (0, 0) => Self::Identity,
            (zstd, gzip) if zstd >= gzip => Self::Zstd,
            _ => Self::Gzip,
        }
    }

    /// Whether `Accept-Encoding` accepts gzip, for an answer that is kept in it.
    pub fn accepts_gzip(header: &str) -> bool {
        // Without the other word, only gzip is left to prefer.
        let others = header.split(',').filter(|item| !item.trim_start().to_ascii_lowercase().starts_with("zstd"));
        Self::accepted(&others.collect::<Vec<_>>().join(",")) == Self::Gzip
    }

    /// The word in `Content-Encoding`, if the answer needs the header.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// Compresses one answer.
pub struct Encoder(Kind);

enum Kind {
    Identity,
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// A compressor for this encoding.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub fn new(encoding: Encoding) -> io::Result<Self> {
        Ok(Self(match encoding {
            Encoding::Identity => Kind::Identity,
            Encoding::Gzip => Kind::Gzip(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL))),
            Encoding::Zstd => Kind::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
        }))
    }

    /// Compresses the next piece. The reader can decompress everything up to its end.
    ///
    /// # Errors
    ///
    /// The error of the compressor.
    pub fn piece(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match &mut self.0 {
            Kind::Identity => Ok(bytes),
            Kind::Gzip(encoder) => {
                encoder.write_all(&bytes)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Kind::Zstd(encoder) => {
                encoder.write_all(&bytes)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// Returns the bytes that end the answer.
    ///
    /// # Errors
    ///
    /// The error of the compressor.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Kind::Identity => Ok(Vec::new()),
            Kind::Gzip(encoder) => encoder.finish(),
            Kind::Zstd(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_client_chooses() {
        for (header, wanted) in [
            ("", Encoding::Identity),
            ("identity", Encoding::Identity),
            ("gzip", Encoding::Gzip),
            ("gzip, deflate, br, zstd", Encoding::Zstd),
            ("GZIP;q=1.0, zstd;q=0.5", Encoding::Gzip),
            ("zstd;q=0, gzip;q=0", Encoding::Identity),
            ("br, *;q=0.1", Encoding::Gzip),
            ("gzip;q=none", Encoding::Identity),
            ("gzip;q=0, *", Encoding::Identity),
            ("*, gzip;q=0", Encoding::Identity),
            ("zstd;q=0, *", Encoding::Gzip),
            ("gzip; Q=0.5, zstd;q=0.4", Encoding::Gzip),
        ] {
            assert_eq!(Encoding::accepted(header), wanted, "{header}");
        }
    }

    #[test]
    fn each_piece_can_be_read_before_the_next_is_made() {
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Zstd] {
            let mut encoder = Encoder::new(encoding).expect("memory");
            let mut sent = encoder.piece(b"one\n".to_vec()).expect("compressed");
            assert_eq!(readable(encoding, &sent), b"one\n", "{encoding:?}");
            sent.extend(encoder.piece(b"two\n".to_vec()).expect("compressed"));
            sent.extend(encoder.finish().expect("ended"));
            assert_eq!(readable(encoding, &sent), b"one\ntwo\n", "{encoding:?}");
        }
    }

    /// The bytes that a reader can decompress of a stream that may continue.
    fn readable(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn io::Read> = match encoding {
            Encoding::Identity => Box::new(bytes),
            Encoding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
            Encoding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).expect("a decoder")),
        };
        let (mut read, mut byte) = (Vec::new(), [0]);
        while matches!(reader.read(&mut byte), Ok(1)) {
            read.push(byte[0]);
        }
        read
    }
}
