//! What people and machines do to a modules directory.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;

use super::guests::{ACCEPT, Guest, REJECT, judges, new_for_each_event};
use super::*;
use crate::directory::{self, Signature};
use crate::entry::{RETRY_PAUSE, SETTLE};
use crate::lifecycle::{MISSING_MAX, unload_at};

pub(super) fn salted(salt: &str) -> Vec<u8> {
    Guest { salt, ..Guest::default() }.core()
}

pub(super) fn serves(report: &TypeReport, bytes: &[u8]) -> bool {
    report.digest == Some(Digest::of(bytes))
}

#[tokio::test]
async fn a_module_is_swapped_kept_on_failure_and_unloaded() {
    let house = House::with(&[]).await;
    let (good, better) = (salted("a"), salted("b"));
    house.put("page/view.wasm", &good);
    house.until("page/view", |report| serves(report, &good)).await;
    house.put("page/view.wasm", b"broken");
    let report = house.until("page/view", refused).await;
    assert!(serves(&report, &good), "{report:?}");
    house.put("page/view.wasm", &better);
    let swapped = house.until("page/view", |report| serves(report, &better)).await;
    assert_eq!((swapped.state, swapped.last_error), (State::Active, None));
    house.put("page/view.wasm", b"broken");
    house.until("page/view", refused).await;
    house.put("page/view.wasm", &better);
    house.until("page/view", |report| report.last_error.is_none()).await;
    house.remove("page/view.wasm");
    house.until_gone("page/view").await;
    assert_eq!(house.judge(("page", "view"), "{}").await.digest, None);
}

#[tokio::test]
async fn a_copy_in_slow_pieces_is_settling_and_then_active() {
    let house = House::with(&[]).await;
    let bytes = salted("slow");
    std::fs::create_dir(house.modules().join("page")).expect("made");
    let mut file = std::fs::File::create(house.modules().join("page/view.wasm")).expect("made");
    for piece in bytes.chunks(bytes.len() / 3 + 1) {
        file.write_all(piece).expect("written");
        file.flush().expect("flushed");
        house
            .until("page/view", |report| {
                report.loading == Some(State::Settling) || report.state == State::Settling || serves(report, &bytes)
            })
            .await;
    }
    let report = house.until("page/view", |report| serves(report, &bytes)).await;
    assert_eq!(report.last_error, None);
}

#[tokio::test]
async fn a_copy_that_pauses_for_longer_than_a_file_may_settle_is_taken_when_it_is_whole() {
    let (good, bytes) = (salted("good"), salted("slow"));
    let house = House::with(&[("page/view.wasm", &good)]).await;
    let mut file = std::fs::File::create(house.modules().join("page/view.wasm")).expect("truncated");
    let mut told = None;
    for piece in bytes.chunks(bytes.len() / 3 + 1) {
        let report = house.until("page/view", |report| refused(report) && report.last_error != told).await;
        assert!(serves(&report, &good), "{report:?}");
        told = report.last_error;
        file.write_all(piece).expect("written");
    }
    let report = house.until("page/view", |report| serves(report, &bytes)).await;
    assert_eq!(report.last_error, None);
}

#[tokio::test]
async fn a_truncated_file_is_refused_and_taken_when_it_is_completed() {
    let house = House::with(&[]).await;
    let bytes = salted("cut");
    house.put("page/view.wasm", &bytes[..bytes.len() / 2]);
    house.until("page/view", refused).await;
    let mut file =
        std::fs::OpenOptions::new().append(true).open(house.modules().join("page/view.wasm")).expect("there");
    file.write_all(&bytes[bytes.len() / 2..]).expect("written");
    house.until("page/view", |report| serves(report, &bytes)).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_volume_that_swaps_its_data_link_is_followed() {
    let house = House::with(&[]).await;
    let (old, new) = (salted("old"), salted("new"));
    let modules = house.modules();
    put(&modules, "..v1/page/view.wasm", &old);
    put(&modules, "..v2/page/view.wasm", &new);
    std::os::unix::fs::symlink("..v1", modules.join("..data")).expect("linked");
    std::os::unix::fs::symlink("..data/page", modules.join("page")).expect("linked");
    house.until("page/view", |report| serves(report, &old)).await;
    std::os::unix::fs::symlink("..v2", modules.join("..next")).expect("linked");
    std::fs::rename(modules.join("..next"), modules.join("..data")).expect("swapped");
    house.until("page/view", |report| serves(report, &new)).await;
}

#[tokio::test]
async fn a_directory_that_is_missing_appears_is_replaced_and_vanishes() {
    let house = House::start(&[], |options| std::fs::remove_dir(&options.modules_dir).expect("it was empty")).await;
    assert!(!house.problems().is_empty());
    let (first, second) = (salted("1"), salted("2"));
    house.put("page/view.wasm", &first);
    house.until("page/view", |report| serves(report, &first)).await;
    let aside = house.root.path().join("aside");
    std::fs::rename(house.modules(), &aside).expect("moved");
    house.put("page/view.wasm", &second);
    house.until("page/view", |report| serves(report, &second)).await;
    std::fs::remove_dir_all(house.modules()).expect("removed");
    house.wait(|| (!house.problems().is_empty()).then_some(()), "a missing directory").await;
    assert_eq!(house.judge(("page", "view"), "{}").await.digest, Some(Digest::of(&second)));
}

/// What is said of an event whose module is not known.
fn is_held(judgement: &Judgement, why: UnfinishedCode) -> bool {
    unfinished_code(judgement) == Some(why) && judgement.digest.is_none()
}

/// A link that leads to itself: there is something, and nobody can read it.
#[cfg(unix)]
fn link_to_itself(path: &Path) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::os::unix::fs::symlink(path.file_name().expect("a name"), path).expect("linked");
}

