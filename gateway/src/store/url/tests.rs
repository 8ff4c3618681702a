//! Tests that URLs are read as libpq reads them.

use super::*;

fn tcp(name: &str, port: u16) -> Place {
    Place::Tcp { name: name.to_owned(), address: None, port }
}

fn unix(folder: &str, port: u16) -> Place {
    Place::Unix { folder: folder.into(), port }
}

fn problem(url: &str) -> String {
    let problem = Address::parse(url).expect_err(url);
    for secret in ["hush", "secret"] {
        assert!(!problem.contains(secret), "{problem}");
    }
    problem
}

#[test]
fn hosts_are_read_as_libpq_reads_them() {
    for (url, places) in [
        ("postgres://u:p@[::1]:5433/d", vec![tcp("::1", 5433)]),
        ("postgresql://u@h1:1,h2,[fe80::1]:3/d", vec![tcp("h1", 1), tcp("h2", 5432), tcp("fe80::1", 3)]),
        ("postgresql://u@[fe80::1%25eth0]/d", vec![tcp("fe80::1%eth0", 5432)]),
        ("postgres:///d?host=/run/pg,h2&port=7,8", vec![unix("/run/pg", 7), tcp("h2", 8)]),
        ("postgres://%2Frun%2Fpg/d", vec![unix("/run/pg", 5432)]),
        ("postgres://postgres@localhost:6000/postgres?host=/a%20b", vec![unix("/a b", 6000)]),
        ("postgres:///d?host=::1", vec![tcp("::1", 5432)]),
        ("postgres://", vec![tcp("localhost", 5432)]),
    ] {
        assert_eq!(Address::parse(url).expect(url).places, places, "{url}");
    }
    let named = Address::parse("postgres://db.example/d?hostaddr=10.0.0.1").expect("a URL");
    assert_eq!(
        named.places,
        [Place::Tcp { name: "db.example".to_owned(), address: Some("10.0.0.1".to_owned()), port: 5432 }]
    );
}

#[test]
fn who_and_how_are_read() {
    let address = Address::parse(
        "postgres://a%40b:p%2Fw@h/d%20b?sslmode=verify-full&sslrootcert=/r&sslcert=/c&sslkey=/k&connect_timeout=7\
             &keepalives_idle=3&keepalives_interval=2&keepalives_count=9&tcp_user_timeout=4000&options=-c%20a%3Db\
             &application_name=shop&target_session_attrs=primary",
    )
    .expect("a URL");
    assert_eq!((address.user(), address.password.as_deref(), address.database()), ("a@b", Some("p/w"), "d b"));
    assert_eq!((address.ssl_mode, address.wanted), (SslMode::VerifyFull, Wanted::Primary));
    assert_eq!(address.ssl_client, Some(("/c".into(), "/k".into())));
    assert_eq!((address.connect_time.as_secs(), address.user_timeout), (7, Some(Duration::from_secs(4))));
    let (idle, interval) = (Duration::from_secs(3), Duration::from_secs(2));
    assert_eq!(address.keepalive, Some(Keepalive { idle, interval, count: 9 }));
    assert_eq!((address.options.as_deref(), address.application_name.as_str()), (Some("-c a=b"), "shop"));
    let several = Address::parse("postgres://h1,h2/d").expect("a URL");
    assert_eq!(several.wanted, Wanted::ReadWrite, "a gateway writes");
    for (url, wanted) in [
        ("postgres://h1,h2/d", Wanted::PreferStandby),
        ("postgres://h1,h2/d?target_session_attrs=standby", Wanted::Standby),
        ("postgres://h1,h2/d?target_session_attrs=read-write", Wanted::ReadWrite),
        ("postgres://h1/d", Wanted::Any),
    ] {
        assert_eq!(Address::parse(url).expect(url).for_reading().wanted, wanted, "{url}, for a reader");
    }
    let rooted = Address::parse("postgres://h/d?sslmode=require&sslrootcert=/r").expect("a URL");
    assert_eq!(rooted.ssl_mode, SslMode::VerifyCa);
}

#[test]
fn what_is_not_understood_is_told_without_the_password() {
    for (url, words) in [
        ("mysql://u:hush@h/d", "postgres://"),
        ("host=h password=hush", "postgres://"),
        ("postgres://u:hush@h:99999/d", "port"),
        ("postgres://u:hush@h:0/d", "port"),
        ("postgres://u:hush@h/d?sslmode=requre", "sslmode must be"),
        ("postgres://u:hush@h/d?target_session_attrs=writable", "target_session_attrs must be"),
        ("postgres://u:hush@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgres://u:hush@h1,h2/d?port=1,2,3", "one port"),
        ("postgres://u:hush@[::1/d", "bracket"),
        ("postgres://u:hu@sh@h/d", "%40"),
        ("postgres://u:hu/secret@h/d", "%2F"),
        ("postgres://u:hu?secret@h/d", "%3F"),
        ("postgres://u:hush%zz@h/d", "%25"),
        ("postgres://u:hush#x@h/d", "%23"),
        ("postgres://h/d?password=hu&secret=1", "not understood"),
        ("postgres://u:hu%26@h/d?secret", "name=value"),
        ("postgres://u:hush@h/d?sslcert=/c", "together"),
        ("postgres://u:hush@h/d?hostaddr=db.example", "IP"),
    ] {
        let told = problem(url);
        assert!(told.contains(words), "{url}: {told}");
    }
    assert_eq!(problem("postgres://h/d?pool_max=3"), "the parameter pool_max is not understood");
}

#[test]
fn a_password_file_is_searched_for_the_place() {
    let wanted = ["h", "5432", "d", "u"];
    assert_eq!(password_of("h:5432:d:u:pa:ss\\\\", wanted).as_deref(), Some("pa:ss\\"));
    assert_eq!(password_of("*:*:*:u:x", wanted).as_deref(), Some("x"));
    for other in ["# h:5432:d:u:x", "h2:*:*:*:x", "h:5432:d:u", ""] {
        assert_eq!(password_of(other, wanted), None, "{other}");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let url = format!("postgres://u@h1,h2/d?passfile={}", file.path().display());
    let address = Address::parse(&url).expect("a URL");
    for (text, password) in [
        ("*:*:*:u:hush", Ok(Some("hush"))),
        ("h1:*:*:*:hush\nh2:*:*:*:hush", Ok(Some("hush"))),
        ("h3:*:*:*:hush", Ok(None)),
        ("h1:*:*:*:hush\nh2:*:*:*:other", Err(())),
        ("h1:*:*:*:hush", Err(())),
    ] {
        std::fs::write(file.path(), text).expect("written");
        let found = address.only_password();
        assert_eq!(found.as_ref().map(Option::as_deref).map_err(|_| ()), password, "{text}");
    }
}
