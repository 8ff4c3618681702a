//! What `wit/validator.wit` becomes in Rust.

#![expect(clippy::too_many_arguments, reason = "generated")]

wit_bindgen::generate!({
    world: "validator",
    path: "../../wit/validator.wit",
    export_macro_name: "export_guest",
    pub_export_macro: true,
    default_bindings_module: "guests::bindings",
});

/// What 1.1.0 adds, a function each.
pub mod redact {
    wit_bindgen::generate!({
        world: "eye:validator/redact@1.1.0",
        path: ["../../wit/validator.wit", "../../wit/1.1.0"],
        export_macro_name: "export_redact",
        pub_export_macro: true,
        default_bindings_module: "guests::bindings::redact",
    });
}

/// The same.
pub mod validate_at {
    wit_bindgen::generate!({
        world: "eye:validator/validate-at@1.1.0",
        path: ["../../wit/validator.wit", "../../wit/1.1.0"],
        with: { "eye:validator/types@1.0.0": super::eye::validator::types },
        export_macro_name: "export_validate_at",
        pub_export_macro: true,
        default_bindings_module: "guests::bindings::validate_at",
    });
}

/// The same.
pub mod examples {
    wit_bindgen::generate!({
        world: "eye:validator/examples@1.1.0",
        path: ["../../wit/validator.wit", "../../wit/1.1.0"],
        with: { "eye:validator/types@1.0.0": super::eye::validator::types },
        export_macro_name: "export_examples",
        pub_export_macro: true,
        default_bindings_module: "guests::bindings::examples",
    });
}
