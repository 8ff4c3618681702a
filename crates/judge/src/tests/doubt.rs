//! Doubt closes: no event is stored unjudged while a module may be meant for it, and a directory that loses its modules
//! loses none of its rules.

use super::directory::{hungry, salted, serves, slow};
use super::guests::{ACCEPT, REJECT, judges};
use super::*;
use crate::directory::scan;

async fn is_unavailable(house: &House, event_type: (&str, &str)) -> bool {
    unfinished_code(&house.judge(event_type, "{}").await) == Some(UnfinishedCode::ModuleUnavailable)
}

async fn judged_by(house: &House, event_type: (&str, &str)) -> Option<Digest> {
    house.judge(event_type, "{}").await.digest
}

fn names(house: &House) -> Vec<String> {
    house.problems().into_iter().map(|problem| problem.file).collect()
}

#[tokio::test]
async fn a_module_that_cannot_be_loaded_holds_its_events_and_no_others() {
    let good = judges(REJECT);
    for broken in [b"fifteen letters".as_slice(), b"", &good[..good.len() / 2]] {
        let house =
            House::with(&[("page/view.wasm", broken), ("page/click.wasm", &good), ("shop/_.wasm", broken)]).await;
        assert!(is_unavailable(&house, ("page", "view")).await);
        assert!(is_unavailable(&house, ("shop", "whatever")).await, "a category's module holds its other names");
        assert_eq!(judged_by(&house, ("page", "click")).await, Some(Digest::of(&good)));
        assert_eq!(house.judge(("page", "other"), "{}").await.outcome, Ok(Verdict::Accept));
        let doubts = house.validators.doubts();
        assert_eq!((doubts.refused, doubts.unavailable, doubts.loading, doubts.lost), (2, 2, 0, 0));
        assert_eq!(house.report("page/view").expect("told").held, Some("module_unavailable"));
        house.put("page/view.wasm", &good);
        house.until("page/view", |report| serves(report, &good) && report.held.is_none()).await;
        assert_eq!(judged_by(&house, ("page", "view")).await, Some(Digest::of(&good)));
    }
}

#[tokio::test]
async fn a_broken_module_for_everything_holds_everything_else() {
    let good = judges(ACCEPT);
    let house = House::with(&[("_.wasm", b"broken"), ("a/b.wasm", &good)]).await;
    assert!(is_unavailable(&house, ("x", "y")).await);
    assert!(is_unavailable(&house, ("a", "c")).await);
    assert_eq!(judged_by(&house, ("a", "b")).await, Some(Digest::of(&good)));
}

#[tokio::test]
async fn a_broken_module_is_not_stood_in_for_by_a_wider_one_at_a_start_but_a_new_one_takes_nothing_from_it() {
    let any = judges(ACCEPT);
    let house = House::with(&[("_.wasm", &any), ("a/b.wasm", b"broken")]).await;
    assert!(is_unavailable(&house, ("a", "b")).await);
    for file in ["c/d.wasm", "e/_.wasm"] {
        house.put(file, b"broken");
    }
    for (event_type, slot) in [(("c", "d"), "c/d"), (("e", "f"), "e/_")] {
        house.until(slot, refused).await;
        assert_eq!(judged_by(&house, event_type).await, Some(Digest::of(&any)), "who judged goes on: {slot}");
    }
    house.remove("_.wasm");
    house.until_gone("_").await;
    assert!(is_unavailable(&house, ("c", "d")).await);
    assert!(is_unavailable(&house, ("e", "f")).await);
}

#[tokio::test]
async fn a_file_that_is_too_large_holds_its_events() {
    let house = House::with(&[]).await;
    let folder = house.modules().join("a");
    std::fs::create_dir(&folder).expect("made");
    let file = std::fs::File::create(folder.join("b.wasm")).expect("made");
    file.set_len(65 << 20).expect("sparse");
    house.until("a/b", refused).await;
    assert!(is_unavailable(&house, ("a", "b")).await);
}

