//! The code blocks of README.md and of docs/ are held to the program: each is run or read, and its info string (the words after
//! the opening fence) says how. A block without one of these fails.
//!
//! | info string | how the block is held |
//! |---|---|
//! | `sh` | `sh -eu` runs it in the folder of a started gateway, and it exits with 0. `127.0.0.1:8000` is that gateway, `eye` finds its modules and its database, `$EYE_TOKEN` is a token with the scope `admin`, for the shell alone. A curl is answered with a status below 400, unless an `http` block says otherwise |
//! | `http` | what the last curl of the `sh` block before it was answered: status line, headers that matter, empty line, body |
//! | `output` | what the `sh` block before it printed |
//! | `sh stream` | a curl that does not end: it runs for a second and is answered with 200 |
//! | `sh install`, `sh elsewhere` | not run: it installs software, or needs what this test has not |
//! | `toml`, `toml validator` | read as the gateway's configuration, or as the settings of a module |
//! | `json` | read; a problem or a receipt is one that openapi.json allows |
//! | `sql` | run in the gateway's Postgres, in a transaction that is rolled back |
//! | `sh author` | run by `authors.rs`, all of docs/validators.md or of docs/schemas.md one after the other, beside a gateway with an empty modules directory |
//! | `rust FILE`, `ts FILE`, `python FILE`, `wit FILE`, `sh FILE` | stands in that file of the repository, but for indentation; a line `// ...` is what is left out |
//! | `promql` | names only metrics and labels that the program writes; `alerts.rs` and `prometheus.rs` hold that |
//! | `text`, `mermaid` | drawings, folders, lines of a log: not held |
//! | `yaml elsewhere`, `ini elsewhere`, `nginx elsewhere` | files for other programs: not held |
//!
//! In `http` and `output`, space does not count, and `...` matches any text. A text that looks like an id, a time, a
//! digest or a token, and that no command of the file contains, matches any such text. One gateway runs all files,
//! README.md first, so each file uses ids of its own.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Gateway, Setup, openapi};

/// How long a command of a page may run, in seconds.
const COMMAND_SECONDS: &str = "60";
/// How often a read is repeated until it shows what the page shows, since rejected events are kept after their answer.
const READ_TRIES: u32 = 50;
const READ_PAUSE: Duration = Duration::from_millis(100);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A page, by its path from the root of the repository.
struct Page {
    path: String,
    text: String,
}

/// A fenced block of a page.
struct Block<'a> {
    page: &'a Page,
    line: usize,
    info: String,
    text: String,
}

/// How a block is held.
#[derive(Debug, PartialEq, Eq)]
enum How<'a> {
    Run,
    Stream,
    Answer,
    Output,
    GatewaySettings,
    ModuleSettings,
    Json,
    Sql,
    PartOf(&'a str),
    NotHeld,
}

/// README.md, then all pages of docs/ by path.
fn pages() -> Vec<Page> {
    let mut files = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of pages") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    files.insert(0, root().join("README.md"));
    let page = |file: PathBuf| Page {
        path: file.strip_prefix(root()).expect("inside").to_string_lossy().into_owned(),
        text: std::fs::read_to_string(&file).expect("a page"),
    };
    files.into_iter().map(page).collect()
}

impl Page {
    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut open: Option<Block<'_>> = None;
        for (event, range) in Parser::new_ext(&self.text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let line = self.text[..range.start].matches('\n').count() + 1;
                    let info = match kind {
                        CodeBlockKind::Fenced(info) => info.to_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    open = Some(Block { page: self, line, info, text: String::new() });
                }
                Event::Text(text) => {
                    if let Some(block) = &mut open {
                        block.text.push_str(&text);
                    }
                }
                Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
                _ => {}
            }
        }
        blocks
    }

    fn links(&self) -> Vec<String> {
        let events = Parser::new_ext(&self.text, Options::ENABLE_TABLES);
        let targets = events.filter_map(|event| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.to_string()),
            _ => None,
        });
        targets.collect()
    }
}

