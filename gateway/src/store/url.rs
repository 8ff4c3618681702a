//! Reads the database URL as libpq does: several hosts, IPv6, Unix sockets, TLS, times, the kind of server. An unknown part is
//! a problem. Messages never quote the URL, since one that is not encoded well may have a part of the password anywhere.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// The variables of the environment that libpq reads where a URL is silent.
#[derive(Debug, Default)]
pub struct LibpqEnvironment {
    /// `PGUSER`, or the name of the user of the system.
    pub user: Option<String>,
    /// `PGPASSWORD`.
    pub password: Option<String>,
    /// `PGPASSFILE`, or `.pgpass` at home.
    pub passfile: Option<PathBuf>,
}

const PORT: u16 = 5_432;
/// Longest wait for a connection to one address of a host, unless the URL says otherwise.
const CONNECT_TIME: Duration = Duration::from_millis(1_300);
/// Silence after which the kernel probes whether the server is still there, the pause between probes, and their number.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;
/// Longest time that sent bytes may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(15);
/// Most hosts of one URL.
const HOSTS_MAX: usize = 32;

/// The place where one server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A name or address, and a port.
    Tcp {
        /// The name of the host. The certificate must have it.
        name: String,
        /// The address to connect to, if the name is not used for that.
        address: Option<String>,
        port: u16,
    },
    /// A socket file.
    Unix {
        folder: PathBuf,
        /// A part of the name of the file.
        port: u16,
    },
}

impl Place {
    /// The path of a socket file, in the form that servers use.
    pub(super) fn file(folder: &Path, port: u16) -> PathBuf {
        folder.join(format!(".s.PGSQL.{port}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp { name, port, .. } if name.contains(':') => write!(formatter, "[{name}]:{port}"),
            Place::Tcp { name, port, .. } => write!(formatter, "{name}:{port}"),
            Place::Unix { folder, port } => write!(formatter, "{}", Place::file(folder, *port).display()),
        }
    }
}

/// The wanted protection by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    /// Also `allow`: in both cases the gateway takes the offer of the server.
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The wanted kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Everything that a connection needs. The store reads it for each new one.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) places: Vec<Place>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) database: Option<String>,
    pub(super) ssl_mode: SslMode,
    /// A file with the roots. Without one, the roots that browsers trust.
    pub(super) ssl_root: Option<PathBuf>,
    /// Files with the client's certificate and its key.
    pub(super) ssl_client: Option<(PathBuf, PathBuf)>,
    pub(super) wanted: Wanted,
    /// Whether the URL sets `target_session_attrs`.
    names_wanted: bool,
    pub(super) connect_time: Duration,
    /// None if the URL turns it off.
    pub(super) keepalive: Option<Keepalive>,
    /// None for the default of the system.
    pub(super) user_timeout: Option<Duration>,
    /// Command-line options for the server process.
    pub(super) options: Option<String>,
    pub(super) application_name: String,
}

/// When the kernel probes whether the server of a silent connection is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keepalive {
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Address").field("places", &self.places).finish_non_exhaustive()
    }
}

