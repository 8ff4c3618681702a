//! What was taken back stays so wherever it is looked up: in Postgres, in the data dir of each gateway, and in a file that
//! comes again. Whoever lifts it lifts it everywhere.

use std::path::PathBuf;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, Setup, digest_of, eventually, module};

/// The event type of all events here, its path, and its file.
const CATEGORY: &str = "guests";
const NAME: &str = "named";
const PATH: &str = "/v1/validators/guests/named";
const FILE: &str = "guests/named.wasm";

/// A gateway, its administrator's token, and its database.
struct House {
    server: Server,
    gateway: Gateway,
    admin: String,
}

impl House {
    /// With modules from the directory.
    async fn new() -> Self {
        Self::with(|setup| setup).await
    }

    async fn with(change: impl Fn(Setup) -> Setup) -> Self {
        let server = Server::start();
        let gateway = change(Self::setup(&server)).start().await;
        let mut command = gateway.command_beside(&["app", "add", "admin", "--token", "--scope", "admin"]);
        let output = command.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let admin = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let house = Self { server, gateway, admin };
        house.knows_admin().await;
        house
    }

    fn setup(server: &Server) -> Setup {
        let setup = Setup::default().with("EYE_DATABASE_URL", server.url());
        setup.with("EYE_DEADLINE_MS", 2_000).with("EYE_RESCAN_SECONDS", 1)
    }

    async fn knows_admin(&self) {
        eventually("the token is known", async || (self.ask("GET", PATH).await.status != 401).then_some(())).await;
    }

    /// Goes on with a fresh data dir on the same database. `change` puts files into the new modules directory.
    async fn moved(self, change: impl FnOnce(Setup) -> Setup) -> Self {
        let Self { server, mut gateway, admin } = self;
        gateway.signal("TERM");
        gateway.ended().await;
        let gateway = change(Self::setup(&server)).start().await;
        let house = Self { server, gateway, admin };
        house.knows_admin().await;
        house
    }

    async fn ask(&self, method: &str, path: &str) -> Answer {
        self.gateway.answer(self.gateway.request(method, path).bearer_auth(&self.admin)).await
    }

    async fn ship(&self, query: &str, content: &[u8]) -> Answer {
        let request = self.gateway.request("PUT", &format!("{PATH}{query}")).bearer_auth(&self.admin);
        let request = request.header("content-type", "application/wasm").header("prefer", "wait=60");
        self.gateway.answer(request.body(content.to_vec())).await
    }

    async fn shipped(&self, query: &str, content: &[u8]) -> String {
        let answer = self.ship(query, content).await;
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
        digest_of(content)
    }

    async fn send(&self, data: &Value) -> Answer {
        let request = self.gateway.request("POST", "/v1/events").bearer_auth(&self.admin);
        let body = one(data).to_string();
        self.gateway.answer(request.header("content-type", "application/json").body(body)).await
    }

