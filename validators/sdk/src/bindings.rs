//! What `wit/validator.wit` becomes in Rust, and what 1.1.0 adds to it: a function each, that a module may export besides.

#![expect(clippy::too_many_arguments, reason = "generated")]

wit_bindgen::generate!({
    world: "validator",
    path: "../../wit/validator.wit",
    export_macro_name: "export_validator",
    pub_export_macro: true,
    default_bindings_module: "eye_validator::bindings",
    additional_derives: [PartialEq],
});

#[doc(hidden)]
pub mod redact {
    wit_bindgen::generate!({
        world: "eye:validator/redact@1.1.0",
        path: ["../../wit/validator.wit", "../../wit/1.1.0"],
        export_macro_name: "export_redact",
        pub_export_macro: true,
        default_bindings_module: "eye_validator::bindings::redact",
    });
}

#[doc(hidden)]
pub mod examples {
    wit_bindgen::generate!({
        world: "eye:validator/examples@1.1.0",
        path: ["../../wit/validator.wit", "../../wit/1.1.0"],
        with: { "eye:validator/types@1.0.0": super::eye::validator::types },
        export_macro_name: "export_examples",
        pub_export_macro: true,
        default_bindings_module: "eye_validator::bindings::examples",
    });
}

#[doc(hidden)]
pub mod validate_at {
    wit_bindgen::generate!({
        world: "eye:validator/validate-at@1.1.0",
        path: ["../../wit/validator.wit", "../../wit/1.1.0"],
        with: { "eye:validator/types@1.0.0": super::eye::validator::types },
        export_macro_name: "export_validate_at",
        pub_export_macro: true,
        default_bindings_module: "eye_validator::bindings::validate_at",
    });
}
