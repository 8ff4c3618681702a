//! What people and machines do to a modules directory.

use std::io::Write as _;

use super::guests::{ACCEPT, Guest, REJECT, judges};
use super::*;

fn salted(salt: &str) -> Vec<u8> {
    Guest { salt, ..Guest::default() }.core()
}

fn serves(report: &TypeReport, bytes: &[u8]) -> bool {
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
    assert!(!house.validators.problems().is_empty());
    let (first, second) = (salted("1"), salted("2"));
    house.put("page/view.wasm", &first);
    house.until("page/view", |report| serves(report, &first)).await;
    let aside = house.root.path().join("aside");
    std::fs::rename(house.modules(), &aside).expect("moved");
    house.put("page/view.wasm", &second);
    house.until("page/view", |report| serves(report, &second)).await;
    std::fs::remove_dir_all(house.modules()).expect("removed");
    house.wait(|| (!house.validators.problems().is_empty()).then_some(()), "a missing directory").await;
    assert_eq!(house.judge(("page", "view"), "{}").await.digest, Some(Digest::of(&second)));
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
    assert_eq!(house.judge(("a", "b c"), "{}").await.digest, Some(Digest::of(&plain)));
    let problems: Vec<_> = house.validators.problems().into_iter().map(|(file, _)| file).collect();
    assert_eq!(problems, ["a/%zz.wasm", "a/b%20c.wasm", "stray.wasm"]);
}

#[tokio::test]
async fn settings_beside_a_module_are_in_force_and_bad_ones_are_told() {
    let bytes = judges("(loop (br 0)) unreachable");
    let house = House::with(&[("a/b.wasm", &bytes), ("a/b.toml", b"deadline_ms = 5\non_fault = \"retry\"")]).await;
    let Err(fault) = house.judge(("a", "b"), "{}").await.outcome else { panic!("it spins") };
    assert!(fault.retry);
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
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let listed = history.list(&house.modules()).expect("readable");
    assert_eq!((listed.len(), listed[0].digest, listed[0].versions.len()), (1, Digest::of(&one), 2));

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
    let House { validators, root } = house;
    drop(validators);
    let again = Validators::start(options(root.path())).expect("the engine starts");
    again.wait_scanned().await;
    assert_eq!(serving(&again), 1_000);
    let judgement = again.judge(subject(("many", "777"), "{}")).await;
    assert_eq!(judgement.digest, Some(Digest::of(&salted("777"))));
}
