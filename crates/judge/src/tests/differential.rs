//! Generated modules in every way of running them, held against each other and against another engine, Node's. Whatever was
//! judged before, on whichever thread, and however it broke, an event comes to what it comes to in a new instance there.
//! `EYE_TEST_MODULES` says how many modules (`make test-modules`), and `EYE_TEST_SEED` with which one to begin.

use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::generated::{Dice, Generated, REFUSED_BYTES, Reach, breaks, generate};
use super::guests::Guest;
use super::*;
use crate::anatomy;
use crate::answer::check_answer;
use crate::component::Fresh;
use crate::contract::{Broken, GuestEvent};
use crate::core_module::{Call, Core, Lift, Unfit};
use crate::link::{Part, link};
use crate::resident::Residents;
use crate::{rewrite, world};

/// Modules of a run of all tests.
const MODULES: usize = 40;

/// Modules that one process of Node gets.
const AT_ONCE: usize = 50;

/// Threads that put events to a module beside each other.
const THREADS: usize = 3;

/// Milliseconds: an event that spins is to run so long, and no other needs as much.
const SPINS_MS: u64 = 10;
const ENOUGH_MS: u64 = 10_000;

/// An event, as far as it differs.
#[derive(Debug, Clone)]
struct Sent {
    application: String,
    category: String,
    timestamp_us: i64,
    data: String,
}

const ID: &str = "00000000-0000-7000-8000-000000000001";
const SESSION: &str = "00000000-0000-7000-8000-000000000002";
const NAME: &str = "view";

impl Sent {
    fn new(dice: &mut Dice, begins: &str) -> Self {
        let word =
            |dice: &mut Dice, most| "xyz\u{e9}".chars().cycle().take(dice.below(most) as usize).collect::<String>();
        let bytes = if begins == breaks::REALLOC { REFUSED_BYTES } else { 90 + dice.below(300) as usize };
        let mut data = format!("{begins}{}", dice.next());
        data.extend(std::iter::repeat_n('.', bytes.saturating_sub(data.len())));
        Self { application: word(dice, 9), category: word(dice, 60), timestamp_us: dice.next().cast_signed(), data }
    }

    fn spins(&self) -> bool {
        self.data.starts_with(breaks::SPIN)
    }

    /// Whether the other engine can say what it comes to: it has no deadline, and does not look at what lies askew.
    fn is_known_elsewhere(&self) -> bool {
        !self.spins() && !self.data.starts_with(breaks::OUTPUT)
    }
}

/// What an event comes to.
fn told(outcome: Result<Verdict, Broken>) -> String {
    match outcome {
        Ok(Verdict::Accept) => "accept".to_owned(),
        Ok(Verdict::Amend(data)) => format!("amend {data}"),
        Ok(Verdict::Reject(violations)) => {
            let one = |violation: &Violation| format!("{}|{}|{}", violation.pointer, violation.code, violation.message);
            format!("reject {}", violations.iter().map(one).collect::<Vec<_>>().join("; "))
        }
        Err(broken) => format!("fault {}", broken.code),
    }
}

/// One module, compiled for each way in which it can be run.
struct Ways {
    cores: Vec<(&'static str, Residents)>,
    component: Option<Fresh>,
    summaries: Vec<String>,
}

/// What all modules are judged with.
struct Bench {
    sandbox: Sandbox,
    check_amended: CheckAmended,
    limits: Limits,
}

impl Bench {
    fn new() -> Self {
        let limits = Limits { deadline_ms: ENOUGH_MS, ..Limits::default() };
        let sandbox = Sandbox::start().expect("the engine starts");
        Self { sandbox, check_amended: options(Path::new("")).check_amended, limits }
    }

    /// None when it breaks while it is loaded, in every way.
    fn ways(&self, generated: &Generated, parts: &[Vec<u8>]) -> Option<Ways> {
        let component = (parts.len() == 1).then(|| {
            let mut module = parts[0].clone();
            Guest::default().embed(&mut module);
            world::component_of(&module).expect("a validator").into_owned()
        });
        let core = match &component {
            Some(component) => anatomy::core_of(component),
            None => linked(parts),
        };
        let core = core.expect("it is made of core modules");
        let (followed, taken) = (rewrite::follow(&core), rewrite::expose(&core));
        assert!(followed.is_ok() || generated.reach > Reach::Followed);
        assert!(taken.is_ok() || generated.reach > Reach::Taken);
        let (mut cores, mut summaries, mut broken) = (Vec::new(), Vec::new(), 0);
        for (name, rewritten) in [("set back", followed), ("new", taken)] {
            let Ok(rewritten) = rewritten else { continue };
            let undescribed = Residents::compile(&self.sandbox, &rewritten).expect("it compiles");
            match undescribed.describe(&self.sandbox, &self.limits) {
                Ok((residents, description)) => {
                    assert_eq!(residents.stay(), name == "set back");
                    cores.push((name, residents));
                    summaries.push(description.summary);
                }
                Err(_) => broken += 1,
            }
        }
        let component = component.map(|component| Fresh::compile(&self.sandbox, &component).expect("it compiles"));
        assert!(broken == 0 || cores.is_empty(), "it breaks in one way only");
        (broken == 0).then_some(Ways { cores, component, summaries })
    }

