//! What is shipped beside the program: image, compose file, unit files, chart, archive, completions and manual pages. Each is
//! held by tools that were not written for it, which `./setup operate` installs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde_json::Value;

use crate::support::folder;

/// Releases of Kubernetes for which the chart must be right: the oldest that it names, and the newest that is known here.
const KUBERNETES: [&str; 2] = ["1.27", "1.37"];
/// Worst score of the unit by `systemd-analyze security`, from 0 to 10, times ten.
const EXPOSURE_MAX: &str = "20";
const PROGRAM: &str = env!("CARGO_BIN_EXE_eye");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

fn target() -> PathBuf {
    Path::new(PROGRAM).ancestors().nth(2).expect("target/<profile>/eye").to_owned()
}

/// A tool of `./setup operate`, in the root of the repository.
fn tool(name: &str) -> Command {
    let tools = target().join("tools");
    let found =
        [tools.join("python/bin").join(name), tools.join("bin").join(name)].into_iter().find(|path| path.exists());
    let mut command = Command::new(found.unwrap_or_else(|| name.into()));
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Whether it succeeded, and both outputs.
fn ran(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `./setup operate` installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// What it printed on standard output.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `./setup operate` installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What it printed when it got this on standard input.
fn filtered(command: &mut Command, input: &str) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `./setup operate` installs it"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// A file with this text.
fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfiles() {
    for dockerfile in ["deploy/Dockerfile", "tests/tools/machine/Dockerfile"] {
        // Versions of Debian's packages are those of the day: they are pinned by the release of the base.
        let (clean, found) = ran(tool("hadolint").args(["--no-color", "--ignore", "DL3008", dockerfile]));
        assert!(clean, "{dockerfile}:\n{found}");
    }
    let (clean, found) = filtered(tool("hadolint").arg("-"), "FROM debian\nRUN cd /tmp\n");
    assert!(!clean && found.contains("DL3003"), "it looks at all: {found}");
    println!("hadolint: no findings");
}

#[test]
fn the_compose_file_is_one() {
    let config = printed(tool("podman-compose").args(["-f", "deploy/compose.yaml", "config"]));
    for service in ["secrets:", "postgres:", "gateway:", "first-steps:"] {
        assert!(config.contains(service), "{service}:\n{config}");
    }
    let (fits, problem) = ran(tool("docker").args(["compose", "-f", "deploy/compose.yaml", "config", "--quiet"]));
    let is_missing = problem.contains("unknown shorthand flag") || problem.contains("is not a docker command");
    println!(
        "podman-compose config: {} lines; docker compose config: {}",
        config.lines().count(),
        match fits {
            true => "no findings",
            false if is_missing => "not run: docker has no compose here",
            false => &problem,
        }
    );
    assert!(fits || is_missing, "{problem}");
}

/// The chart, rendered with these values.
fn rendered(values: &[&str]) -> String {
    let mut command = tool("helm");
    command.args(["template", "shop", "deploy/chart", "--namespace", "events", "--kube-version"]);
    printed(command.arg(KUBERNETES[1]).args(values.iter().flat_map(|value| ["--set", value])))
}

/// All objects of a rendered chart.
fn objects(yaml: &str) -> Vec<Value> {
    const SCRIPT: &str =
        "import json, sys, yaml; json.dump([one for one in yaml.safe_load_all(sys.stdin) if one], sys.stdout)";
    let (read, json) = filtered(tool("python3").args(["-c", SCRIPT]), yaml);
    assert!(read, "{json}");
    serde_json::from_str(&json).expect("a list")
}

const URL: &str = "database.url=postgres://eye:secret@db:5432/eye";
/// Everything that can be switched on.
const ALL: [&str; 7] = [
    URL,
    "autoscaling.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "networkPolicy.enabled=true",
    "tls.existingSecret=certificate",
    "modules.volume.persistentVolumeClaim.claimName=modules",
    "imagePullSecrets[0].name=registry",
];
/// Secrets of the operator's own, and nothing that can be left out.
const LEAST: [&str; 4] = [
    "database.existingSecret=database",
    "adminToken.existingSecret=admin",
    "migrations.enabled=false",
    "podDisruptionBudget.enabled=false",
];

#[test]
fn the_chart_fits_the_schemas_of_kubernetes() {
    let linted = printed(tool("helm").args(["lint", "--strict", "deploy/chart", "--set", URL]));
    assert!(linted.contains("0 chart(s) failed"), "{linted}");
    let folder = folder();
    let variants = [("all.yaml", &ALL[..]), ("least.yaml", &LEAST), ("plain.yaml", &[URL])];
    let rendered_with = variants.map(|(name, values)| (name, rendered(values)));
    let files: Vec<PathBuf> = rendered_with.iter().map(|(name, yaml)| file(folder.path(), name, yaml)).collect();
    let count: usize = rendered_with.iter().map(|(_, yaml)| objects(yaml).len()).sum();
    for version in KUBERNETES {
        let (fits, output) =
            ran(tool("kubernetes-validate").args(["--strict", "--kubernetes-version", version]).args(&files));
        assert!(fits, "{version}: {output}");
        let fitting = output.lines().filter(|line| line.contains("passed for resource")).count();
        // The schemas know no objects of operators, such as the ServiceMonitor.
        assert_eq!(fitting, count - 1, "{output}");
        println!(
            "kubernetes-validate --strict: {fitting} objects fit Kubernetes {version}; not run: the ServiceMonitor"
        );
    }
    let wrong = rendered(&[URL]).replace("readOnlyRootFilesystem", "readOnlyRootFileSystem");
    let (fits, output) =
        ran(tool("kubernetes-validate").arg("--strict").arg(file(folder.path(), "wrong.yaml", &wrong)));
    assert!(!fits && output.contains("readOnlyRootFileSystem"), "it looks at all: {output}");
}

#[test]
fn every_pod_of_the_chart_meets_the_restricted_standard() {
    let mut pods = 0;
    for values in [&ALL[..], &LEAST, &[URL]] {
        for object in objects(&rendered(values)) {
            let kind = object["kind"].as_str().unwrap_or_default();
            let pod = match kind {
                "Pod" => &object["spec"],
                "Deployment" | "Job" => &object["spec"]["template"]["spec"],
                _ => continue,
            };
            pods += 1;
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{kind}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{kind}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{kind}");
            assert_eq!(pod["enableServiceLinks"], false, "{kind}");
            for container in pod["containers"].as_array().expect("containers") {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{kind}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{kind}");
                assert_eq!(security["capabilities"]["drop"][0], "ALL", "{kind}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{kind}");
            }
        }
    }
    println!("{pods} pods meet the Pod Security Standard `restricted`");
}

#[test]
fn what_the_chart_sets_are_settings_of_the_program() {
    for values in [&ALL[..], &LEAST] {
        let objects = objects(&rendered(values));
        let of = |kind: &str| objects.iter().find(|object| object["kind"] == kind);
        let deployment = of("Deployment").expect("a Deployment");
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        // What Kubernetes mounts, in a folder of this test.
        let folder = folder();
        let here = folder.path().display().to_string();
        let settings = of("ConfigMap").expect("settings")["data"]["eye.toml"].as_str().expect("a text").to_owned();
        let settings = file(folder.path(), "eye.toml", &settings);
        for part in ["database", "admin", "tls"] {
            std::fs::create_dir(folder.path().join(part)).expect("a folder");
        }
        file(folder.path(), "database/database_url", "postgres://eye:secret@db:5432/eye\n");
        let mut command = Command::new(PROGRAM);
        command.args(["config", "check", "--config"]).arg(settings);
        for variable in container["env"].as_array().expect("variables") {
            let (name, value) =
                (variable["name"].as_str().expect("a name"), variable["value"].as_str().expect("a value"));
            let value = value.replace("/run/secrets/eye", &here);
            let value = if value == "/modules" { here.clone() } else { value };
            command.env(name, value);
        }
        let (sound, output) = ran(&mut command);
        // There are no such files, and nothing else is wrong.
        let output: Vec<&str> = output.lines().filter(|line| !line.contains(" = ")).collect();
        let expected = values.len() == ALL.len();
        assert_eq!(!sound, expected, "{output:#?}");
        assert!(output.iter().all(|line| line.contains("/tls/tls.")), "{output:#?}");
        let arguments = container["args"].as_array().expect("arguments");
        let migrates = arguments.iter().any(|argument| argument == "--no-migrate");
        assert_eq!(migrates, of("Job").is_some(), "either a Job brings the schema up, or the gateways do");
        // A kill must not come before the gateway has drained.
        let seconds = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
        assert!(seconds.is_some_and(|seconds| seconds > 40), "{seconds:?}");
    }
}

#[test]
fn a_chart_that_cannot_work_is_refused_in_words() {
    for (values, words) in [
        (&[][..], "name the database"),
        (&[URL, "replica=3"], "replica"),
        (&["database.url=mysql://h/d"], "database"),
        (&[URL, "autoscaling.enabled=true", "resources.requests=null"], "resources.requests.cpu"),
    ] {
        let mut command = tool("helm");
        command.args(["template", "shop", "deploy/chart"]).args(values.iter().flat_map(|value| ["--set", value]));
        let (rendered, output) = ran(&mut command);
        assert!(!rendered && output.contains(words), "{values:?}: {output}");
    }
}

#[test]
fn systemd_finds_nothing_in_the_unit_files() {
    let folder = folder();
    for name in ["eye.service", "eye.socket"] {
        let text = std::fs::read_to_string(root().join("deploy/systemd").join(name)).expect("a unit file");
        // Its program must be there.
        file(folder.path(), name, &text.replace("/usr/local/bin/eye", PROGRAM));
    }
    let verify = |folder: &Path| {
        let units = ["eye.service", "eye.socket"].map(|name| folder.join(name));
        ran(tool("systemd-analyze").args(["verify", "--man=no"]).args(units))
    };
    let (clean, found) = verify(folder.path());
    let ours: Vec<&str> = found.lines().filter(|line| line.contains("eye")).collect();
    assert!(clean && ours.is_empty(), "{found}");
    let mut security = tool("systemd-analyze");
    security.args(["security", "--no-pager", "--offline=true", "--threshold", EXPOSURE_MAX]);
    let (closed, output) = ran(security.arg(folder.path().join("eye.service")));
    assert!(closed, "{output}");
    println!("systemd-analyze verify: no findings; {}", output.lines().last().unwrap_or_default().trim());
    let text = std::fs::read_to_string(folder.path().join("eye.service")).expect("a unit file");
    file(folder.path(), "eye.service", &text.replace("Restart=always", "Restart=allways"));
    assert!(verify(folder.path()).1.contains("allways"), "it looks at all");
}

#[test]
fn shells_read_their_completions() {
    let folder = folder();
    for (shell, arguments) in
        [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["-n"]), ("elvish", &["-compileonly"])]
    {
        let text = printed(Command::new(PROGRAM).args(["completions", shell]));
        // Elvish has this variable where a person types.
        let known = "var edit: = (ns [&'completion:'=(ns [&arg-completer=[&]])])\n";
        let text = if shell == "elvish" { known.to_owned() + &text } else { text };
        let path = file(folder.path(), shell, &text);
        let (fits, output) = ran(tool(shell).args(arguments).arg(&path));
        assert!(fits && output.is_empty(), "{shell}: {output}");
        let wrong = file(folder.path(), "wrong", &format!("{text}\nif ( {{ '\n"));
        assert!(!ran(tool(shell).args(arguments).arg(wrong)).0, "{shell} looks at all");
    }
    // What a person sees who types `eye dead-l` and asks for more.
    let script = "source \"$0\"; COMP_WORDS=(eye dead-l); COMP_CWORD=1; _eye eye dead-l eye; echo \"${COMPREPLY[*]}\"";
    let completed = printed(tool("bash").args(["-c", script]).arg(folder.path().join("bash")));
    assert_eq!(completed.trim(), "dead-letters");
    println!("bash, zsh, fish and elvish read their completions; powershell: not run, Debian has none");
}

#[test]
fn mandoc_finds_nothing_in_the_manual_pages() {
    let folder = folder();
    let names = printed(Command::new(PROGRAM).args(["man", "--date", "2026-01-31"]).arg(folder.path()));
    let pages: Vec<PathBuf> = names.lines().map(|name| folder.path().join(name)).collect();
    let (clean, found) = ran(tool("mandoc").args(["-T", "lint", "-W", "warning"]).args(&pages));
    assert!(clean && found.is_empty(), "{found}");
    println!("mandoc -T lint: no findings in {} pages", pages.len());
}

/// An archive of the program of these tests, and its folder. It is made anew when anything in it is newer.
fn archive() -> PathBuf {
    let out = target().join("operate/archive");
    let newest = |path: &Path| {
        let (mut left, mut newest) = (vec![path.to_owned()], SystemTime::UNIX_EPOCH);
        while let Some(path) = left.pop() {
            let found = std::fs::metadata(&path).expect("a file");
            newest = newest.max(found.modified().expect("its time"));
            if found.is_dir() {
                left.extend(std::fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
            }
        }
        newest
    };
    let there = || {
        let entries = std::fs::read_dir(&out).ok()?;
        entries.map(|entry| entry.expect("an entry").path()).find(|path| path.to_string_lossy().ends_with(".tar.gz"))
    };
    let inputs =
        ["deploy", "docs", "gateway/monitoring", "Cargo.lock", "README.md"].map(|name| newest(&root().join(name)));
    let newest_input = inputs.into_iter().fold(newest(Path::new(PROGRAM)), SystemTime::max);
    if let Some(path) = there().filter(|path| newest(path) > newest_input) {
        return path;
    }
    let _removed = std::fs::remove_dir_all(&out);
    pack(&out);
    there().expect("an archive")
}

fn pack(out: &Path) -> String {
    let mut command = tool("bash");
    command.arg("deploy/pack").args(["--program", PROGRAM, "--modules"]);
    printed(command.arg(target().join("modules")).arg("--out").arg(out))
}

#[test]
fn the_archive_is_the_same_twice_and_is_what_it_says() {
    let first = archive();
    let folder = folder();
    let said = pack(folder.path());
    let name = first.file_name().expect("a name");
    let bytes = std::fs::read(&first).expect("an archive");
    assert!(bytes == std::fs::read(folder.path().join(name)).expect("an archive"), "two archives of the same differ");
    let (digest, _) = said.split_once("  ").expect("a digest and a name");
    assert_eq!(digest, crate::support::digest_of(&bytes));

    printed(tool("tar").arg("-xzf").arg(&first).arg("-C").arg(folder.path()));
    let top = folder.path().join(name.to_string_lossy().trim_end_matches(".tar.gz"));
    let checked = printed(tool("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(&top));
    let files = printed(tool("find").arg(&top).args(["-type", "f"]));
    assert_eq!(checked.lines().filter(|line| line.ends_with(": OK")).count() + 1, files.lines().count(), "{checked}");
    for part in [
        "bin/eye",
        "lib/systemd/system/eye.service",
        "lib/systemd/system/eye.socket",
        "lib/sysusers.d/eye.conf",
        "share/bash-completion/completions/eye",
        "share/doc/eye/LICENSE",
        "share/doc/eye/LICENSES-OF-PACKAGES",
        "share/doc/eye/docs/eye.example.toml",
        "share/doc/eye/sbom.cdx.json",
        "share/eye/eye.toml",
        "share/eye/modules/page interaction/pageview.wasm",
        "share/eye/monitoring/alerts.yml",
        "share/fish/vendor_completions.d/eye.fish",
        "share/man/man1/eye-serve.1",
        "share/zsh/site-functions/_eye",
    ] {
        assert!(top.join(part).is_file(), "{part} is missing:\n{files}");
    }
    assert!(printed(tool("file").arg(top.join("bin/eye"))).contains(", stripped"));
    let version = printed(Command::new(top.join("bin/eye")).arg("--version"));
    println!("{} of {} bytes: {} files, {version}", name.to_string_lossy(), bytes.len(), files.lines().count());

    let (sound, output) = ran(Command::new(PROGRAM)
        .args(["config", "check", "--config"])
        .arg(top.join("share/eye/eye.toml"))
        .env("EYE_MODULES", top.join("share/eye/modules")));
    assert!(sound, "{output}");
}

#[test]
fn the_bill_of_materials_fits_its_schema_and_names_what_is_shipped() {
    let bill = printed(tool("tar").arg("-xzOf").arg(archive()).args(["--wildcards", "*/sbom.cdx.json"]));
    const SCRIPT: &str = "\
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(repr(errors) if errors else 0)";
    let (fits, output) = filtered(tool("python3").args(["-c", SCRIPT]), &bill);
    assert!(fits, "{output}");
    let (fits, _) = filtered(tool("python3").args(["-c", SCRIPT]), &bill.replace("\"required\"", "\"needed\""));
    assert!(!fits, "it looks at all");
    let bill: Value = serde_json::from_str(&bill).expect("JSON");
    let components = bill["components"].as_array().expect("components");
    let scope = |name: &str| components.iter().find(|one| one["name"] == name).map(|one| one["scope"].clone());
    assert_eq!(scope("hyper"), Some("required".into()));
    assert_eq!(scope("page interaction/pageview.wasm"), Some("required".into()));
    assert_eq!(scope("serde_derive"), Some("excluded".into()));
    assert_eq!(scope("tempfile"), None, "what tests need is not in it");
    let unlicensed = components.iter().filter(|one| one["type"] == "library" && one["licenses"].is_null());
    assert_eq!(unlicensed.count(), 0);
    let tops = printed(tool("tar").arg("-xzOf").arg(archive()).args(["--wildcards", "*/LICENSES-OF-PACKAGES"]));
    for one in components.iter().filter(|one| one["scope"] == "required" && !one["hashes"].is_null()) {
        let title =
            format!("{} {} (", one["name"].as_str().unwrap_or_default(), one["version"].as_str().unwrap_or_default());
        assert!(one["type"] == "file" || tops.contains(&title), "the license of {title} is missing");
    }
    println!("{} components, their licenses in {} bytes", components.len(), tops.len());
}

/// Tries a part with containers, where the machine can run them. Prints what was seen, or why nothing was.
fn with_containers(part: &str) {
    let (passed, output) = ran(tool("bash").arg("tests/tools/containers").arg(part).arg(archive()));
    println!("{output}");
    assert!(passed, "{output}");
    assert!(output.contains("passed") || output.contains("not run"), "{output}");
}

#[test]
fn the_image_runs_as_nobody_on_files_that_it_cannot_write() {
    with_containers("image");
}

#[test]
fn compose_brings_up_a_gateway_that_takes_the_event_of_its_log() {
    with_containers("compose");
}

#[test]
fn the_unit_restarts_without_refusing_anybody() {
    with_containers("unit");
}
