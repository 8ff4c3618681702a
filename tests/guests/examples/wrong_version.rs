//! A validator of another version of the contract, in which nothing but the version differs.

#![expect(unsafe_code, missing_docs, clippy::too_many_arguments, reason = "generated")]

wit_bindgen::generate!({
    inline: r#"
        package eye:validator@2.0.0;
        interface types {
            record event {
                id: string,
                application: string,
                session-id: string,
                category: string,
                name: string,
                timestamp: s64,
                data: string,
            }
            record violation {
                pointer: string,
                code: string,
                message: string,
            }
            variant verdict {
                accept,
                amend(string),
                reject(list<violation>),
            }
            enum expectation {
                accept,
                amend,
                reject,
            }
            record example {
                title: string,
                data: string,
                expect: expectation,
            }
            record description {
                summary: string,
                examples: list<example>,
            }
        }
        world validator {
            use types.{event, verdict, description};
            export describe: func() -> description;
            export validate: func(event: event) -> verdict;
        }
    "#,
});

struct Newer;

impl Guest for Newer {
    fn describe() -> Description {
        Description { summary: "Accepts everything.".to_owned(), examples: Vec::new() }
    }

    fn validate(_: Event) -> Verdict {
        Verdict::Accept
    }
}

export!(Newer);
