//! What the guard must not do, and what it does whatever else fails: it needs no secret, leaves a file that somebody forced, and
//! puts back no module that would keep secrets. A canary that judges a retry does not make a refusal of a stored event.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, Setup, digest_of, eventually, module};

const PATH: &str = "/v1/validators/guests/named";
const FILE: &str = "guests/named.wasm";
const SETTINGS: &str = "guests/named.toml";

/// A gateway on a database of its own, and the administrator's token.
struct House {
    server: Server,
    gateway: Gateway,
    admin: String,
}

impl House {
    /// With modules from this source, on a database that `prepare` has changed.
    async fn with(modules_from: &str, prepare: impl FnOnce(&Server)) -> Self {
        let server = Server::start();
        server.prepare();
        prepare(&server);
        let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_MODULES_FROM", modules_from);
        let gateway = setup.with("EYE_DEADLINE_MS", 2_000).with("EYE_RESCAN_SECONDS", 1).start().await;
        let mut command = gateway.command_beside(&["app", "add", "admin", "--token", "--scope", "admin"]);
        let output = command.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let admin = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let house = Self { server, gateway, admin };
        eventually("the token is known", async || (house.ask(PATH).await.status != 401).then_some(())).await;
        house
    }

    async fn ask(&self, path: &str) -> Answer {
        self.gateway.answer(self.gateway.request("GET", path).bearer_auth(&self.admin)).await
    }

    async fn shipped(&self, query: &str, content: &[u8]) -> String {
        let request = self.gateway.request("PUT", &format!("{PATH}{query}")).bearer_auth(&self.admin);
        let request = request.header("content-type", "application/wasm").header("prefer", "wait=60");
        let answer = self.gateway.answer(request.body(content.to_vec())).await;
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
        digest_of(content)
    }

    async fn serves(&self, digest: &str) {
        eventually("it serves", async || {
            let answer = self.ask(PATH).await;
            (answer.status == 200 && answer.json()["digest"] == json!(digest)).then_some(())
        })
        .await;
    }

    async fn send(&self, event: &Value) -> Answer {
        let request = self.gateway.request("POST", "/v1/events").bearer_auth(&self.admin);
        self.gateway.answer(request.header("content-type", "application/json").body(event.to_string())).await
    }

    /// Sends events on which the module breaks until so many pairs of the trial say so. Each flush is followed by a look of
    /// the guard, so of two counts that are seen one after the other the first one was looked at.
    async fn broke(&self, data: &Value) {
        for count in 1..=2 {
            assert_eq!(self.send(&one(data)).await.status, 202);
            let wanted = format!("select coalesce(sum(faulted), 0) >= {count} from candidate_pairs");
            eventually("it is counted", async || (self.server.sql(&wanted) == "t").then_some(())).await;
        }
    }

    fn guarded(&self) -> String {
        self.server.sql("select count(*) from taken_back")
            + &self.server.sql("select count(*) from audit where action = 'guard'")
    }
}

fn one(data: &Value) -> Value {
    json!({
        "id": Uuid::now_v7(), "session_id": Uuid::now_v7(), "category": "guests", "name": "named",
        "timestamp": "2021-01-01 09:15:27.243860", "data": data,
    })
}

#[tokio::test]
async fn the_guard_works_without_the_secret_of_canaries() {
    let house = House::with("database", |server| drop(server.sql("delete from canary_secret"))).await;
    let live = house.shipped("", &module("accepts")).await;
    let bad = house.shipped("?mode=shadow", &module("traps")).await;
    assert_eq!(house.send(&one(&json!({"misbehave": true}))).await.status, 201);
    eventually("it is taken back", async || {
        (house.server.sql("select encode(digest, 'hex') from taken_back") == bad).then_some(())
    })
    .await;
    house.serves(&live).await;
}

#[tokio::test]
async fn a_file_that_is_forced_is_not_taken_back() {
    let house = House::with("directory", |_| {}).await;
    house.shipped("", &module("accepts")).await;
    let bad = digest_of(&module("traps"));
    house.gateway.drop_module(SETTINGS, format!("force = \"{bad}\"\n").as_bytes());
    house.gateway.drop_module(FILE, &module("traps"));
    house.serves(&bad).await;
    house.broke(&json!({"misbehave": true})).await;
    house.serves(&bad).await;
    assert_eq!(house.guarded(), "00");
}

#[tokio::test]
async fn the_guard_leaves_a_module_in_place_of_which_secrets_would_be_kept() {
    let house = House::with("directory", |_| {}).await;
    house.shipped("", &module("accepts")).await;
    let redacts = house.shipped("", &module("redacts")).await;
    let broken = house.send(&one(&json!({"do": "trap", "secret": "hush"}))).await;
    assert_eq!(broken.status, 202, "{broken:?}");
    eventually("it says why", async || {
        house
            .gateway
            .log()
            .contains("the guard leaves the module, since the one before would keep secrets")
            .then_some(())
    })
    .await;
    house.serves(&redacts).await;
    assert_eq!(house.guarded(), "00");
}

#[tokio::test]
async fn a_retry_that_a_canary_refuses_is_a_duplicate_if_its_event_is_stored() {
    let house = House::with("database", |_| {}).await;
    house.shipped("", &module("accepts")).await;
    let stored = one(&json!({"refuse": true}));
    assert_eq!(house.send(&stored).await.status, 201);
    house.shipped("?mode=canary&percent=100&settings=guard%3Dfalse", &module("refuses_some")).await;
    // Once the gateway has the secret, the canary judges.
    eventually("the canary judges", async || {
        (house.send(&one(&json!({"refuse": true}))).await.status == 422).then_some(())
    })
    .await;
    let again = house.send(&stored).await;
    assert_eq!((again.status, &again.json()["outcome"]), (200, &json!("duplicate")), "{again:?}");
    let other = house.send(&one(&json!({"refuse": true}))).await;
    assert_eq!(other.status, 422, "{other:?}");
    let letters =
        format!("select count(*) from dead_letters where event_id = '{}'", stored["id"].as_str().expect("an id"));
    assert_eq!(house.server.sql(&letters), "0", "nothing of it was refused");
}
