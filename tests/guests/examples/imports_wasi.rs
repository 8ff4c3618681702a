//! Imports a function of WASI, as a crate does that was built for `wasm32-wasip1` or calls into it.

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        imported::write();
    }
    Verdict::Accept
}

#[cfg(target_family = "wasm")]
mod imported {
    #![expect(unsafe_code, reason = "an import is foreign code")]

    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        fn fd_write(fd: i32, vectors: *const u8, count: i32, written: *mut i32) -> i32;
    }

    pub(crate) fn write() {
        let mut written = 0;
        // SAFETY: no vectors are given, so only `written` is accessed, and it outlives the call.
        unsafe { fd_write(1, std::ptr::null(), 0, &raw mut written) };
    }
}

#[cfg(not(target_family = "wasm"))]
mod imported {
    pub(crate) fn write() {}
}

guests::guest!(validate);