/// The parameters of a URL, before they make an address.
#[derive(Default)]
struct Given {
    hosts: Option<Vec<String>>,
    addresses: Option<Vec<String>>,
    ports: Option<Vec<u16>>,
    user: Option<String>,
    password: Option<String>,
    /// A parameter after the password. Its name may be a part of the password, so no message quotes it.
    after_password: bool,
    passfile: Option<PathBuf>,
    database: Option<String>,
    ssl_mode: Option<SslMode>,
    ssl_root: Option<PathBuf>,
    ssl_certificate: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    wanted: Option<Wanted>,
    connect_time: Option<Duration>,
    keepalives_off: bool,
    keepalives_idle: Option<Duration>,
    keepalives_interval: Option<Duration>,
    keepalives_count: Option<u32>,
    user_timeout: Option<Duration>,
    options: Option<String>,
    application_name: Option<String>,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// A message about the first problem. It quotes nothing of the URL but names of parameters.
    pub(super) fn parse(url: &str) -> Result<Address, String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err("it must begin with postgres:// or postgresql://".to_owned());
        };
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err("it must begin with postgres:// or postgresql://; no other database is understood".to_owned());
        }
        if rest.contains('#') {
            return Err("it has a `#`; write it as %23".to_owned());
        }
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = before.split_once('/').unwrap_or((before, ""));
        let cut = !authority.contains('@') && (path.contains('@') || query.contains('@'));
        if cut || authority.matches('@').count() > 1 {
            return Err(
                "an `@`, `/` or `?` in the user, the password or a value must be written as %40, %2F or %3F".to_owned()
            );
        }
        let mut given = Given::default();
        given.authority(authority)?;
        if !path.is_empty() {
            given.database = Some(decoded(path, "the name of the database")?);
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err("after `?` each parameter must be written as name=value".to_owned());
            };
            given.parameter(key, &decoded(value, "a parameter")?)?;
        }
        given.address()
    }

    /// Fills the gaps of the URL from the variables of libpq.
    pub(super) fn or(mut self, user: Option<String>, password: Option<String>, passfile: Option<PathBuf>) -> Address {
        self.user = self.user.or(user);
        self.password = self.password.or(password);
        self.passfile = self.passfile.or(passfile);
        self
    }

    /// The address for a reader: of several hosts it prefers a standby, unless the URL sets `target_session_attrs`.
    pub(super) fn for_reading(mut self) -> Address {
        if !self.names_wanted && self.places.len() > 1 {
            self.wanted = Wanted::PreferStandby;
        }
        self
    }

    pub(super) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("postgres")
    }

    pub(super) fn database(&self) -> &str {
        self.database.as_deref().unwrap_or_else(|| self.user())
    }

    /// The password for a place, which may stand in a file.
    ///
    /// # Errors
    ///
    /// The file is there and cannot be read.
    pub(super) fn password_for(&self, place: &Place) -> Result<Option<String>, String> {
        let (None, Some(file)) = (&self.password, &self.passfile) else { return Ok(self.password.clone()) };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(format!("the password file {} cannot be read: {error}", file.display())),
        };
        let (host, port) = match place {
            Place::Tcp { name, port, .. } => (name.clone(), port.to_string()),
            Place::Unix { port, .. } => ("localhost".to_owned(), port.to_string()),
        };
        let wanted = [host.as_str(), port.as_str(), self.database(), self.user()];
        Ok(text.lines().find_map(|line| password_of(line, wanted)))
    }

    /// The password that all places share. Places whose password cannot be read are left out.
    ///
    /// # Errors
    ///
    /// The password file has different passwords for the places.
    pub(super) fn only_password(&self) -> Result<Option<String>, String> {
        let mut found: Vec<_> = self.places.iter().filter_map(|place| self.password_for(place).ok()).collect();
        found.sort_unstable();
        found.dedup();
        if found.len() > 1 {
            return Err(
                "its password file has different passwords for its hosts; give the role one password on all of \
                        them"
                    .to_owned(),
            );
        }
        Ok(found.pop().flatten())
    }

    /// The files that it names, by their parameters.
    pub(super) fn files(self) -> Vec<(&'static str, PathBuf)> {
        let (certificate, key) = self.ssl_client.unzip();
        let files =
            [("sslrootcert", self.ssl_root), ("sslcert", certificate), ("sslkey", key), ("passfile", self.passfile)];
        files.into_iter().filter_map(|(parameter, file)| Some((parameter, file?))).collect()
    }

    /// Whether it names one socket file, so that TLS, keepalive and the choice of a server do not apply.
    pub(super) fn is_one_socket(&self) -> bool {
        matches!(self.places[..], [Place::Unix { .. }]) && self.wanted == Wanted::Any
    }
}

/// The password of a line of a password file, if the line matches.
fn password_of(line: &str, wanted: [&str; 4]) -> Option<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => fields.last_mut()?.extend(characters.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            other => fields.last_mut()?.push(other),
        }
    }
    let meant = !line.starts_with('#') && fields.len() == 5;
    let is = |(field, wanted): (&String, &str)| field == "*" || field == wanted;
    (meant && fields.iter().zip(wanted).all(is)).then(|| fields.pop()).flatten()
}

fn decoded(text: &str, what: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let whole = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
    if (0..bytes.len()).any(|at| bytes[at] == b'%' && !whole(at)) {
        return Err(format!("{what} has a `%` that begins no encoded character; write a plain one as %25"));
    }
    let text = percent_decode_str(text).decode_utf8().map_err(|_| format!("{what} is no UTF-8"))?;
    if text.contains('\0') {
        return Err(format!("{what} has a NUL"));
    }
    Ok(text.into_owned())
}

