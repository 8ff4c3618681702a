//! Reads from the environment what people say of their terminals.

/// Whether output to a terminal may have colors: `NO_COLOR` is not set or empty, and `TERM` is not `dumb`.
#[must_use]
pub fn may_color() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The width that `COLUMNS` names.
#[must_use]
pub fn columns() -> Option<usize> {
    std::env::var("COLUMNS").ok()?.parse().ok()
}
