//! The PROXY header, read as a connection reads it: as many bytes more as it asks for, never more. It ends, within its
//! bound, and a header that is complete stays what it is when its bytes come one at a time.
#![no_main]

use eye::trust::proxy_protocol::{Header, parse};
use libfuzzer_sys::fuzz_target;

const BYTES_MAX: usize = 536;

fuzz_target!(|bytes: &[u8]| {
    let mut read = 0;
    let whole = loop {
        match parse(&bytes[..read], BYTES_MAX) {
            Ok(Header::More(more)) => {
                assert!(more > 0 && read + more <= BYTES_MAX, "{more} more after {read}");
                read += more;
                if read > bytes.len() {
                    return;
                }
            }
            Ok(Header::Whole(address)) => break address,
            Err(_) => return,
        }
    };
    for cut in 0..read {
        assert!(matches!(parse(&bytes[..cut], BYTES_MAX), Ok(Header::More(more)) if cut + more <= read), "at {cut}");
    }
    assert_eq!(parse(&bytes[..read], BYTES_MAX), Ok(Header::Whole(whole)));
});