impl Block<'_> {
    fn how(&self) -> Option<How<'_>> {
        let words: Vec<&str> = self.info.split_whitespace().collect();
        Some(match words[..] {
            ["sh"] => How::Run,
            ["sh", "stream"] => How::Stream,
            ["http"] => How::Answer,
            ["output"] => How::Output,
            ["toml"] => How::GatewaySettings,
            ["toml", "validator"] => How::ModuleSettings,
            ["json"] => How::Json,
            ["sql"] => How::Sql,
            ["rust" | "ts" | "python" | "wit", file] => How::PartOf(file),
            ["text" | "mermaid" | "promql"]
            | ["sh", "install" | "author"]
            | ["sh" | "yaml" | "ini" | "nginx", "elsewhere"] => How::NotHeld,
            ["sh", file] if file.contains('/') => How::PartOf(file),
            _ => return None,
        })
    }

    fn place(&self) -> String {
        format!("{}:{}", self.page.path, self.line)
    }
}

/// Fails with all problems at once.
fn nothing_is(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn every_block_says_how_it_is_held() {
    let mut wrong = Vec::new();
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.how().is_none()) {
            wrong.push(format!(
                "{}: `{}` is no way in which a block is held; see tests/docs.rs",
                block.place(),
                block.info
            ));
        }
    }
    nothing_is(&wrong);
}

#[test]
fn every_link_within_the_repository_leads_to_a_file() {
    let mut wrong = Vec::new();
    for page in pages() {
        let folder = root().join(&page.path).parent().expect("a folder").to_owned();
        for link in page.links() {
            let target = link.split('#').next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !folder.join(target).exists() {
                wrong.push(format!("{}: {link} is not there", page.path));
            }
        }
    }
    nothing_is(&wrong);
}

#[test]
fn every_file_that_a_page_shows_is_one() {
    let mut wrong = Vec::new();
    for page in pages() {
        for block in page.blocks() {
            let read = match block.how() {
                Some(How::GatewaySettings) => {
                    let file = Some(("line", block.text.as_str()));
                    let settings = eye::config::Settings::from_parts(file, std::iter::empty(), &[]);
                    settings.err().map(|problems| problems.to_string())
                }
                Some(How::ModuleSettings) => eye_judge::Settings::prove(&block.text).err(),
                Some(How::Json) => json_problem(&block),
                Some(How::PartOf(file)) => match std::fs::read_to_string(root().join(file)) {
                    Ok(text) if stands_in(&text, &block.text) => None,
                    Ok(_) => Some(format!("does not stand in {file} like this")),
                    Err(error) => Some(format!("{file}: {error}")),
                },
                _ => None,
            };
            wrong.extend(read.map(|problem| format!("{}: {problem}", block.place())));
        }
    }
    nothing_is(&wrong);
}

/// Why the text of a block is no JSON, or `None`. A problem or a receipt that openapi.json does not allow fails at
/// once.
fn json_problem(block: &Block<'_>) -> Option<String> {
    let value: Value = match serde_json::from_str(&block.text) {
        Ok(value) => value,
        Err(error) => return Some(error.to_string()),
    };
    let kind = value["type"].as_str().unwrap_or_default();
    let schema = match &value {
        _ if kind.starts_with("/problems/") && value["violations"].is_array() => "Rejection",
        _ if kind.starts_with("/problems/") => "Problem",
        value if value["results"].is_array() => "Receipts",
        value if value["outcome"].is_string() && value["index"].is_null() && value["at"].is_null() => "Receipt",
        _ => return None,
    };
    let place = format!("{} as {schema}", block.place());
    openapi::fits(&place, &openapi::document()["components"]["schemas"][schema], &value);
    None
}

/// Whether the parts of `shown` between lines of `// ...` are in `file`, in this order.
fn stands_in(file: &str, shown: &str) -> bool {
    let file: Vec<&str> = file.lines().map(str::trim).collect();
    let shown: Vec<&str> = shown.lines().map(str::trim).collect();
    let mut at = 0;
    shown.split(|line| *line == "// ...").filter(|part| part.iter().any(|line| !line.is_empty())).all(|part| {
        let start = part.iter().position(|line| !line.is_empty()).unwrap_or_default();
        let end = part.iter().rposition(|line| !line.is_empty()).unwrap_or_default();
        let part = &part[start..=end];
        let found = (at..file.len()).find(|place| file[*place..].starts_with(part));
        at = found.map_or(at, |place| place + part.len());
        found.is_some()
    })
}

/// The machine on which the commands of the pages run.
struct Shell {
    gateway: Gateway,
    /// Folders with a `.curlrc`: one for commands that end, one for those that do not.
    homes: [TempDir; 2],
    token: String,
}