    fn judge(&self, residents: &Residents, sent: &Sent) -> String {
        let limits = self.limits_for(sent);
        let check_answer = |verdict| check_answer(verdict, &limits, &self.check_amended);
        told(residents.judge(&self.sandbox, &limits, &event(sent), check_answer))
    }

    fn judge_component(&self, component: &Fresh, sent: &Sent) -> String {
        let limits = self.limits_for(sent);
        let verdict = component.judge(&self.sandbox, &limits, &event(sent));
        told(verdict.and_then(|verdict| check_answer(verdict, &limits, &self.check_amended)))
    }

    fn limits_for(&self, sent: &Sent) -> Limits {
        Limits { deadline_ms: if sent.spins() { SPINS_MS } else { ENOUGH_MS }, ..self.limits }
    }
}

fn event(sent: &Sent) -> GuestEvent<'_> {
    GuestEvent {
        id: ID,
        application: &sent.application,
        session_id: SESSION,
        category: &sent.category,
        name: NAME,
        timestamp_us: sent.timestamp_us,
        received_at_us: 0,
        data: &sent.data,
    }
}

/// Several core modules made into one, as those of a component are.
fn linked(parts: &[Vec<u8>]) -> Result<Core<'_>, Unfit> {
    let mut given: Vec<Part<'_>> = Vec::new();
    for module in parts {
        let mut part = Part { module, given: HashMap::new() };
        for (module, name) in part.imports()? {
            assert_eq!(module, "first");
            part.given.insert((module, name), (0, name));
        }
        given.push(part);
    }
    let linked = link(&given)?;
    let last = parts.len() - 1;
    let function = |name: &str| linked.index(last, name, wasmparser::ExternalKind::Func);
    let lift = |call: Call, realloc| -> Result<_, Unfit> {
        let memory = linked.index(last, "memory", wasmparser::ExternalKind::Memory)?;
        let post_return = function(&format!("cabi_post_{}", call.name())).ok();
        Ok((call, Lift { function: function(call.name())?, memory, realloc, post_return }))
    };
    let realloc = Some(function("cabi_realloc")?);
    let calls = vec![lift(Call::Describe, None)?, lift(Call::Validate, realloc)?];
    Ok(Core { module: linked.module, calls })
}

/// What Node's engine says of modules: what each says of itself, and what each event comes to.
fn reference(modules: &[(Vec<Vec<u8>>, Vec<Sent>)]) -> Vec<(String, Vec<String>)> {
    let input: Vec<Value> = modules
        .iter()
        .map(|(parts, events)| {
            let parts: Vec<_> = parts.iter().map(|part| base64(part)).collect();
            let known = events.iter().filter(|sent| sent.is_known_elsewhere());
            let events: Vec<_> = known
                .map(|sent| {
                    json!({
                        "id": ID, "application": sent.application, "session_id": SESSION, "category": sent.category,
                        "name": NAME, "timestamp": sent.timestamp_us.to_string(), "data": sent.data,
                    })
                })
                .collect();
            json!({ "parts": parts, "events": events })
        })
        .collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/reference.mjs");
    let mut node = Command::new("node")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Node 20 or later is installed");
    let mut stdin = node.stdin.take().expect("piped");
    let text = Value::from(input).to_string();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = node.wait_with_output().expect("it ends");
    writing.join().expect("no panic").expect("it reads everything");
    assert!(output.status.success(), "{}", output.status);
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it writes JSON");
    let word = |value: &Value| value.as_str().expect("a text").to_owned();
    let answer = |answer: &Value| {
        let verdicts = answer["verdicts"].as_array().expect("a list").iter().map(word).collect();
        (word(&answer["described"]), verdicts)
    };
    answers.iter().map(answer).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |chunk: &[u8]| {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..4)
            .map(move |digit| match digit <= 3 - (3 - chunk.len()) {
                true => char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize]),
                false => '=',
            })
            .collect::<String>()
    };
    bytes.chunks(3).map(three).collect()
}

