//! Rules about text that many validators need, as questions. [`Violations`](crate::Violations) has a method for each,
//! which adds the violation too.

/// Country codes of two letters: ISO 3166-1 alpha-2, officially assigned, as the ISO Online Browsing Platform lists them
/// (<https://www.iso.org/obp/ui/#search/code/>), 249 of them.
const COUNTRIES: &str = "\
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD \
CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF \
GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN \
KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA \
NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI \
SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI \
VN VU WF WS YE YT ZA ZM ZW";

/// Currency codes: ISO 4217 List One, as SIX publishes it for ISO
/// (<https://www.six-group.com/en/products-services/financial-information/data-standards.html>), of January 2026. The codes
/// for tests and for no currency (XTS, XXX) are left out.
const CURRENCIES: &str = "\
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CLF \
CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF \
IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT \
MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD \
SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS \
VED VES VND VUV WST XAD XAF XAG XAU XBA XBB XBC XBD XCD XCG XDR XOF XPD XPF XPT XSU XUA YER ZAR ZMW ZWG";

/// Whether this is a country by ISO 3166-1, in two capital letters.
pub fn is_country(text: &str) -> bool {
    is_listed(COUNTRIES, text)
}

/// Whether this is a currency by ISO 4217, in three capital letters.
pub fn is_currency(text: &str) -> bool {
    is_listed(CURRENCIES, text)
}

/// Whether a code is in a list of codes of one length, sorted, with a space after each.
fn is_listed(list: &str, code: &str) -> bool {
    let length = list.find(' ').unwrap_or(list.len());
    if code.len() != length {
        return false;
    }
    let (mut low, mut high) = (0, (list.len() + 1) / (length + 1));
    while low < high {
        let middle = low + (high - low) / 2;
        let start = middle * (length + 1);
        match list.as_bytes()[start..start + length].cmp(code.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    false
}

/// Whether this is a host name by RFC 1123: labels of letters, digits and inner hyphens, 63 bytes at most each, 253
/// bytes at most in all. Names in other scripts are sent as the browser has them, in their `xn--` form.
pub fn is_host_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether this is written like an e-mail address as people have them: up to 64 letters, digits and signs of RFC 5321's
/// dot-string, one `@`, and a host name with a dot. No quotes, comments or addresses of machines, which that standard
/// allows too. Whether somebody reads it, only a message can tell.
pub fn is_email(text: &str) -> bool {
    let Some((local, host)) = text.rsplit_once('@') else { return false };
    let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    let is_atom = |atom: &str| !atom.is_empty() && (atom.bytes().all(|byte| sign(byte) || byte >= 0x80));
    let no_space = !local.chars().any(|character| character.is_whitespace() || character.is_control());
    text.len() <= 254
        && local.len() <= 64
        && no_space
        && local.split('.').all(is_atom)
        && host.contains('.')
        && is_host_name(host)
}

/// Whether this is the address of a page: `http` or `https`, a host name or an address, perhaps a port, and no spaces. A
/// name or password before the host is not taken, since no event should hold one.
pub fn is_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if rest
        .chars()
        .any(|character| character.is_whitespace() || character.is_control() || "\"<>\\^`{|}".contains(character))
    {
        return false;
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (is_host_name(host), port)
        }
    };
    let is_number =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|it| it > 0);
    host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_number))
}

/// Whether this is a UUID by RFC 9562: 8-4-4-4-12 hexadecimal digits, in either case.
pub fn is_uuid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    let fits = |(place, byte): (usize, u8)| match hyphens.contains(&place) {
        true => byte == b'-',
        false => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_told_from_other_text() {
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        for host in ["a", "localhost", "shop.example", "xn--bcher-kva.example", "1.2.3.4", &longest] {
            assert!(is_host_name(host), "{host}");
        }
        let too_long = format!("{longest}d");
        let long_label = "a".repeat(64);
        for host in
            ["", ".", "a.", "a..b", "-a", "a-", "a b", "a:80", "a/b", "b\u{fc}cher", "a_b", &too_long, &long_label]
        {
            assert!(!is_host_name(host), "{host}");
        }
    }

    #[test]
    fn addresses_are_told_from_other_text() {
        for email in ["ada@shop.example", "a.b+c@x-y.example.org", "j\u{fc}rgen@shop.example", "o'hara@a.bc"] {
            assert!(is_email(email), "{email}");
        }
        let long = format!("{}@a.bc", "a".repeat(65));
        for email in [
            "",
            "@",
            "ada",
            "ada@",
            "@shop.example",
            "ada@shop",
            "a b@shop.example",
            "a@b@c.de",
            ".a@b.cd",
            "a..b@c.de",
            "a@b.cd ",
            "\"a b\"@c.de",
            "a\0@b.cd",
            &long,
        ] {
            assert!(!is_email(email), "{email:?}");
        }
        for url in [
            "https://shop.example",
            "http://localhost:8000/a?b=c#d",
            "https://[2001:db8::1]:443/",
            "https://1.2.3.4/\u{e4}",
        ] {
            assert!(is_url(url), "{url}");
        }
        for url in [
            "",
            "shop.example",
            "ftp://a.example",
            "https://",
            "https:///a",
            "https://a b.example",
            "https://a.example/b c",
            "https://u:p@a.example",
            "https://a.example:0",
            "https://a.example:99999",
            "https://a.example:",
            "https://[::1",
            "https://[x]/",
            "javascript:alert(1)",
            "HTTPS://a.example",
            "https://a.example:+1",
        ] {
            assert!(!is_url(url), "{url}");
        }
    }

    #[test]
    fn uuids_are_told_from_other_text() {
        assert!(is_uuid("0198C8b2-41d7-7e0a-9c35-7d2f60a1b9e4"));
        for text in [
            "",
            "0198c8b241d77e0a9c357d2f60a1b9e4",
            "0198c8b2-41d7-7e0a-9c35-7d2f60a1b9e",
            "g198c8b2-41d7-7e0a-9c35-7d2f60a1b9e4",
        ] {
            assert!(!is_uuid(text), "{text}");
        }
    }

    #[test]
    fn lists_of_codes_are_sorted_and_asked_exactly() {
        for (list, is_one, count, length) in
            [(COUNTRIES, is_country as fn(&str) -> bool, 249, 2), (CURRENCIES, is_currency, 176, 3)]
        {
            let codes: Vec<&str> = list.split(' ').collect();
            assert_eq!(codes.len(), count);
            assert!(codes.is_sorted() && codes.iter().all(|code| code.len() == length && is_one(code)));
        }
        for code in ["", "D", "de", "XX", "DEU", "D ", " DE", "UK"] {
            assert!(!is_country(code), "{code:?}");
        }
        for code in ["", "eur", "EURO", "DEM", "XXX", "EU ", "\u{20ac}"] {
            assert!(!is_currency(code), "{code:?}");
        }
    }
}
