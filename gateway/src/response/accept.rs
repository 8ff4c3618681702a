//! Reads `Accept` (RFC 9110) with its weights, its wildcards, and the rule that the most exact range decides.

/// The index in `offers` (media types such as `application/json`) of the type that an `Accept` header prefers, or
/// `None` if it accepts none. Without a header it is the first. Among types of equal weight an exact name wins over a
/// wildcard, then the one that the header names first, then the earlier offer.
pub fn preferred(header: &str, offers: &[&str]) -> Option<usize> {
    if header.trim().is_empty() {
        return Some(0);
    }
    let mut best: Option<(usize, Fit)> = None;
    for (place, offer) in offers.iter().enumerate() {
        let Some(fit) = fit(header, offer).filter(|fit| fit.weight > 0) else { continue };
        if best.is_none_or(|(_, best)| fit.comes_before(best)) {
            best = Some((place, fit));
        }
    }
    best.map(|(place, _)| place)
}

/// How well a header accepts a media type.
#[derive(Clone, Copy)]
struct Fit {
    /// In thousandths.
    weight: u16,
    /// 2 for the type itself, 1 for `type/*`, 0 for `*/*`.
    exact: u8,
    /// The place in the header.
    place: usize,
}

impl Fit {
    fn comes_before(self, other: Self) -> bool {
        let rank = |fit: Self| (fit.weight, fit.exact, std::cmp::Reverse(fit.place));
        rank(self) > rank(other)
    }
}

/// The most exact range decides, and among equally exact ones the one with the greatest weight, since further
/// parameters distinguish versions.
fn fit(header: &str, offer: &str) -> Option<Fit> {
    let mut best: Option<Fit> = None;
    for (place, item) in header.split(',').enumerate() {
        let mut parts = item.split(';').map(str::trim);
        let Some(exact) = exactness(parts.next().unwrap_or_default(), offer) else { continue };
        let fit = Fit { weight: weight(parts), exact, place };
        if best.is_none_or(|best| (fit.exact, fit.weight) > (best.exact, best.weight)) {
            best = Some(fit);
        }
    }
    best
}

fn exactness(range: &str, offer: &str) -> Option<u8> {
    let kind = offer.split_once('/')?.0;
    let of_kind = || range.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(kind));
    match range {
        _ if range.eq_ignore_ascii_case(offer) => Some(2),
        "*/*" | "*" => Some(0),
        _ if of_kind() => Some(1),
        _ => None,
    }
}

/// The weight among the parameters of an item, in thousandths: 1,000 if it has none, 0 if it is invalid.
pub(super) fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> u16 {
    let written = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(written) = written else { return 1_000 };
    let (whole, thousandths) = written.split_once('.').unwrap_or((written, ""));
    let digits = thousandths.len() <= 3 && thousandths.bytes().all(|byte| byte.is_ascii_digit());
    match whole {
        "0" if digits => format!("{thousandths:0<3}").parse().unwrap_or(0),
        "1" if digits && thousandths.bytes().all(|byte| byte == b'0') => 1_000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_wildcards_and_exactness_decide() {
        let offers = ["application/json", "application/x-ndjson"];
        for (header, wanted) in [
            ("", Some(0)),
            ("*/*", Some(0)),
            ("application/*", Some(0)),
            ("application/x-ndjson", Some(1)),
            ("Application/X-NDJSON; q=0.5", Some(1)),
            ("application/x-ndjson;q=0", None),
            ("application/x-ndjson;q=0, */*", Some(0)),
            ("application/x-ndjson;q=0.000, application/*;q=0.1", Some(0)),
            ("application/json;q=0, */*;q=0.1", Some(1)),
            ("application/json;q=0.5, application/x-ndjson;q=0.6", Some(1)),
            ("application/json;q=0.6, application/x-ndjson;q=0.5", Some(0)),
            ("application/x-ndjson, */*", Some(1)),
            ("application/x-ndjson, application/json", Some(1)),
            ("application/json, application/x-ndjson", Some(0)),
            ("application/x-ndjson;q=0.2, */*;q=0.9", Some(0)),
            ("application/x-ndjson;q=much, text/html", None),
            ("text/html, image/*", None),
            ("application/x-ndjsonx", None),
        ] {
            assert_eq!(preferred(header, &offers), wanted, "{header}");
        }
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_wants() {
        let offers = ["text/plain", "application/openmetrics-text"];
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (header, wanted) in [
            (prometheus, 1),
            ("text/plain;version=0.0.4;q=0.5, */*;q=0.1", 0),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.3", 0),
            ("text/*", 0),
            ("*/*", 0),
            ("", 0),
            ("application/openmetrics-text, */*", 1),
        ] {
            assert_eq!(preferred(header, &offers), Some(wanted), "{header}");
        }
    }

    #[test]
    fn a_weight_is_written_as_the_standard_has_it() {
        for (text, wanted) in [
            ("q=1", 1_000),
            ("Q = 0.25", 250),
            ("q=0.", 0),
            ("q=1.000", 1_000),
            ("q=1.1", 0),
            ("q=0.1234", 0),
            ("q=2", 0),
        ] {
            assert_eq!(weight([text].into_iter()), wanted, "{text}");
        }
        assert_eq!(weight(["version=1"].into_iter()), 1_000);
    }
}
