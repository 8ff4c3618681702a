//! Says in one sentence why the database cannot be used and how to mend it, from the errors of sockets, TLS and the
//! server. The sentences leave out places in the source of Postgres.

use std::fmt;
use std::io;

use super::url::Place;

/// The SQLSTATE that the bridge reports in place of a server when the process lacks descriptors. Postgres has no such
/// code.
pub(super) const NO_DESCRIPTORS: &str = "EYE24";

/// The errors of a process, or a machine, that may open no more files.
const TOO_MANY_OPEN: [i32; 2] = [rustix::io::Errno::MFILE.raw_os_error(), rustix::io::Errno::NFILE.raw_os_error()];

/// The sentence for this case.
pub(super) const NO_DESCRIPTORS_WORDS: &str = "the gateway may open no more files, so it gets no connection to the \
     database; raise the limit of open files (ulimit -n, or LimitNOFILE of its unit), or lower connections_max";

/// Why a place cannot be connected to. It keeps the kind of the cause.
#[derive(Debug)]
struct Unreached {
    words: String,
    cause: io::Error,
}

impl fmt::Display for Unreached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words)
    }
}

impl std::error::Error for Unreached {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Whether a socket could not be opened because the process has as many open files as allowed.
pub(super) fn lacks_descriptors(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Unreached>()).map(|unreached| &unreached.cause);
    error
        .raw_os_error()
        .or_else(|| inner.and_then(io::Error::raw_os_error))
        .is_some_and(|code| TOO_MANY_OPEN.contains(&code))
}

/// The same for an error of sqlx.
pub(super) fn sqlx_lacks_descriptors(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => lacks_descriptors(error),
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code == NO_DESCRIPTORS),
        _ => false,
    }
}

/// Names the place that could not be reached, and says how to mend it.
pub(super) fn unreached(place: &Place, cause: io::Error) -> io::Error {
    use io::ErrorKind as Kind;
    let words = match (cause.kind(), place) {
        _ if lacks_descriptors(&cause) => NO_DESCRIPTORS_WORDS.to_owned(),
        (Kind::ConnectionRefused, Place::Tcp { .. }) => {
            format!("nothing listens at {place}; start Postgres there, or mend the host and the port in database_url")
        }
        (Kind::ConnectionRefused, Place::Unix { .. }) => {
            format!("nothing listens at {place}, though the file is there; start Postgres")
        }
        (Kind::NotFound, Place::Unix { .. }) => {
            format!("there is no socket file {place}; start Postgres, or mend the folder and the port in database_url")
        }
        (Kind::PermissionDenied, Place::Unix { .. }) => {
            format!(
                "the gateway's user may not open the socket file {place}; give it the right, or run the gateway as another user"
            )
        }
        (Kind::TimedOut, _) => format!(
            "{place} does not answer ({cause}); look whether the address is right, the machine is up, and no firewall is \
             between"
        ),
        (Kind::HostUnreachable | Kind::NetworkUnreachable, _) => {
            format!("there is no way to {place} ({cause}); mend the host in database_url, or the network")
        }
        (Kind::ConnectionReset | Kind::UnexpectedEof | Kind::BrokenPipe | Kind::ConnectionAborted, _) => {
            format!("{place} ended the connection before it was made; look whether it is Postgres, and at its log")
        }
        _ => format!("{place}: {cause}"),
    };
    io::Error::new(cause.kind(), Unreached { words, cause })
}

/// The error for a host name without an address, or that could not be looked up.
pub(super) fn unresolved(host: &str, cause: &io::Error) -> io::Error {
    if lacks_descriptors(cause) {
        return io::Error::from_raw_os_error(TOO_MANY_OPEN[0]);
    }
    io::Error::other(format!(
        "the name {host} has no address ({cause}); mend the host in database_url, or the name service"
    ))
}

