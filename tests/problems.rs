//! The pages to which the `type` of a problem leads. They need no token, and no database.

use crate::support::{Gateway, Setup};

#[tokio::test]
async fn every_page_is_served_without_a_token_while_the_database_is_away() {
    let gateway = Setup::default().with("EYE_DATABASE_URL", "postgres://eye@127.0.0.1:1/eye").listen().await;
    assert_eq!(gateway.get("/v1/events").await.status, 503);
    for (code, markdown) in eye::problems::PAGES {
        let path = format!("/problems/{code}");
        let page = gateway.get(&path).await;
        assert_eq!((page.status, &page.text[..]), (200, *markdown));
        let page = gateway.answer(gateway.request("GET", &path).header("accept", "text/html")).await;
        assert_eq!((page.status, page.headers["content-type"].to_str().ok()), (200, Some("text/html; charset=utf-8")));
        let policy = page.headers["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert_eq!(
            (&page.headers["x-content-type-options"], &page.headers["vary"]),
            (&"nosniff".parse().expect("a value"), &"Accept".parse().expect("a value"))
        );
        assert!(page.text.contains(&format!("<h1><code>{code}</code>:")), "{}", page.text);
    }
    let head = gateway.answer(gateway.request("HEAD", "/problems/rule")).await;
    assert_eq!((head.status, &head.text[..]), (200, ""));
}

#[tokio::test]
async fn the_type_of_a_problem_leads_to_its_page() {
    let gateway = Gateway::start().await;
    for path in ["/v1/nothing", "/problems/nothing", "/problems/", "/v1/events?limit=0", "/v1/events?cursor=x"] {
        let problem = gateway.get(path).await.json();
        let page = gateway.get(problem["type"].as_str().expect("a path")).await;
        let code = problem["code"].as_str().expect("a code");
        assert!(page.status == 200 && page.text.starts_with(&format!("# `{code}`:")), "{path}: {page:?}");
    }
}