/// The result of a command.
struct Ran {
    code: Option<i32>,
    output: String,
    errors: String,
}

/// The answer to a curl, as `--include` prints it.
struct Answered<'a> {
    status: u16,
    head: &'a str,
    body: &'a str,
}

impl Shell {
    async fn start() -> Self {
        let gateway = Setup::default()
            .with_module("page interaction/pageview.wasm", "pageview")
            .with_module("page interaction/cta click.wasm", "cta-click")
            .with_module("form interaction/submit.wasm", "form-submit")
            .start()
            .await;
        let home = |more: &str| {
            let home = tempfile::tempdir().expect("a folder");
            std::fs::write(home.path().join(".curlrc"), format!("silent\nshow-error\ninclude\n{more}"))
                .expect("a file");
            home
        };
        let mut shell = Self { gateway, homes: [home(""), home("max-time = 1\n")], token: String::new() };
        let added = shell.run("eye app add docs --token --scope admin", false);
        assert_eq!(added.code, Some(0), "{}", added.errors);
        shell.token = added.output.trim().to_owned();
        // Its gateway knows it within a second.
        let known = "curl 127.0.0.1:8000/v1/applications -H \"authorization: Bearer $EYE_TOKEN\"";
        let known = shell.until(known, false, |ran| ran.answers().last().is_some_and(|answer| answer.status == 200));
        assert!(known.await.is_ok(), "the token of the pages is known");
        shell
    }

    fn run(&self, text: &str, endless: bool) -> Ran {
        let data_dir = self.gateway.data_dir();
        let database = format!("postgres://eye@localhost/eye?host={}", data_dir.join("run").display());
        let program = Path::new(env!("CARGO_BIN_EXE_eye")).parent().expect("a folder").to_owned();
        let path = std::env::join_paths(
            std::iter::once(program).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let mut command = Command::new("timeout");
        // In the text and not in the environment, since it is no setting and the program refuses unknown ones.
        let text = format!("EYE_TOKEN={}\n{text}", self.token).replace("127.0.0.1:8000", self.gateway.address());
        command.args([COMMAND_SECONDS, "sh", "-eu", "-c", &text]);
        command.current_dir(data_dir.parent().expect("a folder")).env("PATH", path.expect("folders"));
        command.env("CURL_HOME", self.homes[usize::from(endless)].path());
        command.env("EYE_DATABASE_URL", database).env("EYE_DATA_DIR", &data_dir);
        let output = command.output().expect("sh");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().or(output.status.signal());
        Ran { code, output: text(&output.stdout), errors: text(&output.stderr) }
    }

    /// Runs a command without side effects until its result fits. Otherwise returns the last result.
    async fn until(&self, text: &str, endless: bool, fits: impl Fn(&Ran) -> bool) -> Result<Ran, Ran> {
        let mut ran = self.run(text, endless);
        for _ in 0..READ_TRIES {
            if fits(&ran) {
                return Ok(ran);
            }
            tokio::time::sleep(READ_PAUSE).await;
            ran = self.run(text, endless);
        }
        Err(ran)
    }
}

impl Ran {
    /// All answers, in order.
    fn answers(&self) -> Vec<Answered<'_>> {
        let starts: Vec<usize> = self.output.match_indices("HTTP/1.1 ").map(|(at, _)| at).collect();
        let ends = starts.iter().skip(1).copied().chain([self.output.len()]);
        let answer = |(start, end): (&usize, usize)| {
            let whole = &self.output[*start..end];
            let (head, body) = whole.split_once("\r\n\r\n").unwrap_or((whole, ""));
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
            Answered { status, head, body }
        };
        starts.iter().zip(ends).map(answer).collect()
    }

    /// The problem of the run, if any. With `any_last` false the status of the last answer does not count.
    fn problem(&self, any_last: bool) -> Option<String> {
        if self.code != Some(0) {
            return Some(format!("ended with {:?}: {}{}", self.code, self.errors, self.output));
        }
        let mut answers = self.answers();
        if any_last {
            answers.pop();
        }
        let bad = answers.iter().find(|answer| answer.status >= 400)?;
        Some(format!("was answered {}\n{}", bad.head, bad.body))
    }
}

