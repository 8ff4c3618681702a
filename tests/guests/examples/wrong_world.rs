//! A good component, but one that exports something else than a validator does.

#![expect(unsafe_code, missing_docs, reason = "generated")]

wit_bindgen::generate!({
    inline: r#"
        package acme:greeter@1.0.0;

        world greeter {
            export greet: func(name: string) -> string;
        }
    "#,
});

struct Greeter;

impl Guest for Greeter {
    fn greet(name: String) -> String {
        format!("Good day, {name}.")
    }
}

export!(Greeter);
