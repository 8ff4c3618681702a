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

    /// Makes a module serve an event type.
    async fn push(&self, event_type: &str, content: &[u8]) -> String {
        let request = self.gateway.request("PUT", &format!("/v1/validators/{event_type}")).bearer_auth(&self.admin);
        let request = request.header("content-type", "application/wasm").header("prefer", "wait=60");
        let answer = self.gateway.answer(request.body(content.to_vec())).await;
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
        digest_of(content)
    }

    /// Runs `eye fleet` on the database, or over HTTP.
    fn fleet(&self, over_http: bool, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.gateway.command_beside(&[&["fleet"], arguments].concat());
        let command = match over_http {
            true => {
                let url = format!("http://{}", self.gateway.address());
                command.env("EYE_GATEWAY", url).env("EYE_TOKEN", &self.admin)
            }
            false => command.env("EYE_DATABASE_URL", self.server.url()),
        };
        let output = command.output().expect("the built program");
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), told)
    }

    /// The event types with something that is taken back, and what serves or is tried.
    fn standing(&self) -> (String, String) {
        let listed = "select string_agg(event_type, ' ' order by event_type) from taken_back";
        let set = "select string_agg(event_type || '=' || left(encode(digest, 'hex'), 8), ' ' order by event_type) from generation_set()";
        (self.server.sql(listed), self.server.sql(set))
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
        self.take_back_of(&format!("{CATEGORY}/{NAME}"), digest, reason);
    }

    fn take_back_of(&self, event_type: &str, digest: &str, reason: &str) {
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
             values ('{event_type}', decode('{digest}', 'hex'), 'replacement', 'refuses', '{reason}', '{counts}', 7, null)"
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

/// A gateway whose module another gateway took back. Gives the digests of the one that serves and of that one.
async fn one_taken_back() -> (House, String, String) {
    let house = House::new().await;
    let (lenient, strict) = (module("accepts"), module("refuses_some"));
    let (first, second) = (house.shipped("?settings=guard%3Dfalse", &lenient).await, digest_of(&strict));
    house.shipped("", &strict).await;
    house.take_back(&second, "it refused 30 of 200 events");
    house.serves(&first).await;
    (house, first, second)
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
    let (house, _, second) = one_taken_back().await;
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
async fn an_older_lift_of_a_restored_database_removes_no_newer_note() {
    let (house, first, second) = one_taken_back().await;
    // The database is now that of a week ago, when somebody had forced the module.
    house.server.sql(&format!(
        "begin; truncate taken_back, lifted; insert into lifted (event_type, digest, at) \
         values ('guests/named', decode('{second}', 'hex'), now() - interval '7 days'); commit"
    ));
    eventually("the row is back", async || (house.listed() == second).then_some(())).await;
    assert_eq!((house.shown().await["digest"].clone(), house.notes(&second).len()), (json!(first), 1));
}

#[tokio::test]
async fn a_damaged_note_stops_no_other() {
    let (house, first, second) = one_taken_back().await;
    let folder = house.notes(&second)[0].parent().expect("a folder").to_owned();
    let beside = |digit: &str| folder.join(format!("{}.taken-back", digit.repeat(64)));
    // What a power cut leaves, a note that is none, and a sound one of the release before.
    std::fs::write(beside("1"), [0; 40]).expect("written");
    std::fs::create_dir(beside("2")).expect("made");
    std::fs::write(beside("3"), "it refused 40 of 200 events").expect("written");
    house.server.sql("truncate taken_back");
    eventually("the sound ones are back", async || {
        let listed = house.listed();
        (listed.contains(&second) && listed.contains(&"3".repeat(64))).then_some(())
    })
    .await;
    assert_eq!(house.shown().await["digest"], json!(first));
}

#[tokio::test]
async fn to_force_a_trial_lets_no_file_serve_that_was_taken_back() {
    let (house, first, second) = one_taken_back().await;
    let strict = module("refuses_some");
    house.refuses("30 of 200").await;
    let forced = house.ship("?mode=shadow&force=true", &strict).await;
    assert_eq!(code(&forced), (400, "bad_parameter".to_owned()), "{forced:?}");
    assert!(forced.json()["detail"].as_str().is_some_and(|told| told.contains("eye validator rollback")), "{forced:?}");
    assert_eq!(house.listed(), second);
    let back = house.ask("POST", &format!("{PATH}/rollback")).await;
    assert_eq!((back.status, &back.json()["digest"]), (200, &json!(first)), "{back:?}");
    eventually("the trial begins", async || {
        let forced = house.ship("?mode=shadow&force=true&expect_refusals=true", &strict).await;
        (forced.status == 200).then_some(())
    })
    .await;
    assert_eq!(house.send(&refused()).await.status, 201);
    assert_eq!(house.shown().await["digest"], json!(first));
    // Settings of a candidate force it to be tried and no more.
    house.take_back(&second, "it refused 90 of 200 events");
    house
        .gateway
        .drop_module(".candidates/guests/named.toml", format!("mode = \"shadow\"\nforce = \"{second}\"\n").as_bytes());
    eventually("it is noted", async || (house.notes(&second).len() == 1).then_some(())).await;
    assert_eq!((house.shown().await["digest"].clone(), house.listed()), (json!(first), second));
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
    // A database that was restored from before learns it from them.
    house.server.sql("truncate taken_back, lifted");
    eventually("the row is back", async || (house.listed() == bad).then_some(())).await;
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
    // What another gateway counts of the same trial stays, though this one has the file later.
    assert_eq!(house.ask("DELETE", &format!("{PATH}/candidate")).await.status, 200);
    is_tried(&house, false).await;
    let ended = "select count(*) from candidate_pairs where trial = 'shadow'";
    assert_eq!(house.server.sql(ended), "1");
    // That trial began after this gateway's own was over, however late the end is noted.
    house.server.sql(
        "update candidate_pairs set since = clock_timestamp() + interval '1 minute', same = 7 where trial = 'shadow'",
    );
    put(&house);
    is_tried(&house, true).await;
    send(&house, 3).await;
    compared(&house, 7 + 2 + 3).await;
}

/// A fleet with three generations to go back to. In the first one `guests/other` had a module that was taken back since, and
/// `guests/named` a candidate that was. The module of `guests/third` was taken back too, and serves all the time.
async fn fleet_with_a_past() -> (House, [String; 3]) {
    let house = House::with(|setup| setup.with("EYE_MODULES_FROM", "database")).await;
    let (accepts, one, two, strict) =
        (module("accepts"), module("names_one"), module("names_two"), module("refuses_some"));
    house.push("guests/named", &accepts).await;
    house.push("guests/third", &one).await;
    house.push("guests/other", &one).await;
    house.shipped("?mode=shadow&settings=guard%3Dfalse", &strict).await;
    // Now it is generation 4.
    assert_eq!(house.ask("DELETE", &format!("{PATH}/candidate")).await.status, 200);
    house.push("guests/other", &two).await;
    // Other settings are another line of the difference, and no other module.
    house.push("guests/third?settings=deadline_ms%3D700", &one).await;
    let digests = [one, two, strict].map(|content| digest_of(&content));
    house.take_back(&digests[2], "it refused 30 of 200 events");
    (house, digests)
}

fn short(digest: &str) -> &str {
    &digest[..8]
}

#[tokio::test]
async fn a_step_back_leaves_out_candidates_that_were_taken_back() {
    let (house, [one, two, strict]) = fleet_with_a_past().await;
    let accepts = digest_of(&module("accepts"));
    let left_out = json!([{"event_type": "guests/named", "digest": strict, "reason": "it refused 30 of 200 events"}]);
    let diff = house.ask("POST", "/v1/generations/4/back?dry_run=true").await;
    assert_eq!((diff.status, &diff.json()["left_out"]), (200, &left_out), "{diff:?}");
    let changes = diff.json()["changes"].clone();
    assert_eq!((changes.as_array().map(Vec::len), &changes[0]["digest"]), (Some(2), &json!(one)), "{changes}");
    for over_http in [true, false] {
        let (status, told) = house.fleet(over_http, &["back", "4", "--force"]);
        let words =
            format!("candidate {strict} is left out: the guard took it back, since it refused 30 of 200 events");
        assert!(status == Some(0) && told.contains(&words) && !told.contains("_/candidate"), "{told}");
    }
    // No force brings it.
    let back = house.ask("POST", "/v1/generations/4/back?force=true").await;
    assert_eq!((back.status, &back.json()["left_out"]), (200, &left_out), "{back:?}");
    let set = |other: &str| {
        format!("guests/named={} guests/other={} guests/third={}", short(&accepts), short(other), short(&one))
    };
    assert_eq!(house.standing(), ("guests/named".to_owned(), set(&one)));
    // Where only the candidate differs, nothing does.
    let same = house.ask("POST", "/v1/generations/4/back").await.json();
    assert_eq!((&same["state"], &same["changes"]), (&json!("unchanged"), &json!([])), "{same}");
    let (status, told) = house.fleet(false, &["back", "6", "--yes"]);
    assert!(status == Some(0) && told.contains("active"), "{told}");
    assert_eq!(house.standing(), ("guests/named".to_owned(), set(&two)));
    // A candidate of now goes, since that generation had none that may be tried.
    house.shipped("?mode=shadow&settings=guard%3Dfalse", &module("names_one")).await;
    let (status, told) = house.fleet(true, &["back", "4", "--yes", "--force"]);
    assert!(status == Some(0) && told.contains("left out"), "{told}");
    assert_eq!(house.standing(), ("guests/named".to_owned(), set(&one)));
}

#[tokio::test]
async fn a_step_back_to_a_module_that_was_taken_back_needs_force_and_lifts_that_alone() {
    let (house, [one, two, _]) = fleet_with_a_past().await;
    house.take_back_of("guests/other", &one, "it refused 90 of 200 events");
    house.take_back_of("guests/third", &one, "it refused 50 of 200 events");
    let before = house.standing();
    assert_eq!(before.0, "guests/named guests/other guests/third");
    let back = house.ask("POST", "/v1/generations/4/back").await;
    let told = back.json();
    assert_eq!((code(&back), &told["digest"]), ((409, "taken_back".to_owned()), &json!(one)), "{back:?}");
    let detail = told["detail"].as_str().expect("words");
    assert!(detail.contains("guests/other") && detail.contains("90 of 200"), "{detail}");
    assert!(!detail.contains("guests/third") && !detail.contains("guests/named"), "{detail}");
    // Who only looks sees the difference, and what needs force.
    let diff = house.ask("POST", "/v1/generations/4/back?dry_run=true").await;
    let needs = json!([{"event_type": "guests/other", "digest": one, "reason": "it refused 90 of 200 events"}]);
    assert_eq!((diff.status, &diff.json()["taken_back"]), (200, &needs), "{diff:?}");
    assert!(diff.json()["changes"].as_array().is_some_and(|changes| !changes.is_empty()), "{diff:?}");
    for over_http in [true, false] {
        let (status, told) = house.fleet(over_http, &["back", "4"]);
        assert_eq!(status, Some(0), "{told}");
        assert!(told.contains("guests/other") && told.contains("needs --force") && told.contains("-> "), "{told}");
    }
    for over_http in [true, false] {
        let (status, told) = house.fleet(over_http, &["back", "4", "--yes"]);
        assert!(status == Some(1) && told.contains("taken_back") && told.contains("guests/other"), "{told}");
    }
    assert_eq!(house.standing(), before);
    for (number, over_http) in [(4, true), (6, false)] {
        let (status, told) = house.fleet(over_http, &["back", &number.to_string(), "--yes", "--force"]);
        assert!(status == Some(0) && told.contains("active"), "{told}");
        assert_eq!(house.standing().0, "guests/named guests/third");
        let serves = if number == 4 { &one } else { &two };
        assert!(house.standing().1.contains(&format!("guests/other={}", short(serves))), "{:?}", house.standing());
    }
}

#[tokio::test]
async fn an_import_of_a_module_that_was_taken_back_needs_force_and_lifts_that_alone() {
    let (house, [one, two, strict]) = fleet_with_a_past().await;
    for (file, content) in
        [("named", module("accepts")), ("third", module("names_one")), ("other", module("refuses_some"))]
    {
        house.gateway.drop_module(&format!("guests/{file}.wasm"), &content);
    }
    house.take_back_of("guests/other", &strict, "it refused 90 of 200 events");
    house.take_back_of("guests/third", &one, "it refused 50 of 200 events");
    let before = house.standing();
    for (arguments, wanted) in [(&["import", "modules", "--yes"][..], 1), (&["import", "modules"], 0)] {
        let (status, told) = house.fleet(false, arguments);
        assert!(status == Some(wanted) && told.contains("guests/other") && told.contains("90 of 200"), "{told}");
        assert!(told.contains("--force") && !told.contains("50 of 200"), "{told}");
        assert!(told.contains(&format!("{two} -> {strict}")), "the difference: {told}");
    }
    assert_eq!(house.standing(), before);
    let (status, told) = house.fleet(false, &["import", "modules", "--yes", "--force"]);
    assert!(status == Some(0) && told.contains("active"), "{told}");
    let after = house.standing();
    assert_eq!(after.0, "guests/named guests/third");
    assert!(after.1.contains(&format!("guests/other={}", short(&strict))), "{after:?}");
    // Settings that force their own module say the same.
    house.push("guests/other", &module("names_two")).await;
    house.take_back_of("guests/other", &strict, "it refused 90 of 200 events");
    house.gateway.drop_module("guests/other.toml", format!("force = \"{strict}\"\n").as_bytes());
    let (status, told) = house.fleet(false, &["import", "modules", "--yes"]);
    assert!(status == Some(0) && told.contains("active"), "{told}");
    assert_eq!(house.standing().0, "guests/named guests/third");
}