/// Texts that match any text of their form: `x` is a hexadecimal digit, `d` a digit. The longest first.
const LIKE: [&str; 6] = [
    "eye_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
    "xxxxxxxxxxxx-xxxxxxxxxxxxxxxx",
    "dddd-dd-ddTdd:dd:dd.ddddddZ",
    "dddd-dd-ddTdd:dd:ddZ",
];

/// A part of the text of a page.
#[derive(Debug)]
enum Part {
    Text(String),
    Like(&'static str),
    Anything,
}

fn is_like(pattern: &str, text: &str) -> bool {
    let fits = |(pattern, byte): (u8, u8)| match pattern {
        b'x' => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        b'd' => byte.is_ascii_digit(),
        other => byte == other,
    };
    text.len() >= pattern.len() && pattern.bytes().zip(text.bytes()).all(fits)
}

fn without_space(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}

/// The parts of a shown text, for the comparison. Texts from the `commands` of the page must match exactly.
fn parts(shown: &str, commands: &str) -> Vec<Part> {
    let (shown, commands) = (without_space(shown), without_space(commands));
    let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), &shown[..]);
    while let Some(first) = rest.chars().next() {
        let like = LIKE.into_iter().find(|pattern| is_like(pattern, rest));
        let (part, length) = match like.filter(|pattern| !commands.contains(&rest[..pattern.len()])) {
            Some(pattern) => (Part::Like(pattern), pattern.len()),
            None if rest.starts_with("...") => (Part::Anything, 3),
            None => {
                let length = like.map_or(first.len_utf8(), str::len);
                text.push_str(&rest[..length]);
                rest = &rest[length..];
                continue;
            }
        };
        parts.extend([Part::Text(std::mem::take(&mut text)), part]);
        rest = &rest[length..];
    }
    parts.push(Part::Text(text));
    parts
}

fn fits(parts: &[Part], found: &str) -> bool {
    match parts {
        [] => found.is_empty(),
        [Part::Text(text), rest @ ..] => found.strip_prefix(&text[..]).is_some_and(|found| fits(rest, found)),
        [Part::Like(pattern), rest @ ..] => is_like(pattern, found) && fits(rest, &found[pattern.len()..]),
        [Part::Anything, rest @ ..] => {
            let mut places = found.char_indices().map(|(at, _)| at).chain([found.len()]);
            places.any(|at| fits(rest, &found[at..]))
        }
    }
}

/// The difference between an answer and the one that a page shows, if any.
fn difference(shown: &str, answer: &Answered<'_>, commands: &str) -> Option<String> {
    let (head, body) = shown.split_once("\n\n").unwrap_or((shown.trim_end(), ""));
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let Some(status) = status else { return Some(format!("`{first}` is no status line such as `HTTP/1.1 200 OK`")) };
    let got = format!("\nwas answered\n{}\n\n{}", answer.head, answer.body);
    if answer.status != status {
        return Some(format!("is not the status{got}"));
    }
    for line in lines {
        let same = |found: &str| fits(&parts(&line.to_lowercase(), commands), &without_space(&found.to_lowercase()));
        if !answer.head.lines().any(same) {
            return Some(format!("has no header `{line}`{got}"));
        }
    }
    // A page may show only the head.
    let same = body.trim().is_empty() || fits(&parts(body, commands), &without_space(answer.body));
    (!same).then(|| format!("is not the body{got}"))
}

impl Shell {
    /// Runs the blocks of a page in order, and returns all problems.
    async fn hold(&self, page: &Page) -> Vec<String> {
        let (blocks, mut commands, mut wrong) = (page.blocks(), String::new(), Vec::new());
        for (place, block) in blocks.iter().enumerate() {
            let next = blocks.get(place + 1);
            let problem = match block.how() {
                Some(How::Run) => {
                    commands.push_str(&block.text);
                    self.hold_command(block, next, &commands).await
                }
                Some(How::Stream) => {
                    let is_watched = |ran: &Ran| ran.answers().last().is_some_and(|answer| answer.status == 200);
                    let watched = self.until(&block.text, true, is_watched).await;
                    watched.err().map(|ran| format!("is no stream: {}{}", ran.errors, ran.output))
                }
                Some(How::Answer | How::Output) => {
                    let before = place.checked_sub(1).map(|place| &blocks[place]);
                    let shown = before.is_some_and(|before| before.how() == Some(How::Run));
                    (!shown).then(|| "follows no `sh` block".to_owned())
                }
                Some(How::Sql) => {
                    self.gateway.sql_script(&format!("begin;\n{}\nrollback;\n", block.text));
                    None
                }
                _ => None,
            };
            wrong.extend(problem.map(|problem| format!("{} {problem}", block.place())));
        }
        wrong
    }

