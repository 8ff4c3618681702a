//! Event types as people write them, and the right one for most wrong ones.

use eye_event::envelope;
use eye_event::legible::legible;
use eye_judge::Slot;

/// Signs that people write in place of the slash.
const SEPARATORS: [char; 8] = ['.', ':', '\\', '>', '|', ',', ' ', '-'];

/// Characters that a message quotes.
const QUOTED_CHARACTERS_MAX: usize = 80;

/// Reads an event type: `<category>/<name>`, `<category>/*` or `*`.
///
/// # Errors
///
/// What is wrong, and the nearest right one.
pub(in crate::cli) fn event_type(text: &str) -> Result<Slot, String> {
    let why = match proved(text) {
        Ok(slot) => return Ok(slot),
        Err(why) => why,
    };
    let near = nearest(text).map(|near| format!("; is `{near}` meant?")).unwrap_or_default();
    Err(format!("`{}` is no event type: {why}{near}", legible(text, QUOTED_CHARACTERS_MAX)))
}

fn proved(text: &str) -> Result<Slot, String> {
    if !text.contains('/') && !["*", "_"].contains(&text) {
        return Err("it is a category, a slash and a name, such as shop/sale".to_owned());
    }
    if text.ends_with(".wasm") || text.ends_with(".schema.json") {
        return Err("this is the name of a file".to_owned());
    }
    if text.matches('/').count() > 1 {
        return Err("it has one slash; one within a category or a name is written %2F".to_owned());
    }
    let slot = Slot::parse(text)?;
    let (category, name) = slot.parts();
    let wrong = [category, name].into_iter().flatten().find_map(envelope::wrong_word);
    wrong.map_or(Ok(slot.clone()), |(_, why)| Err(format!("a category or name {why}")))
}

/// The right event type that is nearest to a wrong one.
fn nearest(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|character| !eye_event::legible::is_hidden(*character)).collect();
    let text = text.trim().trim_matches('/').trim();
    let text = text.strip_suffix(".wasm").or_else(|| text.strip_suffix(".schema.json")).unwrap_or(text);
    let tidy = |category: &str, name: &str| format!("{}/{}", category.trim(), name.trim().replace('/', "%2F"));
    let near = match text.split_once('/') {
        Some((category, name)) => tidy(category, name),
        None => {
            let (category, name) = SEPARATORS.iter().find_map(|separator| text.split_once(*separator))?;
            tidy(category, name)
        }
    };
    proved(&near).is_ok().then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_taken_as_they_are() {
        for text in ["shop/sale", "shop/*", "shop/_", "*", "page interaction/cta click", "a/b%2Fc", "\u{e9}/x"] {
            assert!(event_type(text).is_ok(), "{text}: {:?}", event_type(text));
        }
    }

    #[test]
    fn a_wrong_one_is_told_with_the_right_one() {
        for (text, near) in [
            ("shop.sale", "shop/sale"),
            ("shop:sale", "shop/sale"),
            ("shop sale", "shop/sale"),
            ("shop\\sale", "shop/sale"),
            ("shop-sale", "shop/sale"),
            ("/shop/sale", "shop/sale"),
            ("shop/sale/", "shop/sale"),
            ("shop / sale", "shop/sale"),
            (" shop/sale", "shop/sale"),
            ("shop/sale.wasm", "shop/sale"),
            ("shop/a/b", "shop/a%2Fb"),
            ("shop/sa\u{200b}le", "shop/sale"),
        ] {
            let told = event_type(text).expect_err(text);
            assert!(told.contains(&format!("is `{near}` meant?")), "{text:?}: {told}");
        }
        for text in ["", "sale", "shop/", "/", "shop/%zz", "_/x"] {
            assert!(event_type(text).is_err(), "{text}");
        }
    }
}
