//! What the README tells a new user to paste, pasted.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use outbound::Client;
use outbound_testkit::{Answer, Hostile, Refusal, Script};

const README: &str = include_str!("../README.md");

/// The contents of its fenced blocks of this language, in their order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    README.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// From an empty project to a call that is answered, and to one that nobody answers: for every program in the README.
#[test]
fn its_programs_run_when_pasted_into_an_empty_project() {
    let upstream =
        Hostile::new(Script::new().forever(Script::new().exchange(Answer::new(200, "Hello, user!"))));
    let (upstream, nobody) = (upstream.own_thread().start(), Refusal::new());
    let (manifests, programs) = (blocks("toml"), blocks("rust,no_run"));
    assert_eq!((manifests.len(), programs.len()), (2, 2), "each program has its dependencies before it");
    for (index, (manifest, program)) in manifests.iter().zip(&programs).enumerate() {
        let project = Project::new(&format!("pasted-{index}"), manifest);
        let run = |address| project.run(&at(program, address));

        let answered = run(upstream.addr());
        let (said, complained) = words(&answered);
        assert!(answered.status.success() && said.contains("Hello, user!"), "{said}{complained}");

        let (_, complained) = words(&run(nobody.addr()));
        let documented = blocks("text").into_iter().find(|text| text.contains("refused")).unwrap();
        let documented =
            documented.lines().next().unwrap().replace("127.0.0.1:1", &nobody.addr().to_string());
        assert_eq!(without_time(complained.lines().next().unwrap()), without_time(&documented));
    }
}

#[test]
fn the_description_it_shows_is_that_of_its_client() {
    let shown = blocks("text").into_iter().find(|text| text.starts_with("defaults ")).unwrap();
    let client = Client::builder().base_url("https://example.com").build().unwrap();
    assert_eq!(shown.trim_end(), client.describe().to_string());
}

/// The program, with a call to this address in place of its own.
fn at(program: &str, address: std::net::SocketAddr) -> String {
    let own = "https://example.com";
    assert_eq!(program.matches(own).count(), 1, "{program}");
    program.replace(own, &format!("http://{address}"))
}

/// With nothing in place of how long it took.
fn without_time(line: &str) -> String {
    let (before, rest) = line.split_once(" after ").unwrap();
    format!("{before},{}", rest.split_once(',').unwrap().1)
}

fn words(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A project of a user's.
struct Project(PathBuf);

impl Project {
    /// What `cargo new` makes, with these dependencies pasted; those that are ours come from this workspace, and the rest in the versions
    /// that it has. A workspace of its own, whatever lies above it: `cargo new` itself would enter it in that one's manifest.
    fn new(name: &str, manifest: &str) -> Self {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let project = Self(env::temp_dir().join(format!("outbound-{name}-{}", std::process::id())));
        fs::create_dir_all(project.0.join("src")).unwrap();
        let empty =
            format!("[workspace]\n\n[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n");
        let ours = fs::read_dir(workspace.join("crates")).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            format!("{} = {{ path = {path:?} }}\n", path.file_name().unwrap().to_str().unwrap())
        });
        let patched = format!("{empty}\n{manifest}\n[patch.crates-io]\n{}", ours.collect::<String>());
        fs::write(project.0.join("Cargo.toml"), patched).unwrap();
        fs::copy(workspace.join("Cargo.lock"), project.0.join("Cargo.lock")).unwrap();
        project
    }

    fn run(&self, program: &str) -> Output {
        fs::write(self.0.join("src/main.rs"), program).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            cargo.env_remove(name).env_remove(name.to_uppercase());
        }
        // Next to this test, for what both are made of.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        cargo.args(["run", "--quiet", "--offline"]).current_dir(&self.0).env("CARGO_TARGET_DIR", target);
        cargo.output().unwrap()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