    async fn hold_command(&self, block: &Block<'_>, next: Option<&Block<'_>>, commands: &str) -> Option<String> {
        let shown = next.filter(|next| matches!(next.how(), Some(How::Answer | How::Output)));
        let look = |ran: &Ran| {
            let Some(shown) = shown else { return ran.problem(false) };
            let problem = ran.problem(shown.how() == Some(How::Answer));
            problem.or_else(|| match shown.how() {
                Some(How::Answer) => match ran.answers().last() {
                    Some(answer) => difference(&shown.text, answer, commands),
                    None => Some("was answered nothing".to_owned()),
                },
                _ => {
                    let same = fits(&parts(&shown.text, commands), &without_space(&ran.output));
                    (!same).then(|| format!("printed\n{}", ran.output))
                }
            })
        };
        let changes = [" -d", "--data", "-X", " -T", "app ", "redrive"].iter().any(|word| block.text.contains(word));
        if changes || shown.is_none() {
            return look(&self.run(&block.text, false));
        }
        self.until(&block.text, false, |ran| look(ran).is_none()).await.err().and_then(|ran| look(&ran))
    }
}

#[tokio::test]
async fn every_command_is_answered_as_its_page_shows() {
    let shell = Shell::start().await;
    let mut wrong = Vec::new();
    for page in pages() {
        wrong.extend(shell.hold(&page).await);
    }
    nothing_is(&wrong);
}

#[test]
fn what_a_page_shows_is_held_letter_by_letter_but_for_what_changes() {
    let id = "0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15";
    let other = "0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c16";
    let same = |shown: &str, found: &str, commands: &str| fits(&parts(shown, commands), &without_space(found));
    assert!(same(&format!("{{ \"id\": \"{id}\" }}\n"), &format!("{{\"id\":\"{other}\"}}"), ""));
    assert!(!same(&format!("{{\"id\":\"{id}\"}}"), &format!("{{\"id\":\"{other}\"}}"), &format!("-d {id}")));
    assert!(!same(&format!("{{\"id\":\"{id}\"}}"), "{\"id\":null}", ""));
    assert!(same("{\"a\":1,...,\"c\":3}", "{\"a\":1,\"b\":{\"x\":2},\"c\":3}", ""));
    assert!(!same("{\"a\":1,...,\"c\":3}", "{\"a\":1,\"c\":4}", ""));
    assert!(same("\"2026-11-23T12:23:36.358383Z\"", "\"2031-01-02T03:04:05.000000Z\"", ""));
    assert!(!same("{\"code\":\"rule\"}", "{\"code\":\"envelope\"}", ""));
    let ran = Ran {
        code: Some(0),
        output: "HTTP/1.1 201 Created\r\nA: b\r\n\r\n{}HTTP/1.1 404 Not Found\r\nRetry-After: 1\r\n\r\n{\"x\":1}"
            .to_owned(),
        errors: String::new(),
    };
    let answers = ran.answers();
    assert_eq!((answers.len(), answers[0].body, answers[1].status), (2, "{}", 404));
    assert!(ran.problem(true).is_none() && ran.problem(false).is_some());
    let differs = |shown: &str| difference(shown, &answers[1], "").is_some();
    assert!(!differs("HTTP/1.1 404 Not Found\nretry-after: 1\n\n{\"x\": 1}\n"));
    assert!(!differs("HTTP/1.1 404 Not Found\n"));
    assert!(differs("HTTP/1.1 404 Not Found\nretry-after: 2\n\n{\"x\": 1}\n"));
    assert!(differs("HTTP/1.1 400 Bad Request\n\n{\"x\": 1}\n"));
    assert!(differs("{\"x\": 1}\n"));
    assert!(stands_in("fn a() {\n    b();\n    c();\n    d();\n}\n", "fn a() {\n  b();\n  // ...\n  d();\n}\n"));
    assert!(!stands_in("fn a() {\n    b();\n}\n", "fn a() {\n  c();\n}\n"));
}