    async fn shown(&self) -> Value {
        let answer = self.ask("GET", PATH).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Waits until the gateway serves this module.
    async fn serves(&self, digest: &str) {
        eventually("it serves", async || {
            let answer = self.ask("GET", PATH).await;
            (answer.status == 200 && answer.json()["digest"] == json!(digest)).then_some(())
        })
        .await;
    }

    /// Waits until the gateway refuses a file, for a reason with these words.
    async fn refuses(&self, words: &str) -> Value {
        eventually("the file is refused", async || {
            let answer = self.ask("GET", PATH).await;
            let told = (answer.status == 200).then(|| answer.json())?;
            told["last_error"]["found"].as_str().is_some_and(|found| found.contains(words)).then_some(told)
        })
        .await
    }

    /// Notes in the database that the guard of another gateway took a module back.
    fn take_back(&self, digest: &str, reason: &str) {
        let names = [
            "same",
            "would_refuse",
            "would_take",
            "amends_otherwise",
            "faulted",
            "not_compared",
            "old_refused",
            "new_refused",
            "judged",
            "judged_refused",
        ];
        let counts = Value::from_iter(names.map(|name| (name, 7)));
        self.server.sql(&format!(
            "insert into taken_back (event_type, digest, trial, code, reason, counts, refused, serves) \
             values ('{CATEGORY}/{NAME}', decode('{digest}', 'hex'), 'replacement', 'refuses', '{reason}', '{counts}', 7, null)"
        ));
    }

    /// The modules of the type that the database lists.
    fn listed(&self) -> String {
        self.server.sql("select encode(digest, 'hex') from taken_back order by 1")
    }

    /// The notes in the data dir about a module.
    fn notes(&self, digest: &str) -> Vec<PathBuf> {
        let versions = self.gateway.data_dir().join("versions");
        let folders = std::fs::read_dir(versions).into_iter().flatten().flatten();
        let notes = folders.map(|folder| folder.path().join(format!("{digest}.taken-back")));
        notes.filter(|note| note.exists()).collect()
    }
}

/// An event of a session of its own.
fn one(data: &Value) -> Value {
    json!({
        "id": Uuid::now_v7(), "session_id": Uuid::now_v7(), "category": CATEGORY, "name": NAME,
        "timestamp": "2021-01-01 09:15:27.243860", "data": data,
    })
}

fn refused() -> Value {
    json!({"refuse": true})
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_fresh_data_dir_does_not_take_what_the_database_lists_as_taken_back() {
    let house = House::new().await;
    let (lenient, strict) = (module("accepts"), module("refuses_some"));
    let (first, second) = (digest_of(&lenient), digest_of(&strict));
    house.take_back(&second, "it refused 30 of 200 events");
    let house = house.moved(|setup| setup.with_module(FILE, "refuses_some")).await;
    // It is refused, and nobody judges in its place: its type waits.
    house.refuses("30 of 200").await;
    eventually("its events are held", async || {
        let answer = house.send(&json!({"n": 1})).await;
        (code(&answer) == (503, "module_unavailable".to_owned())).then_some(())
    })
    .await;
    assert_eq!(house.shown().await["digest"], Value::Null);
    assert_eq!(house.notes(&second).len(), 1);
    house.gateway.drop_module(FILE, &lenient);
    house.serves(&first).await;
    // From here on there is a version before.
    house.gateway.drop_module(FILE, &strict);
    house.refuses("30 of 200").await;
    assert_eq!(house.shown().await["digest"], json!(first));
    assert_eq!(house.send(&refused()).await.status, 201);
}

#[tokio::test]
async fn a_module_that_another_gateway_took_back_serves_no_more_here() {
    let house = House::new().await;
    let (lenient, strict) = (module("accepts"), module("refuses_some"));
    let (first, second) = (house.shipped("?settings=guard%3Dfalse", &lenient).await, digest_of(&strict));
    house.shipped("", &strict).await;
    house.take_back(&second, "it refused 30 of 200 events");
    house.serves(&first).await;
    house.refuses("30 of 200").await;
    // Whoever forces it at another gateway lifts it here too.
    house.server.sql("delete from taken_back");
    house.serves(&second).await;
    assert_eq!(house.notes(&second).len(), 0);
}

#[tokio::test]
async fn a_note_whose_row_is_missing_is_kept_and_writes_the_row_again() {
    let mut house = House::new().await;
    let (live, traps) = (module("accepts"), module("traps"));
    house.shipped("", &live).await;
    let bad = house.shipped("?mode=shadow", &traps).await;
    house.send(&json!({"misbehave": true})).await;
    eventually("it is taken back", async || (house.listed() == bad && !house.notes(&bad).is_empty()).then_some(()))
        .await;
    let before = house.shown().await["taken_back"][0].clone();
    // A database that was restored from before has neither the row nor the word that somebody lifted it.
    house.server.sql("truncate taken_back, lifted");
    eventually("the row is back", async || (house.listed() == bad).then_some(())).await;
    assert_eq!(house.shown().await["taken_back"][0], before);
    // While the database is away, the notes of the data dir count.
    house.gateway.signal("TERM");
    house.gateway.ended().await;
    house.server.down();
    house.gateway.drop_module(FILE, &traps);
    house.gateway.launch().await;
    eventually("it is refused", async || {
        house.gateway.log().contains("one that was: it broke on 1 of 1 events").then_some(())
    })
    .await;
    house.server.up();
    house.knows_admin().await;
    house.serves(&digest_of(&live)).await;
    assert_eq!(house.listed(), bad);
    // Once somebody forces it, neither comes again.
    house.shipped("?force=true&settings=guard%3Dfalse", &traps).await;
    assert_eq!((house.listed(), house.notes(&bad).len()), (String::new(), 0));
}

#[tokio::test]
async fn a_file_that_forces_its_module_lifts_the_row_too() {
    let house = House::new().await;
    let (lenient, strict) = (module("accepts"), module("refuses_some"));
    let (first, second) = (house.shipped("?settings=guard%3Dfalse", &lenient).await, digest_of(&strict));
    house.take_back(&second, "it refused 30 of 200 events");
    house.gateway.drop_module(FILE, &strict);
    house.refuses("30 of 200").await;
    assert_eq!((house.shown().await["digest"].clone(), house.notes(&second).len()), (json!(first), 1));
    house.gateway.drop_module("guests/named.toml", format!("force = \"{second}\"\n").as_bytes());
    house.serves(&second).await;
    eventually("the row is lifted", async || (house.listed().is_empty()).then_some(())).await;
    eventually("the note too", async || house.notes(&second).is_empty().then_some(())).await;
    assert_eq!(house.shown().await["taken_back"], json!([]));
    let entries = house.ask("GET", "/v1/audit?action=validator_lift").await.json()["entries"].clone();
    let entries = entries.as_array().expect("entries");
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(
        (&entries[0]["actor"]["kind"], &entries[0]["subject"]),
        (&json!("gateway"), &json!("guests/named")),
        "{entries:?}"
    );
    assert_eq!(entries[0]["details"]["digest"], json!(second), "{entries:?}");
    // What another gateway finds later is its own word, and the file has said its own already.
    house.take_back(&second, "it refused 90 of 200 events");
    house.gateway.drop_module("guests/named.toml", b"guard = false\n");
    house.refuses("90 of 200").await;
}

#[tokio::test]
async fn modules_from_the_database_leave_notes_in_the_data_dir_too() {
    let mut house = House::with(|setup| setup.with("EYE_MODULES_FROM", "database")).await;
    let (live, traps) = (module("accepts"), module("traps"));
    house.shipped("", &live).await;
    let bad = house.shipped("?mode=shadow", &traps).await;
    house.send(&json!({"misbehave": true})).await;
    eventually("it is noted", async || (house.notes(&bad).len() == 1).then_some(())).await;
    assert_eq!(house.listed(), bad);
    // A directory with that file is no way around it.
    house.gateway.signal("TERM");
    house.gateway.ended().await;
    house.server.down();
    house.gateway.set("EYE_MODULES_FROM", "directory");
    house.gateway.drop_module(FILE, &traps);
    house.gateway.launch().await;
    eventually("it is refused", async || house.gateway.log().contains("one that was: it broke on 1 of").then_some(()))
        .await;
}

/// Waits until exactly so many events were compared in the trial.
async fn compared(house: &House, count: u64) {
    eventually("they are compared", async || {
        let answer = house.ask("GET", &format!("{PATH}/candidate")).await;
        (answer.status == 200 && answer.json()["compared"] == json!(count)).then_some(())
    })
    .await;
}

async fn is_tried(house: &House, tried: bool) {
    eventually("the candidate", async || {
        let answer = house.ask("GET", &format!("{PATH}/candidate")).await;
        ((answer.status == 200) == tried).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_trial_of_a_file_that_comes_again_is_counted_from_its_beginning() {
    let mut house = House::new().await;
    house.shipped("", &module("accepts")).await;
    let (file, settings) = (format!(".candidates/{FILE}"), ".candidates/guests/named.toml");
    let put = |house: &House| {
        house.gateway.drop_module(settings, b"mode = \"shadow\"\nguard = false\n");
        house.gateway.drop_module(&file, &module("refuses_some"));
    };
    let send = async |house: &House, count: usize| {
        for _ in 0..count {
            assert_eq!(house.send(&refused()).await.status, 201);
        }
    };
    put(&house);
    is_tried(&house, true).await;
    send(&house, 20).await;
    compared(&house, 20).await;
    // A restart does not end the trial.
    house.gateway.signal("TERM");
    house.gateway.ended().await;
    house.gateway.restart().await;
    house.knows_admin().await;
    is_tried(&house, true).await;
    send(&house, 5).await;
    compared(&house, 25).await;
    house.gateway.remove_module(&file);
    is_tried(&house, false).await;
    put(&house);
    is_tried(&house, true).await;
    send(&house, 3).await;
    // What an earlier trial said does not count.
    compared(&house, 3).await;
    // Nor over HTTP, however fast it comes again.
    assert_eq!(house.ask("DELETE", &format!("{PATH}/candidate")).await.status, 200);
    house.shipped("?mode=shadow&settings=guard%3Dfalse", &module("refuses_some")).await;
    send(&house, 2).await;
    compared(&house, 2).await;
}
