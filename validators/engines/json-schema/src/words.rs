//! The keywords of JSON Schema: which drafts have them, and which word was meant by one that nobody knows.

/// The drafts, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Draft {
    Four,
    Six,
    Seven,
    Of2019,
    Of2020,
}

impl Draft {
    /// The draft that `$schema` names.
    pub(crate) fn of(uri: &str) -> Option<Self> {
        let uri = uri.strip_suffix('#').unwrap_or(uri);
        let path = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"))?;
        match path.strip_prefix("json-schema.org/")? {
            "draft-04/schema" => Some(Self::Four),
            "draft-06/schema" => Some(Self::Six),
            "draft-07/schema" => Some(Self::Seven),
            "draft/2019-09/schema" => Some(Self::Of2019),
            "draft/2020-12/schema" => Some(Self::Of2020),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Four => "draft 4",
            Self::Six => "draft 6",
            Self::Seven => "draft 7",
            Self::Of2019 => "2019-09",
            Self::Of2020 => "2020-12",
        }
    }
}

use Draft::{Four, Of2019, Of2020, Seven, Six};

/// Each keyword, with the first and the last draft in which it means something here.
const KEYWORDS: [(&str, Draft, Draft); 66] = [
    ("$anchor", Of2019, Of2020),
    ("$comment", Four, Of2020),
    ("$defs", Four, Of2020),
    ("$dynamicAnchor", Of2020, Of2020),
    ("$dynamicRef", Of2020, Of2020),
    ("$id", Six, Of2020),
    ("$recursiveAnchor", Of2019, Of2019),
    ("$recursiveRef", Of2019, Of2019),
    ("$ref", Four, Of2020),
    ("$schema", Four, Of2020),
    ("$vocabulary", Of2019, Of2020),
    ("additionalItems", Four, Of2019),
    ("additionalProperties", Four, Of2020),
    ("allOf", Four, Of2020),
    ("anyOf", Four, Of2020),
    ("const", Six, Of2020),
    ("contains", Six, Of2020),
    ("contentEncoding", Four, Of2020),
    ("contentMediaType", Four, Of2020),
    ("contentSchema", Four, Of2020),
    ("default", Four, Of2020),
    ("definitions", Four, Of2020),
    ("dependencies", Four, Of2020),
    ("dependentRequired", Of2019, Of2020),
    ("dependentSchemas", Of2019, Of2020),
    ("deprecated", Four, Of2020),
    ("description", Four, Of2020),
    ("else", Seven, Of2020),
    ("enum", Four, Of2020),
    ("examples", Four, Of2020),
    ("exclusiveMaximum", Four, Of2020),
    ("exclusiveMinimum", Four, Of2020),
    ("format", Four, Of2020),
    ("id", Four, Four),
    ("if", Seven, Of2020),
    ("items", Four, Of2020),
    ("maxContains", Of2019, Of2020),
    ("maxItems", Four, Of2020),
    ("maxLength", Four, Of2020),
    ("maxProperties", Four, Of2020),
    ("maximum", Four, Of2020),
    ("minContains", Of2019, Of2020),
    ("minItems", Four, Of2020),
    ("minLength", Four, Of2020),
    ("minProperties", Four, Of2020),
    ("minimum", Four, Of2020),
    ("multipleOf", Four, Of2020),
    ("not", Four, Of2020),
    ("oneOf", Four, Of2020),
    ("pattern", Four, Of2020),
    ("patternProperties", Four, Of2020),
    ("prefixItems", Of2020, Of2020),
    ("properties", Four, Of2020),
    ("propertyNames", Six, Of2020),
    ("readOnly", Four, Of2020),
    ("required", Four, Of2020),
    ("then", Seven, Of2020),
    ("title", Four, Of2020),
    ("type", Four, Of2020),
    ("unevaluatedItems", Of2019, Of2020),
    ("unevaluatedProperties", Of2019, Of2020),
    ("uniqueItems", Four, Of2020),
    ("writeOnly", Four, Of2020),
    ("x-eye-message", Four, Of2020),
    ("x-eye-redact", Four, Of2020),
    ("x-eye-rejects", Four, Of2020),
];

/// What a word is that stands among the keywords of a schema.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A keyword of this draft.
    Known,
    /// One of other drafts. It means nothing in this one.
    Elsewhere,
    /// Nobody's, within two letters of this keyword.
    Near(&'static str),
    /// Nobody's, and it begins like ours.
    Ours,
    /// Somebody's own, and it says so by its `x-`.
    Own,
    /// Nobody's.
    Other,
}

/// Judges a word.
pub(crate) fn word(text: &str, draft: Draft) -> Word {
    if let Some((_, first, last)) = KEYWORDS.iter().find(|(keyword, ..)| *keyword == text) {
        return if (*first..=*last).contains(&draft) { Word::Known } else { Word::Elsewhere };
    }
    if text.starts_with("x-") {
        return if text.starts_with("x-eye") { Word::Ours } else { Word::Own };
    }
    let near = KEYWORDS.iter().filter_map(|(keyword, ..)| distance(text, keyword).map(|distance| (distance, *keyword)));
    near.min().map_or(Word::Other, |(_, keyword)| Word::Near(keyword))
}

/// The letters to change, add or remove to make a keyword of a word, whatever their case; `None` if they are more than
/// two, or more than one in a keyword of four letters at most.
fn distance(text: &str, keyword: &str) -> Option<usize> {
    let most = if keyword.len() <= 4 { 1 } else { 2 };
    let letters = |text: &str| text.chars().map(|letter| letter.to_ascii_lowercase()).collect::<Vec<char>>();
    let (text, keyword) = (letters(text), letters(keyword));
    if text.len().abs_diff(keyword.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=keyword.len()).collect();
    for (above, left) in text.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (place, right) in keyword.iter().enumerate() {
            let changed = diagonal + usize::from(left != right);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row.last().copied().filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_within_two_letters_of_a_keyword_is_near_it() {
        for (text, word_) in [
            ("required", Word::Known),
            ("requierd", Word::Near("required")),
            ("propertys", Word::Near("properties")),
            ("minlength", Word::Near("minLength")),
            ("minLenght", Word::Near("minLength")),
            ("tipe", Word::Near("type")),
            ("example", Word::Near("examples")),
            ("enums", Word::Near("enum")),
            ("additionalproperties", Word::Near("additionalProperties")),
            ("kind", Word::Other),
            ("owner", Word::Other),
            ("x-team", Word::Own),
            ("x-eye-mesage", Word::Ours),
            ("$recursiveRef", Word::Elsewhere),
            ("id", Word::Elsewhere),
        ] {
            assert_eq!(word(text, Of2020), word_, "{text}");
        }
        assert_eq!(word("prefixItems", Seven), Word::Elsewhere);
        assert_eq!(word("id", Four), Word::Known);
        assert!(KEYWORDS.is_sorted_by_key(|(keyword, ..)| *keyword));
    }

    #[test]
    fn the_draft_is_the_one_that_the_schema_names() {
        assert_eq!(Draft::of("http://json-schema.org/draft-07/schema#"), Some(Seven));
        assert_eq!(Draft::of("https://json-schema.org/draft/2020-12/schema"), Some(Of2020));
        assert_eq!(Draft::of("http://json-schema.org/draft-03/schema#"), None);
    }
}