#[tokio::test]
async fn a_new_file_holds_its_events_from_the_moment_that_it_is_seen() {
    let house = House::with(&[]).await;
    let bytes = slow(400_000_000);
    house.put("a/b.toml", b"deadline_ms = 10000");
    // More than there are threads to load them.
    for number in 0..8 {
        house.put(&format!("busy/{number}.wasm"), &slow(300_000_000 + number));
    }
    house.put("a/b.wasm", &bytes);
    house.until("a/b", |_| true).await;
    let waiting = async {
        let mut held = 0;
        loop {
            let judgement = house.judge(("a", "b"), "{}").await;
            match unfinished_code(&judgement) {
                Some(code) => assert_eq!(code, UnfinishedCode::ModuleLoading),
                None => break assert_eq!((judgement.digest, held > 0), (Some(Digest::of(&bytes)), true)),
            }
            held += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it is loaded");
}

#[tokio::test]
async fn a_half_written_file_holds_its_events_until_it_is_whole() {
    let house = House::with(&[]).await;
    let bytes = salted("half");
    let path = house.modules().join("a/b.wasm");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    house.until("a/b", |report| report.held == Some("module_loading")).await;
    house.until("a/b", |report| report.held == Some("module_unavailable")).await;
    assert!(is_unavailable(&house, ("a", "b")).await);
    std::fs::write(&path, &bytes).expect("written");
    house.until("a/b", |report| serves(report, &bytes)).await;
}

#[tokio::test]
async fn an_event_type_that_must_have_a_module_waits_for_one() {
    let bytes = judges(ACCEPT);
    let house = House::start(&[("shop/sale.wasm", &bytes)], |options| {
        let each = vec![("shop".into(), None), ("shop".into(), Some("sale".into())), ("game".into(), None)];
        options.required = Required { contains: Arc::new(|category, _| category == "shop"), each };
    })
    .await;
    assert_eq!(judged_by(&house, ("shop", "sale")).await, Some(Digest::of(&bytes)));
    assert!(is_unavailable(&house, ("shop", "theft")).await);
    assert_eq!(house.validators.doubts(), Doubts { missing: 1, ..Doubts::default() });
    assert_eq!(house.judge(("page", "view"), "{}").await.outcome, Ok(Verdict::Accept));
    house.remove("shop/sale.wasm");
    house.until_gone("shop/sale").await;
    assert!(is_unavailable(&house, ("shop", "sale")).await);
    assert_eq!(house.validators.doubts(), Doubts { missing: 3, ..Doubts::default() });
}

#[tokio::test]
async fn a_new_folder_that_cannot_be_read_holds_its_category() {
    let house = House::with(&[("a/b.wasm", &judges(ACCEPT))]).await;
    std::os::unix::fs::symlink("page", house.modules().join("page")).expect("linked to itself");
    house.wait(|| (names(&house) == ["page"]).then_some(()), "the folder is told").await;
    assert!(is_unavailable(&house, ("page", "view")).await);
    assert!(house.validators.doubts().unreadable);
    std::fs::remove_file(house.modules().join("page")).expect("there");
    house.wait(|| names(&house).is_empty().then_some(()), "it is gone").await;
    assert_eq!(house.judge(("page", "view"), "{}").await.outcome, Ok(Verdict::Accept));
}

#[tokio::test]
async fn files_that_serve_nothing_are_told_with_the_nearest_right_name() {
    let bytes = judges(ACCEPT);
    let long = format!("shop/{}.wasm", "x".repeat(201));
    let house = House::with(&[
        ("shop/sale.WASM", &bytes),
        ("shop/ theft.wasm", &bytes),
        ("shop/eu/de/sale.wasm", &bytes),
        ("shop/return.toml", b""),
        ("shop/*.wasm", &bytes),
        ("_/view.wasm", &bytes),
        ("shop/tab%09.wasm", &bytes),
        (&long, &bytes),
    ])
    .await;
    let problems = house.problems();
    let near: Vec<_> = problems.iter().map(|one| (one.file.as_str(), one.nearest.as_deref().unwrap_or(""))).collect();
    let expected = [
        ("_/view.wasm", "%5F/view.wasm"),
        ("shop/ theft.wasm", "shop/theft.wasm"),
        ("shop/*.wasm", "shop/_.wasm"),
        ("shop/eu/de/sale.wasm", "shop/sale.wasm"),
        ("shop/return.toml", ""),
        ("shop/sale.WASM", "shop/sale.wasm"),
        ("shop/tab%09.wasm", "shop/tab.wasm"),
        (long.as_str(), ""),
    ];
    assert_eq!(near, expected, "{problems:?}");
    assert_eq!(house.validators.report().len(), 0);
    // What is neither is told once it rests.
    house.put("shop/README.md", b"");
    house.wait(|| names(&house).contains(&"shop/README.md".to_owned()).then_some(()), "the note is told").await;
}

#[tokio::test]
async fn a_deep_and_wide_folder_is_told_within_bounds() {
    let house = House::with(&[]).await;
    let mut deep = house.modules().join("a");
    for _ in 0..60 {
        deep.push("deeper");
    }
    std::fs::create_dir_all(&deep).expect("made");
    std::fs::write(deep.join("c.wasm"), b"").expect("written");
    for number in 0..1_500 {
        std::fs::create_dir_all(house.modules().join(format!("b/{number}"))).expect("made");
    }
    let scan = scan(&house.modules()).expect("readable");
    assert!(scan.strays.len() <= 500 && scan.strays_omitted > 900, "{} {}", scan.strays.len(), scan.strays_omitted);
    assert!(scan.strays.contains_key(Path::new("a/deeper")));
}

#[tokio::test]
async fn a_type_that_is_stored_unjudged_is_told_with_the_file_that_was_meant_for_it() {
    let house = House::with(&[("Shop/order_placed.wasm", &judges(REJECT))]).await;
    assert_eq!(house.problems(), []);
    assert_eq!(house.judge(("shop", "order placed"), "{}").await.outcome, Ok(Verdict::Accept));
    for _ in 0..3 {
        house.validators.count_unserved("shop", "order placed");
    }
    house.validators.count_unserved("game", "start");
    let (types, others) = house.validators.unserved();
    let told: Vec<_> =
        types.iter().map(|one| (one.name.as_str(), one.stored, one.nearest.as_deref().unwrap_or(""))).collect();
    assert_eq!((told, others), (vec![("start", 1, ""), ("order placed", 3, "Shop/order_placed.wasm")], 0));
    let problem = house.problems().remove(0);
    assert_eq!(problem.file, "Shop/order_placed.wasm");
    assert_eq!(problem.nearest.as_deref(), Some("shop/order placed.wasm"));
    // Somebody sends what it is named for.
    house.judge(("Shop", "order_placed"), "{}").await;
    assert_eq!(house.problems(), []);
}

/// Four modules, of which each rejects.
async fn four() -> (House, Vec<u8>) {
    let bytes = judges(REJECT);
    let files = ["a/1.wasm", "a/2.wasm", "b/_.wasm", "c/4.wasm"].map(|file| (file, bytes.as_slice()));
    (House::with(&files).await, bytes)
}

const FOUR: [(&str, &str); 4] = [("a", "1"), ("a", "2"), ("b", "x"), ("c", "4")];

async fn all_judge(house: &House, bytes: &[u8]) {
    for event_type in FOUR {
        assert_eq!(judged_by(house, event_type).await, Some(Digest::of(bytes)), "{event_type:?}");
    }
}

async fn until_lost(house: &House, count: usize) {
    house.wait(|| (house.validators.doubts().lost == count).then_some(()), "the loss is told").await;
}

#[tokio::test]
async fn a_directory_that_loses_most_of_its_modules_loses_none_until_somebody_confirms() {
    let (house, bytes) = four().await;
    for folder in ["a", "b"] {
        std::fs::remove_dir_all(house.modules().join(folder)).expect("removed");
    }
    until_lost(&house, 3).await;
    all_judge(&house, &bytes).await;
    let problem = house.problems().remove(0);
    assert_eq!(problem.file, ".");
    for told in ["3 of 4", "b/_, a/1, a/2", "eye validator retire"] {
        assert!(problem.why.contains(told), "{problem:?}");
    }
    assert!(house.report("a/1").expect("it serves").lost_since.is_some());
    assert_eq!(house.validators.accidents(), 1);
    // The last one too, as long as nobody said that this is meant.
    house.remove("c/4.wasm");
    until_lost(&house, 4).await;
    // One comes back, the others are retired by another process.
    house.put("a/1.wasm", &bytes);
    until_lost(&house, 3).await;
    let roster = Roster::under(&house.root.path().join("data"));
    for event_type in ["a/2", "b/_", "c/4"] {
        assert!(roster.retire(&Slot::parse(event_type).expect("a type")).expect("written"));
        house.until_gone(event_type).await;
    }
    assert_eq!(house.problems(), []);
    assert_eq!(house.judge(("a", "2"), "{}").await.outcome, Ok(Verdict::Accept));
    assert_eq!(judged_by(&house, ("a", "1")).await, Some(Digest::of(&bytes)));
}

#[tokio::test]
async fn a_restart_on_an_empty_directory_serves_what_served_last() {
    let (house, bytes) = four().await;
    std::fs::remove_dir_all(house.modules()).expect("removed");
    std::fs::create_dir(house.modules()).expect("the mount point");
    let house = house.restart();
    house.validators.wait_scanned().await;
    all_judge(&house, &bytes).await;
    until_lost(&house, 4).await;
    all_judge(&house, &bytes).await;
    // And again, before it is mounted.
    let house = house.restart();
    house.validators.wait_scanned().await;
    all_judge(&house, &bytes).await;
    for file in ["a/1.wasm", "a/2.wasm", "b/_.wasm", "c/4.wasm"] {
        house.put(file, &bytes);
    }
    until_lost(&house, 0).await;
    house.wait(|| house.problems().is_empty().then_some(()), "all is well").await;
    all_judge(&house, &bytes).await;
}

#[tokio::test]
async fn another_directory_in_the_place_of_the_right_one_takes_nothing_away() {
    let (house, bytes) = four().await;
    let other = judges(ACCEPT);
    let replace = |modules: &Path, aside: &Path| {
        std::fs::rename(modules, aside).expect("moved");
        for number in 0..9 {
            put(modules, &format!("other/{number}.wasm"), &other);
        }
    };
    replace(&house.modules(), &house.root.path().join("aside"));
    until_lost(&house, 4).await;
    all_judge(&house, &bytes).await;
    let (house, _) = (four().await.0, drop(house));
    replace(&house.modules(), &house.root.path().join("aside"));
    let house = house.restart();
    house.validators.wait_scanned().await;
    all_judge(&house, &bytes).await;
    until_lost(&house, 4).await;
    assert_eq!(judged_by(&house, ("other", "1")).await, Some(Digest::of(&other)));
}

#[tokio::test]
async fn a_restart_without_the_directory_serves_what_served_last_however_little() {
    let bytes = judges(REJECT);
    let house = House::with(&[("a/b.wasm", &bytes)]).await;
    let aside = house.root.path().join("aside");
    std::fs::rename(house.modules(), &aside).expect("unmounted");
    let house = house.restart();
    house.validators.wait_scanned().await;
    assert_eq!(judged_by(&house, ("a", "b")).await, Some(Digest::of(&bytes)));
    assert!(house.validators.doubts().unreadable);
    let why = house.problems().remove(0).why;
    assert!(why.contains("what served last serves on"), "{why}");
    std::fs::rename(aside, house.modules()).expect("mounted");
    house.wait(|| house.problems().is_empty().then_some(()), "all is well").await;
    assert_eq!(judged_by(&house, ("a", "b")).await, Some(Digest::of(&bytes)));
}

#[tokio::test]
async fn one_of_few_that_went_while_no_gateway_ran_is_gone() {
    let (house, bytes) = four().await;
    house.remove("a/1.wasm");
    let house = house.restart();
    house.validators.wait_scanned().await;
    house.until_gone("a/1").await;
    assert_eq!(house.judge(("a", "1"), "{}").await.outcome, Ok(Verdict::Accept));
    assert_eq!(judged_by(&house, ("a", "2")).await, Some(Digest::of(&bytes)));
    let house = house.restart();
    house.validators.wait_scanned().await;
    assert_eq!(house.report("a/1").map(|report| report.digest), None, "and stays so");
}

#[tokio::test]
async fn a_retired_module_goes_at_once_and_stays_away_after_a_restart() {
    let (house, _) = four().await;
    let history = History::under(&house.root.path().join("data"));
    let roster = Roster::under(&house.root.path().join("data"));
    for event_type in ["a/1", "a/2", "b/_", "c/4"] {
        let slot = Slot::parse(event_type).expect("a type");
        let retired = history.retire(&house.modules(), &roster, &slot).expect("retired");
        assert_eq!((retired.files, retired.served), (vec![slot.file()], true));
    }
    for event_type in ["a/1", "a/2", "b/_", "c/4"] {
        house.until_gone(event_type).await;
    }
    assert_eq!((house.validators.accidents(), house.validators.doubts()), (0, Doubts::default()));
    let house = house.restart();
    house.validators.wait_scanned().await;
    assert_eq!(house.validators.report().len(), 0);
    let nothing = history.retire(&house.modules(), &roster, &Slot::parse("a/9").expect("a type"));
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_directory_whose_files_go_one_by_one_is_lost_as_a_whole() {
    let (house, bytes) = four().await;
    for (file, event_type) in [("a/1.wasm", "a/1"), ("a/2.wasm", "a/2")] {
        house.remove(file);
        house.until_gone(event_type).await;
    }
    std::fs::remove_dir_all(house.modules().join("b")).expect("removed");
    until_lost(&house, 3).await;
    let judged = async {
        while judged_by(&house, ("a", "1")).await.is_none() || judged_by(&house, ("a", "2")).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, judged).await.expect("they are put back");
    all_judge(&house, &bytes).await;
}

#[tokio::test]
async fn files_that_are_all_emptied_leave_what_served_also_after_a_restart() {
    let (mut house, bytes) = four().await;
    for file in ["a/1.wasm", "a/2.wasm", "b/_.wasm", "c/4.wasm"] {
        house.put(file, b"");
    }
    for _ in 0..2 {
        house.wait(|| (house.validators.doubts().refused == 4).then_some(()), "all are refused").await;
        all_judge(&house, &bytes).await;
        house = house.restart();
        house.validators.wait_scanned().await;
        all_judge(&house, &bytes).await;
    }
}

#[tokio::test]
async fn the_settings_that_were_in_force_outlive_a_broken_file_and_a_restart() {
    let bytes = hungry();
    let house = House::with(&[("a/b.toml", b"memory_bytes_max = 209715200"), ("a/b.wasm", &bytes)]).await;
    assert!(serves(&house.report("a/b").expect("there"), &bytes));
    house.put("a/b.toml", b"hunter2 = ");
    let report = house.until("a/b", |report| report.settings_error.is_some()).await;
    let told = report.settings_error.expect("told").refusal.to_string();
    assert!(told.contains("line 1, column ") && !told.contains("hunter2"), "{told}");
    let house = house.restart();
    house.validators.wait_scanned().await;
    let report = house.report("a/b").expect("there");
    assert!(serves(&report, &bytes) && report.settings_error.is_some(), "{report:?}");
    assert_eq!(report.limits.memory_bytes_max, 200 << 20);
}

#[tokio::test]
async fn limits_that_the_module_cannot_be_loaded_with_are_told_and_those_before_stay() {
    let bytes = hungry();
    let house = House::with(&[("a/b.toml", b"memory_bytes_max = 209715200"), ("a/b.wasm", &bytes)]).await;
    house.put("a/b.toml", b"memory_bytes_max = 1048576\non_fault = \"retry\"");
    let report = house.until("a/b", |report| report.settings_error.is_some()).await;
    assert_eq!((report.limits.memory_bytes_max, report.on_fault), (200 << 20, OnFault::Quarantine));
    assert!(serves(&report, &bytes) && report.last_error.is_none(), "{report:?}");
    let refusal = report.settings_error.expect("told").refusal;
    assert!(refusal.found.contains("with these limits") && refusal.found.contains("memory"), "{refusal:?}");
    assert_eq!(house.judge(("a", "b"), "{}").await.outcome, Ok(Verdict::Accept));
    house.put("a/b.toml", b"memory_bytes_max = 209715200\nviolations_max = 7");
    house.until("a/b", |report| report.limits.violations_max == 7 && report.settings_error.is_none()).await;
}

#[cfg(unix)]
#[tokio::test]
async fn links_out_of_the_directory_are_not_followed() {
    let bytes = judges(ACCEPT);
    let outside = tempfile::tempdir().expect("a directory");
    put(outside.path(), "view.wasm", &bytes);
    std::fs::write(outside.path().join("secret"), "password = \"hunter2\"").expect("written");
    let house = House::start(&[("a/b.wasm", &bytes), ("a/c.wasm", &bytes)], |options| {
        use std::os::unix::fs::symlink;
        symlink("/", options.modules_dir.join("root")).expect("linked");
        symlink(outside.path(), options.modules_dir.join("page")).expect("linked");
        symlink("/", options.modules_dir.join("a/deep")).expect("linked");
        symlink("..", options.modules_dir.join("a/up")).expect("linked");
        symlink("/proc/self/environ", options.modules_dir.join("a/b.toml")).expect("linked");
        symlink(outside.path().join("secret"), options.modules_dir.join("a/c.toml")).expect("linked");
    })
    .await;
    assert!(is_unavailable(&house, ("page", "view")).await, "it may hold modules");
    for event_type in ["a/b", "a/c"] {
        let error = house.report(event_type).expect("there").settings_error.expect("told").refusal;
        assert_eq!(error.found, "it is a link to a file outside the modules directory");
    }
    assert_eq!(names(&house)[..2], ["page", "root"]);
    assert!(house.problems()[0].why.contains("outside the modules directory"), "{:?}", house.problems());
    house.wait(|| (names(&house).len() == 4).then_some(()), "the links below are told").await;
    assert_eq!(names(&house)[..2], ["a/deep", "a/up"]);
    // What lies below is not watched either.
    put(&house.modules(), "d/e.wasm", &bytes);
    house.until("d/e", |report| serves(report, &bytes)).await;
}
