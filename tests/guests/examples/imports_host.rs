//! Imports an interface that no gateway has, next to the right exports.

#![expect(unsafe_code, missing_docs, clippy::too_many_arguments, reason = "generated")]

wit_bindgen::generate!({
    path: "../../wit",
    inline: r#"
        package acme:clock@1.0.0;

        interface clock {
            now: func() -> s64;
        }

        world validator-with-clock {
            import clock;
            include eye:validator/validator@1.0.0;
        }
    "#,
    generate_all,
});

struct Late;

impl Guest for Late {
    fn describe() -> Description {
        Description { summary: "Rejects what is late.".to_owned(), examples: Vec::new() }
    }

    fn validate(event: Event) -> Verdict {
        if event.timestamp > acme::clock::clock::now() { Verdict::Accept } else { Verdict::Reject(Vec::new()) }
    }
}

export!(Late);
