//! What `wit/validator.wit` becomes in Rust.

#![expect(clippy::too_many_arguments, reason = "generated")]

wit_bindgen::generate!({
    world: "validator",
    path: "../../wit",
    export_macro_name: "export_guest",
    pub_export_macro: true,
    default_bindings_module: "guests::bindings",
});