/// The message of the server, with the way to mend it where it is known.
pub(super) fn mended(code: &str, message: &str) -> String {
    let mend = match code {
        "28P01" => "mend the user or the password in database_url",
        "28000" => {
            "let the role in (`create role .. login`, pg_hba.conf; sslmode=require where TLS is asked for), or mend the user \
             in database_url"
        }
        "3D000" => "create the database (`createdb`), or mend its name in database_url",
        "53300" => {
            "the server has no connection left: raise its max_connections, or have others take fewer (writers, \
             read_connections)"
        }
        "57P03" => "it starts, stops or recovers: wait for it, and look at its log",
        "57P01" | "57P02" | "57P05" => "the server or its administrator ended the session; look at its log",
        "53100" => "its disk is full: make room there",
        "42501" => "grant the right to the gateway's role",
        "25006" => "it takes no writes: name the primary in database_url",
        _ => return message.to_owned(),
    };
    format!("{message}; {mend}")
}

/// The sentence for an error of sqlx.
pub(super) fn of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(said) => {
            let code = said.code().unwrap_or_default();
            match &*code {
                // This process has written the message.
                "08001" | NO_DESCRIPTORS => said.message().to_owned(),
                _ => format!("{} (SQLSTATE {code})", mended(&code, said.message())),
            }
        }
        sqlx::Error::Io(cause) if lacks_descriptors(cause) => NO_DESCRIPTORS_WORDS.to_owned(),
        sqlx::Error::Io(cause) => broken(cause),
        sqlx::Error::Protocol(words) => words.clone(),
        sqlx::Error::PoolTimedOut => "no connection could be had in time".to_owned(),
        sqlx::Error::PoolClosed => "the gateway stops".to_owned(),
        other => other.to_string(),
    }
}

/// The sentence for a broken connection.
pub(super) fn broken(cause: &io::Error) -> String {
    use io::ErrorKind as Kind;
    let is_ours = cause.get_ref().is_some_and(|inner| inner.is::<Unreached>());
    match cause.kind() {
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe | Kind::ConnectionAborted if !is_ours => {
            format!("the connection broke off ({cause})")
        }
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        super::super::url::Address::parse(url).expect("a URL").places[0].clone()
    }

    #[test]
    fn each_cause_is_one_sentence_that_says_how_to_mend_it() {
        let (tcp, unix) = (place("postgres://u@db.example:6000/d"), place("postgres:///d?host=/run/pg"));
        for (place, kind, words) in [
            (&tcp, io::ErrorKind::ConnectionRefused, "nothing listens at db.example:6000; start Postgres there"),
            (&unix, io::ErrorKind::NotFound, "there is no socket file /run/pg/.s.PGSQL.5432; start Postgres"),
            (&unix, io::ErrorKind::PermissionDenied, "may not open the socket file /run/pg/.s.PGSQL.5432"),
            (&tcp, io::ErrorKind::TimedOut, "db.example:6000 does not answer"),
            (&tcp, io::ErrorKind::UnexpectedEof, "db.example:6000 ended the connection before it was made"),
        ] {
            let told = unreached(place, kind.into());
            assert!(told.to_string().contains(words), "{told}");
            assert_eq!(told.kind(), kind);
            assert_eq!(broken(&told), told.to_string(), "told once");
        }
        for (code, words) in [
            ("28P01", "mend the user or the password"),
            ("3D000", "create the database"),
            ("53300", "raise its max_connections"),
            ("57P03", "wait for it"),
        ] {
            let told = mended(code, "what the server says");
            assert!(told.starts_with("what the server says; ") && told.contains(words), "{told}");
        }
        assert_eq!(mended("XX000", "odd"), "odd");
    }

    #[test]
    fn a_want_of_descriptors_is_known_through_every_dress() {
        let none = || io::Error::from_raw_os_error(TOO_MANY_OPEN[0]);
        assert!(lacks_descriptors(&none()) && lacks_descriptors(&unreached(&place("postgres://u@h/d"), none())));
        assert!(lacks_descriptors(&unresolved("h", &none())));
        assert!(
            sqlx_lacks_descriptors(&sqlx::Error::Io(none())) && !sqlx_lacks_descriptors(&sqlx::Error::PoolTimedOut)
        );
        assert!(!lacks_descriptors(&io::ErrorKind::ConnectionRefused.into()));
    }
}