/// Events for a module, some of which break it, in an order in which each comes after several others.
fn events(seed: u64) -> Vec<Sent> {
    let mut dice = Dice::new(!seed);
    let mut events: Vec<_> = (0..4).map(|_| Sent::new(&mut dice, "{x")).collect();
    for begins in [breaks::TRAP, breaks::POST_RETURN, breaks::REALLOC, breaks::MEMORY, breaks::OUTPUT] {
        events.push(Sent::new(&mut dice, begins));
    }
    if dice.one_in(4) {
        events.push(Sent::new(&mut dice, breaks::SPIN));
    }
    if dice.one_in(4) {
        events.push(Sent::new(&mut dice, breaks::STACK));
    }
    events
}

/// Compares one module. The number of verdicts that were compared.
fn compare(bench: &Bench, seed: u64, parts: &[Vec<u8>], events: &[Sent], reference: &(String, Vec<String>)) -> usize {
    let generated = generate(seed);
    let (described, verdicts) = reference;
    let Some(ways) = bench.ways(&generated, parts) else {
        assert_eq!(described, "trap", "module {seed} breaks while it is loaded");
        return 0;
    };
    for summary in &ways.summaries {
        assert_eq!(summary, described, "module {seed} says of itself");
    }
    let mut verdicts = verdicts.iter();
    let expected: Vec<String> = events
        .iter()
        .map(|sent| match sent.is_known_elsewhere() {
            true => verdicts.next().expect("one for each").clone(),
            // A fault, if only of one thing before the other.
            false => "trap".to_owned(),
        })
        .collect();
    let same = |found: &str, expected: &str| found == expected || expected == "trap" && found.starts_with("fault ");
    let mut compared = 0;
    // Each event alone, after every other, and again.
    let good = 0..4_usize;
    let order: Vec<usize> = good.clone().chain((0..events.len()).flat_map(|at| [at, at % good.end])).collect();
    let mut codes = HashMap::<usize, String>::new();
    for at in &order {
        let (sent, expected) = (&events[*at], &expected[*at]);
        let cores = ways.cores.iter().map(|(name, residents)| (*name, bench.judge(residents, sent)));
        let component = ways.component.iter().map(|component| ("component", bench.judge_component(component, sent)));
        for (way, found) in cores.chain(component) {
            assert!(same(&found, expected), "module {seed}, {way}, event {at}: {found} and not {expected}");
            let first = codes.entry(*at).or_insert_with(|| found.clone());
            assert_eq!(*first, found, "module {seed}, {way}, event {at}");
            compared += 1;
        }
    }
    compared + beside_each_other(bench, &ways, seed, events, &codes)
}

/// Puts the events that do not spin to the instances that stay, on threads beside each other.
fn beside_each_other(
    bench: &Bench,
    ways: &Ways,
    seed: u64,
    events: &[Sent],
    expected: &HashMap<usize, String>,
) -> usize {
    let Some((_, residents)) = ways.cores.first() else { return 0 };
    let chosen: Vec<_> = events.iter().enumerate().filter(|(_, sent)| !sent.spins()).collect();
    std::thread::scope(|threads| {
        for thread in 0..THREADS {
            let chosen = &chosen;
            threads.spawn(move || {
                for (at, sent) in chosen.iter().cycle().skip(2 * thread).take(chosen.len()) {
                    assert_eq!(
                        bench.judge(residents, sent),
                        expected[at],
                        "module {seed}, thread {thread}, event {at}"
                    );
                }
            });
        }
    });
    THREADS * chosen.len()
}

#[test]
fn generated_modules_say_the_same_in_every_way_and_in_another_engine() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<usize>().expect("a number"));
    let (count, first) = (number("EYE_TEST_MODULES").unwrap_or(MODULES), number("EYE_TEST_SEED").unwrap_or(1));
    let bench = Bench::new();
    let (mut compared, mut reached) = (0, [0_usize; 3]);
    let seeds: Vec<u64> = (first..first + count).map(|seed| seed as u64).collect();
    for seeds in seeds.chunks(AT_ONCE) {
        let assembled = |part: &String| wat::parse_str(part).unwrap_or_else(|error| panic!("{error}: {part}"));
        let modules: Vec<(Vec<Vec<u8>>, Vec<Sent>)> =
            seeds.iter().map(|seed| (generate(*seed).parts.iter().map(assembled).collect(), events(*seed))).collect();
        let answers = reference(&modules);
        for ((seed, (parts, events)), answer) in seeds.iter().zip(&modules).zip(&answers) {
            compared += compare(&bench, *seed, parts, events, answer);
            reached[generate(*seed).reach as usize] += 1;
        }
    }
    let [followed, taken, anew] = reached;
    println!("{count} modules ({followed} set back, {taken} new, {anew} with `describe`), {compared} verdicts");
    assert!(compared > 20 * count && reached.iter().all(|of| *of > 0), "{compared} verdicts, {reached:?}");
}