#[tokio::test]
async fn no_event_passes_unjudged_before_the_directory_could_be_read_once() {
    let root = tempfile::tempdir().expect("a directory for the test");
    let modules = root.path().join("modules");
    std::fs::write(&modules, b"no directory").expect("written");
    let validators = Validators::start(options(root.path())).expect("the engine starts");
    let house = House { validators, root };
    house.wait(|| house.problems().pop(), "the directory is told").await;
    let mut changes = house.validators.changes();
    // It is looked at again and again, and stays unknown.
    for _ in 0..3 {
        changes.changed().await.expect("validators run");
        assert!(!house.validators.scanned());
        assert!(is_held(&house.judge(("a", "b"), "{}").await, UnfinishedCode::ModuleLoading));
    }
    let problem = house.problems().remove(0);
    assert!(problem.file == "." && problem.why.contains("answered 503"), "{problem:?}");
    let bytes = judges(REJECT);
    let next = house.root.path().join("next");
    put(&next, "a/b.wasm", &bytes);
    // At once: a directory that is missing for a moment is an empty one.
    let (here, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
    rustix::fs::renameat_with(here, &next, here, &modules, exchange).expect("exchanged");
    let began = std::time::Instant::now();
    house.validators.wait_scanned().await;
    assert!(began.elapsed() < Duration::from_secs(20), "sooner than the next rescan: {:?}", began.elapsed());
    assert_eq!(house.judge(("a", "b"), "{}").await.digest, Some(Digest::of(&bytes)));
    assert_eq!(house.judge(("a", "other"), "{}").await.outcome, Ok(Verdict::Accept));
    assert_eq!(house.problems(), []);
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_read_at_the_start_holds_its_own_category_and_nothing_else() {
    let (any, own) = (judges(ACCEPT), judges(REJECT));
    let house = House::start(&[("_.wasm", &any), ("a/b.wasm", &own)], |options| {
        link_to_itself(&options.modules_dir.join("page"));
    })
    .await;
    assert_eq!(house.judge(("a", "b"), "{}").await.digest, Some(Digest::of(&own)));
    assert_eq!(house.judge(("x", "y"), "{}").await.digest, Some(Digest::of(&any)));
    assert!(is_held(&house.judge(("page", "view"), "{}").await, UnfinishedCode::ModuleUnavailable));
    let problem = house.problems().remove(0);
    assert!(problem.file == "page" && problem.why.contains("cannot be read"), "{problem:?}");
    assert!(problem.why.contains("answered 503"), "{problem:?}");

    put(&house.modules(), "..v1/view.wasm", &own);
    // In one step, since a folder that is gone holds nothing.
    std::os::unix::fs::symlink("..v1", house.modules().join(".next")).expect("linked");
    std::fs::rename(house.modules().join(".next"), house.modules().join("page")).expect("swapped");
    let judged = async {
        loop {
            let judgement = house.judge(("page", "view"), "{}").await;
            if judgement.outcome.is_ok() {
                // Not by the one for everything, in no moment.
                break assert_eq!(judgement.digest, Some(Digest::of(&own)));
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, judged).await.expect("it is read");
    assert_eq!(house.judge(("page", "other"), "{}").await.digest, Some(Digest::of(&any)));
    assert_eq!(house.problems(), []);
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_read_any_more_keeps_its_modules_and_a_new_one_takes_nothing() {
    let (any, own) = (judges(ACCEPT), judges(REJECT));
    let house = House::with(&[("_.wasm", &any), ("page/view.wasm", &own), ("z/z.wasm", &own)]).await;
    std::fs::rename(house.modules().join("page"), house.root.path().join("page")).expect("moved");
    link_to_itself(&house.modules().join("page"));
    link_to_itself(&house.modules().join("new"));
    house.wait(|| (house.problems().len() == 2).then_some(()), "both are told").await;
    // What is missing would be gone with this one.
    house.remove("z/z.wasm");
    house.until_gone("z/z").await;
    assert_eq!(house.judge(("page", "view"), "{}").await.digest, Some(Digest::of(&own)));
    for event_type in [("page", "other"), ("new", "one")] {
        assert_eq!(house.judge(event_type, "{}").await.digest, Some(Digest::of(&any)), "{event_type:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_cannot_be_read_holds_its_events_from_the_start_and_serves_on_later() {
    let (any, own) = (judges(ACCEPT), judges(REJECT));
    let house = House::start(&[("page/_.wasm", &any), ("page/view.toml", b"deadline_ms = 7")], |options| {
        link_to_itself(&options.modules_dir.join("page/view.wasm"));
    })
    .await;
    assert!(is_held(&house.judge(("page", "view"), "{}").await, UnfinishedCode::ModuleUnavailable));
    assert_eq!(house.judge(("page", "other"), "{}").await.digest, Some(Digest::of(&any)));
    let report = house.report("page/view").expect("it is told");
    assert_eq!((report.state, report.digest), (State::Refused, None));
    house.put("page/view.wasm", &own);
    house.until("page/view", |report| serves(report, &own)).await;

    for file in ["page/view.wasm", "page/view.toml"] {
        house.remove(file);
        link_to_itself(&house.modules().join(file));
    }
    let report = house.until("page/view", |report| refused(report) && report.settings_error.is_some()).await;
    assert!(serves(&report, &own) && report.limits.deadline_ms == 7, "{report:?}");
}

#[tokio::test]
async fn folders_appear_and_vanish() {
    let house = House::with(&[]).await;
    let bytes = salted("x");
    for _ in 0..3 {
        house.put("deep/er.wasm", &bytes);
        house.until("deep/er", |report| serves(report, &bytes)).await;
        std::fs::remove_dir_all(house.modules().join("deep")).expect("removed");
        house.until_gone("deep/er").await;
    }
}

#[tokio::test]
async fn names_are_exact() {
    let names = [
        ("a b/c d.wasm", ("a b", "c d")),
        ("a/b%2Fc.wasm", ("a", "b/c")),
        ("%5F/%5F.wasm", ("_", "_")),
        ("Page/View.wasm", ("Page", "View")),
        ("page/View.wasm", ("page", "View")),
        ("u/\u{e9}.wasm", ("u", "\u{e9}")),
        ("u/e\u{301}.wasm", ("u", "e\u{301}")),
        ("\u{65e5}/\u{1f441}.wasm", ("\u{65e5}", "\u{1f441}")),
    ];
    let guests: Vec<_> = names.iter().map(|(file, _)| (*file, salted(file))).collect();
    let files: Vec<_> = guests.iter().map(|(file, bytes)| (*file, bytes.as_slice())).collect();
    let house = House::with(&files).await;
    for ((_, event_type), (_, bytes)) in names.iter().zip(&guests) {
        assert_eq!(house.judge(*event_type, "{}").await.digest, Some(Digest::of(bytes)), "{event_type:?}");
    }
    assert_eq!(house.judge(("page", "view"), "{}").await.digest, None);
}

#[tokio::test]
async fn two_files_for_one_type_and_stray_files_are_told() {
    let (plain, encoded) = (judges(ACCEPT), judges(REJECT));
    let house = House::with(&[
        ("a/b c.wasm", &plain),
        ("a/b%20c.wasm", &encoded),
        ("stray.wasm", &plain),
        ("a/%zz.wasm", &plain),
    ])
    .await;
    assert!(is_held(&house.judge(("a", "b c"), "{}").await, UnfinishedCode::ModuleUnavailable));
    let problems: Vec<_> = house.problems().into_iter().map(|problem| problem.file).collect();
    assert_eq!(problems, ["a/%zz.wasm", "a/b c.wasm", "a/b%20c.wasm", "stray.wasm"]);
    let refusal = house.report("a/b c").expect("it is told").last_error.expect("with the reason").refusal;
    assert!(refusal.found.contains("a/b c.wasm and a/b%20c.wasm"), "{refusal:?}");
    house.remove("a/b c.wasm");
    house.until("a/b c", |report| serves(report, &encoded)).await;
    house.put("a/b c.wasm", &plain);
    let report = house.until("a/b c", refused).await;
    assert!(serves(&report, &encoded), "what served last serves on: {report:?}");
}

#[tokio::test]
async fn settings_beside_a_module_are_in_force_and_bad_ones_are_told() {
    let bytes = judges("(loop (br 0)) unreachable");
    let house = House::with(&[("a/b.wasm", &bytes), ("a/b.toml", b"deadline_ms = 5\non_fault = \"retry\"")]).await;
    assert_eq!(unfinished_code(&house.judge(("a", "b"), "{}").await), Some(UnfinishedCode::ModuleUnavailable));
    assert_eq!(house.report("a/b").expect("there").limits.deadline_ms, 5);
    house.put("a/b.toml", b"deadline_ms = \"soon\"");
    let report = house.until("a/b", |report| report.settings_error.is_some()).await;
    assert_eq!(report.limits.deadline_ms, 5);
    house.put("a/b.toml", b"deadline_ms = 7");
    house.until("a/b", |report| report.limits.deadline_ms == 7 && report.settings_error.is_none()).await;
    assert_eq!(house.report("a/b").expect("there").counts.faulted.get("deadline"), Some(&1));
    house.remove("a/b.toml");
    house.until("a/b", |report| report.limits.deadline_ms == 50).await;
}

#[tokio::test]
async fn a_change_that_no_event_tells_is_found_by_looking() {
    // A rescan that is due at once stands for the one of every thirty seconds.
    let house = House::start(&[("a/b.wasm", &salted("1"))], |options| options.rescan = Duration::from_millis(20)).await;
    let outside = house.root.path().join("outside");
    std::fs::create_dir(&outside).expect("made");
    let bytes = salted("2");
    std::fs::write(outside.join("b.wasm"), &bytes).expect("written");
    std::fs::remove_file(house.modules().join("a/b.wasm")).expect("removed");
    // The folder behind the link is watched by nobody.
    std::os::unix::fs::symlink(outside.join("b.wasm"), house.modules().join("a/b.wasm")).expect("linked");
    house.until("a/b", |report| serves(report, &bytes)).await;
    let bytes = salted("3");
    std::fs::write(outside.join("b.wasm"), &bytes).expect("written");
    house.until("a/b", |report| serves(report, &bytes)).await;
}

#[tokio::test]
async fn versions_are_shown_and_a_rollback_by_another_process_takes_effect_and_survives_a_restart() {
    let (one, two) = (salted("1"), salted("2"));
    let house = House::with(&[("a/b.wasm", &one)]).await;
    house.put("a/b.wasm", &two);
    let report = house.until("a/b", |report| serves(report, &two)).await;
    let digests: Vec<_> = report.versions.iter().map(|version| version.digest).collect();
    assert_eq!(digests, [Digest::of(&two), Digest::of(&one)]);

    // What the command does: it knows the two directories, and nothing of the gateway.
    let history = History::under(&house.root.path().join("data"));
    let slot = Slot::parse("a/b").expect("an event type");
    let began = std::time::Instant::now();
    history.rollback(&house.modules(), &slot, None).expect("there is an older version");
    house.until("a/b", |report| serves(report, &one)).await;
    assert!(began.elapsed() < Duration::from_secs(20), "sooner than the next rescan: {:?}", began.elapsed());
    let listed = history.list(&house.modules()).expect("readable");
    assert_eq!((listed.len(), listed[0].digest, listed[0].versions.len()), (1, Some(Digest::of(&one)), 2));

    let House { validators, root } = house;
    validators.stop().await;
    drop(validators);
    let again = Validators::start(options(root.path())).expect("the engine starts");
    again.wait_scanned().await;
    let report = again.report().remove(0);
    assert!(serves(&report, &one));
    assert_eq!(report.versions.len(), 2);
}

#[tokio::test]
async fn a_thousand_modules_at_once_are_all_served_and_start_again_from_compiled_code() {
    let house = House::with(&[]).await;
    for number in 0..1_000 {
        house.put(&format!("many/{number}.wasm"), &salted(&number.to_string()));
    }
    let serving = |validators: &Validators| validators.report().iter().filter(|report| report.digest.is_some()).count();
    house.wait(|| (serving(&house.validators) == 1_000).then_some(()), "a thousand modules").await;
    assert_eq!(found_and_compiled(&house), (0, 1_000));
    let house = house.restart();
    house.validators.wait_scanned().await;
    assert_eq!(serving(&house.validators), 1_000);
    assert_eq!(found_and_compiled(&house), (1_000, 0));
    let judgement = house.judge(("many", "777"), "{}").await;
    assert_eq!(judgement.digest, Some(Digest::of(&salted("777"))));
}

/// How many modules were found built since the start, and how many were not.
fn found_and_compiled(house: &House) -> (u64, u64) {
    house.validators.inner.tools.loader.found_and_kept()
}

/// All that was built.
fn compiled_entries(house: &House) -> Vec<PathBuf> {
    let folder = house.root.path().join("data/compiled/built");
    std::fs::read_dir(&folder).expect("there").map(|entry| entry.expect("readable").path()).collect()
}

/// The only entry.
fn compiled_entry(house: &House) -> PathBuf {
    let [entry]: [PathBuf; 1] = compiled_entries(house).try_into().expect("one");
    entry
}

/// Bytes of an entry before what is packed: a number, the seal, and the name.
const ENTRY_HEAD: usize = 8 + 32 + 32;

#[tokio::test]
async fn damaged_compiled_code_is_not_run() {
    let mut house = House::with(&[("a/b.wasm", &salted("1"))]).await;
    let entry = compiled_entry(&house);
    let whole = std::fs::read(&entry).expect("kept");
    // Whole for all that the engine can see: it is packed anew, with another constant in its code.
    let (head, packed) = whole.split_at(ENTRY_HEAD);
    let mut code = zstd::decode_all(packed).expect("packed");
    let text = code.windows(5).rposition(|bytes| bytes == b"guest").expect("its data is in it");
    code[text] ^= 1;
    let repacked = [head, &zstd::bulk::compress(&code, 1).expect("packed")].concat();
    for damaged in [whole[..whole.len() / 2].to_vec(), repacked] {
        std::fs::write(&entry, &damaged).expect("written");
        house = house.restart();
        house.validators.wait_scanned().await;
        assert_eq!(found_and_compiled(&house), (0, 1), "it is compiled anew");
        assert_eq!(house.report("a/b").expect("there").summary.as_deref(), Some("guest1"));
        assert_eq!(std::fs::read(&entry).expect("kept"), whole);
        house = house.restart();
        house.validators.wait_scanned().await;
        assert_eq!(found_and_compiled(&house), (1, 0), "what is whole is found");
    }
}

#[tokio::test]
async fn what_was_built_of_one_module_is_not_run_for_another() {
    let house = House::with(&[("a/b.wasm", &judges(REJECT))]).await;
    let rejects = compiled_entry(&house);
    house.put("a/c.wasm", &salted("1"));
    house.until("a/c", |report| report.state == State::Active).await;
    let accepts = compiled_entries(&house).into_iter().find(|entry| *entry != rejects).expect("two");
    std::fs::copy(&rejects, &accepts).expect("copied");
    let house = house.restart();
    house.validators.wait_scanned().await;
    assert_eq!(found_and_compiled(&house), (1, 1));
    assert_eq!(house.judge(("a", "c"), "{}").await.outcome, Ok(Verdict::Accept));
}

#[tokio::test]
async fn other_limits_of_a_module_have_it_built_and_tested_anew() {
    let house = House::with(&[("a/b.wasm", &salted("1"))]).await;
    house.put("a/b.toml", b"memory_bytes_max = 1000000");
    house.until("a/b", |report| report.limits.memory_bytes_max == 1_000_000).await;
    assert_eq!(found_and_compiled(&house), (0, 2), "before the limits were in force");
    let house = house.restart();
    house.validators.wait_scanned().await;
    assert_eq!(found_and_compiled(&house), (1, 0));
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_read_compiled_code_or_put_some_in() {
    use std::os::unix::fs::PermissionsExt as _;
    let house = House::with(&[("a/b.wasm", &salted("1"))]).await;
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let data = house.root.path().join("data");
    for folder in ["compiled", "compiled/built", "loading"] {
        assert_eq!(mode(&data.join(folder)), 0o700, "{folder}");
    }
    assert_eq!(mode(&compiled_entry(&house)), 0o600);
}

#[tokio::test]
async fn an_empty_file_is_refused_while_the_last_good_one_serves_and_taken_when_it_is_filled() {
    let (good, next) = (salted("good"), salted("next"));
    let house = House::with(&[("page/view.wasm", &good)]).await;
    let path = house.modules().join("page/view.wasm");
    std::fs::File::create(&path).expect("truncated");
    let report = house.until("page/view", refused).await;
    assert!(serves(&report, &good), "{report:?}");
    let told = report.last_error.expect("refused for a reason").refusal;
    assert_eq!(told.found, "an empty file");
    std::fs::write(&path, &next).expect("filled");
    let report = house.until("page/view", |report| serves(report, &next)).await;
    assert_eq!(report.last_error, None);
}

#[tokio::test]
async fn other_content_of_the_same_size_and_time_is_seen() {
    let (one, two) = (salted("1"), salted("2"));
    assert_eq!(one.len(), two.len());
    let house = House::with(&[("page/view.wasm", &one)]).await;
    let path = house.modules().join("page/view.wasm");
    let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
    for bytes in [&two, &one, &two] {
        // In place, as `cp --preserve` and some tools for deploying do it.
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).expect("there");
        file.write_all(bytes).expect("written");
        file.set_modified(modified).expect("set back");
        drop(file);
        house.until("page/view", |report| serves(report, bytes)).await;
    }
}

#[tokio::test]
async fn a_folder_that_is_moved_takes_its_modules_along() {
    let (view, click) = (salted("view"), salted("click"));
    let house = House::with(&[]).await;
    let beside = house.root.path().join("beside");
    put(&beside, "view.wasm", &view);
    put(&beside, "click.wasm", &click);
    // Moved in whole: there is one event for the folder, and none for what is in it.
    std::fs::rename(&beside, house.modules().join("page")).expect("moved in");
    house.until("page/view", |report| serves(report, &view)).await;
    house.until("page/click", |report| serves(report, &click)).await;
    std::fs::rename(house.modules().join("page"), house.modules().join("Page")).expect("renamed");
    house.until("Page/view", |report| serves(report, &view)).await;
    house.until_gone("page/view").await;
    // What is in a folder that was moved is watched like all else.
    house.put("Page/view.wasm", &click);
    house.until("Page/view", |report| serves(report, &click)).await;
    std::fs::rename(house.modules().join("Page"), &beside).expect("moved out");
    house.until_gone("Page/view").await;
    house.until_gone("Page/click").await;
}

#[tokio::test]
async fn a_module_that_is_renamed_serves_its_new_name_only() {
    let bytes = salted("x");
    let house = House::with(&[("page/view.wasm", &bytes)]).await;
    let folder = house.modules().join("page");
    for (from, to) in [("view", "View"), ("View", "caf\u{e9}"), ("caf\u{e9}", "cafe\u{301}"), ("cafe\u{301}", "_")] {
        std::fs::rename(folder.join(format!("{from}.wasm")), folder.join(format!("{to}.wasm"))).expect("renamed");
        house.until(&format!("page/{to}"), |report| serves(report, &bytes)).await;
        house.until_gone(&format!("page/{from}")).await;
        assert_eq!(house.judge(("page", from), "{}").await.digest.is_some(), to == "_", "{from} to {to}");
    }
}

#[tokio::test]
async fn folders_within_folders_serve_nothing_and_a_folder_named_like_a_module_is_told() {
    let bytes = salted("x");
    let house = House::with(&[("a/b.wasm", &bytes)]).await;
    house.put("a/deeper/still/c.wasm", &bytes);
    house.put("a/folder.wasm/d.wasm", &bytes);
    let report = house.until("a/folder", refused).await;
    assert_eq!((report.state, report.digest), (State::Refused, None));
    let types: Vec<_> = house.validators.report().into_iter().map(|report| report.event_type).collect();
    assert_eq!(types, ["a/b", "a/folder"]);
    std::fs::remove_dir_all(house.modules().join("a/folder.wasm")).expect("removed");
    std::fs::remove_dir_all(house.modules().join("a/deeper")).expect("removed");
    house.until_gone("a/folder").await;
    assert!(serves(&house.report("a/b").expect("there"), &bytes));
}

#[cfg(unix)]
#[tokio::test]
async fn a_volume_swap_adds_drops_and_replaces_modules_at_once() {
    let house = House::with(&[]).await;
    let modules = house.modules();
    let (old, new, stays) = (salted("old"), salted("new"), salted("stays"));
    for (file, bytes) in [("a/changes", &old), ("a/goes", &old), ("b/stays", &stays)] {
        put(&modules, &format!("..v1/{file}.wasm"), bytes);
    }
    for (file, bytes) in [("a/changes", &new), ("a/comes", &new), ("b/stays", &stays)] {
        put(&modules, &format!("..v2/{file}.wasm"), bytes);
    }
    let link = |to: &str, name: &str| {
        // A link is renamed over another, since none can be made where one is.
        std::os::unix::fs::symlink(to, modules.join("..link")).expect("linked");
        std::fs::rename(modules.join("..link"), modules.join(name)).expect("in place");
    };
    link("..v1", "..data");
    link("..data/a", "a");
    link("..data/b", "b");
    house.until("a/goes", |report| serves(report, &old)).await;
    house.until("b/stays", |report| serves(report, &stays)).await;
    for _ in 0..3 {
        link("..v2", "..data");
        house.until("a/changes", |report| serves(report, &new)).await;
        house.until("a/comes", |report| serves(report, &new)).await;
        house.until_gone("a/goes").await;
        link("..v1", "..data");
        house.until("a/changes", |report| serves(report, &old)).await;
        house.until("a/goes", |report| serves(report, &old)).await;
        house.until_gone("a/comes").await;
    }
    assert!(serves(&house.report("b/stays").expect("there"), &stays));
}

#[tokio::test]
async fn a_storm_of_file_events_hides_no_change() {
    let (one, two) = (salted("1"), salted("2"));
    let house = House::with(&[("a/b.wasm", &one)]).await;
    // More events than the kernel keeps for one that does not come to read them, with one among them that counts.
    let noise = [".one", ".two"].map(|name| house.modules().join("a").join(name));
    noise.iter().for_each(|file| std::fs::write(file, []).expect("written"));
    let mode = std::fs::metadata(&noise[0]).expect("there").permissions();
    for number in 0..20_000 {
        // In turns, since the kernel makes one of two events that are the same.
        std::fs::set_permissions(&noise[number % 2], mode.clone()).expect("set");
        if number == 10_000 {
            house.put("a/b.wasm", &two);
        }
    }
    house.until("a/b", |report| serves(report, &two)).await;
    house.put("c/d.wasm", &one);
    house.until("c/d", |report| serves(report, &one)).await;
    house.remove("a/b.wasm");
    house.until_gone("a/b").await;
}

#[tokio::test]
async fn a_start_with_a_bad_file_serves_the_last_version_that_was_good() {
    let (older, good) = (judges(ACCEPT), judges(REJECT));
    let mut house = House::with(&[("a/b.wasm", &older)]).await;
    house.put("a/b.wasm", &good);
    house.until("a/b", |report| serves(report, &good)).await;
    for bad in [b"broken".as_slice(), b"", &good[..good.len() / 2]] {
        // Put there while no gateway ran.
        house.put("a/b.wasm", bad);
        house = house.restart();
        house.validators.wait_scanned().await;
        let judgement = house.judge(("a", "b"), "{}").await;
        assert_eq!(judgement.digest, Some(Digest::of(&good)), "no event is accepted unseen");
        let report = house.until("a/b", refused).await;
        assert_eq!((report.state, report.versions.len()), (State::Active, 2));
        assert!(serves(&report, &good));
    }
    house.put("a/b.wasm", &older);
    let report = house.until("a/b", |report| serves(report, &older)).await;
    assert_eq!(report.last_error, None);
}

#[tokio::test]
async fn a_damaged_kept_version_does_not_serve_and_the_one_before_it_does() {
    let (older, good) = (judges(ACCEPT), judges(REJECT));
    let house = House::with(&[("a/b.wasm", &older)]).await;
    house.put("a/b.wasm", &good);
    house.until("a/b", |report| serves(report, &good)).await;
    let kept = walk(&house.root.path().join("data/versions"));
    let newest = kept.iter().find(|path| path.display().to_string().contains(&Digest::of(&good).to_string()));
    std::fs::write(newest.expect("it is kept"), b"damaged").expect("written");
    house.put("a/b.wasm", b"broken");
    let house = house.restart();
    house.validators.wait_scanned().await;
    assert_eq!(house.judge(("a", "b"), "{}").await.digest, Some(Digest::of(&older)));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("there").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_bad_file_at_the_start_shows_the_versions_that_it_could_be_rolled_back_to() {
    let (one, two) = (salted("1"), salted("2"));
    let house = House::with(&[("a/b.wasm", &one)]).await;
    house.put("a/b.wasm", &two);
    house.until("a/b", |report| serves(report, &two)).await;
    house.put("a/b.wasm", b"broken");
    let house = house.restart();
    house.validators.wait_scanned().await;
    let digests: Vec<_> =
        house.report("a/b").expect("there").versions.into_iter().map(|version| version.digest).collect();
    assert_eq!(digests, [Digest::of(&two), Digest::of(&one)]);
}

#[tokio::test]
async fn no_event_is_judged_by_another_module_than_its_own_while_the_gateway_starts() {
    // So many that loading takes a while; the one that counts is the last.
    let mut house = House::with(&[("z/_.wasm", &judges(ACCEPT)), ("z/z.wasm", &judges(REJECT))]).await;
    for number in 0..100 {
        house.put(&format!("many/{number}.wasm"), &salted(&number.to_string()));
    }
    house = house.restart();
    let own = Digest::of(&judges(REJECT));
    let mut waited = 0;
    let judged = async {
        loop {
            let judgement = house.judge(("z", "z"), "{}").await;
            match &judgement.outcome {
                Err(_) => {
                    assert!(is_held(&judgement, UnfinishedCode::ModuleLoading), "{judgement:?}");
                    waited += 1;
                }
                Ok(_) => break assert_eq!(judgement.digest, Some(own)),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, judged).await.expect("it is loaded");
    assert!(waited > 0, "it was asked before it could know");
    house.validators.wait_scanned().await;
    assert_eq!(house.judge(("z", "other"), "{}").await.outcome, Ok(Verdict::Accept));
    assert_eq!(house.judge(("nobody", "serves"), "{}").await.digest, None);
}

/// Needs more memory than it may have without the settings beside it.
pub(super) fn hungry() -> Vec<u8> {
    Guest {
        describe: "(if (i32.eq (i32.const -1) (memory.grow (i32.const 1600))) (then unreachable))",
        ..Guest::default()
    }
    .core()
}

#[tokio::test]
async fn a_refused_module_is_taken_when_its_settings_are_mended() {
    let bytes = hungry();
    let house = House::with(&[("a/b.wasm", &bytes)]).await;
    let report = house.until("a/b", refused).await;
    assert!(report.last_error.expect("refused").refusal.found.contains("memory"));
    house.put("a/b.toml", b"memory_bytes_max = 209715200");
    let report = house.until("a/b", |report| serves(report, &bytes)).await;
    assert_eq!((report.last_error, report.limits.memory_bytes_max), (None, 200 << 20));
}

#[tokio::test]
async fn a_refusal_that_may_be_the_machines_fault_is_tried_again() {
    let spins = Guest { describe: "(loop (br 0))", ..Guest::default() }.core();
    let house = House::start(&[("a/b.wasm", &spins)], |options| options.rescan = Duration::from_millis(20)).await;
    let first = house.until("a/b", |report| report.state == State::Refused).await;
    house.until("a/b", |report| report.state == State::SelfTest).await;
    let again = house.until("a/b", |report| report.state == State::Refused).await;
    assert_eq!(again.last_error, first.last_error, "the same refusal is told once");
}

#[tokio::test]
async fn a_module_is_taken_though_the_gateway_has_no_room_for_another_instance_just_now() {
    let bytes = new_for_each_event();
    let house = House::with(&[]).await;
    let full = fill(&house);
    house.put("a/b.wasm", &bytes);
    house.until("a/b", |report| serves(report, &bytes)).await;
    assert_eq!(unfinished_code(&house.judge(("a", "b"), "{}").await), Some(UnfinishedCode::ModuleBusy));
    drop(full);
    assert_eq!(house.judge(("a", "b"), "{}").await.outcome, Ok(Verdict::Accept));
}

#[tokio::test]
async fn the_events_of_a_module_that_ran_out_of_time_at_the_start_wait_for_its_next_tries_and_no_longer() {
    let (any, older, newer) = (judges(ACCEPT), judges(REJECT), slow(400_000_000));
    let house = House::with(&[("_.wasm", &any), ("a/b.wasm", &older)]).await;
    house.put("a/b.toml", b"deadline_ms = 10000");
    house.put("a/b.wasm", &newer);
    house.until("a/b", |report| serves(report, &newer)).await;
    house.put("a/b.toml", b"deadline_ms = 1");
    house.put("c/d.toml", b"deadline_ms = 1");
    house.put("c/d.wasm", &newer);
    let house = house.restart();
    let began = std::time::Instant::now();
    let judged = async |event_type| {
        let mut changes = house.validators.changes();
        loop {
            changes.mark_unchanged();
            let judgement = house.judge(event_type, "{}").await;
            if !is_held(&judgement, UnfinishedCode::ModuleLoading) {
                break judgement.digest;
            }
            changes.changed().await.expect("the validators live");
        }
    };
    let judged = async { (judged(("a", "b")).await, judged(("c", "d")).await) };
    let judged = tokio::time::timeout(PATIENCE, judged).await.expect("they wait no longer");
    // Nobody else judges what its own module was meant to.
    assert_eq!(judged, (Some(Digest::of(&older)), None));
    assert!(is_held(&house.judge(("c", "d"), "{}").await, UnfinishedCode::ModuleUnavailable));
    assert!(began.elapsed() > RETRY_PAUSE * 3, "twice it was tried again: {:?}", began.elapsed());
    house.validators.wait_scanned().await;
    // The machine has time for it again.
    house.put("a/b.toml", b"deadline_ms = 10000");
    house.until("a/b", |report| serves(report, &newer) && report.last_error.is_none()).await;
}

#[tokio::test]
async fn what_is_told_to_serve_serves() {
    let house = House::with(&[]).await;
    let mut changes = house.validators.changes();
    for number in 0..20 {
        let bytes = salted(&format!("{number:02}"));
        house.put("a/b.wasm", &bytes);
        // Asked without a pause: whoever reads the report may ask at once.
        let told = async {
            while !house.report("a/b").is_some_and(|report| serves(&report, &bytes)) {
                tokio::select! {
                    () = tokio::task::yield_now() => {}
                    _ = changes.changed() => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("it is active");
        assert_eq!(house.judge(("a", "b"), "{}").await.digest, Some(Digest::of(&bytes)));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_stops_nothing() {
    let bytes = salted("x");
    let house = House::with(&[("a/b.wasm", &bytes)]).await;
    for file in ["a/pipe.wasm", "a/b.toml"] {
        let made = std::process::Command::new("mkfifo").arg(house.modules().join(file)).status();
        assert!(made.expect("mkfifo").success());
    }
    let report = house.until("a/b", |report| report.settings_error.is_some()).await;
    assert!(serves(&report, &bytes));
    house.wait(|| (house.problems().len() == 1).then_some(()), "the pipe is told").await;
    let problem = house.problems().remove(0);
    assert_eq!((problem.file.as_str(), problem.why.as_str()), ("a/pipe.wasm", "it is no regular file"));
    // A scan reports a file that serves nothing a moment before it swaps the modules that judge.
    let held = async {
        while !is_held(&house.judge(("a", "pipe"), "{}").await, UnfinishedCode::ModuleUnavailable) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.expect("its events are held");
    // More than there are loading threads.
    for number in 0..10 {
        house.put(&format!("c/{number}.wasm"), &bytes);
        house.until(&format!("c/{number}"), |report| serves(report, &bytes)).await;
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_that_takes_the_place_of_a_file_just_before_it_is_opened_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo").success());
    let (tell, told) = sync_channel(1);
    std::thread::spawn(move || tell.send(directory::open_unwaiting(&path).map_err(|error| error.to_string())));
    let opened = told.recv_timeout(PATIENCE).expect("nobody ever writes to it");
    assert_eq!(opened.expect_err("it is no file"), "it is no regular file");
    let path = folder.path().join("file");
    std::fs::write(&path, b"content").expect("written");
    let mut text = String::new();
    directory::open_unwaiting(&path).expect("a file").read_to_string(&mut text).expect("read");
    assert_eq!(text, "content");
}

#[test]
fn how_long_a_missing_file_is_waited_for() {
    let missing = std::time::Instant::now();
    let second = Duration::from_secs(1);
    assert_eq!(unload_at(missing, missing), missing + SETTLE);
    assert_eq!(unload_at(missing + second, missing), missing + second + SETTLE, "at rest before it went");
    assert_eq!(unload_at(missing, missing + second), missing + second + SETTLE, "as long as others come");
    assert_eq!(unload_at(missing, missing + MISSING_MAX), missing + MISSING_MAX, "but not for ever");
}

#[tokio::test]
async fn a_directory_that_is_copied_anew_file_by_file_loses_no_module_meanwhile() {
    let (one, two) = (salted("1"), salted("2"));
    let house = House::with(&[("z/z.wasm", &one)]).await;
    let aside = house.root.path().join("aside");
    std::fs::rename(house.modules(), &aside).expect("moved");
    // For longer than a file may be missing in a directory at rest, each file when the one before is served. On a machine
    // that takes too long for one, the directory was at rest; `how_long_a_missing_file_is_waited_for` holds the rule itself.
    let began = std::time::Instant::now();
    let mut number = 0;
    while began.elapsed() < Duration::from_millis(1_500) {
        let wrote = std::time::Instant::now();
        house.put(&format!("a/{number}.wasm"), &two);
        house.until(&format!("a/{number}"), |report| serves(report, &two)).await;
        let judged = house.judge(("z", "z"), "{}").await.digest;
        if wrote.elapsed() > SETTLE / 2 {
            break;
        }
        assert_eq!(judged, Some(Digest::of(&one)), "after {number} files");
        number += 1;
    }
    house.until_gone("z/z").await;
    assert_eq!(house.judge(("z", "z"), "{}").await.digest, None);
}

#[tokio::test]
async fn a_module_that_comes_back_counts_on() {
    let (one, two) = (salted("1"), salted("2"));
    let house = House::with(&[("a/b.wasm", &one)]).await;
    for (bytes, accepted) in [(&one, 1), (&two, 1), (&one, 2), (&two, 2)] {
        house.put("a/b.wasm", bytes);
        house.until("a/b", |report| serves(report, bytes)).await;
        assert_eq!(house.judge(("a", "b"), "{}").await.outcome, Ok(Verdict::Accept));
        assert_eq!(house.report("a/b").expect("there").counts.accepted, accepted);
    }
    assert_eq!(house.validators.judging().count(), 4);
    house.remove("a/b.wasm");
    house.until_gone("a/b").await;
    assert_eq!(house.validators.judging().count(), 4);
}

#[tokio::test]
async fn faults_of_a_slot_outlive_the_versions_that_are_kept() {
    let house = House::with(&[("a/b.wasm", &salted("1")), ("a/c.wasm", &salted("2"))]).await;
    let faults = |name: &str| {
        let all = house.validators.slot_faults();
        let (_, faults) = all.into_iter().find(|(slot, _)| slot == name).expect("the slot is there");
        (faults[FaultCode::Trap.index()], faults.iter().sum::<u64>())
    };
    assert_eq!(faults("a/b"), (0, 0));
    for version in 1..=12 {
        let bytes = judges(&format!("(drop (i32.const {version})) unreachable"));
        house.put("a/b.wasm", &bytes);
        house.until("a/b", |report| serves(report, &bytes)).await;
        house.judge(("a", "b"), "{}").await;
        assert_eq!(faults("a/b"), (version, version), "one of each version");
    }
    assert_eq!(faults("a/c"), (0, 0));
}

#[tokio::test]
async fn bad_settings_at_the_start_keep_the_module_from_being_taken_until_they_are_mended() {
    let house = House::with(&[("a/b.wasm", &salted("1")), ("a/b.toml", b"deadline_ms = \"soon\"")]).await;
    let mend = |report: TypeReport| report.settings_error.expect("told").refusal.mend;
    let report = house.until("a/b", |report| report.state == State::Refused).await;
    assert!(is_held(&house.judge(("a", "b"), "{}").await, UnfinishedCode::ModuleUnavailable));
    let found = &report.last_error.as_ref().expect("it is refused").refusal.found;
    assert!(found.starts_with("line 1, column 15: "), "{found}");
    assert!(mend(report).contains("nobody knows with which limits"));
    house.put("a/b.toml", b"deadline_ms = 7");
    house.until("a/b", |report| report.limits.deadline_ms == 7).await;
    house.put("a/b.toml", b"deadline_ms = 100000");
    let report = house.until("a/b", |report| report.settings_error.is_some()).await;
    assert_eq!(report.limits.deadline_ms, 7);
    assert!(mend(report).contains("the last good settings stay in force"));
}

/// A module that counts for a while before it describes itself, and is then as good as any.
pub(super) fn slow(count: u32) -> Vec<u8> {
    let describe = format!(
        "(local $n i32) (local.set $n (i32.const {count}))
         (loop (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
    );
    Guest { describe: &describe, ..Guest::default() }.core()
}

/// A gateway that just tests this module.
async fn testing(slow: &[u8]) -> House {
    let house = House::with(&[]).await;
    house.put("a/b.toml", b"deadline_ms = 10000");
    house.put("a/b.wasm", slow);
    let tested = async {
        while !house.report("a/b").is_some_and(|report| report.state == State::SelfTest) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, tested).await.expect("it is tested");
    house
}

#[tokio::test]
async fn a_file_that_is_overwritten_while_it_is_loaded_serves_only_as_a_whole() {
    let bytes = salted("whole");
    let house = testing(&slow(400_000_000)).await;
    // In place, as `cp` does it.
    std::fs::write(house.modules().join("a/b.wasm"), &bytes).expect("written");
    let report = house.until("a/b", |report| serves(report, &bytes)).await;
    let served: Vec<_> = report.versions.into_iter().map(|version| version.digest).collect();
    assert_eq!(served, [Digest::of(&bytes)], "what it was before never served");
}

#[tokio::test]
async fn a_load_that_outlives_its_file_changes_nothing_for_the_next_one() {
    let (slow, bytes) = (slow(3_000_000_000), salted("next"));
    let house = testing(&slow).await;
    house.remove("a/b.wasm");
    house.until_gone("a/b").await;
    house.put("a/b.wasm", &bytes);
    house.until("a/b", |report| serves(report, &bytes)).await;
    let history = History::under(&house.root.path().join("data"));
    let slot = Slot::parse("a/b").expect("an event type");
    let loaded = || history.versions(&slot).is_ok_and(|all| all.iter().any(|one| one.digest == Digest::of(&slow)));
    let mut changes = house.validators.changes();
    // The old load ends and is noted, or is given up, which tells nobody. How long that is watched decides nothing.
    let ended = async {
        while !loaded() {
            changes.changed().await.expect("validators run");
        }
    };
    let _given_up = tokio::time::timeout(Duration::from_secs(5), ended).await;
    for _ in 0..3 {
        assert!(serves(&house.report("a/b").expect("there"), &bytes));
        changes.changed().await.expect("validators run");
    }
}

#[test]
fn a_file_that_is_written_to_in_place_is_told_from_one_that_is_replaced() {
    let folder = tempfile::tempdir().expect("a directory");
    let (path, other) = (folder.path().join("file"), folder.path().join("other"));
    let signature = |path: &Path| Signature::of(&std::fs::metadata(path).expect("there"));
    std::fs::write(&path, b"one").expect("written");
    let before = signature(&path);
    assert!(!before.was_rewritten(&signature(&path)));
    std::fs::write(&path, b"longer").expect("written");
    assert!(before.was_rewritten(&signature(&path)));
    std::fs::write(&other, b"another").expect("written");
    std::fs::rename(&other, &path).expect("renamed");
    assert!(!before.was_rewritten(&signature(&path)), "what was read was whole");
}

#[cfg(target_os = "linux")]
#[test]
fn events_that_the_system_could_not_keep_are_worth_a_look() {
    use std::sync::mpsc::sync_channel;

    use notify::Watcher as _;

    let folder = tempfile::tempdir().expect("a directory");
    let files = ["one", "two"].map(|name| folder.path().join(name));
    files.iter().for_each(|file| std::fs::write(file, []).expect("written"));
    let ((go, wait), (tell, told)) = (sync_channel::<()>(1), sync_channel(1 << 16));
    let mut blocked = true;
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if std::mem::take(&mut blocked) {
            wait.recv().expect("the test goes on");
        }
        let _gone = tell.send(event);
    })
    .expect("a watcher");
    watcher.watch(folder.path(), notify::RecursiveMode::Recursive).expect("watched");
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("Linux tells it");
    // In turns, since the kernel makes one of two events that are the same.
    for number in 0..most.trim().parse::<usize>().expect("a number") + 1_000 {
        drop(std::fs::File::open(&files[number % 2]).expect("there"));
    }
    go.send(()).expect("the watcher waits");
    let lost = std::iter::from_fn(|| told.recv_timeout(PATIENCE).ok())
        .find(|event| event.as_ref().is_ok_and(notify::Event::need_rescan));
    assert!(directory::is_worth_a_look(&lost.expect("the system says that events were lost")));
    let read = notify::Event::new(notify::EventKind::Access(notify::event::AccessKind::Read));
    assert!(!directory::is_worth_a_look(&Ok(read)));
}

#[cfg(unix)]
#[tokio::test]
async fn settings_that_lead_out_of_the_directory_are_refused_and_nothing_of_them_is_told() {
    let bytes = salted("x");
    let house = House::with(&[("a/b.wasm", &bytes), ("a/c.wasm", &bytes)]).await;
    let outside = house.root.path().join("outside.toml");
    std::fs::write(&outside, "password = \"hunter2\"").expect("written");
    for target in [Path::new("/proc/self/environ"), &outside, Path::new("/dev/zero"), Path::new("/")] {
        let link = house.modules().join("a/b.toml");
        let _before = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).expect("linked");
        let told = |report: &TypeReport| report.settings_error.as_ref().map(|error| error.refusal.to_string());
        let report = house
            .until("a/b", |report| told(report).is_some_and(|told| told.contains("outside the modules directory")))
            .await;
        let told = told(&report).expect("told");
        assert!(!told.contains("hunter2") && !told.contains("PATH"), "{told}");
        assert!(serves(&report, &bytes));
        house.put("a/b.toml", b"deadline_ms = 7");
        house.until("a/b", |report| report.settings_error.is_none() && report.limits.deadline_ms == 7).await;
    }
    // As the volumes of containers have them.
    house.put("..data/c.toml", b"deadline_ms = 9");
    std::os::unix::fs::symlink("../..data/c.toml", house.modules().join("a/c.toml")).expect("linked");
    house.until("a/c", |report| report.limits.deadline_ms == 9).await;
}

/// Puts a module and its settings into the directory, as a push over HTTP does.
fn install(house: &House, content: &[u8], settings: Option<&str>) -> std::io::Result<()> {
    let modules_dir = &house.modules();
    let before = &installed(modules_dir, &Slot::parse("a/b").expect("a slot")).expect("it can be read");
    house.validators.install(Role::Live, &Installing { modules_dir, before, content, settings })
}

#[tokio::test]
async fn a_module_and_its_settings_that_are_installed_together_never_serve_apart() {
    let house = House::with(&[]).await;
    let version = |number: usize| {
        let on_fault = if number.is_multiple_of(2) { "quarantine" } else { "retry" };
        // Each second change is one of the limits alone.
        let violations_max = 7 + number / 2;
        (salted(&number.to_string()), format!("violations_max = {violations_max}\non_fault = \"{on_fault}\"\n"))
    };
    let versions: Vec<_> = (0..24).map(version).collect();
    let pairs: Vec<_> = versions
        .iter()
        .map(|(content, text)| {
            let wanted = SlotModule {
                slot: Slot::Any,
                role: Role::Live,
                digest: Digest::of(content),
                settings: Some(text.clone()),
            };
            let settings = house.validators.settings(&wanted).expect("right");
            (Some(wanted.digest), settings.limits.violations_max, settings.on_fault)
        })
        .collect();
    let seen = |report: &TypeReport| (report.digest, report.limits.violations_max, report.on_fault);
    let (watched, ended) = (house.validators.clone(), Arc::new(AtomicBool::new(false)));
    let (known, until) = (pairs.clone(), Arc::clone(&ended));
    let watcher = std::thread::spawn(move || {
        while !until.load(Relaxed) {
            for report in watched.report().into_iter().filter(|report| report.digest.is_some()) {
                assert!(known.contains(&seen(&report)), "half of a change serves: {report:?}");
            }
        }
    });
    for ((content, text), wanted) in versions.iter().zip(&pairs) {
        install(&house, content, Some(text)).expect("installed");
        house.until("a/b", |report| seen(report) == *wanted).await;
    }
    ended.store(true, Relaxed);
    watcher.join().expect("no half was seen");
    assert!(house.modules().join("a/b.toml").exists());
    install(&house, &salted("last"), None).expect("installed");
    house.until("a/b", |report| serves(report, &salted("last")) && report.on_fault == OnFault::Quarantine).await;
    assert!(!house.modules().join("a/b.toml").exists(), "no settings are the defaults");
}

#[tokio::test]
async fn settings_that_come_with_a_refused_module_are_not_in_force_for_the_one_before() {
    let good = salted("good");
    let house = House::with(&[("a/b.wasm", &good)]).await;
    for (text, keep_raw) in [("keep_raw = true\non_fault = \"retry\"", None), ("keep_raw = false", Some(false))] {
        install(&house, text.as_bytes(), Some(text)).expect("installed");
        let report = house
            .until("a/b", |report| {
                refused(report)
                    && report.last_error.as_ref().is_some_and(|error| error.digest == Some(Digest::of(text.as_bytes())))
            })
            .await;
        // Nothing is kept that the refused settings would not keep.
        assert_eq!((serves(&report, &good), report.on_fault, report.keep_raw), (true, OnFault::Quarantine, keep_raw));
    }
    install(&house, &good, None).expect("installed");
    house.until("a/b", |report| serves(report, &good) && !refused(report) && report.keep_raw.is_none()).await;
}

#[tokio::test]
async fn a_module_that_cannot_be_put_in_its_place_leaves_the_settings_as_they_were() {
    let house = House::with(&[("a/b.toml", b"deadline_ms = 7")]).await;
    std::fs::create_dir(house.modules().join("a/b.wasm")).expect("something else in its place");
    for settings in [Some("deadline_ms = 9"), None] {
        install(&house, &salted("new"), settings).expect_err("it is a folder");
        let text = std::fs::read_to_string(house.modules().join("a/b.toml")).expect("still there");
        assert_eq!(text, "deadline_ms = 7");
    }
    let files = std::fs::read_dir(house.modules().join("a")).expect("the folder");
    assert_eq!(files.count(), 2, "nothing is left beside them");
}

#[test]
fn a_file_has_the_signature_that_a_scan_finds() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = folder.path().join("_.toml");
    std::fs::write(folder.path().join("_.wasm"), "").expect("written");
    let in_scan = || directory::scan(folder.path()).expect("read").modules[&Slot::Any].settings.clone();
    assert_eq!((Signature::at(&settings), in_scan()), (None, None));
    std::os::unix::fs::symlink("nowhere", &settings).expect("linked");
    assert_eq!(Signature::at(&settings), in_scan(), "a link to nowhere too");
    std::fs::remove_file(&settings).expect("removed");
    std::fs::write(&settings, "deadline_ms = 7").expect("written");
    assert!(in_scan().is_some());
    assert_eq!(Signature::at(&settings), in_scan());
}
