//! Compares `openapi.json` with the program: every route is documented, every documented path exists, and every answer
//! that any test gets fits its description (see `support/openapi.rs`).

use crate::support::{Gateway, SESSION, openapi};

#[tokio::test]
async fn the_program_serves_the_document_that_the_tests_hold_it_to() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/openapi.json").await;
    assert_eq!((answer.status, &answer.headers["content-type"]), (200, &"application/json".parse().expect("a value")));
    assert_eq!(answer.text, openapi::TEXT);
}

#[test]
fn every_route_is_documented_and_every_documented_path_is_a_route() {
    let mut documented: Vec<(String, Vec<String>)> = openapi::operations();
    let mut routed: Vec<(String, Vec<String>)> = eye::router::ROUTES
        .iter()
        .map(|(path, methods)| {
            let methods = methods.split(", ").filter(|method| *method != "HEAD").map(str::to_ascii_lowercase);
            ((*path).to_owned(), methods.collect())
        })
        .collect();
    for (_, methods) in documented.iter_mut().chain(&mut routed) {
        methods.sort();
    }
    documented.sort();
    routed.sort();
    assert_eq!(documented, routed);
}

#[tokio::test]
async fn every_documented_path_answers_and_knows_its_methods() {
    let gateway = Gateway::start().await;
    for (template, methods) in openapi::operations() {
        let path = template
            .replace("{session_id}", SESSION)
            .replace("{id}", "0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15")
            .replace("{category}", "page%20interaction")
            .replace("{name}", "nobody")
            .replace("{code}", "envelope")
            .replace("{file}", "icon.svg")
            .replace("{number}", "7")
            .replace("{digest}", &"0f".repeat(32));
        assert!(!path.contains('{'), "{path} has a parameter that this test does not know");
        let answer = gateway.answer(gateway.request("TRACE", &path)).await;
        assert_eq!(answer.status, 405, "{path} is there: {answer:?}");
        let allowed = answer.headers["allow"].to_str().expect("text").to_ascii_lowercase();
        for method in methods {
            assert!(allowed.split(", ").any(|one| one == method), "{path} allows {allowed}, and not {method}");
        }
    }
}

#[tokio::test]
async fn every_operation_refuses_too_many_headers_as_documented() {
    let gateway = Gateway::start().await;
    for (template, methods) in openapi::operations() {
        let path = template.replace("{session_id}", SESSION).replace("{id}", SESSION);
        let path = path.replace("{category}", "page").replace("{name}", "nobody").replace("{code}", "rule");
        let path = path.replace("{file}", "icon.svg").replace("{number}", "7").replace("{digest}", &"0f".repeat(32));
        for method in methods {
            let mut request = gateway.request(&method.to_uppercase(), &path);
            for number in 0..101 {
                request = request.header(format!("x-{number}"), "1");
            }
            assert_eq!(gateway.answer(request).await.status, 431, "{method} {path}");
        }
    }
}

#[test]
fn every_code_with_a_page_is_documented_and_every_documented_code_has_a_page() {
    let schemas = &openapi::document()["components"]["schemas"];
    let codes = |schema: &str| schemas[schema]["enum"].as_array().expect("codes").iter();
    let documented = codes("ProblemCode").chain(codes("FaultCode")).map(|code| code.as_str().expect("a code"));
    let mut documented: Vec<&str> = documented.collect();
    documented.sort_unstable();
    assert_eq!(documented, eye::problems::PAGES.iter().map(|(code, _)| *code).collect::<Vec<_>>());
}

#[test]
fn every_example_fits_its_schema() {
    let examples = openapi::examples();
    assert!(examples.len() > 10, "there are examples");
    for (place, schema, example) in examples {
        openapi::fits(&place, schema, example);
    }
}

#[test]
fn every_operation_has_a_name_of_its_own_and_says_what_it_is_for() {
    let mut names = Vec::new();
    for (path, methods) in openapi::operations() {
        for method in methods {
            let operation = &openapi::document()["paths"][&path][&method];
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            names.push(operation["operationId"].as_str().expect("an operationId").to_owned());
        }
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}