fn port(text: &str) -> Result<u16, String> {
    match text {
        "" => Ok(PORT),
        _ => text.parse().ok().filter(|port| *port > 0).ok_or("a port must be a number from 1 to 65535".to_owned()),
    }
}

impl Given {
    fn authority(&mut self, authority: &str) -> Result<(), String> {
        let (user, hosts) = match authority.split_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        if let Some(user) = user {
            let (name, password) = user.split_once(':').map_or((user, None), |(name, word)| (name, Some(word)));
            self.user = Some(decoded(name, "the user")?).filter(|name| !name.is_empty());
            self.password = password.map(|word| decoded(word, "the password")).transpose()?;
        }
        if hosts.is_empty() {
            return Ok(());
        }
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, rest) = match host.strip_prefix('[') {
                Some(inner) => inner.split_once(']').ok_or("an IPv6 address lacks its closing bracket".to_owned())?,
                None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
            };
            if !rest.is_empty() && !rest.starts_with(':') {
                return Err("after an IPv6 address in brackets only a port may follow".to_owned());
            }
            let name = decoded(name, "a host")?;
            // A link-local address may name its interface after `%`.
            let number = name.split('%').next().unwrap_or_default();
            if host.starts_with('[') && number.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("what stands in brackets must be an IPv6 address".to_owned());
            }
            names.push(name);
            ports.push(port(rest.strip_prefix(':').unwrap_or_default())?);
        }
        self.hosts = Some(names);
        self.ports = Some(ports);
        Ok(())
    }

    fn parameter(&mut self, key: &str, value: &str) -> Result<(), String> {
        let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        let file = || Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty());
        let number = |most: u64| {
            let number = value.parse::<i64>().map_err(|_| format!("{key} must be a whole number"))?;
            u64::try_from(number).ok().filter(|number| *number <= most).ok_or(format!("{key} must be from 0 to {most}"))
        };
        let seconds = || Ok::<_, String>(Some(Duration::from_secs(number(86_400)?)).filter(|time| !time.is_zero()));
        match key {
            "host" => self.hosts = Some(list()),
            "hostaddr" => self.addresses = Some(list()),
            "port" => self.ports = Some(value.split(',').map(port).collect::<Result<_, _>>()?),
            "user" => self.user = Some(value.to_owned()),
            "password" => {
                self.password = Some(value.to_owned());
                self.after_password = true;
            }
            "passfile" => self.passfile = file(),
            "dbname" => self.database = Some(value.to_owned()),
            "sslmode" | "ssl-mode" => self.ssl_mode = Some(ssl_mode(value)?),
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => {
                self.ssl_root = file().filter(|path| path.as_os_str() != "system")
            }
            "sslcert" | "ssl-cert" => self.ssl_certificate = file(),
            "sslkey" | "ssl-key" => self.ssl_key = file(),
            "target_session_attrs" => self.wanted = Some(wanted(value)?),
            "connect_timeout" => self.connect_time = seconds()?,
            "keepalives" => self.keepalives_off = number(1)? == 0,
            "keepalives_idle" => self.keepalives_idle = seconds()?,
            "keepalives_interval" => self.keepalives_interval = seconds()?,
            "keepalives_count" => self.keepalives_count = u32::try_from(number(127)?).ok().filter(|count| *count > 0),
            "tcp_user_timeout" => self.user_timeout = Some(Duration::from_millis(number(86_400_000)?)),
            "options" => self.options = Some(value.to_owned()),
            "application_name" | "fallback_application_name" => self.application_name = Some(value.to_owned()),
            "client_encoding" if ["utf8", "utf-8", "auto"].contains(&value.to_lowercase().as_str()) => {}
            "client_encoding" => return Err("client_encoding can only be utf8".to_owned()),
            "gssencmode" if value != "require" => {}
            "channel_binding" if value != "require" => {}
            "load_balance_hosts" if value == "disable" => {}
            "gssencmode" | "channel_binding" | "load_balance_hosts" => {
                return Err(format!("this value of {key} is not supported; leave it out"));
            }
            "statement-cache-capacity" | "sslcompression" | "sslsni" => {}
            _ => return Err(unknown(key, self.after_password)),
        }
        Ok(())
    }

    fn address(self) -> Result<Address, String> {
        let places = self.places()?;
        let several = places.len() > 1;
        let ssl_client = match (self.ssl_certificate, self.ssl_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err("sslcert and sslkey must be given together".to_owned()),
        };
        let asked = |asked: Option<Duration>, otherwise| asked.unwrap_or(otherwise);
        Ok(Address {
            places,
            user: self.user,
            password: self.password,
            passfile: self.passfile,
            database: self.database.filter(|name| !name.is_empty()),
            // Like in libpq, a URL that names the roots asks for their use.
            ssl_mode: match self.ssl_mode.unwrap_or(SslMode::Prefer) {
                SslMode::Require if self.ssl_root.is_some() => SslMode::VerifyCa,
                mode => mode,
            },
            ssl_root: self.ssl_root,
            ssl_client,
            // With several hosts, the default is a server that can be written to, since a gateway writes.
            wanted: self.wanted.unwrap_or(if several { Wanted::ReadWrite } else { Wanted::Any }),
            names_wanted: self.wanted.is_some(),
            connect_time: asked(self.connect_time, CONNECT_TIME),
            keepalive: (!self.keepalives_off).then(|| Keepalive {
                idle: asked(self.keepalives_idle, KEEPALIVE_IDLE),
                interval: asked(self.keepalives_interval, KEEPALIVE_INTERVAL),
                count: self.keepalives_count.unwrap_or(KEEPALIVE_COUNT),
            }),
            user_timeout: Some(asked(self.user_timeout, USER_TIMEOUT)).filter(|time| !time.is_zero()),
            options: self.options.filter(|options| !options.is_empty()),
            application_name: self.application_name.filter(|name| !name.is_empty()).unwrap_or("eye".to_owned()),
        })
    }

    fn places(&self) -> Result<Vec<Place>, String> {
        let none = vec![String::new()];
        let names = self.hosts.as_ref().or(self.addresses.as_ref()).unwrap_or(&none);
        let ports = self.ports.clone().unwrap_or(vec![PORT]);
        if names.len() > HOSTS_MAX {
            return Err(format!("it names more than {HOSTS_MAX} hosts"));
        }
        if ports.len() != 1 && ports.len() != names.len() {
            return Err("there must be one port, or as many as hosts".to_owned());
        }
        if self.addresses.as_ref().is_some_and(|addresses| addresses.len() != names.len()) {
            return Err("there must be as many in hostaddr as hosts".to_owned());
        }
        let place = |(at, name): (usize, &String)| {
            let port = *ports.get(at).unwrap_or(&ports[0]);
            let address =
                self.addresses.as_ref().map(|addresses| addresses[at].clone()).filter(|text| !text.is_empty());
            if address.as_ref().is_some_and(|address| address.parse::<std::net::IpAddr>().is_err()) {
                return Err("hostaddr must hold IP addresses".to_owned());
            }
            if name.starts_with('/') && address.is_none() {
                return Ok(Place::Unix { folder: PathBuf::from(name), port });
            }
            if name.starts_with('@') {
                return Err("sockets with abstract names are not supported".to_owned());
            }
            let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
            let name = if bare.is_empty() { "localhost" } else { bare };
            Ok(Place::Tcp { name: name.to_owned(), address, port })
        };
        names.iter().enumerate().map(place).collect()
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, String> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" | "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => return Err("sslmode must be disable, allow, prefer, require, verify-ca or verify-full".to_owned()),
    })
}

fn wanted(value: &str) -> Result<Wanted, String> {
    Ok(match value {
        "any" => Wanted::Any,
        "read-write" => Wanted::ReadWrite,
        "read-only" => Wanted::ReadOnly,
        "primary" => Wanted::Primary,
        "standby" => Wanted::Standby,
        "prefer-standby" => Wanted::PreferStandby,
        _ => {
            return Err("target_session_attrs must be any, read-write, read-only, primary, standby or prefer-standby"
                .to_owned());
        }
    })
}

/// The name of a parameter for a message. After a password it may be a part of that, so the message has no name.
fn unknown(key: &str, after_password: bool) -> String {
    let quotable = key.len() <= 40 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if quotable && !after_password {
        format!("the parameter {key} is not understood")
    } else {
        "a parameter is not understood (in a value, `&` must be written as %26, `?` as %3F)".to_owned()
    }
}

#[cfg(test)]
mod tests;
